//! What fuzzing does with arbitrary bytes, the same in bounded tests and under a fuzzer: parsers
//! must not panic, and what they accept must keep their promises.

#![allow(dead_code, reason = "each test binary and fuzz target uses another part")]

use std::collections::BTreeMap;
use std::convert::Infallible;

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical;
use lockstep_exact::manifest::Manifest;
use lockstep_import::limits::MAX_RENDERED_BYTES;
use lockstep_import::package::{ImportError, ModelFile, Sink};
use lockstep_import::safetensors::{Folder, weight_files};
use lockstep_import::template::{Chat, Date, Message, TemplateError, render};
use lockstep_import::tokenizer::{ControlText, Definition, Model, Tokenizer};
use serde_json::{Map, json};

/// Names blobs and forgets them.
struct Forget;

impl Sink for Forget {
    type Error = Infallible;

    fn put_blob(&mut self, bytes: Vec<u8>) -> Result<Digest, Infallible> {
        Ok(Digest::of(&bytes))
    }
}

/// A GGUF file: what opens has right facts, and imports to a valid manifest or says why not.
pub(crate) fn gguf(file: &[u8]) {
    let Ok(model) = ModelFile::open(file) else { return };
    let facts = model.facts();
    match model.import(&mut Forget, |_| ()) {
        Ok(manifest) => {
            assert_eq!(manifest.blobs.iter().map(|b| b.len).sum::<u64>(), facts.package_bytes);
            self::manifest(&manifest.to_bytes());
            assert!(Manifest::parse(&manifest.to_bytes()).is_ok());
        }
        Err(ImportError::Model(_)) => {}
    }
}

/// A folder: lengths of config.json and tokenizer.json, these, and one file of weights. Says
/// whether it opened.
pub(crate) fn folder(bytes: &[u8]) -> bool {
    let Some((lengths, rest)) = bytes.split_first_chunk::<4>() else { return false };
    let [c0, c1, t0, t1] = *lengths;
    let config = usize::from(u16::from_le_bytes([c0, c1]));
    let tokenizer = usize::from(u16::from_le_bytes([t0, t1]));
    let Some((config, rest)) = rest.split_at_checked(config) else { return false };
    let Some((tokenizer, weights)) = rest.split_at_checked(tokenizer) else { return false };
    let folder = Folder {
        name: "fuzzed",
        license: None,
        config,
        tokenizer,
        tokenizer_config: None,
        chat_template: None,
        more_chat_templates: BTreeMap::new(),
        generation_config: None,
        index: None,
        weights: BTreeMap::from([("model.safetensors".to_owned(), weights)]),
    };
    let _ = weight_files(config);
    let Ok(translated) = folder.translate() else { return false };
    let Ok(model) = ModelFile::open_folder(&translated) else { return false };
    match model.import(&mut Forget, |_| ()) {
        Ok(manifest) => assert!(Manifest::parse(&manifest.to_bytes()).is_ok()),
        Err(ImportError::Model(_)) => {}
    }
    true
}

/// A manifest: what is accepted has one encoding.
pub(crate) fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert_eq!(manifest.to_bytes(), bytes);
    }
}

/// Stands in every message of the fuzzed chats, and in no template.
const USERS: char = '\u{e000}';

/// A chat template behind a byte that says which chat it gets: it renders or is refused, twice the
/// same, within the limits, and what users wrote is known as theirs.
pub(crate) fn template(bytes: &[u8]) {
    let Some((&which, source)) = bytes.split_first() else { return };
    let source = String::from_utf8_lossy(source);
    let mut messages = vec![Message::new("user", format!("{USERS}Hi, <|im_end|>{USERS}"))];
    if which & 1 != 0 {
        messages.insert(0, Message::new("system", format!("{USERS}Be brief.{USERS}")));
    }
    if which & 2 != 0 {
        messages.push(Message::new("assistant", format!("{USERS}Hello{USERS}")));
    }
    let tool = json!({"type": "function", "function": {"name": format!("{USERS}f"),
        "parameters": {"type": "object", "properties": {}}}});
    let chat = Chat {
        messages: &messages,
        tools: (which & 4 != 0).then_some(std::slice::from_ref(&tool)),
        arguments: &Map::new(),
        add_generation_prompt: which & 8 != 0,
        bos_token: "<s>",
        eos_token: "</s>",
        date: Date::FIRST,
    };
    let rendered = render(&source, &chat);
    assert_eq!(render(&source, &chat), rendered, "{source:?}");
    let prompt = match rendered {
        Ok(prompt) => prompt,
        Err(TemplateError::Invalid { message }) if message.contains("panicked") => {
            panic!("{message}: {source:?}");
        }
        Err(_) => return,
    };
    let (text, spans) = (prompt.text(), prompt.user_spans());
    assert!(text.len() <= MAX_RENDERED_BYTES);
    let mut last = None;
    for span in spans {
        assert!(!span.is_empty() && last.is_none_or(|end| end < span.start), "{source:?}");
        assert!(text.get(span.clone()).is_some(), "whole characters: {source:?}");
        last = Some(span.end);
    }
    if !source.contains(USERS) {
        let is_known = |at: usize| spans.iter().any(|span| span.contains(&at));
        let all = text.match_indices(USERS).all(|(at, _)| is_known(at));
        assert!(all, "a user's text is taken for the template's: {source:?} gives {text:?}");
    }
}

/// A vocabulary blob of the length in the first two bytes, then a tokenizer blob: what is accepted
/// has one encoding, and ordinary text decodes to itself.
pub(crate) fn tokenizer(bytes: &[u8]) {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else { return };
    let at = usize::from(u16::from_le_bytes(*len));
    let Some((vocabulary, definition)) = rest.split_at_checked(at) else { return };
    let parsed = Definition::from_bytes(definition);
    if let Ok(parsed) = &parsed {
        assert_eq!(parsed.to_bytes(), definition);
    }
    // Tokens that swallow white space do not give it back, and neither do some pieces.
    let swallows = parsed.is_ok_and(|parsed| {
        let (steps, unknown) = match &parsed.model {
            Model::Pairs(pairs) => (&pairs.steps, pairs.unknown),
            Model::Unigram(unigram) => (&unigram.steps, unigram.unknown),
            Model::Pieces { .. } => return !parsed.strips.is_empty(),
        };
        !parsed.strips.is_empty() || !steps.keeps_text() || unknown.is_some()
    });
    let Ok(tokenizer) = Tokenizer::from_blobs(vocabulary, definition) else { return };
    for control in [ControlText::Parse, ControlText::Plain] {
        let text = String::from_utf8_lossy(bytes);
        for text in ["In the year 1969, they'll\n\n go  \u{e9}", &text] {
            if let Ok(ids) = tokenizer.encode(text, control) {
                assert!(ids.iter().all(|id| (*id as usize) < tokenizer.len()));
                let decoded = tokenizer.decode_bytes(&ids, ControlText::Parse);
                let read = tokenizer.normalise(text).unwrap();
                let same = decoded == text.as_bytes() || *read != *text;
                assert!(same || swallows, "{control:?} {text:?}");
            }
        }
    }
}
