//! Text to token ids and back: pair merging as GPT-2, Llama 3, SmolLM and Qwen 2 use it, and
//! SentencePiece BPE and Unigram as Gemma, Llama 2, Mistral and T5 use them.
//!
//! A [`Tokenizer`] is built from a package's two blobs - the bytes of every token
//! ([`Vocabulary`]) and the [`Definition`] - and never from the file a model was imported from.
//! Where pairs merge, a library does it; what it would do silently is refused here.
//! Nothing is dropped: a byte for which the model has no token is an [`EncodeError`], not a shorter
//! prompt; only a model that has a token for what it does not know loses it.

mod alphabet;
mod cut;
mod definition;
mod ends;
mod engine;
mod expression;
mod from_gguf;
mod kind;
mod pieces;
mod rules;
mod special;
mod spelling;
mod steps;
mod stream;
mod strip;
mod unigram;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use lockstep_exact::bytes::{Canonical, DecodeError};
use lockstep_exact::vocabulary::Vocabulary;

pub(crate) use alphabet::byte_letters;
use cut::ReadText;
pub use definition::{Definition, DefinitionError, Merge, Model, NO_RANK, Pairs, Scores};
use engine::Engine;
pub use expression::ExpressionError;
pub(crate) use expression::{Behavior, Expression};
use expression::{Budget, Spent};
pub(crate) use from_gguf::keys;
pub use from_gguf::{FromGguf, TokenizerError, Warning, read};
pub use kind::TokenKind;
use pieces::Pieces;
pub(crate) use pieces::follows_scores;
pub use rules::{RULES, Rule};
use special::Specials;
pub use spelling::Spelling;
pub use steps::Steps;
pub(crate) use steps::{Cut, Prefix, Rewrite};
pub use stream::Utf8Stream;
pub use strip::Strip;
use unigram::{NoSpelling, Unigram};

use crate::limits::{MAX_REWRITTEN_BYTES, MAX_TEXT_BYTES};
use crate::template::{ChatTemplates, Prompt};

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
    /// The added tokens that are looked for after the text has been rewritten.
    added_rewritten: Specials,
    all_rewritten: Specials,
}

/// Turns pieces of ordinary text into tokens.
#[derive(Debug)]
enum Merger {
    Pairs(Box<Engine>),
    Pieces(Pieces),
    Unigram(Unigram),
}

