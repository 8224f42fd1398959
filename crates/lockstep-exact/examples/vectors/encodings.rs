//! Digests, canonical bytes, sampler and stop rules.

use lockstep_exact::bytes::Canonical;
use lockstep_exact::digest::Digest;
use lockstep_exact::feed_forward::{Experts, FeedForward, Gated, Rule, Shared};
use lockstep_exact::figure::Figure;
use lockstep_exact::manifest::{BlobRef, Manifest, Provenance, RopeTable};
use lockstep_exact::num::Overflow;
use lockstep_exact::plan::{
    Activation, AttentionPlan, FeedForwardPlan, HeadNormsPlan, HeadPlan, LayerPlan, MatrixRef,
    NormPlan, PostNormsPlan, ProductPlan, VectorRef,
};
use lockstep_exact::sample::{self, Bias, Finish, History, Sampling, StopTracker, Stops};
use lockstep_exact::tree::LayerTree;
use lockstep_exact::vocabulary::Vocabulary;
use serde_json::{Value, json};

use crate::compute::codec_of;
use crate::value::{Input, hex, hexes, u64s_text};

pub(crate) fn digest(input: Input<'_>) -> Value {
    json!({ "digest": Digest::of(&input.bytes("bytes")).to_string() })
}

pub(crate) fn digest_parts(input: Input<'_>) -> Value {
    let context = match input.text("context") {
        "lockstep 2026 sampler randomness" => "lockstep 2026 sampler randomness",
        "lockstep 2026 vectors" => "lockstep 2026 vectors",
        other => panic!("{other} is no context of vectors"),
    };
    let parts = input.byte_strings("parts");
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    json!({ "digest": Digest::derive(context, &parts).to_string() })
}

pub(crate) fn vocabulary(input: Input<'_>) -> Value {
    let Ok(vocabulary) = Vocabulary::from_bytes(&input.bytes("bytes")) else {
        return json!({ "accepted": false });
    };
    let tokens: Vec<&[u8]> = (0..vocabulary.len() as u32).map(|id| vocabulary.token(id)).collect();
    json!({ "accepted": true, "tokens": hexes(&tokens) })
}

pub(crate) fn manifest(input: Input<'_>) -> Value {
    let manifest = manifest_of(input.object("manifest"));
    json!({
        "bytes": hex(&manifest.to_bytes()),
        "id": manifest.id().to_string(),
        "consistent": manifest.check().is_ok(),
    })
}

pub(crate) fn manifest_bytes(input: Input<'_>) -> Value {
    json!({ "accepted": Manifest::parse(&input.bytes("bytes")).is_ok() })
}

fn figure_of(figure: Input<'_>) -> Figure {
    Figure {
        text: figure.text("text").to_owned(),
        text_digest: figure.digest("text_digest"),
        window: figure.int("window"),
        windows: figure.int("windows"),
        positions: figure.int("positions"),
        reference: figure.text("reference").to_owned(),
        perplexity: figure.f32("perplexity"),
        reference_perplexity: figure.f32("reference_perplexity"),
        kl: figure.f32("kl"),
        same_top: figure.f32("same_top"),
    }
}

fn manifest_of(input: Input<'_>) -> Manifest {
    let provenance = input.object("provenance");
    let text = |name| provenance.text(name).to_owned();
    let blob = |blob: Input<'_>| BlobRef { digest: blob.digest("digest"), len: blob.int("len") };
    let table = |table: Input<'_>| RopeTable { frequencies: table.u64s("frequencies") };
    let head = input.object("head");
    Manifest {
        provenance: Provenance {
            name: text("name"),
            architecture: text("architecture"),
            license: text("license"),
            source_format: text("source_format"),
            figures: provenance.objects("figures").into_iter().map(figure_of).collect(),
        },
        hidden: input.int("hidden"),
        vocabulary: input.int("vocabulary"),
        context: input.int("context"),
        blobs: input.objects("blobs").into_iter().map(blob).collect(),
        vocabulary_blob: input.int("vocabulary_blob"),
        tokenizer_blob: input.int("tokenizer_blob"),
        end_tokens: input.ints("end_tokens"),
        ropes: input.objects("ropes").into_iter().map(table).collect(),
        head: HeadPlan {
            embedding_blob: head.int("embedding_blob"),
            embedding: matrix_of(head.object("embedding")),
            embedding_scale: head.f32("embedding_scale"),
            blob: head.int("blob"),
            norm: norm_of(head.object("norm")),
            output: matrix_of(head.object("output")),
        },
        layers: input.objects("layers").into_iter().map(layer_of).collect(),
    }
}

