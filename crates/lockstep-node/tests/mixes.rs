//! Whatever else is in a batch, however a prompt is cut, and whoever's turn it is: a session
//! computes the same bits as alone. Three executors stand for the stages of a ring, each with the
//! scheduler that a server has; what they hold overlaps, so that sessions with unlike spans meet in
//! one job. Seeds draw the model, the sessions and their spans, the budgets, when what happens, and
//! which sessions end early, wherever their work is then.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;

use lockstep_exact::Digest;
use lockstep_exact::reference::Reference;
use lockstep_exact::sample::{Sampling, Stops};
use lockstep_exact::state::{State, row_bytes};
use lockstep_exact::weights::Backend;
use lockstep_kernels::{Isa, Kernels};
use lockstep_node::executor::{Executor, Weights};
use lockstep_proto::job::{Done, Execute as _, Job, Outcome, Work};
use lockstep_proto::limits;
use lockstep_proto::schedule::Scheduler;
use lockstep_testing::numbers::Numbers;
use lockstep_testing::tiny_model::{Features, Sizes, TinyModel};
use lockstep_verify::request::{Hop, Lease, Request};
use lockstep_verify::sign::{NodeId, Signature};
use lockstep_verify::statement::LayerRoots;

const STAGES: usize = 3;
const TOKENS: usize = 5;

/// What a session is asked.
#[derive(Clone)]
struct Question {
    prompt: Vec<u32>,
    /// Positions of a chunk.
    chunk: usize,
    seed: u64,
    /// The layer after the last of each stage.
    ends: [u32; STAGES],
}

/// All that came of it.
#[derive(Debug, Default, PartialEq)]
struct Trace {
    /// The states that left each stage.
    states: [Vec<u8>; STAGES],
    /// What the head read and chose.
    samples: Vec<(Digest, Option<u32>)>,
    /// The roots that each stage would sign.
    roots: [Option<(Digest, Vec<LayerRoots>)>; STAGES],
}

/// A stage: what a server has beside its links.
struct Stage<O: Backend<Error = Infallible>> {
    executor: Executor<O>,
    scheduler: Scheduler,
    jobs: VecDeque<Job>,
}

/// What kinds of jobs there were.
#[derive(Debug, Default)]
struct Seen {
    /// With decode steps and chunks.
    mixed: usize,
    /// With chunks of several sessions.
    crowded: usize,
    /// That waited at the executor behind another one.
    behind: usize,
    /// With steps of sessions whose spans are not the same.
    unlike: usize,
    /// Heads of several sessions.
    heads: usize,
    /// Sessions that ended while their work waited at an executor behind another job.
    ended: usize,
}

struct World<O: Backend<Error = Infallible>> {
    hidden: usize,
    manifest: Digest,
    stages: [Stage<O>; STAGES],
    questions: Vec<Question>,
    traces: Vec<Trace>,
    /// Sessions that have ended early.
    ended: BTreeSet<usize>,
    seen: Seen,
}

fn name(number: usize) -> Digest {
    Digest([number as u8 + 1; 32])
}

impl<O: Backend<Error = Infallible>> World<O> {
    fn new(model: &TinyModel, ops: &impl Fn() -> O, budget: u32, questions: Vec<Question>) -> Self {
        let layers = model.manifest.layers.len() as u32;
        let stage = |span| {
            let blob = |index| model.blob(index);
            let weights = Weights::load(&ops(), &model.manifest, span, blob).expect("weights");
            let executor = Executor::new(ops(), &model.manifest, weights);
            Stage { executor, scheduler: Scheduler::new(budget), jobs: VecDeque::new() }
        };
        Self {
            hidden: model.manifest.hidden as usize,
            manifest: model.manifest.id(),
            stages: [stage(0..layers), stage(1..layers - 1), stage(2..layers)],
            traces: questions.iter().map(|_| Trace::default()).collect(),
            questions,
            ended: BTreeSet::new(),
            seen: Seen::default(),
        }
    }

    fn push(&mut self, stage: usize, session: Digest, work: Work) {
        self.stages[stage].scheduler.push(session, work).expect("room in the lane");
    }

    /// Opens a session at both stages and sends its prompt.
    fn begin(&mut self, number: usize) {
        let Question { prompt, chunk, seed, ends } = self.questions[number].clone();
        let (session, node) = (name(number), NodeId([9; 32]));
        let request = Arc::new(Request {
            manifest: self.manifest,
            adapters: Vec::new(),
            prompt: prompt.clone(),
            sampling: Sampling { seed, temperature: 0.9, ..Sampling::default() },
            stops: Stops::default(),
            nonce: [0; 32],
            session_key: node,
            audit_commitment: Digest::ZERO,
        });
        let lease = Arc::new(Lease {
            session,
            epoch: 0,
            manifest: self.manifest,
            adapters: Vec::new(),
            reuse: None,
            session_key: node,
            prompt_len: prompt.len() as u32,
            max_positions: 200,
            route: vec![
                Hop { node, first: 0, end: ends[0] },
                Hop { node: NodeId([8; 32]), first: ends[0], end: ends[1] },
                Hop { node: NodeId([7; 32]), first: ends[1], end: ends[2] },
            ],
            addresses: Vec::new(),
            signature: Signature::NONE,
        });
        for stage in 0..STAGES {
            let request = (stage == 0).then(|| Arc::clone(&request));
            let lease = Arc::clone(&lease);
            self.push(stage, session, Work::Begin { lease, stage, request });
        }
        for (index, ids) in prompt.chunks(chunk).enumerate() {
            let position = (index * chunk) as u32;
            self.push(0, session, Work::Tokens { position, ids: ids.to_vec() });
        }
    }

