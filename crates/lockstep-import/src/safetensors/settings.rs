//! The rule by which keys of `config.json` that nobody reads here may be there.
//!
//! Configurations of transformers hold hundreds of keys: of training, of printing, of Python's
//! classes, of generation. Few of them change what a forward pass computes, and those are called
//! after what they change. So a key that is not read is left alone, unless a word of its name is
//! one of [`ARITHMETIC`] and no rule of [`is_harmless`] says why it may be there.

use serde_json::Value;

use super::FolderError;

/// The file that says what the model is made of.
pub(super) const FILE: &str = "config.json";

/// Words in the names of settings that change a forward pass.
const ARITHMETIC: &[&str] = &[
    "act",
    "activation",
    "alibi",
    "altup",
    "attention",
    "attn",
    "audio",
    "bias",
    "bidirectional",
    "cap",
    "capping",
    "causal",
    "clamp",
    "clip",
    "conv",
    "dense",
    "dim",
    "embd",
    "embed",
    "embedding",
    "embeddings",
    "experts",
    "expert",
    "factor",
    "ffn",
    "fn",
    "gate",
    "gated",
    "gating",
    "glu",
    "group",
    "groups",
    "head",
    "heads",
    "hidden",
    "hybrid",
    "inner",
    "intermediate",
    "interleaved",
    "interpolate",
    "kv",
    "laurel",
    "layer",
    "layernorm",
    "layers",
    "linear",
    "logit",
    "logits",
    "lora",
    "mamba",
    "memory",
    "mlp",
    "moe",
    "mtp",
    "mod",
    "multiplier",
    "nextn",
    "norm",
    "nope",
    "parallel",
    "pattern",
    "position",
    "positions",
    "positional",
    "recurrent",
    "residual",
    "rms",
    "rmsnorm",
    "rope",
    "rotary",
    "routed",
    "router",
    "routing",
    "scalar",
    "scale",
    "scaling",
    "shared",
    "sink",
    "sinks",
    "sliding",
    "softcap",
    "softcapping",
    "sparse",
    "ssm",
    "state",
    "swiglu",
    "theta",
    "tie",
    "topk",
    "window",
    "yarn",
];
/// Defaults of generation that older programs wrote here: a caller says what it wants.
const GENERATION: &[&str] = &[
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "penalty_alpha",
    "prefix",
    "remove_invalid_values",
    "renormalize_logits",
    "repetition_penalty",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];
/// The settings of Python's classes: how they compute the same result, and for what they are
/// otherwise used.
const CLASSES: &[&str] = &[
    "add_cross_attention",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "is_decoder",
    "is_encoder_decoder",
    "is_llama_config",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "use_cache",
];
/// Settings that change the answers where they are false.
const NEEDED: &[&str] = &["causal", "is_causal", "use_rope", "use_rotary_embedding"];

/// Returns the words of a key: what stands between underscores, dots and hyphens, without digits.
fn words(key: &str) -> impl Iterator<Item = &str> {
    let between = |c: char| !c.is_ascii_alphabetic();
    key.split(between).filter(|word| !word.is_empty())
}

/// Returns whether no value of this key changes what a forward pass computes, and why.
fn is_harmless(key: &str) -> bool {
    let has = |words: &[&str]| words.iter().any(|word| key.contains(word));
    // Training: noise, losses, what is dropped, what matrices begin with, memory for speed.
    let of_training = has(&["drop", "loss", "noise", "jitter", "init", "checkpointing"])
        || key.ends_with("_coef")
        || key.ends_with("_std");
    // Printing, and what a Python call returns.
    let of_output = key.starts_with("output_") || key.starts_with("return_");
    // Classifiers on top of the model.
    let of_labels = has(&["label", "classifier", "summary_", "finetuning_task", "num_classes"]);
    // Which program computes attention, and which wrote the file.
    let of_programs = has(&["flash_attn", "flash_attention", "attn_implementation", "sdpa"])
        || has(&["transformers", "unsloth", "version", "dtype", "auto_map", "architectures"])
        || has(&["name_or_path", "tokenizer_class", "cache_implementation", "torchscript"]);
    // Which tokens mean what is the tokenizer's matter, and how long a text may be the program's.
    let of_tokens = ["token_id", "token_ids", "token_index", "tokens_per_image"]
        .iter()
        .any(|end| key.ends_with(end))
        || has(&["max_length", "max_sequence_length", "max_seq", "seq_length"]);
    of_training
        || of_output
        || of_labels
        || of_programs
        || of_tokens
        || GENERATION.contains(&key)
        || CLASSES.contains(&key)
}