fn matrix_of(input: Input<'_>) -> MatrixRef {
    MatrixRef {
        offset: input.int("offset"),
        rows: input.int("rows"),
        columns: input.int("columns"),
        codec: codec_of(input),
        digest: input.digest("digest"),
    }
}

fn norm_of(input: Input<'_>) -> NormPlan {
    NormPlan::new(input.f32("eps"), vector_of(input.object("gain")))
}

fn vector_of(input: Input<'_>) -> VectorRef {
    VectorRef { offset: input.int("offset"), len: input.int("len") }
}

pub(crate) fn activation_of(name: &str) -> Activation {
    match name {
        "silu" => Activation::Silu,
        "gelu_tanh" => Activation::GeluTanh,
        other => panic!("no activation is called {other}"),
    }
}

fn layer_of(input: Input<'_>) -> LayerPlan {
    let attention = input.object("attention");
    let (norms, posts) = (input.maybe("head_norms"), input.maybe("post_norms"));
    let biases = input.object("biases");
    let product = |name| {
        let bias = biases.maybe(name).map(vector_of);
        ProductPlan { matrix: matrix_of(input.object(name)), bias }
    };
    LayerPlan {
        blob: input.int("blob"),
        attention: AttentionPlan {
            heads: attention.int("heads"),
            kv_heads: attention.int("kv_heads"),
            head_dim: attention.int("head_dim"),
            rope: attention.int("rope"),
            window: attention.int("window"),
            score_scale: attention.f32("score_scale"),
        },
        activation: activation_of(input.text("activation")),
        parts: LayerTree {
            attention_norm: norm_of(input.object("attention_norm")),
            qkv: product("qkv"),
            output: product("output"),
            ffn_norm: norm_of(input.object("ffn_norm")),
            feed_forward: feed_forward_of(input.object("feed_forward")),
            head_norms: norms.map(|norms| HeadNormsPlan {
                query: norm_of(norms.object("query")),
                key: norm_of(norms.object("key")),
            }),
            post_norms: posts.map(|norms| PostNormsPlan {
                attention: norm_of(norms.object("attention")),
                ffn: norm_of(norms.object("ffn")),
            }),
        },
    }
}

fn product_of(input: Input<'_>) -> ProductPlan {
    let bias = input.maybe("bias").map(vector_of);
    ProductPlan { matrix: matrix_of(input.object("matrix")), bias }
}

fn gated_of(input: Input<'_>) -> Gated<ProductPlan> {
    let [gate_up, down] = ["gate_up", "down"].map(|name| product_of(input.object(name)));
    Gated { gate_up, down }
}

fn feed_forward_of(input: Input<'_>) -> FeedForwardPlan {
    if input.has("dense") {
        return FeedForward::Dense(gated_of(input.object("dense")));
    }
    let input = input.object("experts");
    let shared = |shared: Input<'_>| Shared {
        gate: product_of(shared.object("gate")),
        gated: gated_of(shared.object("gated")),
    };
    FeedForward::Experts(Experts {
        rule: rule_of(input),
        router: product_of(input.object("router")),
        experts: input.objects("experts").into_iter().map(gated_of).collect(),
        shared: input.maybe("shared").map(shared),
    })
}

pub(crate) fn rule_of(input: Input<'_>) -> Rule {
    Rule { used: input.int("used"), normalise: input.bool("normalise") }
}

