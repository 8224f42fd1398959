//! Text, rewritten and cut into the pieces inside which tokens merge.
//!
//! The steps are those of the `tokenizers` library, with which the golden ids of the tests were
//! made; what is not the library's is that each costs a bounded number of steps and of bytes, and
//! that every piece knows where in the text it comes from.

use std::borrow::Cow;

use tokenizers::normalizers::{Nmt, StripAccents};
use tokenizers::pattern::Pattern;
use tokenizers::tokenizer::normalizer::Range;
use tokenizers::{NormalizedString, Normalizer, Offsets};

use super::expression::{Behavior, Budget, Expression, Spent};
use super::steps::{Cut, Prefix, Rewrite, Steps};
use super::{EncodeError, alphabet};
use crate::limits::MAX_REWRITTEN_BYTES;

/// A text as a model reads it, after rewriting.
#[derive(Debug)]
pub(super) enum ReadText<'t> {
    /// The text was not changed by rewriting.
    Same(&'t str),
    /// Rewritten, byte by byte aligned with what was written.
    Rewritten(Box<NormalizedString>),
}

impl<'t> ReadText<'t> {
    /// Returns the text as the model reads it.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Same(text) => text,
            Self::Rewritten(text) => text.get(),
        }
    }

    /// Returns the text, without a copy if it is as written.
    pub(super) fn into_cow(self) -> Cow<'t, str> {
        match self {
            Self::Same(text) => Cow::Borrowed(text),
            Self::Rewritten(text) => Cow::Owned(text.get().to_owned()),
        }
    }

    /// Returns the offset in the written text of the byte at `at` of the rewritten one.
    pub(super) fn written_at(&self, at: usize) -> usize {
        match self {
            Self::Same(_) => at,
            Self::Rewritten(text) => {
                let written = text.convert_offsets(Range::Normalized(at..at + 1));
                written.map_or_else(|| text.len_original(), |bytes| bytes.start)
            }
        }
    }
}

/// A piece inside which tokens merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece<'t> {
    pub(super) text: Cow<'t, str>,
    /// The offset at which the piece begins in the rewritten text.
    pub(super) at: usize,
}

impl Steps {
    /// Applies the rewriting steps to `text`, and returns the result.
    ///
    /// # Errors
    /// It becomes too long, or takes too many steps.
    pub(super) fn read<'t>(
        &self,
        text: &'t str,
        budget: &Budget,
    ) -> Result<ReadText<'t>, EncodeError> {
        let is_normal = |rewrite: &Rewrite| {
            matches!(rewrite, Rewrite::Nfc | Rewrite::Nfd | Rewrite::Nfkc | Rewrite::Nfkd)
        };
        // Plain English is in every normal form already.
        if self.rewrites.is_empty() || text.is_ascii() && self.rewrites.iter().all(is_normal) {
            return Ok(ReadText::Same(text));
        }
        let mut rewritten = NormalizedString::from(text);
        for rewrite in &self.rewrites {
            rewrite.apply(&mut rewritten, budget)?;
            if rewritten.len() > MAX_REWRITTEN_BYTES {
                return Err(EncodeError::Rewritten { got: rewritten.len() });
            }
        }
        Ok(ReadText::Rewritten(Box::new(rewritten)))
    }

    /// Returns the pieces of rewritten text; `is_first` says whether it begins the whole text.
    ///
    /// # Errors
    /// It takes too many steps.
    pub(super) fn pieces<'t>(
        &self,
        text: &'t str,
        is_first: bool,
        budget: &Budget,
    ) -> Result<Vec<Piece<'t>>, Spent> {
        let mut pieces = vec![Piece { text: Cow::Borrowed(text), at: 0 }];
        for cut in &self.cuts {
            let mut cut_pieces = Vec::with_capacity(pieces.len());
            for piece in pieces {
                cut.apply(piece, is_first, budget, &mut cut_pieces)?;
            }
            pieces = cut_pieces;
        }
        Ok(pieces)
    }
}

impl Rewrite {
    fn apply(&self, text: &mut NormalizedString, budget: &Budget) -> Result<(), EncodeError> {
        let failed = |error: tokenizers::Error| EncodeError::Library { reason: error.to_string() };
        match self {
            Self::Nfc => drop(text.nfc()),
            Self::Nfd => drop(text.nfd()),
            Self::Nfkc => drop(text.nfkc()),
            Self::Nfkd => drop(text.nfkd()),
            Self::Lowercase => drop(text.lowercase()),
            Self::StripAccents => StripAccents.normalize(text).map_err(failed)?,
            Self::Nmt => Nmt.normalize(text).map_err(failed)?,
            Self::Strip { left, right } => {
                if *left {
                    text.lstrip();
                }
                if *right {
                    text.rstrip();
                }
            }
            Self::Replace { expression, content } => {
                let parts = expression.matches(text.get(), budget)?;
                let matched = parts.iter().filter(|(_, is_match)| *is_match).count();
                let got = text.len().saturating_add(matched.saturating_mul(content.len()));
                if got > MAX_REWRITTEN_BYTES {
                    return Err(EncodeError::Rewritten { got });
                }
                text.replace(Found(parts), content).map_err(failed)?;
            }
            Self::Prepend(before) if !text.is_empty() => drop(text.prepend(before)),
            Self::Prepend(_) => {}
        }
        Ok(())
    }
}

