//! The tiny model as a file of every family.

use lockstep_exact::fixture::Numbers;

use super::{File, HEAD_DIM, HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, Meta, Tensor, tiny};

const QUERIES: usize = HEADS * HEAD_DIM;
const KV: usize = KV_HEADS * HEAD_DIM;

pub(crate) const FAMILIES: [&str; 5] = ["llama", "qwen2", "qwen3", "gemma3", "phi3"];

/// The tiny model as a file of another family.
pub(crate) fn file(family: &str) -> File {
    let mut file = tiny();
    for (key, _) in &mut file.pairs {
        if let Some(name) = key.strip_prefix("llama.") {
            *key = format!("{family}.{name}");
        }
    }
    file.set("general.architecture", Meta::Str(family.to_owned()));
    match family {
        "qwen2" => biases(&mut file),
        "qwen3" => head_norms(&mut file),
        "gemma3" => {
            file.set("gemma3.attention.sliding_window", Meta::U32(5));
            file.set("gemma3.attention.sliding_window_pattern", Meta::U32(2));
            file.set("gemma3.rope.freq_base", Meta::F32(1e6));
            head_norms(&mut file);
            for layer in 0..LAYERS {
                add(&mut file, &format!("blk.{layer}.post_attention_norm.weight"), HIDDEN, 1.0);
                add(&mut file, &format!("blk.{layer}.post_ffw_norm.weight"), HIDDEN, 1.0);
            }
        }
        "phi3" => {
            file.set("phi3.rope.dimension_count", Meta::U32(4));
            file.set("phi3.attention.sliding_window", Meta::U32(6));
            for layer in 0..LAYERS {
                let parts = ["attn_q", "attn_k", "attn_v"];
                fuse(&mut file, layer, &parts, "attn_qkv", QUERIES + 2 * KV);
                fuse(&mut file, layer, &["ffn_gate", "ffn_up"], "ffn_up", 2 * INNER);
            }
        }
        _ => {}
    }
    file
}

/// Adds a vector of numbers around `middle`.
pub(crate) fn add(file: &mut File, name: &str, len: usize, middle: f32) {
    let mut numbers = Numbers::new(file.tensors.len() as u64);
    let values = (0..len).map(|_| middle + 0.5 * numbers.signed_unit());
    let bytes = values.flat_map(f32::to_le_bytes).collect();
    let (name, dims) = (name.to_owned(), vec![len as u64]);
    file.tensors.push(Tensor { name, dims, ty: 0, bytes, offset: None });
}

pub(crate) fn biases(file: &mut File) {
    for layer in 0..LAYERS {
        for (part, len) in [("attn_q", QUERIES), ("attn_k", KV), ("attn_v", KV)] {
            add(file, &format!("blk.{layer}.{part}.bias"), len, 0.0);
        }
    }
}

pub(crate) fn head_norms(file: &mut File) {
    for layer in 0..LAYERS {
        add(file, &format!("blk.{layer}.attn_q_norm.weight"), HEAD_DIM, 1.0);
        add(file, &format!("blk.{layer}.attn_k_norm.weight"), HEAD_DIM, 1.0);
    }
}

/// Puts matrices one below the other.
fn fuse(file: &mut File, layer: usize, parts: &[&str], name: &str, rows: usize) {
    let names: Vec<String> =
        parts.iter().map(|part| format!("blk.{layer}.{part}.weight")).collect();
    let bytes = names.iter().flat_map(|name| file.tensor(name).bytes.clone()).collect();
    file.tensors.retain(|tensor| !names.contains(&tensor.name));
    let (name, dims) = (format!("blk.{layer}.{name}.weight"), vec![HIDDEN as u64, rows as u64]);
    file.tensors.push(Tensor { name, dims, ty: 0, bytes, offset: None });
}

/// Every case of the parity table: the families, and what changes positions.
pub(crate) fn cases() -> Vec<(&'static str, File)> {
    let mut cases: Vec<_> = FAMILIES.iter().map(|&family| (family, file(family))).collect();
    let mut llama3 = file("llama");
    add(&mut llama3, "rope_freqs.weight", HEAD_DIM / 2, 4.0);
    cases.push(("llama3", llama3));
    cases.push(("phi3-long", long_phi()));
    let mut linear = file("gemma3");
    linear.set("gemma3.rope.scaling.type", Meta::Str("linear".to_owned()));
    linear.set("gemma3.rope.scaling.factor", Meta::F32(8.0));
    cases.push(("gemma3-linear", linear));
    let mut mistral = file("llama");
    mistral.set("llama.attention.sliding_window", Meta::U32(7));
    cases.push(("mistral-window", mistral));
    cases
}

pub(crate) fn long_phi() -> File {
    let mut long = file("phi3");
    add(&mut long, "rope_factors_long.weight", 2, 4.0);
    add(&mut long, "rope_factors_short.weight", 2, 2.0);
    long.set("phi3.rope.scaling.original_context_length", Meta::U32(64));
    long.set("phi3.rope.scaling.attn_factor", Meta::F32(1.2));
    long
}
