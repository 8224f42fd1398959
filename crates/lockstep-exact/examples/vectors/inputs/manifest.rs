//! A manifest, and changed ones that are refused.

use lockstep_exact::bytes::Canonical;
use lockstep_exact::digest::Digest;
use lockstep_exact::feed_forward::{Experts, FeedForward, Gated};
use lockstep_exact::figure::Figure;
use lockstep_exact::limits;
use lockstep_exact::manifest::{BlobRef, Manifest, RopeTable};
use lockstep_exact::matrix::Codec;
use lockstep_exact::plan::{
    Activation, FeedForwardPlan, LayerPlan, MatrixRef, NormPlan, ProductPlan, VectorRef,
};
use lockstep_testing::tiny_model::{Features, Sizes, TinyModel};
use serde_json::{Value, json};

use super::Cases;
use crate::value::{f32_text, hex, u64s_text};

pub(crate) fn cases() -> Cases {
    let sizes = Sizes { layers: 2, context: 512, ..Sizes::default() };
    let good = TinyModel::with_sizes(7, sizes).manifest;
    let full = TinyModel::with_features(7, sizes, Features::ALL).manifest;
    let features = Features { experts: true, shared_expert: true, ..Features::ALL };
    let experts = TinyModel::with_features(7, sizes, features).manifest;
    let mut cases: Cases = consistent_and_not(&good)
        .iter()
        .map(|manifest| ("manifest", json!({ "manifest": value(manifest) })))
        .collect();
    cases.extend(full_and_not(&full).iter().map(|m| ("manifest", json!({ "manifest": value(m) }))));
    let of_experts = experts_and_not(&experts);
    cases.extend(of_experts.iter().map(|m| ("manifest", json!({ "manifest": value(m) }))));
    let measured = figured_and_not(&good);
    cases.extend(measured.iter().map(|m| ("manifest", json!({ "manifest": value(m) }))));
    let bytes = good.to_bytes();
    let mut trailing = bytes.clone();
    trailing.push(0);
    let changed = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        bytes
    };
    let mut not_finite = many_figures(&good, 1);
    not_finite.provenance.figures[0].perplexity = f32::NAN;
    // Magic, version, a name that isn't UTF-8, a length beyond the limit, an unknown activation.
    // Behind the activation: the kind of feed-forward part, two products without bias, and biases
    // of attention, norms of heads and post-norms, all absent.
    let activation = bytes.len() - 4 - 2 * 49 - 2;
    let tried = [
        bytes.clone(),
        bytes[..bytes.len() - 1].to_vec(),
        trailing,
        changed(0, b'l'),
        changed(8, 1),
        changed(14, 0xff),
        changed(11, 2),
        changed(activation, 2),
        changed(activation + 1, 2),
        changed(activation + 1, 1),
        changed(activation + 1 + 49, 2),
        changed(activation + 1 + 49, 1),
        full.to_bytes(),
        experts.to_bytes(),
        experts.to_bytes()[..experts.to_bytes().len() - 1].to_vec(),
        not_finite.to_bytes(),
        many_figures(&good, limits::FIGURES as u32).to_bytes(),
        many_figures(&good, limits::FIGURES as u32 + 1).to_bytes(),
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
            m.layers[0].parts.qkv.matrix.rows = 160;
        }),
        with(|m| {
            m.layers[0].attention.kv_heads = 1;
            m.layers[0].parts.qkv.matrix.rows = 96;
        }),
        with(|m| m.layers[0].parts.qkv.matrix.rows += 1),
        with(|m| dense(&mut m.layers[1]).down.matrix.offset -= 32),
        with(|m| dense(&mut m.layers[1]).down.matrix.offset += 64),
        with(|m| dense(&mut m.layers[1]).down.matrix.offset -= 64),
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
        with(|l| dense(l).down.bias = None),
        with(|l| l.parts.head_norms = None),
        with(|l| l.parts.post_norms = None),
        with(|l| l.activation = Activation::Silu),
        with(|l| l.parts.qkv.bias = dense(l).down.bias),
        with(|l| l.parts.output.bias.iter_mut().for_each(|bias| bias.offset += 4)),
        with(|l| dense(l).gate_up.bias.iter_mut().for_each(|bias| bias.offset = 1 << 30)),
        with(|l| l.parts.head_norms.iter_mut().for_each(|norms| norms.key.gain.len = 64)),
        with(|l| l.parts.head_norms.iter_mut().for_each(|norms| norms.query.eps = 0.0)),
        with(|l| l.parts.post_norms.iter_mut().for_each(|norms| norms.attention.gain.len = 16)),
        with(|l| l.parts.post_norms.iter_mut().for_each(|norms| norms.ffn.gain.offset += 64)),
    ]
}

fn dense(layer: &mut LayerPlan) -> &mut Gated<ProductPlan> {
    layer.parts.feed_forward.dense_mut().expect("a dense layer")
}

