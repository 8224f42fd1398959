//! `tokenizer.json` and `tokenizer_config.json` as the metadata that GGUF files have for them.
//!
//! Read are BPE and Unigram, each field that changes ids honoured or refused by name. What has a
//! form in GGUF files - byte-level BPE, SentencePiece BPE - is written in it, so that a model is
//! the same package from both. Places of the vocabulary without a token become unused ones, and
//! added tokens that look like control tokens are control tokens, as exporters have it.

mod file;
mod frame;
mod steps;

use std::collections::{BTreeMap, HashSet};

use lockstep_exact::bytes::Canonical;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::FolderError;
use super::config::Config;
use super::metadata::Metadata;
use crate::limits::{MAX_CONFIG_BYTES, MAX_MERGES, MAX_VOCAB};
use crate::template::DEFAULT;
use crate::tokenizer::{Cut, Prefix, Rewrite, Spelling, Steps, follows_scores, keys};
use file::{AddedToken, File, Vocab};
use frame::Ids;

const FILE: &str = "tokenizer.json";
const SETTINGS: &str = "tokenizer_config.json";
const GENERATION: &str = "generation_config.json";
/// The character that SentencePiece has for a space.
const MARK: char = '\u{2581}';

/// The files that describe how text becomes tokens.
pub(super) struct Files<'a> {
    pub(super) tokenizer: &'a [u8],
    pub(super) settings: Option<&'a [u8]>,
    pub(super) generation: Option<&'a [u8]>,
    pub(super) template: Option<&'a [u8]>,
    pub(super) more_templates: &'a BTreeMap<&'a str, &'a [u8]>,
}

/// The way in which ordinary text is tokenized, as GGUF metadata state it.
enum Kind {
    /// BPE over the bytes of a text.
    Bytes,
    /// SentencePiece BPE, as GGUF files have it.
    Pieces { space_prefix: bool },
    /// BPE over the characters of a text.
    Text(Spelling),
    /// Unigram: the pieces with the largest sum of scores.
    Unigram(Spelling),
}

/// Writes the tokenizer of a model with this configuration.
pub(super) fn describe(
    metadata: &mut Metadata,
    files: &Files<'_>,
    config: &Config,
) -> Result<(), FolderError> {
    let mut file = File::read(files.tokenizer)?;
    let object = |name, bytes: Option<&[u8]>| -> Result<Map<String, Value>, FolderError> {
        parse(name, bytes.unwrap_or(b"{}"), MAX_CONFIG_BYTES)
    };
    let settings = object(SETTINGS, files.settings)?;
    let generation = object(GENERATION, files.generation)?;
    add_from_settings(&mut file, &settings)?;
    let vocabulary = config.vocabulary()?;
    let size = usize::try_from(vocabulary).ok().filter(|size| *size <= MAX_VOCAB);
    let size = size.ok_or(FolderError::Vocabulary { got: vocabulary })?;
    let prefix_space = settings.get("add_prefix_space").and_then(Value::as_bool);
    let steps = steps::read(&file.normalizer, &file.pre_tokenizer, prefix_space)?;
    // Where nothing rewrites text, both ways to look for added tokens are one.
    let rewritten: Vec<u32> = file
        .added_tokens
        .iter()
        .filter(|token| token.is_normalized() && !steps.rewrites.is_empty())
        .map(|token| token.id)
        .filter(|id| (*id as usize) < size)
        .collect();
    let merges = file.model.merges(MAX_MERGES + 1)?;
    let kind = kind(&file, &steps, &merges, !rewritten.is_empty())?;
    let (texts, types) = tokens(&file, &kind, size)?;
    metadata.texts(keys::TOKENS, &texts);
    metadata.integers(keys::TYPES, &types);
    flags(metadata, &file, &rewritten, size);
    metadata.integers(keys::MARKED, &marked(&file, &kind, size)?);
    write_model(metadata, &file, &kind, &steps, (&texts, &merges))?;
    let ids = Ids { file: &file, settings: &settings, config, generation: &generation, size };
    let frame_keys = [(keys::BOS, keys::ADD_BOS), (keys::EOS, keys::ADD_EOS)];
    for (side, (key, flag)) in ids.frame()?.into_iter().zip(frame_keys) {
        if let Some(id) = side.id {
            metadata.integer(key, id.into());
        }
        metadata.bool(flag, side.is_added);
    }
    let ends: Vec<i32> = ids.ends().into_iter().map(u32::cast_signed).collect();
    metadata.integers(keys::ENDS, &ends);
    for (name, template) in chat_templates(&settings, files)? {
        match name {
            DEFAULT => metadata.text(keys::TEMPLATE, template),
            name => metadata.text(&format!("{}.{name}", keys::TEMPLATE), template),
        }
    }
    Ok(())
}

