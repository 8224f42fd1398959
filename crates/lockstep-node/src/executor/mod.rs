//! The executor: weights, caches and columns of one server, and the one place where it computes.
//!
//! It runs what the protocol's machines ask for, a job at a time, and knows nothing of peers, time
//! or files. All steps of a job that need a layer go through that layer as one batch
//! (`steps`), and a few at a time through the head, whose weights are a large part of a small
//! model; that cannot change a bit of any of them.

mod rebuilds;
mod session;
mod steps;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use lockstep_exact::Digest;
use lockstep_exact::blob::Blob;
use lockstep_exact::forward::{Row, Scratch, logits};
use lockstep_exact::invariant::Broken;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{Host as _, Place};
use lockstep_exact::sample::{History, sample};
use lockstep_exact::state::State;
use lockstep_exact::weights::{Backend, HeadOf, LayerOf, LoadError, load_head, load_span};
use lockstep_proto::failure::Refusal;
use lockstep_proto::job::{Done, Execute, Item, Job, Outcome, Work};
use lockstep_verify::challenge::Challenge;
use tracing::error;

use crate::limits::{COLUMN_BYTES, HEAD_ROWS, REBUILD_BYTES};
use rebuilds::Rebuilds;
use session::Session;

/// The layers and, on a server that can be first in a ring, the head of a model.
pub struct Weights<O: Backend> {
    /// The range of layers that are held.
    pub span: Range<u32>,
    /// The weights of these layers, in order.
    pub layers: Vec<LayerOf<O>>,
    /// Embedding, final norm and output product.
    pub head: Option<HeadOf<O>>,
}

impl<O: Backend> Weights<O> {
    /// Loads a span whose blobs' digests have been checked; with the head if the span starts at
    /// layer 0.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(
        ops: &O,
        manifest: &Manifest,
        span: Range<u32>,
        mut blob: impl FnMut(u32) -> Blob,
    ) -> Result<Self, LoadError> {
        let layers = load_span(ops, manifest, span.clone(), &mut blob)?;
        let head = match span.start {
            0 => Some(load_head(ops, manifest, blob)?),
            _ => None,
        };
        Ok(Self { span, layers, head })
    }

    /// The weights of a part of the span.
    fn part(&self, span: &Range<u32>) -> Option<&[LayerOf<O>]> {
        let from = span.start.checked_sub(self.span.start)? as usize;
        let to = span.end.checked_sub(self.span.start)? as usize;
        self.layers.get(from..to).filter(|layers| !layers.is_empty())
    }
}

/// Runs jobs on one backend.
pub struct Executor<O: Backend> {
    ops: O,
    model_layers: u32,
    weights: Weights<O>,
    sessions: BTreeMap<Digest, Session<O>>,
    /// The session that was challenged last.
    challenged: Option<Digest>,
    /// How many bytes of columns others keep: [`COLUMN_BYTES`].
    column_bytes: usize,
    rebuilds: Rebuilds,
    scratch: Scratch<O::Device>,
}

impl<O: Backend> Executor<O> {
    /// Creates an executor without sessions, which computes with `ops` over `weights`.
    pub fn new(ops: O, manifest: &Manifest, weights: Weights<O>) -> Self {
        Self {
            ops,
            model_layers: manifest.layers.len() as u32,
            weights,
            sessions: BTreeMap::new(),
            challenged: None,
            column_bytes: COLUMN_BYTES,
            rebuilds: Rebuilds::new(REBUILD_BYTES),
            scratch: Scratch::default(),
        }
    }

    /// Sets the most bytes that the executor takes to compute columns again, which is less than
    /// [`REBUILD_BYTES`] where there is not so much memory, and returns the executor.
    #[must_use]
    pub fn with_rebuild_room(mut self, bytes: u64) -> Self {
        self.rebuilds = Rebuilds::new(bytes.min(REBUILD_BYTES));
        self
    }

