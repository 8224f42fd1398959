//! Text to token ids and back: byte-level pair merging as GPT-2, Llama 3, SmolLM and Qwen 2 use it.
//!
//! A [`Tokenizer`] is built from a package's two blobs - the bytes of every token
//! ([`Vocabulary`]) and the [`Definition`] - and never from the file a model was imported from.
//! Merging works on bytes, splitting is linear in the text, and nothing is dropped: a byte for
//! which the model has no token is an [`EncodeError`], not a silently shorter prompt.

mod alphabet;
mod definition;
mod from_gguf;
mod merge;
mod split;
mod stream;

use std::borrow::Cow;
use std::collections::HashMap;

use aho_corasick::{AhoCorasick, MatchKind};
use lockstep_exact::bytes::{Canonical, DecodeError};
use lockstep_exact::vocabulary::Vocabulary;

pub use definition::{Definition, DefinitionError, Merge, TokenKind};
pub use from_gguf::{FromGguf, TokenizerError, read};
use merge::Merges;
pub use split::Splitter;
pub use stream::Utf8Stream;

use crate::limits::MAX_TEXT_BYTES;

/// Whether texts of control tokens are read as those tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlText {
    /// `<|im_end|>` in the text becomes the control token: for rendered chat templates.
    Parse,
    /// `<|im_end|>` in the text is ordinary text: for what users write.
    Plain,
}

/// Turns text into the token ids of one model, and ids into bytes.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    definition: Definition,
    merges: Merges,
    /// The token of each single byte.
    bytes: [Option<u32>; 256],
    /// Ids of ordinary tokens by their bytes, for models that look whole pieces up first.
    whole: HashMap<Vec<u8>, u32>,
    /// Tokens cut out of the text before it is split: added ones only, and with control tokens.
    added: Specials,
    all: Specials,
}

impl Tokenizer {
    /// Builds the tokenizer of a package from its two blobs.
    ///
    /// # Errors
    /// A blob does not decode, or the two do not belong together.
    pub fn from_blobs(vocabulary: &[u8], definition: &[u8]) -> Result<Self, BlobError> {
        let vocabulary = Vocabulary::from_bytes(vocabulary)?;
        let definition = Definition::from_bytes(definition)?;
        Ok(Self::new(vocabulary, definition)?)
    }

    /// Builds a tokenizer.
    ///
    /// # Errors
    /// Definition and vocabulary do not belong together.
    pub fn new(vocabulary: Vocabulary, definition: Definition) -> Result<Self, DefinitionError> {
        definition.check(&vocabulary)?;
        let mut bytes = [None; 256];
        let mut whole = HashMap::new();
        for (id, kind) in (0..).zip(&definition.kinds) {
            let token = vocabulary.token(id);
            if *kind != TokenKind::Text {
                continue;
            }
            if let [byte] = token
                && let Some(slot) = bytes.get_mut(usize::from(*byte))
            {
                *slot = Some(id);
            }
            if definition.splitter.looks_up_whole_pieces() {
                whole.insert(token.to_vec(), id);
            }
        }
        let of = |kinds: &[TokenKind]| Specials::new(&vocabulary, &definition, kinds);
        let added = of(&[TokenKind::Added])?;
        let all = of(&[TokenKind::Added, TokenKind::Control])?;
        let merges = Merges::new(&definition.merges);
        Ok(Self { vocabulary, definition, merges, bytes, whole, added, all })
    }

