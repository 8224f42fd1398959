//! A ring in memory, in which one stage may lie.

use std::ops::Range;
use std::sync::{LazyLock, OnceLock};

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::feed_forward::Experts;
use lockstep_exact::forward::{Row, Scratch, forward, logits};
use lockstep_exact::kv::{KvCache as _, ReferenceKv};
use lockstep_exact::matrix::Packed;
use lockstep_exact::names::ProductName;
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{Ops as _, Place};
use lockstep_exact::plan::Activation;
use lockstep_exact::reference::Reference;
use lockstep_exact::sample::{Finish, History, Sampling, StopTracker, Stops, sample};
use lockstep_exact::state::State;
use lockstep_exact::weights::{HeadWeights, LayerWeights, Product, load_head, load_span};
use lockstep_testing::tiny_model::TinyModel;
use lockstep_verify::archive::{Archive, OpenError, Prover};
use lockstep_verify::audit::{Unverified, Verified, audit, plan};
use lockstep_verify::bundle::{Bundle, Exchange};
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::column::{Columns, Keep};
use lockstep_verify::draw::Extent;
use lockstep_verify::fault::Fault;
use lockstep_verify::key::Key;
use lockstep_verify::opening::{Opening, SignedOpening};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{AuditSeed, Hop, Lease, Request};
use lockstep_verify::secret::Secret;
use lockstep_verify::sign::{Keypair, NodeId, Signature, Statement as _};
use lockstep_verify::statement::{
    HeadStatement, LayerRoots, Mark, Run, RunId, Segment, Step, Takeover, token_digest,
    tokens_digest,
};
use lockstep_verify::sums;

/// The model of all tests.
pub(crate) fn model() -> &'static TinyModel {
    static MODEL: OnceLock<TinyModel> = OnceLock::new();
    MODEL.get_or_init(|| TinyModel::new(1))
}

/// A verifier's key for it.
pub(crate) fn key() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| key_of(model()))
}

pub(crate) fn key_of(model: &TinyModel) -> Key {
    Key::generate(
        &Reference,
        model.manifest.clone(),
        Secret::of(&[9; 32]),
        |b| model.blob(b),
        |_| (),
    )
    .unwrap()
}

/// What a stage does wrong. Positions and layers are absolute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lie {
    /// Opens the cells of other positions than it is asked for.
    AnotherPosition,
    /// Ends its own marks in another chain than it signs.
    Chain,
    /// Adds one to a weight code of a layer.
    Codes(u32),
    /// Signs other embedding digests than it computes from.
    EmbeddingDigest(u32),
    /// Embeds another token at this position, and says so in its column.
    EmbeddingOpen(u32),
    /// Embeds another token at this position, but commits to the right embedding.
    EmbeddingHidden(u32),
    /// Misuses the experts of a layer.
    Experts(u32, Misuse),
    /// Flips the lowest bit of a state.
    FlipBit(u32, u32),
    /// Goes on after the rules end the answer.
    GoesOn,
    /// Samples with another seed than the client's.
    IgnoresSeed,
    /// Signs another root for what it received.
    InputRoot,
    /// Puts a wrong KV row into cache and column.
    KvRow(u32, u32),
    /// Commits to another KV row than attention read.
    KvRowCommitted(u32, u32),
    /// Leaves out what only some model families have, in a layer.
    Omits(u32, Part),
    /// Changes a byte of an opening, if it has one there.
    OpeningByte(usize),
    /// Signs another root for what it sent.
    OutputRoot,
    /// Says that the head gives no token at this index.
    Overflow(u32),
    /// Gives a token where the head gives none.
    IgnoresOverflow,
    /// Gives the state of the position before.
    OldState(u32, u32),
    /// Signs another input in its marks than the stage before signed as output.
    MarkInput,
    /// As [`Lie::MarkInput`], and shows a mark of its own making as the one that it got.
    MarkInputShown,
    /// Commits to another received state than it computes from and marks.
    ReceivedColumn(u32),
    /// Answers with openings of another session.
    Replay,
    /// Multiplies the f32 row scales of a layer by 1.001.
    RowScales(u32),
    /// Signs another root for the states of a layer than it opens.
    StatesRoot(u32),
    /// Signs another root for the KV rows of a layer than it opens.
    KvRoot(u32),
    /// Chooses the second-best token at this index.
    SecondBest(u32),
    /// Gives a layer's input as its output.
    SkipsLayer(u32),
    /// Commits to another last state than it sends and marks.
    SentColumn(u32, u32),
    /// Says that the answer ended after so many tokens.
    StopsEarly(u32),
    /// Claims sums that are too large to be any.
    SumsOutOfRange,
    /// Claims the sums of a cell's experts in another order.
    SumsSwapped,
    /// Claims a sum that is one too large.
    SumsWrong,
    /// Attends to the last four positions only, in a layer.
    TruncatesContext(u32),
    /// Signs and opens as if it had computed one position less.
    Positions,
    /// Signs one mark for the next stage and another for the client, for the frame that holds this
    /// position.
    TwoMarks(u32),
    /// Gives zeros.
    Zeros(u32),
}

/// What can be done wrong with experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Misuse {
    /// Sends rows to the experts of the lowest logits: the router's sums are right.
    Choice,
    /// Normalises the weights where the plan does not, and the other way round.
    Normalise,
    /// Leaves out the shared expert.
    OmitsShared,
    /// Leaves out the sigmoid's gate of the shared expert.
    OmitsSharedGate,
    /// Multiplies by the matrices of the next expert.
    OtherExpert,
    /// Multiplies by another router.
    Router,
    /// Uses one expert less than the plan says, where it is the second.
    Skips,
    /// Weights the right experts by other numbers.
    Weights,
}

/// A part of a layer that only some model families have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Part {
    Activation,
    DownBias,
    HeadNorms,
    PostNorms,
    QkvBias,
    Rope,
    Window,
}

/// What a client asks for in tests.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) prompt: Vec<u32>,
    pub(crate) sampling: Sampling,
    pub(crate) stops: Stops,
    pub(crate) nonce: u8,
}

