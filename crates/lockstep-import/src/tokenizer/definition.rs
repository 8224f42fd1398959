//! The tokenizer blob of a package: all but the tokens' bytes, which are a blob of their own.
//!
//! Layout: magic `LSTOKENS`, `u16` version, the model's tag and what belongs to its kind but the
//! lists - of pairs and Unigram the steps from text to pieces and the spelling, of SentencePiece
//! BPE the space prefix flag -, "add beginning-of-sequence" and "add end-of-sequence" flags, the
//! beginning- and end-of-sequence ids (a presence byte, then the id), one byte a token (its kind,
//! and flags of how texts are searched for it), the merges in order of rank as three `u32` (left,
//! right, result), or a `u32` rank or `u64` score a token, and the chat templates (a byte that says
//! which there are, the text of the default one, names and texts of others). [`Definition::check`]
//! refuses a definition that does not fit its vocabulary; its strongest rule is that a merge makes
//! exactly the bytes of its two parts, so encoded text always decodes to itself, but for what
//! special tokens swallow and for what the model doesn't know.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_list};
use lockstep_exact::canonical_struct;
use lockstep_exact::vocabulary::Vocabulary;

use super::strip::Tagged;
use super::{Spelling, Steps, Strip, TokenKind};
use crate::limits::{MAX_MERGE_BYTES, MAX_MERGES, MAX_VOCAB};
use crate::template::ChatTemplates;

const MAGIC: [u8; 8] = *b"LSTOKENS";
const VERSION: u16 = 1;
/// The tags of the kinds of models in a blob.
const PAIRS: u8 = 0;
const PIECES: u8 = 1;
const UNIGRAM: u8 = 2;
/// Rank of a token that no merge makes.
pub const NO_RANK: u32 = u32::MAX;

/// The definition of a model's tokenizer, beside the bytes of its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The model by which ordinary text becomes tokens.
    pub model: Model,
    /// Whether a prompt begins with the beginning-of-sequence token.
    pub add_bos: bool,
    /// Whether a prompt that is no chat ends with the end-of-sequence token.
    pub add_eos: bool,
    /// The beginning-of-sequence token.
    pub bos: Option<u32>,
    /// The id of the end-of-sequence token.
    pub eos: Option<u32>,
    /// The kind of each token, by id.
    pub kinds: Vec<TokenKind>,
    /// The control and added tokens that swallow white space beside them.
    pub strips: BTreeMap<u32, Strip>,
    /// The control and added tokens that count only where no word goes on beside them.
    pub words: BTreeSet<u32>,
    /// The control and added tokens that are looked for in the text once it is rewritten, and not
    /// before.
    pub rewritten: BTreeSet<u32>,
    /// The control and added tokens that are looked for with the mark of [`Spelling::Marked`]
    /// where their bytes have a space. Others are looked for as their bytes are.
    pub marked: BTreeSet<u32>,
    /// The chat templates of the model.
    pub chat_templates: ChatTemplates,
}

/// The ways in which ordinary text becomes tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Model {
    /// BPE: pairs of tokens merge inside the pieces that text is cut into.
    Pairs(Pairs),
    /// SentencePiece BPE: neighbours merge, wherever they stand, if the result is a token. What
    /// then is no token is spelled in [`TokenKind::Byte`] tokens.
    Pieces {
        /// Whether a space is put before text that begins the prompt or follows a special token.
        space_prefix: bool,
        /// For each token, when a merge makes it: the lowest first, [`NO_RANK`] never.
        ranks: Vec<u32>,
    },
    /// SentencePiece Unigram: the tokens with the best sum of scores.
    Unigram(Scores),
}

/// BPE, which merges pairs of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairs {
    /// The steps by which text becomes pieces.
    pub steps: Steps,
    /// The spelling of bytes while tokens merge.
    pub spelling: Spelling,
    /// Whether a piece that is a token as a whole is that token, whatever the merges say.
    pub takes_whole: bool,
    /// The token for characters that no token spells.
    pub unknown: Option<u32>,
    /// Whether such characters in a row are one token.
    pub fuses_unknown: bool,
    /// Merge rules, the strongest first.
    pub merges: Vec<Merge>,
}

