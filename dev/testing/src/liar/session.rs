//! What a lying server remembers of a session, and what it takes to commit to another input.

use std::ops::Range;

use lockstep_exact::matrix::Packed;
use lockstep_exact::ops::Device as _;
use lockstep_exact::reference::Reference;
use lockstep_exact::state::State;

/// The embedding table: what it takes to commit to rows that were not computed from.
pub struct Embedding {
    /// One row per token.
    pub table: Packed,
    /// Multiplied into every element.
    pub scale: f32,
}

impl Embedding {
    /// The rows that an honest server 1 computes from.
    pub(crate) fn rows(&self, tokens: &[u32]) -> State {
        let mut rows = State::default();
        Reference.embed(&self.table, self.scale, tokens, &mut rows);
        rows
    }
}

/// What is remembered of a session.
pub(crate) struct Session {
    pub(crate) span: Range<u32>,
    /// What the client asked to be embedded.
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: u32,
}
