//! One session's memory in the executor: caches while it runs, its archive while it can be
//! challenged.

use std::ops::Range;
use std::sync::Arc;

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::invariant::Broken;
use lockstep_exact::kv::KvCache;
use lockstep_exact::ops::KvOf;
use lockstep_exact::state::{State, row_bytes};
use lockstep_exact::weights::{Backend, LayerWeights};
use lockstep_proto::failure::Refusal;
use lockstep_proto::job::Outcome;
use lockstep_verify::archive::{Archive, OpenError, Prover, Rebuild};
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::column::{Columns, Keep};
use lockstep_verify::request::{Lease, Request};
use lockstep_verify::statement::LayerRoots;
use tracing::error;

use super::Weights;
use crate::limits::{COLUMN_ROWS_AHEAD, LAYER_COLUMNS_BYTES, REBUILD_PASSES};
use crate::memory::rebuild_row_bytes;

/// What rebuilding the largest of these layers takes, for a session of so many positions.
fn rebuild_bytes<M, V, R>(layers: &[LayerWeights<M, V, R>], positions: u32) -> u64 {
    let of_row = |layer: &LayerWeights<M, V, R>| {
        let state = row_bytes(layer.hidden()) as u64;
        rebuild_row_bytes(state, layer.kv_shape().row_bytes() as u64)
    };
    let row = layers.iter().map(of_row).fold(0, u64::max);
    row.saturating_mul(positions.into())
}

/// The columns of a finished session that can be opened.
#[derive(Default)]
enum Held<K> {
    /// None: they were freed.
    #[default]
    Nothing,
    /// Those of the layer that is challenged, while they are computed again.
    Rebuilding(Box<Rebuild<K>>),
    /// Those of the layer that was challenged last, which were computed again.
    Rebuilt(Columns),
    /// All that were filled as the session ran.
    Served(Columns),
}

impl<K> Held<K> {
    const fn columns(&self) -> Option<&Columns> {
        match self {
            Self::Rebuilt(columns) | Self::Served(columns) => Some(columns),
            Self::Nothing | Self::Rebuilding(_) => None,
        }
    }

    const fn columns_mut(&mut self) -> Option<&mut Columns> {
        match self {
            Self::Rebuilt(columns) | Self::Served(columns) => Some(columns),
            Self::Nothing | Self::Rebuilding(_) => None,
        }
    }

    fn into_columns(self) -> Option<Columns> {
        match self {
            Self::Rebuilt(columns) | Self::Served(columns) => Some(columns),
            Self::Nothing | Self::Rebuilding(_) => None,
        }
    }
}

/// What a stage keeps of a session.
pub(super) struct Session<O: Backend> {
    request: Option<Arc<Request>>,
    span: Range<u32>,
    prompt_len: usize,
    cache: KvOf<O>,
    /// What is computed, while it is.
    columns: Columns,
    /// What was signed, once the session has finished.
    roots: Option<(Digest, Vec<LayerRoots>)>,
    answer: Vec<u32>,
    archive: Archive,
    /// The columns with their bytes, after the session has finished.
    held: Held<KvOf<O>>,
    /// Positions that came.
    positions: u64,
    /// What a position takes in a rebuild, in bytes.
    rebuild_row: u64,
    /// How many layers may still be run again to answer challenges.
    rebuilds: u32,
}

impl<O: Backend> Session<O> {
    /// Makes room for a session, of whose layers any must be rebuilt within `rebuild_room` bytes.
    pub(super) fn begin(
        weights: &Weights<O>,
        rebuild_room: u64,
        lease: &Lease,
        stage: usize,
        request: Option<Arc<Request>>,
    ) -> Result<Self, Refusal> {
        let hop = lease.route.get(stage).ok_or(Refusal::NotInRoute)?;
        let span = hop.first..hop.end;
        let layers = weights.part(&span).ok_or(Refusal::SpanNotHeld)?;
        let shapes: Vec<_> = layers.iter().map(LayerWeights::kv_shape).collect();
        if rebuild_bytes(layers, lease.max_positions) > rebuild_room {
            return Err(Refusal::CannotKeep);
        }
        let mut columns = Columns::new(span.clone(), Keep::Bytes);
        if let Some(layer) = layers.first() {
            let rows = lease.max_positions.min(COLUMN_ROWS_AHEAD) as usize;
            let state_row = row_bytes(layer.hidden());
            columns.reserve(rows, state_row, layer.kv_shape().row_bytes());
        }
        Ok(Self {
            request,
            prompt_len: lease.prompt_len as usize,
            cache: KvOf::<O>::new(&shapes),
            columns,
            roots: None,
            answer: Vec::new(),
            archive: Archive::new(span.clone(), lease.prompt_len),
            held: Held::Nothing,
            positions: 0,
            rebuild_row: rebuild_bytes(layers, 1),
            rebuilds: REBUILD_PASSES.saturating_mul(span.end.saturating_sub(span.start)),
            span,
        })
    }

    pub(super) fn span(&self) -> Range<u32> {
        self.span.clone()
    }

    pub(super) fn pages(&self) -> usize {
        self.cache.pages()
    }