/// Unigram, which chooses tokens by scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scores {
    /// The steps by which text becomes pieces.
    pub steps: Steps,
    /// The spelling of bytes while tokens are looked for.
    pub spelling: Spelling,
    /// The token for characters that no token spells.
    pub unknown: Option<u32>,
    /// For each token the bits of its binary64 score.
    pub scores: Vec<u64>,
}

/// One merge rule: where `left` meets `right`, `result` may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    /// The token on the left of the pair.
    pub left: u32,
    /// The token on the right of the pair.
    pub right: u32,
    /// The token that replaces both.
    pub result: u32,
}
canonical_struct!(Merge { left, right, result });

impl Canonical for Definition {
    fn encode(&self, out: &mut Vec<u8>) {
        MAGIC.encode(out);
        VERSION.encode(out);
        self.encode_model_head(out);
        self.add_bos.encode(out);
        self.add_eos.encode(out);
        put_option(out, self.bos.as_ref(), |out, id| id.encode(out));
        put_option(out, self.eos.as_ref(), |out, id| id.encode(out));
        let strip = |id: &u32| self.strips.get(id).copied().unwrap_or_default();
        let tagged = (0..).zip(&self.kinds).map(|(id, kind)| Tagged {
            kind: *kind,
            strip: strip(&id),
            is_word: self.words.contains(&id),
            is_rewritten: self.rewritten.contains(&id),
            is_marked: self.marked.contains(&id),
        });
        put_list(out, &tagged.collect::<Vec<_>>());
        match &self.model {
            Model::Pairs(pairs) => put_list(out, &pairs.merges),
            Model::Pieces { ranks, .. } => put_list(out, ranks),
            Model::Unigram(unigram) => put_list(out, &unigram.scores),
        }
        self.chat_templates.encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if input.array::<8>("tokenizer")? != MAGIC {
            return Err(input.invalid("tokenizer", "does not start with LSTOKENS"));
        }
        if u16::decode(input)? != VERSION {
            return Err(input.invalid("tokenizer version", "this build reads version 1 only"));
        }
        let mut model = decode_model_head(input)?;
        let (add_bos, add_eos) = (bool::decode(input)?, bool::decode(input)?);
        let bos = get_option(input, u32::decode)?;
        let eos = get_option(input, u32::decode)?;
        let tagged: Vec<Tagged> = input.list("token kinds", MAX_VOCAB, 1)?;
        let of = |is: fn(&Tagged) -> bool| -> BTreeSet<u32> {
            (0..).zip(&tagged).filter(|(_, token)| is(token)).map(|(id, _)| id).collect()
        };
        let (words, rewritten) = (of(|token| token.is_word), of(|token| token.is_rewritten));
        let marked = of(|token| token.is_marked);
        let strips = (0..).zip(&tagged).map(|(id, token)| (id, token.strip));
        let strips = strips.filter(|(_, strip)| *strip != Strip::default()).collect();
        let kinds = tagged.iter().map(|token| token.kind).collect();
        match &mut model {
            Model::Pairs(pairs) => pairs.merges = input.list("merges", MAX_MERGES, 12)?,
            Model::Pieces { ranks, .. } => *ranks = input.list("ranks", MAX_VOCAB, 4)?,
            Model::Unigram(unigram) => unigram.scores = input.list("scores", MAX_VOCAB, 8)?,
        }
        let chat_templates = ChatTemplates::decode(input)?;
        Ok(Self {
            model,
            add_bos,
            add_eos,
            bos,
            eos,
            kinds,
            strips,
            words,
            rewritten,
            marked,
            chat_templates,
        })
    }
}

impl Definition {
    /// Appends the model, but for its list.
    fn encode_model_head(&self, out: &mut Vec<u8>) {
        match &self.model {
            Model::Pairs(pairs) => {
                PAIRS.encode(out);
                pairs.steps.encode(out);
                pairs.spelling.encode(out);
                pairs.takes_whole.encode(out);
                put_option(out, pairs.unknown.as_ref(), |out, id| id.encode(out));
                pairs.fuses_unknown.encode(out);
            }
            Model::Pieces { space_prefix, .. } => {
                PIECES.encode(out);
                space_prefix.encode(out);
            }
            Model::Unigram(unigram) => {
                UNIGRAM.encode(out);
                unigram.steps.encode(out);
                unigram.spelling.encode(out);
                put_option(out, unigram.unknown.as_ref(), |out, id| id.encode(out));
            }
        }
    }
}

