//! Checks of this machine, as data: each says what it found and what to do next.
//!
//! Nothing is changed but a probe file that is made and removed again. Nothing leaves the machine
//! but what [`reach`] asks the peers that somebody names.

mod reach;

use std::fs;
use std::hint::black_box;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

use crate::config::Config;
use crate::home::{self, Home, Secrecy};
use crate::limits;
use crate::memory;
use crate::pull;
use crate::receipts;
use crate::store::{ModelName, Store, StoreError, space};

pub use reach::{listening, reach};

/// Least free disk space with which a small model can be pulled and imported, in bytes.
const ROOM_FOR_A_MODEL_BYTES: u64 = 1 << 30;
/// Least memory with which a small model can be served, in bytes.
const MEMORY_FOR_A_MODEL_BYTES: u64 = 1 << 30;

/// The result of one check of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// The machine is as it should be.
    Ok,
    /// Works, but not as well as it could, or can't be told.
    Warn,
    /// Something will not work until it is repaired.
    Fail,
}

/// One property of the machine that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The name of the property that was checked.
    pub name: &'static str,
    /// The result of the check.
    pub status: Status,
    /// A sentence that says what was found.
    pub detail: String,
    /// The next step for the person, if there is anything to do.
    pub next: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, detail: detail.into(), next: None }
    }

    fn warn(name: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, detail: detail.into(), next: Some(next.into()) }
    }

    fn fail(name: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, status: Status::Fail, detail: detail.into(), next: Some(next.into()) }
    }
}

/// Checks every property of the machine and the home folder, and returns the results in the order
/// in which they are shown.
pub fn examine(home: &Home, config: &Config) -> Vec<Check> {
    vec![
        processor(),
        floating_point(),
        home_writable(home),
        secrets(home),
        disk(home, config),
        receipts_kept(home, config),
        memory(config),
        network(),
    ]
}

/// Looks at the models: whether all of their blobs are there, and what interrupted work left; with
/// `reads_bytes` also whether the blobs are what they were.
pub fn examine_store(home: &Home, store: &Store, reads_bytes: bool) -> Vec<Check> {
    vec![models(store, reads_bytes), leftovers(home, store)]
}

fn models(store: &Store, reads_bytes: bool) -> Check {
    const NAME: &str = "models";
    let next = |name: &ModelName, source: &str| {
        if source.starts_with("hf:") || source.starts_with("pip:") {
            format!("`lockstep pull {name}` (or `lockstep import` of its files) repairs it")
        } else {
            format!("`lockstep import` of its files ({source}) repairs {name}")
        }
    };
    let models = match store.models() {
        Ok(models) => models,
        Err(error) => {
            return Check::fail(NAME, error.to_string(), "remove that file, or write it anew");
        }
    };
    for (name, record) in &models {
        let wrong = match store.manifest(record) {
            Ok(manifest) => {
                // Of a model that a server fetched a part of, the other files need not be here.
                let is_wanted = |error: &StoreError| {
                    !(record.is_part && matches!(error, StoreError::Missing { .. }))
                };
                store.damage(&manifest, reads_bytes).into_iter().find(is_wanted)
            }
            Err(error) => Some(error),
        };
        if let Some(error) = wrong {
            let next = next(name, &record.source.text);
            return Check::fail(NAME, format!("{name}: {error}"), next);
        }
    }
    let looked = match reads_bytes {
        true => "every byte of them is what it was",
        false => "all of their files are there (--deep reads them)",
    };
    Check::ok(NAME, format!("{} models; {looked}", models.len()))
}

/// Checks how many files interrupted imports and pulls left.
fn leftovers(home: &Home, store: &Store) -> Check {
    const NAME: &str = "leftovers";
    let in_store = match store.leftovers() {
        Ok(left) => left,
        Err(error) => return Check::warn(NAME, error.to_string(), "see the check of models"),
    };
    let left = match pull::leftovers(home) {
        Ok(downloads) => in_store.and(downloads),
        Err(error) => {
            return Check::warn(NAME, error.to_string(), "see the home directory's check");
        }
    };
    if left.blobs == 0 {
        return Check::ok(NAME, "nothing is left of interrupted imports and pulls");
    }
    let detail = format!(
        "{} files of imports and pulls that are running or were interrupted: {} MiB",
        left.blobs,
        left.bytes.div_ceil(1 << 20)
    );
    Check::warn(NAME, detail, "`lockstep rm --leftovers` frees it, if none is running")
}

