//! White space that belongs to a special token beside it.

use std::ops::Range;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader};

use super::TokenKind;

const LEFT: u8 = 1 << 3;
const RIGHT: u8 = 1 << 4;
const REWRITTEN: u8 = 1 << 5;
const WORD: u8 = 1 << 6;
const MARKED: u8 = 1 << 7;

/// On which sides a control or added token swallows white space (`lstrip` and `rstrip` of
/// `tokenizer.json`): it is part of the match, and no other token stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Strip {
    /// Whether white space before the token belongs to it.
    pub left: bool,
    /// Whether white space after the token belongs to it.
    pub right: bool,
}

impl Strip {
    /// Returns the place of a match at `at`, with the white space that belongs to it, but none
    /// before `rest`, which is another's.
    pub(super) fn widened(self, text: &str, rest: usize, at: Range<usize>) -> Range<usize> {
        let Range { mut start, mut end } = at;
        if self.left {
            let before = text.get(rest..start).unwrap_or_default();
            start -= before.len() - before.trim_end().len();
        }
        if self.right {
            // What another swallowed is not walked again, however many tokens stand in it.
            end = end.max(rest);
            let behind = text.get(end..).unwrap_or_default();
            end += behind.len() - behind.trim_start().len();
        }
        start.max(rest)..end.max(rest)
    }
}

/// A token in one byte: its kind's tag, 8 if white space before it belongs to it, 16 for that
/// behind it, 32 if it is looked for in rewritten text, 64 if no word may go on beside it, 128 if
/// it is looked for with the mark where its bytes have a space.
pub(super) struct Tagged {
    pub(super) kind: TokenKind,
    pub(super) strip: Strip,
    pub(super) is_word: bool,
    pub(super) is_rewritten: bool,
    pub(super) is_marked: bool,
}

impl Canonical for Tagged {
    fn encode(&self, out: &mut Vec<u8>) {
        let Strip { left, right } = self.strip;
        let flags = [(left, LEFT), (right, RIGHT), (self.is_rewritten, REWRITTEN)];
        let flags = flags.into_iter().chain([(self.is_word, WORD), (self.is_marked, MARKED)]);
        let flags: u8 = flags.map(|(is_set, bit)| u8::from(is_set) * bit).sum();
        out.push(self.kind.tag() + flags);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tag = u8::decode(input)?;
        let has = |bit: u8| tag & bit != 0;
        let kind = TokenKind::from_tag(tag & !(LEFT | RIGHT | REWRITTEN | WORD | MARKED));
        match kind.filter(|kind| kind.is_special() || tag == kind.tag()) {
            Some(kind) => Ok(Self {
                kind,
                strip: Strip { left: has(LEFT), right: has(RIGHT) },
                is_word: has(WORD),
                is_rewritten: has(REWRITTEN),
                is_marked: has(MARKED),
            }),
            None => Err(input.unknown_tag("token kind", tag)),
        }
    }
}
