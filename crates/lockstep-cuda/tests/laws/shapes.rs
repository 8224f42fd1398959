//! Random models of the sizes that people run, made fast.

use lockstep_exact::blob::Blob;
use lockstep_exact::feed_forward::{FeedForward, Gated};
use lockstep_exact::matrix::{Codec, Packed, seeded_bytes};
use lockstep_exact::norm::Norm;
use lockstep_exact::num;
use lockstep_exact::reference::Reference;
use lockstep_exact::weights::{self, HeadWeights, LayerWeights, Product};
use lockstep_testing::tiny_model::{Sizes, TinyModel};

/// A layer and a head of random weights: the layer can be used as often as a model has layers.
pub(crate) fn random_model(
    seed: u64,
    codec: Codec,
    sizes: Sizes,
) -> (LayerWeights<Packed>, HeadWeights<Packed>) {
    let tiny = TinyModel::new(seed);
    let blob = |index| tiny.blob(index);
    let mut layers = weights::load_span(&Reference, &tiny.manifest, 0..1, blob).unwrap();
    let mut head = weights::load_head(&Reference, &tiny.manifest, blob).unwrap();
    let mut layer = layers.remove(0);
    let Sizes { hidden, heads, kv_heads, head_dim, inner, vocabulary, .. } = sizes;
    let matrix = |seed, rows: u32, columns: u32| {
        let shape = codec.shape(rows as usize, columns as usize);
        let bytes = Blob::new(seeded_bytes(seed, shape));
        Packed::new(shape, bytes.slice(0, shape.packed_bytes()).unwrap()).unwrap()
    };
    let product = |seed, rows, columns| {
        let matrix = matrix(seed, rows, columns);
        Product { scales: matrix.row_scales(), matrix, bias: None }
    };
    let gain = |k: u32| 1.0 + (k % 7) as f32 * num::pow2(-4);
    let norm = || Norm::new(1e-5, (0..hidden).map(gain).collect());
    let plan = &mut layer.plan.attention;
    (plan.heads, plan.kv_heads, plan.head_dim) = (heads, kv_heads, head_dim);
    plan.score_scale = num::LOG2_E / (head_dim as f32).sqrt();
    layer.rope = (0..head_dim / 2).map(|pair| (1_u64 << 62) >> pair.min(40)).collect();
    layer.parts.attention_norm = norm();
    layer.parts.ffn_norm = norm();
    layer.parts.qkv = product(seed + 1, (heads + 2 * kv_heads) * head_dim, hidden);
    layer.parts.output = product(seed + 2, hidden, heads * head_dim);
    layer.parts.feed_forward = FeedForward::Dense(Gated {
        gate_up: product(seed + 3, 2 * inner, hidden),
        down: product(seed + 4, hidden, inner),
    });
    head.embedding = matrix(seed + 5, vocabulary, hidden);
    head.norm = norm();
    head.output = product(seed + 6, vocabulary, hidden);
    head.output_shape = head.output.matrix.shape();
    (layer, head)
}

/// SmolLM2-135M.
pub(crate) const SMOLLM2: Sizes = Sizes {
    layers: 30,
    hidden: 576,
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
    inner: 1536,
    vocabulary: 49_152,
    context: 8192,
};

/// Llama-3.2-1B.
pub(crate) const LLAMA_1B: Sizes = Sizes {
    layers: 16,
    hidden: 2048,
    heads: 32,
    kv_heads: 8,
    head_dim: 64,
    inner: 8192,
    vocabulary: 128_256,
    context: 8192,
};

/// Llama-3.1-8B.
#[allow(dead_code, reason = "the laws are of smaller models")]
pub(crate) const LLAMA_8B: Sizes = Sizes {
    layers: 32,
    hidden: 4096,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    inner: 14_336,
    vocabulary: 128_256,
    context: 8192,
};
