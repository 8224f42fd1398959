//! White space that belongs to a special token beside it.

use std::ops::Range;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader};

use super::TokenKind;

const LEFT: u8 = 1 << 3;
const RIGHT: u8 = 1 << 4;

/// On which sides a control or added token swallows white space (`lstrip` and `rstrip` of
/// `tokenizer.json`): it is part of the match, and no other token stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Strip {
    /// What stands before the token.
    pub left: bool,
    /// What stands behind it.
    pub right: bool,
}

impl Strip {
    /// The place of a match at `at`, with the white space that belongs to it, but none before
    /// `rest`, which is another's.
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

/// A token's kind and strips in one byte: the kind's tag, 8 for the left side, 16 for the right.
pub(super) struct Tagged(pub(super) TokenKind, pub(super) Strip);

impl Canonical for Tagged {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self(kind, Strip { left, right }) = self;
        let sides = u8::from(*left) * LEFT + u8::from(*right) * RIGHT;
        out.push(kind.tag() + sides);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tag = u8::decode(input)?;
        let strip = Strip { left: tag & LEFT != 0, right: tag & RIGHT != 0 };
        let kind = TokenKind::from_tag(tag & !(LEFT | RIGHT));
        match kind.filter(|kind| kind.is_special() || strip == Strip::default()) {
            Some(kind) => Ok(Self(kind, strip)),
            None => Err(input.unknown_tag("token kind", tag)),
        }
    }
}
