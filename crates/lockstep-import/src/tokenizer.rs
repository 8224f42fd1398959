//! Text to token ids and back: byte-level pair merging as GPT-2, Llama 3, SmolLM and Qwen 2 use it,
//! and SentencePiece BPE as Gemma, Llama 2 and Mistral use it.
//!
//! A [`Tokenizer`] is built from a package's two blobs - the bytes of every token
//! ([`Vocabulary`]) and the [`Definition`] - and never from the file a model was imported from.
//! For byte-level models a library splits and merges; what it would do silently is refused here.
//! Nothing is dropped: a byte for which the model has no token is an [`EncodeError`], not a shorter
//! prompt.

mod alphabet;
mod definition;
mod engine;
mod from_gguf;
mod pieces;
mod splitter;
mod stream;
mod strip;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, Input, MatchKind};
use lockstep_exact::bytes::{Canonical, DecodeError};
use lockstep_exact::vocabulary::Vocabulary;

pub use definition::{Definition, DefinitionError, Merge, Model, NO_RANK, TokenKind};
use engine::Engine;
pub(crate) use from_gguf::STRIPS;
pub use from_gguf::{FromGguf, TokenizerError, read};
use pieces::Pieces;
pub use splitter::Splitter;
pub use stream::Utf8Stream;
pub use strip::Strip;

use crate::limits::{MAX_RUN_CHARS, MAX_TEXT_BYTES};
use crate::template::Prompt;

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
    vocabulary: Arc<Vocabulary>,
    definition: Definition,
    merger: Merger,
    /// Tokens cut out of the text before it is split: added ones only, and with control tokens.
    added: Specials,
    all: Specials,
}

/// Turns ordinary text into tokens.
#[derive(Debug)]
enum Merger {
    Pairs(Splitter, Box<Engine>),
    Pieces(Pieces),
}

impl Merger {
    fn new(vocabulary: &Vocabulary, definition: &Definition) -> Result<Self, DefinitionError> {
        Ok(match &definition.model {
            Model::Pairs { splitter, merges } => {
                let engine = Engine::new(vocabulary, definition, *splitter, merges)?;
                Self::Pairs(*splitter, Box::new(engine))
            }
            Model::Pieces { space_prefix, ranks } => {
                Self::Pieces(Pieces::new(vocabulary, &definition.kinds, *space_prefix, ranks))
            }
        })
    }
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
    /// Definition and vocabulary do not belong together, or the library refuses them.
    pub fn new(vocabulary: Vocabulary, definition: Definition) -> Result<Self, DefinitionError> {
        definition.check(&vocabulary)?;
        let merger = Merger::new(&vocabulary, &definition)?;
        let of = |kinds: &[TokenKind]| Specials::new(&vocabulary, &definition, kinds);
        let added = of(&[TokenKind::Added])?;
        let all = of(&[TokenKind::Added, TokenKind::Control])?;
        Ok(Self { vocabulary: Arc::new(vocabulary), definition, merger, added, all })
    }

    /// The bytes of every token.
    pub const fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// The ids of `text`, without a beginning-of-sequence token.
    ///
    /// # Errors
    /// The text or a run of one class of characters is too long, or it holds a byte for which the
    /// model has no token.
    pub fn encode(&self, text: &str, control: ControlText) -> Result<Vec<u32>, EncodeError> {
        self.check_len(text)?;
        match self.merger {
            Merger::Pairs(..) => {
                engine::check_text(text)?;
                self.encode_read(text, control)
            }
            Merger::Pieces(_) => {
                let found = self.encode_read(&pieces::unescaped(text), control);
                found.map_err(|error| lost_in(text, error))
            }
        }
    }