    /// Returns the number of sessions that hold memory here, retained ones included.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the number of pages of keys and values in use, over all sessions and layers.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.sessions.values().map(Session::pages).sum()
    }

    fn single(&mut self, session: Digest, work: Work) -> Outcome {
        match work {
            Work::Begin { lease, stage, request } => {
                let made =
                    Session::begin(&self.weights, self.rebuilds.room(), &lease, stage, request);
                match made {
                    Ok(made) => {
                        self.sessions.insert(session, made);
                        Outcome::Begun
                    }
                    Err(refusal) => Outcome::Refused(refusal),
                }
            }
            Work::Drop => {
                self.rebuilds.forget(session);
                self.sessions.remove(&session);
                Outcome::Dropped
            }
            Work::Forget => {
                self.rebuilds.forget(session);
                self.sessions.get_mut(&session).into_iter().for_each(Session::forget_rebuilt);
                Outcome::Forgotten
            }
            Work::Finish => match self.sessions.get_mut(&session) {
                Some(session) => session.finish(),
                None => Outcome::Refused(Refusal::UnknownSession),
            },
            Work::Answer { challenge } => self.answer(session, challenge),
            Work::Head { .. } | Work::Tokens { .. } | Work::States { .. } => {
                Outcome::Refused(Refusal::UnknownSession)
            }
        }
    }

    /// Opens challenged cells, or does a slice of what has to be computed again for that.
    fn answer(&mut self, session: Digest, challenge: Arc<Challenge>) -> Outcome {
        self.challenged = Some(session);
        let Some(found) = self.sessions.get_mut(&session) else {
            return Outcome::Refused(Refusal::UnknownSession);
        };
        let outcome = match found.must_rebuild(&challenge) {
            Ok(None) => found.answer(&self.ops, &self.weights, &challenge),
            Ok(Some(layer)) => match self.rebuild(session, layer) {
                Ok(()) => Outcome::Unfinished(challenge),
                Err(refusal) => Outcome::Refused(refusal),
            },
            Err(refusal) => Outcome::Refused(refusal),
        };
        if !matches!(outcome, Outcome::Unfinished(_)) {
            self.rebuilds.leave(session);
        }
        self.limit_columns();
        outcome
    }

    /// Does a slice of the rebuild of a session's layer; while it must wait for room, of the one
    /// that it waits for.
    fn rebuild(&mut self, session: Digest, layer: u32) -> Result<(), Refusal> {
        self.rebuilds.join(session);
        let next = self.rebuilds.next(session, layer, &mut self.sessions)?;
        let Some(found) = self.sessions.get_mut(&next) else { return Ok(()) };
        let advanced = found.advance(&self.ops, &self.weights);
        // What is wrong with another session is told to those who ask about it.
        if next == session { advanced } else { Ok(()) }
    }

    /// Frees columns that were filled as sessions ran, until what is kept beside those of the
    /// session that was challenged last is within the limit. An audit goes on from them: whoever
    /// uses the server meanwhile, with a chat or an audit of his own, must not make each of its
    /// challenges compute them again.
    fn limit_columns(&mut self) {
        let others = self.sessions.iter().filter(|(name, _)| Some(**name) != self.challenged);
        let kept = others.map(|(name, session)| (*name, session.kept_bytes())).collect();
        for name in to_free(kept, self.column_bytes) {
            if let Some(session) = self.sessions.get_mut(&name) {
                session.forget_served();
            }
        }
    }

    /// Chooses a token from each of some states, which go through the head as one batch.
    fn head_batch(&mut self, items: Vec<HeadItem>) -> Vec<(usize, Done)> {
        let outcomes = match self.run_head(&items) {
            Ok(rows) => {
                let choose = |(item, row)| self.choose(item, row);
                items.iter().zip(rows).map(choose).collect()
            }
            Err(refusal) => vec![Outcome::Refused(refusal); items.len()],
        };
        let done =
            |(item, outcome): (HeadItem, _)| (item.index, Done { session: item.session, outcome });
        items.into_iter().zip(outcomes).map(done).collect()
    }

    /// Computes the logits of some states, in their order.
    fn run_head(&mut self, items: &[HeadItem]) -> Result<Vec<Result<Vec<f32>, Overflow>>, Refusal> {
        let head = self.weights.head.as_ref().ok_or(Refusal::UnknownSession)?;
        let (mut rows, mut state) = (Vec::with_capacity(items.len()), State::default());
        for (slot, item) in items.iter().enumerate() {
            let place = Place { slot, position: item.position as usize };
            rows.push(Row { place, feeds_head: true });
            state.append(&item.state);
        }
        let state = self.ops.device().put_state(state).map_err(failed)?;
        let all = logits(&self.ops, head, &rows, &state, &mut self.scratch, &mut ());
        let all = all.map_err(failed)?;
        if all.len() != items.len() {
            return Err(internal(Broken::new("not one row of logits for each state")));
        }
        Ok(all)
    }

    /// Samples the token of one state from its logits.
    fn choose(&mut self, item: &HeadItem, row: Result<Vec<f32>, Overflow>) -> Outcome {
        let session = self.sessions.get_mut(&item.session);
        let session = session.and_then(|session| Some((session.request()?, session)));
        let Some((request, session)) = session else {
            return Outcome::Refused(Refusal::UnknownSession);
        };
        let bytes = item.state.to_bytes();
        let history = History { prompt: &request.prompt, answer: session.answer_so_far() };
        let sampled = row.and_then(|row| sample(&row, &request.sampling, history, None));
        // default: where it overflows the head gives no token
        let sampled = sampled.ok();
        session.sampled(&bytes, sampled);
        Outcome::Sampled { input: Digest::of(&bytes), token: sampled }
    }
}