/// Returns the model, its list still empty.
fn decode_model_head(input: &mut Reader<'_>) -> Result<Model, DecodeError> {
    Ok(match u8::decode(input)? {
        PAIRS => Model::Pairs(Pairs {
            steps: Steps::decode(input)?,
            spelling: Spelling::decode(input)?,
            takes_whole: bool::decode(input)?,
            unknown: get_option(input, u32::decode)?,
            fuses_unknown: bool::decode(input)?,
            merges: Vec::new(),
        }),
        PIECES => Model::Pieces { space_prefix: bool::decode(input)?, ranks: Vec::new() },
        UNIGRAM => Model::Unigram(Scores {
            steps: Steps::decode(input)?,
            spelling: Spelling::decode(input)?,
            unknown: get_option(input, u32::decode)?,
            scores: Vec::new(),
        }),
        tag => return Err(input.unknown_tag("tokenizer model", tag)),
    })
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    value.is_some().encode(out);
    if let Some(value) = value {
        put(out, value);
    }
}

fn get_option<T>(
    input: &mut Reader<'_>,
    get: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    if bool::decode(input)? { get(input).map(Some) } else { Ok(None) }
}

impl Definition {
    /// Checks that this definition fits `vocabulary`.
    ///
    /// # Errors
    /// The first rule that is broken, with the token or merge that breaks it.
    pub fn check(&self, vocabulary: &Vocabulary) -> Result<(), DefinitionError> {
        let (tokens, kinds) = (vocabulary.len(), self.kinds.len());
        if tokens != kinds {
            return Err(DefinitionError::KindCount { tokens, kinds });
        }
        let named = [
            ("beginning-of-sequence", self.bos),
            ("end-of-sequence", self.eos),
            ("unknown", self.unknown()),
        ];
        for (name, id) in named {
            if let Some(id) = id
                && self.kind(id).is_none()
            {
                return Err(DefinitionError::NoSuchToken { name, id, tokens });
            }
        }
        for (&id, strip) in &self.strips {
            let is_special = self.kind(id).is_some_and(TokenKind::is_special);
            if !is_special || *strip == Strip::default() {
                return Err(DefinitionError::Strip { id });
            }
        }
        for &id in self.words.union(&self.rewritten) {
            if !self.kind(id).is_some_and(TokenKind::is_special) {
                return Err(DefinitionError::Flag { id });
            }
        }
        for &id in &self.marked {
            let is_special = self.kind(id).is_some_and(TokenKind::is_special);
            if !is_special || !self.has_marks() || !vocabulary.token(id).contains(&b' ') {
                return Err(DefinitionError::Mark { id });
            }
        }
        self.check_tokens(vocabulary)?;
        match &self.model {
            Model::Pairs(pairs) => {
                check_spelling(pairs.spelling, &pairs.steps)?;
                self.check_merges(vocabulary, &pairs.merges)
            }
            Model::Pieces { ranks, .. } => self.check_ranks(ranks),
            Model::Unigram(unigram) => {
                check_spelling(unigram.spelling, &unigram.steps)?;
                self.check_scores(&unigram.scores)
            }
        }
    }

    /// Returns the spelling of bytes while tokens are looked for.
    pub(super) const fn spelling(&self) -> Spelling {
        match &self.model {
            Model::Pairs(pairs) => pairs.spelling,
            Model::Pieces { .. } => Spelling::Marked(super::spelling::SPACE),
            Model::Unigram(unigram) => unigram.spelling,
        }
    }