impl Ask {
    /// Greedy, no stop but a number of tokens.
    pub(crate) fn new(seed: u32, prompt_len: u32, max_tokens: u32) -> Self {
        let prompt = (0..prompt_len).map(|i| (i * 37 + seed * 91 + 11) % 256).collect();
        let stops = Stops { max_tokens, ignore_end: true, strings: Vec::new() };
        let nonce = u8::try_from(seed % 251).unwrap();
        Self { prompt, sampling: Sampling::default(), stops, nonce }
    }
}

/// A ring of stages over the model.
pub(crate) struct Ring<'m> {
    pub(crate) model: &'m TinyModel,
    /// Layers at which a new stage begins, 0 included, and the number of layers.
    pub(crate) bounds: Vec<u32>,
    /// Positions of a chunk of the prompt.
    pub(crate) chunk: usize,
    pub(crate) lies: Vec<(usize, Lie)>,
    /// Which run of its session this is: the stages draw other values in each.
    pub(crate) run: u8,
    /// Stages that are given another lease than the client's, changed and signed by this key.
    pub(crate) leases: Vec<(usize, OtherLease)>,
    /// Positions that server 1 has the ring run beyond those that it tells.
    pub(crate) tail: u32,
    /// Stages that are replaced, in the order in which it happens.
    pub(crate) taken: Vec<Taken>,
}

/// A stage that another server replaces before the frame at a position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) place: usize,
    pub(crate) at: u32,
    /// Whether it hands its place over and signs what it did, or is lost with all it would sign.
    pub(crate) is_handed: bool,
}

/// Whose lies and key a server has that takes over, by the epoch of its lease.
pub(crate) fn standby(epoch: usize) -> usize {
    100 + epoch
}

/// A lease that is not the client's.
#[derive(Clone, Copy)]
pub(crate) struct OtherLease {
    pub(crate) change: fn(&mut Lease),
    pub(crate) key: fn() -> Keypair,
}

pub(crate) fn node(stage: usize) -> Keypair {
    Keypair::from_secret(&[u8::try_from(stage).unwrap() + 1; 32])
}

pub(crate) fn client() -> Keypair {
    Keypair::from_secret(&[200; 32])
}

pub(crate) static SEED: LazyLock<AuditSeed> =
    LazyLock::new(|| AuditSeed::new(Secret::of(&[77; 32])));

/// Has every stage and the head sign again what a receipt has of theirs: their marks in one chain
/// each, and their statements about these.
pub(crate) fn sign_again(receipt: &mut Receipt) {
    for (place, segment) in receipt.segments.iter_mut().enumerate() {
        let run = segment.run().id();
        let marks = receipt.steps.iter_mut().map(|step| &mut step.marks[place]);
        segment.chain = sign_chain(marks, run, place);
        *segment = segment.clone().signed(&node(place));
    }
    let last = receipt.segments.last().unwrap();
    let run = receipt.segments[0].run().of_head(last.run().id(), last.end).id();
    let chain = sign_chain(receipt.head_marks.iter_mut(), run, 0);
    let (tokens, finish) = (tokens_digest(&receipt.answer), receipt.finish);
    let head =
        HeadStatement { tokens, finish, chain, before: last.run().id(), ..receipt.head.clone() };
    receipt.head = head.signed(run, &node(0));
}

fn sign_chain<'a>(marks: impl Iterator<Item = &'a mut Mark>, run: RunId, place: usize) -> Digest {
    let mut chain = Mark::chain_start(run);
    for mark in marks {
        mark.chain_before = chain;
        *mark = mark.signed(run, &node(place));
        chain = mark.chain_after();
    }
    chain
}

struct Stage {
    /// Whose lies it tells, and whose key it has.
    place: usize,
    /// The place in the ring.
    at: usize,
    /// The positions after which it handed its place over.
    end: Option<u32>,
    is_lost: bool,
    /// The states that came in, frame by frame.
    inputs: Vec<State>,
    /// The marks as the next stage got them.
    passed: Vec<Mark>,
    /// Who took over from the stage before.
    takeovers: Vec<Takeover>,
    span: Range<u32>,
    weights: Vec<LayerWeights<Packed>>,
    caches: Vec<ReferenceKv>,
    prompt_len: u32,
    archive: Archive,
    columns: Columns,
    run: Run,
    /// The chain of its marks as the client sees them.
    chain: Digest,
    /// The chain of its marks as the next stage sees them: another one if it signs two.
    passed_chain: Digest,
    /// The marks that it got.
    received: Vec<Mark>,
    last_row: Option<State>,
}

/// What a session leaves behind.
pub(crate) struct Session {
    pub(crate) receipt: Receipt,
    stages: Vec<Stage>,
    head: HeadWeights<Packed>,
    /// The marks that the head got.
    head_received: Vec<Mark>,
    lies: Vec<(usize, Lie)>,
    other: Option<Box<Self>>,
}

impl<'m> Ring<'m> {
    /// An honest ring with stages that begin at these layers besides 0.
    pub(crate) fn new(model: &'m TinyModel, cuts: &[u32]) -> Self {
        let mut bounds = vec![0];
        bounds.extend_from_slice(cuts);
        bounds.push(model.span().end);
        Self {
            model,
            bounds,
            chunk: 5,
            lies: Vec::new(),
            run: 1,
            leases: Vec::new(),
            tail: 0,
            taken: Vec::new(),
        }
    }

    pub(crate) fn lying(mut self, stage: usize, lie: Lie) -> Self {
        self.lies.push((stage, lie));
        self
    }

    pub(crate) fn span(&self, stage: usize) -> Range<u32> {
        self.bounds[stage]..self.bounds[stage + 1]
    }

    pub(crate) fn stages(&self) -> usize {
        self.bounds.len() - 1
    }

    /// The client's lease for a request.
    pub(crate) fn lease(&self, request: &Request) -> Lease {
        let hop = |place: usize| {
            let span = self.span(place);
            Hop { node: node(place).id(), first: span.start, end: span.end }
        };
        let lease = Lease {
            session: request.session(),
            epoch: 0,
            manifest: request.manifest,
            adapters: Vec::new(),
            reuse: None,
            session_key: request.session_key,
            prompt_len: u32::try_from(request.prompt.len()).unwrap(),
            max_positions: 4000,
            route: (0..self.stages()).map(hop).collect(),
            addresses: Vec::new(),
            signature: Signature::NONE,
        };
        lease.signed(&client())
    }

