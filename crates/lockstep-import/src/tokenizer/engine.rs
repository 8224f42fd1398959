//! The library that splits and merges, and guards against what it does without a word.
//!
//! It drops bytes that have no token, and stops splitting where its expressions exhaust their
//! stack. So text is bounded before ([`check_text`]) and compared with its tokens' bytes after
//! ([`check_tokens`]).

use lockstep_exact::vocabulary::Vocabulary;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::splitter::ReadText;
use super::{Definition, DefinitionError, EncodeError, Merge, Splitter, TokenKind, alphabet};
use crate::limits::MAX_RUN_CHARS;

/// The library's tokenizer for ordinary text.
#[derive(Debug)]
pub(super) struct Engine {
    library: tokenizers::Tokenizer,
}

impl Engine {
    /// Builds the engine of a checked definition: the library would panic on some others.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        definition: &Definition,
        splitter: Splitter,
        merges: &[Merge],
    ) -> Result<Self, DefinitionError> {
        let spelled = |id| alphabet::spelled(vocabulary.token(id));
        let ordinary = (0..).zip(&definition.kinds).filter(|(_, kind)| **kind == TokenKind::Text);
        let ids: Vocab = ordinary.map(|(id, _)| (spelled(id), id)).collect();
        let pairs = merges.iter().map(|merge| (spelled(merge.left), spelled(merge.right)));
        let merges: Merges = pairs.collect();
        let refused =
            |error: tokenizers::Error| DefinitionError::Library { reason: error.to_string() };
        let model = BPE::builder()
            .vocab_and_merges(ids, merges)
            .ignore_merges(splitter.looks_up_whole_pieces())
            // The cache would keep what users wrote for as long as the thread lives.
            .cache_capacity(0)
            .build()
            .map_err(refused)?;
        let mut library = tokenizers::Tokenizer::new(model);
        library.with_pre_tokenizer(Some(splitter.steps().map_err(refused)?));
        Ok(Self { library })
    }

    /// The ids of `text`, unchecked.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        let failed = |error: tokenizers::Error| EncodeError::Library { reason: error.to_string() };
        let encoding = self.library.encode_fast(text, false).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// Refuses text in which the library could stop splitting.
pub(super) fn check_text(text: &str) -> Result<(), EncodeError> {
    let (mut class, mut start, mut len) = ("", 0, 0);
    for (at, letter) in text.char_indices() {
        if class_of(letter) != class {
            (class, start, len) = (class_of(letter), at, 0);
        }
        len += 1;
        if len > MAX_RUN_CHARS {
            return Err(EncodeError::LongRun { class, at: start });
        }
    }
    Ok(())
}

fn class_of(letter: char) -> &'static str {
    match letter {
        _ if letter.is_whitespace() => "white-space characters",
        _ if letter.is_numeric() => "numbers",
        _ if letter.is_alphabetic() => "letters",
        _ => "signs",
    }
}

/// Refuses tokens whose bytes are not those of the text, which began at `start`.
pub(super) fn check_tokens<'t>(
    tokens: impl Iterator<Item = &'t [u8]>,
    text: &ReadText<'_>,
    start: usize,
) -> Result<(), EncodeError> {
    let expected = text.as_str().as_bytes();
    let got: Vec<u8> = tokens.flatten().copied().collect();
    if got == expected {
        return Ok(());
    }
    let at = expected.iter().zip(&got).take_while(|(expected, got)| expected == got).count();
    let Some(&byte) = expected.get(at) else {
        let reason = "its tokens hold more than the text".to_owned();
        return Err(EncodeError::Library { reason });
    };
    Err(EncodeError::Lost { byte, at: start + text.written_at(at) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_at_the_limit_is_taken_and_one_character_more_is_refused() {
        for (before, unit, class) in [
            ("a", "\u{a0}", "white-space characters"),
            ("é", "7", "numbers"),
            ("1", "é", "letters"),
            (" ", "-", "signs"),
        ] {
            let taken = [before, &unit.repeat(MAX_RUN_CHARS)].concat();
            assert_eq!(check_text(&taken), Ok(()));
            let error = EncodeError::LongRun { class, at: before.len() };
            assert_eq!(check_text(&[&taken, unit].concat()), Err(error));
            let broken_up = [&taken, before, unit].concat();
            assert_eq!(check_text(&broken_up), Ok(()));
        }
    }

    #[test]
    fn tokens_that_leave_out_or_add_bytes_are_refused() {
        let text = ReadText::Same("abc");
        let check = |tokens: &[&[u8]]| check_tokens(tokens.iter().copied(), &text, 10);
        assert_eq!(check(&[b"a", b"bc"]), Ok(()));
        assert_eq!(check(&[b"a", b"c"]), Err(EncodeError::Lost { byte: b'b', at: 11 }));
        assert_eq!(check(&[b"ab"]), Err(EncodeError::Lost { byte: b'c', at: 12 }));
        assert_eq!(check(&[]), Err(EncodeError::Lost { byte: b'a', at: 10 }));
        assert!(matches!(check(&[b"abc", b"c"]), Err(EncodeError::Library { .. })));
    }
}
