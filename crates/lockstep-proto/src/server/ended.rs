//! The names of sessions that ended here not long ago.

use std::collections::{BTreeSet, VecDeque};

use lockstep_exact::digest::Digest;

use crate::limits;

/// The [`limits::ENDED_SESSIONS`] sessions that ended here last. A frame of one of them was sent
/// before its sender knew of the end, so it is ignored; a frame of a session that nobody has heard
/// of is answered with an abort.
#[derive(Debug, Default)]
pub(super) struct Ended {
    order: VecDeque<Digest>,
    known: BTreeSet<Digest>,
}

impl Ended {
    /// Remembers that a session has ended; the oldest is forgotten for it when there are too many.
    pub(super) fn insert(&mut self, session: Digest) {
        if self.known.insert(session) {
            self.order.push_back(session);
        }
        if self.order.len() > limits::ENDED_SESSIONS {
            self.order.pop_front().map(|oldest| self.known.remove(&oldest));
        }
    }

    /// Returns whether a session ended here not long ago.
    pub(super) fn contains(&self, session: &Digest) -> bool {
        self.known.contains(session)
    }
}