    /// The lease that a stage is given.
    fn lease_of(&self, place: usize, lease: &Lease) -> Lease {
        let mut lease = lease.clone();
        for (_, other) in self.leases.iter().filter(|(of, _)| *of == place) {
            (other.change)(&mut lease);
            lease = lease.signed(&(other.key)());
        }
        lease
    }

    fn stage(&self, place: usize, lease: &Lease, before: RunId) -> Stage {
        self.stage_of(place, place, lease, (before, 0))
    }

    fn stage_of(
        &self,
        place: usize,
        at: usize,
        lease: &Lease,
        (before, first_position): (RunId, u32),
    ) -> Stage {
        let prompt_len = lease.prompt_len;
        let span = self.span(at);
        let model = self.model;
        let load = |b| model.blob(b);
        let mut weights = match span.is_empty() {
            true => Vec::new(),
            false => load_span(&Reference, &model.manifest, span.clone(), load).unwrap(),
        };
        for (_, lie) in self.lies.iter().filter(|(stage, _)| *stage == place) {
            weights.iter_mut().for_each(|layer| alter(layer, *lie));
        }
        let cache = |layer: &LayerWeights<Packed>| ReferenceKv::new(&[layer.kv_shape()]);
        let value = Digest([self.run, u8::try_from(place).unwrap()].repeat(16).try_into().unwrap());
        let (session, first, end) = (lease.session, span.start, span.end);
        let lease = lease.digest();
        let run = Run { session, lease, before, value, first, end, first_position };
        let chain = Mark::chain_start(run.id());
        Stage {
            place,
            at,
            end: None,
            is_lost: false,
            inputs: Vec::new(),
            passed: Vec::new(),
            takeovers: Vec::new(),
            caches: weights.iter().map(cache).collect(),
            prompt_len,
            weights,
            archive: Archive::new(span.clone(), prompt_len),
            columns: Columns::new(span.clone(), Keep::Bytes),
            run,
            chain,
            passed_chain: chain,
            received: Vec::new(),
            last_row: None,
            span,
        }
    }

    pub(crate) fn request(&self, ask: &Ask) -> Request {
        Request {
            manifest: self.model.manifest.id(),
            adapters: Vec::new(),
            prompt: ask.prompt.clone(),
            sampling: ask.sampling.clone(),
            stops: ask.stops.clone(),
            nonce: [ask.nonce; 32],
            session_key: client().id(),
            audit_commitment: SEED.commitment(),
        }
    }

    /// Runs a session to its end.
    pub(crate) fn run(&self, ask: &Ask) -> Session {
        let request = self.request(ask);
        let session = request.session();
        let lease = self.lease(&request);
        let mut stages: Vec<Stage> = Vec::new();
        for place in 0..self.stages() {
            let before = stages.last().map_or(RunId::NONE, |stage| stage.run.id());
            stages.push(self.stage(place, &self.lease_of(place, &lease), before));
        }
        let head = load_head(&Reference, &self.model.manifest, |b| self.model.blob(b)).unwrap();
        let last = stages.last().unwrap().run.id();
        let head_run = stages[0].run.of_head(last, self.model.span().end).id();
        let mut live = Live {
            ring: self,
            session,
            placements: vec![lease],
            active: (0..stages.len()).collect(),
            last,
            head_takeovers: Vec::new(),
            marks: Vec::new(),
            stages,
            head,
            head_run,
            head_chain: Mark::chain_start(head_run),
            head_received: Vec::new(),
            steps: Vec::new(),
            head_marks: Vec::new(),
            answer: Vec::new(),
            request,
        };
        let finish = live.run();
        let told = live.steps.len();
        for _ in 0..self.tail {
            let position = live.steps.last().map_or(0, |step| step.position + step.count);
            live.frame(position, &[*live.answer.last().unwrap()]);
        }
        let other = self.lies.iter().any(|(_, lie)| *lie == Lie::Replay).then(|| {
            let honest =
                Ring { chunk: self.chunk, ..Ring::new(self.model, &self.bounds[1..self.stages()]) };
            let mut ask = ask.clone();
            ask.prompt[0] ^= 1;
            Box::new(honest.run(&ask))
        });
        Session { other, ..live.finish(finish, told) }
    }
}

/// A session under way.
struct Live<'a> {
    ring: &'a Ring<'a>,
    request: Request,
    session: Digest,
    /// The leases, the one that opened the session first.
    placements: Vec<Lease>,
    stages: Vec<Stage>,
    /// By place, who serves it.
    active: Vec<usize>,
    /// The last stage's run when the session began.
    last: RunId,
    head_takeovers: Vec<Takeover>,
    /// By frame, the marks of who computed it.
    marks: Vec<Vec<(usize, Mark)>>,
    head: HeadWeights<Packed>,
    head_run: RunId,
    head_chain: Digest,
    head_received: Vec<Mark>,
    steps: Vec<Step>,
    head_marks: Vec<Mark>,
    answer: Vec<u32>,
}

