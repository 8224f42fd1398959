//! Models as folders of safetensors files, written from the GGUF files of the same models.

use std::collections::BTreeMap;

use lockstep_exact::Digest;
use lockstep_import::package::{MemorySink, ModelFile};
use lockstep_import::safetensors::{Folder, weight_files};
use serde_json::{Map, Value, json};

use super::family::{self, EXPERTS};
use super::{File, HEAD_DIM, HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, Meta, tiny, tokens};

/// Name, type, shape and bytes of a tensor.
pub(crate) type Stored = (String, &'static str, Vec<u64>, Vec<u8>);

/// A model's folder, each file to be changed before it is written.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) config: Value,
    pub(crate) tokenizer: Value,
    pub(crate) settings: Value,
    pub(crate) tensors: Vec<Stored>,
    /// Files of chat templates, by the templates' names.
    pub(crate) templates: BTreeMap<&'static str, String>,
}

/// The tiny model as a GGUF file whose unused token has the name that folders give it.
pub(crate) fn gguf() -> File {
    let mut file = tiny();
    name_unused(&mut file);
    file
}

/// The tiny model as a folder.
pub(crate) fn folder() -> Parts {
    Parts::of("llama", &mut gguf())
}

fn name_unused(file: &mut File) {
    file.strings("tokenizer.ggml.tokens")[263] = "[PAD263]".to_owned();
}

impl Parts {
    /// The folder of a case of the parity table, and `file` changed to what says the same.
    pub(crate) fn of(case: &str, file: &mut File) -> Self {
        name_unused(file);
        let config = config(case);
        let is_llama =
            ["llama", "mistral", "mixtral"].contains(&config["model_type"].as_str().unwrap());
        let mut tensors = Vec::new();
        let apart = family::with_experts_apart(file.clone());
        let is_expert = |name: &str| name.split('.').count() == 5;
        for tensor in apart.tensors.into_iter().filter(|tensor| is_expert(&tensor.name)) {
            let name = their_name(&tensor.name, case).unwrap();
            let shape = tensor.dims.iter().rev().copied().collect();
            tensors.push((name, "F32", shape, tensor.bytes));
        }
        for tensor in &mut file.tensors {
            let Some(name) = their_name(&tensor.name, case) else { continue };
            let mut shape: Vec<u64> = tensor.dims.iter().rev().copied().collect();
            if name.ends_with("shared_expert_gate.weight") {
                shape.insert(0, 1);
            }
            let is_turned =
                is_llama && ["attn_q.", "attn_k."].iter().any(|p| tensor.name.contains(p));
            let row_bytes = if tensor.dims.len() == 2 { HIDDEN * 4 } else { 4 };
            let stored = match is_turned {
                true => half_split(&tensor.bytes, row_bytes),
                false => tensor.bytes.clone(),
            };
            if case.starts_with("gemma3") && tensor.name.ends_with("norm.weight") {
                tensor.bytes = plus_one(&tensor.bytes);
            }
            tensors.push((name, "F32", shape, stored));
        }
        state_factors(case, file);
        let templates = BTreeMap::new();
        Self { config, tokenizer: tokenizer(), settings: settings(), tensors, templates }
    }

    /// The folder's files by name, with the weights in one file or in two.
    pub(crate) fn files(&self, is_split: bool) -> BTreeMap<String, Vec<u8>> {
        let json = |value: &Value| serde_json::to_vec(value).unwrap();
        let mut files = BTreeMap::from([
            ("config.json".to_owned(), json(&self.config)),
            ("tokenizer.json".to_owned(), json(&self.tokenizer)),
            ("tokenizer_config.json".to_owned(), json(&self.settings)),
        ]);
        for (name, source) in &self.templates {
            let path = match *name {
                "default" => "chat_template.jinja".to_owned(),
                name => format!("additional_chat_templates/{name}.jinja"),
            };
            files.insert(path, source.clone().into_bytes());
        }
        if !is_split {
            files.insert("model.safetensors".to_owned(), weights(&self.tensors));
            return files;
        }
        let mut map = Map::new();
        let (first, second) = self.tensors.split_at(5);
        for (number, shard) in [(1, first), (2, second)] {
            let name = format!("model-{number:05}-of-00002.safetensors");
            map.extend(shard.iter().map(|tensor| (tensor.0.clone(), json!(name))));
            files.insert(name, weights(shard));
        }
        let index = json!({"metadata": {}, "weight_map": map});
        files.insert("model.safetensors.index.json".to_owned(), json(&index));
        files
    }
}

/// Rows of each head, from interleaved to half-split.
fn half_split(bytes: &[u8], row_bytes: usize) -> Vec<u8> {
    let rows: Vec<&[u8]> = bytes.chunks_exact(row_bytes).collect();
    let heads = rows.chunks_exact(HEAD_DIM);
    let split = heads.flat_map(|head| {
        let every_other = |first: usize| head.iter().skip(first).step_by(2).copied();
        every_other(0).chain(every_other(1)).collect::<Vec<_>>()
    });
    split.collect::<Vec<_>>().concat()
}

