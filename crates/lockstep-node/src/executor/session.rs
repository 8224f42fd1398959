//! One session's memory in the executor: caches while it runs, its archive while it can be
//! challenged.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::kv::KvCache;
use lockstep_exact::ops::LoadMatrix;
use lockstep_exact::state::{State, row_bytes};
use lockstep_exact::weights::LayerWeights;
use lockstep_proto::failure::Refusal;
use lockstep_proto::job::Outcome;
use lockstep_verify::archive::{Archive, OpenError, Prover};
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::column::{Columns, Keep};
use lockstep_verify::request::{Lease, Request};
use lockstep_verify::statement::LayerRoots;
use tracing::error;

use super::Weights;
use crate::limits::{COLUMN_ROWS_AHEAD, LAYER_COLUMNS_BYTES, REBUILD_BYTES, REBUILD_PASSES};

/// What rebuilding the largest of these layers takes, for a session of so many positions.
fn rebuild_bytes<M>(layers: &[LayerWeights<M>], positions: u32) -> u64 {
    let of_row = |layer: &LayerWeights<M>| {
        let state = row_bytes(layer.attention_norm.gain.len());
        2 * (state + layer.kv_shape().row_bytes()) as u64
    };
    let row = layers.iter().map(of_row).max();
    row.unwrap_or(0).saturating_mul(positions.into())
}

/// What a stage keeps of a session.
pub(super) struct Session<O: LoadMatrix> {
    request: Option<Arc<Request>>,
    span: Range<u32>,
    prompt_len: usize,
    cache: O::Kv,
    /// What is computed, while it is.
    columns: Columns,
    /// What was signed, once the session has finished.
    roots: Option<(Digest, Vec<LayerRoots>)>,
    answer: Vec<u32>,
    archive: Archive,
    /// The columns with their bytes, after the session has finished: those that were filled as it
    /// ran, or, if these were freed since, those of the layer that was challenged last, rebuilt.
    opened: Option<Columns>,
    /// How many layers may still be run again to answer challenges.
    rebuilds: u32,
}

