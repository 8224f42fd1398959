//! Which tokens of a GGUF file end an answer, and how files that say little or name rules
//! otherwise are read.

mod support;

use lockstep_import::gguf::Gguf;
use lockstep_import::tokenizer::{
    self, ControlText, FromGguf, Rule, TokenKind, Tokenizer, TokenizerError, Warning,
};
use support::{File, Meta, tiny, tiny_pieces};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const PRE: &str = "tokenizer.ggml.pre";

fn read(file: &File) -> FromGguf {
    tokenizer::read(&Gguf::parse(&file.bytes()).unwrap()).unwrap()
}

/// The tiny model with another text and type of its last token, 264, which is unused.
fn with_last(text: &str, ty: i32) -> File {
    let mut file = tiny();
    file.strings(TOKENS)[264] = text.to_owned();
    let Meta::I32s(types) = file.meta(TYPES) else { panic!("types are integers") };
    types[264] = ty;
    file
}

#[test]
fn known_marks_end_answers_whatever_type_the_file_gives_them() {
    let named = read(&tiny()).end_tokens;
    for text in [
        "<|eot_id|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "<|end_of_text|>",
        "<eos>",
        "[e~[",
        "<|fim_pad|>",
        "<|repo_name|>",
        "<|file_sep|>",
        "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
        "<end_of_utterance>",
        "<|return|>",
    ] {
        for ty in [1, 2, 3, 4, 5] {
            let read = read(&with_last(text, ty));
            let expected: Vec<u32> = named.iter().copied().chain([264]).collect();
            assert_eq!(read.end_tokens, expected, "{text} of type {ty}");
            assert_eq!(read.definition.kinds[264], TokenKind::Control, "{text} of type {ty}");
            let is_odd = matches!(read.warnings.as_slice(), [Warning::Mistyped { .. }]);
            assert_eq!(is_odd, ![2, 3].contains(&ty), "{text} of type {ty}");
            // It is the token in a template's text, and ordinary text in what a user writes.
            let ours = Tokenizer::new(read.vocabulary, read.definition).unwrap();
            assert_eq!(ours.encode(text, ControlText::Parse), Ok(vec![264]), "{text}");
            assert!(!ours.encode(text, ControlText::Plain).unwrap().contains(&264), "{text}");
        }
    }
    for text in ["<|other|>", "<|fim_prefix|>", "<|im_start|>2", "eos"] {
        assert_eq!(read(&with_last(text, 3)).end_tokens, named, "{text}");
    }
}

/// Where other tokens end an answer, these stand inside one.
#[test]
fn a_mark_that_stands_inside_answers_does_not_end_them() {
    let ends = |texts: [&str; 3]| {
        let mut file = tiny();
        for (at, text) in [258, 259, 264].into_iter().zip(texts) {
            file.strings(TOKENS)[at] = text.to_owned();
        }
        file.set("tokenizer.ggml.merges", Meta::Strs(Vec::new()));
        let Meta::I32s(types) = file.meta(TYPES) else { panic!("types are integers") };
        for at in [258, 259, 264] {
            types[at] = 3;
        }
        let named = read(&tiny()).end_tokens;
        read(&file).end_tokens.into_iter().filter(|id| !named.contains(id)).collect::<Vec<_>>()
    };
    assert_eq!(ends(["<|return|>", "<|call|>", "<|end|>"]), [258, 259]);
    assert_eq!(ends(["<|flush|>", "<|calls|>", "<|end|>"]), [258, 259]);
    assert_eq!(ends(["<|return|>", "x", "<|end|>"]), [258, 264]);
    assert_eq!(ends(["<|tool_response>", "x", "</s>"]), [258]);
    assert_eq!(ends(["<|fim_pad|>", "[PAD]", "x"]), [258]);
}

#[test]
fn sentencepiece_models_that_name_no_ids_have_the_usual_ones() {
    let mut file = tiny_pieces();
    file.remove("tokenizer.ggml.bos_token_id");
    file.remove("tokenizer.ggml.eos_token_id");
    let read = read(&file);
    assert_eq!((read.definition.bos, read.definition.eos), (Some(1), Some(2)));
    assert!(read.end_tokens.contains(&2));
}

#[test]
fn files_without_types_have_ordinary_tokens_and_known_marks() {
    let mut file = with_last("<|eot_id|>", 3);
    file.remove(TYPES);
    let read = read(&file);
    assert!(read.end_tokens.contains(&264));
    assert_eq!(read.definition.kinds[264], TokenKind::Control);
    assert_eq!(read.definition.kinds[0], TokenKind::Text);
}

#[test]
fn all_names_of_a_rule_give_one_definition() {
    let named = |name: &str| {
        let mut file = tiny();
        file.set(PRE, Meta::Str(name.to_owned()));
        read(&file).definition
    };
    for (name, alias) in [
        ("deepseek-r1-qwen", "megrez"),
        ("llama-bpe", "falcon3"),
        ("llama-bpe", "pixtral"),
        ("gpt-2", "mellum"),
        ("gpt-2", "a.x-4.0"),
        ("gpt-4o", "kanana2"),
        ("dbrx", "smaug-bpe"),
        ("smollm", "refact"),
        ("deepseek-v3", "hunyuan-dense"),
    ] {
        assert_eq!(named(name), named(alias), "{name} {alias}");
        assert_eq!(Rule::named(name).map(Rule::name), Rule::named(alias).map(Rule::name));
    }
    // The same expression, but pieces that are tokens as a whole come first in one.
    assert_ne!(named("dbrx"), named("llama-bpe"));
}

#[test]
fn a_file_that_names_no_rule_is_read_by_a_general_one_with_a_warning() {
    let mut file = tiny();
    file.set(PRE, Meta::Str("default".to_owned()));
    let default = read(&file);
    assert_eq!(default.warnings, [Warning::NoPre]);
    file.remove(PRE);
    assert_eq!(read(&file), default);
    file.set(PRE, Meta::Str("none-of-these".to_owned()));
    let error = tokenizer::read(&Gguf::parse(&file.bytes()).unwrap()).unwrap_err();
    assert_eq!(error, TokenizerError::Pre { got: "none-of-these".to_owned() });
}

#[test]
fn an_ordinary_token_that_no_text_becomes_is_not_in_the_way() {
    let file = with_last("a\u{200d}b", 1);
    let read = read(&file);
    assert_eq!(read.definition.kinds[264], TokenKind::Unused);
    assert_eq!(read.vocabulary.token(264), "a\u{200d}b".as_bytes());
}
