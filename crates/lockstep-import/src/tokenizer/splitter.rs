//! How text is cut into pieces before tokens merge: the `tokenizer.ggml.pre` rules that are known.

use std::borrow::Cow;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader};
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
}

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

impl Splitter {
    /// Every splitter.
    pub const ALL: [Self; 4] = [Self::Gpt2, Self::SmolLm, Self::Llama3, Self::Qwen2];

    /// The splitter that `tokenizer.ggml.pre` calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "gpt-2" => Self::Gpt2,
            "smollm" => Self::SmolLm,
            "llama-bpe" | "llama3" | "llama-v3" => Self::Llama3,
            "qwen2" => Self::Qwen2,
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
        }
    }

    /// Whether a piece that is a token as a whole is not split further, whatever the merges say.
    pub(super) fn looks_up_whole_pieces(self) -> bool {
        self == Self::Llama3
    }

    /// Whether prompts begin with the beginning-of-sequence token unless the file says otherwise.
    pub(super) fn adds_bos_by_default(self) -> bool {
        self == Self::Llama3
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
        }))
    }
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

impl Canonical for Splitter {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Gpt2 => 0,
            Self::SmolLm => 1,
            Self::Llama3 => 2,
            Self::Qwen2 => 3,
        });
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(input)? {
            0 => Self::Gpt2,
            1 => Self::SmolLm,
            2 => Self::Llama3,
            3 => Self::Qwen2,
            tag => return Err(input.unknown_tag("splitter", tag)),
        })
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
    fn every_byte_of_normalised_text_leads_back_to_what_was_written() {
        let read = Splitter::Qwen2.read("e\u{301}te");
        assert_eq!(read.as_str(), "éte");
        let written: Vec<usize> = (0..5).map(|at| read.written_at(at)).collect();
        assert_eq!(written, [0, 0, 3, 4, 5]);
        assert_eq!(Splitter::Llama3.read("e\u{301}").as_str(), "e\u{301}");
    }
}
