//! Token ids of a hard corpus on the real models, against llama.cpp's.
//!
//! `golden/llama_tokens.py` says how the golden ids were made.

use lockstep_import::gguf::Gguf;
use lockstep_import::tokenizer::{self, ControlText, Tokenizer};
use serde_json::Value;

fn tokenizer(file: &[u8]) -> Tokenizer {
    let read = tokenizer::read(&Gguf::parse(file).unwrap()).unwrap();
    Tokenizer::new(read.vocabulary, read.definition).unwrap()
}

/// Compares every text's ids with the golden ones; gives the texts whose ids differ.
fn differing(tokenizer: &Tokenizer, model: &str) -> Vec<String> {
    let golden: Value = serde_json::from_str(include_str!("golden/llama_tokens.json")).unwrap();
    let cases = golden.as_array().unwrap();
    assert_eq!(cases.len(), 236);
    let differs = |case: &&Value| {
        let text = case["text"].as_str().unwrap();
        let control = match case["control"].as_str() {
            Some("parse") => ControlText::Parse,
            _ => ControlText::Plain,
        };
        let ids = tokenizer.encode(text, control).unwrap();
        case[model] != Value::from(ids)
    };
    let differing = cases.iter().filter(differs);
    differing.map(|case| case["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn smollm2s_ids_are_those_of_llama_cpp() {
    let differing = differing(&tokenizer(&test_model::bytes()), "smollm2");
    assert_eq!(differing, Vec::<String>::new());
}

/// But for one thing, in which ours are SentencePiece's: a U+2581 of the text is a space before
/// runs of spaces are looked for.
#[test]
fn gemmas_ids_are_those_of_llama_cpp() {
    let file = std::fs::read(test_model::gemma()).unwrap();
    let differing = differing(&tokenizer(&file), "gemma");
    let known = |text: &&String| text.contains('\u{2581}');
    let unknown: Vec<&String> = differing.iter().filter(|text| !known(text)).collect();
    assert_eq!((unknown, differing.len()), (Vec::new(), 6));
}
