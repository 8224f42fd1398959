//! Control and added tokens, and where their texts stand in a text.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, Match, MatchKind};
use lockstep_exact::vocabulary::Vocabulary;

use super::expression::{Budget, is_word};
use super::{Definition, DefinitionError, Model, TokenKind};

/// Tokens whose text is cut out of the input before splitting, longest first at each place.
#[derive(Debug)]
pub(super) struct Specials {
    /// Each id, and whether no word may go on beside it.
    ids: Vec<(u32, bool)>,
    matcher: Option<AhoCorasick>,
}

impl Specials {
    /// Collects the special tokens of some kinds: those that are looked for in text as it was
    /// written, or, if `rewritten`, in the rewritten text.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        definition: &Definition,
        kinds: &[TokenKind],
        rewritten: bool,
    ) -> Result<Self, DefinitionError> {
        let chosen = (0..).zip(&definition.kinds).filter(|(id, kind)| {
            kinds.contains(kind) && definition.rewritten.contains(id) == rewritten
        });
        let ids: Vec<(u32, bool)> =
            chosen.map(|(id, _)| (id, definition.words.contains(&id))).collect();
        if ids.is_empty() {
            return Ok(Self { ids, matcher: None });
        }
        let texts = ids.iter().map(|(id, _)| {
            let text = definition.searched(*id, vocabulary.token(*id));
            if rewritten { Self::rewritten(definition, *id, &text) } else { Ok(text.into_owned()) }
        });
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        let matcher = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts)
            .map_err(|_| DefinitionError::TooManySpecials { got: ids.len() })?;
        Ok(Self { ids, matcher: Some(matcher) })
    }

    /// Returns the text of a token as the model's steps rewrite it.
    fn rewritten(
        definition: &Definition,
        id: u32,
        text: &[u8],
    ) -> Result<Vec<u8>, DefinitionError> {
        let text = std::str::from_utf8(text).map_err(|_| DefinitionError::SpecialNotText { id })?;
        let steps = match &definition.model {
            Model::Pairs(pairs) => &pairs.steps,
            Model::Unigram(unigram) => &unigram.steps,
            Model::Pieces { .. } => return Err(DefinitionError::Flag { id }),
        };
        let read = steps.read(text, &Budget::of_text(text.len()));
        let read = read.map_err(|error| DefinitionError::Library { reason: error.to_string() })?;
        match read.as_str().as_bytes() {
            [] => Err(DefinitionError::EmptyToken { id }),
            bytes => Ok(bytes.to_vec()),
        }
    }

    /// Returns start, end and id of the earliest special token's text at `at`, but for those that
    /// must stand alone and beside which a word goes on.
    pub(super) fn first(&self, text: &str, at: Range<usize>) -> Option<(usize, usize, u32)> {
        let mut from = at.start;
        loop {
            let found = self.matcher.as_ref()?.find(Input::new(text).range(from..at.end))?;
            if let Some(special) = self.special(text, &found) {
                return Some(special);
            }
            from = found.end();
        }
    }

    /// Returns start, end and id of every special token's text, as [`first`](Self::first) finds
    /// them.
    pub(super) fn find<'t>(
        &'t self,
        text: &'t str,
    ) -> impl Iterator<Item = (usize, usize, u32)> + use<'t> {
        let matches = self.matcher.as_ref().map(|matcher| matcher.find_iter(text));
        matches.into_iter().flatten().filter_map(|found| self.special(text, &found))
    }

    fn special(&self, text: &str, found: &Match) -> Option<(usize, usize, u32)> {
        let (id, is_word) = *self.ids.get(found.pattern().as_usize())?;
        let counts = !is_word || stands_alone(text, &(found.start()..found.end()));
        counts.then_some((found.start(), found.end(), id))
    }
}

/// Returns all parts of `text` in order: the special tokens `found` with the white space that
/// belongs to them, and what lies between. Empty parts are left out.
pub(super) fn parts(
    text: &str,
    found: impl IntoIterator<Item = (usize, usize, u32)>,
    definition: &Definition,
) -> impl Iterator<Item = (Range<usize>, Option<u32>)> {
    let mut rest = 0;
    let specials = found.into_iter().map(|(start, end, id)| (start..end, Some(id)));
    let end = [(text.len()..text.len(), None)];
    specials.chain(end).flat_map(move |(at, id)| {
        let strip = id.and_then(|id| definition.strips.get(&id)).copied().unwrap_or_default();
        let at = if id.is_some() { strip.widened(text, rest, at) } else { at };
        let before = rest..at.start.max(rest);
        rest = at.end;
        let special = id.map(|id| (at, Some(id)));
        [(!before.is_empty()).then_some((before, None)), special].into_iter().flatten()
    })
}

/// Returns whether no word goes on before or behind what stands at `at`.
fn stands_alone(text: &str, at: &Range<usize>) -> bool {
    let before = text.get(..at.start).and_then(|before| before.chars().next_back());
    let behind = text.get(at.end..).and_then(|behind| behind.chars().next());
    !before.is_some_and(is_word) && !behind.is_some_and(is_word)
}
