//! A whole model in one process: generation without a ring, and the oracle that rings are compared
//! with.

use std::convert::Infallible;
use std::mem;

use lockstep_exact::blob::Blob;
use lockstep_exact::forward::{Probe, Row, Scratch, logits, serve};
use lockstep_exact::kv::{KvCache, KvShape};
use lockstep_exact::manifest::Manifest;
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{Device as _, KvOf, Place, StateOf};
use lockstep_exact::weights::{
    Backend, HeadOf, LayerOf, LayerWeights, LoadError, load_head, load_span,
};

/// Positions of a prefill chunk unless told otherwise.
pub const CHUNK: usize = 128;

/// All layers and the head of a model.
pub struct Local<O: Backend<Error = Infallible>> {
    ops: O,
    layers: Vec<LayerOf<O>>,
    head: HeadOf<O>,
}

/// The KV cache of one session, and the memory for intermediate results of its steps.
pub struct LocalSession<O: Backend<Error = Infallible>> {
    cache: KvOf<O>,
    scratch: Scratch<O::Device>,
}

/// One row of logits, or the overflow that ended the computation.
pub type Logits = Result<Vec<f32>, Overflow>;

impl<O: Backend<Error = Infallible>> Local<O> {
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

    /// Starts a session in which nothing has been computed.
    #[must_use]
    pub fn session(&self) -> LocalSession<O> {
        let shapes: Vec<KvShape> = self.layers.iter().map(LayerWeights::kv_shape).collect();
        LocalSession { cache: KvOf::<O>::new(&shapes), scratch: Scratch::default() }
    }

    /// Returns the operations that the model computes with.
    #[must_use]
    pub const fn ops(&self) -> &O {
        &self.ops
    }

    /// Returns the weights of all layers, in order.
    #[must_use]
    pub fn layers(&self) -> &[LayerOf<O>] {
        &self.layers
    }

    /// Returns the weights of the head: embedding, final norm and output matrix.
    #[must_use]
    pub const fn head(&self) -> &HeadOf<O> {
        &self.head
    }

    /// Feeds one token to each of several sessions in one step, and returns the logits of each.
    ///
    /// `tokens` has one token per session; ids must be below the vocabulary's size.
    pub fn step<P: Probe>(
        &self,
        sessions: &mut [LocalSession<O>],
        tokens: &[u32],
        probe: &mut P,
    ) -> Vec<Logits> {
        let Some(mut scratch) = sessions.first_mut().map(|first| mem::take(&mut first.scratch))
        else {
            return Vec::new();
        };
        let row = |(slot, session): (usize, &LocalSession<O>)| Row {
            place: Place { slot, position: session.cache.len() },
            feeds_head: true,
        };
        let rows: Vec<Row> = sessions.iter().enumerate().map(row).collect();
        let mut caches: Vec<&mut KvOf<O>> = sessions.iter_mut().map(|s| &mut s.cache).collect();
        let out = self.run(&mut caches, tokens, &rows, &mut scratch, probe);
        if let Some(first) = sessions.first_mut() {
            first.scratch = scratch;
        }
        out
    }

    /// Feeds tokens that follow what the session holds, `chunk` at a time, and returns the logits
    /// of the last of them, or of all of them.
    ///
    /// Token ids must be below the vocabulary's size.
    pub fn feed<P: Probe>(
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

    fn feed_chunk<P: Probe>(
        &self,
        session: &mut LocalSession<O>,
        tokens: &[u32],
        rows: &[Row],
        probe: &mut P,
    ) -> Vec<Logits> {
        let LocalSession { cache, scratch } = session;
        self.run(&mut [cache], tokens, rows, scratch, probe)
    }

    fn run<P: Probe>(
        &self,
        caches: &mut [&mut KvOf<O>],
        tokens: &[u32],
        rows: &[Row],
        scratch: &mut Scratch<O::Device>,
        probe: &mut P,
    ) -> Vec<Logits> {
        let mut state = StateOf::<O>::default();
        let device = self.ops.device();
        device.embed(&self.head.embedding, self.head.embedding_scale, tokens, &mut state);
        let result = serve(&self.ops, &self.layers, rows, caches, state, scratch, probe);
        let Ok(state) = result;
        let feeding: Vec<Row> = rows.iter().copied().filter(|row| row.feeds_head).collect();
        if feeding.is_empty() {
            return Vec::new();
        }
        let Ok(out) = logits(&self.ops, &self.head, &feeding, &state, scratch, probe);
        out
    }
}

impl<O: Backend<Error = Infallible>> LocalSession<O> {
    /// Creates a session that goes on from the same past on its own.
    #[must_use]
    pub fn fork(&self) -> Self
    where
        KvOf<O>: Clone,
    {
        Self { cache: self.cache.clone(), scratch: Scratch::default() }
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_exact::reference::Reference;
    use lockstep_testing::tiny_model::TinyModel;

    #[test]
    fn a_step_of_several_sessions_gives_what_each_gives_alone() {
        let model = TinyModel::new(5);
        let local = Local::load(Reference, &model.manifest, |i| model.blob(i)).expect("loads");
        let prompts: [&[u32]; 3] = [&[1, 2, 3], &[4], &[5, 6, 7, 8, 9]];
        let next = [10, 11, 12];
        let mut sessions: Vec<_> = prompts.iter().map(|_| local.session()).collect();
        for (session, prompt) in sessions.iter_mut().zip(prompts) {
            local.feed(session, prompt, CHUNK, false, &mut ());
        }
        let mut alone: Vec<_> = sessions.iter().map(LocalSession::fork).collect();
        let together = local.step(&mut sessions, &next, &mut ());
        for (slot, session) in alone.iter_mut().enumerate() {
            let logits = local.feed(session, &next[slot..=slot], 1, false, &mut ());
            assert_eq!(logits[0], together[slot], "session {slot}");
        }
    }
}
