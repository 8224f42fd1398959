//! The checksums by which a file's content is checked.

use std::fmt;
use std::io::{self, Read};

use sha1_smol::Sha1;

use super::Sha256;

/// The name that git gives to a file's content: SHA-1 of `blob LENGTH`, a zero byte, and the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GitBlob(pub [u8; 20]);

impl GitBlob {
    /// Parses a digest that is written as 40 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 40 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut bytes = [0; 20];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Returns the name of the `len` bytes in `input`.
    ///
    /// # Errors
    /// Reading fails.
    pub fn of(mut input: impl Read, len: u64) -> io::Result<Self> {
        let mut hasher = Sha1::new();
        hasher.update(format!("blob {len}\0").as_bytes());
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = input.read(&mut buffer)?;
            if count == 0 {
                return Ok(Self(hasher.digest().bytes()));
            }
            hasher.update(buffer.get(..count).unwrap_or(&[]));
        }
    }
}

/// The checksum of a file's content, as its host states it.
///
/// SHA-1 is no defence against whoever chose the content, but that is the host, who could list any
/// content; it does show what was damaged, or was replaced since it was listed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Checksum {
    /// The SHA-256 digest of the bytes.
    Sha256(Sha256),
    /// The name that git gives the bytes.
    Git(GitBlob),
}

impl Checksum {
    /// Computes the checksum of the `len` bytes in `input` that is of the same kind as this one.
    ///
    /// # Errors
    /// Reading fails.
    pub fn of_same_kind(&self, input: impl Read, len: u64) -> io::Result<Self> {
        Ok(match self {
            Self::Sha256(_) => Self::Sha256(Sha256::of(input, |_| ())?),
            Self::Git(_) => Self::Git(GitBlob::of(input, len)?),
        })
    }

    /// Returns the hexadecimal digits, which name files.
    pub fn digits(&self) -> String {
        match self {
            Self::Sha256(digest) => digest.to_string(),
            Self::Git(GitBlob(bytes)) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Sha256(_) => "SHA-256",
            Self::Git(_) => "git blob",
        };
        write!(f, "{kind} {}", self.digits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_blob_has_the_name_that_git_gives_it() {
        // `echo hello | git hash-object --stdin`
        let hello = "ce013625030ba8dba906f756967f9e9ca394464a";
        let blob = GitBlob::of(&b"hello\n"[..], 6).unwrap();
        assert_eq!(GitBlob::parse(hello), Some(blob));
        assert_eq!(Checksum::Git(blob).to_string(), format!("git blob {hello}"));
        assert_eq!(GitBlob::parse(&hello[1..]), None);
        assert_eq!(GitBlob::parse(&hello.replace('c', "+")), None);
        let other = Checksum::Git(GitBlob([0; 20]));
        assert_eq!(other.of_same_kind(&b"hello\n"[..], 6).unwrap(), Checksum::Git(blob));
    }
}