    /// Ends a session that has begun as a server does: what waits is forgotten, what is at an
    /// executor runs for nobody.
    fn end(&mut self, number: usize) {
        let is_done = self.traces[number].roots.iter().any(Option::is_some);
        if is_done || !self.ended.insert(number) {
            return;
        }
        let session = name(number);
        for stage in &mut self.stages {
            stage.scheduler.drop_session(session);
            let mut behind = stage.jobs.iter().skip(1).flat_map(|job| &job.items);
            self.seen.ended += usize::from(behind.any(|item| item.session == session));
        }
    }

    /// Ends a session whose work waits at a stage's executor behind another job, if there is one.
    fn end_behind(&mut self, stage: usize) {
        let behind = self.stages[stage].jobs.get(1).and_then(|job| job.items.last());
        let number = behind.map_or(0, |item| usize::from(item.session.0[0]) - 1);
        if number > 0 {
            self.end(number);
        }
    }

    /// Gives a stage's executor its next job, if there is one.
    fn schedule(&mut self, stage: usize) {
        let stage = &mut self.stages[stage];
        let Some(job) = stage.scheduler.next_job() else { return };
        let rows = job.items.iter().map(|item| match &item.work {
            Work::Head { .. } => 1,
            Work::States { state, .. } => state.rows(),
            Work::Tokens { ids, .. } => ids.len(),
            _ => 0,
        });
        let (steps, chunks) = rows.fold((0, 0), |(steps, chunks), rows| match rows {
            0 => (steps, chunks),
            1 => (steps + 1, chunks),
            _ => (steps, chunks + 1),
        });
        let is_step = |work: &Work| matches!(work, Work::States { .. } | Work::Tokens { .. });
        let steps_of = job.items.iter().filter(|item| is_step(&item.work));
        let number = |session: Digest| usize::from(session.0[0]) - 1;
        let ends: BTreeSet<_> =
            steps_of.map(|item| self.questions[number(item.session)].ends).collect();
        self.seen.unlike += usize::from(ends.len() > 1);
        let is_head = |work: &Work| matches!(work, Work::Head { .. });
        let heads = job.items.iter().filter(|item| is_head(&item.work)).count();
        self.seen.heads += usize::from(heads > 1);
        self.seen.mixed += usize::from(steps > 0 && chunks > 0);
        self.seen.crowded += usize::from(chunks > 1);
        self.seen.behind += usize::from(!stage.jobs.is_empty());
        stage.jobs.push_back(job);
        assert!(stage.jobs.len() <= limits::JOBS_AT_EXECUTOR);
    }

    /// Runs a stage's oldest job.
    fn run(&mut self, at: usize) {
        let stage = &mut self.stages[at];
        let Some(job) = stage.jobs.pop_front() else { return };
        let id = job.id;
        let done = stage.executor.run(job);
        let sessions = stage.scheduler.ran(id).expect("the oldest");
        assert_eq!(sessions, done.iter().map(|done| done.session).collect::<Vec<_>>());
        done.into_iter().for_each(|done| self.on_done(at, done));
    }

    fn on_done(&mut self, at: usize, Done { session, outcome }: Done) {
        let number = usize::from(session.0[0]) - 1;
        if self.ended.contains(&number) {
            assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
            return;
        }
        let row = row_bytes(self.hidden);
        let trace = &mut self.traces[number];
        match outcome {
            Outcome::Begun | Outcome::Dropped => {}
            Outcome::Forwarded(done) => {
                // The first position that leaves the stage.
                let before = trace.states[at].len() / row;
                let head_reads = self.questions[number].prompt.len() - 1;
                trace.states[at].extend(&done.state);
                if done.state.is_empty() {
                    return;
                }
                let state = State::parse(self.hidden, &done.state).expect("canonical");
                let work = match at {
                    0 | 1 => Work::States { position: before as u32, state },
                    _ => Work::Head { position: (head_reads + before) as u32, state },
                };
                self.push((at + 1) % STAGES, session, work);
            }
            Outcome::Sampled { input, token } => {
                trace.samples.push((input, token));
                let position = self.questions[number].prompt.len() + trace.samples.len() - 1;
                match token.filter(|_| trace.samples.len() < TOKENS) {
                    Some(token) => {
                        let (position, ids) = (position as u32, vec![token]);
                        self.push(0, session, Work::Tokens { position, ids });
                    }
                    None => (0..STAGES).for_each(|stage| self.push(stage, session, Work::Finish)),
                }
            }
            Outcome::Rooted { input_root, layers } => {
                trace.roots[at] = Some((input_root, layers));
                self.stages[at].scheduler.drop_session(session);
            }
            other => panic!("{other:?}"),
        }
    }