/// Matches that were found already.
struct Found(Vec<(Offsets, bool)>);

impl Pattern for Found {
    fn find_matches(&self, _: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        Ok(self.0.clone())
    }
}

impl Cut {
    /// Appends what the cut makes of `piece`.
    fn apply<'t>(
        &self,
        piece: Piece<'t>,
        is_first: bool,
        budget: &Budget,
        out: &mut Vec<Piece<'t>>,
    ) -> Result<(), Spent> {
        match self {
            Self::Split { expression, behavior, invert } => {
                let parts = parts(expression, *behavior, *invert, &piece.text, budget)?;
                out.extend(parts.into_iter().map(|range| sliced(&piece, range)));
            }
            Self::Spell => {
                let text = Cow::Owned(alphabet::spelled(piece.text.as_bytes()));
                out.push(Piece { text, at: piece.at });
            }
            Self::SpacePrefix if !piece.text.starts_with(' ') => {
                let text = Cow::Owned(format!(" {}", piece.text));
                out.push(Piece { text, at: piece.at });
            }
            Self::SpacePrefix => out.push(piece),
            Self::Metaspace { mark, prefix, split } => {
                let mut text = piece.text.into_owned();
                if text.contains(' ') {
                    text = text.replace(' ', mark.encode_utf8(&mut [0; 4]));
                }
                let wants_prefix = match prefix {
                    Prefix::Never => false,
                    Prefix::First => is_first && piece.at == 0,
                    Prefix::Always => true,
                };
                if wants_prefix && !text.starts_with(*mark) {
                    text.insert(0, *mark);
                }
                let piece = Piece { text: Cow::Owned(text), at: piece.at };
                if !split {
                    out.push(piece);
                    return Ok(());
                }
                let starts = piece.text.match_indices(*mark).map(|(at, _)| at);
                let mut ends: Vec<usize> = starts.filter(|at| *at > 0).collect();
                ends.push(piece.text.len());
                let mut start = 0;
                for end in ends {
                    out.push(sliced(&piece, (start, end)));
                    start = end;
                }
            }
        }
        Ok(())
    }
}

/// Returns the part of a piece at `range`.
fn sliced<'t>(piece: &Piece<'t>, (start, end): Offsets) -> Piece<'t> {
    match &piece.text {
        Cow::Borrowed(text) => Piece {
            text: Cow::Borrowed(text.get(start..end).unwrap_or_default()),
            at: piece.at + start,
        },
        // Where exactly it comes from is lost once a piece was rewritten.
        Cow::Owned(text) => Piece {
            text: Cow::Owned(text.get(start..end).unwrap_or_default().to_owned()),
            at: piece.at,
        },
    }
}

/// Returns the ranges of the parts of `text` that a split leaves; none is empty.
fn parts(
    expression: &Expression,
    behavior: Behavior,
    invert: bool,
    text: &str,
    budget: &Budget,
) -> Result<Vec<Offsets>, Spent> {
    let mut found = expression.matches(text, budget)?;
    found.iter_mut().for_each(|(_, is_match)| *is_match ^= invert);
    let mut parts = Vec::with_capacity(found.len());
    match behavior {
        Behavior::Isolated => parts.extend(found.iter().map(|(range, _)| *range)),
        Behavior::Removed => {
            parts.extend(found.iter().filter(|(_, is_match)| !is_match).map(|(range, _)| *range));
        }
        Behavior::Contiguous => {
            let mut before = false;
            for (range, is_match) in found {
                match parts.last_mut() {
                    Some((_, end)) if is_match == before => *end = range.1,
                    _ => parts.push(range),
                }
                before = is_match;
            }
        }
        Behavior::MergedWithPrevious => {
            let mut before = false;
            for (range, is_match) in found {
                match parts.last_mut() {
                    Some((_, end)) if is_match && !before => *end = range.1,
                    _ => parts.push(range),
                }
                before = is_match;
            }
        }
        Behavior::MergedWithNext => {
            let mut behind = false;
            for (range, is_match) in found.into_iter().rev() {
                match parts.last_mut() {
                    Some((start, _)) if is_match && !behind => *start = range.0,
                    _ => parts.push(range),
                }
                behind = is_match;
            }
            parts.reverse();
        }
    }
    parts.retain(|(start, end)| start < end);
    Ok(parts)
}
