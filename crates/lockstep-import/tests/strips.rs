//! Special tokens that swallow white space: golden ids of an independent implementation, and which
//! files say so.
//!
//! `golden/strips.py` says how the golden ids were made.

mod support;

use std::collections::BTreeMap;

use lockstep_exact::bytes::Canonical;
use lockstep_import::gguf::Gguf;
use lockstep_import::safetensors::Folder;
use lockstep_import::tokenizer::{self, ControlText, DefinitionError, FromGguf, Strip, Tokenizer};
use serde_json::{Value, json};

use support::folder::{folder, weights};
use support::{Meta, tiny, tiny_pieces};

const RIGHT: Strip = Strip { left: false, right: true };

/// What is read of a folder's `tokenizer.json`.
fn read(file: &Value) -> FromGguf {
    let mut parts = folder();
    let size = file["model"]["vocab"].as_object().unwrap().len();
    let added = file["added_tokens"].as_array().unwrap();
    let ids = added.iter().map(|token| token["id"].as_u64().unwrap() as usize + 1);
    parts.config["vocab_size"] = json!(ids.max().unwrap().max(size));
    let (config, tokenizer) = (parts.config.to_string(), file.to_string());
    let weights = weights(&parts.tensors);
    let folder = Folder {
        name: "strips",
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
    tokenizer::read(&translated.gguf().unwrap()).unwrap()
}

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/strips.json")).unwrap()
}

#[test]
fn ids_are_the_golden_ids() {
    let golden = golden();
    for (name, file) in golden["tokenizers"].as_object().unwrap() {
        let read = read(file);
        let (vocabulary, definition) = (read.vocabulary.to_bytes(), read.definition.to_bytes());
        let tokenizer = Tokenizer::from_blobs(&vocabulary, &definition).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(case[name].clone()).unwrap();
            assert_eq!(tokenizer.encode(text, ControlText::Parse), Ok(ids), "{name}: {text:?}");
        }
        assert!(cases.len() > 300, "{}", cases.len());
    }
}

#[test]
fn only_what_is_searched_for_swallows() {
    let tokenizer = read(&golden()["tokenizers"]["bytes"]);
    let tokenizer = Tokenizer::new(tokenizer.vocabulary, tokenizer.definition).unwrap();
    let text = "a <|both|> a </s> a";
    let ids = tokenizer.encode(text, ControlText::Plain).unwrap();
    assert_eq!(tokenizer.decode(&ids, ControlText::Plain), "a <|both|> a </s> a");
}

#[test]
fn a_definition_without_swallowing_tokens_has_the_bytes_that_it_had() {
    let file = tiny().bytes();
    let mut definition = tokenizer::read(&Gguf::parse(&file).unwrap()).unwrap().definition;
    assert!(definition.strips.is_empty());
    let plain = definition.to_bytes();
    definition.strips.insert(261, Strip { left: true, right: true });
    let swallowing = definition.to_bytes();
    let differing = plain.iter().zip(&swallowing).filter(|(a, b)| a != b);
    assert_eq!(differing.map(|(a, b)| b - a).collect::<Vec<_>>(), [24]);
    assert_eq!(tokenizer::Definition::from_bytes(&swallowing), Ok(definition));
}

#[test]
fn strips_of_other_tokens_are_refused() {
    let file = tiny().bytes();
    let read = tokenizer::read(&Gguf::parse(&file).unwrap()).unwrap();
    for (id, strip) in [(0, RIGHT), (263, RIGHT), (9999, RIGHT), (261, Strip::default())] {
        let mut definition = read.definition.clone();
        definition.strips.insert(id, strip);
        assert_eq!(definition.check(&read.vocabulary), Err(DefinitionError::Strip { id }));
    }
}

#[test]
fn gguf_files_of_phi_with_pieces_swallow_behind_special_tokens() {
    let strips = |architecture: &str| {
        let mut file = tiny_pieces();
        file.set("general.architecture", Meta::Str(architecture.to_owned()));
        let file = file.bytes();
        let read = tokenizer::read(&Gguf::parse(&file).unwrap()).unwrap();
        let text = |id: &u32| read.vocabulary.token(*id).to_vec();
        let strips = read.definition.strips.iter();
        strips.map(|(id, strip)| (text(id), *strip)).collect::<Vec<_>>()
    };
    assert_eq!(strips("llama"), []);
    let swallowing = strips("phi3");
    assert!(!swallowing.is_empty());
    for (text, strip) in &swallowing {
        assert!(*strip == RIGHT && ![&b"<s>"[..], b"<unk>"].contains(&text.as_slice()));
    }
}
