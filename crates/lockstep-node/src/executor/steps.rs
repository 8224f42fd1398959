//! The steps of a job: every layer takes the rows of all sessions that go through it as one batch.
//!
//! Sessions join a batch at the first layer of their span and leave it at the last, so that those
//! with different spans share what they have in common. Between two layers at which somebody joins
//! or leaves, the batch is one forward pass; where all have the same span there is one.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use lockstep_exact::Digest;
use lockstep_exact::forward::{Row, serve};
use lockstep_exact::invariant::Broken;
use lockstep_exact::kv::KvCache as _;
use lockstep_exact::ops::{Device as _, Host as _, Place, StateOf};
use lockstep_exact::state::State;
use lockstep_exact::weights::{Backend, HeadOf};
use lockstep_proto::failure::Refusal;
use lockstep_proto::job::{Done, Forwarded, Item, Outcome, Work};
use lockstep_verify::column::Recorder;
use lockstep_verify::statement::tokens_digest;

use super::session::Session;
use super::{Executor, failed, internal};

/// One session's step, while it goes through the layers.
struct Step<O: Backend> {
    /// The place of the item in its job.
    index: usize,
    name: Digest,
    session: Session<O>,
    /// The absolute position of each row, and whether it feeds the head.
    rows: Vec<(usize, bool)>,
    /// The rows as they left the last layer that they went through.
    state: State,
    /// The digest of what came in.
    input: Digest,
}

impl<O: Backend> Step<O> {
    /// Takes in what comes for a session: tokens, which are embedded, or states.
    ///
    /// # Errors
    /// The device has failed, or nothing embeds tokens here.
    fn receive(
        &mut self,
        device: &O::Device,
        head: Option<&HeadOf<O>>,
        work: &Work,
    ) -> Result<(), Refusal> {
        let mut embedded = StateOf::<O>::default();
        let (first, state, digest) = match work {
            Work::Tokens { position, ids } => {
                let head = head.ok_or_else(|| internal(Broken::new("tokens without a head")))?;
                device.embed(&head.embedding, head.embedding_scale, ids, &mut embedded);
                let rows = device.read_state(&embedded).map_err(failed)?;
                self.session.receive_tokens(ids, &rows);
                (*position, rows, tokens_digest(ids))
            }
            Work::States { position, state } => {
                let bytes = state.to_bytes();
                self.session.receive_states(state.rows(), &bytes);
                (*position, Cow::Borrowed(state), Digest::of(&bytes))
            }
            _ => return Err(internal(Broken::new("a step without tokens or states"))),
        };
        let prompt_len = self.session.prompt_len();
        let row = |index: usize| {
            let position = first as usize + index;
            (position, position + 1 >= prompt_len)
        };
        self.rows = (0..state.rows()).map(row).collect();
        self.state = state.into_owned();
        self.input = digest;
        Ok(())
    }

    /// Whether the session runs these layers.
    fn covers(&self, layers: &Range<u32>) -> bool {
        let span = self.session.span();
        span.start <= layers.start && layers.end <= span.end
    }

    /// What the step has come to, after its last layer.
    fn forwarded(&self) -> Forwarded {
        let state = self.state.to_bytes();
        let output = if state.is_empty() { Digest::ZERO } else { Digest::of(&state) };
        Forwarded { state, input: self.input, output }
    }
}

impl<O: Backend> Executor<O> {
    /// Runs the steps of a job. If something fails, it fails for all of them.
    pub(super) fn run_steps(&mut self, items: Vec<(usize, Item)>) -> Vec<(usize, Done)> {
        let mut steps: Vec<Step<O>> = Vec::with_capacity(items.len());
        let mut done = Vec::new();
        let mut received = Ok(());
        for (index, Item { session: name, work }) in items {
            let Some(session) = self.sessions.remove(&name) else {
                let outcome = Outcome::Refused(Refusal::UnknownSession);
                done.push((index, Done { session: name, outcome }));
                continue;
            };
            let (state, input) = (State::default(), Digest::ZERO);
            let mut step = Step { index, name, session, rows: Vec::new(), state, input };
            let head = self.weights.head.as_ref();
            received = received.and_then(|()| step.receive(self.ops.device(), head, &work));
            steps.push(step);
        }
        let ran = received.and_then(|()| self.through_layers(&mut steps));
        for step in steps {
            let outcome = match &ran {
                Ok(()) => Outcome::Forwarded(step.forwarded()),
                Err(refusal) => Outcome::Refused(*refusal),
            };
            self.sessions.insert(step.name, step.session);
            done.push((step.index, Done { session: step.name, outcome }));
        }
        self.limit_columns();
        done
    }

    /// Runs steps through the layers of their spans.
    fn through_layers(&mut self, steps: &mut [Step<O>]) -> Result<(), Refusal> {
        let mut ends: BTreeSet<u32> = BTreeSet::new();
        for step in steps.iter() {
            let span = step.session.span();
            // A session is begun only for layers that are held. Were it otherwise, no layer would
            // run, and this server would sign what came in as what went out.
            if self.weights.part(&span).is_none() {
                return Err(internal(Broken::new("a session's layers are not held")));
            }
            ends.extend([span.start, span.end]);
        }
        let ends: Vec<u32> = ends.into_iter().collect();
        for pair in ends.windows(2) {
            let &[first, end] = pair else { continue };
            let mut batch: Vec<&mut Step<O>> =
                steps.iter_mut().filter(|step| step.covers(&(first..end))).collect();
            if !batch.is_empty() {
                self.run_layers(first..end, &mut batch)?;
            }
        }
        Ok(())
    }

    /// Runs some layers, which all of these steps go through, over their rows as one batch.
    fn run_layers(
        &mut self,
        layers: Range<u32>,
        steps: &mut [&mut Step<O>],
    ) -> Result<(), Refusal> {
        let weights = self.weights.part(&layers);
        let weights = weights.ok_or_else(|| internal(Broken::new("layers are not held")))?;
        let (mut rows, mut state) = (Vec::new(), State::default());
        for (slot, step) in steps.iter_mut().enumerate() {
            for &(position, feeds_head) in &step.rows {
                rows.push(Row { place: Place { slot, position }, feeds_head });
            }
            state.append(&std::mem::take(&mut step.state));
        }
        let mut caches = Vec::with_capacity(steps.len());
        let mut columns = Vec::with_capacity(steps.len());
        for step in steps.iter_mut() {
            let below = layers.start.saturating_sub(step.session.span().start);
            let (cache, session_columns) = step.session.running();
            cache.enter(below as usize);
            caches.push(cache);
            columns.push(session_columns);
        }
        let mut recorder = Recorder::new(&mut columns);
        let device = self.ops.device();
        let state = device.put_state(state).map_err(failed)?;
        let (ops, scratch) = (&self.ops, &mut self.scratch);
        let out = serve(ops, weights, &rows, &mut caches, state, scratch, &mut recorder);
        let out = out.map_err(failed)?;
        recorder.finish().map_err(internal)?;
        let out = device.read_state(&out).map_err(failed)?;
        if layers.end == self.model_layers {
            steps.iter_mut().for_each(|step| step.rows.retain(|(_, feeds_head)| *feeds_head));
        }
        if out.rows() != steps.iter().map(|step| step.rows.len()).sum::<usize>() {
            return Err(internal(Broken::new("not one state for each row")));
        }
        let mut first = 0;
        for step in steps {
            let end = first + step.rows.len();
            step.state = out.select(&(first..end).collect::<Vec<_>>());
            first = end;
        }
        Ok(())
    }
}
