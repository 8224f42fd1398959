//! The real model: its tokens, its chat template and its package, against the reference vectors.

use std::sync::OnceLock;

use lockstep_exact::manifest::Manifest;
use lockstep_import::package::{MemorySink, ModelFile, Progress};
use lockstep_import::template::{Chat, Date, Message, render};
use lockstep_import::tokenizer::{ControlText, EncodeError, Tokenizer, Utf8Stream};
use serde_json::{Map, Value};

/// The id that this model's package has everywhere. It changes only with the import rules.
const MANIFEST_ID: &str = "f7e4ca666299de1a71f70eb7ed3478e6a615c83fea5e14a3612a8a31acf1ca00";

struct Imported {
    manifest: Manifest,
    tokenizer: Tokenizer,
}

fn imported() -> &'static Imported {
    static IMPORTED: OnceLock<Imported> = OnceLock::new();
    IMPORTED.get_or_init(|| {
        let file = test_model::bytes();
        let model = ModelFile::open(&file).unwrap();
        let mut sink = MemorySink::default();
        let manifest = model.import(&mut sink, |_| ()).unwrap();
        let blob = |index: u32| sink.get(&manifest.blobs[index as usize].digest).unwrap();
        let tokenizer =
            Tokenizer::from_blobs(blob(manifest.vocabulary_blob), blob(manifest.tokenizer_blob));
        Imported { tokenizer: tokenizer.unwrap(), manifest }
    })
}

fn reference() -> Value {
    let json = include_str!("../../../vectors/reference/smollm2-135m-f32.json");
    serde_json::from_str(json).unwrap()
}

#[test]
fn every_reference_text_encodes_to_the_reference_ids_and_back() {
    let tokenizer = &imported().tokenizer;
    let reference = reference();
    let texts = reference.as_object().unwrap();
    assert_eq!(texts.len(), 5);
    for (name, entry) in texts {
        let text = entry["text"].as_str().unwrap();
        let expected: Vec<u32> =
            entry["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let ids = tokenizer.encode(text, ControlText::Parse).unwrap();
        assert_eq!(ids, expected, "{name}");
        assert_eq!(tokenizer.encode_prompt(text, ControlText::Parse).unwrap(), ids, "no BOS");
        assert_eq!(tokenizer.decode(&ids, ControlText::Parse), text, "{name}");
        let mut stream = Utf8Stream::default();
        let mut streamed: String =
            ids.iter().map(|id| stream.push(tokenizer.token_bytes(*id))).collect();
        streamed.push_str(&stream.finish());
        assert_eq!(streamed, text, "{name}");
    }
}

#[test]
fn the_chat_template_renders_the_reference_chat() {
    let tokenizer = &imported().tokenizer;
    let messages = [Message::new("user", "What is the capital of France?")];
    let chat = Chat {
        messages: &messages,
        tools: None,
        arguments: &Map::new(),
        add_generation_prompt: true,
        bos_token: &tokenizer.bos_text(),
        eos_token: &tokenizer.eos_text(),
        date: Date::parse("2026-11-23").unwrap(),
    };
    let prompt = render(tokenizer.chat_templates().choose(false).unwrap(), &chat).unwrap();
    assert_eq!(prompt.text(), reference()["chat"]["text"].as_str().unwrap());
}

#[test]
fn a_users_control_text_stays_text() {
    let tokenizer = &imported().tokenizer;
    let text = "<|im_end|>";
    assert_eq!(tokenizer.encode(text, ControlText::Parse), Ok(vec![2]));
    let plain = tokenizer.encode(text, ControlText::Plain).unwrap();
    assert!(plain.len() > 1 && !plain.contains(&2));
    assert_eq!(tokenizer.decode(&plain, ControlText::Plain), text);
    assert_eq!(tokenizer.decode(&[1, 28, 2], ControlText::Plain), ",");
}

#[test]
fn a_byte_without_a_token_is_an_error() {
    let tokenizer = &imported().tokenizer;
    let error = tokenizer.encode("a\u{4}b", ControlText::Plain).unwrap_err();
    assert_eq!(error, EncodeError::Lost { byte: 4, at: 1 });
}

#[test]
fn the_package_is_the_same_everywhere() {
    let manifest = &imported().manifest;
    // The names of the tokens 0, 2 and 4 end answers in llama.cpp: `<|endoftext|>`, `<|im_end|>`
    // and `<reponame>`.
    assert_eq!(manifest.end_tokens, [0, 2, 4]);
    assert_eq!(manifest.provenance.license, "apache-2.0");
    assert_eq!(manifest.provenance.source_format, "Q4_1");
    assert_eq!((manifest.layers.len(), manifest.hidden, manifest.vocabulary), (30, 576, 49_152));
    assert_eq!(manifest.id().to_string(), MANIFEST_ID);
}

#[test]
fn facts_and_progress_are_right_before_and_during_the_import() {
    let file = test_model::bytes();
    let model = ModelFile::open(&file).unwrap();
    let facts = model.facts();
    let Imported { manifest, .. } = imported();
    assert_eq!(facts.package_bytes, manifest.blobs.iter().map(|blob| blob.len).sum::<u64>());
    let largest = manifest.blobs.iter().map(|blob| blob.len).max().unwrap();
    assert!((largest..largest + (4 << 20)).contains(&facts.memory_bytes), "{facts:?}");
    assert_eq!(facts.weights, 134_479_872);
    let mut seen = Vec::new();
    model.import(&mut MemorySink::default(), |progress| seen.push(progress)).unwrap();
    assert!(seen.windows(2).all(|pair| pair[0].done < pair[1].done));
    let all = Progress { done: facts.weights, total: facts.weights };
    assert_eq!(seen.last(), Some(&all));
}
