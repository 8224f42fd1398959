//! Regular expressions of tokenizers, matched in a bounded number of steps.
//!
//! An expression comes out of a model's file and the text out of a stranger's message, and a
//! backtracking matcher can take exponential time on the two together. Common libraries then stop
//! without a word and the rest of the text becomes one piece: other tokens than the model's. So
//! every character looked at and every way tried again is paid for out of a [`Budget`], and a
//! text that costs more is an error. The matcher's rules are part of what a package means, so they
//! are here and not in a library that may change them.
//!
//! The syntax is that of Oniguruma as far as tokenizers use it: `^` and `$` stand at the ends of
//! lines, classes are Unicode's. Back-references, conditions and flags other than `i` are refused.

mod parse;
mod program;
mod set;

use std::cell::Cell;

use tokenizers::Offsets;

pub use parse::ExpressionError;
use program::Program;
pub(super) use program::is_word;
use set::Set;

use crate::limits::{SPLIT_STEPS, SPLIT_STEPS_PER_BYTE};

/// A regular expression, ready to be searched for.
#[derive(Debug, Clone)]
pub(crate) struct Expression {
    text: String,
    program: Program,
}

/// Expressions are equal if they are spelled alike.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl Expression {
    /// Parses the regular expression `text`. Line breaks and tabs in it become escapes, so that
    /// files that write them either way give one expression.
    ///
    /// # Errors
    /// The text is no expression, or has a feature that is not supported.
    pub(crate) fn new(text: &str) -> Result<Self, ExpressionError> {
        let text = text.replace('\r', r"\r").replace('\n', r"\n").replace('\t', r"\t");
        let program = Program::of(&parse::parse(&text)?)?;
        Ok(Self { text, program })
    }

    /// Returns the expression that matches exactly `text`.
    ///
    /// # Errors
    /// The text is too long.
    pub(crate) fn literal(text: &str) -> Result<Self, ExpressionError> {
        let mut escaped = String::new();
        for letter in text.chars() {
            if letter.is_ascii_punctuation() {
                escaped.push('\\');
            }
            escaped.push(letter);
        }
        Self::new(&escaped)
    }

    /// Returns the text of the expression.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Returns all matches in `text`, and what lies between them, in order and without gaps.
    ///
    /// # Errors
    /// The budget is spent.
    pub(super) fn matches(
        &self,
        text: &str,
        budget: &Budget,
    ) -> Result<Vec<(Offsets, bool)>, Spent> {
        if text.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut parts = Vec::new();
        let (mut from, mut rest, mut last_end) = (0, 0, None);
        while let Some((start, end)) = self.program.find(text, from, budget)? {
            from = if start == end { after(text, end) } else { end };
            // An empty match behind another match is none.
            if start == end && last_end == Some(end) {
                if from > text.len() {
                    break;
                }
                continue;
            }
            if rest < start {
                parts.push(((rest, start), false));
            }
            parts.push(((start, end), true));
            (rest, last_end) = (end, Some(end));
            if from > text.len() {
                break;
            }
        }
        if rest < text.len() {
            parts.push(((rest, text.len()), false));
        }
        Ok(parts)
    }
}

/// Returns the offset at which the character at `at` ends, also past the end of the text.
fn after(text: &str, at: usize) -> usize {
    at + text.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
}

/// Steps that expressions may take in one text, all together.
#[derive(Debug)]
pub(super) struct Budget {
    left: Cell<u64>,
}

/// The error that the budget of steps is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("splitting the text takes too many steps")]
pub(super) struct Spent;

impl Budget {
    /// Creates the budget for a text of `len` bytes.
    pub(super) fn of_text(len: usize) -> Self {
        let steps = SPLIT_STEPS + SPLIT_STEPS_PER_BYTE * len as u64;
        Self { left: Cell::new(steps) }
    }

    /// Takes `steps` from the budget, or fails if fewer are left.
    fn pay(&self, steps: u64) -> Result<(), Spent> {
        self.left.set(self.left.get().checked_sub(steps).ok_or(Spent)?);
        Ok(())
    }
}

/// The treatment of the text that an expression matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// The text is dropped from the pieces.
    Removed,
    /// The text is a piece of its own.
    Isolated,
    /// The text is part of the piece before it.
    MergedWithPrevious,
    /// The text is part of the piece after it.
    MergedWithNext,
    /// Matches beside each other are one piece.
    Contiguous,
}

impl Behavior {
    /// Every behaviour, in order of their tags.
    pub(super) const ALL: [Self; 5] = [
        Self::Removed,
        Self::Isolated,
        Self::MergedWithPrevious,
        Self::MergedWithNext,
        Self::Contiguous,
    ];

    /// Returns the behaviour that `tokenizer.json` calls `name`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|behavior| format!("{behavior:?}") == name)
    }
}
