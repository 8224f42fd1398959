//! SentencePiece BPE: neighbouring pieces merge, the best result first, until no merge is left.
//!
//! Text begins as one piece a character. Of all neighbours whose joined text is an ordinary token
//! with a rank, those with the lowest rank merge first, the leftmost of equals. A piece that is no
//! token in the end is spelled byte by byte. A space is what files write as U+2581, and that
//! character in a text is read as a space, as the models learned it.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use lockstep_exact::vocabulary::Vocabulary;

use super::definition::NO_RANK;
use super::spelling::SPACE;
use super::{EncodeError, TokenKind};
use crate::limits::MAX_PIECE_WORK;
use crate::template::Prompt;

/// The index that stands for no piece: the end of a chain.
const NONE: u32 = u32::MAX;

/// Merges pieces of one vocabulary.
#[derive(Debug)]
pub(super) struct Pieces {
    space_prefix: bool,
    /// Id and rank of every ordinary token.
    tokens: HashMap<Box<[u8]>, (u32, u32)>,
    /// The token that stands for each byte.
    bytes: HashMap<u8, u32>,
}

/// A part of the text, in a chain with its neighbours; empty once merged into the one before.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: u32,
    len: u32,
    before: u32,
    behind: u32,
}

/// Two neighbours that may merge. Candidates are ordered as they merge.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    len: u32,
}

impl Pieces {
    pub(super) fn new(
        vocabulary: &Vocabulary,
        kinds: &[TokenKind],
        space_prefix: bool,
        ranks: &[u32],
    ) -> Self {
        let (mut tokens, mut bytes) = (HashMap::new(), HashMap::new());
        for (id, (kind, rank)) in (0..).zip(kinds.iter().zip(ranks)) {
            match (kind, vocabulary.token(id)) {
                (TokenKind::Text, text) => {
                    tokens.insert(text.into(), (id, *rank));
                }
                (TokenKind::Byte, [byte]) => {
                    bytes.insert(*byte, id);
                }
                _ => {}
            }
        }
        Self { space_prefix, tokens, bytes }
    }

    /// Returns `text` as the model reads it, if there is no special token in it.
    pub(super) fn read<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match unescaped(text) {
            text if self.space_prefix && !text.is_empty() => Cow::Owned(format!(" {text}")),
            text => text,
        }
    }

    /// Returns the ids of `part`, which begins at `start` of the whole text.
    pub(super) fn encode(&self, part: &str, start: usize) -> Result<Vec<u32>, EncodeError> {
        let read = self.read(part);
        let pieces = self.merged(&read);
        let mut ids = Vec::new();
        let mut at = 0;
        while let Some(piece) = get(&pieces, at) {
            let bytes = bytes_of(&read, piece.start, piece.len);
            match self.tokens.get(bytes) {
                Some((id, _)) => ids.push(*id),
                None => self.spell(bytes, &mut ids).map_err(|(byte, within)| {
                    let read_at = start + piece.start as usize + within;
                    let at = read_at.saturating_sub(usize::from(self.space_prefix)).max(start);
                    EncodeError::Lost { byte, at }
                })?,
            }
            at = piece.behind;
        }
        Ok(ids)
    }

    /// Appends a token for each byte, or says which byte has none, and where.
    fn spell(&self, bytes: &[u8], ids: &mut Vec<u32>) -> Result<(), (u8, usize)> {
        for (at, byte) in bytes.iter().enumerate() {
            ids.push(*self.bytes.get(byte).ok_or((*byte, at))?);
        }
        Ok(())
    }

    /// Returns the pieces of `text` when no merge is left; the first one is at 0.
    fn merged(&self, text: &str) -> Vec<Piece> {
        let mut pieces = chain(text);
        let mut candidates = BinaryHeap::new();
        for right in 1..pieces.len() as u32 {
            self.propose(text, &pieces, right - 1, right, &mut candidates);
        }
        while let Some(Reverse(Candidate { left, right, len, .. })) = candidates.pop() {
            let (Some(first), Some(second)) = (get(&pieces, left), get(&pieces, right)) else {
                continue;
            };
            // Either may have merged with another since.
            if first.len == 0 || second.len == 0 || first.len + second.len != len {
                continue;
            }
            let whole = Piece { len, behind: second.behind, ..first };
            set(&mut pieces, left, whole);
            set(&mut pieces, right, Piece { len: 0, ..second });
            if let Some(next) = get(&pieces, whole.behind) {
                set(&mut pieces, whole.behind, Piece { before: left, ..next });
            }
            self.propose(text, &pieces, whole.before, left, &mut candidates);
            self.propose(text, &pieces, left, whole.behind, &mut candidates);
        }
        pieces
    }

    fn propose(
        &self,
        text: &str,
        pieces: &[Piece],
        left: u32,
        right: u32,
        candidates: &mut BinaryHeap<Reverse<Candidate>>,
    ) {
        let (Some(first), Some(second)) = (get(pieces, left), get(pieces, right)) else { return };
        let len = first.len + second.len;
        match self.tokens.get(bytes_of(text, first.start, len)) {
            Some((_, rank)) if *rank != NO_RANK => {
                candidates.push(Reverse(Candidate { rank: *rank, left, right, len }));
            }
            _ => {}
        }
    }
}

