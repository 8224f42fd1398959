//! A manifest, and changed ones that are refused.

use lockstep_exact::bytes::Canonical;
use lockstep_exact::fixture::{Features, Sizes, TinyModel};
use lockstep_exact::manifest::{
    Activation, BiasesPlan, BlobRef, LayerPlan, Manifest, MatrixRef, NormPlan, RopeTable, VectorRef,
};
use serde_json::{Value, json};

use super::Cases;
use crate::value::{f32_text, hex, u64s_text};

pub(crate) fn cases() -> Cases {
    let sizes = Sizes { layers: 2, context: 512, ..Sizes::default() };
    let good = TinyModel::with_sizes(7, sizes).manifest;
    let full = TinyModel::with_features(7, sizes, Features::ALL).manifest;
    let mut cases: Cases = consistent_and_not(&good)
        .iter()
        .map(|manifest| ("manifest", json!({ "manifest": value(manifest) })))
        .collect();
    cases.extend(full_and_not(&full).iter().map(|m| ("manifest", json!({ "manifest": value(m) }))));
    let bytes = good.to_bytes();
    let mut trailing = bytes.clone();
    trailing.push(0);
    let changed = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        bytes
    };
    // Magic, version, a name that isn't UTF-8, a length beyond the limit, an unknown activation.
    // Behind the activation: down, four biases, norms of heads and post-norms, all absent.
    let activation = bytes.len() - 6 - 48 - 1;
    let tried = [
        bytes.clone(),
        bytes[..bytes.len() - 1].to_vec(),
        trailing,
        changed(0, b'l'),
        changed(8, 1),
        changed(14, 0xff),
        changed(11, 2),
        changed(activation, 2),
        changed(activation + 1 + 48, 2),
        changed(activation + 1 + 48, 1),
        full.to_bytes(),
    ];
    cases.extend(tried.iter().map(|bytes| ("manifest_bytes", json!({ "bytes": hex(bytes) }))));
    cases
}

fn consistent_and_not(good: &Manifest) -> Vec<Manifest> {
    let with = |change: fn(&mut Manifest)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        manifest
    };
    vec![
        good.clone(),
        with(|m| m.layers[1].attention.window = 100),
        with(|m| m.provenance.name = "größer".to_owned()),
        with(|m| m.end_tokens.clear()),
        with(|m| m.ropes[0].frequencies.clear()),
        with(|m| m.hidden = 63),
        with(|m| resize(m, 48)),
        with(|m| resize(m, 32)),
        with(|m| m.layers[0].attention.kv_heads = 3),
        with(|m| {
            m.layers[0].attention.kv_heads = 3;
            m.layers[0].qkv.rows = 160;
        }),
        with(|m| {
            m.layers[0].attention.kv_heads = 1;
            m.layers[0].qkv.rows = 96;
        }),
        with(|m| m.layers[0].qkv.rows += 1),
        with(|m| m.layers[1].down.offset -= 32),
        with(|m| m.layers[1].down.offset += 64),
        with(|m| m.layers[1].down.offset -= 64),
        with(|m| m.head.norm.eps = 0.0),
        with(|m| m.ropes[0].frequencies.push(1)),
        with(|m| m.end_tokens.push(m.vocabulary)),
    ]
}

/// A manifest with all that only some families have.
fn full_and_not(full: &Manifest) -> Vec<Manifest> {
    let with = |change: fn(&mut LayerPlan)| {
        let mut manifest = full.clone();
        change(&mut manifest.layers[1]);
        manifest
    };
    vec![
        full.clone(),
        with(|l| l.biases.down = None),
        with(|l| l.head_norms = None),
        with(|l| l.post_norms = None),
        with(|l| l.activation = Activation::Silu),
        with(|l| l.biases.qkv = l.biases.down),
        with(|l| l.biases.output.iter_mut().for_each(|bias| bias.offset += 4)),
        with(|l| l.biases.gate_up.iter_mut().for_each(|bias| bias.offset = 1 << 30)),
        with(|l| l.head_norms.iter_mut().for_each(|norms| norms.key.gain.len = 64)),
        with(|l| l.head_norms.iter_mut().for_each(|norms| norms.query.eps = 0.0)),
        with(|l| l.post_norms.iter_mut().for_each(|norms| norms.attention.gain.len = 16)),
        with(|l| l.post_norms.iter_mut().for_each(|norms| norms.ffn.gain.offset += 64)),
    ]
}

