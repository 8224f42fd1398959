//! The tokenizer on the real model's vocabulary: golden ids, round trips, guards and refusals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use lockstep_exact::bytes::Canonical;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_import::gguf::Gguf;
use lockstep_import::limits::{MAX_MERGE_BYTES, MAX_TEXT_BYTES};
use lockstep_import::template::ChatTemplates;
use lockstep_import::tokenizer::{
    self, BlobError, ControlText, Definition, DefinitionError, EncodeError, Merge, Model, Pairs,
    RULES, Rule, Spelling, TokenKind, Tokenizer,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::Value;

/// The real model's vocabulary and merges under each rule, by the rule's first name.
fn real(name: &str) -> &'static Tokenizer {
    static ALL: OnceLock<Vec<(&str, Tokenizer)>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let file = test_model::bytes();
        let read = tokenizer::read(&Gguf::parse(&file).unwrap()).unwrap();
        let Model::Pairs(pairs) = &read.definition.model else {
            unreachable!("SmolLM2 is a byte-level model")
        };
        let build = |rule: &'static Rule| {
            let (steps, takes_whole) = (rule.steps().unwrap(), rule.takes_whole());
            let model = Model::Pairs(Pairs { steps, takes_whole, ..pairs.clone() });
            let definition = Definition { model, ..read.definition.clone() };
            (rule.name(), Tokenizer::new(read.vocabulary.clone(), definition).unwrap())
        };
        RULES.iter().map(build).collect()
    });
    &all.iter().find(|(rule, _)| *rule == name).unwrap().1
}

/// Characters of a run on which libraries give up.
const LONG_RUN: usize = 1 << 18;

/// First names of all rules.
fn rules() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(Rule::name)
}

/// The rules of which another implementation's ids were recorded.
const RECORDED: [&str; 7] =
    ["gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o", "tekken", "deepseek-v3"];

/// Recorded from an implementation that shares no code with the library: its own splitting without
/// look-ahead, and its own merging.
#[test]
fn ids_are_the_golden_ids() {
    let golden: Value = serde_json::from_str(include_str!("golden/tokens.json")).unwrap();
    let golden = golden.as_array().unwrap();
    assert!(golden.len() > 100);
    for entry in golden {
        let text = entry["text"].as_str().unwrap();
        let control = match entry["control"].as_str() {
            Some("parse") => ControlText::Parse,
            _ => ControlText::Plain,
        };
        for rule in RECORDED {
            let ids = entry["ids"][rule].as_array().unwrap();
            let expected: Vec<u64> = ids.iter().map(|id| id.as_u64().unwrap()).collect();
            let ids = real(rule).encode(text, control).unwrap();
            let ids: Vec<u64> = ids.into_iter().map(u64::from).collect();
            assert_eq!(ids, expected, "{rule} {control:?} {text:?}");
        }
    }
}

/// Texts in which the splitters' rules meet: words, numbers, signs, white space, control tokens.
fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-zA-Z]{1,9}",
        "[ \\t]{1,4}",
        "[ \\r\\n]{1,3}",
        "[0-9]{1,5}",
        "'(s|t|re|ve|m|ll|d|S|LL|D|x|\u{17f})",
        "[!-/:-@\\[-`{-~]{1,3}",
        "[à-ÿа-я東京\u{301}\u{300}²½٣🙂\u{a0}\u{2003}\u{85}\u{3000}_]{1,4}",
        Just("<|im_start|>".to_owned()),
        Just("<|im_end|>".to_owned()),
        Just("<|im".to_owned()),
        "\\PC{0,4}",
    ];
    prop::collection::vec(part, 0..14).prop_map(|parts| parts.concat())
}

fn config() -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(20_261_123);
    ProptestConfig { cases: 4000, rng_seed, failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn text_decodes_to_itself(text in texts()) {
        for rule in rules() {
            let ours = real(rule);
            for control in [ControlText::Parse, ControlText::Plain] {
                let Ok(ids) = ours.encode(&text, control) else { continue };
                let expected = ours.normalise(&text).unwrap();
                prop_assert_eq!(ours.decode(&ids, ControlText::Parse), expected.as_ref());
                let control_ids = ids.iter().filter(|id| **id < 17).count();
                prop_assert!(control == ControlText::Parse || control_ids == 0);
            }
        }
    }
}

