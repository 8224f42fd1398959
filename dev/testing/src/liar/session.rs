//! What a lying server remembers of a session, and what it takes to commit to another input.

use std::ops::Range;

use lockstep_exact::matrix::Packed;
use lockstep_exact::ops::Device as _;
use lockstep_exact::reference::Reference;
use lockstep_exact::state::State;

/// The embedding table: what it takes to commit to rows that were not computed from.
pub struct Embedding {
    /// The embedding matrix, with one row for each token id.
    pub table: Packed,
    /// Multiplied into every element.
    pub scale: f32,
}

impl Embedding {
    /// Computes the embedding rows of `tokens`, as an honest server 1 does.
    pub(crate) fn rows(&self, tokens: &[u32]) -> State {
        let mut rows = State::default();
        Reference.embed(&self.table, self.scale, tokens, &mut rows);
        rows
    }
}

/// The facts of a session that a lying server remembers.
pub(crate) struct Session {
    pub(crate) span: Range<u32>,
    /// The tokens that the client asked to be embedded.
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: u32,
}