impl Merger {
    fn new(vocabulary: &Vocabulary, definition: &Definition) -> Result<Self, DefinitionError> {
        let kinds = &definition.kinds;
        Ok(match &definition.model {
            Model::Pairs(pairs) => {
                let engine = Engine::new(vocabulary, kinds, pairs.spelling, pairs)?;
                Self::Pairs(Box::new(engine))
            }
            Model::Pieces { space_prefix, ranks } => {
                Self::Pieces(Pieces::new(vocabulary, kinds, *space_prefix, ranks))
            }
            Model::Unigram(Scores { spelling, scores, unknown, .. }) => {
                Self::Unigram(Unigram::new(vocabulary, kinds, *spelling, scores, *unknown))
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

    /// Builds a tokenizer from the tokens' bytes and the definition, and checks that they fit.
    ///
    /// # Errors
    /// Definition and vocabulary do not belong together, or the library refuses them.
    pub fn new(vocabulary: Vocabulary, definition: Definition) -> Result<Self, DefinitionError> {
        definition.check(&vocabulary)?;
        let merger = Merger::new(&vocabulary, &definition)?;
        let of = |kinds: &[TokenKind], rewritten| {
            Specials::new(&vocabulary, &definition, kinds, rewritten)
        };
        let (added, both) = ([TokenKind::Added], [TokenKind::Added, TokenKind::Control]);
        let (added_rewritten, all_rewritten) = (of(&added, true)?, of(&both, true)?);
        let (added, all) = (of(&added, false)?, of(&both, false)?);
        let vocabulary = Arc::new(vocabulary);
        Ok(Self { vocabulary, definition, merger, added, all, added_rewritten, all_rewritten })
    }

    /// Returns the bytes of every token.
    pub const fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// Returns the ids of `text`, without a beginning-of-sequence token.
    ///
    /// # Errors
    /// The text is too long or takes too long, or it holds a byte for which the model has no token.
    pub fn encode(&self, text: &str, control: ControlText) -> Result<Vec<u32>, EncodeError> {
        self.check_len(text)?;
        let Merger::Pieces(_) = self.merger else { return self.encode_read(text, control) };
        let found = self.encode_read(&pieces::unescaped(text), control);
        found.map_err(|error| lost_in(text, error))
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
        self.encode_as(text, specials.find(text), Reading::Of(control))
    }

    /// Returns the ids of the special tokens `found` in `text`, and of the text between them.
    fn encode_as(
        &self,
        text: &str,
        found: impl IntoIterator<Item = (usize, usize, u32)>,
        reading: Reading<'_>,
    ) -> Result<Vec<u32>, EncodeError> {
        let budget = Budget::of_text(text.len());
        let mut ids = Vec::new();
        for (at, id) in special::parts(text, found, &self.definition) {
            match id {
                Some(id) => ids.push(id),
                None => self.encode_plain(text, at, reading, &budget, &mut ids)?,
            }
        }
        Ok(ids)
    }

    /// Returns the ids of a rendered chat, without a beginning-of-sequence token: control tokens
    /// are read in what the template wrote, and nowhere else.
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
        let encode = |prompt: &Prompt| {
            let found = self.trusted_specials(prompt);
            self.encode_as(prompt.text(), found, Reading::Prompt(prompt))
        };
        let Merger::Pieces(_) = self.merger else { return encode(prompt) };
        let found = encode(&pieces::unescaped_prompt(prompt));
        found.map_err(|error| lost_in(prompt.text(), error))
    }

    /// Returns start, end and id of the special tokens in a prompt: added ones anywhere, control
    /// tokens only in what no user wrote. Of those that overlap, the earliest counts; of those that
    /// begin at one place, the longest.
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

    /// Returns the ids of a whole prompt: as [`encode`](Self::encode), between the beginning- and
    /// the end-of-sequence token where the model wants them and the text does not bring them.
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
        if let Some(eos) = self.definition.eos.filter(|_| self.definition.add_eos)
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
        Ok(ids)
    }

    /// Returns the beginning-of-sequence token, if the model wants prompts to begin with it.
    pub fn prompt_start(&self) -> Option<u32> {
        self.definition.bos.filter(|_| self.definition.add_bos)
    }

    /// Returns `text` as this model reads it: what the ids of [`encode`](Self::encode) decode to,
    /// for text without control or added tokens whose pieces keep all of it.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), but no byte is looked for in tokens.
    pub fn normalise<'t>(&self, text: &'t str) -> Result<Cow<'t, str>, EncodeError> {
        match (&self.merger, self.steps()) {
            (Merger::Pieces(pieces), _) => Ok(pieces.read(text)),
            (_, Some(steps)) => Ok(steps.read(text, &Budget::of_text(text.len()))?.into_cow()),
            (_, None) => Ok(Cow::Borrowed(text)),
        }
    }

    /// Returns the steps from text to pieces, where the model has some.
    const fn steps(&self) -> Option<&Steps> {
        match &self.definition.model {
            Model::Pairs(pairs) => Some(&pairs.steps),
            Model::Unigram(unigram) => Some(&unigram.steps),
            Model::Pieces { .. } => None,
        }
    }

    /// Encodes the part of `text` at `at`, between two special tokens.
    fn encode_plain(
        &self,
        text: &str,
        at: Range<usize>,
        reading: Reading<'_>,
        budget: &Budget,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        let start = at.start;
        let Some(part) = text.get(at).filter(|part| !part.is_empty()) else { return Ok(()) };
        let steps = match (&self.merger, self.steps()) {
            (Merger::Pieces(pieces), _) => {
                ids.extend(pieces.encode(part, start)?);
                return Ok(());
            }
            (_, Some(steps)) => steps,
            (_, None) => return Ok(()),
        };
        let specials = match reading {
            Reading::Of(ControlText::Plain) => &self.added_rewritten,
            _ => &self.all_rewritten,
        };
        let read = steps.read(part, budget)?;
        let is_meant = |(from, to, id): &(usize, usize, u32)| {
            let written = start + read.written_at(*from)..start + read.written_at(*to);
            self.kind(*id) != Some(TokenKind::Control) || !reading.has_users(&written)
        };
        let found = specials.find(read.as_str()).filter(is_meant);
        for (at, id) in special::parts(read.as_str(), found, &self.definition) {
            match id {
                Some(id) => ids.push(id),
                None => self.encode_rewritten(steps, &read, at, start, budget, ids)?,
            }
        }
        Ok(())
    }