    pub(super) const fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    pub(super) fn request(&self) -> Option<Arc<Request>> {
        self.request.clone()
    }

    pub(super) fn answer_so_far(&self) -> &[u32] {
        &self.answer
    }

    /// Returns the cache and the columns of the session, for a forward pass.
    pub(super) const fn running(&mut self) -> (&mut KvOf<O>, &mut Columns) {
        (&mut self.cache, &mut self.columns)
    }

    pub(super) fn receive_tokens(&mut self, ids: &[u32], embedded: &State) {
        self.archive.tokens(ids);
        self.positions += ids.len() as u64;
        self.columns.receive_embeddings(embedded);
    }

    pub(super) fn receive_states(&mut self, rows: usize, bytes: &[u8]) {
        self.archive.states(bytes);
        self.positions += rows as u64;
        self.columns.receive(bytes);
    }

    /// Notes that the head has read the row `state` and chosen `token`, if it gave one.
    pub(super) fn sampled(&mut self, state: &[u8], token: Option<u32>) {
        self.archive.head_state(state);
        self.answer.extend(token);
    }

    /// Closes the columns and frees the cache. What is left may be kept for long, so it is small:
    /// the archive, the roots, and the columns for as long as there is room for them.
    pub(super) fn finish(&mut self) -> Outcome {
        self.cache.truncate(0);
        let mut columns = std::mem::replace(&mut self.columns, Columns::new(0..0, Keep::Root));
        let (input_root, layers) = (columns.input.root(), columns.roots());
        self.held = columns.take_bytes().map_or(Held::Nothing, Held::Served);
        self.roots = Some((input_root, layers.clone()));
        Outcome::Rooted { input_root, layers }
    }

    /// Returns the layer whose columns have to be computed again to answer a challenge, if one has.
    ///
    /// # Errors
    /// [`Refusal::ChallengeLimit`] if more layers would have to be run again for it than this
    /// session may still ask for.
    pub(super) fn must_rebuild(&self, challenge: &Challenge) -> Result<Option<u32>, Refusal> {
        let Some(layer) = layer_of(&challenge.target) else { return Ok(None) };
        if matches!(&self.held, Held::Rebuilding(rebuild) if rebuild.layer() == layer) {
            return Ok(Some(layer));
        }
        let again = self.archive.layers_to_rebuild(layer, self.held.columns());
        if again.len() > self.rebuilds as usize {
            return Err(Refusal::ChallengeLimit);
        }
        Ok((!again.is_empty()).then_some(layer))
    }

    /// Returns whether the columns of this layer are being computed again.
    pub(super) fn rebuilds_layer(&self, layer: u32) -> bool {
        matches!(&self.held, Held::Rebuilding(rebuild) if rebuild.layer() == layer)
    }

    /// Begins to compute the columns of a layer again, which is counted.
    pub(super) fn begin_rebuild(&mut self, layer: u32) -> Result<(), Refusal> {
        let again = self.archive.layers_to_rebuild(layer, self.held.columns());
        let price = again.end.saturating_sub(again.start);
        self.rebuilds = self.rebuilds.checked_sub(price).ok_or(Refusal::ChallengeLimit)?;
        let before = std::mem::take(&mut self.held).into_columns();
        let rebuild = Rebuild::begin(&self.archive, layer, before).map_err(|e| refusal(&e))?;
        self.held = Held::Rebuilding(Box::new(rebuild));
        Ok(())
    }

    /// Does a slice of the rebuild that is under way.
    pub(super) fn advance(&mut self, ops: &O, weights: &Weights<O>) -> Result<(), Refusal> {
        let mut rebuild = match std::mem::take(&mut self.held) {
            Held::Rebuilding(rebuild) => rebuild,
            held @ (Held::Nothing | Held::Rebuilt(_) | Held::Served(_)) => {
                self.held = held;
                return Ok(());
            }
        };
        let prover = self.prover(ops, weights, Columns::new(0..0, Keep::Bytes));
        let advanced = prover.and_then(|prover| prover.advance(&mut rebuild));
        self.held = if advanced.map_err(|error| refusal(&error))? {
            let columns = rebuild.into_columns();
            self.compare(ops, weights, columns).map_err(|error| refusal(&error))?
        } else {
            Held::Rebuilding(rebuild)
        };
        Ok(())
    }

    /// Rebuilt columns, if they have the roots that were signed.
    fn compare(
        &self,
        ops: &O,
        weights: &Weights<O>,
        columns: Columns,
    ) -> Result<Held<KvOf<O>>, OpenError> {
        let (input_root, roots) = self.roots.as_ref().ok_or(OpenError::OutOfRange)?;
        let prover = self.prover(ops, weights, columns)?;
        prover.compare(*input_root, roots)?;
        Ok(Held::Rebuilt(prover.into_columns()))
    }

