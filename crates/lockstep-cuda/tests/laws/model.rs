//! Whole models through the backend that servers use: what a server commits to, and the logits, are
//! the reference's.

use lockstep_cuda::Cuda;
use lockstep_exact::forward::{self, Probe, Row, Scratch};
use lockstep_exact::kv::{KvCache, KvShape};
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{Device, Host, KvOf, Place, StateOf};
use lockstep_exact::reference::Reference;
use lockstep_exact::state::State;
use lockstep_exact::weights::{Backend, HeadOf, LayerOf, load_head, load_span};
use lockstep_testing::shown::{Committed, Everything};
use lockstep_testing::tiny_model::{Features, Sizes, TinyModel};

use crate::gpus;

/// The bits of one row's logits.
type Logits = Result<Vec<u32>, Overflow>;

/// A model and some of its sessions on a backend.
struct World<'a, O: Backend> {
    ops: &'a O,
    head: HeadOf<O>,
    layers: Vec<LayerOf<O>>,
    caches: Vec<KvOf<O>>,
    scratch: Scratch<O::Device>,
    logits: Vec<Logits>,
}

impl<'a, O: Backend> World<'a, O> {
    fn new(ops: &'a O, model: &TinyModel, sessions: usize) -> Self {
        let head = load_head(ops, &model.manifest, |b| model.blob(b)).unwrap();
        let layers = load_span(ops, &model.manifest, model.span(), |b| model.blob(b)).unwrap();
        let shapes: Vec<KvShape> = layers.iter().map(|layer| layer.kv_shape()).collect();
        let caches = (0..sessions).map(|_| KvCache::new(&shapes)).collect();
        Self { ops, head, layers, caches, scratch: Scratch::default(), logits: Vec::new() }
    }

    /// Feeds each session its next tokens, in one batch; the last of each feeds the head.
    fn feed<P: Probe>(&mut self, tokens: &[Vec<u32>], probe: &mut P) -> Result<(), O::Error> {
        let mut rows = Vec::new();
        for (slot, tokens) in tokens.iter().enumerate() {
            let first = self.caches[slot].len();
            rows.extend((0..tokens.len()).map(|at| Row {
                place: Place { slot, position: first + at },
                feeds_head: at + 1 == tokens.len(),
            }));
        }
        let (ops, device) = (self.ops, self.ops.device());
        let mut state = StateOf::<O>::default();
        let head = &self.head;
        device.embed(&head.embedding, head.embedding_scale, &tokens.concat(), &mut state);
        let state = device.read_state(&state)?.into_owned();
        let state = device.put_state(state)?;
        let mut caches: Vec<&mut KvOf<O>> = self.caches.iter_mut().collect();
        let (layers, scratch) = (&self.layers, &mut self.scratch);
        let state = forward::serve(ops, layers, &rows, &mut caches, state, scratch, probe)?;
        rows.retain(|row| row.feeds_head);
        let all = forward::logits(ops, head, &rows, &state, scratch, probe)?;
        let bits = |row: Vec<f32>| row.iter().map(|logit| logit.to_bits()).collect();
        self.logits.extend(all.into_iter().map(|row| row.map(bits)));
        Ok(())
    }
}

/// Serves prompts of these lengths in chunks, and some decode steps of all sessions together.
fn play<O: Backend, P: Probe>(
    ops: &O,
    model: &TinyModel,
    lengths: &[usize],
    chunk: usize,
    probe: &mut P,
) -> Result<Vec<Logits>, O::Error> {
    let mut world = World::new(ops, model, lengths.len());
    let token = |session: usize, at: usize| ((at * 37 + session * 11) % 256) as u32 + 1;
    let longest = lengths.iter().copied().max().unwrap();
    for start in (0..longest).step_by(chunk) {
        let part = |(session, &length): (usize, &usize)| {
            (start.min(length)..(start + chunk).min(length)).map(|at| token(session, at)).collect()
        };
        let tokens: Vec<Vec<u32>> = lengths.iter().enumerate().map(part).collect();
        world.feed(&tokens, probe)?;
    }
    for step in 0..3 {
        let of = |(session, &length): (usize, &usize)| vec![token(session, length + step)];
        let tokens: Vec<Vec<u32>> = lengths.iter().enumerate().map(of).collect();
        world.feed(&tokens, probe)?;
    }
    Ok(world.logits)
}

