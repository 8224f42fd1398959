//! What a fetch knows of one blob that it wants.

use std::sync::Arc;

use lockstep_exact::pieces::{self, Outline};
use lockstep_verify::sign::NodeId;

use super::Length;

/// A blob that is wanted, and how far it has come.
#[derive(Debug)]
pub(super) struct Want {
    pub(super) length: Length,
    /// The outline, once it is certain: the values are the blob's if its length is.
    pub(super) outline: Option<Arc<Outline>>,
    /// The last piece, if it came first because it proves the length.
    pub(super) tail: Option<Vec<u8>>,
    /// Whether the driver has said how much of the blob is there.
    pub(super) is_resumed: bool,
    /// Pieces from the beginning that are right, written or about to be.
    pub(super) received: u64,
    pub(super) written: u64,
    pub(super) from: Option<NodeId>,
    pub(super) is_stored: bool,
}

impl Want {
    pub(super) const fn new(length: Length) -> Self {
        Self {
            length,
            outline: None,
            tail: None,
            is_resumed: false,
            received: 0,
            written: 0,
            from: None,
            is_stored: false,
        }
    }

    /// Returns the number of pieces, if it is known.
    pub(super) fn count(&self) -> Option<u64> {
        self.outline.as_ref().map(|outline| outline.count())
    }

    /// Returns whether all pieces have come, though they may not all be written.
    pub(super) fn has_all(&self) -> bool {
        self.is_resumed && Some(self.received) == self.count()
    }

    /// Returns whether a holder is to be found for the blob.
    pub(super) fn needs_holder(&self) -> bool {
        self.from.is_none() && !self.is_stored && !self.has_all()
    }

    /// Returns the last piece, if it is here and all others are.
    pub(super) fn take_tail(&mut self) -> Option<Vec<u8>> {
        let is_next = self.is_resumed && Some(self.received.saturating_add(1)) == self.count();
        self.tail.take_if(|_| is_next)
    }

    /// Returns the number of pieces from the beginning for which holders are asked one by one.
    pub(super) fn asked_count(&self) -> Option<u64> {
        Some(self.count()?.saturating_sub(u64::from(self.tail.is_some())))
    }

    /// Returns the bytes that are missing, as far as the length is known.
    pub(super) fn left_bytes(&self) -> u64 {
        let len = match (&self.outline, self.length) {
            (Some(outline), _) => outline.len(),
            (None, Length::Exactly(len) | Length::AtMost(len)) => len,
        };
        len.saturating_sub(self.received.saturating_mul(pieces::PIECE_BYTES))
    }
}
