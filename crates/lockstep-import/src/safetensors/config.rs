//! `config.json`: hyperparameters and tensor names under the names that GGUF files use.

use std::borrow::Cow;
use std::collections::BTreeSet;

use lockstep_exact::limits;
use serde_json::{Map, Value};

use super::FolderError;
use super::kinds::{Biases, Kind, Translation, Window};
use super::metadata::Metadata;
use super::settings::FILE;
use super::{multimodal, quantised, settings};
use crate::limits::MAX_CONFIG_BYTES;

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
/// Keys that are read apart from [`SIZES`].
const OTHERS: [&str; 8] = [
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
];
/// The pattern of a Gemma that does not state it.
const GEMMA_PATTERN: u64 = 6;
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// A configuration of a kind that is known.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) kind: &'static Kind,
    pub(super) values: Map<String, Value>,
    /// The folder holds a model for images beside this one.
    sees_images: bool,
}

impl Config {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, FolderError> {
        if bytes.len() > MAX_CONFIG_BYTES {
            let (file, got) = (FILE.to_owned(), bytes.len());
            return Err(FolderError::LongFile { file, got, limit: MAX_CONFIG_BYTES });
        }
        let mut values: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|error| FolderError::json(FILE, bytes, &error))?;
        let sees_images = multimodal::is_meant(&values);
        if sees_images {
            values = multimodal::language_model(&values)?;
        }
        let stated = values.get("model_type").and_then(Value::as_str).unwrap_or("unknown");
        let unknown = || FolderError::ModelType { got: stated.to_owned() };
        let config = Self { kind: Kind::find(stated).ok_or_else(unknown)?, values, sees_images };
        config.check_settings()?;
        Ok(config)
    }

    /// Refuses what changes how the model works in a way that is not understood.
    fn check_settings(&self) -> Result<(), FolderError> {
        quantised::check(&self.values)?;
        for (key, value) in &self.values {
            if !self.understands(key, value)? {
                return Err(settings::refused(key, value));
            }
        }
        Ok(())
    }

    /// Returns whether a setting is read, is what the architecture does anyway, or says nothing
    /// about the answers.
    fn understands(&self, key: &str, value: &Value) -> Result<bool, FolderError> {
        if key == "hidden_act" {
            return Ok(value == self.kind.activation);
        }
        Ok(match key {
            _ if value.is_null() => true,
            "hidden_activation" => *value == false || value == self.kind.activation,
            "full_attn_mod" | "interpolate_factor" => *value == false || value == 1,
            "layer_types" => *value == false || self.is_pattern(value)?,
            "norm_topk_prob" | "qkv_bias" if self.kind.settings.contains(&key) => {
                value.is_boolean()
            }
            "query_pre_attn_scalar" if self.kind.settings.contains(&key) => {
                value.as_f64() == Some(self.score_size()? as f64)
            }
            _ => {
                OTHERS.contains(&key)
                    || SIZES.iter().any(|(name, _)| *name == key)
                    || self.kind.settings.contains(&key)
                    || settings::may_be_ignored(key, value)
            }
        })
    }

    pub(super) fn missing(key: &str) -> FolderError {
        FolderError::Missing { file: FILE.to_owned(), key: key.to_owned() }
    }

    fn wrong(key: &str) -> FolderError {
        FolderError::Wrong { file: FILE.to_owned(), key: key.to_owned() }
    }

    /// Returns the key that GGUF files have for the hyperparameter `name`.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.kind.architecture)
    }

    pub(super) fn size(&self, key: &str) -> Result<Option<u64>, FolderError> {
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| Self::wrong(key)),
        }
    }

    fn needed_size(&self, key: &str) -> Result<u64, FolderError> {
        self.size(key)?.ok_or_else(|| Self::missing(key))
    }

    pub(super) fn fraction(&self, key: &str) -> Result<Option<f32>, FolderError> {
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_f64().map(|x| Some(x as f32)).ok_or_else(|| Self::wrong(key)),
        }
    }

    /// Returns the number of token ids of the model.
    pub(super) fn vocabulary(&self) -> Result<u64, FolderError> {
        self.needed_size("vocab_size")
    }

    /// Returns the value of the setting `name` in this file.
    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// Elements that a head would have if heads shared the state.
    fn shared_head_dim(&self) -> Result<u64, FolderError> {
        let hidden = self.needed_size("hidden_size")?;
        let heads = self.needed_size("num_attention_heads")?;
        let shared = hidden.checked_div(heads).filter(|_| hidden.is_multiple_of(heads));
        shared.ok_or_else(|| Self::wrong("num_attention_heads"))
    }

    pub(super) fn head_dim(&self) -> Result<u64, FolderError> {
        match self.size("head_dim")? {
            Some(stated) => Ok(stated),
            None => self.shared_head_dim(),
        }
    }

    /// Returns the size by whose root scores are divided, which GGUF files leave unsaid.
    fn score_size(&self) -> Result<u64, FolderError> {
        match self.needed_size("num_hidden_layers")? {
            62 => self.shared_head_dim(),
            _ => self.head_dim(),
        }
    }

    /// Layers from one that sees all positions to the next.
    fn pattern(&self) -> Result<u64, FolderError> {
        let stated = match self.size("sliding_window_pattern")? {
            None => self.size("_sliding_window_pattern")?,
            stated => stated,
        };
        if let Some(stated) = stated {
            return Ok(stated);
        }
        let types = self.values.get("layer_types").and_then(Value::as_array);
        let Some(types) = types else { return Ok(GEMMA_PATTERN) };
        let first = types.iter().position(|ty| ty == FULL);
        Ok(first.unwrap_or(types.len()) as u64 + 1)
    }

    /// Returns whether the list of layers' types is what the other settings make of them.
    fn is_pattern(&self, types: &Value) -> Result<bool, FolderError> {
        let Some(types) = types.as_array() else { return Ok(false) };
        let has_window = self.values.get("sliding_window").is_some_and(|size| !size.is_null());
        let pattern = self.pattern()?;
        let sees_all = |layer: u64| match self.kind.window {
            Window::None => true,
            Window::All => !has_window,
            Window::Pattern => (layer + 1).checked_rem(pattern) == Some(0),
        };
        let expected = |layer| if sees_all(layer) { FULL } else { SLIDING };
        let all = self.needed_size("num_hidden_layers")? == types.len() as u64;
        Ok(all && types.iter().zip(0..).all(|(ty, layer)| ty == expected(layer)))
    }

    fn is_tied(&self) -> bool {
        let stated = self.values.get("tie_word_embeddings").and_then(Value::as_bool);
        stated.unwrap_or(self.kind.is_tied)
    }

    fn biases(&self) -> Biases {
        let stated = self.values.get("attention_bias") == Some(&Value::Bool(true));
        match self.kind.biases {
            Biases::Stated if !stated => Biases::None,
            biases => biases,
        }
    }

    /// Writes the hyperparameters, but for what [`super::rotation`] says about positions.
    pub(super) fn describe(&self, metadata: &mut Metadata) -> Result<(), FolderError> {
        for (name, theirs) in SIZES {
            if let Some(size) = self.size(name)? {
                metadata.integer(&self.key(theirs), size);
            }
        }
        let head_dim = self.head_dim()?;
        metadata.integer(&self.key("attention.key_length"), head_dim);
        metadata.integer(&self.key("attention.value_length"), head_dim);
        let eps = self.fraction("rms_norm_eps")?.ok_or_else(|| Self::missing("rms_norm_eps"))?;
        metadata.float(&self.key("attention.layer_norm_rms_epsilon"), eps);
        if self.kind.window != Window::None
            && let Some(window) = self.size("sliding_window")?
        {
            metadata.integer(&self.key("attention.sliding_window"), window);
        }
        self.describe_experts(metadata)?;
        if self.kind.window == Window::Pattern {
            metadata.integer(&self.key("attention.sliding_window_pattern"), self.pattern()?);
        }
        Ok(())
    }

    fn describe_experts(&self, metadata: &mut Metadata) -> Result<(), FolderError> {
        let Some(experts) = &self.kind.experts else { return Ok(()) };
        for (name, theirs) in [
            (experts.count, "expert_count"),
            ("num_experts_per_tok", "expert_used_count"),
            ("moe_intermediate_size", "expert_feed_forward_length"),
            ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
        ] {
            if let Some(size) = self.size(name)? {
                metadata.integer(&self.key(theirs), size);
            }
        }
        if experts.some_layers {
            let normalise = self.values.get("norm_topk_prob") == Some(&Value::Bool(true));
            metadata.bool(&self.key("expert_weights_norm"), normalise);
        }
        Ok(())
    }

    /// Refuses tensors of experts in other layers than the settings say.
    pub(super) fn check_layers(&self, names: &BTreeSet<&str>) -> Result<(), FolderError> {
        let Some(experts) = &self.kind.experts else { return Ok(()) };
        let step = self.size("decoder_sparse_step")?.unwrap_or(1);
        let dense: BTreeSet<u64> = match self.values.get("mlp_only_layers") {
            None | Some(Value::Null) => BTreeSet::new(),
            Some(layers) => {
                let layers = layers.as_array().map(|all| all.iter().map(Value::as_u64).collect());
                layers.flatten().ok_or_else(|| Self::wrong("mlp_only_layers"))?
            }
        };
        // More layers are refused where sizes are read.
        let layers = self.needed_size("num_hidden_layers")?.min(limits::LAYERS as u64);
        for layer in 0..layers {
            let is_dense = dense.contains(&layer) || (layer + 1).checked_rem(step) != Some(0);
            let expected = !experts.some_layers || !is_dense;
            let router = format!("blk.{layer}.ffn_gate_inp.weight");
            if names.contains(router.as_str()) != expected {
                return Err(FolderError::ExpertLayer { layer, expected });
            }
        }
        Ok(())
    }

    /// Returns the name that GGUF files have for the tensor called `name`, and how its numbers
    /// differ; `None` if they leave the tensor out.
    pub(super) fn translated(&self, name: &str) -> Result<Option<Translation>, FolderError> {
        let name = match self.sees_images {
            true => multimodal::tensor(name),
            false => Some(Cow::Borrowed(name)),
        };
        let Some(name) = name else { return Ok(None) };
        let head_dim = usize::try_from(self.head_dim()?).unwrap_or(usize::MAX);
        self.kind.translated(&name, self.is_tied(), self.biases(), head_dim)
    }

    /// Biases that the model has, if its settings say how many.
    pub(super) fn stated_biases(&self) -> Result<Option<u64>, FolderError> {
        match self.biases() {
            Biases::Stated => {
                let layers = self.needed_size("num_hidden_layers")?;
                Ok(Some(layers.saturating_mul(4)))
            }
            Biases::Always | Biases::None => Ok(None),
        }
    }
}
