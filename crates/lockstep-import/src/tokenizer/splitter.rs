//! How text is cut into pieces before tokens merge: the `tokenizer.ggml.pre` rules that are known.

use std::borrow::Cow;

use serde_json::Value;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::normalizer::Range;
use tokenizers::{NormalizedString, SplitDelimiterBehavior};

/// A rule for cutting text into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Splitter {
    /// Words, numbers, signs and white space, as GPT-2 does.
    Gpt2,
    /// As GPT-2, but every digit stands alone: SmolLM.
    SmolLm,
    /// Numbers in threes, any case of contractions, line breaks with what precedes them: Llama 3.
    Llama3,
    /// As Llama 3, but every digit stands alone and text is normalised (NFC) first: Qwen 2.
    Qwen2,
    /// Words end where small letters are followed by capitals; contractions stay with their word:
    /// GPT-4o, Llama 4, Phi-4 mini.
    Gpt4o,
    /// As GPT-4o, but without contractions, and every digit stands alone: Mistral's Tekken.
    Tekken,
    /// Numbers in threes, Chinese and Japanese apart, signs with the Latin word behind them:
    /// DeepSeek V3 and R1.
    DeepSeek3,
}

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// One after another: each cuts what the one before left.
const DEEP_SEEK3: [&str; 3] = [
    r"\p{N}{1,3}",
    "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
        r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
];

impl Splitter {
    /// Every splitter, in order of their tags.
    pub const ALL: [Self; 7] = [
        Self::Gpt2,
        Self::SmolLm,
        Self::Llama3,
        Self::Qwen2,
        Self::Gpt4o,
        Self::Tekken,
        Self::DeepSeek3,
    ];
    /// Every splitter's name, for messages.
    pub(super) const NAMES: &str = "gpt-2, smollm, llama-bpe, qwen2, gpt-4o, tekken, deepseek-v3";

    /// The splitter that `tokenizer.ggml.pre` calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "gpt-2" => Self::Gpt2,
            "smollm" => Self::SmolLm,
            "llama-bpe" | "llama3" | "llama-v3" => Self::Llama3,
            "qwen2" => Self::Qwen2,
            "gpt-4o" | "llama4" => Self::Gpt4o,
            "tekken" => Self::Tekken,
            "deepseek-v3" => Self::DeepSeek3,
            _ => return None,
        })
    }

    /// The name `tokenizer.ggml.pre` has for this splitter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt-2",
            Self::SmolLm => "smollm",
            Self::Llama3 => "llama-bpe",
            Self::Qwen2 => "qwen2",
            Self::Gpt4o => "gpt-4o",
            Self::Tekken => "tekken",
            Self::DeepSeek3 => "deepseek-v3",
        }
    }

    /// Whether the `normalizer` and `pre_tokenizer` of a tokenizer.json are this splitter's.
    pub(crate) fn is_described_by(self, normalizer: &Value, pre_tokenizer: &Value) -> bool {
        let normalises = match normalizer {
            Value::Null => false,
            step if step["type"] == "NFC" => true,
            step if step["normalizers"] == Value::Array(Vec::new()) => false,
            _ => return false,
        };
        let steps = match pre_tokenizer["pretokenizers"].as_array() {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(pre_tokenizer),
        };
        let Some((last, cuts)) = steps.split_last() else { return false };
        let expressions: &[&str] = match self {
            Self::Gpt2 | Self::SmolLm => &[],
            Self::Llama3 => &[LLAMA3],
            Self::Qwen2 => &[QWEN2],
            Self::Gpt4o => &[GPT4O],
            Self::Tekken => &[TEKKEN],
            Self::DeepSeek3 => &DEEP_SEEK3,
        };
        let cuts_fit = match (self, cuts) {
            (Self::SmolLm, [digits]) => {
                digits["type"] == "Digits" && digits["individual_digits"] == true
            }
            (Self::SmolLm, _) => false,
            _ => {
                let same = |(cut, expression): (&Value, &&str)| is_split(cut, expression);
                cuts.len() == expressions.len() && cuts.iter().zip(expressions).all(same)
            }
        };
        let has_own_rule = matches!(self, Self::Gpt2 | Self::SmolLm);
        normalises == (self == Self::Qwen2)
            && cuts_fit
            && last["type"] == "ByteLevel"
            && last["add_prefix_space"] == false
            && last.get("use_regex").is_none_or(|own| *own == true) == has_own_rule
    }

    /// Whether a piece that is a token as a whole is not split further, whatever the merges say.
    pub(crate) fn looks_up_whole_pieces(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// Whether prompts begin with the beginning-of-sequence token unless the file says otherwise.
    pub(super) fn adds_bos_by_default(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// The text that is split, with the way back to `text` if it is another.
    pub(super) fn read(self, text: &str) -> ReadText<'_> {
        if self != Self::Qwen2 || text.is_ascii() {
            return ReadText::Same(text);
        }
        let mut normalised = NormalizedString::from(text);
        normalised.nfc();
        ReadText::Normalised(normalised)
    }

    /// The library's steps from text to pieces spelled in the byte alphabet.
    pub(super) fn steps(self) -> tokenizers::Result<Sequence> {
        let byte_level = |splits| ByteLevel::new(false, false, splits).into();
        let expression = |expression: &str| {
            let pattern = SplitPattern::Regex(expression.to_owned());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        };
        Ok(Sequence::new(match self {
            Self::Gpt2 => vec![byte_level(true)],
            Self::SmolLm => vec![Digits::new(true).into(), byte_level(true)],
            Self::Llama3 => vec![expression(LLAMA3)?.into(), byte_level(false)],
            Self::Qwen2 => vec![expression(QWEN2)?.into(), byte_level(false)],
            Self::Gpt4o => vec![expression(GPT4O)?.into(), byte_level(false)],
            Self::Tekken => vec![expression(TEKKEN)?.into(), byte_level(false)],
            Self::DeepSeek3 => {
                let [numbers, ideographs, rest] = DEEP_SEEK3.map(expression);
                let cuts = [numbers?, ideographs?, rest?].map(PreTokenizerWrapper::from);
                cuts.into_iter().chain([byte_level(false)]).collect()
            }
        }))
    }
}