/// Returns whether a value asks for nothing: a factor of one, no list, nothing.
fn is_neutral(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(false) => !NEEDED.contains(&key),
        Value::Bool(true) => NEEDED.contains(&key),
        Value::Number(number) => {
            let scales = ["factor", "multiplier", "scale", "scaling"];
            words(key).any(|word| scales.contains(&word)) && number.as_f64() == Some(1.0)
        }
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
    }
}

/// Returns whether a key that is not read may be there with this value.
pub(super) fn may_be_ignored(key: &str, value: &Value) -> bool {
    is_neutral(key, value)
        || is_harmless(key)
        || !words(key).any(|word| ARITHMETIC.contains(&word.to_ascii_lowercase().as_str()))
            && !NEEDED.contains(&key)
}

/// Returns the refusal of a key with this value.
pub(super) fn refused(key: &str, value: &Value) -> FolderError {
    let value = value.to_string().chars().take(80).collect();
    FolderError::Setting { key: key.to_owned(), value }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_that_change_no_forward_pass_are_left_alone_and_others_are_refused() {
        for (key, value) in [
            ("_attn_implementation", json!("sdpa")),
            ("_flash_attn_2_enabled", json!(true)),
            ("attention_dropout", json!(0.1)),
            ("attention_probs_dropout_prob", json!(0.1)),
            ("chunk_size_feed_forward", json!(0)),
            ("decoder_start_token_id", json!(1)),
            ("dpo_run_name", json!("mine")),
            ("gradient_checkpointing", json!(true)),
            ("id2label", json!({"0": "LABEL_0"})),
            ("is_decoder", json!(true)),
            ("layerdrop", json!(0.1)),
            ("max_length", json!(20)),
            ("mlp_bias", json!(false)),
            ("model_max_length", json!(4096)),
            ("neftune_noise_alpha", json!(5)),
            ("output_attentions", json!(true)),
            ("output_hidden_states", json!(true)),
            ("output_router_logits", json!(true)),
            ("pretraining_tp", json!(2)),
            ("pruned_heads", json!({})),
            ("residual_multiplier", json!(1.0)),
            ("return_dict", json!(true)),
            ("router_aux_loss_coef", json!(0.01)),
            ("summary_activation", json!("tanh")),
            ("temperature", json!(0.6)),
            ("tokenizer_class", json!("LlamaTokenizer")),
            ("use_rope", json!(true)),
            ("wandb_project", json!("x")),
        ] {
            assert!(may_be_ignored(key, &value), "{key}");
        }
        for (key, value) in [
            ("alibi_bias_max", json!(8)),
            ("attention_multiplier", json!(0.125)),
            ("attn_logit_softcapping", json!(50.0)),
            ("clip_qkv", json!(8.0)),
            ("embedding_multiplier", json!(12.0)),
            ("final_logit_softcapping", json!(30.0)),
            ("first_k_dense_replace", json!(1)),
            ("interpolate_factor", json!(4)),
            ("is_causal", json!(false)),
            ("kv_lora_rank", json!(512)),
            ("logits_scaling", json!(8.0)),
            ("mlp_bias", json!(true)),
            ("no_rope_layers", json!([1, 0])),
            ("num_nextn_predict_layers", json!(1)),
            ("partial_rotary_factor", json!(0.5)),
            ("qk_layernorm", json!(true)),
            ("residual_multiplier", json!(0.22)),
            ("rope_scaling_of_mine", json!({"factor": 2})),
            ("use_qk_norm", json!(true)),
            ("use_rope", json!(false)),
            ("use_sliding_window", json!(true)),
        ] {
            assert!(!may_be_ignored(key, &value), "{key}");
        }
    }
}