impl<O: Backend> Execute for Executor<O> {
    fn run(&mut self, job: Job) -> Vec<Done> {
        let mut answers: BTreeMap<usize, Done> = BTreeMap::new();
        let mut steps: Vec<(usize, Item)> = Vec::new();
        let mut heads: Vec<HeadItem> = Vec::new();
        for (index, Item { session, work }) in job.items.into_iter().enumerate() {
            match (work, self.sessions.contains_key(&session)) {
                (Work::Head { position, state }, true) => {
                    heads.push(HeadItem { index, session, position, state });
                }
                (work @ (Work::Tokens { .. } | Work::States { .. }), true) => {
                    steps.push((index, Item { session, work }));
                }
                (work, _) => {
                    let outcome = self.single(session, work);
                    answers.insert(index, Done { session, outcome });
                }
            }
        }
        while !heads.is_empty() {
            let rest = heads.split_off(heads.len().min(HEAD_ROWS));
            answers.extend(self.head_batch(std::mem::replace(&mut heads, rest)));
        }
        answers.extend(self.run_steps(steps));
        answers.into_values().collect()
    }
}

/// A state from which the head is to choose a token.
struct HeadItem {
    /// The place of the item in its job.
    index: usize,
    session: Digest,
    position: u32,
    /// One row.
    state: State,
}

/// Which sessions' columns go so that at most `limit` bytes are kept: the largest first.
fn to_free(mut kept: Vec<(Digest, usize)>, limit: usize) -> Vec<Digest> {
    let mut total: usize = kept.iter().map(|(_, bytes)| bytes).sum();
    kept.sort_by_key(|(_, bytes)| *bytes);
    let mut free = Vec::new();
    while total > limit {
        let Some((name, bytes)) = kept.pop() else { break };
        total -= bytes;
        free.push(name);
    }
    free
}

/// What the server says of work that an invariant of its own program stops.
fn internal(broken: Broken) -> Refusal {
    error!(%broken, "work can't be done");
    broken.into()
}

