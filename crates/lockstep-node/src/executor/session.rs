//! One session's memory in the executor: caches while it runs, inputs while it can be challenged.
//!
//! Retained are only the tokens or state rows that came in: everything else is computed again from
//! them, to the same bits, when cells are challenged.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use lockstep_exact::forward::{Row, Scratch, forward};
use lockstep_exact::kv::{KvCache, KvShape};
use lockstep_exact::ops::{LoadMatrix, Place};
use lockstep_exact::state::{State, row_bytes};
use lockstep_exact::weights::LayerWeights;
use lockstep_proto::failure::Refusal;
use lockstep_proto::job::Outcome;
use lockstep_verify::challenge::Challenge;
use lockstep_verify::column::{Columns, Keep, Recorder};
use lockstep_verify::request::{Lease, Request};

use super::Weights;

/// Positions that are computed at once when a session is rebuilt.
const REBUILD_CHUNK: usize = 256;

/// What a stage keeps of a session.
pub(super) struct Session<O: LoadMatrix> {
    lease: Arc<Lease>,
    request: Option<Arc<Request>>,
    span: Range<u32>,
    cache: O::Kv,
    columns: Columns,
    tokens: Vec<u32>,
    states: Vec<u8>,
    returned: Vec<u8>,
    answer: Vec<u32>,
    rebuilt: Option<Columns>,
}

impl<O: LoadMatrix<Error = Infallible>> Session<O> {
    /// Makes room for a session.
    pub(super) fn begin(
        weights: &Weights<O>,
        lease: Arc<Lease>,
        stage: usize,
        request: Option<Arc<Request>>,
    ) -> Result<Self, Refusal> {
        let hop = lease.route.get(stage).ok_or(Refusal::UnknownSession)?;
        let span = hop.first..hop.end;
        let held = &weights.span;
        if span.is_empty() || span.start < held.start || span.end > held.end {
            return Err(Refusal::UnknownSession);
        }
        let cache = O::Kv::new(&shapes(weights.part(&span)));
        let columns = Columns::new(span.clone(), Keep::Root);
        Ok(Self {
            lease,
            request,
            span,
            cache,
            columns,
            tokens: Vec::new(),
            states: Vec::new(),
            returned: Vec::new(),
            answer: Vec::new(),
            rebuilt: None,
        })
    }

    pub(super) fn span(&self) -> Range<u32> {
        self.span.clone()
    }

    pub(super) fn pages(&self) -> usize {
        self.cache.pages()
    }

    pub(super) fn prompt_len(&self) -> usize {
        self.lease.prompt_len as usize
    }

    pub(super) fn request(&self) -> Option<Arc<Request>> {
        self.request.clone()
    }

    pub(super) fn answer_so_far(&self) -> &[u32] {
        &self.answer
    }

    /// Cache and columns, for a forward pass.
    pub(super) fn running(&mut self) -> (&mut O::Kv, &mut Columns) {
        (&mut self.cache, &mut self.columns)
    }

    pub(super) fn receive_tokens(&mut self, ids: &[u32], embedded: &State) {
        self.tokens.extend_from_slice(ids);
        self.columns.receive_embeddings(embedded);
    }

    pub(super) fn receive_states(&mut self, bytes: &[u8]) {
        self.states.extend_from_slice(bytes);
        self.columns.receive(bytes);
    }

    /// The head has read a state row and chosen a token.
    pub(super) fn sampled(&mut self, state: &[u8], token: Option<u32>) {
        self.returned.extend_from_slice(state);
        self.answer.extend(token);
    }

    /// Closes the columns and frees the cache.
    pub(super) fn finish(&mut self) -> Outcome {
        self.cache.truncate(0);
        Outcome::Rooted {
            input_root: self.columns.input.root(),
            layers: self.columns.roots(),
        }
    }
}

impl<O: LoadMatrix<Error = Infallible>> Session<O> {
    /// The whole columns, computed again from what came in.
    fn rebuild(&self, ops: &O, weights: &Weights<O>, scratch: &mut Scratch<O>) -> Columns {
        let layers = weights.part(&self.span);
        let mut cache = O::Kv::new(&shapes(layers));
        let mut columns = Columns::new(self.span.clone(), Keep::Bytes);
        let mut position = 0;
        while let Some(state) = self.input(ops, weights, position, &mut columns) {
            let rows: Vec<Row> = (position..position + state.rows())
                .map(|position| Row {
                    place: Place { slot: 0, position },
                    feeds_head: position + 1 >= self.prompt_len(),
                })
                .collect();
            position += rows.len();
            let mut sessions = [&mut columns];
            let mut recorder = Recorder { sessions: &mut sessions };
            let caches = &mut [&mut cache];
            let Ok(_) = forward(ops, layers, &rows, caches, state, scratch, &mut recorder);
        }
        columns.head.append(&self.returned);
        columns
    }

    /// The next rows that came in, from `position` on; they go to the input column.
    fn input(
        &self,
        ops: &O,
        weights: &Weights<O>,
        position: usize,
        columns: &mut Columns,
    ) -> Option<State> {
        if let Some(head) = weights.head.as_ref().filter(|_| self.span.start == 0) {
            let tokens = self.tokens.get(position..).filter(|tokens| !tokens.is_empty())?;
            let tokens = &tokens[..tokens.len().min(REBUILD_CHUNK)];
            let mut state = State::default();
            ops.embed(&head.embedding, head.embedding_scale, tokens, &mut state);
            columns.receive_embeddings(&state);
            return Some(state);
        }
        let width = weights.layers.first()?.attention_norm.gain.len();
        let row = row_bytes(width);
        let bytes = self.states.get(position * row..).filter(|bytes| !bytes.is_empty())?;
        let bytes = &bytes[..bytes.len().min(REBUILD_CHUNK * row)];
        columns.receive(bytes);
        // The rows were canonical when they came in.
        State::parse(width, bytes).ok()
    }
}

fn shapes<M>(layers: &[LayerWeights<M>]) -> Vec<KvShape> {
    layers.iter().map(LayerWeights::kv_shape).collect()
}