    /// Encodes the part of rewritten text at `at`; what it was made of begins at `start`.
    fn encode_rewritten(
        &self,
        steps: &Steps,
        read: &ReadText<'_>,
        at: Range<usize>,
        start: usize,
        budget: &Budget,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        let from = at.start;
        let part = read.as_str().get(at).unwrap_or_default();
        let is_first = start == 0 && read.written_at(from) == 0;
        for piece in steps.pieces(part, is_first, budget)? {
            let spelling = self.definition.spelling();
            let place = |within| {
                start + read.written_at(from + piece.at + spelling.place_in(&piece.text, within))
            };
            match &self.merger {
                Merger::Pairs(engine) => {
                    engine.encode(&self.vocabulary, &piece, ids).map_err(|lost| lost.at(place))?;
                }
                Merger::Unigram(unigram) => {
                    unigram.encode(&piece.text, ids).map_err(|error| match error {
                        NoSpelling::Lost(byte, at) => EncodeError::Lost { byte, at: place(at) },
                        NoSpelling::TooLong => EncodeError::Work,
                    })?;
                }
                Merger::Pieces(_) => {}
            }
        }
        Ok(())
    }

    /// Returns the bytes a token stands for; empty for an unknown id.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.token(id)
    }

    /// Returns the kind of the token `id`, if there is such a token.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.definition.kinds.get(usize::try_from(id).ok()?).copied()
    }

    /// Returns the text of `ids`, with bytes that are not UTF-8 shown as U+FFFD.
    ///
    /// Control tokens show their own text under [`ControlText::Parse`] and nothing otherwise.
    pub fn decode(&self, ids: &[u32], control: ControlText) -> String {
        let bytes = self.decode_bytes(ids, control);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the bytes of `ids`; control tokens as in [`decode`](Self::decode).
    pub fn decode_bytes(&self, ids: &[u32], control: ControlText) -> Vec<u8> {
        let shown = |id: &&u32| {
            control == ControlText::Parse || self.kind(**id) != Some(TokenKind::Control)
        };
        ids.iter().filter(shown).flat_map(|id| self.token_bytes(*id)).copied().collect()
    }

    /// Returns the number of token ids.
    pub fn len(&self) -> usize {
        self.vocabulary.len()
    }

    /// Returns whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.vocabulary.is_empty()
    }

    /// Returns the chat templates of the model.
    pub const fn chat_templates(&self) -> &ChatTemplates {
        &self.definition.chat_templates
    }

    /// Returns the text of the beginning-of-sequence token; empty if there is none.
    pub fn bos_text(&self) -> Cow<'_, str> {
        self.text_of(self.definition.bos)
    }

    /// Returns the text of the end-of-sequence token; empty if there is none.
    pub fn eos_text(&self) -> Cow<'_, str> {
        self.text_of(self.definition.eos)
    }

    fn text_of(&self, id: Option<u32>) -> Cow<'_, str> {
        id.map_or(Cow::Borrowed(""), |id| String::from_utf8_lossy(self.token_bytes(id)))
    }
}

/// The author of the text that is read.
#[derive(Debug, Clone, Copy)]
enum Reading<'a> {
    /// The whole text is by one author.
    Of(ControlText),
    /// A template's and users' together.
    Prompt(&'a Prompt),
}

impl Reading<'_> {
    /// Returns whether some of what is written at `at` is a user's.
    fn has_users(self, at: &Range<usize>) -> bool {
        match self {
            Self::Of(control) => control == ControlText::Plain,
            Self::Prompt(prompt) => {
                let meets = |span: &Range<usize>| span.start < at.end && at.start < span.end;
                prompt.user_spans().iter().any(meets)
            }
        }
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

/// Returns the runs of a prompt in order, and whether a user wrote them.
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

/// Why a text cannot be turned into tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The library that splits and merges gives up, or gives tokens for text that is not there.
    #[error("the text cannot be tokenized: {reason}")]
    Library {
        /// What went wrong.
        reason: String,
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
    /// More text than is taken once it is rewritten.
    #[error(
        "the text has {got} bytes once the model's rules have rewritten it; at most \
         {MAX_REWRITTEN_BYTES} are taken at once"
    )]
    Rewritten {
        /// Bytes of the rewritten text.
        got: usize,
    },
    /// Cutting the text, or finding its best spelling, takes more steps than are allowed.
    #[error(
        "the model's rules for cutting text take too many steps on this one; break up long runs \
         of digits, white space or other characters of one kind"
    )]
    Work,
}

impl From<Spent> for EncodeError {
    fn from(_: Spent) -> Self {
        Self::Work
    }
}

/// Why a package's tokenizer blobs were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// A blob could not be decoded.
    #[error("tokenizer blob: {0}")]
    Decode(DecodeError),
    /// The blobs contradict each other or themselves.
    #[error("tokenizer blob: {0}")]
    Definition(DefinitionError),
}

// What these say is part of what the error says, so they are no sources: a chain says it once.

impl From<DecodeError> for BlobError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<DefinitionError> for BlobError {
    fn from(error: DefinitionError) -> Self {
        Self::Definition(error)
    }
}