    fn prover<'a>(
        &'a self,
        ops: &'a O,
        weights: &'a Weights<O>,
        columns: Columns,
    ) -> Result<Prover<'a, O>, OpenError> {
        let layers = weights.part(&self.span);
        let layers = layers.ok_or_else(|| Broken::new("a session's layers are not held"))?;
        let head = weights.head.as_ref().filter(|_| self.span.start == 0);
        Ok(Prover::with_columns(ops, layers, head, &self.archive, columns))
    }

    /// Opens challenged cells from the columns that are held.
    pub(super) fn answer(
        &mut self,
        ops: &O,
        weights: &Weights<O>,
        challenge: &Challenge,
    ) -> Outcome {
        if self.roots.is_none() {
            return Outcome::Refused(Refusal::CellOutOfRange);
        }
        let mut held = std::mem::take(&mut self.held);
        let none = || Columns::new(0..0, Keep::Bytes);
        // Cells of the head need no columns: a rebuild that is under way remains so.
        let columns = match held.columns_mut() {
            Some(columns) => std::mem::replace(columns, none()),
            None => none(),
        };
        let prover = self.prover(ops, weights, columns);
        let opened = prover.and_then(|prover| {
            let opening = prover.open(&challenge.target).map(|opening| opening.to_bytes());
            if let Some(columns) = held.columns_mut() {
                *columns = prover.into_columns();
            }
            opening
        });
        self.held = held;
        match opened {
            Ok(body) => Outcome::Answered(body),
            Err(error) => Outcome::Refused(refusal(&error)),
        }
    }

    /// How many layers may still be run again.
    #[cfg(test)]
    pub(super) const fn rebuilds(&self) -> u32 {
        self.rebuilds
    }

    /// Returns the bytes of the columns that were filled as the session ran.
    pub(super) fn kept_bytes(&self) -> usize {
        let served = match &self.held {
            Held::Served(columns) => {
                columns.kept_bytes() + columns.layers.len() * LAYER_COLUMNS_BYTES
            }
            Held::Nothing | Held::Rebuilding(_) | Held::Rebuilt(_) => 0,
        };
        self.columns.kept_bytes() + served
    }

    /// Returns the bytes that rebuilding a layer's columns takes.
    pub(super) fn rebuild_bytes(&self) -> u64 {
        self.rebuild_row.saturating_mul(self.positions)
    }

    /// Bytes of columns that are being computed again, or were.
    pub(super) fn rebuilt_bytes(&self) -> u64 {
        match &self.held {
            Held::Nothing | Held::Served(_) => 0,
            Held::Rebuilding(_) | Held::Rebuilt(_) => self.rebuild_bytes(),
        }
    }

    /// Frees the columns that were filled as the session ran; a challenge rebuilds them.
    pub(super) fn forget_served(&mut self) {
        if let Held::Served(_) = self.held {
            self.held = Held::Nothing;
        }
        drop(self.columns.take_bytes());
    }

    /// Frees what was computed again, or was being.
    pub(super) fn forget_rebuilt(&mut self) {
        if let Held::Rebuilding(_) | Held::Rebuilt(_) = self.held {
            self.held = Held::Nothing;
        }
    }
}

/// What the server says of a challenge that can't be answered.
fn refusal(error: &OpenError) -> Refusal {
    match error {
        OpenError::OutOfRange | OpenError::TooLarge { .. } => Refusal::CellOutOfRange,
        OpenError::Device { .. } => {
            error!(%error, "a challenge can't be answered");
            Refusal::ExecutorFailed
        }
        OpenError::Internal(broken) => {
            error!(%broken, "a challenge can't be answered");
            Refusal::Internal
        }
        OpenError::Diverged | OpenError::State(_) => {
            error!(%error, "a challenge can't be answered: this machine computed wrongly");
            Refusal::ExecutorFailed
        }
    }
}

/// The layer whose columns are needed to answer: cells of the head need none, and marks are not the
/// executor's.
const fn layer_of(target: &Target) -> Option<u32> {
    match target {
        Target::Layer { layer, .. } | Target::Edge { layer, .. } => Some(*layer),
        Target::Head { .. } | Target::Mark { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use lockstep_exact::reference::Reference;
    use lockstep_testing::tiny_model::TinyModel;
    use lockstep_verify::request::Hop;
    use lockstep_verify::sign::{Keypair, Signature};

    use super::*;

    #[test]
    fn a_session_whose_layers_could_not_be_rebuilt_is_refused_as_it_begins() {
        let model = TinyModel::new(1);
        let span = model.span();
        let load = |blob| model.blob(blob);
        let weights = Weights::load(&Reference, &model.manifest, span.clone(), load).expect("tiny");
        let node = Keypair::from_secret(&[1; 32]).id();
        let row = rebuild_bytes(&weights.layers, 1);
        let begin = |max_positions| {
            let lease = Lease {
                session: Digest::ZERO,
                epoch: 0,
                manifest: model.manifest.id(),
                adapters: Vec::new(),
                reuse: None,
                session_key: node,
                prompt_len: 1,
                max_positions,
                route: vec![Hop { node, first: span.start, end: span.end }],
                addresses: vec![String::new()],
                signature: Signature::NONE,
            };
            Session::<Reference>::begin(&weights, 40 * row, &lease, 0, None).err()
        };
        assert_eq!(begin(40), None);
        assert_eq!(begin(41), Some(Refusal::CannotKeep));
    }
}
