//! The forward pass of a whole model of random weights: prefill and decode.

use std::hint::black_box;

use lockstep_exact::digest::Digest;
use lockstep_exact::forward::{Row, Scratch, forward, logits};
use lockstep_exact::kv::KvCache;
use lockstep_exact::manifest::{
    Activation, AttentionPlan, BiasesPlan, LayerPlan, MatrixRef, NormPlan, VectorRef,
};
use lockstep_exact::matrix::Packed;
use lockstep_exact::num::LOG2_E;
use lockstep_exact::ops::{Ops, Place};
use lockstep_exact::state::State;
use lockstep_exact::weights::{HeadWeights, LayerWeights, Norm, Product, kv_shape};
use lockstep_kernels::{Kernels, Kv};

use crate::Times;
use crate::machine::Machine;
use crate::random::{Random, matrix};

/// Positions of a prompt, and of a chunk of it.
const PROMPT: usize = 512;
const CHUNK: usize = 128;
/// Tokens that are decoded.
const DECODED: usize = 100;
/// Sessions of a batch.
const BATCH: usize = 8;

/// The sizes of a model.
struct Sizes {
    name: &'static str,
    layers: u32,
    hidden: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    inner: u32,
    vocabulary: usize,
}

const MODELS: [Sizes; 2] = [
    Sizes {
        name: "SmolLM2-135M",
        layers: 30,
        hidden: 576,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        inner: 1536,
        vocabulary: 49_152,
    },
    Sizes {
        name: "Llama-3.2-1B with 49,152 tokens",
        layers: 16,
        hidden: 2048,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        inner: 8192,
        vocabulary: 49_152,
    },
];

struct Model {
    layers: Vec<LayerWeights<Packed>>,
    head: HeadWeights<Packed>,
}

pub(crate) fn run(kernels: &Kernels, machine: &Machine) {
    for sizes in &MODELS {
        let model = Model::new(sizes);
        let mut session = Session::new(kernels, &model);
        println!("{}", sizes.name);
        let prefill = session.prefill();
        let rate = PROMPT as f64 / prefill.best();
        let products = 2.0 * model.products() as f64 * rate / 1e9;
        let peak = 100.0 * products / machine.peak_gmac_s.unwrap_or(f64::NAN);
        let median = PROMPT as f64 / prefill.median();
        println!(
            "  prefill {PROMPT}: {rate:.1} tokens/s, median {median:.1}; {peak:.0} % of the peak"
        );
        let decode = session.decode(1);
        let floor = machine.read_gb_s * 1e9 / model.bytes() as f64;
        let (rate, median) = (1.0 / decode.best(), 1.0 / decode.median());
        let share = 100.0 * rate / floor;
        println!("  decode: {rate:.1} tokens/s, median {median:.1}; {share:.0} % of the floor");
        let batch = session.decode(BATCH);
        let (rate, median) = (BATCH as f64 / batch.best(), BATCH as f64 / batch.median());
        println!("  decode of {BATCH} sessions: {rate:.1} tokens/s, median {median:.1}");
    }
}

struct Session<'a> {
    kernels: &'a Kernels,
    model: &'a Model,
    cache: Kv,
    scratch: Scratch<Kernels>,
}

impl<'a> Session<'a> {
    fn new(kernels: &'a Kernels, model: &'a Model) -> Self {
        let cache = empty_cache(model);
        Self { kernels, model, cache, scratch: Scratch::default() }
    }

    /// Feeds a prompt in chunks.
    fn feed(&mut self, len: usize) {
        for start in (0..len).step_by(CHUNK) {
            let places =
                (start..len.min(start + CHUNK)).map(|position| Place { slot: 0, position });
            let last = |place: &Place| place.position + 1 == len;
            let rows: Vec<Row> =
                places.map(|place| Row { place, feeds_head: last(&place) }).collect();
            step(self.kernels, self.model, &rows, &mut [&mut self.cache], &mut self.scratch);
        }
    }

    /// Prefills of a prompt; the cache then holds one.
    fn prefill(&mut self) -> Times {
        Times::of(7, || {
            self.cache = empty_cache(self.model);
            self.feed(PROMPT);
        })
    }

    /// Steps of `count` sessions, each with the prompt in its cache.
    fn decode(&mut self, count: usize) -> Times {
        let mut caches = vec![self.cache.clone(); count];
        let mut position = PROMPT;
        Times::of(DECODED, || {
            let place = |slot| Place { slot, position };
            let rows: Vec<Row> =
                (0..count).map(|slot| Row { place: place(slot), feeds_head: true }).collect();
            let mut all: Vec<&mut Kv> = caches.iter_mut().collect();
            step(self.kernels, self.model, &rows, &mut all, &mut self.scratch);
            position += 1;
        })
    }
}