/// A manifest with experts in its second layer.
fn experts_and_not(full: &Manifest) -> Vec<Manifest> {
    let with = |change: fn(&mut Experts<ProductPlan>)| {
        let mut manifest = full.clone();
        change(manifest.layers[1].parts.feed_forward.experts_mut().expect("a layer with experts"));
        manifest
    };
    vec![
        full.clone(),
        with(|e| e.rule.used = 5),
        with(|e| e.rule.used = 6),
        with(|e| e.rule.used = 0),
        with(|e| e.rule.normalise = true),
        with(|e| e.shared = None),
        with(|e| e.router.bias = None),
        with(|e| e.router.matrix.rows = 4),
        with(|e| e.experts.truncate(4)),
        with(|e| {
            e.experts.truncate(4);
            e.router.matrix.rows = 4;
            e.router.bias = None;
        }),
        with(|e| e.experts[3] = e.experts[0].clone()),
        with(|e| {
            // Another size than the others: consistent with itself only.
            e.experts[3].gate_up.matrix.rows = 32;
            e.experts[3].gate_up.bias = None;
            e.experts[3].down.matrix.columns = 16;
        }),
        // Another codec than that of the other experts, and one for all of them.
        with(|e| e.experts[3].gate_up.matrix.codec = Codec::W8),
        with(|e| e.experts.iter_mut().for_each(|gated| gated.gate_up.matrix.codec = Codec::W8)),
        with(|e| e.experts[4].down.matrix.rows = 32),
        with(|e| e.experts[2].gate_up.matrix.offset = 1 << 30),
        with(|e| e.shared.iter_mut().for_each(|shared| shared.gate.matrix.rows = 2)),
        with(|e| e.shared.iter_mut().for_each(|shared| shared.gated.down.matrix.columns += 1)),
    ]
}

/// A manifest with a figure of quality.
fn figured_and_not(good: &Manifest) -> Vec<Manifest> {
    let with = |change: fn(&mut Figure)| {
        let mut manifest = many_figures(good, 2);
        change(&mut manifest.provenance.figures[1]);
        manifest
    };
    vec![
        many_figures(good, 1),
        with(|f| f.kl = 0.0),
        with(|f| f.text.clear()),
        with(|f| f.same_top = 1.0),
        with(|f| f.positions = 768),
        with(|f| f.positions = 769),
        with(|f| f.positions = 0),
        with(|f| f.window = 1),
        with(|f| f.windows = 0),
        with(|f| f.perplexity = 0.5),
        with(|f| f.reference_perplexity = 2e12),
        with(|f| f.kl = -0.0),
        with(|f| f.same_top = 1.5),
    ]
}

fn many_figures(good: &Manifest, count: u32) -> Manifest {
    let mut manifest = good.clone();
    manifest.provenance.figures = (0..count)
        .map(|number| Figure {
            text: "opticks.txt".to_owned(),
            text_digest: Digest::of(b"Light"),
            window: 512,
            windows: 3,
            positions: 765,
            reference: format!("f32 of größe-{number}.gguf"),
            perplexity: 22.125,
            reference_perplexity: 22.0625,
            kl: 0.0025,
            same_top: 0.96875,
        })
        .collect();
    manifest
}

/// Another hidden size, in all parts.
fn resize(manifest: &mut Manifest, hidden: u32) {
    manifest.hidden = hidden;
    let head = &mut manifest.head;
    (head.embedding.columns, head.output.columns, head.norm.gain.len) = (hidden, hidden, hidden);
    for layer in &mut manifest.layers {
        let parts = &mut layer.parts;
        (parts.attention_norm.gain.len, parts.ffn_norm.gain.len) = (hidden, hidden);
        (parts.qkv.matrix.columns, parts.output.matrix.rows) = (hidden, hidden);
        let gated = dense(layer);
        (gated.gate_up.matrix.columns, gated.down.matrix.rows) = (hidden, hidden);
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
            "figures": provenance.figures.iter().map(figure).collect::<Vec<_>>(),
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

fn figure(figure: &Figure) -> Value {
    json!({
        "text": figure.text,
        "text_digest": figure.text_digest.to_string(),
        "window": figure.window,
        "windows": figure.windows,
        "positions": figure.positions,
        "reference": figure.reference,
        "perplexity": f32_text(figure.perplexity),
        "reference_perplexity": f32_text(figure.reference_perplexity),
        "kl": f32_text(figure.kl),
        "same_top": f32_text(figure.same_top),
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

fn product(product: &ProductPlan) -> Value {
    json!({ "matrix": matrix(&product.matrix), "bias": product.bias.as_ref().map(vector) })
}

fn gated(of: &Gated<ProductPlan>) -> Value {
    json!({ "gate_up": product(&of.gate_up), "down": product(&of.down) })
}

fn feed_forward(plan: &FeedForwardPlan) -> Value {
    let of = match plan {
        FeedForward::Dense(of) => return json!({ "dense": gated(of) }),
        FeedForward::Experts(of) => of,
    };
    let shared = of.shared.as_ref();
    let shared = shared.map(|s| json!({ "gate": product(&s.gate), "gated": gated(&s.gated) }));
    json!({ "experts": {
        "used": of.rule.used, "normalise": of.rule.normalise, "router": product(&of.router),
        "experts": of.experts.iter().map(gated).collect::<Vec<_>>(), "shared": shared,
    } })
}

fn layer(layer: &LayerPlan) -> Value {
    let attention = &layer.attention;
    let activation = match layer.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_tanh",
    };
    let parts = &layer.parts;
    let bias = |product: &ProductPlan| product.bias.as_ref().map(vector);
    let heads = parts.head_norms.map(|n| json!({ "query": norm(&n.query), "key": norm(&n.key) }));
    let posts =
        parts.post_norms.map(|n| json!({ "attention": norm(&n.attention), "ffn": norm(&n.ffn) }));
    json!({
        "blob": layer.blob,
        "attention_norm": norm(&parts.attention_norm),
        "qkv": matrix(&parts.qkv.matrix),
        "attention": {
            "heads": attention.heads,
            "kv_heads": attention.kv_heads,
            "head_dim": attention.head_dim,
            "rope": attention.rope,
            "window": attention.window,
            "score_scale": f32_text(attention.score_scale),
        },
        "output": matrix(&parts.output.matrix),
        "ffn_norm": norm(&parts.ffn_norm),
        "activation": activation,
        "feed_forward": feed_forward(&parts.feed_forward),
        "biases": { "qkv": bias(&parts.qkv), "output": bias(&parts.output) },
        "head_norms": heads,
        "post_norms": posts,
    })
}