impl Live<'_> {
    fn run(&mut self) -> Finish {
        let manifest = &self.ring.model.manifest;
        let vocabulary = self.ring.model.vocabulary();
        let Request { prompt, stops, .. } = self.request.clone();
        let context = manifest.context as usize;
        let mut tracker = StopTracker::new(stops, &manifest.end_tokens, context, prompt.len());
        let mut position = 0;
        let mut state = State::default();
        for chunk in prompt.chunks(self.ring.chunk) {
            state = self.frame(position, chunk);
            position += u32::try_from(chunk.len()).unwrap();
        }
        loop {
            let at = position - 1;
            let index = u32::try_from(self.answer.len()).unwrap();
            let Ok(token) = self.token(at, index, &state) else {
                self.mark_token(at, Digest::ZERO, &state);
                return Finish::Overflow;
            };
            self.mark_token(at, token_digest(token), &state);
            self.answer.push(token);
            let ended = tracker.push(token, &vocabulary);
            if self.lies(0).contains(&Lie::StopsEarly(index + 1)) {
                return Finish::EndToken;
            }
            match ended {
                Some(finish) if !self.lies(0).contains(&Lie::GoesOn) || index > 20 => {
                    return finish;
                }
                _ => {}
            }
            state = self.frame(position, &[token]);
            position += 1;
        }
    }

    fn lies(&self, stage: usize) -> Vec<Lie> {
        let own = self.ring.lies.iter().filter(|(of, _)| *of == stage);
        own.map(|(_, lie)| *lie).collect()
    }

    fn token(&mut self, position: u32, index: u32, state: &State) -> Result<u32, Overflow> {
        let row = Row { place: Place { slot: 0, position: position as usize }, feeds_head: true };
        // A last stage that was given a shorter prompt's lease sends more rows than the head reads.
        let state = &state.select(&[state.rows() - 1]);
        let mut row_bytes = Vec::new();
        state.write_row(0, &mut row_bytes);
        self.stages[0].archive.head_state(&row_bytes);
        let scratch = &mut Scratch::default();
        let out = logits(&Reference, &self.head, &[row], state, scratch, &mut ());
        let Ok(out) = out;
        let lies = self.lies(0);
        let logits = match out.into_iter().next().unwrap() {
            Err(Overflow) if lies.contains(&Lie::IgnoresOverflow) => return Ok(7),
            logits => logits?,
        };
        let history = History { prompt: &self.request.prompt, answer: &self.answer };
        let mut sampling = self.request.sampling.clone();
        if lies.contains(&Lie::IgnoresSeed) {
            sampling.seed ^= 1;
        }
        if lies.contains(&Lie::Overflow(index)) {
            return Err(Overflow);
        }
        let best = sample(&logits, &sampling, history, None)?;
        if lies.contains(&Lie::SecondBest(index)) {
            return sample(&logits, &sampling, history, Some(&|token| token != best));
        }
        Ok(best)
    }

    fn mark_token(&mut self, position: u32, output: Digest, state: &State) {
        let layers = self.ring.model.span().end;
        let mark = Mark {
            first: layers,
            end: layers,
            epoch: 0,
            position,
            count: 1,
            chain_before: self.head_chain,
            input: Digest::of(&state.to_bytes()),
            output,
            signature: Signature::NONE,
        };
        self.head_chain = mark.chain_after();
        self.head_marks.push(mark.signed(self.head_run, &node(0)));
    }

    /// Sends a frame round the ring; returns what comes out of the last stage.
    fn frame(&mut self, position: u32, tokens: &[u32]) -> State {
        for taken in self.ring.taken.clone().into_iter().filter(|taken| taken.at == position) {
            self.take_over(taken);
        }
        let count = u32::try_from(tokens.len()).unwrap();
        let mut marks = Vec::new();
        let mut state = self.embed(position, tokens);
        for (place, &index) in self.active.clone().iter().enumerate() {
            let lies = self.lies(self.stages[index].place);
            let input = (place == 0).then(|| tokens_digest(tokens));
            let (out, told, passed) =
                self.stages[index].compute(&lies, position, count, state, input);
            state = out;
            marks.push((index, told));
            match self.active.get(place + 1) {
                Some(&next) => self.stages[next].received.push(passed),
                None => self.head_received.push(passed),
            }
        }
        self.steps.push(Step { position, count, marks: Vec::new() });
        self.marks.push(marks);
        state
    }

    /// Another server gets the states that a stage had got, computes them again in a run of its
    /// own, marks every frame again, and goes on in its place.
    fn take_over(&mut self, taken: Taken) {
        let Taken { place, at, is_handed } = taken;
        let (old, before) = (self.active[place], self.active[place - 1]);
        let epoch = self.placements.len();
        let mut lease = self.placements[epoch - 1].clone();
        lease.epoch = u32::try_from(epoch).unwrap();
        lease.route[place].node = node(standby(epoch)).id();
        let lease = lease.signed(&client());
        let first = if is_handed { at } else { 0 };
        let run = self.stages[before].run.id();
        let mut stage = self.ring.stage_of(standby(epoch), place, &lease, (run, first));
        self.placements.push(lease);
        stage.received.clone_from(&self.stages[before].passed);
        let lies = self.lies(standby(epoch));
        let index = self.stages.len();
        let inputs = self.stages[old].inputs.clone();
        for (frame, state) in inputs.into_iter().enumerate() {
            let Step { position, count, .. } = self.steps[frame];
            let (_, told, _) = stage.compute(&lies, position, count, state, None);
            self.marks[frame].push((index, told));
        }
        let takeover = Takeover { position: first, run: stage.run.id() };
        let (takeovers, received) = match self.active.get(place + 1) {
            Some(&next) => {
                let next = &mut self.stages[next];
                (&mut next.takeovers, &mut next.received)
            }
            None => (&mut self.head_takeovers, &mut self.head_received),
        };
        takeovers.push(takeover);
        if is_handed {
            self.stages[old].end = Some(at);
        } else {
            // The next stage has checked that all is as it had it.
            received.clone_from(&stage.passed);
            self.stages[old].is_lost = true;
        }
        self.active[place] = index;
        self.stages.push(stage);
    }

    fn embed(&mut self, position: u32, tokens: &[u32]) -> State {
        let lies = self.lies(0);
        let embed = |tokens: &[u32]| {
            let mut state = State::default();
            let head = &self.head;
            Reference.embed(&head.embedding, head.embedding_scale, tokens, &mut state);
            state
        };
        let right = embed(tokens);
        let (mut used, mut committed) = (tokens.to_vec(), right.clone());
        let (mut open, mut digest) = (false, false);
        for lie in lies {
            let (Lie::EmbeddingOpen(at) | Lie::EmbeddingHidden(at) | Lie::EmbeddingDigest(at)) =
                lie
            else {
                continue;
            };
            let Some(index) = at.checked_sub(position) else { continue };
            let Some(token) = used.get_mut(index as usize) else { continue };
            *token ^= 1;
            open |= matches!(lie, Lie::EmbeddingOpen(_));
            digest |= matches!(lie, Lie::EmbeddingDigest(_));
        }
        let stage = &mut self.stages[0];
        if open || digest {
            committed = embed(&used);
        }
        stage.columns.receive_embeddings(&committed);
        stage.archive.tokens(tokens);
        if digest { right } else { embed(&used) }
    }

    fn finish(mut self, finish: Finish, told: usize) -> Session {
        let session = self.session;
        let mut order: Vec<usize> = (0..self.stages.len()).collect();
        order.retain(|index| !self.stages[*index].is_lost);
        order.sort_by_key(|index| self.stages[*index].at);
        for (step, marks) in self.steps.iter_mut().zip(&self.marks) {
            let of =
                |index: &usize| marks.iter().find(|(of, _)| of == index).map(|(_, mark)| *mark);
            step.marks = order.iter().filter_map(of).collect();
        }
        let mut segments: Vec<Segment> =
            order.iter().map(|index| self.segment(&self.stages[*index])).collect();
        self.steps.truncate(told);
        if self.ring.tail > 0 {
            let last = &self.steps[told - 1];
            segments[0].positions = last.position + last.count;
            segments[0].chain = last.marks[0].chain_after();
            segments[0] = segments[0].clone().signed(&node(0));
        }
        let head = HeadStatement {
            session,
            before: self.last,
            takeovers: self.head_takeovers.clone(),
            tokens: tokens_digest(&self.answer),
            finish,
            chain: self.head_chain,
            signature: Signature::NONE,
        };
        let receipt = Receipt {
            request: self.request,
            lease: self.placements.remove(0),
            placements: self.placements,
            answer: std::mem::take(&mut self.answer),
            finish,
            segments,
            head: head.signed(self.head_run, &node(0)),
            steps: self.steps,
            head_marks: self.head_marks,
        };
        let lies = self.ring.lies.clone();
        let (mut stages, head, head_received) = (self.stages, self.head, self.head_received);
        stages.retain(|stage| !stage.is_lost);
        stages.sort_by_key(|stage| stage.at);
        Session { receipt, stages, head, head_received, lies, other: None }
    }

    fn segment(&self, stage: &Stage) -> Segment {
        let Run { session, lease, before, value, .. } = stage.run;
        let positions = stage.end.unwrap_or_else(|| self.steps.iter().map(|step| step.count).sum());
        // From whom it got no frame any more, it does not name.
        let mut takeovers = stage.takeovers.clone();
        takeovers.retain(|takeover| takeover.position < positions);
        let mut segment = Segment {
            session,
            lease,
            before,
            takeovers,
            run_value: value,
            node: NodeId([0; 32]),
            first: stage.span.start,
            end: stage.span.end,
            first_position: stage.run.first_position,
            positions,
            input_root: stage.columns.input.root(),
            layers: stage.columns.roots(),
            chain: stage.chain,
            deadline_unix_ms: 1_800_000_000_000,
            signature: Signature::NONE,
        };
        let at = |layer: u32| (layer - stage.span.start) as usize;
        for lie in self.lies(stage.place) {
            let LayerRoots { states, .. } = *segment.layers.last().unwrap();
            match lie {
                Lie::Chain => segment.chain = states,
                Lie::InputRoot => segment.input_root.0[3] ^= 1,
                Lie::OutputRoot => segment.layers.last_mut().unwrap().states.0[3] ^= 1,
                Lie::StatesRoot(layer) => segment.layers[at(layer)].states.0[3] ^= 1,
                Lie::KvRoot(layer) => segment.layers[at(layer)].kv.0[3] ^= 1,
                Lie::Positions => segment.positions -= 1,
                _ => {}
            }
        }
        segment.signed(&node(stage.place))
    }
}

