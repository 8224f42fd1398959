//! An executor that lies about what it did: the lies that operations and weights cannot tell.
//!
//! It runs items one by one, which cannot change a bit, and changes what goes in or comes out.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lockstep_exact::Digest;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::state::State;
use lockstep_proto::failure::Refusal;
use lockstep_proto::job::{Done, Execute, Forwarded, Item, Job, Outcome, Work};
use lockstep_verify::challenge::Challenge;
use lockstep_verify::column::{Columns, Keep};
use lockstep_verify::statement::{LayerRoots, tokens_digest};

use super::openings::{About, Openings};
use super::session::{Embedding, Session};
use super::states;
use crate::lie::{Lie, Script};

/// An executor and what it lies about.
pub struct LyingExecutor<E> {
    inner: E,
    script: Option<Script>,
    manifest: Arc<Manifest>,
    embedding: Option<Embedding>,
    /// Told to the operations: the position whose logits come next.
    head: Arc<AtomicU32>,
    sessions: BTreeMap<Digest, Session>,
    openings: Openings,
}

/// What is known of an item before it runs.
enum Asked {
    Answer(Arc<Challenge>),
    Forward { first: u32, count: u32, input: Digest },
    Head { position: u32 },
    Other,
}

impl<E: Execute> LyingExecutor<E> {
    /// Wraps an executor; without a script it is that executor.
    pub fn new(
        inner: E,
        script: Option<Script>,
        manifest: Arc<Manifest>,
        embedding: Option<Embedding>,
        head: Arc<AtomicU32>,
    ) -> Self {
        Self {
            inner,
            script,
            manifest,
            embedding,
            head,
            sessions: BTreeMap::new(),
            openings: Openings::default(),
        }
    }

    /// Returns the executor that is wrapped.
    pub const fn inner(&mut self) -> &mut E {
        &mut self.inner
    }

    fn tells(&self, lie: Lie) -> bool {
        self.script.is_some_and(|script| script.lie == lie)
    }

    fn single(&mut self, session: Digest, work: Work) -> Outcome {
        let (asked, work) = self.before(session, work);
        let job = Job { id: 0, items: vec![Item { session, work }] };
        let done = self.inner.run(job).pop();
        let outcome = done.map_or(Outcome::Refused(Refusal::ExecutorFailed), |done| done.outcome);
        match self.script {
            Some(script) => self.after(script, session, asked, outcome),
            None => outcome,
        }
    }

    /// Remembers the item and changes what goes in.
    fn before(&mut self, session: Digest, work: Work) -> (Asked, Work) {
        match work {
            Work::Begin { lease, stage, request } => {
                let hop = lease.route.get(stage);
                let span = hop.map_or(0..0, |hop| hop.first..hop.end);
                let seen = Session { span, tokens: Vec::new(), positions: 0 };
                self.sessions.insert(session, seen);
                let request = match request {
                    Some(mut request) if self.tells(Lie::IgnoredSeed) => {
                        Arc::make_mut(&mut request).sampling.seed ^= 0x5eed;
                        Some(request)
                    }
                    request => request,
                };
                (Asked::Other, Work::Begin { lease, stage, request })
            }
            Work::Tokens { position, ids } => self.before_tokens(session, position, ids),
            Work::States { position, state } => self.before_states(session, position, state),
            Work::Head { position, state } => {
                self.head.store(position, Ordering::Relaxed);
                (Asked::Head { position }, Work::Head { position, state })
            }
            Work::Answer { challenge } => {
                let work = self.before_answer(session, &challenge);
                (Asked::Answer(challenge), work)
            }
            work @ (Work::Drop | Work::Finish | Work::Forget) => (Asked::Other, work),
        }
    }

    fn before_tokens(&mut self, session: Digest, first: u32, ids: Vec<u32>) -> (Asked, Work) {
        let count = ids.len() as u32;
        if let Some(seen) = self.sessions.get_mut(&session) {
            seen.tokens.extend(&ids);
            seen.positions = first + count;
        }
        let asked = Asked::Forward { first, count, input: tokens_digest(&ids) };
        let mut ids = ids;
        if let Some(script) = self.script.filter(|script| script.lie == Lie::AnotherPrompt) {
            let before = script.aim.position.saturating_sub(first) as usize;
            for id in ids.iter_mut().take(before) {
                *id = (*id + 1) % self.manifest.vocabulary;
            }
        }
        let lies = self.tells(Lie::WrongEmbedding) || self.tells(Lie::HiddenEmbedding);
        if let Some(script) = self.script.filter(|_| lies)
            && let Some(at) = script.aim.position.checked_sub(first)
            && let Some(id) = ids.get_mut(at as usize)
        {
            *id = (*id + 1) % self.manifest.vocabulary;
        }
        (asked, Work::Tokens { position: first, ids })
    }

