//! A whole model in one process: generation without a ring, and the oracle that rings are compared
//! with.

use std::convert::Infallible;

use lockstep_exact::blob::Blob;
use lockstep_exact::forward::{Probe, Row, Scratch, forward, logits};
use lockstep_exact::kv::{KvCache, KvShape};
use lockstep_exact::manifest::Manifest;
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{LoadMatrix, Place};
use lockstep_exact::state::State;
use lockstep_exact::weights::{HeadWeights, LayerWeights, LoadError, load_head, load_span};

/// Positions of a prefill chunk unless told otherwise.
pub const CHUNK: usize = 128;

/// All layers and the head of a model.
pub struct Local<O: LoadMatrix<Error = Infallible>> {
    ops: O,
    layers: Vec<LayerWeights<O::Matrix>>,
    head: HeadWeights<O::Matrix>,
}

/// What one session has computed so far.
pub struct LocalSession<O: LoadMatrix<Error = Infallible>> {
    cache: O::Kv,
    scratch: Scratch<O>,
}

/// One row of logits, or the overflow that ended the computation.
pub type Logits = Result<Vec<f32>, Overflow>;

impl<O: LoadMatrix<Error = Infallible>> Local<O> {
    /// Loads a model whose blobs' digests have been checked.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(
        ops: O,
        manifest: &Manifest,
        mut blob: impl FnMut(u32) -> Blob,
    ) -> Result<Self, LoadError> {
        let span = 0..manifest.layers.len() as u32;
        let layers = load_span(&ops, manifest, span, &mut blob)?;
        let head = load_head(&ops, manifest, blob)?;
        Ok(Self { ops, layers, head })
    }

    /// An empty session.
    #[must_use]
    pub fn session(&self) -> LocalSession<O> {
        let shapes: Vec<KvShape> = self.layers.iter().map(LayerWeights::kv_shape).collect();
        LocalSession { cache: O::Kv::new(&shapes), scratch: Scratch::default() }
    }

    /// Feeds tokens that follow what the session holds, `chunk` at a time, and returns the logits
    /// of the last of them, or of all of them.
    ///
    /// Token ids must be below the vocabulary's size.
    pub fn feed<P: Probe<O>>(
        &self,
        session: &mut LocalSession<O>,
        tokens: &[u32],
        chunk: usize,
        all: bool,
        probe: &mut P,
    ) -> Vec<Logits> {
        let start = session.cache.len();
        let mut out = Vec::new();
        for (index, part) in tokens.chunks(chunk.max(1)).enumerate() {
            let first = start + index * chunk.max(1);
            let row = |position: usize| Row {
                place: Place { slot: 0, position },
                feeds_head: all || position + 1 == start + tokens.len(),
            };
            let rows: Vec<Row> = (first..first + part.len()).map(row).collect();
            out.extend(self.feed_chunk(session, part, &rows, probe));
        }
        out
    }

    fn feed_chunk<P: Probe<O>>(
        &self,
        session: &mut LocalSession<O>,
        tokens: &[u32],
        rows: &[Row],
        probe: &mut P,
    ) -> Vec<Logits> {
        let LocalSession { cache, scratch } = session;
        let mut state = State::default();
        self.ops.embed(&self.head.embedding, self.head.embedding_scale, tokens, &mut state);
        let caches = &mut [cache];
        let result = forward(&self.ops, &self.layers, rows, caches, state, scratch, probe);
        let Ok(state) = result;
        let feeding: Vec<Row> = rows.iter().copied().filter(|row| row.feeds_head).collect();
        if feeding.is_empty() {
            return Vec::new();
        }
        let Ok(out) = logits(&self.ops, &self.head, &feeding, &state, scratch, probe);
        out
    }
}