fn plus_one(bytes: &[u8]) -> Vec<u8> {
    let numbers = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes) + 1.0);
    numbers.flat_map(f32::to_le_bytes).collect()
}

/// What folders call a tensor; `None` if they do not have it.
fn their_name(name: &str, case: &str) -> Option<String> {
    let own: &[(&str, &str)] = match case {
        "gemma3" | "gemma3-linear" => &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
            ("ffn_norm", "pre_feedforward_layernorm"),
        ],
        "phi3" | "phi3-long" => &[("ffn_up", "mlp.gate_up_proj")],
        "mixtral" => &[("ffn_gate_inp", "block_sparse_moe.gate")],
        _ => &[],
    };
    let all = [
        ("token_embd", "model.embed_tokens"),
        ("output_norm", "model.norm"),
        ("attn_norm", "input_layernorm"),
        ("attn_qkv", "self_attn.qkv_proj"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_q_norm", "self_attn.q_norm"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_k_norm", "self_attn.k_norm"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("ffn_gate_inp", "mlp.gate"),
        ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
        ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
        ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
        ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
    ];
    let (stem, what) = name.rsplit_once('.').unwrap();
    let (before, part) = match stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => (format!("model.layers.{layer}."), part),
        None => (String::new(), stem),
    };
    if let Some((part, expert)) = part.split_once('.') {
        let of = ["ffn_gate", "ffn_down", "ffn_up"].iter().position(|ours| *ours == part)?;
        let theirs = match case {
            "mixtral" => format!("block_sparse_moe.experts.{expert}.w{}", of + 1),
            _ => format!("mlp.experts.{expert}.{}", ["gate_proj", "down_proj", "up_proj"][of]),
        };
        return Some(format!("{before}{theirs}.{what}"));
    }
    let (_, theirs) = own.iter().chain(&all).find(|(ours, _)| *ours == part)?;
    Some(format!("{before}{theirs}.{what}"))
}