/// Holds every text of the GPU to the reference.
fn hold<P: Probe + Default + PartialEq + std::fmt::Debug>(
    what: &str,
    model: &TinyModel,
    lengths: &[usize],
    chunk: usize,
) {
    let mut expected = P::default();
    let Ok(logits) = play(&Reference, model, lengths, chunk, &mut expected);
    for gpu in gpus() {
        let target = gpu.target();
        let (cuda, mut seen) = (Cuda::new(gpu), P::default());
        let got = play(&cuda, model, lengths, chunk, &mut seen).unwrap();
        assert!(got == logits, "{what}, {target}: logits");
        assert!(seen == expected, "{what}, {target}: what is shown");
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo test --release -p lockstep-cuda -- --ignored"]
fn models_of_every_feature_are_served_as_by_the_reference() {
    let all = std::iter::once(("none", Features::NONE)).chain(Features::EACH);
    for (seed, (name, features)) in (1..).zip(all) {
        let sizes = Sizes { layers: 3, ..Sizes::default() };
        let model = TinyModel::with_features(seed, sizes, features);
        hold::<Everything>(name, &model, &[5, 3, 9], 4);
        hold::<Committed>(name, &model, &[5, 3, 9], 4);
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo test --release -p lockstep-cuda -- --ignored"]
fn sessions_of_several_pages_and_more_than_a_step_takes_are_served_as_by_the_reference() {
    let sizes = Sizes { layers: 2, ..Sizes::default() };
    let model = TinyModel::with_sizes(9, sizes);
    hold::<Committed>("pages", &model, &[300, 255, 1], 128);
    hold::<Committed>("many", &model, &[3, 1, 4, 1, 5, 9, 2, 6, 5], 4);
}

/// States of a session whose past was written row by row, as for a challenge.
fn after_past<O: Backend>(
    ops: &O,
    model: &TinyModel,
    past: &Committed,
    input: &State,
) -> Result<Everything, O::Error> {
    let mut world = World::new(ops, model, 1);
    for (layer, _, rows) in &past.0.kv {
        let bytes = world.layers[*layer as usize].kv_shape().row_bytes();
        for (position, row) in rows.chunks_exact(bytes).enumerate() {
            world.caches[0].write_row(*layer as usize, position, row).unwrap();
        }
    }
    let position = world.caches[0].len();
    let rows = [Row { place: Place { slot: 0, position }, feeds_head: true }];
    let state = ops.device().put_state(input.clone())?;
    let mut seen = Everything::default();
    let (layers, scratch) = (&world.layers, &mut world.scratch);
    let mut caches: Vec<&mut KvOf<O>> = world.caches.iter_mut().collect();
    forward::forward(ops, layers, &rows, &mut caches, state, scratch, &mut seen)?;
    Ok(seen)
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo test --release -p lockstep-cuda -- --ignored"]
fn a_past_that_is_written_row_by_row_is_the_past_that_was_computed() {
    let model = TinyModel::with_sizes(4, Sizes { layers: 2, ..Sizes::default() });
    let mut past = Committed::default();
    let mut world = World::new(&Reference, &model, 1);
    let Ok(()) = world.feed(&[(1..=258).map(|at| at % 256 + 1).collect()], &mut past);
    let mut input = State::default();
    let head = &world.head;
    Reference.embed(&head.embedding, head.embedding_scale, &[7], &mut input);
    let Ok(expected) = after_past(&Reference, &model, &past, &input);
    for gpu in gpus() {
        let got = after_past(&Cuda::new(gpu), &model, &past, &input).unwrap();
        assert!(got == expected);
    }
}