    /// Returns the text that is searched for to find the special token `id`, whose bytes are these.
    pub(super) fn searched<'b>(&self, id: u32, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        if self.marked.contains(&id) {
            Cow::Owned(self.spelling().spelled(bytes).into_bytes())
        } else {
            Cow::Borrowed(bytes)
        }
    }

    /// Returns whether a special token can be looked for with a mark for a space: SentencePiece BPE
    /// reads the mark as a space before it looks for tokens.
    const fn has_marks(&self) -> bool {
        !matches!(self.model, Model::Pieces { .. })
            && matches!(self.spelling(), Spelling::Marked(_))
    }

    /// Returns the token for characters that no token spells.
    pub(super) const fn unknown(&self) -> Option<u32> {
        match &self.model {
            Model::Pairs(pairs) => pairs.unknown,
            Model::Pieces { .. } => None,
            Model::Unigram(unigram) => unigram.unknown,
        }
    }

    fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(usize::try_from(id).ok()?).copied()
    }

    /// Checks that no token which text can reach is empty, that no two in one group share their
    /// bytes, and that what is searched for in text is text.
    fn check_tokens(&self, vocabulary: &Vocabulary) -> Result<(), DefinitionError> {
        let (mut text, mut special) = (HashSet::new(), HashSet::new());
        let mut bytes_alone = HashSet::new();
        let may_have_bytes = self.spelling() != Spelling::Bytes;
        for (id, kind) in (0..).zip(&self.kinds) {
            let group = match kind {
                TokenKind::Text => &mut text,
                TokenKind::Control | TokenKind::Added => &mut special,
                TokenKind::Unused => continue,
                TokenKind::Byte => &mut bytes_alone,
            };
            let bytes = vocabulary.token(id);
            if bytes.is_empty() {
                return Err(DefinitionError::EmptyToken { id });
            }
            if *kind == TokenKind::Byte && (bytes.len() != 1 || !may_have_bytes) {
                return Err(DefinitionError::ByteToken { id });
            }
            let is_special = matches!(kind, TokenKind::Control | TokenKind::Added);
            if is_special && std::str::from_utf8(bytes).is_err() {
                return Err(DefinitionError::SpecialNotText { id });
            }
            if !group.insert(bytes) {
                return Err(DefinitionError::TokenTwice { id });
            }
        }
        Ok(())
    }

    /// Checks that only ordinary tokens have ranks.
    fn check_ranks(&self, ranks: &[u32]) -> Result<(), DefinitionError> {
        if ranks.len() != self.kinds.len() {
            let (ranks, tokens) = (ranks.len(), self.kinds.len());
            return Err(DefinitionError::RankCount { tokens, ranks });
        }
        let ranked = |(_, (rank, kind)): &(u32, (&u32, &TokenKind))| {
            **rank != NO_RANK && **kind != TokenKind::Text
        };
        match (0..).zip(ranks.iter().zip(&self.kinds)).find(ranked) {
            None => Ok(()),
            Some((id, _)) => Err(DefinitionError::RankOfOther { id }),
        }
    }

    /// Checks that there is one score for each token, and that each is a number.
    fn check_scores(&self, scores: &[u64]) -> Result<(), DefinitionError> {
        if scores.len() != self.kinds.len() {
            let (ranks, tokens) = (scores.len(), self.kinds.len());
            return Err(DefinitionError::RankCount { tokens, ranks });
        }
        match scores.iter().position(|bits| !f64::from_bits(*bits).is_finite()) {
            None => Ok(()),
            Some(id) => Err(DefinitionError::Score { id }),
        }
    }

    fn check_merges(
        &self,
        vocabulary: &Vocabulary,
        merges: &[Merge],
    ) -> Result<(), DefinitionError> {
        let mut seen = HashSet::with_capacity(merges.len());
        let mut bytes = 0_usize;
        for (rank, merge) in merges.iter().enumerate() {
            let Merge { left, right, result } = *merge;
            // Added tokens are read wherever they stand, so merging them gives nobody more.
            let is_text = |id| matches!(self.kind(id), Some(TokenKind::Text | TokenKind::Added));
            if ![left, right, result].into_iter().all(is_text) {
                return Err(DefinitionError::MergeOfOther { rank });
            }
            let (left_bytes, right_bytes) = (vocabulary.token(left), vocabulary.token(right));
            let halves = vocabulary.token(result).split_at_checked(left_bytes.len());
            if halves != Some((left_bytes, right_bytes)) {
                return Err(DefinitionError::MergeBytes { rank });
            }
            if !seen.insert((left, right)) {
                return Err(DefinitionError::MergeTwice { rank });
            }
            bytes = bytes.saturating_add(vocabulary.token(result).len());
            if bytes > MAX_MERGE_BYTES {
                return Err(DefinitionError::LongMerges { rank });
            }
        }
        Ok(())
    }
}

