//! SentencePiece Unigram: of all ways to spell a piece in tokens, the one whose scores add up best.
//!
//! Scores are added from the piece's start, in binary64; a way replaces another only if it is
//! better. A character that no token begins is unknown, at a score 10 below the worst token's;
//! unknown characters in a row are one token, or the bytes of each if the model has tokens for
//! them.

use std::collections::HashMap;

use lockstep_exact::vocabulary::Vocabulary;

use super::{Spelling, TokenKind};
use crate::limits::MAX_UNIGRAM_WORK;

/// The number by which an unknown character's score is below that of the worst token.
const UNKNOWN_PENALTY: f64 = 10.0;

/// Finds the best spelling in the tokens of one vocabulary.
#[derive(Debug)]
pub(super) struct Unigram {
    /// Tokens by their spelling, ascending, with their ids and scores.
    tokens: Vec<(Box<[u8]>, u32, f64)>,
    longest: usize,
    unknown_score: f64,
    unknown: Option<u32>,
    bytes: HashMap<u8, u32>,
}

/// The best way to spell the text up to some place.
#[derive(Debug, Clone, Copy)]
struct Way {
    score: f64,
    start: usize,
    /// None if the last character is unknown.
    token: Option<u32>,
}

/// The reasons why a piece has no spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSpelling {
    /// A byte without a token, and its place in the piece.
    Lost(u8, usize),
    /// Finding the best spelling would take too many steps.
    TooLong,
}

impl Unigram {
    pub(super) fn new(
        vocabulary: &Vocabulary,
        kinds: &[TokenKind],
        spelling: Spelling,
        scores: &[u64],
        unknown: Option<u32>,
    ) -> Self {
        let (mut tokens, mut bytes) = (Vec::new(), HashMap::new());
        let scores = scores.iter().map(|bits| f64::from_bits(*bits));
        let mut worst = f64::INFINITY;
        for (id, (kind, score)) in (0..).zip(kinds.iter().zip(scores)) {
            match (kind, vocabulary.token(id)) {
                (TokenKind::Text, text) => {
                    worst = worst.min(score);
                    tokens.push((spelling.spelled(text).into_bytes().into(), id, score));
                }
                (TokenKind::Byte, [byte]) => drop(bytes.insert(*byte, id)),
                _ => {}
            }
        }
        tokens.sort_by(|a: &(Box<[u8]>, u32, f64), b| a.0.cmp(&b.0));
        let longest = tokens.iter().map(|(text, ..)| text.len()).max().unwrap_or(0);
        let worst = if tokens.is_empty() { 0.0 } else { worst };
        Self { tokens, longest, unknown_score: worst - UNKNOWN_PENALTY, unknown, bytes }
    }

    /// Appends the ids of the best spelling of `piece` to `ids`.
    pub(super) fn encode(&self, piece: &str, ids: &mut Vec<u32>) -> Result<(), NoSpelling> {
        if piece.len().saturating_mul(self.longest) > MAX_UNIGRAM_WORK {
            return Err(NoSpelling::TooLong);
        }
        let ways = self.ways(piece);
        let mut parts = Vec::new();
        let mut end = piece.len();
        while let Some(Some(way)) = ways.get(end).filter(|_| end > 0) {
            parts.push((way.start, end, way.token));
            end = way.start;
        }
        let mut is_behind_unknown = false;
        for (start, end, token) in parts.into_iter().rev() {
            match token {
                Some(id) => ids.push(id),
                None => {
                    let bytes = piece.as_bytes().get(start..end).unwrap_or_default();
                    self.spell(bytes, start, is_behind_unknown, ids)?;
                }
            }
            is_behind_unknown = token.is_none();
        }
        Ok(())
    }

    /// Appends the bytes of an unknown character, or the unknown token where none was before.
    fn spell(
        &self,
        bytes: &[u8],
        at: usize,
        is_behind_unknown: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), NoSpelling> {
        let tokens: Option<Vec<u32>> =
            bytes.iter().map(|byte| self.bytes.get(byte).copied()).collect();
        match (tokens, self.unknown) {
            (Some(tokens), _) => ids.extend(tokens),
            (None, Some(_)) if is_behind_unknown => {}
            (None, Some(unknown)) => ids.push(unknown),
            (None, None) => {
                let byte = bytes.first().copied().unwrap_or_default();
                return Err(NoSpelling::Lost(byte, at));
            }
        }
        Ok(())
    }

    /// Returns for each place the best way to get there.
    fn ways(&self, piece: &str) -> Vec<Option<Way>> {
        let mut ways: Vec<Option<Way>> = vec![None; piece.len() + 1];
        let offer = |ways: &mut Vec<Option<Way>>, end: usize, way: Way| {
            if let Some(place) = ways.get_mut(end)
                && place.is_none_or(|best| way.score > best.score)
            {
                *place = Some(way);
            }
        };
        for (start, letter) in piece.char_indices() {
            let so_far = match ways.get(start) {
                Some(Some(way)) => way.score,
                _ => 0.0,
            };
            let behind = piece.as_bytes().get(start..).unwrap_or_default();
            let mut has_letter = false;
            self.prefixes(behind, |len, id, score| {
                has_letter |= len == letter.len_utf8();
                let way = Way { score: so_far + score, start, token: Some(id) };
                offer(&mut ways, start + len, way);
            });
            if !has_letter {
                let way = Way { score: so_far + self.unknown_score, start, token: None };
                offer(&mut ways, start + letter.len_utf8(), way);
            }
        }
        ways
    }

    /// Calls `found` with length, id and score of every token that `text` begins with, the shortest
    /// at the beginning.
    fn prefixes(&self, text: &[u8], mut found: impl FnMut(usize, u32, f64)) {
        let mut range = self.tokens.as_slice();
        for (at, byte) in text.iter().enumerate().take(self.longest) {
            let key = |token: &(Box<[u8]>, u32, f64)| token.0.get(at).copied();
            let first = range.partition_point(|token| key(token) < Some(*byte));
            let behind = range.partition_point(|token| key(token) <= Some(*byte));
            range = range.get(first..behind).unwrap_or_default();
            match range.first() {
                None => return,
                Some((token, id, score)) if token.len() == at + 1 => found(at + 1, *id, *score),
                Some(_) => {}
            }
        }
    }
}
