//! A ring in this process, without protocol or signatures: the executor that servers run, driven
//! through any split, any chunks of the prompt and any number of sessions in one forward batch.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use lockstep_exact::Digest;
use lockstep_exact::blob::Blob;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::sample::{Sampling, Stops};
use lockstep_exact::state::State;
use lockstep_exact::weights::Backend;
use lockstep_node::executor::{Executor, Weights};
use lockstep_proto::job::{Execute, Item, Job, Outcome, Work};
use lockstep_verify::request::{AuditSeed, Hop, Lease, Request};
use lockstep_verify::secret::Secret;
use lockstep_verify::sign::Keypair;
use lockstep_verify::statement::LayerRoots;

/// A prompt, and how many tokens the answer has.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) prompt: Vec<u32>,
    pub(crate) tokens: usize,
}

/// What must be the same however it was computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) tokens: Vec<u32>,
    /// The roots of the columns of every layer.
    pub(crate) roots: Vec<LayerRoots>,
}

/// One executor that holds all layers and plays every stage in turn.
pub(crate) struct Line<O: Backend<Error = Infallible>> {
    executor: Executor<O>,
    manifest: Manifest,
    jobs: u64,
}

/// A session under way.
struct Session {
    ask: Ask,
    request: Arc<Request>,
    answer: Vec<u32>,
    /// Positions that have gone round.
    covered: usize,
}

impl Session {
    /// The name of the session in a stage: all stages live in one executor.
    fn name(&self, stage: usize) -> Digest {
        Digest::derive("test stage", &[&self.request.session().0, &[stage as u8]])
    }

    /// The tokens of the next step, none at the end.
    fn step(&self, chunk: usize) -> &[u32] {
        match self.ask.prompt.get(self.covered..) {
            Some(rest) if !rest.is_empty() => &rest[..rest.len().min(chunk)],
            _ if self.answer.len() < self.ask.tokens => &self.answer[self.answer.len() - 1..],
            _ => &[],
        }
    }
}

impl<O: Backend<Error = Infallible>> Line<O> {
    pub(crate) fn new(ops: O, manifest: &Manifest, blob: impl FnMut(u32) -> Blob) -> Self {
        let span = 0..manifest.layers.len() as u32;
        let weights = Weights::load(&ops, manifest, span, blob).unwrap();
        let executor = Executor::new(ops, manifest, weights);
        Self { executor, manifest: manifest.clone(), jobs: 0 }
    }

    /// Answers all at once: every step takes one chunk, or one token, of each session through the
    /// stages that begin at layer 0 and at `cuts`.
    pub(crate) fn run(&mut self, asks: &[Ask], cuts: &[u32], chunk: usize) -> Vec<Answer> {
        let bounds = [&[0], cuts, &[self.manifest.layers.len() as u32]].concat();
        let spans: Vec<Range<u32>> = bounds.windows(2).map(|pair| pair[0]..pair[1]).collect();
        let route: Vec<Hop> = (0..)
            .zip(&spans)
            .map(|(stage, span)| Hop { node: node(stage), first: span.start, end: span.end })
            .collect();
        let mut sessions: Vec<Session> =
            (0..).zip(asks).map(|(nonce, ask)| self.session(nonce, ask)).collect();
        for stage in 0..route.len() {
            self.begin(&sessions, &route, stage);
        }
        while self.step(&mut sessions, route.len(), chunk) {}
        let mut answers: Vec<Answer> = sessions
            .iter()
            .map(|session| Answer { tokens: session.answer.clone(), roots: Vec::new() })
            .collect();
        for stage in 0..route.len() {
            self.finish(&sessions, stage, &mut answers);
        }
        assert_eq!(self.executor.sessions(), 0);
        answers
    }

    /// Answers one alone, in one stage and one chunk.
    pub(crate) fn alone(&mut self, ask: &Ask) -> Answer {
        self.run(std::slice::from_ref(ask), &[], usize::MAX).remove(0)
    }

