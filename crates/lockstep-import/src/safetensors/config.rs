//! `config.json`: hyperparameters and tensor names under the names that GGUF files use.

use serde_json::{Map, Value};

use super::FolderError;
use super::metadata::Metadata;
use crate::limits::MAX_CONFIG_BYTES;

const FILE: &str = "config.json";

/// Sizes, and what GGUF files call them.
const SIZES: [(&str, &str); 7] = [
    ("max_position_embeddings", "context_length"),
    ("hidden_size", "embedding_length"),
    ("num_hidden_layers", "block_count"),
    ("intermediate_size", "feed_forward_length"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("vocab_size", "vocab_size"),
];
/// Keys that are read apart from [`SIZES`], or say nothing about the answers.
const OTHERS: [&str; 25] = [
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_dropout",
    "initializer_range",
    "is_llama_config",
    "max_sequence_length",
    "model_type",
    "pad_token_id",
    "pretraining_tp",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_cache",
];
/// Parts of a layer, and what GGUF files call them.
const PARTS: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.v_proj", "attn_v"),
];

/// A configuration of the Llama family.
#[derive(Debug)]
pub(super) struct Config {
    values: Map<String, Value>,
}

impl Config {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, FolderError> {
        if bytes.len() > MAX_CONFIG_BYTES {
            let (file, got) = (FILE.to_owned(), bytes.len());
            return Err(FolderError::LongFile { file, got, limit: MAX_CONFIG_BYTES });
        }
        let values = serde_json::from_slice(bytes).map_err(|error| FolderError::Json {
            file: FILE.to_owned(),
            reason: error.to_string(),
        })?;
        let config = Self { values };
        match config.values.get("model_type").and_then(Value::as_str) {
            Some("llama" | "mistral") => {}
            other => {
                let got = other.unwrap_or("unknown").to_owned();
                return Err(FolderError::ModelType { got });
            }
        }
        config.check_keys()?;
        Ok(config)
    }

    /// What GGUF files call the architecture.
    pub(super) fn architecture(&self) -> &'static str {
        "llama"
    }

    /// Refuses what changes how the model works in a way that is not understood. A key that is
    /// null or false asks for nothing.
    fn check_keys(&self) -> Result<(), FolderError> {
        for (key, value) in &self.values {
            let asks = !matches!(value, Value::Null | Value::Bool(false));
            let known = OTHERS.contains(&key.as_str()) || SIZES.iter().any(|(name, _)| name == key);
            let fits = match key.as_str() {
                "hidden_act" => value == "silu",
                "rope_scaling" => !asks,
                "rope_parameters" => !asks || is_plain_rope(value),
                "pretraining_tp" => value == 1,
                "attention_dropout" | "hidden_dropout" => value.as_f64() == Some(0.0),
                _ => known || !asks,
            };
            if !fits {
                let value = value.to_string().chars().take(80).collect();
                return Err(FolderError::Setting { key: key.clone(), value });
            }
        }
        Ok(())
    }

    fn missing(key: &str) -> FolderError {
        FolderError::Missing { file: FILE.to_owned(), key: key.to_owned() }
    }

    fn size(&self, key: &str) -> Result<Option<u64>, FolderError> {
        let Some(value) = self.values.get(key).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let wrong = || FolderError::Wrong { file: FILE.to_owned(), key: key.to_owned() };
        value.as_u64().map(Some).ok_or_else(wrong)
    }

    fn fraction(&self, key: &str) -> Result<Option<f32>, FolderError> {
        let parameters = self.values.get("rope_parameters").and_then(|values| values.get(key));
        let value = self.values.get(key).or(parameters);
        let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
        let wrong = || FolderError::Wrong { file: FILE.to_owned(), key: key.to_owned() };
        value.as_f64().map(|number| Some(number as f32)).ok_or_else(wrong)
    }

    /// Token ids of the model.
    pub(super) fn vocabulary(&self) -> Result<u64, FolderError> {
        self.size("vocab_size")?.ok_or_else(|| Self::missing("vocab_size"))
    }

    fn head_dim(&self) -> Result<u64, FolderError> {
        if let Some(stated) = self.size("head_dim")? {
            return Ok(stated);
        }
        let part = |key| self.size(key)?.ok_or_else(|| Self::missing(key));
        let (hidden, heads) = (part("hidden_size")?, part("num_attention_heads")?);
        let wrong =
            || FolderError::Wrong { file: FILE.to_owned(), key: "num_attention_heads".to_owned() };
        hidden.checked_div(heads).filter(|_| hidden.is_multiple_of(heads)).ok_or_else(wrong)
    }

    fn is_tied(&self) -> bool {
        self.values.get("tie_word_embeddings") == Some(&Value::Bool(true))
    }

    /// Writes the hyperparameters.
    pub(super) fn describe(&self, metadata: &mut Metadata) -> Result<(), FolderError> {
        let key = |name: &str| format!("{}.{name}", self.architecture());
        for (name, theirs) in SIZES {
            if let Some(size) = self.size(name)? {
                metadata.integer(&key(theirs), size);
            }
        }
        let head_dim = self.head_dim()?;
        metadata.integer(&key("attention.key_length"), head_dim);
        metadata.integer(&key("attention.value_length"), head_dim);
        let eps = self.fraction("rms_norm_eps")?.ok_or_else(|| Self::missing("rms_norm_eps"))?;
        metadata.float(&key("attention.layer_norm_rms_epsilon"), eps);
        if let Some(base) = self.fraction("rope_theta")? {
            metadata.float(&key("rope.freq_base"), base);
        }
        Ok(())
    }

    /// What GGUF files call the tensor called `name`, and the size of a head if its rows are
    /// half-split where GGUF files interleave them; `None` if they leave the tensor out.
    pub(super) fn translated(
        &self,
        name: &str,
    ) -> Result<Option<(String, Option<usize>)>, FolderError> {
        let outside = match name {
            "model.embed_tokens.weight" => Some("token_embd.weight"),
            "model.norm.weight" => Some("output_norm.weight"),
            // The embedding's copy, which some exporters write.
            "lm_head.weight" if self.is_tied() => return Ok(None),
            "lm_head.weight" => Some("output.weight"),
            _ => None,
        };
        if let Some(outside) = outside {
            return Ok(Some((outside.to_owned(), None)));
        }
        let unknown = || FolderError::UnknownTensor { name: name.to_owned() };
        let inside = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let (layer, part) = inside.ok_or_else(unknown)?;
        let layer: u32 = layer.parse().map_err(|_| unknown())?;
        if part == "self_attn.rotary_emb.inv_freq" {
            return Ok(None);
        }
        let part = part.strip_suffix(".weight").ok_or_else(unknown)?;
        let theirs = PARTS.iter().find(|(ours, _)| *ours == part).map(|(_, theirs)| *theirs);
        let theirs = theirs.ok_or_else(unknown)?;
        let is_turned = matches!(theirs, "attn_q" | "attn_k");
        let head_dim = usize::try_from(self.head_dim()?).unwrap_or(usize::MAX);
        Ok(Some((format!("blk.{layer}.{theirs}.weight"), is_turned.then_some(head_dim))))
    }
}

/// Whether rotary parameters ask for no scaling.
fn is_plain_rope(value: &Value) -> bool {
    let Some(values) = value.as_object() else { return false };
    values.iter().all(|(key, value)| match key.as_str() {
        "rope_theta" => value.is_number(),
        "rope_type" | "type" => value == "default",
        _ => value.is_null(),
    })
}