/// Libraries give up silently on runs of white space that are this long.
#[test]
fn a_long_run_is_encoded_whole_and_does_not_stop_the_splitting_behind_it() {
    let tail = "?! it's 1969,\n\n  don't";
    for unit in [" ", "\n", " \n", "\t\r\n ", "a", "1", "!", "é", "\u{2003}"] {
        for rule in RECORDED {
            let ours = real(rule);
            let run = unit.repeat(LONG_RUN / unit.chars().count());
            let behind = if unit == "1" { "x" } else { "7" };
            let text = [&run, behind, tail].concat();
            let ids = ours.encode(&text, ControlText::Plain).unwrap();
            assert_eq!(ours.decode(&ids, ControlText::Plain), text, "{unit:?}");
            let expected = ours.encode(tail, ControlText::Plain).unwrap();
            assert!(ids.ends_with(&expected), "{rule} {unit:?}");
        }
    }
}

/// Every rule on every kind of long run: what takes too many steps is refused in time, and not cut
/// in another way.
#[test]
fn a_run_that_takes_too_many_steps_is_refused() {
    for unit in ["1", "\u{664}", " ", "\u{a0}", "\n", "a", "A", "aA", "é\u{301}", "'", "-", "東"]
    {
        for rule in rules() {
            let ours = real(rule);
            let text = unit.repeat(20_000);
            match ours.encode(&text, ControlText::Plain) {
                Ok(ids) => {
                    let read = ours.normalise(&text).unwrap();
                    assert_eq!(ours.decode(&ids, ControlText::Plain), read, "{rule} {unit:?}");
                }
                Err(error) => assert_eq!(error, EncodeError::Work, "{rule} {unit:?}"),
            }
        }
    }
    let digits = "1".repeat(20_000);
    assert_eq!(real("superbpe").encode(&digits, ControlText::Plain), Err(EncodeError::Work));
    assert!(real("superbpe").encode(&digits[..1000], ControlText::Plain).is_ok());
}

#[test]
fn text_past_the_limit_is_refused() {
    let text = "x ".repeat(MAX_TEXT_BYTES / 2);
    assert!(real("smollm").encode(&text, ControlText::Plain).is_ok());
    let text = [&text, "x"].concat();
    let error = real("smollm").encode(&text, ControlText::Plain).unwrap_err();
    assert_eq!(error, EncodeError::TooLong { got: text.len() });
}

#[test]
fn the_first_byte_without_a_token_is_named_where_it_stands_in_the_text() {
    for rule in rules() {
        let text = "<|im_start|>e\u{301}te\u{4} \u{5}<|im_end|>\u{4}";
        let error = real(rule).encode(text, ControlText::Parse).unwrap_err();
        assert_eq!(error, EncodeError::Lost { byte: 4, at: 17 }, "{rule}");
        assert_eq!(text.as_bytes()[17], 4);
    }
}

/// A vocabulary of `a`, `b`, `ab` and a control token, and a definition that fits it.
fn small() -> (Vec<&'static [u8]>, Definition) {
    let definition = Definition {
        model: Model::Pairs(Pairs {
            steps: RULES[0].steps().unwrap(),
            spelling: Spelling::Bytes,
            takes_whole: false,
            unknown: None,
            fuses_unknown: false,
            merges: vec![Merge { left: 0, right: 1, result: 2 }],
        }),
        add_bos: true,
        add_eos: false,
        bos: Some(3),
        eos: None,
        kinds: vec![TokenKind::Text, TokenKind::Text, TokenKind::Text, TokenKind::Control],
        strips: BTreeMap::new(),
        words: BTreeSet::new(),
        rewritten: BTreeSet::new(),
        marked: BTreeSet::new(),
        chat_templates: ChatTemplates::default(),
    };
    (vec![b"a", b"b", b"ab", b"<s>"], definition)
}

fn merges(definition: &mut Definition) -> &mut Vec<Merge> {
    match &mut definition.model {
        Model::Pairs(pairs) => &mut pairs.merges,
        _ => unreachable!("a byte-level definition"),
    }
}

fn built(tokens: &[&[u8]], definition: Definition) -> Result<Tokenizer, DefinitionError> {
    Tokenizer::new(Vocabulary::new(tokens.iter().copied()).unwrap(), definition)
}

#[test]
fn a_prompt_begins_with_one_bos_token_if_the_model_wants_it() {
    let (tokens, definition) = small();
    let tokenizer = built(&tokens, definition.clone()).unwrap();
    let prompt = |text| tokenizer.encode_prompt(text, ControlText::Parse).unwrap();
    assert_eq!(prompt("abb"), [3, 2, 1]);
    assert_eq!(prompt("<s>abb"), [3, 2, 1]);
    assert_eq!(prompt(""), [3]);
    let without = built(&tokens, Definition { add_bos: false, ..definition }).unwrap();
    assert_eq!(without.encode_prompt("abb", ControlText::Parse), Ok(vec![2, 1]));
    assert_eq!(
        tokenizer.encode("abc", ControlText::Parse),
        Err(EncodeError::Lost { byte: b'c', at: 2 })
    );
}