    fn before_states(&mut self, session: Digest, first: u32, state: State) -> (Asked, Work) {
        let count = state.rows() as u32;
        if let Some(seen) = self.sessions.get_mut(&session) {
            seen.positions = first + count;
        }
        let asked = Asked::Forward { first, count, input: Digest::of(&state.to_bytes()) };
        let mut state = state;
        if let Some(script) = self.script.filter(|script| script.lie == Lie::ReceivesOther)
            && (first..first + count).contains(&script.aim.position)
        {
            states::flip_bit(&mut state, (script.aim.position - first) as usize);
        }
        (asked, Work::States { position: first, state })
    }

    /// The challenge that is really answered.
    fn before_answer(&self, session: Digest, challenge: &Arc<Challenge>) -> Work {
        let changed = self.script.zip(self.sessions.get(&session)).and_then(|(script, seen)| {
            let target = Openings::other_target(script, seen, &challenge.target)?;
            Some(Arc::new(Challenge { target, ..Challenge::clone(challenge) }))
        });
        Work::Answer { challenge: changed.unwrap_or_else(|| Arc::clone(challenge)) }
    }

    /// Changes what comes out.
    fn after(
        &mut self,
        script: Script,
        session: Digest,
        asked: Asked,
        outcome: Outcome,
    ) -> Outcome {
        let Some(seen) = self.sessions.get(&session) else { return outcome };
        match (asked, outcome) {
            (Asked::Forward { first, count, input }, Outcome::Forwarded(done)) => {
                let positions = first..first + count;
                let done = Forwarded { input, ..done };
                Outcome::Forwarded(self.forwarded(script, positions, done))
            }
            (Asked::Head { position }, Outcome::Sampled { input, token })
                if position >= script.aim.position =>
            {
                let token = match script.lie {
                    Lie::EarlyEnd => self.manifest.end_tokens.first().copied(),
                    Lie::FalseOverflow => None,
                    Lie::IgnoredOverflow => token.or(Some(0)),
                    _ => token,
                };
                Outcome::Sampled { input, token }
            }
            (Asked::Other, Outcome::Rooted { input_root, layers }) => {
                self.rooted(script, seen, input_root, layers)
            }
            // It goes on with what was asked, of which the next slice makes the same again.
            (Asked::Answer(challenge), Outcome::Unfinished(_)) => Outcome::Unfinished(challenge),
            (Asked::Answer(_), Outcome::Answered(_)) if script.lie == Lie::Withheld => {
                Outcome::Refused(Refusal::ExecutorFailed)
            }
            (Asked::Answer(challenge), Outcome::Answered(body)) => {
                let plan = self.manifest.layers.get(script.aim.layer as usize);
                let Some(plan) = plan else { return Outcome::Answered(body) };
                let about = About {
                    session,
                    target: &challenge.target,
                    shape: plan.parts.qkv.shape(),
                    seen,
                    embedding: self.embedding.as_ref(),
                };
                let body = self.openings.falsify(script, &about, body);
                Outcome::Answered(body)
            }
            (_, outcome) => outcome,
        }
    }

    fn forwarded(&self, script: Script, positions: Range<u32>, done: Forwarded) -> Forwarded {
        let mut done = done;
        let is_aimed = positions.contains(&script.aim.position) && !done.state.is_empty();
        if !is_aimed {
            return done;
        }
        let width = self.manifest.hidden as usize;
        match script.lie {
            Lie::NonCanonicalState => {
                // An exponent that no group has.
                let last = done.state.len() - 1;
                done.state[last] = 1;
                done.output = Digest::of(&done.state);
            }
            Lie::SendsOther => {
                if let Ok(mut state) = State::parse(width, &done.state) {
                    let last = state.rows() - 1;
                    states::flip_bit(&mut state, last);
                    done.state = state.to_bytes();
                    done.output = Digest::of(&done.state);
                }
            }
            Lie::WrongMark => done.output.0[0] ^= 1,
            _ => {}
        }
        done
    }

    fn rooted(
        &self,
        script: Script,
        seen: &Session,
        input_root: Digest,
        layers: Vec<LayerRoots>,
    ) -> Outcome {
        let (mut input_root, mut layers) = (input_root, layers);
        let at = script.aim.layer.checked_sub(seen.span.start).map(|at| at as usize);
        let layer = at.and_then(|at| layers.get_mut(at));
        match (script.lie, layer) {
            (Lie::AnotherPrompt | Lie::HiddenEmbedding, _) => {
                if let Some(embedding) = &self.embedding {
                    let mut columns = Columns::new(0..0, Keep::Root);
                    columns.receive_embeddings(&embedding.rows(&seen.tokens));
                    input_root = columns.input.root();
                }
            }
            (Lie::OtherInputRoot, _) => input_root.0[0] ^= 1,
            (Lie::OtherKvRoot, Some(layer)) => layer.kv.0[0] ^= 1,
            (Lie::OtherStatesRoot, Some(layer)) => layer.states.0[0] ^= 1,
            _ => {}
        }
        Outcome::Rooted { input_root, layers }
    }
}

impl<E: Execute> Execute for LyingExecutor<E> {
    fn run(&mut self, job: Job) -> Vec<Done> {
        let each = job.items.into_iter().map(|Item { session, work }| {
            let outcome = self.single(session, work);
            Done { session, outcome }
        });
        each.collect()
    }
}