/// Parameters that are not given have their defaults.
pub(crate) fn sampling_of(input: Input<'_>) -> Sampling {
    let f32 = |name, default| if input.has(name) { input.f32(name) } else { default };
    let bias = |entry: Input<'_>| Bias { token: entry.int("token"), bias: entry.f32("bias") };
    let biases = if input.has("logit_bias") { input.objects("logit_bias") } else { vec![] };
    Sampling {
        temperature: f32("temperature", 0.0),
        top_k: if input.has("top_k") { input.int("top_k") } else { 0 },
        top_p: f32("top_p", 1.0),
        min_p: f32("min_p", 0.0),
        repetition_penalty: f32("repetition_penalty", 1.0),
        presence_penalty: f32("presence_penalty", 0.0),
        frequency_penalty: f32("frequency_penalty", 0.0),
        logit_bias: biases.into_iter().map(bias).collect(),
        seed: if input.has("seed") { input.u64("seed") } else { 0 },
    }
}

pub(crate) fn sampling_bytes(input: Input<'_>) -> Value {
    json!({ "bytes": hex(&sampling_of(input.object("sampling")).to_bytes()) })
}

pub(crate) fn sampling_check(input: Input<'_>) -> Value {
    let sampling = sampling_of(input.object("sampling"));
    json!({ "refused": sampling.check(input.int("vocabulary")).err().map(|error| error.name) })
}

pub(crate) fn random(input: Input<'_>) -> Value {
    json!({ "word": u64s_text(&[sample::random(input.u64("seed"), input.int("position"))]) })
}

pub(crate) fn sample(input: Input<'_>) -> Value {
    let (logits, sampling) = (input.f32s("logits"), sampling_of(input.object("sampling")));
    let (prompt, answer): (Vec<u32>, Vec<u32>) = (input.ints("prompt"), input.ints("answer"));
    let history = History { prompt: &prompt, answer: &answer };
    let allowed: Option<Vec<u32>> = input.has("allowed").then(|| input.ints("allowed"));
    let contains = allowed.map(|allowed| move |id: u32| allowed.contains(&id));
    let allowed = contains.as_ref().map(|contains| contains as &dyn Fn(u32) -> bool);
    match sample::sample(&logits, &sampling, history, allowed) {
        Ok(token) => json!({ "token": token }),
        Err(Overflow) => json!({ "overflow": true }),
    }
}

fn stops_of(input: Input<'_>) -> Stops {
    Stops {
        max_tokens: input.int("max_tokens"),
        ignore_end: input.bool("ignore_end"),
        strings: input.byte_strings("strings"),
    }
}

pub(crate) fn stops_bytes(input: Input<'_>) -> Value {
    json!({ "bytes": hex(&stops_of(input.object("stops")).to_bytes()) })
}

pub(crate) fn finish_bytes(input: Input<'_>) -> Value {
    let finish = match input.text("finish") {
        "end token" => Finish::EndToken,
        "stop string" => Finish::StopString,
        "length" => Finish::Length,
        "context" => Finish::Context,
        "overflow" => Finish::Overflow,
        other => panic!("no answer ends by {other}"),
    };
    json!({ "bytes": hex(&finish.to_bytes()), "reason": finish.reason() })
}

/// The answer's tokens until one of them ends it; `count` says how many that took.
pub(crate) fn stop(input: Input<'_>) -> Value {
    let words = input.byte_strings("vocabulary");
    let vocabulary = Vocabulary::new(words.iter().map(Vec::as_slice)).expect("a vocabulary");
    let end_tokens: Vec<u32> = input.ints("end_tokens");
    let (context, prompt) = (input.int("context"), input.int("prompt_len"));
    let mut tracker =
        StopTracker::new(stops_of(input.object("stops")), &end_tokens, context, prompt);
    for (index, token) in input.ints("tokens").into_iter().enumerate() {
        if let Some(finish) = tracker.push(token, &vocabulary) {
            let name = match finish {
                Finish::EndToken => "end token",
                Finish::StopString => "stop string",
                Finish::Length => "length",
                Finish::Context => "context",
                Finish::Overflow => "overflow",
            };
            return json!({ "finish": name, "count": index + 1 });
        }
    }
    json!({ "finish": null })
}
