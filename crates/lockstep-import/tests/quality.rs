//! Imported models against independent floating-point forward passes over the same files.
//!
//! Bounds: over the top-10 lists a mean |Δ log-probability| of at most 0.12, the same most probable
//! token at 94 % of positions or more, and the reference's own continuation of one prompt.

use lockstep_exact::blob::Blob;
use lockstep_exact::forward::{Row, Scratch, forward, logits};
use lockstep_exact::kv::KvCache;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::ops::{Ops, Place};
use lockstep_exact::state::State;
use lockstep_exact::weights::{HeadWeights, LayerWeights, load_head, load_span};
use lockstep_import::package::{MemorySink, ModelFile};
use lockstep_kernels::Kernels;
use serde_json::Value;

type Matrix = <Kernels as Ops>::Matrix;
type Kv = <Kernels as Ops>::Kv;

struct Model {
    ops: Kernels,
    head: HeadWeights<Matrix>,
    layers: Vec<LayerWeights<Matrix>>,
}

impl Model {
    fn load(file: &[u8], id: &str) -> Self {
        let mut sink = MemorySink::default();
        let manifest = ModelFile::open(file).unwrap().import(&mut sink, |_| ()).unwrap();
        assert!(manifest.id().to_string().starts_with(id), "{}", manifest.id());
        let ops = Kernels::detect(2).unwrap();
        let all = 0..manifest.layers.len() as u32;
        let head = load_head(&ops, &manifest, |index| blob(&sink, &manifest, index));
        let layers = load_span(&ops, &manifest, all, |index| blob(&sink, &manifest, index));
        Self { head: head.unwrap(), layers: layers.unwrap(), ops }
    }

    fn cache(&self) -> Kv {
        KvCache::new(&self.layers.iter().map(LayerWeights::kv_shape).collect::<Vec<_>>())
    }

    /// Logits behind the last `wanted` of `tokens`, which follow what `cache` holds.
    fn run(&self, cache: &mut Kv, tokens: &[u32], wanted: usize) -> Vec<Vec<f32>> {
        let place = |at| Place { slot: 0, position: at };
        let (first, end) = (cache.len(), cache.len() + tokens.len());
        let rows: Vec<Row> = (first..end)
            .map(|at| Row { place: place(at), feeds_head: at + wanted >= end })
            .collect();
        let (mut state, mut scratch) = (State::default(), Scratch::default());
        let ops = &self.ops;
        ops.embed(&self.head.embedding, self.head.embedding_scale, tokens, &mut state);
        let caches = &mut [cache];
        let state =
            forward(ops, &self.layers, &rows, caches, state, &mut scratch, &mut ()).unwrap();
        let rows = &rows[tokens.len() - wanted..];
        let rows = logits(ops, &self.head, rows, &state, &mut scratch, &mut ()).unwrap();
        rows.into_iter().map(Result::unwrap).collect()
    }
}

fn blob(sink: &MemorySink, manifest: &Manifest, index: u32) -> Blob {
    Blob::new(sink.get(&manifest.blobs[index as usize].digest).unwrap().to_vec())
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn top(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a)));
    best.unwrap() as u32
}

fn log_normaliser(logits: &[f32]) -> f64 {
    let largest = f64::from(logits[top(logits) as usize]);
    largest + logits.iter().map(|x| (f64::from(*x) - largest).exp()).sum::<f64>().ln()
}

#[derive(Default)]
struct Score {
    distance: f64,
    compared: u32,
    same_top: u32,
    positions: u32,
}

impl Score {
    fn add(&mut self, logits: &[f32], expected: &Value) {
        let normaliser = log_normaliser(logits);
        let expected = expected.as_array().unwrap();
        for pair in expected {
            let id = pair[0].as_u64().unwrap() as usize;
            let got = f64::from(logits[id]) - normaliser;
            self.distance += (got - pair[1].as_f64().unwrap()).abs();
            self.compared += 1;
        }
        self.same_top += u32::from(u64::from(top(logits)) == expected[0][0].as_u64().unwrap());
        self.positions += 1;
    }
}

/// Holds a model to the bounds; the continuation of `greedy` must be the reference's. Gives what
/// there is to say.
fn check(model: &Model, reference: &str, greedy: &str) -> String {
    let reference: Value = serde_json::from_str(reference).unwrap();
    let (mut score, mut report) = (Score::default(), String::new());
    for (name, entry) in reference.as_object().unwrap() {
        let mut cache = model.cache();
        let expected = entry["top10_logprob_per_position"].as_array().unwrap();
        let rows = model.run(&mut cache, &ids(&entry["ids"]), expected.len());
        assert_eq!(rows.len(), expected.len(), "{name}");
        rows.iter().zip(expected).for_each(|(logits, expected)| score.add(logits, expected));
        let wanted = ids(&entry["greedy_continuation"]);
        let mut logits = rows.last().unwrap().clone();
        let mut answer = Vec::new();
        while answer.len() < wanted.len() {
            answer.push(top(&logits));
            logits = model.run(&mut cache, answer.last_chunk::<1>().unwrap(), 1).pop().unwrap();
        }
        let same = answer.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
        report += &format!("{name}: {same} of {} greedy tokens as there\n", wanted.len());
        assert!(name != greedy || answer == wanted, "{answer:?}");
    }
    let mean = score.distance / f64::from(score.compared);
    let same = f64::from(score.same_top) / f64::from(score.positions);
    assert!(mean <= 0.12, "mean |Δ log-probability| is {mean}");
    assert!(same >= 0.94, "the top token is the same at {same}");
    report + &format!("mean |Δ log-probability| {mean:.4}, same top token {:.1} %", 100.0 * same)
}

#[test]
fn smollm2_says_what_a_float_model_says() {
    let reference = include_str!("../../../vectors/reference/smollm2-135m-f32.json");
    let model = Model::load(&test_model::bytes(), "a6ead771f900");
    println!("{}", check(&model, reference, "chat"));
}

/// Norms of heads and behind each part, GELU, two rotary tables, windows: its `long` text is longer
/// than these. Keys that are much larger in some elements than in others.
#[test]
fn gemma_says_what_a_float_model_says() {
    let reference = include_str!("../../../vectors/reference/gemma3-270m-f32.json");
    let file = std::fs::read(test_model::gemma()).unwrap();
    println!("{}", check(&Model::load(&file, "f970032a7e1a"), reference, "long"));
}
