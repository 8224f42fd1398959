//! Read-only maps of files: the one place of this crate where `unsafe` is allowed.
//!
//! A file of the store is checked against its digest, and asked by whoever computes with it whether
//! it is still the same; a file of somebody else's is only read once, by an import, which asks so
//! at its end. A file that is cut short while it is mapped has pages without bytes: whoever reads
//! one gets a signal, which ends the process with a sentence ([`end_in_words`]) and before anything
//! that was made of such a page can be signed.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::time::SystemTime;

use lockstep_exact::digest::Digest;

/// A file's bytes, mapped read-only, whose digest has been checked over this very map.
///
/// The bytes start at a page boundary, so a section at a multiple of 64 is aligned to 64.
/// Pages are shared by all processes that map the same file, and come from disk when used.
///
/// # Soundness
/// The file must keep its bytes while it is mapped. The store's files are named by their digests,
/// made by rename, never written again and readable only by their owner with mode 0400; removing
/// one unlinks it, which leaves maps as they are. A program that runs as the same user can defeat
/// that: whoever signs what was computed from the bytes calls [`Mapped::check_unchanged`] between
/// computing and signing, and a file that was cut short ends this process with a sentence.
#[derive(Debug)]
pub struct Mapped {
    /// `None` for an empty file, which can't be mapped.
    map: Option<memmap2::Mmap>,
    digest: Digest,
    file: File,
    seen: Version,
}

impl Mapped {
    /// Maps a file and hashes the map in one pass over all cores.
    pub(super) fn new(file: File) -> io::Result<Self> {
        // Before the bytes are hashed: a change after that is one of what was checked.
        let seen = Version::of(&file.metadata()?);
        let map = map(&file, seen.len)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_rayon(map.as_deref().unwrap_or_default());
        Ok(Self { map, digest: Digest(*hasher.finalize().as_bytes()), file, seen })
    }

    /// Checks that the file is still what it was when it was hashed, as far as its length and the
    /// time of its last change tell. It costs one system call.
    ///
    /// # Errors
    /// It was written or cut short meanwhile, or the system can't tell.
    pub fn check_unchanged(&self) -> io::Result<()> {
        self.seen.check(&self.file)
    }

    /// Returns the BLAKE3 digest of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Somebody's file, mapped read-only: reading it takes none of the heap, however long it is.
///
/// # Soundness
/// The file must keep its bytes while it is mapped, and nothing can force its owner to that. What
/// a change can do is bounded: whoever reads the map decides from its bytes alone and keeps no
/// reference past [`MappedFile::check_unchanged`], which refuses what was made of a file that was
/// written meanwhile; a file that is cut short ends this process with a sentence.
#[derive(Debug)]
pub struct MappedFile {
    /// `None` for an empty file, which can't be mapped.
    map: Option<memmap2::Mmap>,
    file: File,
    seen: Version,
}

/// The properties of a file that change when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    len: u64,
    modified: Option<SystemTime>,
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self { len: metadata.len(), modified: metadata.modified().ok() }
    }

    fn check(self, file: &File) -> io::Result<()> {
        if Self::of(&file.metadata()?) == self {
            return Ok(());
        }
        Err(io::Error::other("it was written while it was read; try again when it is complete"))
    }
}

