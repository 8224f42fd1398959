//! A position in a byte slice that can only move over bytes that exist.

use super::GgufError;
use super::counted;

/// Reads little-endian values in order; every read names what it was for.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn take(&mut self, count: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let left = rest.len();
        let taken = usize::try_from(count).ok().and_then(|count| rest.get(..count));
        let truncated =
            GgufError::Truncated { what, at: self.at as u64, need: count, left: left as u64 };
        let taken = taken.ok_or(truncated)?;
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], GgufError> {
        let taken = self.take(N as u64, what)?;
        let at = self.at as u64;
        taken.try_into().map_err(|_| GgufError::Truncated { what, at, need: N as u64, left: 0 })
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Returns a UTF-8 string behind its 64-bit length, of at most `limit` bytes.
    pub(super) fn string(&mut self, what: &'static str, limit: u64) -> Result<&'a str, GgufError> {
        let len = counted(self.u64(what)?, limit, what)?;
        let at = self.at as u64;
        let bytes = self.take(len as u64, what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::NotUtf8 { what, at })
    }
}