fn empty_cache(model: &Model) -> Kv {
    let shapes: Vec<_> = model.layers.iter().map(LayerWeights::kv_shape).collect();
    Kv::new(&shapes)
}

/// One step of a batch: embedding, layers, and the head for the rows that feed it.
fn step(
    kernels: &Kernels,
    model: &Model,
    rows: &[Row],
    caches: &mut [&mut Kv],
    scratch: &mut Scratch<Kernels>,
) {
    let Model { layers, head } = model;
    let tokens: Vec<u32> = rows.iter().map(|row| row.place.position as u32 * 7 % 1000).collect();
    let mut state = State::default();
    kernels.embed(&head.embedding, head.embedding_scale, &tokens, &mut state);
    let Ok(state) = forward(kernels, layers, rows, caches, state, scratch, &mut ());
    let fed: Vec<Row> = rows.iter().filter(|row| row.feeds_head).copied().collect();
    if !fed.is_empty() {
        let Ok(logits) = logits(kernels, head, &fed, &state, scratch, &mut ());
        assert!(logits.iter().all(Result::is_ok), "random weights do not overflow");
        black_box(logits);
    }
}

impl Model {
    fn new(sizes: &Sizes) -> Self {
        let mut random = Random(0x1234_5678_9abc_def1);
        let hidden = sizes.hidden as usize;
        let embedding = matrix(&mut random, sizes.vocabulary, hidden);
        let (scales, matrix) = (embedding.row_scales(), embedding.clone());
        let output = Product { scales, matrix, bias: None };
        let norm = norm(hidden);
        let head = HeadWeights { embedding, embedding_scale: 1.0, norm, output };
        let layers = (0..sizes.layers).map(|layer| new_layer(&mut random, sizes, layer)).collect();
        Self { layers, head }
    }

    fn matrices(&self) -> impl Iterator<Item = &Packed> {
        let layers = self.layers.iter().flat_map(|layer| {
            [&layer.qkv, &layer.output, &layer.gate_up, &layer.down].map(|product| &product.matrix)
        });
        layers.chain([&self.head.output.matrix])
    }

    /// Bytes that a decoded token reads.
    fn bytes(&self) -> usize {
        self.matrices().map(|matrix| matrix.bytes().len()).sum()
    }

    /// Weights that a position of a prompt is multiplied with: not the head's.
    fn products(&self) -> usize {
        let weights = |matrix: &Packed| matrix.shape().rows * matrix.shape().columns;
        self.matrices().map(weights).sum::<usize>() - weights(&self.head.output.matrix)
    }
}

fn norm(width: usize) -> Norm {
    Norm { eps: 1e-5, gain: vec![1.0; width] }
}

fn new_layer(random: &mut Random, sizes: &Sizes, layer: u32) -> LayerWeights<Packed> {
    let plan = plan(sizes);
    let (hidden, inner) = (sizes.hidden as usize, sizes.inner as usize);
    let mut product = |rows, columns| {
        let matrix = matrix(random, rows, columns);
        Product { scales: matrix.row_scales(), matrix, bias: None }
    };
    assert_eq!(kv_shape(&plan).head_dim, sizes.head_dim as usize);
    LayerWeights {
        layer,
        is_last: layer + 1 == sizes.layers,
        plan,
        rope: (0..sizes.head_dim / 2).map(|pair| (1 << 61) >> pair).collect(),
        attention_norm: norm(hidden),
        qkv: product(plan.attention.qkv_width(), hidden),
        output: product(hidden, plan.attention.query_width()),
        ffn_norm: norm(hidden),
        gate_up: product(2 * inner, hidden),
        down: product(hidden, inner),
        head_norms: None,
        post_norms: None,
    }
}

/// A plan whose references to blobs are not used: the weights are made here.
fn plan(sizes: &Sizes) -> LayerPlan {
    let matrix = MatrixRef { offset: 0, rows: 0, columns: 0, digest: Digest::of(&[]) };
    let norm = NormPlan { eps: 1e-5, gain: VectorRef { offset: 0, len: 0 } };
    let attention = AttentionPlan {
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_dim: sizes.head_dim,
        rope: 0,
        window: 0,
        score_scale: LOG2_E / (sizes.head_dim as f32).sqrt(),
    };
    LayerPlan {
        blob: 0,
        attention_norm: norm,
        qkv: matrix,
        attention,
        output: matrix,
        ffn_norm: norm,
        gate_up: matrix,
        activation: Activation::Silu,
        down: matrix,
        biases: BiasesPlan::default(),
        head_norms: None,
        post_norms: None,
    }
}