impl MappedFile {
    /// Computes the BLAKE3 digest of the bytes, on all cores.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update_rayon(self);
        Digest(*hasher.finalize().as_bytes())
    }

    /// Maps a regular file into memory, to be read only.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        Ok(Self { map: map(&file, metadata.len())?, seen: Version::of(&metadata), file })
    }

    /// Checks that the file is still what it was when it was mapped, as far as its length and the
    /// time of its last change tell.
    ///
    /// # Errors
    /// It was written meanwhile, or the system can't tell.
    pub fn check_unchanged(&self) -> io::Result<()> {
        self.seen.check(&self.file)
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

/// Maps a file of this length; an empty one can't be mapped.
#[allow(unsafe_code, reason = "mapping a file is unsafe; see the types' Soundness sections")]
fn map(file: &File, len: u64) -> io::Result<Option<memmap2::Mmap>> {
    if len == 0 {
        return Ok(None);
    }
    end_in_words();
    // SAFETY: a file of the store is never written after its rename; for others see [`MappedFile`].
    Ok(Some(unsafe { memmap2::Mmap::map(file)? }))
}

/// Sees to it that a page that has lost its bytes - its file was cut short, or its disk fails -
/// ends this process with a sentence and exit code 1, and not with a bare signal.
///
/// Nothing else in this program maps files, so the signal has no other cause. There is no going on:
/// the bytes are gone in the middle of a product, and what comes of it must not be signed.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "signal handlers are installed by an unsafe call")]
fn end_in_words() {
    use std::sync::Once;
    static ONCE: Once = Once::new();
    extern "C" fn lost(_signal: libc::c_int) {
        const WORDS: &str = "error: a model's file was cut short, or can't be read from its disk, \
                             while it was in use; `lockstep doctor --deep` says which model it is, \
                             and `lockstep pull` or `lockstep import` repairs it\n";
        // SAFETY: both calls may be made in signal handlers, and the bytes live for ever.
        unsafe {
            libc::write(2, WORDS.as_ptr().cast(), WORDS.len());
            libc::_exit(1);
        }
    }
    ONCE.call_once(|| {
        // SAFETY: `lost` makes only calls that may be made in signal handlers, and does not return;
        // a zeroed action is one without flags and with an empty mask.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = lost as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        }
    });
}

#[cfg(not(target_os = "linux"))]
const fn end_in_words() {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    #[test]
    fn a_map_is_the_file_with_its_digest_and_aligned() {
        let dir = TestDir::new("mapped");
        for len in [0, 1, 64, 4096, 300_000] {
            let path = dir.path().join(len.to_string());
            let bytes: Vec<u8> = (0..len).map(|i: u32| (i * 7) as u8).collect();
            std::fs::write(&path, &bytes).expect("write");
            let mapped = Mapped::new(File::open(&path).expect("open")).expect("map");
            assert_eq!(&mapped[..], bytes);
            assert_eq!(mapped.digest(), Digest::of(&bytes));
            assert!(len == 0 || mapped.as_ptr().addr().is_multiple_of(64));
        }
    }

    #[test]
    fn a_stored_file_that_is_changed_or_cut_short_is_noticed() {
        let dir = TestDir::new("mapped-changed");
        for (name, bytes) in [("longer", &b"weights!"[..]), ("shorter", b"w")] {
            let path = dir.path().join(name);
            std::fs::write(&path, b"weights").expect("write");
            let mapped = Mapped::new(File::open(&path).expect("open")).expect("map");
            mapped.check_unchanged().expect("nobody wrote");
            std::fs::write(&path, bytes).expect("write");
            mapped.check_unchanged().expect_err("written");
        }
        // Of the same length, and later.
        let path = dir.path().join("same");
        std::fs::write(&path, b"weights").expect("write");
        let file = File::options().read(true).write(true).open(&path).expect("open");
        let mapped = Mapped::new(file.try_clone().expect("clone")).expect("map");
        file.set_modified(SystemTime::UNIX_EPOCH).expect("touch");
        mapped.check_unchanged().expect_err("touched");
    }

    /// In a process of its own, which is this test again.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_mapped_file_that_is_cut_short_ends_the_process_with_a_sentence() {
        const CHILD: &str = "LOCKSTEP_TEST_CUT_SHORT";
        const TEST: &str = "store::mmap::tests::\
                            a_mapped_file_that_is_cut_short_ends_the_process_with_a_sentence";
        if let Some(path) = std::env::var_os(CHILD) {
            let mapped = MappedFile::open(Path::new(&path)).expect("map");
            let file = File::options().write(true).open(&path).expect("open");
            file.set_len(0).expect("cut");
            panic!("{:?} was read of an empty file", std::hint::black_box(mapped.first()));
        }
        let dir = TestDir::new("mapped-cut");
        let path = dir.path().join("model");
        std::fs::write(&path, [7; 8192]).expect("write");
        let program = std::env::current_exe().expect("this test");
        let child = std::process::Command::new(program)
            .args(["--exact", TEST, "--nocapture"])
            .env(CHILD, &path)
            .output()
            .expect("ran");
        assert_eq!(child.status.code(), Some(1), "{child:?}");
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(said.contains("was cut short"), "{said}");
        assert!(!said.contains("was read of"), "{said}");
    }

    #[test]
    fn a_file_that_is_written_while_it_is_mapped_is_noticed() {
        let dir = TestDir::new("mapped-foreign");
        let path = dir.path().join("model");
        std::fs::write(&path, b"one").expect("write");
        let mapped = MappedFile::open(&path).expect("map");
        assert_eq!(&mapped[..], b"one");
        mapped.check_unchanged().expect("nobody wrote");
        std::fs::write(&path, b"three").expect("write");
        let error = mapped.check_unchanged().expect_err("written").to_string();
        assert!(error.contains("written while it was read"), "{error}");
    }

    #[test]
    fn an_empty_file_maps_to_nothing_and_a_directory_is_refused() {
        let dir = TestDir::new("mapped-none");
        let path = dir.path().join("empty");
        std::fs::write(&path, b"").expect("write");
        assert!(MappedFile::open(&path).expect("map").is_empty());
        assert!(MappedFile::open(dir.path()).is_err());
    }
}
