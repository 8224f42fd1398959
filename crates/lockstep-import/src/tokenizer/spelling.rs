//! The spelling of bytes as characters while tokens merge.

use std::borrow::Cow;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader};

use super::alphabet;

/// The character that files write for a space.
pub(super) const SPACE: char = '\u{2581}';

/// The spelling of bytes as text, for the tokenizers library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// Each byte as one character of the byte alphabet.
    Bytes,
    /// Bytes are spelled as the text that they are.
    Plain,
    /// Bytes are spelled as the text that they are, with another character for a space.
    Marked(char),
}

impl Spelling {
    /// Spells `bytes` as the library sees them.
    pub(super) fn spelled(self, bytes: &[u8]) -> String {
        match self {
            Self::Bytes => alphabet::spelled(bytes),
            Self::Plain => String::from_utf8_lossy(bytes).into_owned(),
            Self::Marked(mark) => {
                String::from_utf8_lossy(bytes).replace(' ', mark.encode_utf8(&mut [0; 4]))
            }
        }
    }

    /// Returns the bytes that a piece stands for.
    pub(super) fn unspelled(self, piece: &str) -> Cow<'_, [u8]> {
        match self {
            Self::Bytes => Cow::Owned(alphabet::bytes_of(piece).unwrap_or_default()),
            Self::Marked(mark) if piece.contains(mark) => {
                Cow::Owned(piece.replace(mark, " ").into_bytes())
            }
            Self::Plain | Self::Marked(_) => Cow::Borrowed(piece.as_bytes()),
        }
    }

    /// Returns the number of bytes before the one at `place` of the bytes that `piece` stands for,
    /// as the piece has them in its text before it was spelled.
    pub(super) fn place_in(self, piece: &str, place: usize) -> usize {
        match self {
            Self::Bytes | Self::Plain => place,
            Self::Marked(mark) => {
                let mut left = place;
                for (at, letter) in piece.char_indices() {
                    let len = if letter == mark { 1 } else { letter.len_utf8() };
                    if left < len {
                        return at + left;
                    }
                    left -= len;
                }
                piece.len()
            }
        }
    }
}

impl Canonical for Spelling {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bytes => out.push(0),
            Self::Plain => out.push(1),
            Self::Marked(mark) => {
                out.push(2);
                u32::from(*mark).encode(out);
            }
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(input)? {
            0 => Self::Bytes,
            1 => Self::Plain,
            2 => {
                let mark = char::from_u32(u32::decode(input)?).filter(|mark| *mark != ' ');
                Self::Marked(mark.ok_or_else(|| input.invalid("mark", "is no other character"))?)
            }
            tag => return Err(input.unknown_tag("spelling", tag)),
        })
    }
}
