//! Folders of Gemma 3 models that see images too: the language model is taken, and nothing else.
//!
//! By one rule: settings of it are those under `text_config`, its tensors are those whose names
//! begin with [`LANGUAGE`]; tensors of the parts in [`LEFT_OUT`] are left out, and any other is
//! refused. What such a package computes is what the model says where it is shown no image.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::{FolderError, quantised, settings};

/// The value of `model_type` in such a folder.
const MODEL_TYPE: &str = "gemma3";
const TEXT: &str = "text_config";
/// Settings beside those of the language model that are read, or are for images.
const KNOWN: [&str; 3] = ["tie_word_embeddings", TEXT, "vision_config"];
/// The beginnings of the names of the language model's tensors, each with the beginning that other
/// folders have there.
const LANGUAGE: [(&str, &str); 2] = [("language_model.", ""), ("model.language_model.", "model.")];
/// The beginnings of the names of tensors that are for images.
const LEFT_OUT: [&str; 4] = [
    "model.multi_modal_projector.",
    "model.vision_tower.",
    "multi_modal_projector.",
    "vision_tower.",
];

/// Returns whether settings are those of such a folder.
pub(super) fn is_meant(values: &Map<String, Value>) -> bool {
    values.get("model_type").is_some_and(|stated| stated == MODEL_TYPE) && values.contains_key(TEXT)
}

/// Returns the settings of the language model in it. Those that are not stated are what the
/// architecture's own configuration class has for them: published files leave them out.
pub(super) fn language_model(
    outer: &Map<String, Value>,
) -> Result<Map<String, Value>, FolderError> {
    quantised::check(outer)?;
    for (key, value) in outer {
        if !KNOWN.contains(&key.as_str()) && !settings::may_be_ignored(key, value) {
            return Err(settings::refused(key, value));
        }
    }
    let wrong = || FolderError::Wrong { file: settings::FILE.to_owned(), key: TEXT.to_owned() };
    let mut values = outer.get(TEXT).and_then(Value::as_object).ok_or_else(wrong)?.clone();
    for key in ["bos_token_id", "eos_token_id", "tie_word_embeddings"] {
        if let Some(value) = outer.get(key) {
            values.entry(key).or_insert_with(|| value.clone());
        }
    }
    let defaults = [
        ("head_dim", json!(256)),
        ("hidden_activation", json!("gelu_pytorch_tanh")),
        ("max_position_embeddings", json!(131_072)),
        ("model_type", json!("gemma3_text")),
        ("num_attention_heads", json!(8)),
        ("num_key_value_heads", json!(4)),
        ("query_pre_attn_scalar", json!(256)),
        ("rms_norm_eps", json!(1e-6)),
        ("sliding_window", json!(4096)),
        ("vocab_size", json!(262_208)),
    ];
    for (key, value) in defaults {
        values.entry(key).or_insert(value);
    }
    Ok(values)
}

/// Returns the name that a folder of the language model alone has for a tensor; `None` if the
/// tensor is for images.
pub(super) fn tensor(name: &str) -> Option<Cow<'_, str>> {
    if LEFT_OUT.iter().any(|part| name.starts_with(part)) {
        return None;
    }
    let inside = |(before, theirs): (&str, &str)| {
        name.strip_prefix(before).map(|rest| Cow::Owned([theirs, rest].concat()))
    };
    Some(LANGUAGE.into_iter().find_map(inside).unwrap_or(Cow::Borrowed(name)))
}
