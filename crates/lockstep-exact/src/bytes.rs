//! Canonical bytes: the one codec of everything that is hashed, signed or sent.
//!
//! Fixed-width little-endian fields, lengths as `u32`, no optional parts without a tag byte. Every
//! value has exactly one encoding and every accepted input re-encodes to itself, so a digest of the
//! bytes is a digest of the value. Decoding never allocates more than the input's own length.
#![deny(clippy::indexing_slicing, clippy::string_slice, clippy::arithmetic_side_effects)]

use core::fmt;

use crate::digest::Digest;

/// The error that bytes are not the canonical encoding of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// The name of the value that was being read, for people.
    pub what: &'static str,
    /// The byte offset at which it was read.
    pub at: usize,
    /// The rule that the bytes break.
    pub reason: DecodeReason,
}

/// The kinds of malformed canonical bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeReason {
    /// The value is valid by itself but not in this place (out of range, not sorted, ...).
    Invalid(&'static str),
    /// A length is above the limit for this field.
    TooLong {
        /// The length that was found.
        got: usize,
        /// The largest length allowed.
        limit: usize,
    },
    /// More bytes follow the last field of the value.
    Trailing {
        /// The number of bytes that follow.
        count: usize,
    },
    /// The input ends inside the value.
    Truncated {
        /// The number of bytes that the value needs.
        need: usize,
        /// The number of bytes that are left.
        left: usize,
    },
    /// A tag byte that names no variant.
    UnknownTag(u8),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: ", self.what, self.at)?;
        match self.reason {
            DecodeReason::Invalid(why) => f.write_str(why),
            DecodeReason::TooLong { got, limit } => {
                write!(f, "length {got} is above the limit of {limit}")
            }
            DecodeReason::Trailing { count } => write!(f, "{count} bytes follow the last field"),
            DecodeReason::Truncated { need, left } => {
                write!(f, "needs {need} bytes, {left} are left")
            }
            DecodeReason::UnknownTag(tag) => write!(f, "unknown tag {tag}"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// A value with one canonical encoding.
pub trait Canonical: Sized {
    /// Appends the canonical encoding of the value to `out`.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads one value from `input`, which then stands after it.
    ///
    /// # Errors
    /// [`DecodeError`] says what was read, where, and what is wrong.
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// Returns the canonical encoding as a new vector.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Reads one value that must be all of `bytes`.
    ///
    /// # Errors
    /// As [`Canonical::decode`], and [`DecodeReason::Trailing`].
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let value = Self::decode(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }
}

/// A cursor that reads values from canonical bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the offset of the next byte.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.at
    }

    /// Returns the number of bytes that have not been read yet.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// Returns an error about the value that starts at the current offset.
    #[must_use]
    pub const fn invalid(&self, what: &'static str, why: &'static str) -> DecodeError {
        DecodeError { what, at: self.at, reason: DecodeReason::Invalid(why) }
    }

    /// Returns the error that `what` has an unknown tag.
    #[must_use]
    pub const fn unknown_tag(&self, what: &'static str, tag: u8) -> DecodeError {
        DecodeError { what, at: self.at, reason: DecodeReason::UnknownTag(tag) }
    }

    /// Takes the next `len` bytes, which belong to the value `what`.
    ///
    /// # Errors
    /// [`DecodeReason::Truncated`].
    pub fn take(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        let left = self.left();
        let end = self.at.saturating_add(len);
        match self.bytes.get(self.at..end) {
            Some(slice) => {
                self.at = end;
                Ok(slice)
            }
            None => Err(DecodeError {
                what,
                at: self.at,
                reason: DecodeReason::Truncated { need: len, left },
            }),
        }
    }

    /// Takes the next `N` bytes as an array.
    ///
    /// # Errors
    /// [`DecodeReason::Truncated`].
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let slice = self.take(what, N)?;
        let mut out = [0; N];
        out.copy_from_slice(slice);
        Ok(out)
    }

    /// Reads a `u32` length of at most `limit`, and checks that at least `unit` bytes per element
    /// are left, so that nothing is allocated for elements that cannot be there.
    ///
    /// # Errors
    /// [`DecodeReason::TooLong`] or [`DecodeReason::Truncated`].
    pub fn count(
        &mut self,
        what: &'static str,
        limit: usize,
        unit: usize,
    ) -> Result<usize, DecodeError> {
        let at = self.at;
        let got = u32::from_le_bytes(self.array(what)?) as usize;
        if got > limit {
            return Err(DecodeError { what, at, reason: DecodeReason::TooLong { got, limit } });
        }
        let need = got.saturating_mul(unit);
        if need > self.left() {
            let left = self.left();
            return Err(DecodeError { what, at, reason: DecodeReason::Truncated { need, left } });
        }
        Ok(got)
    }

    /// Reads a length-prefixed byte string of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Reader::count`].
    pub fn bytes(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8], DecodeError> {
        let len = self.count(what, limit, 1)?;
        self.take(what, len)
    }

    /// Reads a length-prefixed UTF-8 string of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Reader::bytes`], and [`DecodeReason::Invalid`] if it is not UTF-8.
    pub fn text(&mut self, what: &'static str, limit: usize) -> Result<String, DecodeError> {
        let at = self.at;
        let bytes = self.bytes(what, limit)?;
        core::str::from_utf8(bytes).map(str::to_owned).map_err(|_| DecodeError {
            what,
            at,
            reason: DecodeReason::Invalid("not UTF-8"),
        })
    }

    /// Reads a length-prefixed list of at most `limit` values of at least `unit` bytes each.
    ///
    /// # Errors
    /// As [`Reader::count`] and the values' own errors.
    pub fn list<T: Canonical>(
        &mut self,
        what: &'static str,
        limit: usize,
        unit: usize,
    ) -> Result<Vec<T>, DecodeError> {
        let len = self.count(what, limit, unit)?;
        (0..len).map(|_| T::decode(self)).collect()
    }

    /// Refuses bytes after the last field.
    ///
    /// # Errors
    /// [`DecodeReason::Trailing`].
    pub const fn finish(self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            count => Err(DecodeError {
                what: "end of input",
                at: self.at,
                reason: DecodeReason::Trailing { count },
            }),
        }
    }
}