/// A model in which a layer's feed-forward part overflows at every position.
pub(crate) fn overflowing_model(layer: usize) -> TinyModel {
    blown_up(TinyModel::new(1), layer, |_| true)
}

/// A model in which the embedding of one token is the overflow marker.
pub(crate) fn overflowing_embedding(token: usize) -> TinyModel {
    let mut model = TinyModel::new(1);
    let head = &mut model.manifest.head;
    head.embedding_scale = 4096.0;
    let (blob, shape) = (head.embedding_blob as usize, head.embedding.shape());
    let start = usize::try_from(head.embedding.offset).unwrap();
    let mut bytes = model.blobs[blob].as_slice().to_vec();
    let at = start + token / 16 * shape.block_bytes() + shape.row_scales_offset() + token % 16 * 4;
    bytes[at..at + 4].copy_from_slice(&f32::from_bits(167 << 23).to_le_bytes());
    let end = start + shape.packed_bytes();
    head.embedding.digest = Digest::of(&bytes[start..end]);
    model.manifest.blobs[blob].digest = Digest::of(&bytes);
    model.blobs[blob] = lockstep_exact::blob::Blob::new(bytes);
    model
}

/// The model with the largest row scales that there are in some products of a layer.
pub(crate) fn blown_up(
    mut model: TinyModel,
    layer: usize,
    is_meant: impl Fn(ProductName) -> bool,
) -> TinyModel {
    let plan = &mut model.manifest.layers[layer];
    let mut bytes = model.blobs[plan.blob as usize].as_slice().to_vec();
    let products = plan.feed_forward.products_mut().into_iter();
    for (_, product) in products.filter(|(name, _)| is_meant(*name)) {
        let shape = product.shape();
        let start = usize::try_from(product.matrix.offset).unwrap();
        for row in 0..shape.rows {
            let at = start + row / 16 * shape.block_bytes() + shape.row_scales_offset();
            let at = at + row % 16 * 4;
            // 2^40, the largest that there is.
            bytes[at..at + 4].copy_from_slice(&f32::from_bits(167 << 23).to_le_bytes());
        }
        product.matrix.digest = Digest::of(&bytes[start..start + shape.packed_bytes()]);
    }
    model.manifest.blobs[plan.blob as usize].digest = Digest::of(&bytes);
    model.blobs[plan.blob as usize] = lockstep_exact::blob::Blob::new(bytes);
    model
}

