//! The tiny model as a file of every family.

use lockstep_testing::numbers::Numbers;

use super::{File, HEAD_DIM, HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, Meta, Tensor, tiny};

const QUERIES: usize = HEADS * HEAD_DIM;
const KV: usize = KV_HEADS * HEAD_DIM;

pub(crate) const FAMILIES: [&str; 7] =
    ["llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "gemma3", "phi3"];

/// Experts of a layer, and how many of them are used.
pub(crate) const EXPERTS: (usize, usize) = (4, 2);
/// Feed-forward sizes of Qwen's experts and of its shared expert.
const OWN: usize = 24;
const SHARED: usize = 40;

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
        "qwen2moe" | "qwen3moe" => {
            file.set(&format!("{family}.expert_feed_forward_length"), Meta::U32(OWN as u32));
            (0..LAYERS).for_each(|layer| experts(&mut file, layer, OWN));
            if family == "qwen3moe" {
                head_norms(&mut file);
                return counted(file, family);
            }
            biases(&mut file);
            let key = format!("{family}.expert_shared_feed_forward_length");
            file.set(&key, Meta::U32(SHARED as u32));
            (0..LAYERS).for_each(|layer| shared_expert(&mut file, layer));
            return counted(file, family);
        }
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

/// Adds a tensor of numbers below `size`.
fn add_matrix(file: &mut File, name: String, dims: &[usize], size: f32) {
    let mut numbers = Numbers::new(file.tensors.len() as u64);
    let len = dims.iter().product();
    let values = (0..len).map(|_| size * numbers.signed_unit());
    let bytes = values.flat_map(f32::to_le_bytes).collect();
    let dims = dims.iter().map(|dim| *dim as u64).collect();
    file.tensors.push(Tensor { name, dims, ty: 0, bytes, offset: None });
}

fn counted(mut file: File, family: &str) -> File {
    file.set(&format!("{family}.expert_count"), Meta::U32(EXPERTS.0 as u32));
    file.set(&format!("{family}.expert_used_count"), Meta::U32(EXPERTS.1 as u32));
    file
}

/// Puts experts in the place of a layer's feed-forward part. Router logits lie far apart, so that
/// rounding changes no choice.
fn experts(file: &mut File, layer: usize, inner: usize) {
    let name = |part: &str| format!("blk.{layer}.{part}.weight");
    let dense = ["ffn_gate", "ffn_up", "ffn_down"].map(name);
    file.tensors.retain(|tensor| !dense.contains(&tensor.name));
    let count = EXPERTS.0;
    add_matrix(file, name("ffn_gate_inp"), &[HIDDEN, count], 4.0);
    add_matrix(file, name("ffn_gate_exps"), &[HIDDEN, inner, count], 1.0);
    add_matrix(file, name("ffn_up_exps"), &[HIDDEN, inner, count], 1.0);
    add_matrix(file, name("ffn_down_exps"), &[inner, HIDDEN, count], 1.0);
}

fn shared_expert(file: &mut File, layer: usize) {
    let name = |part: &str| format!("blk.{layer}.{part}.weight");
    add_matrix(file, name("ffn_gate_inp_shexp"), &[HIDDEN], 1.0);
    add_matrix(file, name("ffn_gate_shexp"), &[HIDDEN, SHARED], 1.0);
    add_matrix(file, name("ffn_up_shexp"), &[HIDDEN, SHARED], 1.0);
    add_matrix(file, name("ffn_down_shexp"), &[SHARED, HIDDEN], 1.0);
}

/// Llama's layers with experts of its own feed-forward size.
pub(crate) fn mixtral() -> File {
    let mut file = counted(file("llama"), "llama");
    (0..LAYERS).for_each(|layer| experts(&mut file, layer, INNER));
    file
}

/// The experts of a file as tensors of their own, as older files have them.
pub(crate) fn with_experts_apart(mut file: File) -> File {
    let all = std::mem::take(&mut file.tensors);
    for tensor in all {
        let [rest @ .., count] = tensor.dims.as_slice() else { continue };
        if rest.len() != 2 {
            file.tensors.push(tensor);
            continue;
        }
        let bytes = tensor.bytes.chunks_exact(tensor.bytes.len() / *count as usize);
        for (expert, bytes) in bytes.enumerate() {
            let end = format!(".{expert}.weight");
            let (name, bytes) = (tensor.name.replace("_exps.weight", &end), bytes.to_vec());
            file.tensors.push(Tensor { name, dims: rest.to_vec(), bytes, ..tensor.clone() });
        }
    }
    file
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
    cases.push(("mixtral", mixtral()));
    let mut first_dense = file("qwen3moe");
    first_dense.tensors.retain(|t| !(t.name.starts_with("blk.0.ffn_") && t.name.contains("_exps")));
    first_dense.tensors.retain(|t| t.name != "blk.0.ffn_gate_inp.weight");
    let dense = tiny().tensors.into_iter();
    let parts = ["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"];
    first_dense.tensors.extend(dense.filter(|t| parts.contains(&t.name.as_str())));
    cases.push(("qwen3moe-dense", first_dense));
    let mut normalised = file("qwen2moe");
    normalised.set("qwen2moe.expert_weights_norm", Meta::Bool(true));
    cases.push(("qwen2moe-norm", normalised));
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