/// Whether `step` cuts at the matches of `expression` and keeps them.
fn is_split(step: &Value, expression: &str) -> bool {
    // Files write line breaks as themselves or as escapes.
    let theirs = step.pointer("/pattern/Regex").and_then(Value::as_str).unwrap_or("");
    step["type"] == "Split"
        && theirs.replace('\r', r"\r").replace('\n', r"\n") == expression
        && step["behavior"] == "Isolated"
        && step["invert"] == false
}

/// Text as a model reads it.
pub(super) enum ReadText<'t> {
    /// As it was written.
    Same(&'t str),
    /// In normal form, byte by byte aligned with what was written.
    Normalised(NormalizedString),
}

impl<'t> ReadText<'t> {
    /// The text.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Same(text) => text,
            Self::Normalised(text) => text.get(),
        }
    }

    /// The text, without a copy if it is as written.
    pub(super) fn into_cow(self) -> Cow<'t, str> {
        match self {
            Self::Same(text) => Cow::Borrowed(text),
            Self::Normalised(text) => Cow::Owned(text.get().to_owned()),
        }
    }

    /// Where in the written text the byte at `at` comes from.
    pub(super) fn written_at(&self, at: usize) -> usize {
        match self {
            Self::Same(_) => at,
            Self::Normalised(text) => {
                let written = text.convert_offsets(Range::Normalized(at..at + 1));
                written.map_or_else(|| text.len_original(), |bytes| bytes.start)
            }
        }
    }
}