/// Lies that are in a layer's weights.
fn alter(layer: &mut LayerWeights<Packed>, lie: Lie) {
    match lie {
        Lie::RowScales(of) if of == layer.layer => {
            layer.parts.qkv.scales.iter_mut().for_each(|scale| *scale *= 1.001);
            let products = layer.parts.feed_forward.products_mut().into_iter();
            products.for_each(|(_, product)| scale(product, 1.001));
        }
        Lie::Codes(of) if of == layer.layer => {
            use ProductName::{Down, ExpertDown, SharedDown};
            for (name, product) in layer.parts.feed_forward.products_mut() {
                if matches!(name, Down | ExpertDown(_) | SharedDown) {
                    change_code(&mut product.matrix);
                }
            }
        }
        Lie::Experts(of, misuse) if of == layer.layer => {
            misuse_experts(layer.parts.feed_forward.experts_mut().unwrap(), misuse);
        }
        Lie::Omits(of, part) if of == layer.layer => omit(layer, part),
        Lie::TruncatesContext(of) if of == layer.layer => layer.plan.attention.window = 4,
        _ => {}
    }
}

fn scale(product: &mut Product<Packed>, factor: f32) {
    product.scales.iter_mut().for_each(|scale| *scale *= factor);
}

/// One code of one row, in the first block; 255 is the largest.
fn change_code(matrix: &mut Packed) {
    let mut bytes = matrix.bytes().to_vec();
    bytes[0] = if bytes[0] == 255 { 254 } else { bytes[0] + 1 };
    let len = bytes.len();
    let slice = lockstep_exact::blob::Blob::new(bytes).slice(0, len).unwrap();
    *matrix = Packed::new(matrix.shape(), slice).unwrap();
}

fn misuse_experts(experts: &mut Experts<Product<Packed>>, misuse: Misuse) {
    match misuse {
        Misuse::Choice => scale(&mut experts.router, -1.0),
        Misuse::Normalise => experts.rule.normalise ^= true,
        Misuse::OmitsShared => experts.shared = None,
        Misuse::OmitsSharedGate => scale(&mut experts.shared.as_mut().unwrap().gate, 0.0),
        Misuse::OtherExpert => experts.experts.rotate_left(1),
        Misuse::Router => change_code(&mut experts.router.matrix),
        Misuse::Skips => experts.rule.used -= 1,
        Misuse::Weights => scale(&mut experts.router, 1.01),
    }
}

fn omit(layer: &mut LayerWeights<Packed>, part: Part) {
    match part {
        Part::Activation => layer.plan.activation = Activation::Silu,
        Part::DownBias => layer.parts.feed_forward.dense_mut().unwrap().down.bias = None,
        Part::HeadNorms => layer.parts.head_norms = None,
        Part::PostNorms => layer.parts.post_norms = None,
        Part::QkvBias => layer.parts.qkv.bias = None,
        Part::Rope => layer.rope.truncate(2),
        Part::Window => layer.plan.attention.window = 0,
    }
}

impl Stage {
    /// Signs the next mark as the client sees it.
    fn mark(&mut self, position: u32, count: u32, input: Digest, output: Digest) -> Mark {
        let mark = Mark {
            first: self.span.start,
            end: self.span.end,
            epoch: 0,
            position,
            count,
            chain_before: self.chain,
            input,
            output,
            signature: Signature::NONE,
        };
        self.chain = mark.chain_after();
        mark.signed(self.run.id(), &node(self.place))
    }

    /// Computes a frame; gives what goes out, and the mark as the client and as the next stage see
    /// it. `input` is what server 1 marks as its own.
    fn compute(
        &mut self,
        lies: &[Lie],
        position: u32,
        count: u32,
        state: State,
        input: Option<Digest>,
    ) -> (State, Mark, Mark) {
        let input = input.unwrap_or_else(|| self.receive(lies, position, &state));
        let state = self.forward(lies, position, count, state);
        let bytes = state.to_bytes();
        let output = if bytes.is_empty() { Digest::ZERO } else { Digest::of(&bytes) };
        let frame = position..position + count;
        let two = |lie: &Lie| matches!(lie, Lie::TwoMarks(at) if frame.contains(at));
        let mut told = output;
        told.0[0] ^= u8::from(lies.iter().any(two));
        let told = self.mark(position, count, input, told);
        let passed = Mark { chain_before: self.passed_chain, output, ..told };
        self.passed_chain = passed.chain_after();
        let passed = passed.signed(self.run.id(), &node(self.place));
        self.passed.push(passed);
        (state, told, passed)
    }

    /// Keeps a state that came in; gives what the stage marks as its input.
    fn receive(&mut self, lies: &[Lie], position: u32, state: &State) -> Digest {
        let bytes = state.to_bytes();
        let mut input = Digest::of(&bytes);
        self.archive.states(&bytes);
        self.inputs.push(state.clone());
        let mut committed = bytes;
        for lie in lies {
            let Lie::ReceivedColumn(at) = *lie else { continue };
            if let Some(row) = row_of(position, at, state) {
                flip_bit(&mut committed, row, state);
            }
        }
        self.columns.receive(&committed);
        if lies.contains(&Lie::MarkInput) || lies.contains(&Lie::MarkInputShown) {
            input.0[0] ^= 1;
        }
        input
    }

