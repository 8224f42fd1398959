//! Sets of characters, as Unicode's tables have them.

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, HirKind};

/// A set of characters, by ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tokenizer) struct Set {
    /// First and last characters, ascending, without overlap.
    ranges: Vec<(char, char)>,
    /// The first 128 characters of them.
    ascii: u128,
}

impl Set {
    /// Returns the set that `text` writes: one character, an escape or a class in brackets.
    ///
    /// # Errors
    /// The reader's words: it is none of these.
    pub(super) fn read(text: &str, ignore_case: bool) -> Result<Self, String> {
        let mut parser = ParserBuilder::new().case_insensitive(ignore_case).build();
        let hir = parser.parse(text).map_err(|error| error.to_string())?;
        match hir.kind() {
            HirKind::Class(Class::Unicode(class)) => {
                Ok(Self::of(class.iter().map(|range| (range.start(), range.end())).collect()))
            }
            HirKind::Literal(literal) => {
                let text = std::str::from_utf8(&literal.0).unwrap_or_default();
                let mut letters = text.chars();
                match (letters.next(), letters.next()) {
                    (Some(letter), None) => Ok(Self::of(vec![(letter, letter)])),
                    _ => Err("more than one character where one was expected".to_owned()),
                }
            }
            _ => Err("no set of characters".to_owned()),
        }
    }

    fn of(ranges: Vec<(char, char)>) -> Self {
        let is_in = |code: u8| {
            let letter = char::from(code);
            ranges.iter().any(|(first, last)| (*first..=*last).contains(&letter))
        };
        let ascii = (0..128_u8).fold(0, |bits, code| bits | u128::from(is_in(code)) << code);
        Self { ranges, ascii }
    }

    /// Returns whether `letter` is in it.
    pub(in crate::tokenizer) fn contains(&self, letter: char) -> bool {
        let code = u32::from(letter);
        if code < 128 {
            return self.ascii >> code & 1 == 1;
        }
        let at = self.ranges.partition_point(|(_, last)| *last < letter);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= letter)
    }
}