/// Checks which vector instructions the processor has: they decide the speed and never the answer.
fn processor() -> Check {
    const NAME: &str = "processor";
    let found = instructions();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let detail = format!("{} with {cores} cores; {found}", std::env::consts::ARCH);
    match found {
        "no vector instructions that are used" => {
            Check::warn(NAME, detail, "everything works, more slowly than on a newer processor")
        }
        _ => Check::ok(NAME, detail),
    }
}

#[cfg(target_arch = "x86_64")]
fn instructions() -> &'static str {
    if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw") {
        "AVX-512 VNNI"
    } else if is_x86_feature_detected!("avxvnni") {
        "AVX-VNNI"
    } else if is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "no vector instructions that are used"
    }
}

#[cfg(target_arch = "aarch64")]
fn instructions() -> &'static str {
    if std::arch::is_aarch64_feature_detected!("dotprod") {
        "NEON with dot product"
    } else {
        "NEON"
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn instructions() -> &'static str {
    "no vector instructions that are used"
}

/// Checks that floats are rounded to nearest even and that subnormal ones are kept: the answer is
/// defined so.
fn floating_point() -> Check {
    const NAME: &str = "floating point";
    let half_ulp = f32::from_bits(0x3380_0000);
    let ties_to_even = black_box(1.0f32) + black_box(half_ulp) == 1.0
        && black_box(-1.0f32) - black_box(half_ulp) == -1.0
        && black_box(f32::from_bits(0x3f80_0001)) + black_box(half_ulp)
            == f32::from_bits(0x3f80_0002);
    let keeps_tiny = black_box(f32::MIN_POSITIVE) * black_box(0.5) != 0.0;
    match (ties_to_even, keeps_tiny) {
        (true, true) => Check::ok(NAME, "rounds to nearest even and keeps tiny numbers"),
        (false, _) => Check::fail(NAME, "does not round to nearest even", NOT_HERE),
        (_, false) => Check::fail(NAME, "flushes tiny numbers to zero", NOT_HERE),
    }
}

const NOT_HERE: &str = "something changed the processor's floating-point mode before this program \
                        started; run it without";

fn home_writable(home: &Home) -> Check {
    const NAME: &str = "home directory";
    let root = home.root();
    let next = "set LOCKSTEP_HOME to a directory that you can write to";
    match home::try_writing(root) {
        Ok(()) => Check::ok(NAME, root.display().to_string()),
        Err(error) if home::is_refusal(&error) && root.is_dir() => {
            let detail = format!("{} can only be read: {error}", root.display());
            Check::warn(NAME, detail, format!("models can be used, not added or removed; {next}"))
        }
        Err(error) => Check::fail(NAME, format!("{}: {error}", root.display()), next),
    }
}

/// Checks that no other user can read keys, receipts and conversations.
fn secrets(home: &Home) -> Check {
    const NAME: &str = "file permissions";
    let mut exposed = Vec::new();
    let mut look = |path: &Path| {
        if matches!(home::secrecy(path), Ok(Secrecy::Exposed)) {
            exposed.push(path.display().to_string());
        }
    };
    look(&home.own_secret());
    look(&home.history());
    (1..=limits::NODES_OF_A_HOME).for_each(|number| look(&home.numbered_node_key(number)));
    for dir in [home.keys(), home.receipts(), home.conversations(), home.spool()] {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            look(&entry.path());
        }
    }
    match exposed.first() {
        None => Check::ok(NAME, "keys, receipts and conversations are readable by you alone"),
        Some(first) => {
            let more = exposed.len() - 1;
            let detail = match more {
                0 => format!("{first} can be read by others"),
                _ => format!("{first} and {more} more can be read by others"),
            };
            Check::fail(NAME, detail, format!("chmod -R go= {}", home.root().display()))
        }
    }
}

fn disk(home: &Home, config: &Config) -> Check {
    const NAME: &str = "disk space";
    let reserve = config.disk_reserve();
    match space::free_bytes(home.root()) {
        Ok(Some(free)) => {
            let usable = free.saturating_sub(reserve);
            let detail = format!("{} MiB free, {} MiB of them reserved", free >> 20, reserve >> 20);
            match usable >= ROOM_FOR_A_MODEL_BYTES {
                true => Check::ok(NAME, detail),
                false => Check::warn(NAME, detail, "free some space, or move LOCKSTEP_HOME"),
            }
        }
        Ok(None) => Check::warn(NAME, "can't be told on this system", "look yourself"),
        Err(error) => Check::warn(NAME, error.to_string(), "see the home directory's check"),
    }
}