    /// The span's forward pass, layer by layer, with lies told between.
    fn forward(&mut self, lies: &[Lie], first: u32, count: u32, mut state: State) -> State {
        let first_head = self.prompt_len - 1;
        let row = |position: u32| Row {
            place: Place { slot: 0, position: position as usize },
            feeds_head: position >= first_head,
        };
        let rows: Vec<Row> = (first..first + count).map(row).collect();
        for index in 0..self.weights.len() {
            let (weights, cache) = (&self.weights[index..=index], &mut self.caches[index]);
            let layer = weights[0].layer;
            let before = state.clone();
            let (scratch, caches) = (&mut Scratch::default(), &mut [&mut *cache]);
            let Ok(out) = forward(&Reference, weights, &rows, caches, state, scratch, &mut ());
            state = out;
            let dropped = before.rows() - state.rows();
            let kept: Vec<usize> = (dropped..before.rows()).collect();
            let leaving = first + u32::try_from(dropped).unwrap();
            self.lie_in_states(lies, layer, leaving, &before.select(&kept), &mut state);
            let mut committed = state.clone();
            for lie in lies {
                if let Lie::SentColumn(of, at) = *lie
                    && of == layer
                    && let Some(row) = row_of(leaving, at, &state)
                {
                    let mut bytes = state.to_bytes();
                    flip_bit(&mut bytes, row, &state);
                    committed = State::parse(state.width(), &bytes).unwrap();
                }
            }
            self.record(lies, index, first..first + count, &committed);
        }
        state
    }

    /// Appends to the columns of a layer.
    fn record(&mut self, lies: &[Lie], index: usize, positions: Range<u32>, state: &State) {
        let (layer, cache) = (self.weights[index].layer, &mut self.caches[index]);
        let columns = &mut self.columns.layers[index];
        for position in positions {
            let at = position as usize;
            let mut bytes = Vec::new();
            if lies.contains(&Lie::KvRow(layer, position)) {
                let mut row = cache.row(0, at).clone();
                row.key_codes[1] ^= 1;
                cache.put(0, at, row);
            }
            cache.read_row(0, at, &mut bytes);
            if lies.contains(&Lie::KvRowCommitted(layer, position)) {
                bytes[1] ^= 1;
            }
            columns.kv.append(&bytes);
        }
        columns.states.append(&state.to_bytes());
    }

    fn lie_in_states(
        &mut self,
        lies: &[Lie],
        layer: u32,
        first: u32,
        before: &State,
        state: &mut State,
    ) {
        for lie in lies {
            match *lie {
                Lie::FlipBit(of, position) if of == layer => {
                    if let Some(row) = row_of(first, position, state) {
                        let mut bytes = state.to_bytes();
                        flip_bit(&mut bytes, row, state);
                        *state = State::parse(state.width(), &bytes).unwrap();
                    }
                }
                Lie::OldState(of, position) if of == layer => {
                    if let Some(row) = row_of(first, position, state) {
                        *state = match (row.checked_sub(1), &self.last_row) {
                            (Some(before), _) => {
                                let mut rows: Vec<usize> = (0..state.rows()).collect();
                                rows[row] = before;
                                state.select(&rows)
                            }
                            (None, Some(last)) => last.clone(),
                            (None, None) => continue,
                        };
                    }
                }
                Lie::SkipsLayer(of) if of == layer => *state = before.clone(),
                Lie::Zeros(of) if of == layer => {
                    *state = State::zeros(state.rows(), state.width());
                }
                _ => {}
            }
        }
        let of_old = |lie: &Lie| matches!(lie, Lie::OldState(of, _) if *of == layer);
        if lies.iter().any(of_old) && state.rows() > 0 {
            self.last_row = Some(state.select(&[state.rows() - 1]));
        }
    }
}

/// Flips the lowest bit of a row's smallest mantissa, so that the row stays canonical.
fn flip_bit(bytes: &mut [u8], row: usize, state: &State) {
    let mantissas = state.mantissas(row).iter().enumerate();
    let (least, _) = mantissas.min_by_key(|(_, m)| m.unsigned_abs()).unwrap();
    bytes[row * (bytes.len() / state.rows()) + 2 * least] ^= 1;
}

/// Puts the position before in the place of each challenged one where that is not challenged too.
fn move_back(target: &mut Target) {
    let (first, positions) = match target {
        Target::Layer { first, positions, .. } => (*first, positions),
        Target::Head { positions } => (0, positions),
        Target::Edge { .. } | Target::Mark { .. } => return,
    };
    let asked = positions.clone();
    for position in positions.iter_mut().filter(|position| **position > first) {
        if !asked.contains(&(*position - 1)) {
            *position -= 1;
        }
    }
}

fn row_of(first: u32, position: u32, state: &State) -> Option<usize> {
    let row = position.checked_sub(first)? as usize;
    (row < state.rows()).then_some(row)
}

