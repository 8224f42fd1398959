//! The tokenizer against another implementation, on the real model's vocabulary.

use std::sync::OnceLock;

use lockstep_exact::bytes::Canonical;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_import::gguf::Gguf;
use lockstep_import::limits::MAX_TEXT_BYTES;
use lockstep_import::tokenizer::{
    self, BlobError, ControlText, Definition, DefinitionError, EncodeError, FromGguf, Merge,
    Splitter, TokenKind, Tokenizer,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer as Other};

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

struct Pair {
    ours: Tokenizer,
    other: Other,
}

fn pair(splitter: Splitter) -> &'static Pair {
    static PAIRS: OnceLock<Vec<(Splitter, Pair)>> = OnceLock::new();
    let pairs = PAIRS.get_or_init(|| {
        let file = test_model::bytes();
        let gguf = Gguf::parse(&file).unwrap();
        let text = tokenizer::read(&gguf).unwrap();
        Splitter::ALL.map(|splitter| (splitter, build(&gguf, &text, splitter))).into()
    });
    &pairs.iter().find(|(s, _)| *s == splitter).unwrap().1
}

fn build(gguf: &Gguf<'_>, text: &FromGguf, splitter: Splitter) -> Pair {
    let definition = Definition { splitter, ..text.definition.clone() };
    let ours = Tokenizer::new(text.vocabulary.clone(), definition).unwrap();
    let strings = |key| gguf.optional_array(key).unwrap().unwrap().strings().unwrap();
    let tokens: Vec<&str> = strings("tokenizer.ggml.tokens").collect();
    let vocabulary: tokenizers::models::bpe::Vocab =
        tokens.iter().map(|t| (*t).to_owned()).zip(0..).collect();
    let merge = |rule: &str| {
        let (left, right) = rule.split_once(' ').unwrap();
        (left.to_owned(), right.to_owned())
    };
    let merges = strings("tokenizer.ggml.merges").map(merge).collect();
    let ignore = splitter == Splitter::Llama3;
    let bpe = BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(ignore).build();
    let mut other = Other::new(bpe.unwrap());
    other.with_pre_tokenizer(Some(pre_tokenizer(splitter)));
    if splitter == Splitter::Qwen2 {
        other.with_normalizer(Some(NFC)).unwrap();
    }
    let control = (0..ours.len()).filter(|id| ours.kind(*id as u32) == Some(TokenKind::Control));
    let special: Vec<AddedToken> =
        control.map(|id| AddedToken::from(tokens[id], true).normalized(false)).collect();
    other.add_special_tokens(special).unwrap();
    Pair { ours, other }
}

fn pre_tokenizer(splitter: Splitter) -> PreTokenizerWrapper {
    let byte_level = |regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, regex));
    let expression = |text: &str| {
        let pattern = SplitPattern::Regex(text.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
        PreTokenizerWrapper::from(Sequence::new(vec![split.into(), byte_level(false)]))
    };
    match splitter {
        Splitter::Gpt2 => byte_level(true),
        Splitter::SmolLm => Sequence::new(vec![Digits::new(true).into(), byte_level(true)]).into(),
        Splitter::Llama3 => expression(LLAMA3),
        Splitter::Qwen2 => expression(QWEN2),
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
    fn ids_equal_those_of_another_implementation(text in texts()) {
        for splitter in Splitter::ALL {
            let Pair { ours, other } = pair(splitter);
            let Ok(ids) = ours.encode(&text, ControlText::Parse) else { continue };
            let expected = other.encode(text.as_str(), false).unwrap();
            prop_assert_eq!(&ids[..], expected.get_ids(), "{:?} {:?}", splitter, text);
        }
    }

    #[test]
    fn text_decodes_to_itself(text in texts()) {
        for splitter in Splitter::ALL {
            let Pair { ours, .. } = pair(splitter);
            for control in [ControlText::Parse, ControlText::Plain] {
                let Ok(ids) = ours.encode(&text, control) else { continue };
                let expected = ours.normalise(&text);
                prop_assert_eq!(ours.decode(&ids, ControlText::Parse), expected.as_ref());
                let control_ids = ids.iter().filter(|id| **id < 17).count();
                prop_assert!(control == ControlText::Parse || control_ids == 0);
            }
        }
    }
}

#[test]
fn hostile_runs_encode_in_linear_time_and_whole() {
    let Pair { ours, .. } = pair(Splitter::Llama3);
    for unit in [" ", "\n", "a", "1", "!", " \n", "é", "'s", "<|im_"] {
        let text = unit.repeat(1_000_000 / unit.len());
        let ids = ours.encode(&text, ControlText::Parse).unwrap();
        assert_eq!(ours.decode(&ids, ControlText::Parse), text, "{unit:?}");
    }
}

#[test]
fn text_past_the_limit_is_refused() {
    let Pair { ours, .. } = pair(Splitter::SmolLm);
    let text = "x".repeat(MAX_TEXT_BYTES + 1);
    let got = text.len();
    assert_eq!(ours.encode(&text, ControlText::Plain), Err(EncodeError::TooLong { got }));
}

/// A vocabulary of `a`, `b`, `ab` and a control token, and a definition that fits it.
fn small() -> (Vec<&'static [u8]>, Definition) {
    let definition = Definition {
        splitter: Splitter::Gpt2,
        add_bos: true,
        bos: Some(3),
        eos: None,
        kinds: vec![TokenKind::Text, TokenKind::Text, TokenKind::Text, TokenKind::Control],
        merges: vec![Merge { left: 0, right: 1, result: 2 }],
        chat_template: None,
    };
    (vec![b"a", b"b", b"ab", b"<s>"], definition)
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
        Err(EncodeError::NoToken { byte: b'c' })
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
        refused(&|_, d| d.merges[0].left = 3),
        "merge 0 names a token that is not ordinary text"
    );
    assert_eq!(
        refused(&|_, d| d.merges[0].result = 99),
        "merge 0 names a token that is not ordinary text"
    );
    assert_eq!(
        refused(&|_, d| d.merges.push(d.merges[0])),
        "merge 1 repeats the pair of an earlier merge"
    );
}

#[test]
fn definitions_have_one_encoding() {
    let (tokens, definition) = small();
    let with_all = Definition {
        eos: Some(3),
        chat_template: Some("{{ x }}".to_owned()),
        ..definition.clone()
    };
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
