//! A ring of proofs: what the stages of a session compute, commit to and sign, made without frames,
//! machines or time. One stage or several may do something wrong.
//!
//! It makes receipts that no protocol gives yet, such as those of stages that others replace, and
//! statements that no server's code could sign; [`ring`](crate::ring) has the protocol's machines.

mod live;
mod misdeed;
mod session;
mod stage;

pub use misdeed::{Misdeed, Slip, slip, told};
pub use session::{Session, sign_again, sign_chain};

use std::ops::Range;
use std::sync::{LazyLock, OnceLock};

use lockstep_exact::Digest;
use lockstep_exact::kv::{KvCache as _, ReferenceKv};
use lockstep_exact::matrix::Packed;
use lockstep_exact::reference::Reference;
use lockstep_exact::sample::{Sampling, Stops};
use lockstep_exact::weights::{LayerWeights, load_head, load_span};
use lockstep_verify::archive::Archive;
use lockstep_verify::column::{Columns, Keep};
use lockstep_verify::key::Key;
use lockstep_verify::request::{AuditSeed, Hop, Lease, Request};
use lockstep_verify::secret::Secret;
use lockstep_verify::sign::{Keypair, Signature};
use lockstep_verify::statement::{Mark, Run, RunId};

use crate::lie::Lie;
use crate::tiny_model::TinyModel;
use live::Live;
use stage::Stage;

/// Returns the tiny model that sessions compute with where a test does not bring its own: seed 1,
/// the default sizes.
pub fn model() -> &'static TinyModel {
    static MODEL: OnceLock<TinyModel> = OnceLock::new();
    MODEL.get_or_init(|| TinyModel::new(1))
}

/// Returns a verifier's key for [`model`].
pub fn key() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| key_of(model()))
}

/// Makes a verifier's key for a tiny model. The secret is the same in all tests.
///
/// # Panics
/// When the model cannot be loaded.
pub fn key_of(model: &TinyModel) -> Key {
    Key::generate(
        &Reference,
        model.manifest.clone(),
        Secret::of(&[9; 32]),
        |b| model.blob(b),
        |_| (),
    )
    .unwrap()
}

/// A client's request in tests, as far as tests choose it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The token ids of the prompt.
    pub prompt: Vec<u32>,
    /// The sampling parameters of the request.
    pub sampling: Sampling,
    /// The stop rules that end the answer.
    pub stops: Stops,
    /// Every byte of the request's nonce.
    pub nonce: u8,
}

impl Ask {
    /// Asks greedily for `max_tokens` tokens after a prompt of `prompt_len` ids that `seed` gives.
    pub fn new(seed: u32, prompt_len: u32, max_tokens: u32) -> Self {
        let prompt = (0..prompt_len).map(|i| (i * 37 + seed * 91 + 11) % 256).collect();
        let stops = Stops { max_tokens, ignore_end: true, strings: Vec::new() };
        let nonce = u8::try_from(seed % 251).unwrap();
        Self { prompt, sampling: Sampling::default(), stops, nonce }
    }
}

/// Returns the key pair of the node that serves the stage at the place `stage` of the ring.
pub fn node(stage: usize) -> Keypair {
    Keypair::from_secret(&[u8::try_from(stage).unwrap() + 1; 32])
}

/// Returns the key pair that signs leases and challenges: the session key of every request.
pub fn client() -> Keypair {
    Keypair::from_secret(&[200; 32])
}

/// The seed that every request commits to, from which challenges are drawn.
pub static SEED: LazyLock<AuditSeed> = LazyLock::new(|| AuditSeed::new(Secret::of(&[77; 32])));