/// The refusal of work that the device failed in.
fn failed(error: impl fmt::Display) -> Refusal {
    error!(%error, "the device that computes has failed");
    Refusal::ExecutorFailed
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lockstep_exact::reference::Reference;
    use lockstep_testing::tiny_model::TinyModel;
    use lockstep_verify::challenge::Target;
    use lockstep_verify::request::{Hop, Lease};
    use lockstep_verify::sign::{NodeId, Signature};
    use lockstep_verify::statement::RunId;

    use super::*;
    use crate::limits::REBUILD_PASSES;

    const SESSION: Digest = Digest([5; 32]);

    /// An executor with one session, which has finished.
    fn finished(model: &TinyModel) -> Executor<Reference> {
        let manifest = &model.manifest;
        let layers = manifest.layers.len() as u32;
        let weights = Weights::load(&Reference, manifest, 0..layers, |index| model.blob(index));
        let mut executor = Executor::new(Reference, manifest, weights.expect("weights"));
        begin(&mut executor, SESSION, model);
        for work in [Work::Tokens { position: 0, ids: vec![1, 2, 3, 4, 5, 6] }, Work::Finish] {
            let outcome = run(&mut executor, work);
            assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        }
        executor
    }

    /// Begins a session over all layers.
    fn begin(executor: &mut Executor<Reference>, session: Digest, model: &TinyModel) {
        let (node, end) = (NodeId([1; 32]), model.manifest.layers.len() as u32);
        let lease = Lease {
            session,
            epoch: 0,
            manifest: model.manifest.id(),
            adapters: Vec::new(),
            reuse: None,
            session_key: node,
            prompt_len: 6,
            max_positions: 1_000,
            route: vec![Hop { node, first: 0, end }],
            addresses: Vec::new(),
            signature: Signature::NONE,
        };
        let work = Work::Begin { lease: Arc::new(lease), stage: 0, request: None };
        assert!(matches!(run_of(executor, session, work), Outcome::Begun));
    }

    fn run(executor: &mut Executor<Reference>, work: Work) -> Outcome {
        run_of(executor, SESSION, work)
    }

    fn run_of(executor: &mut Executor<Reference>, session: Digest, work: Work) -> Outcome {
        let items = vec![Item { session, work }];
        executor.run(Job { id: 0, items }).remove(0).outcome
    }

    #[test]
    fn layers_that_are_not_held_are_an_error_and_never_a_state_that_went_through_none() {
        let model = TinyModel::new(3);
        let mut executor = finished(&model);
        let session = Digest([6; 32]);
        begin(&mut executor, session, &model);
        executor.weights.layers.clear();
        is_internal(|| run_of(&mut executor, session, tokens()));
    }

    #[test]
    fn tokens_are_an_error_where_nothing_embeds_them() {
        let model = TinyModel::new(3);
        let mut executor = finished(&model);
        let session = Digest([6; 32]);
        begin(&mut executor, session, &model);
        executor.weights.head = None;
        is_internal(|| run_of(&mut executor, session, tokens()));
    }

    #[test]
    fn a_challenge_is_an_error_where_the_sessions_layers_are_gone() {
        let model = TinyModel::new(3);
        let mut executor = finished(&model);
        executor.weights.layers.clear();
        let target = Target::Layer { layer: 0, first: 0, end: 5, positions: vec![1, 4] };
        let (run, receipt, signature) = (RunId::NONE, Digest::ZERO, Signature::NONE);
        let challenge = Challenge { session: SESSION, run, receipt, target, signature };
        let challenge = Arc::new(challenge);
        is_internal(|| run_of(&mut executor, SESSION, Work::Answer { challenge }));
    }

    fn tokens() -> Work {
        Work::Tokens { position: 0, ids: vec![1, 2, 3] }
    }

    /// A broken invariant is loud with debug assertions, and a refusal without.
    fn is_internal(work: impl FnOnce() -> Outcome) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        assert_eq!(outcome.is_err(), cfg!(debug_assertions), "a server that serves never panics");
        if let Ok(outcome) = outcome {
            assert!(matches!(outcome, Outcome::Refused(Refusal::Internal)), "{outcome:?}");
        }
    }

    /// Has a cell of a layer opened; says whether it was.
    fn is_opened(executor: &mut Executor<Reference>, layer: u32) -> bool {
        let target = Target::Layer { layer, first: 0, end: 5, positions: vec![1, 4] };
        let challenge = Challenge {
            session: SESSION,
            run: RunId::NONE,
            receipt: Digest::ZERO,
            target,
            signature: Signature::NONE,
        };
        opened(executor, SESSION, challenge).is_some()
    }

    /// The opening that answers a challenge, however many slices it takes.
    fn opened(
        executor: &mut Executor<Reference>,
        session: Digest,
        challenge: Challenge,
    ) -> Option<Vec<u8>> {
        let mut challenge = Arc::new(challenge);
        loop {
            match run_of(executor, session, Work::Answer { challenge }) {
                Outcome::Answered(body) => return Some(body),
                Outcome::Refused(Refusal::ChallengeLimit) => return None,
                Outcome::Unfinished(unfinished) => challenge = unfinished,
                other => panic!("{other:?}"),
            }
        }
    }

    /// An executor with sessions of so many positions, which have finished.
    fn served(model: &TinyModel, names: &[u8], positions: u32) -> Executor<Reference> {
        let manifest = &model.manifest;
        let layers = manifest.layers.len() as u32;
        let weights = Weights::load(&Reference, manifest, 0..layers, |index| model.blob(index));
        let mut executor = Executor::new(Reference, manifest, weights.expect("weights"));
        for session in names.iter().map(|name| Digest([*name; 32])) {
            begin(&mut executor, session, model);
            for first in (0..positions).step_by(100) {
                let ids = (first..positions.min(first + 100)).map(|id| (id + 7) % 20).collect();
                let work = Work::Tokens { position: first, ids };
                assert!(matches!(run_of(&mut executor, session, work), Outcome::Forwarded(_)));
            }
            run_of(&mut executor, session, Work::Finish);
        }
        executor
    }

    /// The same after their columns went, with room to rebuild a layer of so many at once.
    fn long(model: &TinyModel, names: &[u8], positions: u32, room: u64) -> Executor<Reference> {
        let mut executor = served(model, names, positions);
        executor.sessions.values_mut().for_each(Session::forget_served);
        let bytes = executor.sessions.values().map(Session::rebuild_bytes).max();
        executor.with_rebuild_room(bytes.expect("a session") * room)
    }

    fn cell(session: Digest, layer: u32) -> Challenge {
        Challenge {
            session,
            run: RunId::NONE,
            receipt: Digest::ZERO,
            target: Target::Layer { layer, first: 0, end: 5, positions: vec![1, 4] },
            signature: Signature::NONE,
        }
    }

    /// Whether the next slice leaves the challenge unfinished.
    fn is_unfinished(executor: &mut Executor<Reference>, name: u8, layer: u32) -> bool {
        let challenge = Arc::new(cell(Digest([name; 32]), layer));
        let outcome = run_of(executor, Digest([name; 32]), Work::Answer { challenge });
        matches!(outcome, Outcome::Unfinished(_))
    }

    fn rebuilt_bytes(executor: &Executor<Reference>) -> Vec<u64> {
        executor.sessions.values().map(Session::rebuilt_bytes).collect()
    }

    #[test]
    fn an_opening_in_slices_is_the_one_from_the_columns_as_they_were_served() {
        let model = TinyModel::new(3);
        let (layers, positions) = (model.manifest.layers.len() as u32, 385);
        let mut sliced = long(&model, &[5], positions, 1);
        let mut whole = served(&model, &[5], positions);
        let session = SESSION;
        for layer in [layers - 1, 0, 1] {
            let mut slices = 0;
            while is_unfinished(&mut sliced, 5, layer) {
                slices += 1;
            }
            // 4 chunks of each layer, as many in a slice as there are layers.
            let again = if layer == 1 { 1 } else { layer + 1 };
            assert_eq!(slices, (4 * again).div_ceil(layers), "layer {layer}");
            let opening = opened(&mut sliced, session, cell(session, layer));
            assert!(opening.is_some());
            assert_eq!(opening, opened(&mut whole, session, cell(session, layer)));
            let left = whole.sessions[&session].rebuilds();
            assert_eq!(left, REBUILD_PASSES * layers, "nothing was run again");
        }
    }

    #[test]
    fn rebuilds_wait_for_room_and_lend_their_turns_to_the_one_before() {
        let model = TinyModel::new(3);
        let last = model.manifest.layers.len() as u32 - 1;
        let mut executor = long(&model, &[5, 6, 7], 257, 2);
        let one = executor.sessions[&SESSION].rebuild_bytes();
        // The third waits: there is room for two.
        for name in [5, 6, 7] {
            assert!(is_unfinished(&mut executor, name, last));
        }
        assert_eq!(rebuilt_bytes(&executor), [one, one, 0]);
        // What it lends finishes the first, which nobody else goes on with.
        let mut lent = 1;
        while executor.sessions[&SESSION].rebuilds_layer(last) {
            assert!(is_unfinished(&mut executor, 7, last));
            lent += 1;
            assert!(lent < 10, "no turn is lent");
        }
        assert_eq!(lent, 2, "3 slices, one of them in its own turn");
        // Its columns are there until they are opened, and then make room.
        assert!(is_unfinished(&mut executor, 7, last));
        assert_eq!(rebuilt_bytes(&executor), [one, one, 0]);
        assert!(!is_unfinished(&mut executor, 5, last), "answered");
        assert!(is_unfinished(&mut executor, 7, last));
        assert_eq!(rebuilt_bytes(&executor), [0, one, one]);
    }

    #[test]
    fn what_is_forgotten_or_dropped_in_the_middle_leaves_its_room() {
        let model = TinyModel::new(3);
        let last = model.manifest.layers.len() as u32 - 1;
        let mut executor = long(&model, &[5, 6, 7], 130, 1);
        let one = executor.sessions[&SESSION].rebuild_bytes();
        for name in [5, 6, 7] {
            assert!(is_unfinished(&mut executor, name, last));
        }
        assert_eq!(rebuilt_bytes(&executor), [one, 0, 0]);
        assert!(matches!(run(&mut executor, Work::Forget), Outcome::Forgotten));
        assert_eq!(rebuilt_bytes(&executor), [0, 0, 0]);
        // Those that waited have their turn, in order.
        assert!(is_unfinished(&mut executor, 7, last));
        assert_eq!(rebuilt_bytes(&executor), [0, 0, 0], "it is not the next");
        assert!(is_unfinished(&mut executor, 6, last));
        assert_eq!(rebuilt_bytes(&executor), [0, one, 0]);
        assert!(matches!(run_of(&mut executor, Digest([6; 32]), Work::Drop), Outcome::Dropped));
        assert!(is_unfinished(&mut executor, 7, last));
        assert_eq!(rebuilt_bytes(&executor), [0, one]);
        assert!(opened(&mut executor, Digest([7; 32]), cell(Digest([7; 32]), last)).is_some());
    }

    #[test]
    fn layers_are_run_again_for_challenges_only_as_often_as_was_paid_for() {
        let model = TinyModel::new(3);
        let layers = model.manifest.layers.len() as u32;
        let mut executor = finished(&model);
        let left = |executor: &Executor<Reference>| executor.sessions[&SESSION].rebuilds();
        // While the columns are there, nothing is run again.
        for layer in (0..layers).rev() {
            assert!(is_opened(&mut executor, layer));
        }
        assert_eq!(left(&executor), REBUILD_PASSES * layers);
        // An audit takes the layers in their order, and so runs each once.
        executor.sessions.get_mut(&SESSION).expect("kept").forget_served();
        for layer in 0..layers {
            assert!(is_opened(&mut executor, layer) && is_opened(&mut executor, layer));
        }
        assert_eq!(left(&executor), (REBUILD_PASSES - 1) * layers);
        // To and fro between the ends costs all layers each time.
        for _ in 1..REBUILD_PASSES {
            assert!(is_opened(&mut executor, 0) && is_opened(&mut executor, layers - 1));
        }
        assert_eq!(left(&executor), 0);
        assert!(!is_opened(&mut executor, 0), "refused");
        assert!(is_opened(&mut executor, layers - 1), "what is there is opened all the same");
    }

    #[test]
    fn what_others_do_meanwhile_does_not_make_an_audit_run_its_layers_again() {
        let model = TinyModel::new(3);
        let layers = model.manifest.layers.len() as u32;
        let mut executor = finished(&model);
        executor.column_bytes = 0;
        let other = Digest([6; 32]);
        begin(&mut executor, other, &model);
        executor.sessions.get_mut(&SESSION).expect("kept").forget_served();
        for layer in 0..layers {
            for position in 0..2 {
                assert!(is_opened(&mut executor, layer));
                let ids = vec![1];
                let tokens = Work::Tokens { position: 2 * layer + position, ids };
                assert!(matches!(run_of(&mut executor, other, tokens), Outcome::Forwarded(_)));
            }
        }
        let left = executor.sessions[&SESSION].rebuilds();
        assert_eq!(left, (REBUILD_PASSES - 1) * layers, "each layer once");
        assert_eq!(executor.sessions[&other].kept_bytes(), 0, "beyond the limit");
    }

    #[test]
    fn the_largest_columns_are_freed_first() {
        let names = [1, 2, 3, 4].map(|byte| Digest([byte; 32]));
        let kept: Vec<_> = names.into_iter().zip([40, 10, 30, 20]).collect();
        let free = |limit| to_free(kept.clone(), limit);
        assert_eq!(free(100), []);
        assert_eq!(free(99), [names[0]]);
        assert_eq!(free(30), [names[0], names[2]]);
        assert_eq!(free(0), [names[0], names[2], names[3], names[1]]);
    }
}
