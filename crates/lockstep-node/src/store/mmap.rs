//! Read-only maps of files: the one place of this crate where `unsafe` is allowed.
//!
//! A file of the store is checked against its digest; a file of somebody else's is only read once,
//! by an import, which asks at its end whether it is still the same.

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
/// that on purpose: truncating a mapped file ends this process with a signal.
#[derive(Debug)]
pub struct Mapped {
    /// `None` for an empty file, which can't be mapped.
    map: Option<memmap2::Mmap>,
    digest: Digest,
}

impl Mapped {
    /// Maps a file and hashes the map in one pass over all cores.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        let map = map(file, file.metadata()?.len())?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_rayon(map.as_deref().unwrap_or_default());
        Ok(Self { map, digest: Digest(*hasher.finalize().as_bytes()) })
    }

    /// BLAKE3 of the bytes.
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
/// written meanwhile; a file that is cut short ends this process with a signal.
#[derive(Debug)]
pub struct MappedFile {
    /// `None` for an empty file, which can't be mapped.
    map: Option<memmap2::Mmap>,
    file: File,
    seen: Version,
}

/// What changes when a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    len: u64,
    modified: Option<SystemTime>,
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self { len: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl MappedFile {
    /// Maps a regular file.
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

    /// Whether the file is still what it was when it was mapped.
    ///
    /// # Errors
    /// It was written meanwhile, or the system can't tell.
    pub fn check_unchanged(&self) -> io::Result<()> {
        if Version::of(&self.file.metadata()?) == self.seen {
            return Ok(());
        }
        Err(io::Error::other("it was written while it was read; try again when it is complete"))
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
    // SAFETY: a file of the store is never written after its rename; for others see [`MappedFile`].
    Ok(Some(unsafe { memmap2::Mmap::map(file)? }))
}

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
            let mapped = Mapped::new(&File::open(&path).expect("open")).expect("map");
            assert_eq!(&mapped[..], bytes);
            assert_eq!(mapped.digest(), Digest::of(&bytes));
            assert!(len == 0 || mapped.as_ptr().addr().is_multiple_of(64));
        }
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