impl Splitter {
    /// The splitter that definitions write as `tag`.
    pub(super) fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.get(usize::from(tag)).copied()
    }

    /// Appends the splitter's tag, its place in [`ALL`](Self::ALL).
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.push(self as u8);
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    fn pieces(splitter: Splitter, text: &str) -> Vec<String> {
        let mut cut = PreTokenizedString::from(text);
        splitter.steps().unwrap().pre_tokenize(&mut cut).unwrap();
        let pieces = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
    }

    #[test]
    fn pieces_join_to_the_text() {
        let text = "  I'LL pay\u{a0}  7€\r\n\n\t x\u{301}²  ";
        for splitter in Splitter::ALL {
            assert_eq!(pieces(splitter, text).concat(), text, "{splitter:?}");
        }
    }

    #[test]
    fn white_space_leaves_its_last_character_to_the_word_behind_it() {
        assert_eq!(pieces(Splitter::Gpt2, "a   b"), ["a", "  ", " b"]);
        assert_eq!(pieces(Splitter::Gpt2, "a \n\nb"), ["a", " \n", "\n", "b"]);
        assert_eq!(pieces(Splitter::Gpt2, "a  "), ["a", "  "]);
        assert_eq!(pieces(Splitter::Llama3, "a \n\nb"), ["a", " \n\n", "b"]);
        assert_eq!(pieces(Splitter::Llama3, "a \n  b"), ["a", " \n", " ", " b"]);
    }

    #[test]
    fn digits_group_as_each_model_learned_them() {
        assert_eq!(pieces(Splitter::Gpt2, "in 1969"), ["in", " 1969"]);
        assert_eq!(pieces(Splitter::SmolLm, "in 1969"), ["in", " ", "1", "9", "6", "9"]);
        assert_eq!(pieces(Splitter::Llama3, "in 1969"), ["in", " ", "196", "9"]);
        assert_eq!(pieces(Splitter::Qwen2, "in 19"), ["in", " ", "1", "9"]);
    }

    #[test]
    fn contractions_split_in_any_case_only_where_the_model_does() {
        assert_eq!(pieces(Splitter::Gpt2, "I'LL I'll"), ["I", "'", "LL", " I", "'ll"]);
        assert_eq!(pieces(Splitter::Llama3, "I'LL I'll"), ["I", "'LL", " I", "'ll"]);
    }

    #[test]
    fn words_end_before_capitals_and_keep_contractions_only_where_the_model_does() {
        let text = "getHTTPCode it's";
        assert_eq!(pieces(Splitter::Gpt4o, text), ["get", "HTTPCode", " it's"]);
        assert_eq!(pieces(Splitter::Tekken, text), ["get", "HTTPCode", " it", "'s"]);
        assert_eq!(pieces(Splitter::Llama3, text), ["getHTTPCode", " it", "'s"]);
        assert_eq!(pieces(Splitter::Gpt4o, "a/\n/1234"), ["a", "/\n/", "123", "4"]);
        assert_eq!(pieces(Splitter::Tekken, "a/\n/12"), ["a", "/\n/", "1", "2"]);
    }

    #[test]
    fn one_rule_after_another_cuts_what_the_one_before_left() {
        let cut = |text| pieces(Splitter::DeepSeek3, text);
        assert_eq!(cut("東京タワーabc"), ["東京タワー", "abc"]);
        assert_eq!(cut("x12345#include <y"), ["x", "123", "45", "#include", " <", "y"]);
        assert_eq!(cut("a ++\n b"), ["a", " ++\n", " b"]);
    }

    #[test]
    fn tags_lead_back_to_their_splitter() {
        for splitter in Splitter::ALL {
            let mut tag = Vec::new();
            splitter.encode(&mut tag);
            assert_eq!(Splitter::from_tag(tag[0]), Some(splitter));
            assert_eq!(Splitter::from_name(splitter.name()), Some(splitter));
            assert!(Splitter::NAMES.split(", ").any(|name| name == splitter.name()));
        }
        assert_eq!(Splitter::from_tag(Splitter::ALL.len() as u8), None);
    }

    #[test]
    fn every_byte_of_normalised_text_leads_back_to_what_was_written() {
        let read = Splitter::Qwen2.read("e\u{301}te");
        assert_eq!(read.as_str(), "éte");
        let written: Vec<usize> = (0..5).map(|at| read.written_at(at)).collect();
        assert_eq!(written, [0, 0, 3, 4, 5]);
        assert_eq!(Splitter::Llama3.read("e\u{301}").as_str(), "e\u{301}");
    }
}