#[test]
fn definitions_that_do_not_fit_their_vocabulary_are_refused() {
    let (tokens, definition) = small();
    let refused = |change: &dyn Fn(&mut Vec<&'static [u8]>, &mut Definition)| {
        let (mut tokens, mut definition) = (tokens.clone(), definition.clone());
        change(&mut tokens, &mut definition);
        built(&tokens, definition).unwrap_err().to_string()
    };
    assert_eq!(refused(&|t, _| t.push(b"c")), "4 token kinds for 5 tokens");
    assert_eq!(
        refused(&|_, d| d.bos = Some(4)),
        "the beginning-of-sequence token is 4, but there are 4 tokens"
    );
    assert_eq!(
        refused(&|_, d| d.eos = Some(9)),
        "the end-of-sequence token is 9, but there are 4 tokens"
    );
    assert_eq!(refused(&|t, _| t[1] = b""), "token 1 is empty");
    assert_eq!(
        refused(&|t, _| t[1] = b"a"),
        "token 1 has the same bytes as an earlier token of its kind"
    );
    assert_eq!(refused(&|t, _| t[3] = b"\xef"), "control or added token 3 is not UTF-8");
    assert_eq!(
        refused(&|t, _| t[2] = b"ba"),
        "merge 0 makes a token that is not its two parts joined"
    );
    assert_eq!(
        refused(&|_, d| merges(d)[0].left = 3),
        "merge 0 names a token that is not ordinary text"
    );
    assert_eq!(
        refused(&|_, d| merges(d)[0].result = 99),
        "merge 0 names a token that is not ordinary text"
    );
    assert_eq!(
        refused(&|_, d| {
            let first = merges(d)[0];
            merges(d).push(first);
        }),
        "merge 1 repeats the pair of an earlier merge"
    );
    assert_eq!(
        refused(&|_, d| d.kinds[1] = TokenKind::Byte),
        "token 1 is for a single byte, but is longer or in a byte-level model"
    );
}

/// All runs of one letter, and all ways to make each: a small file, and hundreds of megabytes of
/// merges once they are text.
#[test]
fn merges_that_would_fill_the_memory_are_refused() {
    let tokens: Vec<Vec<u8>> = (1..=1024).map(|len| vec![b'a'; len]).collect();
    let pairs = (0..1024_u32).flat_map(|left| (0..1023 - left).map(move |right| (left, right)));
    let merge = |(left, right)| Merge { left, right, result: left + right + 1 };
    let (_, mut definition) = small();
    let kinds = vec![TokenKind::Text; tokens.len()];
    let all: Vec<Merge> = pairs.map(merge).collect();
    let limit = all.iter().scan(0, |sum, merge| {
        *sum += tokens[merge.result as usize].len();
        Some(*sum)
    });
    let rank = limit.take_while(|sum| *sum <= MAX_MERGE_BYTES).count();
    *merges(&mut definition) = all;
    let definition = Definition { kinds, ..definition };
    let tokens: Vec<&[u8]> = tokens.iter().map(Vec::as_slice).collect();
    assert_eq!(built(&tokens, definition).unwrap_err(), DefinitionError::LongMerges { rank });
}

#[test]
fn definitions_have_one_encoding() {
    let (tokens, definition) = small();
    let mut chat_templates = ChatTemplates::default();
    chat_templates.add("default", "{{ x }}").unwrap();
    chat_templates.add("tool_use", "{{ tools }}").unwrap();
    let with_all = Definition { eos: Some(3), chat_templates, ..definition.clone() };
    for definition in [definition, with_all] {
        let bytes = definition.to_bytes();
        assert_eq!(Definition::from_bytes(&bytes), Ok(definition.clone()));
        for len in 0..bytes.len() {
            assert!(Definition::from_bytes(&bytes[..len]).is_err(), "{len} bytes");
        }
        let vocabulary = Vocabulary::new(tokens.iter().copied()).unwrap().to_bytes();
        assert!(Tokenizer::from_blobs(&vocabulary, &bytes).is_ok());
        let decode = |bytes: &[u8]| Tokenizer::from_blobs(&vocabulary, bytes).unwrap_err();
        assert!(matches!(decode(b"no tokenizer"), BlobError::Decode(_)));
    }
}