/// Returns `text` with spaces in place of the character that files write for them.
pub(super) fn unescaped(text: &str) -> Cow<'_, str> {
    if text.contains(SPACE) { Cow::Owned(text.replace(SPACE, " ")) } else { Cow::Borrowed(text) }
}

/// Returns a prompt with spaces for the character that files write for them.
pub(super) fn unescaped_prompt(prompt: &Prompt) -> Prompt {
    let text = prompt.text();
    // What each such character makes the text shorter by.
    let shorter = SPACE.len_utf8() - 1;
    let marks: Vec<usize> = text.match_indices(SPACE).map(|(at, _)| at).collect();
    let moved = |at: usize| at - shorter * marks.partition_point(|mark| *mark < at);
    let user = prompt.user_spans().iter().map(|span| moved(span.start)..moved(span.end));
    Prompt::of(unescaped(text).into_owned(), user.collect())
}

/// Returns the offset in `written` of the byte at `at` of the [`unescaped`] text.
pub(super) fn written_at(written: &str, at: usize) -> usize {
    let mut left = at;
    for (written_at, letter) in written.char_indices() {
        let len = if letter == SPACE { 1 } else { letter.len_utf8() };
        if left < len {
            return written_at + left;
        }
        left -= len;
    }
    written.len()
}

/// Splits `text` into a chain with one piece for each character.
fn chain(text: &str) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = (0_u32..)
        .zip(text.char_indices())
        .map(|(at, (start, letter))| Piece {
            start: start as u32,
            len: letter.len_utf8() as u32,
            before: at.checked_sub(1).unwrap_or(NONE),
            behind: at + 1,
        })
        .collect();
    if let Some(last) = pieces.last_mut() {
        last.behind = NONE;
    }
    pieces
}

fn get(pieces: &[Piece], at: u32) -> Option<Piece> {
    pieces.get(at as usize).copied()
}

fn set(pieces: &mut [Piece], at: u32, piece: Piece) {
    if let Some(place) = pieces.get_mut(at as usize) {
        *place = piece;
    }
}

fn bytes_of(text: &str, start: u32, len: u32) -> &[u8] {
    let rest = text.as_bytes().get(start as usize..).unwrap_or(&[]);
    rest.get(..len as usize).unwrap_or(&[])
}

/// Returns whether a list of merges says what scores say: every two neighbours whose joined text
/// can be made may merge, and all ways to make one token have their places together. Only then
/// merging by tokens gives what merging by pairs gives. `is_ordinary` tells the tokens that text
/// can become.
pub(crate) fn follows_scores(merges: &[(&str, &str)], is_ordinary: impl Fn(&str) -> bool) -> bool {
    let joined = |(left, right): &(&str, &str)| [*left, *right].concat();
    let mut made = HashSet::new();
    let mut last = String::new();
    let mut work = 0_usize;
    for merge in merges {
        let result = joined(merge);
        if result != last {
            work = work.saturating_add(result.len().saturating_mul(result.len()));
            if !made.insert(result.clone()) || work > MAX_PIECE_WORK {
                return false;
            }
            last = result;
        }
    }
    let rules: HashSet<&(&str, &str)> = merges.iter().collect();
    let is_part =
        |text: &str| made.contains(text) || text.chars().nth(1).is_none() && is_ordinary(text);
    made.iter().all(|whole| {
        let mut splits =
            whole.char_indices().skip(1).filter_map(|(at, _)| whole.split_at_checked(at));
        is_ordinary(whole)
            && splits.all(|(left, right)| {
                rules.contains(&(left, right)) || !is_part(left) || !is_part(right)
            })
    })
}

/// Returns the ranks of the tokens that merges can make, dense and from 0, the highest score first
/// and equal scores alike; [`NO_RANK`] for all others.
///
/// A merge can make a token if it is two characters, or parts that merges make, joined. So files
/// that say the same with other numbers, or as a list of merges, get the same ranks.
pub(super) fn ranks(vocabulary: &Vocabulary, kinds: &[TokenKind], scores: &[f32]) -> Vec<u32> {
    let text = |id: u32| std::str::from_utf8(vocabulary.token(id)).unwrap_or("");
    let ids = (0..).zip(kinds).filter(|(_, kind)| **kind == TokenKind::Text).map(|(id, _)| id);
    let mut by_length: Vec<(usize, u32)> = ids.map(|id| (text(id).chars().count(), id)).collect();
    by_length.retain(|(chars, _)| *chars > 1);
    by_length.sort_unstable();
    let mut made = HashMap::new();
    for (_, id) in by_length {
        let whole = text(id);
        let is_made = |part: &str| made.contains_key(part) || part.chars().nth(1).is_none();
        let splits = whole.char_indices().skip(1).filter_map(|(at, _)| whole.split_at_checked(at));
        if splits.into_iter().any(|(left, right)| is_made(left) && is_made(right)) {
            made.insert(whole, id);
        }
    }
    let score = |id: u32| scores.get(id as usize).copied().unwrap_or_default();
    let mut best_first: Vec<u32> = made.into_values().collect();
    best_first.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
    let mut ranks = vec![NO_RANK; kinds.len()];
    let (mut rank, mut last) = (0, None);
    for id in best_first {
        if last.is_some_and(|last| last != score(id)) {
            rank += 1;
        }
        last = Some(score(id));
        if let Some(place) = ranks.get_mut(id as usize) {
            *place = rank;
        }
    }
    ranks
}