/// Writes what belongs to the kind of model; `texts` are those of all tokens.
fn write_model(
    metadata: &mut Metadata,
    file: &File,
    kind: &Kind,
    steps: &Steps,
    (texts, merges): (&[String], &[(&str, &str)]),
) -> Result<(), FolderError> {
    let rules = || merges.iter().map(|(left, right)| format!("{left} {right}")).collect::<Vec<_>>();
    let unknown = file.model.unk_token.as_deref().filter(|text| !text.is_empty());
    let unknown = match (unknown, file.model.unk_id) {
        (Some(text), _) => Some(file.id_of(text).ok_or_else(|| {
            FolderError::tokenizer("model.unk_token", format!("{text:?}"), "no such token")
        })?),
        (None, id) => id,
    };
    match *kind {
        Kind::Pieces { space_prefix } => {
            metadata.text(keys::MODEL, "llama");
            metadata.bool(keys::SPACE_PREFIX, space_prefix);
            metadata.floats(keys::SCORES, &scores(texts, merges));
        }
        Kind::Bytes => {
            metadata.text(keys::MODEL, "gpt2");
            write_steps(metadata, steps, file);
            metadata.texts(keys::MERGES, &rules());
        }
        Kind::Text(spelling) => {
            metadata.text(keys::MODEL, "llama");
            write_steps(metadata, steps, file);
            write_mark(metadata, spelling);
            metadata.texts(keys::MERGES, &rules());
        }
        Kind::Unigram(spelling) => {
            metadata.text(keys::MODEL, "t5");
            write_steps(metadata, steps, file);
            write_mark(metadata, spelling);
            metadata.integers(keys::SCORE_BITS, &score_bits(file, texts.len()));
        }
    }
    if let Some(id) = unknown.filter(|_| !matches!(*kind, Kind::Pieces { .. }))
        && !spells_everything(file, kind)
    {
        metadata.integer(keys::UNKNOWN, id.into());
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

/// Adds the tokens that only `tokenizer_config.json` has, as `transformers` does.
fn add_from_settings(file: &mut File, settings: &Map<String, Value>) -> Result<(), FolderError> {
    let Some(Value::Object(listed)) = settings.get("added_tokens_decoder") else { return Ok(()) };
    for (id, token) in listed {
        let wrong = || FolderError::Json {
            file: SETTINGS.to_owned(),
            reason: format!("added_tokens_decoder: {id:?} is not the id of a token"),
        };
        let id: u32 = id.parse().map_err(|_| wrong())?;
        let token = AddedToken::deserialize(token).map_err(|_| wrong())?;
        if file.id_of(&token.content).is_none() {
            file.added_tokens.push(AddedToken { id, ..token });
        }
    }
    Ok(())
}

fn kind(
    file: &File,
    steps: &Steps,
    merges: &[(&str, &str)],
    has_rewritten: bool,
) -> Result<Kind, FolderError> {
    let spelling = steps::spelling(steps)?;
    let Vocab::Ids(vocab) = &file.model.vocab else {
        return match spelling {
            Spelling::Bytes => {
                let why = "a Unigram model over the byte alphabet cannot be imported";
                Err(FolderError::tokenizer("pre_tokenizer", "ByteLevel", why))
            }
            spelling => Ok(Kind::Unigram(spelling)),
        };
    };
    if spelling == Spelling::Bytes {
        if file.model.byte_fallback && has_bytes(file) {
            let why = "the characters of the byte alphabet would be spelled in bytes again";
            return Err(FolderError::tokenizer("model.byte_fallback", true, why));
        }
        return Ok(Kind::Bytes);
    }
    let plain = !has_rewritten && !file.model.ignore_merges && file.model.byte_fallback;
    let prefix = space_prefix(steps).filter(|_| plain && has_bytes(file));
    let added: HashSet<&str> =
        file.added_tokens.iter().map(|token| token.content.as_str()).collect();
    let is_ordinary =
        |text: &str| vocab.contains_key(text) && !added.contains(text) && !is_byte(text);
    match prefix {
        Some(space_prefix) if follows_scores(merges, is_ordinary) => {
            Ok(Kind::Pieces { space_prefix })
        }
        _ => Ok(Kind::Text(spelling)),
    }
}

/// Returns whether the steps are those of SentencePiece as GGUF files have it, and if so whether a
/// space is put in front. Cutting at spaces changes nothing where spaces are gone already.
fn space_prefix(steps: &Steps) -> Option<bool> {
    let replaces = |rewrite: &Rewrite| {
        matches!(rewrite, Rewrite::Replace { expression, content }
            if expression.text() == " " && content.chars().eq([MARK]))
    };
    let prepends =
        |rewrite: &Rewrite| matches!(rewrite, Rewrite::Prepend(text) if text.chars().eq([MARK]));
    let cuts_at_spaces = |cut: &Cut| match cut {
        Cut::Split { expression, invert, .. } => expression.text() == " " && !invert,
        _ => false,
    };
    let never = Cut::Metaspace { mark: MARK, prefix: Prefix::Never, split: false };
    match (steps.rewrites.as_slice(), steps.cuts.as_slice()) {
        ([first, second], []) if prepends(first) && replaces(second) => Some(true),
        ([only], []) if replaces(only) => Some(false),
        ([only], [cut]) if replaces(only) && cuts_at_spaces(cut) => Some(false),
        ([], [cut]) if *cut == never => Some(false),
        _ => None,
    }
}

/// Returns whether the text is that of a token for one byte.
fn is_byte(text: &str) -> bool {
    text.len() == 6 && text.starts_with("<0x") && text.ends_with('>')
}

/// Returns whether there is a token for each byte.
fn has_bytes(file: &File) -> bool {
    (0..=255_u8).all(|byte| file.id_of(&format!("<0x{byte:02X}>")).is_some())
}

/// Returns whether no text is unknown.
fn spells_everything(file: &File, kind: &Kind) -> bool {
    match kind {
        Kind::Bytes => crate::tokenizer::byte_letters()
            .all(|letter| file.id_of(letter.encode_utf8(&mut [0; 4])).is_some()),
        _ => file.model.byte_fallback && has_bytes(file),
    }
}

/// Returns the texts and types of all tokens.
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
    let spells_bytes = file.model.byte_fallback && !matches!(kind, Kind::Bytes);
    let ty = |text: &str| if spells_bytes && is_byte(text) { 6 } else { 1 };
    match &file.model.vocab {
        Vocab::Ids(ids) => ids.iter().try_for_each(|(text, id)| put(*id, text, ty(text)))?,
        Vocab::Scores(list) => {
            (0..).zip(list).try_for_each(|(id, (text, _))| put(id, text, ty(text)))?;
        }
    }
    for token in &file.added_tokens {
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

/// Returns the texts that exporters take for control tokens even where the file does not say so.
fn looks_like_control(text: &str) -> bool {
    let between = |open, close| text.starts_with(open) && text.ends_with(close);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<\u{ff5c}", "\u{ff5c}>")
        || between("<unused", ">")
}

/// Writes how texts are searched for added tokens.
fn flags(metadata: &mut Metadata, file: &File, rewritten: &[u32], size: usize) {
    let mut list = |key, has: fn(&AddedToken) -> bool| {
        let inside = file.added_tokens.iter().filter(|token| (token.id as usize) < size);
        let ids: Vec<i32> =
            inside.filter(|token| has(token)).map(|token| token.id.cast_signed()).collect();
        metadata.integers(key, &ids);
    };
    let [left, right] = keys::STRIPS;
    list(left, |token| token.lstrip);
    list(right, |token| token.rstrip);
    list(keys::WORDS, |token| token.single_word);
    let rewritten: Vec<i32> = rewritten.iter().copied().map(u32::cast_signed).collect();
    metadata.integers(keys::REWRITTEN, &rewritten);
}

/// Returns the added tokens that are written with the mark of a space: texts are searched for the
/// mark, and yet an answer has a space there, as the decoders of such files do it.
fn marked(file: &File, kind: &Kind, size: usize) -> Result<Vec<i32>, FolderError> {
    let (Kind::Text(Spelling::Marked(mark)) | Kind::Unigram(Spelling::Marked(mark))) = *kind else {
        return Ok(Vec::new());
    };
    let inside = file.added_tokens.iter().filter(|token| (token.id as usize) < size);
    let with_mark = inside.filter(|token| token.content.contains(mark));
    with_mark
        .map(|token| match token.content.contains(' ') {
            false => Ok(token.id.cast_signed()),
            true => {
                let why = "a token with a space and with the character that stands for one would \
                           be found in texts that do not have it";
                Err(FolderError::tokenizer("added_tokens", format!("{:?}", token.content), why))
            }
        })
        .collect()
}

fn write_steps(metadata: &mut Metadata, steps: &Steps, file: &File) {
    let bytes: Vec<i32> = steps.to_bytes().into_iter().map(i32::from).collect();
    metadata.integers(keys::STEPS, &bytes);
    metadata.bool(keys::TAKES_WHOLE, file.model.ignore_merges);
    metadata.bool(keys::FUSES_UNKNOWN, file.model.fuse_unk);
}

fn write_mark(metadata: &mut Metadata, spelling: Spelling) {
    let mark = match spelling {
        Spelling::Marked(mark) => mark.to_string(),
        Spelling::Plain | Spelling::Bytes => String::new(),
    };
    metadata.text(keys::MARK, &mark);
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

/// Returns the binary64 scores of all tokens, each as its low half and its high half.
fn score_bits(file: &File, size: usize) -> Vec<i32> {
    let Vocab::Scores(list) = &file.model.vocab else { return Vec::new() };
    let score = |id: usize| list.get(id).map_or(0.0, |(_, score)| *score);
    let halves = |bits: u64| [bits as u32, (bits >> 32) as u32].map(u32::cast_signed);
    (0..size).flat_map(|id| halves(score(id).to_bits())).collect()
}

/// Returns the chat templates by name, as the transformers library finds them: in files of their
/// own if there is one, else in the settings.
fn chat_templates<'a>(
    settings: &'a Map<String, Value>,
    files: &Files<'a>,
) -> Result<BTreeMap<&'a str, &'a str>, FolderError> {
    let mut templates = BTreeMap::new();
    let default = files.template.map(|file| (DEFAULT, file));
    let more = files.more_templates.iter().map(|(name, file)| (*name, *file));
    for (name, file) in default.into_iter().chain(more) {
        let text = std::str::from_utf8(file).map_err(|_| FolderError::Json {
            file: format!("the chat template {name:?}"),
            reason: "not UTF-8".to_owned(),
        })?;
        templates.insert(name, text);
    }
    if !templates.is_empty() {
        return Ok(templates);
    }
    let wrong = || FolderError::Json {
        file: SETTINGS.to_owned(),
        reason: "chat_template: expected a text, or a list of templates, each with a name and a \
                 template"
            .to_owned(),
    };
    let text = |value: &'a Value| value.as_str().ok_or_else(wrong);
    match settings.get("chat_template") {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            for named in list {
                templates.insert(text(&named["name"])?, text(&named["template"])?);
            }
        }
        Some(Value::Object(named)) => {
            for (name, template) in named {
                templates.insert(name.as_str(), text(template)?);
            }
        }
        Some(value) => drop(templates.insert(DEFAULT, text(value)?)),
    }
    Ok(templates)
}
