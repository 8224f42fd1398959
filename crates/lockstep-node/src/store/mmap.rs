//! Read-only maps of checked files: the one place of this crate where `unsafe` is allowed.

use std::fs::File;
use std::io;
use std::ops::Deref;

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
    #[allow(unsafe_code, reason = "mapping a file is unsafe; see the type's Soundness section")]
    pub(super) fn new(file: &File) -> io::Result<Self> {
        let map = match file.metadata()?.len() {
            0 => None,
            // SAFETY: the file is one of the store's, which are never written after their rename.
            _ => Some(unsafe { memmap2::Mmap::map(file)? }),
        };
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
}
