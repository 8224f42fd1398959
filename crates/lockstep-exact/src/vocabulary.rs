//! The bytes of every token, so that stop strings are matched on bytes by anyone.
//!
//! Canonical blob: `u32` count, then per token a `u16` length and its bytes.
#![deny(clippy::indexing_slicing, clippy::string_slice, clippy::arithmetic_side_effects)]

use crate::bytes::{Canonical, DecodeError, DecodeReason, Reader, put_count};
use crate::limits;

/// The bytes that each token id stands for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Vocabulary {
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

impl Vocabulary {
    /// Collects tokens in the order of their ids.
    ///
    /// # Errors
    /// [`DecodeReason::TooLong`] when a token is above the limit.
    pub fn new<'a>(tokens: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, DecodeError> {
        let mut vocabulary = Self::default();
        for token in tokens {
            vocabulary.push(token)?;
        }
        Ok(vocabulary)
    }

    fn push(&mut self, token: &[u8]) -> Result<(), DecodeError> {
        let (got, limit) = (token.len(), limits::TOKEN_BYTES);
        let too_long = |at, reason| DecodeError { what: "token", at, reason };
        if got > limit {
            return Err(too_long(self.ends.len(), DecodeReason::TooLong { got, limit }));
        }
        if self.ends.len() >= limits::VOCABULARY {
            let (got, limit) = (self.ends.len().saturating_add(1), limits::VOCABULARY);
            return Err(too_long(self.ends.len(), DecodeReason::TooLong { got, limit }));
        }
        self.bytes.extend_from_slice(token);
        self.ends.push(self.bytes.len() as u32);
        Ok(())
    }

    /// Returns the bytes of a token; empty for an unknown id.
    #[must_use]
    pub fn token(&self, id: u32) -> &[u8] {
        let end_of = |id: u32| self.ends.get(id as usize).map(|&end| end as usize);
        let start = id.checked_sub(1).map_or(Some(0), end_of);
        let range = start.zip(end_of(id)).map(|(start, end)| start..end);
        // default: a token that the model does not have has no bytes
        range.and_then(|range| self.bytes.get(range)).unwrap_or_default()
    }

    /// Returns the number of tokens.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there are no tokens.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl Canonical for Vocabulary {
    fn encode(&self, out: &mut Vec<u8>) {
        put_count(out, self.len());
        for id in 0..self.len() {
            let token = self.token(id as u32);
            (token.len() as u16).encode(out);
            out.extend_from_slice(token);
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = input.count("vocabulary", limits::VOCABULARY, 2)?;
        let mut vocabulary = Self::default();
        for _ in 0..count {
            let len = u16::decode(input)?;
            vocabulary.push(input.take("token", len.into())?)?;
        }
        Ok(vocabulary)
    }
}