impl Session {
    fn prover(&self, stage: usize) -> Prover<'_, Reference> {
        let Stage { weights, archive, columns, .. } = &self.stages[stage];
        let head = (stage == 0).then_some(&self.head);
        Prover::with_columns(&Reference, weights, head, archive, columns.clone())
    }

    /// A prover that has rebuilt its columns from the archive.
    pub(crate) fn rebuilt(
        &self,
        stage: usize,
        layer: u32,
        before: Option<Columns>,
    ) -> Prover<'_, Reference> {
        let rebuilt = self.rebuild(stage, layer, before).unwrap();
        let segment = &self.receipt.segments[stage];
        rebuilt.compare(segment.input_root, &segment.layers).unwrap();
        rebuilt
    }

    /// As [`Session::rebuilt`], if it can be.
    pub(crate) fn rebuild(
        &self,
        stage: usize,
        layer: u32,
        before: Option<Columns>,
    ) -> Result<Prover<'_, Reference>, OpenError> {
        self.rebuild_of(stage, &self.stages[stage].archive, layer, before)
    }

    /// A stage's prover over another archive.
    pub(crate) fn rebuild_of<'a>(
        &'a self,
        stage: usize,
        archive: &'a Archive,
        layer: u32,
        before: Option<Columns>,
    ) -> Result<Prover<'a, Reference>, OpenError> {
        let weights = &self.stages[stage].weights;
        let head = (stage == 0).then_some(&self.head);
        Prover::rebuild(&Reference, weights, head, archive, layer, before)
    }

    fn has(&self, stage: u32, wanted: impl Fn(&Lie) -> bool) -> bool {
        let who = self.stages[stage as usize].place;
        self.lies.iter().any(|(of, lie)| *of == who && wanted(lie))
    }

    /// What a stage answers to a challenge.
    pub(crate) fn answer(&self, stage: u32, challenge: &Challenge) -> SignedOpening {
        let who = self.stages[stage as usize].place;
        let signer = node(who);
        let opening = self.opening(stage, &challenge.target);
        let mut body = opening.to_bytes();
        for (_, lie) in self.lies.iter().filter(|(of, _)| *of == who) {
            if let Lie::OpeningByte(at) = *lie {
                let at = at % body.len();
                body[at] ^= 0x10;
            }
        }
        SignedOpening::new(challenge.statement(), body, &signer)
    }

    /// The mark that a stage or the head shows as the one that it got.
    fn shown(&self, stage: u32, position: u32) -> Mark {
        let received = match stage {
            0 => &self.head_received,
            stage => &self.stages[stage as usize].received,
        };
        let mut mark = *received.iter().find(|mark| mark.position == position).unwrap();
        if self.has(stage, |lie| *lie == Lie::MarkInputShown) {
            mark.output.0[0] ^= 1;
            let Stage { run, place, .. } = self.stages[stage as usize];
            mark = mark.signed(run.before, &node(place));
        }
        mark
    }

    /// What an honest stage answers: nothing, unless the challenge is about this run of its own and
    /// about what it computed or got in it.
    pub(crate) fn honest_answer(&self, stage: u32, challenge: &Challenge) -> Option<SignedOpening> {
        let place = stage as usize;
        let signed = |opening: Opening| {
            SignedOpening::new(challenge.statement(), opening.to_bytes(), &node(place))
        };
        if challenge.run != self.stages.get(place)?.run.id() {
            return None;
        }
        if let Target::Mark { position, .. } = challenge.target {
            let received =
                if stage == 0 { &self.head_received } else { &self.stages[place].received };
            let mark = received.iter().find(|mark| mark.position == position)?;
            return Some(signed(Opening::Mark(Box::new(*mark))));
        }
        self.prover(place).open(&challenge.target).ok().map(signed)
    }

    fn opening(&self, stage: u32, asked: &Target) -> Opening {
        if let Target::Mark { position, .. } = asked {
            return Opening::Mark(Box::new(self.shown(stage, *position)));
        }
        let prover = self.prover(stage as usize);
        if self.has(stage, |lie| *lie == Lie::Replay) {
            let other = self.other.as_ref().unwrap();
            if let Ok(opening) = other.prover(stage as usize).open(asked) {
                return opening;
            }
        }
        let mut target = asked.clone();
        if self.has(stage, |lie| *lie == Lie::AnotherPosition) {
            move_back(&mut target);
        }
        let Ok(mut opening) = prover.open(&target) else {
            // The head has none before its first: it opens what it was asked for.
            target = asked.clone();
            return prover.open(&target).unwrap();
        };
        let (sums, shape, rows) = match (&mut opening, &target) {
            (Opening::Layer(opening), Target::Layer { layer, positions, .. }) => {
                let Stage { span, weights, .. } = &self.stages[stage as usize];
                let plan = &weights[(layer - span.start) as usize].plan;
                if self.has(stage, |lie| *lie == Lie::SumsSwapped)
                    && let [_, _, _, gate_up, ..] = opening.sums.as_mut_slice()
                {
                    let (_, times, matrix) = plan.matrices_of_a_row()[3];
                    let rows = positions.len() * times;
                    let mut values = sums::decode(matrix.shape(), rows, gate_up).unwrap();
                    let half = values.len() / 2;
                    values.rotate_left(half);
                    gate_up.clear();
                    sums::encode(matrix.shape(), &values, gate_up);
                }
                (&mut opening.sums[0], plan.qkv.shape(), positions.len())
            }
            (Opening::Head(opening), Target::Head { positions }) => {
                (&mut opening.sums, self.head.output_shape, positions.len())
            }
            _ => return opening,
        };
        let wrong = self.has(stage, |lie| *lie == Lie::SumsWrong);
        let out_of_range = self.has(stage, |lie| *lie == Lie::SumsOutOfRange);
        if wrong || out_of_range {
            let mut values = sums::decode(shape, rows, sums).unwrap();
            values[0] = if wrong { values[0] + 1 } else { shape.sum_bound() + 1 };
            sums.clear();
            sums::encode(shape, &values, sums);
        }
        opening
    }

    /// The client's challenges, drawn and signed.
    pub(crate) fn challenges(&self, extent: Extent) -> Result<Vec<(u32, Challenge)>, Fault> {
        self.challenges_with(key(), extent)
    }

    fn challenges_with(&self, key: &Key, extent: Extent) -> Result<Vec<(u32, Challenge)>, Fault> {
        let targets = plan(key, &self.receipt, &SEED, extent)?;
        let (session, receipt) = (self.receipt.request.session(), self.receipt.digest());
        let challenge = |stage: u32, target| {
            let run = self.receipt.segments[stage as usize].run().id();
            let signature = Signature::NONE;
            Challenge { session, run, receipt, target, signature }.signed(&client())
        };
        Ok(targets.into_iter().map(|(stage, target)| (stage, challenge(stage, target))).collect())
    }

    /// Everything asked and answered.
    pub(crate) fn bundle(&self, extent: Extent) -> Result<Bundle, Fault> {
        self.bundle_with(key(), extent)
    }

    pub(crate) fn bundle_with(&self, key: &Key, extent: Extent) -> Result<Bundle, Fault> {
        let challenges = self.challenges_with(key, extent)?;
        let exchange =
            |(stage, challenge)| Exchange { opening: self.answer(stage, &challenge), challenge };
        let exchanges = challenges.into_iter().map(exchange).collect();
        Ok(Bundle { receipt: self.receipt.clone(), extent, seed: SEED.clone(), exchanges })
    }

    /// The client's verdict.
    pub(crate) fn verdict(&self, extent: Extent) -> Result<Verified<Receipt>, Unverified> {
        audit(&Reference, key(), &self.bundle(extent)?)
    }

    /// The fault that must be there.
    pub(crate) fn fault(&self, extent: Extent) -> Fault {
        match self.verdict(extent) {
            Err(Unverified::Failed(fault)) => fault,
            Err(other) => panic!("expected a fault of {:?}, got {other}", self.lies),
            Ok(_) => panic!("expected a fault of {:?}, got none", self.lies),
        }
    }
}