    fn is_over(&self) -> bool {
        let is_over = |(number, trace): (usize, &Trace)| {
            self.ended.contains(&number) || trace.roots.iter().all(Option::is_some)
        };
        self.traces.iter().enumerate().all(is_over)
    }

    /// Runs what is left, and checks that the executors then hold nothing of anybody.
    fn close(&mut self) {
        for at in 0..STAGES {
            while self.stages[at].scheduler.queue_depth() + self.stages[at].jobs.len() > 0 {
                self.schedule(at);
                self.run(at);
            }
            let executor = &self.stages[at].executor;
            assert_eq!((executor.sessions(), executor.pages()), (0, 0), "stage {at}");
        }
    }
}

/// Runs all questions to their ends, with what happens when drawn from `numbers`. One in so many
/// times a session that has begun ends early; never if that is 0. `None` for those.
fn play<O: Backend<Error = Infallible>>(
    mut world: World<O>,
    numbers: &mut Numbers,
    ends_one_in: u64,
) -> (Vec<Option<Trace>>, Seen) {
    let mut asked = 0;
    for _ in 0..100_000 {
        if world.is_over() {
            world.close();
            let World { ended, traces, seen, .. } = world;
            let whole = |(number, trace)| (!ended.contains(&number)).then_some(trace);
            return (traces.into_iter().enumerate().map(whole).collect(), seen);
        }
        // The first session never ends early, so that there is one to look at.
        if asked > 1 && ends_one_in > 0 && numbers.below(ends_one_in) == 0 {
            world.end(1 + numbers.below(asked as u64 - 1) as usize);
        }
        let stage = numbers.below(STAGES as u64) as usize;
        match numbers.below(5) {
            0 if asked < world.questions.len() => {
                world.begin(asked);
                asked += 1;
            }
            0..3 => {
                world.schedule(stage);
                if ends_one_in > 0 && numbers.below(4) > 0 {
                    world.end_behind(stage);
                }
            }
            _ => world.run(stage),
        }
    }
    panic!("the sessions do not end");
}

/// Draws where the stages of a session end, in what they hold.
fn ends(numbers: &mut Numbers, layers: u32) -> [u32; STAGES] {
    let first = 1 + numbers.below(u64::from(layers) - 2) as u32;
    let least = (first + 1).max(2);
    let second = least + numbers.below(u64::from(layers - least)) as u32;
    [first, second, layers]
}

/// Plays sessions together, cut into chunks and under a budget, and each alone.
fn check<O: Backend<Error = Infallible>>(seeds: u64, ops: impl Fn() -> O) -> Seen {
    let mut all = Seen::default();
    for seed in 0..seeds {
        let mut numbers = Numbers::new(seed);
        let (feature, features) = Features::EACH[seed as usize % Features::EACH.len()];
        let model = TinyModel::with_features(seed, Sizes::default(), features);
        let vocabulary = u64::from(model.manifest.vocabulary);
        let questions: Vec<Question> = (0..3 + numbers.below(4))
            .map(|_| Question {
                prompt: {
                    let len = 1 + numbers.below(40);
                    (0..len).map(|_| numbers.below(vocabulary) as u32).collect()
                },
                chunk: 4 + numbers.below(30) as usize,
                seed: numbers.next_u64() >> 11,
                ends: ends(&mut numbers, model.manifest.layers.len() as u32),
            })
            .collect();
        let budget = 1 + numbers.below(60) as u32;
        let world = World::new(&model, &ops, budget, questions.clone());
        let ends_one_in = if seed % 2 == 0 { 0 } else { 60 };
        let (together, seen) = play(world, &mut numbers, ends_one_in);
        for (number, question) in questions.into_iter().enumerate() {
            let whole = Question { chunk: question.prompt.len(), ..question };
            let world = World::new(&model, &ops, limits::BATCH_POSITIONS, vec![whole]);
            let Some(together) = &together[number] else { continue };
            let (alone, _) = play(world, &mut numbers, 0);
            assert_eq!(together.samples.len(), TOKENS);
            assert!(
                alone[0].as_ref() == Some(together),
                "seed {seed}, {feature}, budget {budget}: session {number} computed other bits"
            );
        }
        all.mixed += seen.mixed;
        all.crowded += seen.crowded;
        all.behind += seen.behind;
        all.unlike += seen.unlike;
        all.heads += seen.heads;
        all.ended += seen.ended;
    }
    all
}

#[test]
fn a_session_computes_the_same_bits_in_every_mix_of_decode_steps_and_chunks() {
    let isa = Isa::detect().expect("a processor");
    let seen = check(33, || Kernels::new(isa, 2).expect("threads"));
    // The seeds draw what this is about.
    assert!(seen.mixed > 50 && seen.crowded > 20 && seen.behind > 10, "{seen:?}");
    assert!(seen.heads > 20 && seen.ended > 3 && seen.unlike > 100, "{seen:?}");
}

#[test]
fn so_does_the_reference() {
    let seen = check(3, || Reference);
    assert!(seen.mixed > 0, "{seen:?}");
}