/// Checks that both steps and spelling use the byte alphabet, or neither does.
fn check_spelling(spelling: Spelling, steps: &Steps) -> Result<(), DefinitionError> {
    if steps.spells_bytes() == (spelling == Spelling::Bytes) {
        Ok(())
    } else {
        Err(DefinitionError::Spelling)
    }
}

/// Why a tokenizer definition does not hold together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// A token for one byte that is more, or in a model that has no use for it.
    #[error("token {id} is for a single byte, but is longer or in a byte-level model")]
    ByteToken {
        /// The token.
        id: u32,
    },
    /// A token that text can reach has no bytes.
    #[error("token {id} is empty")]
    EmptyToken {
        /// The token.
        id: u32,
    },
    /// A way to search for a token that texts are not searched for.
    #[error("token {id} is searched for in a way of its own, but is no control or added token")]
    Flag {
        /// The token.
        id: u32,
    },
    /// Vocabulary and definition speak of different numbers of tokens.
    #[error("{kinds} token kinds for {tokens} tokens")]
    KindCount {
        /// Tokens of the vocabulary.
        tokens: usize,
        /// Kinds of the definition.
        kinds: usize,
    },
    /// The library that splits and merges refuses it.
    #[error("the tokenizer cannot be built: {reason}")]
    Library {
        /// What the library says.
        reason: String,
    },
    /// A mark in a token that has no space, that texts are not searched for, or whose model has
    /// none.
    #[error(
        "token {id} is searched for with a mark for its spaces, but has none, is no control or \
         added token, or the model has no mark"
    )]
    Mark {
        /// The token.
        id: u32,
    },
    /// The merges' results are too long together.
    #[error("the results of the merges up to {rank} have more than {MAX_MERGE_BYTES} bytes")]
    LongMerges {
        /// The place in the list of the merge that passes the limit.
        rank: usize,
    },
    /// A merge whose result is not its parts joined.
    #[error("merge {rank} makes a token that is not its two parts joined")]
    MergeBytes {
        /// The merge's place in the list.
        rank: usize,
    },
    /// A merge of tokens that are not ordinary text, or do not exist.
    #[error("merge {rank} names a token that is not ordinary text")]
    MergeOfOther {
        /// The merge's place in the list.
        rank: usize,
    },
    /// Two merge rules are about one pair.
    #[error("merge {rank} repeats the pair of an earlier merge")]
    MergeTwice {
        /// The later merge's place in the list.
        rank: usize,
    },
    /// An id past the end of the vocabulary.
    #[error("the {name} token is {id}, but there are {tokens} tokens")]
    NoSuchToken {
        /// What the token is for.
        name: &'static str,
        /// The id.
        id: u32,
        /// Tokens of the vocabulary.
        tokens: usize,
    },
    /// Ranks and tokens are lists of different lengths.
    #[error("{ranks} ranks for {tokens} tokens")]
    RankCount {
        /// Tokens of the vocabulary.
        tokens: usize,
        /// Length of the list of ranks.
        ranks: usize,
    },
    /// A rank of a token that is not ordinary text.
    #[error("token {id} has a rank, but is not ordinary text")]
    RankOfOther {
        /// The token.
        id: u32,
    },
    /// The score of a token is no number.
    #[error("the score of token {id} is not a finite number")]
    Score {
        /// The token.
        id: usize,
    },
    /// Steps and spelling disagree about the byte alphabet.
    #[error("the steps from text to pieces and the tokens' spelling do not fit each other")]
    Spelling,
    /// A control or added token that is not text, so that it could match inside a character.
    #[error("control or added token {id} is not UTF-8")]
    SpecialNotText {
        /// The token.
        id: u32,
    },
    /// White space beside a token that text is not searched for, or on no side.
    #[error("token {id} swallows white space, but is no control or added token, or on no side")]
    Strip {
        /// The token.
        id: u32,
    },
    /// Two tokens that text cannot tell apart.
    #[error("token {id} has the same bytes as an earlier token of its kind")]
    TokenTwice {
        /// The later token.
        id: u32,
    },
    /// The control and added tokens are too many or too long to be searched for.
    #[error("{got} control and added tokens are too many, or too long")]
    TooManySpecials {
        /// How many there are.
        got: usize,
    },
}