/// A ring of stages over the model.
pub struct Ring<'m> {
    /// The model whose layers the stages share.
    pub model: &'m TinyModel,
    /// Layers at which a new stage begins, 0 included, and the number of layers.
    pub bounds: Vec<u32>,
    /// Positions of a chunk of the prompt.
    pub chunk: usize,
    /// The misdeeds of stages, each with the stage's place in the ring.
    pub misdeeds: Vec<(usize, Misdeed)>,
    /// Which run of its session this is: the stages draw other values in each.
    pub run: u8,
    /// Stages that are given another lease than the client's, changed and signed by this key.
    pub leases: Vec<(usize, OtherLease)>,
    /// Positions that server 1 has the ring run beyond those that it tells.
    pub tail: u32,
    /// Stages that are replaced, in the order in which it happens.
    pub taken: Vec<Taken>,
}

/// A stage that another server replaces before the frame at a position.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// The place in the ring of the stage that is replaced.
    pub place: usize,
    /// The position of the first frame that the other server gets.
    pub at: u32,
    /// Whether it hands its place over and signs what it did, or is lost with all it would sign.
    pub is_handed: bool,
}

/// Returns the number of the server that takes over with a lease of this epoch: its lies and its
/// key are those of this number.
pub fn standby(epoch: usize) -> usize {
    100 + epoch
}

/// A lease that is not the client's.
#[derive(Clone, Copy)]
pub struct OtherLease {
    /// Changes the client's lease into the other one.
    pub change: fn(&mut Lease),
    /// Returns the key that signs the changed lease.
    pub key: fn() -> Keypair,
}

impl<'m> Ring<'m> {
    /// Creates an honest ring with stages that begin at layer 0 and at the layers `cuts`.
    pub fn new(model: &'m TinyModel, cuts: &[u32]) -> Self {
        let mut bounds = vec![0];
        bounds.extend_from_slice(cuts);
        bounds.push(model.span().end);
        Self {
            model,
            bounds,
            chunk: 5,
            misdeeds: Vec::new(),
            run: 1,
            leases: Vec::new(),
            tail: 0,
            taken: Vec::new(),
        }
    }

    /// Adds one misdeed of the stage at the place `stage`, and returns the ring.
    pub fn lying(mut self, stage: usize, misdeed: Misdeed) -> Self {
        self.misdeeds.push((stage, misdeed));
        self
    }

    /// Returns the layers of the stage at the place `stage`.
    pub fn span(&self, stage: usize) -> Range<u32> {
        self.bounds[stage]..self.bounds[stage + 1]
    }

    /// Returns the number of stages of the ring.
    pub fn stages(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Returns the client's signed lease for a request, at epoch 0.
    pub fn lease(&self, request: &Request) -> Lease {
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

    /// What whoever has this number does wrong.
    fn misdeeds_of(&self, place: usize) -> Vec<Misdeed> {
        let own = self.misdeeds.iter().filter(|(of, _)| *of == place);
        own.map(|(_, misdeed)| *misdeed).collect()
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
        let misdeeds = self.misdeeds_of(place);
        let load = |b| misdeed::blob(&misdeeds, &model.manifest, b, model.blob(b));
        let mut weights = match span.is_empty() {
            true => Vec::new(),
            false => load_span(&Reference, &model.manifest, span.clone(), load).unwrap(),
        };
        for misdeed in misdeeds {
            weights.iter_mut().for_each(|layer| misdeed::alter(layer, misdeed));
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

    /// Returns the request that the client makes of what a test asks.
    pub fn request(&self, ask: &Ask) -> Request {
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
    pub fn run(&self, ask: &Ask) -> Session {
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
        let all: Vec<Misdeed> = self.misdeeds.iter().map(|(_, misdeed)| *misdeed).collect();
        let other = misdeed::aim(&all, Lie::OtherSession).map(|_| {
            let honest =
                Ring { chunk: self.chunk, ..Ring::new(self.model, &self.bounds[1..self.stages()]) };
            let mut ask = ask.clone();
            ask.prompt[0] ^= 1;
            Box::new(honest.run(&ask))
        });
        Session { other, ..live.finish(finish, told) }
    }
}
