//! `tokenizer.json` and `tokenizer_config.json` as the metadata that GGUF files have for them.
//!
//! Read are byte-level BPE whose splitting rules are exactly those of a known splitter, and
//! SentencePiece BPE with byte fallback. Places of the vocabulary without a token become unused
//! ones, and added tokens that look like control tokens are control tokens, as exporters have it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::FolderError;
use super::config::Config;
use super::metadata::Metadata;
use crate::limits::{MAX_CONFIG_BYTES, MAX_MERGES, MAX_TOKENIZER_JSON_BYTES, MAX_VOCAB};
use crate::tokenizer::{STRIPS, Splitter};

const FILE: &str = "tokenizer.json";
const SETTINGS: &str = "tokenizer_config.json";

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

impl AddedToken {
    const fn strips_left(&self) -> bool {
        self.lstrip
    }

    const fn strips_right(&self) -> bool {
        self.rstrip
    }
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

impl Merge {
    fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Self::Joined(rule) => rule.split_once(' '),
            Self::Pair(left, right) => Some((left, right)),
        }
    }
}

/// How ordinary text is tokenized, as far as the file's form tells.
enum Kind {
    Pairs(Splitter),
    Pieces { space_prefix: bool },
}

/// Writes the tokenizer of a model with this configuration.
pub(super) fn describe(
    metadata: &mut Metadata,
    tokenizer: &[u8],
    settings: &[u8],
    template: Option<&[u8]>,
    config: &Config,
) -> Result<(), FolderError> {
    let file: File = parse(FILE, tokenizer, MAX_TOKENIZER_JSON_BYTES)?;
    let settings: Map<String, Value> = parse(SETTINGS, settings, MAX_CONFIG_BYTES)?;
    let kind = kind(&file)?;
    let vocabulary = config.vocabulary()?;
    let size = usize::try_from(vocabulary).ok().filter(|size| *size <= MAX_VOCAB);
    let size = size.ok_or(FolderError::Vocabulary { got: vocabulary })?;
    let merges = file
        .model
        .merges
        .iter()
        .enumerate()
        .map(|(rank, merge)| merge.parts().ok_or(FolderError::MergeForm { rank }));
    let merges = merges.take(MAX_MERGES + 1).collect::<Result<Vec<_>, _>>()?;
    let (texts, types) = tokens(&file, &kind, size)?;
    metadata.texts("tokenizer.ggml.tokens", &texts);
    metadata.integers("tokenizer.ggml.token_type", &types);
    for (key, side) in STRIPS.into_iter().zip([AddedToken::strips_left, AddedToken::strips_right]) {
        let inside = |token: &&AddedToken| side(token) && (token.id as usize) < size;
        let ids: Vec<i32> =
            file.added_tokens.iter().filter(inside).map(|token| token.id as i32).collect();
        metadata.integers(key, &ids);
    }
    match kind {
        Kind::Pairs(splitter) => {
            metadata.text("tokenizer.ggml.model", "gpt2");
            metadata.text("tokenizer.ggml.pre", splitter.name());
            let rules: Vec<String> =
                merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
            metadata.texts("tokenizer.ggml.merges", &rules);
        }
        Kind::Pieces { space_prefix } => {
            metadata.text("tokenizer.ggml.model", "llama");
            metadata.bool("tokenizer.ggml.add_space_prefix", space_prefix);
            metadata.floats("tokenizer.ggml.scores", &scores(&texts, &merges));
        }
    }
    let ids = Ids { file: &file, settings: &settings, config, size };
    for (name, key) in
        [("bos_token", "tokenizer.ggml.bos_token_id"), ("eos_token", "tokenizer.ggml.eos_token_id")]
    {
        if let Some(id) = ids.id(name)? {
            metadata.integer(key, id.into());
        }
    }
    metadata.bool("tokenizer.ggml.add_bos_token", ids.adds_bos()?);
    if let Some(template) = chat_template(&settings, template)? {
        metadata.text("tokenizer.chat_template", template);
    }
    Ok(())
}

