//! Real processes under a watchdog: the program, its home with the real model, rings of servers.
//!
//! Every process is killed when its guard is dropped, every wait has a deadline and fails with what
//! the process has said so far, and nothing sleeps: waits are for something that can be observed.

#![allow(dead_code, reason = "every test file uses its own part")]

pub(crate) mod line;
pub(crate) mod load;
pub(crate) mod process;
pub(crate) mod relay;
pub(crate) mod ring;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use lockstep_exact::Digest;
use lockstep_exact::manifest::Manifest;
use lockstep_node::home::Home;
use lockstep_node::store::{ModelName, OpenBlobs, Store};
use serde_json::Value;

use process::{Ended, Process};

/// The longest wait for one event of a running ring.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(30);
/// The longest wait for a command that does its work and ends: an import, a whole `up`.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The name of the model in the home of the tests.
pub(crate) const MODEL: &str = "smollm2";

/// The program that is tested.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_lockstep");

/// A home with the real model and a verifier's key, made once for each build of the program.
///
/// Test processes share it: it is named by the program's digest and made under a lock.
pub(crate) fn home() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(make_home)
}

fn make_home() -> PathBuf {
    let homes = Path::new(env!("CARGO_TARGET_TMPDIR")).join("homes");
    fs::create_dir_all(&homes).unwrap();
    let lock = File::create(homes.join("lock")).unwrap();
    lock.lock().unwrap();
    let home = homes.join(Digest::of(&fs::read(PROGRAM).unwrap()).short());
    if home.join("ready").exists() {
        return home;
    }
    // Homes of earlier builds, and one whose making was broken off.
    for entry in fs::read_dir(&homes).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        fs::remove_dir_all(entry.path()).unwrap();
    }
    let file = test_model::path();
    let file = file.to_str().unwrap();
    lockstep_in(&home, &["import", file, "--name", MODEL, "--json"]).expect_code(0);
    lockstep_in(&home, &["key", MODEL, "--json"]).expect_code(0);
    File::create(home.join("ready")).unwrap();
    home
}

/// The program with a home and these arguments, and nothing of the tests' own settings.
pub(crate) fn command_in(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LOCKSTEP_") {
            command.env_remove(name);
        }
    }
    command.env("LOCKSTEP_HOME", home).args(arguments);
    command
}

/// The program with the shared home.
pub(crate) fn command(arguments: &[&str]) -> Command {
    command_in(home(), arguments)
}

/// Runs the program to its end, in any home.
pub(crate) fn lockstep_in(home: &Path, arguments: &[&str]) -> Ended {
    Process::spawn(command_in(home, arguments)).end(PATIENCE)
}

/// Runs the program to its end, in the shared home.
pub(crate) fn lockstep(arguments: &[&str]) -> Ended {
    lockstep_in(home(), arguments)
}

/// A folder that is removed when it goes out of scope.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::remove_dir_all(&path).ok();
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it, as an argument.
    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// The real model as the store holds it.
pub(crate) struct RealModel {
    pub(crate) manifest: Manifest,
    pub(crate) blobs: OpenBlobs,
}

/// Opens the model of the shared home.
pub(crate) fn real_model() -> RealModel {
    let store = Store::open(&Home::at(home()), 0).unwrap();
    let record = store.record(&MODEL.parse::<ModelName>().unwrap()).unwrap();
    let manifest = store.manifest(&record).unwrap();
    let blobs = store.open_blobs(&manifest, 0..manifest.blobs.len() as u32).unwrap();
    RealModel { manifest, blobs }
}

/// The tokens in a report.
pub(crate) fn tokens(report: &Value) -> Vec<u32> {
    let list = report["tokens"].as_array().unwrap_or_else(|| panic!("no tokens: {report}"));
    list.iter().map(|token| token.as_u64().unwrap() as u32).collect()
}