    fn session(&self, nonce: u8, ask: &Ask) -> Session {
        let max_tokens = ask.tokens as u32;
        let request = Request {
            manifest: self.manifest.id(),
            adapters: Vec::new(),
            prompt: ask.prompt.clone(),
            sampling: Sampling::default(),
            stops: Stops { max_tokens, ignore_end: true, strings: Vec::new() },
            nonce: [nonce; 32],
            session_key: node(255),
            audit_commitment: AuditSeed::new(Secret::of(&[1; 32])).commitment(),
        };
        let request = Arc::new(request);
        Session { ask: ask.clone(), request, answer: Vec::new(), covered: 0 }
    }

    fn begin(&mut self, sessions: &[Session], route: &[Hop], stage: usize) {
        let begin = |session: &Session| {
            let request = &session.request;
            let lease = Lease {
                session: request.session(),
                epoch: 0,
                manifest: request.manifest,
                adapters: Vec::new(),
                reuse: None,
                session_key: request.session_key,
                prompt_len: request.prompt.len() as u32,
                max_positions: (request.prompt.len() + session.ask.tokens) as u32,
                route: route.to_vec(),
                addresses: vec![String::new(); route.len()],
                signature: lockstep_verify::sign::Signature::NONE,
            };
            let request = (stage == 0).then(|| Arc::clone(request));
            Work::Begin { lease: Arc::new(lease), stage, request }
        };
        let works = sessions.iter().map(|session| (session.name(stage), begin(session)));
        for outcome in self.job(works.collect()) {
            assert!(matches!(outcome, Outcome::Begun), "{outcome:?}");
        }
    }

    /// Takes every session one step further; false when all are at their end.
    fn step(&mut self, sessions: &mut [Session], stages: usize, chunk: usize) -> bool {
        let mut live: Vec<&mut Session> =
            sessions.iter_mut().filter(|session| !session.step(chunk).is_empty()).collect();
        if live.is_empty() {
            return false;
        }
        let mut works: Vec<Work> = live
            .iter()
            .map(|session| Work::Tokens {
                position: session.covered as u32,
                ids: session.step(chunk).to_vec(),
            })
            .collect();
        let hidden = self.manifest.hidden as usize;
        for stage in 0..stages {
            let named = live.iter().map(|session| session.name(stage)).zip(works).collect();
            let states = self.job(named).into_iter().map(|outcome| match outcome {
                Outcome::Forwarded(forwarded) => State::parse(hidden, &forwarded.state).unwrap(),
                other => panic!("{other:?}"),
            });
            works = live
                .iter()
                .zip(states)
                .map(|(session, state)| Work::States { position: session.covered as u32, state })
                .collect();
        }
        let mut heads = Vec::new();
        for (session, work) in live.iter_mut().zip(works) {
            session.covered += session.step(chunk).len();
            let Work::States { state, .. } = work else { unreachable!("states were made above") };
            if session.covered >= session.ask.prompt.len() {
                assert_eq!(state.rows(), 1);
                let position = session.covered as u32 - 1;
                heads.push((session.name(0), Work::Head { position, state }));
            }
        }
        let at_head = live.iter_mut().filter(|s| s.covered >= s.ask.prompt.len());
        for (session, outcome) in at_head.zip(self.job(heads)) {
            match outcome {
                Outcome::Sampled { token: Some(token), .. } => session.answer.push(token),
                other => panic!("{other:?}"),
            }
        }
        true
    }

    fn finish(&mut self, sessions: &[Session], stage: usize, answers: &mut [Answer]) {
        let all = |work: Work| sessions.iter().map(|s| (s.name(stage), work.clone())).collect();
        for (outcome, answer) in self.job(all(Work::Finish)).into_iter().zip(answers) {
            match outcome {
                Outcome::Rooted { layers, .. } => answer.roots.extend(layers),
                other => panic!("{other:?}"),
            }
        }
        self.job(all(Work::Drop));
    }

    fn job(&mut self, works: Vec<(Digest, Work)>) -> Vec<Outcome> {
        let items = works.into_iter().map(|(session, work)| Item { session, work }).collect();
        let id = self.jobs;
        self.jobs += 1;
        self.executor.run(Job { id, items }).into_iter().map(|done| done.outcome).collect()
    }
}

fn node(place: u8) -> lockstep_verify::sign::NodeId {
    Keypair::from_secret(&[place; 32]).id()
}
