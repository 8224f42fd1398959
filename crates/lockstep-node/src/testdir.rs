//! A directory for one test, removed at its end.

use std::path::{Path, PathBuf};

pub(crate) struct TestDir(PathBuf);

impl TestDir {
    pub(crate) fn new(name: &str) -> Self {
        let unique = crate::home::unique().expect("randomness");
        let dir = std::env::temp_dir().join(format!("lockstep-{name}-{unique:016x}"));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // Nothing depends on it; the system cleans its temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
