//! How text is cut into pieces before tokens merge: the `tokenizer.ggml.pre` rules that are known.
//!
//! The published rules are regular expressions with a look-ahead, `\s+(?!\S)`: white space in front
//! of a word leaves its last character to the word. Here the look-ahead is a step in code, so that
//! the expressions run in linear time and cannot give up half-way through a hostile text.

use std::borrow::Cow;
use std::sync::LazyLock;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader};
use regex::Regex;
use unicode_normalization::{UnicodeNormalization, is_nfc};

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

/// Expressions without their look-ahead; together the alternatives match every character.
static GPT2: LazyLock<Option<Regex>> =
    LazyLock::new(|| compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"));
static LLAMA3: LazyLock<Option<Regex>> = LazyLock::new(|| {
    compile(concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    ))
});
static QWEN2: LazyLock<Option<Regex>> = LazyLock::new(|| {
    compile(concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    ))
});

/// `None` cannot happen for the constant expressions above; a test compiles each.
fn compile(expression: &str) -> Option<Regex> {
    Regex::new(expression).ok()
}

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

    /// The text that is split.
    pub(super) fn normalise(self, text: &str) -> Cow<'_, str> {
        if self == Self::Qwen2 && !is_nfc(text) {
            Cow::Owned(text.nfc().collect())
        } else {
            Cow::Borrowed(text)
        }
    }

    /// Cuts `text` into pieces; joined, they are `text`.
    pub(super) fn split(self, text: &str) -> impl Iterator<Item = &str> {
        let regex = match self {
            Self::Gpt2 | Self::SmolLm => GPT2.as_ref(),
            Self::Llama3 => LLAMA3.as_ref(),
            Self::Qwen2 => QWEN2.as_ref(),
        };
        let breaks_stay = matches!(self, Self::Llama3 | Self::Qwen2);
        let spans = Spans { rest: text, digits_alone: self == Self::SmolLm };
        spans.flat_map(move |rest| Pieces { rest, regex, breaks_stay })
    }
}

/// Text in spans between which no piece may reach: single digits, if these stand alone.
struct Spans<'t> {
    rest: &'t str,
    digits_alone: bool,
}

impl<'t> Iterator for Spans<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let first = self.rest.chars().next()?;
        let end = match self.digits_alone {
            false => self.rest.len(),
            true if first.is_numeric() => first.len_utf8(),
            true => self.rest.find(char::is_numeric).unwrap_or(self.rest.len()),
        };
        let (span, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        Some(span)
    }
}

/// Pieces of one span.
struct Pieces<'t, 'r> {
    rest: &'t str,
    regex: Option<&'r Regex>,
    /// White space that ends in a line break is a piece of its own and leaves nothing behind.
    breaks_stay: bool,
}

impl<'t> Pieces<'t, '_> {
    fn end_of_first(&self) -> usize {
        let whole = self.rest.len();
        let Some(found) = self.regex.and_then(|regex| regex.find(self.rest)) else { return whole };
        let piece = found.as_str();
        if found.end() == whole || !piece.chars().all(char::is_whitespace) {
            return found.end();
        }
        // The look-ahead: text follows, so the last white space belongs to it if others stay.
        let last = piece.chars().next_back().map_or(0, char::len_utf8);
        let stays = self.breaks_stay && piece.ends_with(['\r', '\n']);
        if stays || last == piece.len() { found.end() } else { found.end() - last }
    }
}

impl<'t> Iterator for Pieces<'t, '_> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        if self.rest.is_empty() {
            return None;
        }
        let (piece, rest) = self.rest.split_at_checked(self.end_of_first())?;
        self.rest = rest;
        Some(piece)
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
    use super::*;

    fn pieces(splitter: Splitter, text: &str) -> Vec<&str> {
        splitter.split(text).collect()
    }

    #[test]
    fn every_expression_compiles_and_pieces_join_to_the_text() {
        assert!([&GPT2, &LLAMA3, &QWEN2].iter().all(|regex| regex.is_some()));
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
}
