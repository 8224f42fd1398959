//! Imported models against independent floating-point forward passes over the same files.
//!
//! Bounds: over the top-10 lists a mean |Δ log-probability| of at most 0.12, the same most probable
//! token at 94 % of positions or more, and the reference's own continuation of one prompt.

use lockstep_exact::blob::Blob;
use lockstep_exact::forward::{Probe, Row, Scratch, Sees, forward, logits};
use lockstep_exact::kv::KvCache;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::ops::{Device, Place, Products};
use lockstep_exact::state::State;
use lockstep_exact::weights::{HeadWeights, LayerWeights, load_head, load_span};
use lockstep_import::float::FloatModel;
use lockstep_import::package::{MemorySink, ModelFile};
use lockstep_kernels::Kernels;
use serde_json::Value;

type Matrix = <Kernels as Products>::Matrix;
type Kv = <Kernels as Device>::Kv;

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
        self.run_seen(cache, tokens, wanted, &mut ())
    }

    /// The same, with a look at what is computed on the way.
    fn run_seen(
        &self,
        cache: &mut Kv,
        tokens: &[u32],
        wanted: usize,
        seen: &mut impl Probe,
    ) -> Vec<Vec<f32>> {
        let place = |at| Place { slot: 0, position: at };
        let (first, end) = (cache.len(), cache.len() + tokens.len());
        let rows: Vec<Row> = (first..end)
            .map(|at| Row { place: place(at), feeds_head: at + wanted >= end })
            .collect();
        let (mut state, mut scratch) = (State::default(), Scratch::default());
        let ops = &self.ops;
        ops.embed(&self.head.embedding, self.head.embedding_scale, tokens, &mut state);
        let caches = &mut [cache];
        let state = forward(ops, &self.layers, &rows, caches, state, &mut scratch, seen).unwrap();
        let rows = &rows[tokens.len() - wanted..];
        let rows = logits(ops, &self.head, rows, &state, &mut scratch, &mut ()).unwrap();
        rows.into_iter().map(Result::unwrap).collect()
    }
}

/// The state of the last row after each layer.
struct LastStates(Vec<Vec<f32>>);

impl Probe for LastStates {
    const SEES: Sees = Sees { state: true, ..Sees::NOTHING };

    fn state(&mut self, _layer: u32, _rows: &[Row], state: &State) {
        let last = state.rows() - 1;
        self.0.push((0..state.width()).map(|element| state.value(last, element)).collect());
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
    let model = Model::load(&test_model::bytes(), "f7e4ca666299");
    println!("{}", check(&model, reference, "chat"));
}

/// Norms of heads and behind each part, GELU, two rotary tables, windows: its `long` text is longer
/// than these. Keys that are much larger in some elements than in others.
#[test]
fn gemma_says_what_a_float_model_says() {
    let reference = include_str!("../../../vectors/reference/gemma3-270m-f32.json");
    let file = std::fs::read(test_model::gemma()).unwrap();
    println!("{}", check(&Model::load(&file, "ab1e38f31aba"), reference, "long"));
}

/// The largest difference of two states.
fn largest_difference(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Says, for each layer, how far its state at the last position is from another program's, and
/// checks the differences over the state's largest magnitude: of the exact pass, and of this
/// project's own f32 forward pass.
fn check_layers(
    file: &[u8],
    id: &str,
    reference: &str,
    exact_bound: f32,
    float_bound: f32,
) -> String {
    let reference: Value = serde_json::from_str(reference).unwrap();
    let tokens = ids(&reference["ids"]);
    let expected: Vec<Vec<f32>> = serde_json::from_value(reference["states"].clone()).unwrap();
    let model = Model::load(file, id);
    let mut seen = LastStates(Vec::new());
    model.run_seen(&mut model.cache(), &tokens, 1, &mut seen);
    let float = FloatModel::read(&ModelFile::open(file).unwrap()).unwrap();
    let mut floats = Vec::new();
    let _ = float.states(&tokens, |_, x| floats.push(x[x.len() - float.hidden()..].to_vec()));
    assert_eq!((seen.0.len(), floats.len()), (expected.len(), expected.len()));
    let of = |what: &str| format!("{what}: max \\|\u{394}\\| | relative");
    let mut table = format!("| layer | largest \\|x\\| | {} | {} |\n", of("exact"), of("f32"));
    table += "|---|---|---|---|---|---|\n";
    for (layer, expected) in expected.iter().enumerate() {
        let size = expected.iter().fold(0.0, |size: f32, x| size.max(x.abs()));
        let exact = largest_difference(&seen.0[layer], expected);
        let float = largest_difference(&floats[layer], expected);
        let (of_exact, of_float) = (exact / size, float / size);
        table += &format!(
            "| {layer} | {size:.1} | {exact:.3} | {of_exact:.1e} | {float:.1e} | {of_float:.1e} |\n"
        );
        assert!(of_exact <= exact_bound, "layer {layer}: {of_exact}");
        assert!(of_float <= float_bound, "layer {layer}: {of_float}");
    }
    table
}

#[test]
fn every_layer_of_smollm2_gives_what_another_program_gives() {
    let reference = include_str!("../../../vectors/reference/smollm2-135m-states.json");
    let table = check_layers(&test_model::bytes(), "f7e4ca666299", reference, 0.015, 1e-5);
    println!("{table}");
}

#[test]
fn every_layer_of_gemma_gives_what_another_program_gives() {
    let reference = include_str!("../../../vectors/reference/gemma3-270m-states.json");
    let file = std::fs::read(test_model::gemma()).unwrap();
    // llama.cpp takes GELU from a table of binary16.
    println!("{}", check_layers(&file, "ab1e38f31aba", reference, 0.025, 5e-4));
}
