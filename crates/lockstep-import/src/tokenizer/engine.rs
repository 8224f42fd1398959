//! Pieces of text to tokens: the library that merges, and guards against what it does silently.
//!
//! The library drops what has no token. So tokens are compared with the piece that they came from
//! ([`Engine::check`]), unless the model has a token for what it doesn't know.

use lockstep_exact::vocabulary::Vocabulary;
use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::cut::Piece;
use super::definition::Pairs;
use super::{DefinitionError, EncodeError, Spelling, TokenKind};

/// The merging of pairs by the tokenizers library.
#[derive(Debug)]
pub(super) struct Engine {
    library: BPE,
    spelling: Spelling,
    unknown: Option<u32>,
}

impl Engine {
    /// Builds the engine of a checked definition: the library would panic on some others.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        kinds: &[TokenKind],
        spelling: Spelling,
        pairs: &Pairs,
    ) -> Result<Self, DefinitionError> {
        let spelled = |id| spelling.spelled(vocabulary.token(id));
        let mut ids = Vocab::default();
        for (id, kind) in (0..).zip(kinds) {
            match (kind, vocabulary.token(id)) {
                (TokenKind::Text, _) => drop(ids.insert(spelled(id), id)),
                (TokenKind::Byte, [byte]) => drop(ids.insert(format!("<0x{byte:02X}>"), id)),
                _ => {}
            }
        }
        for merge in &pairs.merges {
            ids.extend([merge.left, merge.right, merge.result].map(|id| (spelled(id), id)));
        }
        let rules = pairs.merges.iter().map(|merge| (spelled(merge.left), spelled(merge.right)));
        let rules: Merges = rules.collect();
        let refused =
            |error: tokenizers::Error| DefinitionError::Library { reason: error.to_string() };
        let mut builder = BPE::builder()
            .ignore_merges(pairs.takes_whole)
            .byte_fallback(kinds.contains(&TokenKind::Byte))
            // The cache would keep what users wrote for as long as the thread lives.
            .cache_capacity(0);
        if let Some(unknown) = pairs.unknown {
            // A name that no text can spell: noncharacters stand in no token.
            let name = "\u{fdd0}".to_owned();
            ids.insert(name.clone(), unknown);
            builder = builder.unk_token(name).fuse_unk(pairs.fuses_unknown);
        }
        let library = builder.vocab_and_merges(ids, rules).build().map_err(refused)?;
        Ok(Self { library, spelling, unknown: pairs.unknown })
    }

    /// Appends the ids of the tokens of a piece to `ids`.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        piece: &Piece<'_>,
        ids: &mut Vec<u32>,
    ) -> Result<(), Lost> {
        let failed = |error: tokenizers::Error| Lost::Otherwise { reason: error.to_string() };
        let found = self.library.tokenize(&piece.text).map_err(failed)?;
        let found: Vec<u32> = found.into_iter().map(|token| token.id).collect();
        let is_unknown = |id: &u32| Some(*id) == self.unknown;
        if !found.iter().any(is_unknown) {
            let tokens = found.iter().map(|id| vocabulary.token(*id));
            check(tokens, &self.spelling.unspelled(&piece.text))?;
        }
        ids.extend(found);
        Ok(())
    }
}

/// The reasons why the tokens of a piece do not hold all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    /// A byte, and its place in the piece.
    Byte(u8, usize),
    /// The library failed for another reason.
    Otherwise {
        /// What went wrong.
        reason: String,
    },
}

impl Lost {
    /// Returns the error with its place in the whole text: `at` maps the place of a byte in the
    /// piece to that in the text.
    pub(super) fn at(self, at: impl Fn(usize) -> usize) -> EncodeError {
        match self {
            Self::Byte(byte, place) => EncodeError::Lost { byte, at: at(place) },
            Self::Otherwise { reason } => EncodeError::Library { reason },
        }
    }
}

/// Refuses tokens whose bytes are not those of the piece.
fn check<'t>(tokens: impl Iterator<Item = &'t [u8]>, expected: &[u8]) -> Result<(), Lost> {
    let mut rest = expected;
    for byte in tokens.flatten() {
        match rest.split_first() {
            Some((next, behind)) if next == byte => rest = behind,
            Some((next, _)) => return Err(Lost::Byte(*next, expected.len() - rest.len())),
            None => {
                let reason = "its tokens hold more than the text".to_owned();
                return Err(Lost::Otherwise { reason });
            }
        }
    }
    match rest.first() {
        Some(next) => Err(Lost::Byte(*next, expected.len() - rest.len())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_leave_out_or_add_bytes_are_refused() {
        let check = |tokens: &[&[u8]]| check(tokens.iter().copied(), b"abc");
        assert_eq!(check(&[b"a", b"bc"]), Ok(()));
        assert_eq!(check(&[b"a", b"c"]), Err(Lost::Byte(b'b', 1)));
        assert_eq!(check(&[b"ab"]), Err(Lost::Byte(b'c', 2)));
        assert_eq!(check(&[]), Err(Lost::Byte(b'a', 0)));
        assert!(matches!(check(&[b"abc", b"c"]), Err(Lost::Otherwise { .. })));
    }
}
