//! `tokenizer.json` as far as ids depend on it.
//!
//! Truncation and padding are not read: they are for batches, and whoever asks for the ids of one
//! text gets neither. Neither are decoders, which change no id: packages decode by tokens' bytes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::super::FolderError;
use super::{FILE, parse};
use crate::limits::MAX_TOKENIZER_JSON_BYTES;

#[derive(Deserialize)]
pub(super) struct File {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) post_processor: Value,
    pub(super) model: Model,
}

#[derive(Clone, Deserialize)]
pub(super) struct AddedToken {
    #[serde(default)]
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) normalized: Option<bool>,
}

impl AddedToken {
    /// Returns whether it is looked for in rewritten text; where the file is silent, ordinary ones
    /// are.
    pub(super) fn is_normalized(&self) -> bool {
        self.normalized.unwrap_or(!self.special)
    }
}

/// The model: a file has one of two kinds, each with fields of its own.
#[derive(Deserialize)]
pub(super) struct Model {
    #[serde(default)]
    pub(super) dropout: Option<f64>,
    #[serde(default)]
    pub(super) unk_token: Option<String>,
    #[serde(default)]
    pub(super) unk_id: Option<u32>,
    #[serde(default)]
    pub(super) continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub(super) end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) fuse_unk: bool,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    pub(super) vocab: Vocab,
    #[serde(default)]
    merges: Vec<Merge>,
}

/// The tokens: by text, or in order with their scores.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Vocab {
    Ids(BTreeMap<String, u32>),
    Scores(Vec<(String, f64)>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

/// The type of a file's model, whatever else is in it.
#[derive(Deserialize)]
struct Sketch {
    model: SketchedModel,
}

#[derive(Deserialize)]
struct SketchedModel {
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl File {
    /// Reads the file, if its model is of a kind that can be imported.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, FolderError> {
        let sketch: Sketch = parse(FILE, bytes, MAX_TOKENIZER_JSON_BYTES)?;
        // Old files don't say the type; their fields show it.
        match sketch.model.kind.as_deref() {
            None | Some("BPE" | "Unigram") => {}
            Some(got) => return Err(FolderError::TokenizerModel { got: got.to_owned() }),
        }
        let file: Self = parse(FILE, bytes, MAX_TOKENIZER_JSON_BYTES)?;
        let is_list = matches!(file.model.vocab, Vocab::Scores(_));
        if let Some(kind) = sketch.model.kind.filter(|kind| is_list != (kind == "Unigram")) {
            let form = if is_list { "a list of scores" } else { "a table of ids" };
            let why = format!("a model of type {kind:?} has another");
            return Err(FolderError::tokenizer("model.vocab", form, why));
        }
        file.model.check()?;
        Ok(file)
    }

    /// Returns the id of a token by its text.
    pub(super) fn id_of(&self, text: &str) -> Option<u32> {
        let added = self.added_tokens.iter().find(|token| token.content == text);
        added.map(|token| token.id).or_else(|| match &self.model.vocab {
            Vocab::Ids(ids) => ids.get(text).copied(),
            Vocab::Scores(scores) => {
                let at = scores.iter().position(|(token, _)| token == text)?;
                u32::try_from(at).ok()
            }
        })
    }
}

impl Model {
    /// Refuses what would change ids and is not understood.
    fn check(&self) -> Result<(), FolderError> {
        if let Some(dropout) = self.dropout.filter(|dropout| *dropout != 0.0) {
            let why = "merges are left out at random, so one text has many readings";
            return Err(FolderError::tokenizer("model.dropout", dropout, why));
        }
        for (name, affix) in [
            ("model.continuing_subword_prefix", &self.continuing_subword_prefix),
            ("model.end_of_word_suffix", &self.end_of_word_suffix),
        ] {
            if let Some(affix) = affix.as_deref().filter(|affix| !affix.is_empty()) {
                let why = "tokens inside of words are spelled otherwise than those at their ends, \
                           which cannot be imported";
                return Err(FolderError::tokenizer(name, format!("{affix:?}"), why));
            }
        }
        Ok(())
    }

    /// Returns the merge rules as pairs, at most `limit`.
    pub(super) fn merges(&self, limit: usize) -> Result<Vec<(&str, &str)>, FolderError> {
        let mut pairs = Vec::with_capacity(self.merges.len().min(limit));
        for (rank, merge) in self.merges.iter().enumerate().take(limit) {
            let pair = match merge {
                Merge::Joined(rule) => rule.split_once(' '),
                Merge::Pair(left, right) => Some((left.as_str(), right.as_str())),
            };
            pairs.push(pair.ok_or(FolderError::MergeForm { rank })?);
        }
        Ok(pairs)
    }
}