    /// The ids of `text`, without a beginning-of-sequence token.
    ///
    /// # Errors
    /// The text is too long, or holds a byte for which the model has no token.
    pub fn encode(&self, text: &str, control: ControlText) -> Result<Vec<u32>, EncodeError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(EncodeError::TooLong { got: text.len() });
        }
        let specials = match control {
            ControlText::Parse => &self.all,
            ControlText::Plain => &self.added,
        };
        let mut ids = Vec::new();
        let mut rest = 0;
        for (start, end, id) in specials.find(text) {
            self.encode_plain(text.get(rest..start).unwrap_or(""), &mut ids)?;
            ids.push(id);
            rest = end;
        }
        self.encode_plain(text.get(rest..).unwrap_or(""), &mut ids)?;
        Ok(ids)
    }

    /// The ids of a whole prompt: as [`encode`](Self::encode), behind the beginning-of-sequence
    /// token if the model wants one and the text does not bring it.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str, control: ControlText) -> Result<Vec<u32>, EncodeError> {
        let mut ids = self.encode(text, control)?;
        if let Some(bos) = self.definition.bos.filter(|_| self.definition.add_bos)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// `text` as this model reads it: what the ids of [`encode`](Self::encode) decode to, for text
    /// without control or added tokens.
    pub fn normalise<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.definition.splitter.normalise(text)
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        for piece in self.definition.splitter.split(&self.normalise(text)) {
            self.encode_piece(piece, ids)?;
        }
        Ok(())
    }

    fn encode_piece(&self, piece: &str, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        if let Some(id) = self.whole.get(piece.as_bytes()) {
            ids.push(*id);
            return Ok(());
        }
        let symbols = piece.bytes().map(|byte| {
            let id = self.bytes.get(usize::from(byte)).copied().flatten();
            id.ok_or(EncodeError::NoToken { byte })
        });
        self.merges.apply(symbols.collect::<Result<_, _>>()?, ids);
        Ok(())
    }

    /// The bytes a token stands for; empty for an unknown id.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.token(id)
    }

    /// What kind of token `id` is, if there is such a token.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.definition.kinds.get(usize::try_from(id).ok()?).copied()
    }

    /// The text of `ids`, with bytes that are not UTF-8 shown as U+FFFD.
    ///
    /// Control tokens show their own text under [`ControlText::Parse`] and nothing otherwise.
    pub fn decode(&self, ids: &[u32], control: ControlText) -> String {
        let bytes = self.decode_bytes(ids, control);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of `ids`; control tokens as in [`decode`](Self::decode).
    pub fn decode_bytes(&self, ids: &[u32], control: ControlText) -> Vec<u8> {
        let shown = |id: &&u32| {
            control == ControlText::Parse || self.kind(**id) != Some(TokenKind::Control)
        };
        ids.iter().filter(shown).flat_map(|id| self.token_bytes(*id)).copied().collect()
    }

    /// Number of token ids.
    pub fn len(&self) -> usize {
        self.vocabulary.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.vocabulary.is_empty()
    }

    /// The chat template's source, if the model has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.definition.chat_template.as_deref()
    }

    /// Text of the beginning-of-sequence token; empty if there is none.
    pub fn bos_text(&self) -> Cow<'_, str> {
        self.text_of(self.definition.bos)
    }

    /// Text of the end-of-sequence token; empty if there is none.
    pub fn eos_text(&self) -> Cow<'_, str> {
        self.text_of(self.definition.eos)
    }

    fn text_of(&self, id: Option<u32>) -> Cow<'_, str> {
        id.map_or(Cow::Borrowed(""), |id| String::from_utf8_lossy(self.token_bytes(id)))
    }
}

/// Tokens whose text is cut out of the input before splitting, longest first at each place.
#[derive(Debug)]
struct Specials {
    ids: Vec<u32>,
    matcher: Option<AhoCorasick>,
}

impl Specials {
    fn new(
        vocabulary: &Vocabulary,
        definition: &Definition,
        kinds: &[TokenKind],
    ) -> Result<Self, DefinitionError> {
        let chosen = (0..).zip(&definition.kinds).filter(|(_, kind)| kinds.contains(kind));
        let ids: Vec<u32> = chosen.map(|(id, _)| id).collect();
        if ids.is_empty() {
            return Ok(Self { ids, matcher: None });
        }
        let matcher = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(ids.iter().map(|id| vocabulary.token(*id)))
            .map_err(|_| DefinitionError::TooManySpecials { got: ids.len() })?;
        Ok(Self { ids, matcher: Some(matcher) })
    }

    /// Start, end and id of every special token's text.
    fn find<'t>(&self, text: &'t str) -> impl Iterator<Item = (usize, usize, u32)> + use<'_, 't> {
        let matches = self.matcher.as_ref().map(|matcher| matcher.find_iter(text));
        matches.into_iter().flatten().filter_map(|found| {
            let id = self.ids.get(found.pattern().as_usize())?;
            Some((found.start(), found.end(), *id))
        })
    }
}

/// Why a text cannot be turned into tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A byte that no token of the model stands for.
    #[error("the model has no token for byte {byte:#04x}; remove that character from the text")]
    NoToken {
        /// The byte.
        byte: u8,
    },
    /// More text than is taken at once.
    #[error("the text has {got} bytes; at most {MAX_TEXT_BYTES} are taken at once")]
    TooLong {
        /// Bytes of the text.
        got: usize,
    },
}

/// Why a package's tokenizer blobs were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// A blob does not decode.
    #[error("tokenizer blob: {0}")]
    Decode(#[from] DecodeError),
    /// The blobs contradict each other or themselves.
    #[error("tokenizer blob: {0}")]
    Definition(#[from] DefinitionError),
}
