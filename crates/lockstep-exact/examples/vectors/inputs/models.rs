//! Seeded models: an answer, one that crosses chunks under a window, and ones that overflow.

use serde_json::{Value, json};

use super::{Cases, Dice};
use crate::value::{f32_text, u64s_text};

pub(crate) fn cases() -> Cases {
    let numbers = json!({ "seed": u64s_text(&[42]), "count": 6 });
    vec![
        ("fixture_numbers", numbers),
        ("model", greedy()),
        ("model", sampled()),
        ("model", across_chunks()),
        ("model", overflowing()),
        ("model", overflowing_embedding(&[3, 17, 200, 17, 8])),
        ("model", overflowing_embedding(&[3, 17, 200, 8, 17])),
        ("model", gemma()),
        ("model", with_features(7, &["biases"])),
        ("model", with_features(8, &["head norms"])),
        ("model", with_features(9, &["post norms"])),
        ("model", with_features(10, &["gelu"])),
        ("model", with_features(11, &["second rope"])),
        ("model", with_features(20, &["experts"])),
        ("model", with_features(21, &["experts", "shared expert"])),
        ("model", with_features(22, &["experts", "shared expert", "biases", "gelu"])),
        ("model", with_features(12, &["w4"])),
        ("model", with_features(23, &["experts", "shared expert", "w4"])),
        ("model", overflowing_router()),
        ("model", overflowing_expert()),
    ]
}

fn sizes(layers: u32, hidden: u32, heads: [u32; 3], inner: u32) -> Value {
    json!({
        "layers": layers, "hidden": hidden, "heads": heads[0], "kv_heads": heads[1],
        "head_dim": heads[2], "inner": inner, "vocabulary": 272, "context": 2048,
    })
}

fn tokens(seed: u64, count: usize) -> Vec<u64> {
    let mut dice = Dice::new(seed);
    (0..count).map(|_| dice.below(272)).collect()
}

/// The fixture's default sizes, as other crates' tests use them.
fn greedy() -> Value {
    json!({
        "seed": u64s_text(&[1]), "sizes": sizes(6, 64, [4, 2, 16], 96),
        "windows": [0, 0, 0, 0, 0, 0], "features": [],
        "embedding_scale": f32_text(1.0), "row_scales": [],
        "prompt": tokens(10, 20), "chunk": 7, "answer_tokens": 8, "sampling": {},
    })
}

fn sampled() -> Value {
    let sampling = json!({
        "temperature": f32_text(0.8), "top_k": 50, "top_p": f32_text(0.95),
        "min_p": f32_text(0.01), "repetition_penalty": f32_text(1.1),
        "presence_penalty": f32_text(0.1), "frequency_penalty": f32_text(0.2),
        "seed": u64s_text(&[0xfeed_beef_0bad_cafe]),
    });
    json!({
        "seed": u64s_text(&[2]), "sizes": sizes(2, 32, [2, 1, 8], 48), "windows": [0, 0],
        "features": [], "embedding_scale": f32_text(2.5), "row_scales": [],
        "prompt": tokens(11, 12), "chunk": 12, "answer_tokens": 12, "sampling": sampling,
    })
}

/// More than one chunk of 256 positions, and a window in one layer.
fn across_chunks() -> Value {
    json!({
        "seed": u64s_text(&[3]), "sizes": sizes(2, 32, [2, 1, 8], 48), "windows": [0, 100],
        "features": [], "embedding_scale": f32_text(1.0), "row_scales": [],
        "prompt": tokens(12, 270), "chunk": 64, "answer_tokens": 3, "sampling": {},
    })
}

/// A gate and its `up` blown up in layer 1: positions with a positive gate overflow there and stay
/// so; the others compute on and see zeros in their place.
fn overflowing() -> Value {
    json!({
        "seed": u64s_text(&[4]), "sizes": sizes(4, 32, [2, 1, 8], 48), "windows": [0, 0, 0, 0],
        "features": [], "embedding_scale": f32_text(1.0),
        "row_scales": [
            { "layer": 1, "matrix": "gate_up", "row": 5, "scale": f32_text(two_to(40)) },
            { "layer": 1, "matrix": "gate_up", "row": 48 + 5, "scale": f32_text(two_to(20)) },
        ],
        "prompt": tokens(14, 24), "chunk": 24, "answer_tokens": 3, "sampling": {},
    })
}

/// The embedding of token 17 overflows: its positions are markers in every layer. The answer goes
/// on unless it is the token whose position the head reads.
fn overflowing_embedding(prompt: &[u32]) -> Value {
    json!({
        "seed": u64s_text(&[5]), "sizes": sizes(3, 32, [2, 1, 8], 48), "windows": [0, 0, 0],
        "features": [], "embedding_scale": f32_text(two_to(12)),
        "row_scales": [{ "matrix": "embedding", "row": 17, "scale": f32_text(two_to(40)) }],
        "prompt": prompt, "chunk": 2, "answer_tokens": 3, "sampling": {},
    })
}

/// Everything that only some families have, with a window in every other layer.
fn gemma() -> Value {
    let features = ["biases", "head norms", "post norms", "gelu", "second rope", "w4"];
    json!({
        "seed": u64s_text(&[6]), "sizes": sizes(4, 64, [4, 2, 40], 96), "windows": [0, 5, 0, 5],
        "features": features, "embedding_scale": f32_text(8.0), "row_scales": [],
        "prompt": tokens(15, 20), "chunk": 6, "answer_tokens": 4, "sampling": {},
    })
}

fn with_features(seed: u64, features: &[&str]) -> Value {
    json!({
        "seed": u64s_text(&[seed]), "sizes": sizes(2, 32, [2, 1, 8], 48), "windows": [0, 0],
        "features": features, "embedding_scale": f32_text(1.0), "row_scales": [],
        "prompt": tokens(seed + 10, 8), "chunk": 8, "answer_tokens": 2, "sampling": {},
    })
}

/// A router logit of layer 1 blown up: its positions are markers from there on.
fn overflowing_router() -> Value {
    let scale = f32_text(two_to(40));
    with_experts(23, &[json!({ "layer": 1, "matrix": "router", "row": 3, "scale": scale })])
}

/// A gate and its `up` of one expert blown up: of the positions that choose it, those with a
/// positive gate overflow.
fn overflowing_expert() -> Value {
    let row = |row: u32, exponent| {
        let scale = f32_text(two_to(exponent));
        json!({ "layer": 1, "matrix": "expert", "expert": 2, "row": row, "scale": scale })
    };
    with_experts(24, &[row(5, 40), row(24 + 5, 20)])
}

fn with_experts(seed: u64, edits: &[Value]) -> Value {
    json!({
        "seed": u64s_text(&[seed]), "sizes": sizes(3, 32, [2, 1, 8], 48), "windows": [0, 0, 0],
        "features": ["experts"], "embedding_scale": f32_text(1.0), "row_scales": edits,
        "prompt": tokens(seed, 16), "chunk": 5, "answer_tokens": 2, "sampling": {},
    })
}

fn two_to(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}