fn parse<'a, T: Deserialize<'a>>(
    file: &str,
    bytes: &'a [u8],
    limit: usize,
) -> Result<T, FolderError> {
    if bytes.len() > limit {
        return Err(FolderError::LongFile { file: file.to_owned(), got: bytes.len(), limit });
    }
    serde_json::from_slice(bytes).map_err(|error| FolderError::json(file, bytes, &error))
}

fn kind(file: &File) -> Result<Kind, FolderError> {
    if file.model.kind != "BPE" {
        return Err(FolderError::TokenizerModel { got: file.model.kind.clone() });
    }
    if file.model.byte_fallback {
        return pieces(file);
    }
    let known = Splitter::ALL.into_iter().find(|splitter| {
        splitter.is_described_by(&file.normalizer, &file.pre_tokenizer)
            && splitter.looks_up_whole_pieces() == file.model.ignore_merges
    });
    known.map(Kind::Pairs).ok_or(FolderError::Splitting)
}

/// Whether the text at `path` is this one.
fn is_text(step: &Value, path: &str, text: &str) -> bool {
    step.pointer(path).and_then(Value::as_str) == Some(text)
}

/// SentencePiece models replace spaces, by one step or another, and may put one in front.
fn pieces(file: &File) -> Result<Kind, FolderError> {
    let replace = |step: &Value| {
        step["type"] == "Replace"
            && is_text(step, "/pattern/String", " ")
            && step["content"] == "\u{2581}"
    };
    let prepend = |step: &Value| step["type"] == "Prepend" && step["prepend"] == "\u{2581}";
    let steps = match &file.normalizer {
        Value::Null => Vec::new(),
        step if step["type"] == "Sequence" => {
            step["normalizers"].as_array().map(|steps| steps.iter().collect()).unwrap_or_default()
        }
        step => vec![step],
    };
    // Cutting at spaces changes nothing where spaces are gone already.
    let cut = |step: &Value| {
        step["type"] == "Split"
            && is_text(step, "/pattern/String", " ")
            && step["behavior"] == "MergedWithPrevious"
            && step["invert"] == false
    };
    let metaspace = |step: &Value| {
        step["type"] == "Metaspace" && step["replacement"] == "\u{2581}" && step["split"] == false
    };
    let space_prefix = match (steps.as_slice(), &file.pre_tokenizer) {
        ([first, second], Value::Null) if prepend(first) && replace(second) => true,
        ([only], Value::Null) if replace(only) => false,
        ([only], step) if replace(only) && cut(step) => false,
        ([], step) if metaspace(step) => match step["prepend_scheme"].as_str() {
            Some("always" | "first") => true,
            Some("never") => false,
            _ => return Err(FolderError::Splitting),
        },
        _ => return Err(FolderError::Splitting),
    };
    Ok(Kind::Pieces { space_prefix })
}

/// Texts and types of all tokens.
fn tokens(file: &File, kind: &Kind, size: usize) -> Result<(Vec<String>, Vec<i32>), FolderError> {
    let mut texts: Vec<Option<&str>> = vec![None; size];
    let mut types = vec![5; size];
    let mut put = |id: u32, text, ty| {
        let at = id as usize;
        let (Some(place), Some(place_type)) = (texts.get_mut(at), types.get_mut(at)) else {
            return Err(FolderError::TokenId { id, vocabulary: size });
        };
        if place.replace(text).is_some_and(|old: &str| old != text) {
            return Err(FolderError::TokenIdTwice { id });
        }
        *place_type = ty;
        Ok(())
    };
    let pieces = matches!(kind, Kind::Pieces { .. });
    let is_byte = |text: &str| text.starts_with("<0x") && text.ends_with('>') && text.len() == 6;
    for (text, id) in &file.model.vocab {
        put(*id, text, if pieces && is_byte(text) { 6 } else { 1 })?;
    }
    for token in &file.added_tokens {
        if token.single_word {
            return Err(FolderError::SingleWord { id: token.id });
        }
        // Some files have tokens that are only for other models of the family.
        if token.id as usize >= size {
            continue;
        }
        let is_control = token.special || looks_like_control(&token.content);
        put(token.id, &token.content, if is_control { 3 } else { 4 })?;
    }
    let named = |(id, text): (usize, &Option<&str>)| match text {
        Some(text) => (*text).to_owned(),
        None => format!("[PAD{id}]"),
    };
    let texts = texts.iter().enumerate().map(named).collect();
    Ok((texts, types))
}