/// Checks how much of their limit the receipts take that the program keeps by itself.
fn receipts_kept(home: &Home, config: &Config) -> Check {
    const NAME: &str = "receipts";
    let kept = match receipts::list(home) {
        Ok(kept) => kept,
        Err(error) => {
            return Check::warn(NAME, error.to_string(), "see the home directory's check");
        }
    };
    let bytes: u64 = kept.iter().map(|receipt| receipt.bytes).sum();
    let detail = format!(
        "{} receipts, {} MiB; past {} MiB the oldest go (`lockstep receipts` lists them)",
        kept.len(),
        bytes >> 20,
        config.receipts() >> 20,
    );
    Check::ok(NAME, detail)
}

fn memory(config: &Config) -> Check {
    const NAME: &str = "memory";
    let Some(available) = memory::available() else {
        return Check::warn(NAME, "can't be told on this system", "set memory_mib if it is short");
    };
    let mut detail = format!("{} MiB available", available >> 20);
    let allowed = config.memory();
    if let Some(allowed) = allowed {
        detail += &format!(", {} MiB allowed by the setting memory_mib", allowed >> 20);
    }
    if allowed.is_some_and(|allowed| allowed < MEMORY_FOR_A_MODEL_BYTES) {
        let next = "raise memory_mib: most models need more";
        return Check::warn(NAME, detail, next);
    }
    match available >= allowed.unwrap_or(MEMORY_FOR_A_MODEL_BYTES) {
        true => Check::ok(NAME, detail),
        false => Check::warn(NAME, detail, "close other programs, or lower memory_mib"),
    }
}

/// Checks that a UDP socket can be bound on this machine, and that it receives what is sent to it.
fn network() -> Check {
    const NAME: &str = "loopback network";
    let probe = || -> io::Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
        socket.send_to(b"?", socket.local_addr()?)?;
        socket.recv_from(&mut [0; 1]).map(|_| ())
    };
    match probe() {
        Ok(()) => Check::ok(NAME, "UDP works on 127.0.0.1"),
        Err(error) => Check::fail(
            NAME,
            format!("UDP does not work on 127.0.0.1: {error}"),
            "allow UDP on the loopback interface; servers talk over it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    fn find(checks: &[Check], name: &str) -> Check {
        checks.iter().find(|check| check.name == name).expect("looked at").clone()
    }

    #[test]
    fn a_healthy_machine_has_nothing_that_fails() {
        let dir = TestDir::new("doctor");
        let checks = examine(&Home::at(dir.path().join("home")), &Config::default());
        assert_eq!(checks.len(), 8);
        for check in &checks {
            assert_ne!(check.status, Status::Fail, "{check:?}");
            assert_eq!(check.next.is_none(), check.status == Status::Ok, "{check:?}");
        }
        let left = fs::read_dir(dir.path().join("home")).expect("made").count();
        assert_eq!(left, 0, "no probe is left");
    }

    #[test]
    fn a_home_that_can_not_be_made_fails_with_a_next_step() {
        let dir = TestDir::new("doctor-home");
        let file = dir.path().join("file");
        fs::write(&file, b"").expect("write");
        let check = home_writable(&Home::at(file.join("home")));
        assert_eq!(check.status, Status::Fail);
        assert!(check.next.expect("a step").contains("LOCKSTEP_HOME"));
    }

    #[cfg(unix)]
    #[test]
    fn a_receipt_or_a_history_that_others_can_read_fails() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = TestDir::new("doctor-secrets");
        let home = Home::at(dir.path());
        for file in [home.receipts().join("one.json"), home.history()] {
            home::write_private(&file, b"{}").expect("write");
            assert_eq!(secrets(&home).status, Status::Ok);
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("chmod");
            let check = secrets(&home);
            assert_eq!(check.status, Status::Fail);
            assert!(check.detail.contains(file.to_str().expect("text")), "{check:?}");
            fs::remove_file(&file).expect("remove");
        }
    }

    #[test]
    fn too_little_disk_or_memory_is_a_warning() {
        let dir = TestDir::new("doctor-room");
        let config = Config {
            disk_reserve_mib: Some(u64::MAX),
            memory_mib: Some(1 << 40),
            ..Config::default()
        };
        let checks = examine(&Home::at(dir.path()), &config);
        assert_eq!(find(&checks, "disk space").status, Status::Warn);
        assert_eq!(find(&checks, "memory").status, Status::Warn);
    }
}