/// Another hidden size, in all parts.
fn resize(manifest: &mut Manifest, hidden: u32) {
    manifest.hidden = hidden;
    let head = &mut manifest.head;
    (head.embedding.columns, head.output.columns, head.norm.gain.len) = (hidden, hidden, hidden);
    for layer in &mut manifest.layers {
        (layer.attention_norm.gain.len, layer.ffn_norm.gain.len) = (hidden, hidden);
        (layer.qkv.columns, layer.gate_up.columns) = (hidden, hidden);
        (layer.output.rows, layer.down.rows) = (hidden, hidden);
    }
}

fn value(manifest: &Manifest) -> Value {
    let (head, provenance) = (&manifest.head, &manifest.provenance);
    let blob = |blob: &BlobRef| json!({ "digest": blob.digest.to_string(), "len": blob.len });
    let rope = |rope: &RopeTable| json!({ "frequencies": u64s_text(&rope.frequencies) });
    json!({
        "provenance": {
            "name": provenance.name,
            "architecture": provenance.architecture,
            "license": provenance.license,
            "source_format": provenance.source_format,
        },
        "hidden": manifest.hidden,
        "vocabulary": manifest.vocabulary,
        "context": manifest.context,
        "blobs": manifest.blobs.iter().map(blob).collect::<Vec<_>>(),
        "vocabulary_blob": manifest.vocabulary_blob,
        "tokenizer_blob": manifest.tokenizer_blob,
        "end_tokens": manifest.end_tokens,
        "ropes": manifest.ropes.iter().map(rope).collect::<Vec<_>>(),
        "head": {
            "embedding_blob": head.embedding_blob,
            "embedding": matrix(&head.embedding),
            "embedding_scale": f32_text(head.embedding_scale),
            "blob": head.blob,
            "norm": norm(&head.norm),
            "output": matrix(&head.output),
        },
        "layers": manifest.layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

fn matrix(matrix: &MatrixRef) -> Value {
    let digest = matrix.digest.to_string();
    json!({
        "offset": matrix.offset, "rows": matrix.rows, "columns": matrix.columns,
        "codec": matrix.codec.name(), "digest": digest,
    })
}

fn norm(norm: &NormPlan) -> Value {
    json!({ "eps": f32_text(norm.eps), "gain": vector(&norm.gain) })
}

fn vector(vector: &VectorRef) -> Value {
    json!({ "offset": vector.offset, "len": vector.len })
}

fn biases(biases: &BiasesPlan) -> Value {
    let of = |bias: &Option<VectorRef>| bias.as_ref().map(vector);
    json!({
        "qkv": of(&biases.qkv), "output": of(&biases.output), "gate_up": of(&biases.gate_up),
        "down": of(&biases.down),
    })
}

fn layer(layer: &LayerPlan) -> Value {
    let attention = &layer.attention;
    let activation = match layer.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_tanh",
    };
    let heads = layer.head_norms.map(|n| json!({ "query": norm(&n.query), "key": norm(&n.key) }));
    let posts =
        layer.post_norms.map(|n| json!({ "attention": norm(&n.attention), "ffn": norm(&n.ffn) }));
    json!({
        "blob": layer.blob,
        "attention_norm": norm(&layer.attention_norm),
        "qkv": matrix(&layer.qkv),
        "attention": {
            "heads": attention.heads,
            "kv_heads": attention.kv_heads,
            "head_dim": attention.head_dim,
            "rope": attention.rope,
            "window": attention.window,
            "score_scale": f32_text(attention.score_scale),
        },
        "output": matrix(&layer.output),
        "ffn_norm": norm(&layer.ffn_norm),
        "gate_up": matrix(&layer.gate_up),
        "activation": activation,
        "down": matrix(&layer.down),
        "biases": biases(&layer.biases),
        "head_norms": heads,
        "post_norms": posts,
    })
}