    fn check_len(&self, text: &str) -> Result<(), EncodeError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(EncodeError::TooLong { got: text.len() });
        }
        Ok(())
    }

    /// Encodes text in which nothing is to be replaced before special tokens are found.
    fn encode_read(&self, text: &str, control: ControlText) -> Result<Vec<u32>, EncodeError> {
        let specials = match control {
            ControlText::Parse => &self.all,
            ControlText::Plain => &self.added,
        };
        self.encode_between(text, specials.find(text))
    }

    /// The ids of `specials`, given with their places in `text`, and of the text between them.
    fn encode_between(
        &self,
        text: &str,
        specials: impl IntoIterator<Item = (usize, usize, u32)>,
    ) -> Result<Vec<u32>, EncodeError> {
        let mut ids = Vec::new();
        let mut rest = 0;
        for (start, end, id) in specials {
            let strip = self.definition.strips.get(&id).copied().unwrap_or_default();
            let at = strip.widened(text, rest, start..end);
            self.encode_plain(text, rest..at.start, &mut ids)?;
            ids.push(id);
            rest = at.end;
        }
        self.encode_plain(text, rest..text.len(), &mut ids)?;
        Ok(ids)
    }

    /// The ids of a rendered chat, without a beginning-of-sequence token: control tokens are read
    /// in what the template wrote, and nowhere else.
    ///
    /// A control token is read only where all of its text is the template's own. Text between two
    /// tokens is encoded as a whole, whoever wrote its parts, so that a chat whose messages name no
    /// control token has the ids that its text has.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_rendered(&self, prompt: &Prompt) -> Result<Vec<u32>, EncodeError> {
        if prompt.user_spans().is_empty() {
            return self.encode(prompt.text(), ControlText::Parse);
        }
        self.check_len(prompt.text())?;
        match self.merger {
            Merger::Pairs(..) => {
                engine::check_text(prompt.text())?;
                self.encode_between(prompt.text(), self.trusted_specials(prompt))
            }
            Merger::Pieces(_) => {
                let read = pieces::unescaped_prompt(prompt);
                let found = self.encode_between(read.text(), self.trusted_specials(&read));
                found.map_err(|error| lost_in(prompt.text(), error))
            }
        }
    }

    /// Start, end and id of the special tokens in a prompt: added ones anywhere, control tokens in
    /// what no user wrote. The first of those that overlap counts, the longest of those that begin
    /// together.
    fn trusted_specials(&self, prompt: &Prompt) -> Vec<(usize, usize, u32)> {
        let text = prompt.text();
        let mut found: Vec<(usize, usize, u32)> = Vec::new();
        let mut at = 0;
        let mut added = None;
        for (run, is_user) in runs(prompt) {
            while at < run.end {
                let start = at.max(run.start);
                let stale = |(start, ..): (usize, usize, u32)| start < at;
                if added.is_none_or(|next: Option<_>| next.is_some_and(stale)) {
                    added = Some(self.added.first(text, at.max(run.start)..text.len()));
                }
                let anywhere = added.flatten().filter(|(start, ..)| *start < run.end);
                let trusted = if is_user { None } else { self.all.first(text, start..run.end) };
                let first = [anywhere, trusted].into_iter().flatten();
                let first = first.min_by_key(|(start, end, _)| (*start, Reverse(*end)));
                let Some(special) = first else { break };
                found.push(special);
                at = special.1;
            }
            at = at.max(run.end);
        }
        found
    }

    /// The ids of a whole prompt: as [`encode`](Self::encode), behind the beginning-of-sequence
    /// token if the model wants one and the text does not bring it.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str, control: ControlText) -> Result<Vec<u32>, EncodeError> {
        let mut ids = self.encode(text, control)?;
        if let Some(bos) = self.prompt_start()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The beginning-of-sequence token, if the model wants prompts to begin with it.
    pub fn prompt_start(&self) -> Option<u32> {
        self.definition.bos.filter(|_| self.definition.add_bos)
    }

    /// `text` as this model reads it: what the ids of [`encode`](Self::encode) decode to, for text
    /// without control or added tokens.
    pub fn normalise<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match &self.merger {
            Merger::Pairs(splitter, _) => splitter.read(text).into_cow(),
            Merger::Pieces(pieces) => pieces.read(text),
        }
    }

    /// Encodes the part of `text` at `at`, between two special tokens.
    fn encode_plain(
        &self,
        text: &str,
        at: Range<usize>,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        let start = at.start;
        let Some(part) = text.get(at).filter(|part| !part.is_empty()) else { return Ok(()) };
        let (splitter, engine) = match &self.merger {
            Merger::Pairs(splitter, engine) => (splitter, engine),
            Merger::Pieces(pieces) => {
                ids.extend(pieces.encode(part, start)?);
                return Ok(());
            }
        };
        let read = splitter.read(part);
        let found = engine.encode(read.as_str())?;
        let tokens = found.iter().map(|id| self.vocabulary.token(*id));
        engine::check_tokens(tokens, &read, start)?;
        ids.extend(found);
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

/// Says where in the written `text` a byte was lost that was lost in the text as read.
fn lost_in(text: &str, error: EncodeError) -> EncodeError {
    match error {
        EncodeError::Lost { byte, at } => {
            EncodeError::Lost { byte, at: pieces::written_at(text, at) }
        }
        other => other,
    }
}

/// The runs of a prompt in order, and whether a user wrote them.
fn runs(prompt: &Prompt) -> Vec<(Range<usize>, bool)> {
    let mut runs = Vec::new();
    let mut at = 0;
    for span in prompt.user_spans() {
        runs.extend([(at..span.start, false), (span.clone(), true)]);
        at = span.end;
    }
    runs.push((at..prompt.text().len(), false));
    runs
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

    /// Start, end and id of the first special token's text at `at`.
    fn first(&self, text: &str, at: Range<usize>) -> Option<(usize, usize, u32)> {
        let found = self.matcher.as_ref()?.find(Input::new(text).range(at))?;
        let id = self.ids.get(found.pattern().as_usize())?;
        Some((found.start(), found.end(), *id))
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
    /// The library that splits and merges gives up, or gives tokens for text that is not there.
    #[error("the text cannot be tokenized: {reason}")]
    Library {
        /// What went wrong.
        reason: String,
    },
    /// Too many characters of one class in a row.
    #[error(
        "more than {MAX_RUN_CHARS} {class} stand in a row from offset {at} of the text; break \
         them up"
    )]
    LongRun {
        /// What kind of characters.
        class: &'static str,
        /// Offset in bytes of the first of them.
        at: usize,
    },
    /// A byte of the text that is in none of its tokens: none of the model stands for it.
    #[error(
        "the model has no token for byte {byte:#04x} at offset {at} of the text; remove that \
         character"
    )]
    Lost {
        /// The byte, as the model reads the text.
        byte: u8,
        /// Offset in bytes of the first such byte.
        at: usize,
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