impl<O: LoadMatrix<Error = Infallible>> Session<O> {
    /// Makes room for a session.
    pub(super) fn begin(
        weights: &Weights<O>,
        lease: &Lease,
        stage: usize,
        request: Option<Arc<Request>>,
    ) -> Result<Self, Refusal> {
        let hop = lease.route.get(stage).ok_or(Refusal::NotInRoute)?;
        let span = hop.first..hop.end;
        let layers = weights.part(&span).ok_or(Refusal::SpanNotHeld)?;
        let shapes: Vec<_> = layers.iter().map(LayerWeights::kv_shape).collect();
        if rebuild_bytes(layers, lease.max_positions) > REBUILD_BYTES {
            return Err(Refusal::CannotKeep);
        }
        let mut columns = Columns::new(span.clone(), Keep::Bytes);
        if let Some(layer) = layers.first() {
            let rows = lease.max_positions.min(COLUMN_ROWS_AHEAD) as usize;
            let state_row = row_bytes(layer.attention_norm.gain.len());
            columns.reserve(rows, state_row, layer.kv_shape().row_bytes());
        }
        Ok(Self {
            request,
            prompt_len: lease.prompt_len as usize,
            cache: O::Kv::new(&shapes),
            columns,
            roots: None,
            answer: Vec::new(),
            archive: Archive::new(span.clone(), lease.prompt_len),
            opened: None,
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

    /// Cache and columns, for a forward pass.
    pub(super) const fn running(&mut self) -> (&mut O::Kv, &mut Columns) {
        (&mut self.cache, &mut self.columns)
    }

    pub(super) fn receive_tokens(&mut self, ids: &[u32], embedded: &State) {
        self.archive.tokens(ids);
        self.columns.receive_embeddings(embedded);
    }

    pub(super) fn receive_states(&mut self, bytes: &[u8]) {
        self.archive.states(bytes);
        self.columns.receive(bytes);
    }

    /// The head has read a state row and chosen a token.
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
        self.opened = columns.take_bytes();
        self.roots = Some((input_root, layers.clone()));
        Outcome::Rooted { input_root, layers }
    }

    /// Opens challenged cells, unless more layers would have to be run again for it than this
    /// session may still ask for.
    pub(super) fn answer(
        &mut self,
        ops: &O,
        weights: &Weights<O>,
        challenge: &Challenge,
    ) -> Outcome {
        let price = layer_of(&challenge.target).map_or(0, |layer| {
            let again = self.archive.layers_to_rebuild(layer, self.opened.as_ref());
            again.end.saturating_sub(again.start)
        });
        let Some(left) = self.rebuilds.checked_sub(price) else {
            return Outcome::Refused(Refusal::ChallengeLimit);
        };
        self.rebuilds = left;
        match self.open(ops, weights, challenge) {
            Ok(body) => Outcome::Answered(body),
            Err(OpenError::OutOfRange | OpenError::TooLarge { .. }) => {
                Outcome::Refused(Refusal::CellOutOfRange)
            }
            Err(error @ (OpenError::Diverged | OpenError::State(_))) => {
                error!(%error, "a challenge can't be answered: this machine computed wrongly");
                Outcome::Refused(Refusal::ExecutorFailed)
            }
        }
    }

    fn open(
        &mut self,
        ops: &O,
        weights: &Weights<O>,
        challenge: &Challenge,
    ) -> Result<Vec<u8>, OpenError> {
        let layers = weights.part(&self.span).ok_or(OpenError::OutOfRange)?;
        let head = weights.head.as_ref().filter(|_| self.span.start == 0);
        let archive = &self.archive;
        let (input_root, roots) = self.roots.as_ref().ok_or(OpenError::OutOfRange)?;
        let layer = layer_of(&challenge.target);
        let has = |columns: &Columns| layer.is_none_or(|layer| columns.span().contains(&layer));
        let prover = match (self.opened.take(), layer) {
            (Some(columns), _) if has(&columns) => {
                Prover::with_columns(ops, layers, head, archive, columns)
            }
            (before, None) => {
                let columns = before.unwrap_or_else(|| Columns::new(0..0, Keep::Bytes));
                Prover::with_columns(ops, layers, head, archive, columns)
            }
            (before, Some(layer)) => {
                let prover = Prover::rebuild(ops, layers, head, archive, layer, before)?;
                prover.compare(*input_root, roots)?;
                prover
            }
        };
        let opening = prover.open(&challenge.target).map(|opening| opening.to_bytes());
        self.opened = Some(prover.into_columns());
        opening
    }

    /// How many layers may still be run again.
    #[cfg(test)]
    pub(super) const fn rebuilds(&self) -> u32 {
        self.rebuilds
    }

    /// Bytes of columns that are kept to answer challenges from.
    pub(super) fn kept_bytes(&self) -> usize {
        let opened = self
            .opened
            .as_ref()
            .map_or(0, |columns| columns.kept_bytes() + columns.layers.len() * LAYER_COLUMNS_BYTES);
        self.columns.kept_bytes() + opened
    }

    /// Frees the bytes of the columns; a challenge rebuilds them.
    pub(super) fn forget_bytes(&mut self) {
        self.opened = None;
        drop(self.columns.take_bytes());
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
    use lockstep_exact::fixture::TinyModel;
    use lockstep_exact::reference::Reference;
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
        let begin = |max_positions| {
            let lease = Lease {
                session: Digest::ZERO,
                manifest: model.manifest.id(),
                session_key: node,
                prompt_len: 1,
                max_positions,
                route: vec![Hop { node, first: span.start, end: span.end }],
                addresses: vec![String::new()],
                signature: Signature::NONE,
            };
            Session::<Reference>::begin(&weights, &lease, 0, None).err()
        };
        let row = rebuild_bytes(&weights.layers, 1);
        let most = u32::try_from(REBUILD_BYTES / row).expect("a tiny row");
        assert_eq!(begin(most), None);
        assert_eq!(begin(most + 1), Some(Refusal::CannotKeep));
    }
}