/// Appends a length or count as a `u32`.
///
/// # Panics
/// When `len` does not fit: every writer bounds its lists far below 2^32.
#[expect(clippy::expect_used, reason = "our own lists are bounded; a peer cannot reach this")]
pub fn put_count(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).expect("lists are below 2^32").to_le_bytes());
}

/// Appends a length-prefixed byte string.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends a list: its length as a `u32`, and its elements.
pub fn put_list<T: Canonical>(out: &mut Vec<u8>, list: &[T]) {
    put_count(out, list.len());
    for value in list {
        value.encode(out);
    }
}

macro_rules! canonical_integer {
    ($($int:ty),*) => {$(
        impl Canonical for $int {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self::from_le_bytes(input.array(stringify!($int))?))
            }
        }
    )*};
}

canonical_integer!(u8, u16, u32, u64, i64);

/// Finite numbers only; -0 is written as itself.
impl Canonical for f32 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bits().to_le_bytes());
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let value = Self::from_bits(u32::from_le_bytes(input.array("f32")?));
        if value.is_finite() { Ok(value) } else { Err(input.invalid("f32", "not a finite number")) }
    }
}

impl Canonical for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(input.unknown_tag("bool", tag)),
        }
    }
}

/// A tag byte, 0 or 1, and the value if it is 1.
impl<T: Canonical> Canonical for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(None),
            1 => Ok(Some(T::decode(input)?)),
            tag => Err(input.unknown_tag("option", tag)),
        }
    }
}

impl Canonical for Digest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(input.array("digest")?))
    }
}

impl<const N: usize> Canonical for [u8; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.array("byte array")
    }
}

/// Implements [`Canonical`] for a struct whose fields are all canonical, in the order written.
#[macro_export]
macro_rules! canonical_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::bytes::Canonical for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                $( $crate::bytes::Canonical::encode(&self.$field, out); )*
            }
            fn decode(
                input: &mut $crate::bytes::Reader<'_>,
            ) -> Result<Self, $crate::bytes::DecodeError> {
                Ok(Self { $( $field: $crate::bytes::Canonical::decode(input)?, )* })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back_and_nothing_may_follow_it() {
        let bytes = 0x0102_0304_u32.to_bytes();
        assert_eq!(bytes, [4, 3, 2, 1]);
        assert_eq!(u32::from_bytes(&bytes), Ok(0x0102_0304));
        let error = u32::from_bytes(&[4, 3, 2, 1, 0]).unwrap_err();
        assert_eq!(error.reason, DecodeReason::Trailing { count: 1 });
    }

    #[test]
    fn a_list_that_claims_more_than_the_input_holds_is_refused_before_allocation() {
        let mut reader = Reader::new(&[255, 255, 255, 0, 1, 2]);
        let error = reader.list::<u64>("things", usize::MAX, 8).unwrap_err();
        assert_eq!(error.reason, DecodeReason::Truncated { need: 0x00ff_ffff * 8, left: 2 });
    }

    #[test]
    fn booleans_options_and_floats_have_one_encoding() {
        assert!(bool::from_bytes(&[2]).is_err());
        assert_eq!(Option::<u16>::from_bytes(&[0]), Ok(None));
        assert_eq!(Option::<u16>::from_bytes(&[1, 5, 0]), Ok(Some(5)));
        for bad in [&[2, 5, 0][..], &[1, 5], &[0, 0], &[]] {
            assert!(Option::<u16>::from_bytes(bad).is_err(), "{bad:?}");
        }
        assert!(f32::from_bytes(&f32::NAN.to_bits().to_le_bytes()).is_err());
        assert!(f32::from_bytes(&f32::INFINITY.to_bits().to_le_bytes()).is_err());
    }
}