/// Texts that exporters take for control tokens even where the file does not say so.
fn looks_like_control(text: &str) -> bool {
    let between = |open, close| text.starts_with(open) && text.ends_with(close);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<\u{ff5c}", "\u{ff5c}>")
        || between("<unused", ">")
}

/// Scores that put tokens in the order of their first merge.
fn scores(texts: &[String], merges: &[(&str, &str)]) -> Vec<f32> {
    let mut first = BTreeMap::new();
    for (left, right) in merges {
        let rank = first.len();
        first.entry([*left, *right].concat()).or_insert(rank);
    }
    let last = first.len();
    texts.iter().map(|text| -(first.get(text).copied().unwrap_or(last) as f32)).collect()
}

/// Tokens that the files give names to.
struct Ids<'a> {
    file: &'a File,
    settings: &'a Map<String, Value>,
    config: &'a Config,
    /// Ids that the model has.
    size: usize,
}

impl Ids<'_> {
    fn of(&self, text: &str) -> Option<u32> {
        let added = self.file.added_tokens.iter().find(|token| token.content == text);
        added.map(|token| token.id).or_else(|| self.file.model.vocab.get(text).copied())
    }

    /// The token that the settings call `name`.
    fn named(&self, name: &str) -> Result<Option<u32>, FolderError> {
        let text = match self.settings.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text.as_str(),
            Some(token) => token["content"].as_str().unwrap_or(""),
        };
        let unknown = || FolderError::NamedToken { name: name.to_owned(), text: text.to_owned() };
        self.of(text).map(Some).ok_or_else(unknown)
    }

    /// The id of the token that the settings call `name`; where they name none, `config.json` may.
    fn id(&self, name: &str) -> Result<Option<u32>, FolderError> {
        let stated = || {
            let id = u32::try_from(self.config.token_id(&format!("{name}_id"))?).ok()?;
            Some(id).filter(|id| (*id as usize) < self.size)
        };
        Ok(self.named(name)?.or_else(stated))
    }

    /// Whether prompts begin with the beginning-of-sequence token: if the settings do not say, the
    /// step behind tokenization does.
    fn adds_bos(&self) -> Result<bool, FolderError> {
        if let Some(Value::Bool(flag)) = self.settings.get("add_bos_token") {
            return Ok(*flag);
        }
        let Some(bos) = self.id("bos_token")? else { return Ok(false) };
        let post = &self.file.post_processor;
        let steps = match post["type"].as_str() {
            Some("Sequence") => post["processors"].as_array().map_or(&[][..], Vec::as_slice),
            _ => std::slice::from_ref(post),
        };
        Ok(steps.iter().any(|step| {
            let first = step.pointer("/single/0/SpecialToken/id").and_then(Value::as_str);
            first.is_some_and(|text| self.of(text) == Some(bos))
        }))
    }
}

fn chat_template<'a>(
    settings: &'a Map<String, Value>,
    file: Option<&'a [u8]>,
) -> Result<Option<&'a str>, FolderError> {
    if let Some(file) = file {
        let name = "chat_template.jinja".to_owned();
        let not_text = |_| FolderError::Json { file: name, reason: "not UTF-8".to_owned() };
        return std::str::from_utf8(file).map(Some).map_err(not_text);
    }
    Ok(match settings.get("chat_template") {
        Some(Value::Array(named)) => {
            named.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str())
        }
        other => other.and_then(Value::as_str),
    })
}
