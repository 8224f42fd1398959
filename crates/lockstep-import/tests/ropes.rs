//! Rotary frequencies of `config.json` settings, against an independent implementation's.
//!
//! `golden/ropes.py` says how the golden numbers were made.

mod support;

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use lockstep_import::gguf::Value as Metadatum;
use lockstep_import::package::{MemorySink, ModelFile};
use lockstep_import::safetensors::Folder;
use serde_json::{Value, json};

use support::folder::{Stored, folder, weights};

/// Largest relative difference: the other implementation computes in binary32, and so does each
/// factor here.
const NEAR: f64 = 5e-7;
const INNER: u64 = 32;
const VOCABULARY: u64 = 265;

/// A model of one layer with one head of all of a state's elements.
fn tensors(kind: &str, head: u64) -> Vec<Stored> {
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let fused = kind == "longrope";
    let projections = match fused {
        true => vec![("self_attn.qkv_proj", 3 * head, head), ("mlp.gate_up_proj", 2 * INNER, head)],
        false => vec![
            ("self_attn.q_proj", head, head),
            ("self_attn.k_proj", head, head),
            ("self_attn.v_proj", head, head),
            ("mlp.gate_proj", INNER, head),
            ("mlp.up_proj", INNER, head),
        ],
    };
    let others = [("self_attn.o_proj", head, head), ("mlp.down_proj", head, INNER)];
    let matrices = projections.into_iter().chain(others);
    let mut shapes: Vec<(String, Vec<u64>)> =
        matrices.map(|(name, rows, columns)| (layer(name), vec![rows, columns])).collect();
    shapes.push(("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, head]));
    shapes.push(("model.norm.weight".to_owned(), vec![head]));
    for norm in ["input_layernorm", "post_attention_layernorm"] {
        shapes.push((layer(norm), vec![head]));
    }
    let stored = |(name, shape): (String, Vec<u64>)| {
        let count = shape.iter().product::<u64>();
        let numbers = (0..count).flat_map(|at| ((at % 7) as f32 - 2.5).to_le_bytes());
        (name, "F32", shape, numbers.collect())
    };
    shapes.into_iter().map(stored).collect()
}

fn config(case: &Value) -> Value {
    let (kind, head) = (case["kind"].as_str().unwrap(), &case["head_dim"]);
    let parameters = &case["parameters"];
    let mut config = json!({
        "model_type": if kind == "longrope" { "phi3" } else { "llama" }, "hidden_act": "silu",
        "hidden_size": head, "intermediate_size": INNER, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "rms_norm_eps": 1e-5,
        "max_position_embeddings": case["context"], "tie_word_embeddings": true,
        "vocab_size": VOCABULARY, "rope_theta": parameters["rope_theta"],
    });
    let mut scaling = parameters.clone();
    let scaling_fields = scaling.as_object_mut().unwrap();
    scaling_fields.remove("rope_theta");
    let part = scaling_fields.remove("partial_rotary_factor");
    if kind == "longrope" {
        let original = scaling_fields.remove("original_max_position_embeddings").unwrap();
        config["original_max_position_embeddings"] = original;
        config["partial_rotary_factor"] = part.unwrap();
    }
    config["rope_scaling"] = scaling;
    config
}

/// Radians per position of each pair, and the gain of queries and keys.
fn imported(case: &Value) -> (Vec<f64>, f64) {
    let parts = folder();
    let tensors = tensors(case["kind"].as_str().unwrap(), case["head_dim"].as_u64().unwrap());
    let (config, tokenizer) = (config(case).to_string(), parts.tokenizer.to_string());
    let weights = weights(&tensors);
    let folder = Folder {
        name: "ropes",
        license: None,
        config: config.as_bytes(),
        tokenizer: tokenizer.as_bytes(),
        tokenizer_config: None,
        chat_template: None,
        more_chat_templates: BTreeMap::new(),
        generation_config: None,
        index: None,
        weights: BTreeMap::from([("model.safetensors".to_owned(), weights.as_slice())]),
    };
    let translated = folder.translate().unwrap();
    let gguf = translated.gguf().unwrap();
    let gain = match gguf.get("phi3.rope.scaling.attn_factor") {
        Some(Metadatum::F32(gain)) => f64::from(*gain),
        _ => 1.0,
    };
    let model = ModelFile::open_folder(&translated).unwrap();
    let manifest = model.import(&mut MemorySink::default(), |_| ()).unwrap();
    let turns = manifest.ropes[0].frequencies.iter();
    (turns.map(|turn| *turn as f64 / 18_446_744_073_709_551_616.0 * TAU).collect(), gain)
}

#[test]
fn frequencies_are_those_of_an_independent_implementation() {
    let golden: Vec<Value> = serde_json::from_str(include_str!("golden/ropes.json")).unwrap();
    for case in &golden {
        let (ours, gain) = imported(case);
        let theirs: Vec<f64> = serde_json::from_value(case["frequencies"].clone()).unwrap();
        assert_eq!(ours.len(), theirs.len(), "{}", case["parameters"]);
        let far = |(ours, theirs): (&f64, &f64)| (ours / theirs - 1.0).abs();
        let largest = ours.iter().zip(&theirs).map(far).fold(0.0, f64::max);
        let their_gain = case["attention_factor"].as_f64().unwrap();
        println!(
            "{:<9} head {:>3}, {:>3} pairs: frequencies differ by {largest:.1e} at most, gain by \
             {:.1e}",
            case["kind"].as_str().unwrap(),
            case["head_dim"],
            ours.len(),
            (gain / their_gain - 1.0).abs(),
        );
        assert!(largest <= NEAR, "{largest}: {}", case["parameters"]);
        assert!((gain / their_gain - 1.0).abs() <= NEAR, "{gain}: {}", case["parameters"]);
    }
}
