//! Laws of whole models: the one forward pass over kernels and over the reference.

use lockstep_exact::forward::{Row, Scratch, forward, logits};
use lockstep_exact::kv::{KvCache, ReadKv};
use lockstep_exact::ops::{Device as _, Host as _, KvOf, Place, StateOf};
use lockstep_exact::reference::Reference;
use lockstep_exact::weights::{Backend, load_head, load_span};
use lockstep_kernels::Kernels;
use lockstep_testing::tiny_model::{Features, Sizes, TinyModel};

/// Everything a run shows: states, KV rows and the logits' bits.
#[derive(Debug, PartialEq)]
struct Seen {
    states: Vec<u8>,
    kv: Vec<u8>,
    logits: Vec<u32>,
}

/// Feeds one prompt per session, `chunk` positions of each at a time, all sessions in one batch.
fn run<O: Backend>(ops: &O, model: &TinyModel, prompts: &[Vec<u32>], chunk: usize) -> Vec<Seen>
where
    O::Error: std::fmt::Debug,
    KvOf<O>: ReadKv,
{
    let head = load_head(ops, &model.manifest, |b| model.blob(b)).unwrap();
    let layers = load_span(ops, &model.manifest, model.span(), |b| model.blob(b)).unwrap();
    let shapes: Vec<_> = layers.iter().map(|layer| layer.kv_shape()).collect();
    let mut caches: Vec<KvOf<O>> = prompts.iter().map(|_| KvCache::new(&shapes)).collect();
    let mut scratch = Scratch::default();
    let mut seen: Vec<Seen> = prompts
        .iter()
        .map(|_| Seen { states: Vec::new(), kv: Vec::new(), logits: Vec::new() })
        .collect();
    let longest = prompts.iter().map(Vec::len).max().unwrap();
    for start in (0..longest).step_by(chunk) {
        let rows: Vec<Row> = (0..prompts.len())
            .flat_map(|slot| {
                let end = prompts[slot].len().min(start + chunk);
                (start..end).map(move |position| Place { slot, position })
            })
            .map(|place| Row { place, feeds_head: place.position % 3 == 0 })
            .collect();
        let tokens: Vec<u32> =
            rows.iter().map(|row| prompts[row.place.slot][row.place.position]).collect();
        let mut state = StateOf::<O>::default();
        ops.device().embed(&head.embedding, head.embedding_scale, &tokens, &mut state);
        let mut all: Vec<&mut KvOf<O>> = caches.iter_mut().collect();
        let state = forward(ops, &layers, &rows, &mut all, state, &mut scratch, &mut ()).unwrap();
        let rows: Vec<Row> = rows.into_iter().filter(|row| row.feeds_head).collect();
        if rows.is_empty() {
            continue;
        }
        let out = logits(ops, &head, &rows, &state, &mut scratch, &mut ()).unwrap();
        let state = ops.device().read_state(&state).unwrap();
        for (at, (row, logits)) in rows.iter().zip(out).enumerate() {
            let seen = &mut seen[row.place.slot];
            state.write_row(at, &mut seen.states);
            seen.logits.extend(logits.unwrap().iter().map(|logit| logit.to_bits()));
        }
    }
    for (slot, seen) in seen.iter_mut().enumerate() {
        for layer in 0..shapes.len() {
            for position in 0..prompts[slot].len() {
                caches[slot].read_row(layer, position, &mut seen.kv);
            }
        }
    }
    seen
}

fn prompt(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * 37 + 11 + seed * 101) % 256).collect()
}

/// Sizes that fit no group, register or line.
const ODD: Sizes = Sizes {
    layers: 2,
    hidden: 96,
    heads: 6,
    kv_heads: 2,
    head_dim: 18,
    inner: 100,
    vocabulary: 272,
    context: 2048,
};

pub(crate) fn a_whole_model_gives_the_same_bits_in_any_chunks(kernels: &Kernels) {
    for sizes in [Sizes { layers: 2, ..Sizes::default() }, ODD] {
        let model = TinyModel::with_sizes(3, sizes);
        let prompts = [prompt(0, 270)];
        let expected = run(&Reference, &model, &prompts, 270);
        for chunk in [1, 7, 64, 270] {
            assert_eq!(run(kernels, &model, &prompts, chunk), expected, "chunks of {chunk}");
        }
    }
}

pub(crate) fn every_feature_of_every_family_gives_the_same_bits(kernels: &Kernels) {
    for (name, features) in Features::EACH {
        let model = TinyModel::with_features(5, ODD, features);
        let prompts = [prompt(0, 40), prompt(1, 9)];
        let expected = run(&Reference, &model, &prompts, 40);
        for chunk in [1, 40] {
            assert_eq!(
                run(kernels, &model, &prompts, chunk),
                expected,
                "{name}, chunks of {chunk}"
            );
        }
    }
}

/// Enough rows that experts share their work between threads.
pub(crate) fn a_row_goes_through_its_experts_alone_as_in_any_batch(kernels: &Kernels) {
    let features = Features { experts: true, shared_expert: true, ..Features::default() };
    let sizes = Sizes { layers: 2, hidden: 256, inner: 384, ..Sizes::default() };
    let model = TinyModel::with_features(9, sizes, features);
    let prompts: Vec<Vec<u32>> =
        [90, 1, 77].iter().enumerate().map(|(i, &len)| prompt(i as u32, len)).collect();
    let alone: Vec<Seen> = prompts
        .iter()
        .flat_map(|prompt| run(&Reference, &model, std::slice::from_ref(prompt), 90))
        .collect();
    for chunk in [1, 64, 90] {
        assert_eq!(run(kernels, &model, &prompts, chunk), alone, "chunks of {chunk}");
    }
}

pub(crate) fn a_batch_of_sessions_gives_the_same_bits_as_each_alone(kernels: &Kernels) {
    let model = TinyModel::with_sizes(4, ODD);
    let prompts: Vec<Vec<u32>> =
        [5, 1, 33, 17, 40].iter().enumerate().map(|(i, &len)| prompt(i as u32, len)).collect();
    let alone: Vec<Seen> = prompts
        .iter()
        .flat_map(|prompt| run(&Reference, &model, std::slice::from_ref(prompt), 40))
        .collect();
    for chunk in [1, 3, 40] {
        assert_eq!(run(kernels, &model, &prompts, chunk), alone, "chunks of {chunk}");
    }
}