/// `config.json` of a case of the parity table.
fn config(case: &str) -> Value {
    let mut config = json!({
        "architectures": ["AnyForCausalLM"], "model_type": case, "hidden_act": "silu",
        "attention_bias": false, "mlp_bias": false, "rope_scaling": null,
        "tie_word_embeddings": true, "torch_dtype": "float32", "initializer_range": 0.02,
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "vocab_size": 265,
    });
    let more = match case {
        "llama3" => json!({"model_type": "llama", "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }}),
        "mistral-window" => json!({"model_type": "mistral", "sliding_window": 7}),
        "qwen2" => {
            json!({"use_sliding_window": false, "sliding_window": 32, "max_window_layers": 2,
            "layer_types": ["full_attention", "full_attention"]})
        }
        "qwen3" => json!({"head_dim": HEAD_DIM, "use_sliding_window": false,
            "sliding_window": null, "max_window_layers": 2}),
        "mixtral" => json!({"num_local_experts": EXPERTS.0, "num_experts_per_tok": EXPERTS.1,
            "sliding_window": null, "router_aux_loss_coef": 0.02, "router_jitter_noise": 0.0,
            "output_router_logits": false}),
        "qwen2moe" => qwen_moe(
            "qwen2_moe",
            &json!({"qkv_bias": true,
            "shared_expert_intermediate_size": 40, "norm_topk_prob": false}),
        ),
        "qwen2moe-norm" => qwen_moe(
            "qwen2_moe",
            &json!({"shared_expert_intermediate_size": 40,
            "norm_topk_prob": true}),
        ),
        "qwen3moe" => qwen_moe("qwen3_moe", &json!({"norm_topk_prob": true})),
        "qwen3moe-dense" => {
            qwen_moe("qwen3_moe", &json!({"norm_topk_prob": true, "mlp_only_layers": [0]}))
        }
        "gemma3" => gemma(&Value::Null),
        "gemma3-linear" => gemma(&json!({"rope_type": "linear", "factor": 8.0})),
        "phi3" => phi(&Value::Null),
        "phi3-long" => {
            let factors = |first: f64| json!([first, first + 0.25]);
            phi(&json!({"type": "longrope", "long_factor": factors(4.0),
                "short_factor": factors(2.0)}))
        }
        _ => json!({}),
    };
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn qwen_moe(model_type: &str, more: &Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "head_dim": HEAD_DIM, "use_sliding_window": false,
        "sliding_window": null, "max_window_layers": 2, "num_experts": EXPERTS.0,
        "num_experts_per_tok": EXPERTS.1, "moe_intermediate_size": 24, "mlp_only_layers": [],
        "decoder_sparse_step": 1, "router_aux_loss_coef": 0.001, "output_router_logits": false,
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn gemma(scaling: &Value) -> Value {
    json!({
        "model_type": "gemma3_text", "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "head_dim": HEAD_DIM, "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"], "_sliding_window_pattern": 2,
        "query_pre_attn_scalar": HEAD_DIM, "rope_local_base_freq": 10000.0, "rope_theta": 1e6,
        "attn_logit_softcapping": null, "use_bidirectional_attention": false,
        "rope_scaling": scaling,
    })
}

fn phi(scaling: &Value) -> Value {
    json!({
        "model_type": "phi3", "partial_rotary_factor": 0.5, "sliding_window": 6,
        "full_attn_mod": 1, "lm_head_bias": false,
        "original_max_position_embeddings": 64, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "rope_scaling": scaling,
    })
}

/// Puts the rotary factors that a folder's settings stand for in the file.
fn state_factors(case: &str, file: &mut File) {
    match case {
        // Turns of 6.28, 62.8, 628 and 6283 positions; those up to 16 are kept, those over 64 are
        // made 8 times as long, and between there would be a mean.
        "llama3" => file.numbers("rope_freqs.weight", [1.0, LLAMA3_MEAN, 8.0, 8.0]),
        "phi3-long" => {
            file.numbers("rope_factors_long.weight", [4.0, 4.25]);
            file.numbers("rope_factors_short.weight", [2.0, 2.25]);
            // The root of 1 + ln 2 / ln 64.
            let gain = (7.0_f64 / 6.0).sqrt() as f32;
            file.set("phi3.rope.scaling.attn_factor", Meta::F32(gain));
        }
        _ => {}
    }
}

/// 1 / ((1 - s) / 8 + s) with s = (64 / (20 π) - 1) / 3, step by step in binary32.
const LLAMA3_MEAN: f32 = 7.667_385;

fn tokenizer() -> Value {
    let vocab: BTreeMap<String, usize> =
        tokens().into_iter().enumerate().map(|(id, text)| (text, id)).collect();
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0",
        "added_tokens": [
            added(261, "<|im_start|>", true), added(262, "<|im_end|>", true),
            added(264, "user-word", false),
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": true},
        ]},
        "post_processor": null,
        "model": {"type": "BPE", "vocab": vocab,
            "merges": ["t h", "th e", ["\u{120}", "the"], "\u{120} t", "i n"]},
    })
}

fn settings() -> Value {
    json!({"add_bos_token": false, "bos_token": "<|im_start|>",
        "eos_token": {"content": "<|im_end|>"}, "chat_template": "{{ messages[0].content }}"})
}

/// A safetensors file of these tensors.
pub(crate) fn weights(tensors: &[Stored]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

fn import(folder: &Folder<'_>) -> Result<Digest, String> {
    let translated = folder.translate().map_err(|error| error.to_string())?;
    let model = ModelFile::open_folder(&translated).map_err(|error| error.to_string())?;
    let manifest = model.import(&mut MemorySink::default(), |_| ());
    manifest.map(|manifest| manifest.id()).map_err(|error| error.to_string())
}

impl Parts {
    /// Imports the folder with its weights in one file per slice, and an index if there are more.
    pub(crate) fn id_in(&self, shards: &[&[Stored]]) -> Result<Digest, String> {
        let names: Vec<String> = match shards.len() {
            1 => vec!["model.safetensors".to_owned()],
            count => {
                (1..=count).map(|n| format!("model-{n:05}-of-{count:05}.safetensors")).collect()
            }
        };
        let map: Map<String, Value> = shards
            .iter()
            .zip(&names)
            .flat_map(|(shard, file)| shard.iter().map(move |t| (t.0.clone(), json!(file))))
            .collect();
        let index = serde_json::to_vec(&json!({"metadata": {}, "weight_map": map})).unwrap();
        let bytes: Vec<Vec<u8>> = shards.iter().map(|shard| weights(shard)).collect();
        if shards.len() > 1 {
            assert_eq!(weight_files(&index), Ok(names.clone()));
        }
        let index = (shards.len() > 1).then_some(&index[..]);
        let weights = names.into_iter().zip(bytes.iter().map(Vec::as_slice)).collect();
        self.with(index, weights)
    }

    pub(crate) fn with(
        &self,
        index: Option<&[u8]>,
        weights: BTreeMap<String, &[u8]>,
    ) -> Result<Digest, String> {
        let json = |value: &Value| serde_json::to_vec(value).unwrap();
        let (config, tokenizer) = (json(&self.config), json(&self.tokenizer));
        let settings = json(&self.settings);
        let templates = self.templates.iter();
        let mut more: BTreeMap<&str, &[u8]> =
            templates.map(|(name, source)| (*name, source.as_bytes())).collect();
        import(&Folder {
            name: "tiny",
            license: Some("MIT"),
            config: &config,
            tokenizer: &tokenizer,
            tokenizer_config: Some(&settings),
            chat_template: more.remove("default"),
            more_chat_templates: more,
            generation_config: None,
            index,
            weights,
        })
    }

    pub(crate) fn id(&self) -> Result<Digest, String> {
        self.id_in(&[&self.tensors])
    }
}
