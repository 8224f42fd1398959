//! The errors of reading a GGUF file's tokenizer, and the warnings about it.

use lockstep_exact::bytes::DecodeError;

use super::keys::PRE;
use crate::gguf::GgufError;
use crate::limits::{MAX_PIECE_WORK, MAX_TOKEN_BYTES};
use crate::template::ChatTemplatesError;
use crate::tokenizer::{DefinitionError, ExpressionError};

/// Something about a tokenizer that a user should know, although it can be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Tokens with known texts have another type in the file.
    #[error(
        "the file has other types for the control tokens {tokens}; they are taken as control tokens"
    )]
    Mistyped {
        /// Texts and ids.
        tokens: String,
    },
    /// The file names no token that ends an answer.
    #[error(
        "no token of the model is known to end an answer: answers end at their longest length \
         or at a stop text"
    )]
    NoEnd,
    /// The file does not say how text is split.
    #[error(
        "the file does not say how text is split ({PRE} is missing or \"default\"), so a general \
         rule is used: if it is not the model's, its answers get worse. Files from before May \
         2024 are like this; get a newer one"
    )]
    NoPre,
}

/// Why the tokenizer of a GGUF file cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// A token for one byte that is not spelled `<0x..>`.
    #[error("token {id} is for a single byte, but is not spelled <0x..>")]
    ByteForm {
        /// The token.
        id: usize,
    },
    /// The parts of the tokenizer do not fit together.
    #[error("tokenizer: {0}")]
    Definition(DefinitionError),
    /// An expression of a rule does not read.
    #[error("the rule {rule:?}: {error}")]
    Expression {
        /// The rule.
        rule: &'static str,
        /// What is wrong with it.
        error: ExpressionError,
    },
    /// A metadata value is missing or of the wrong type.
    #[error("tokenizer: {0}")]
    Gguf(GgufError),
    /// An ordinary token is spelled with a character that stands for no byte.
    #[error("token {id} holds {letter:?}, which stands for no byte in the byte-level alphabet")]
    Letter {
        /// The token.
        id: usize,
        /// The character.
        letter: char,
    },
    /// A token has more bytes than the limit.
    #[error("token {id} has {got} bytes; the limit is {MAX_TOKEN_BYTES}")]
    LongToken {
        /// The token.
        id: usize,
        /// Its bytes.
        got: usize,
    },
    /// The tokens of a SentencePiece model are too long together.
    #[error("the squares of the tokens' lengths add up to more than {MAX_PIECE_WORK} bytes")]
    LongTokens,
    /// A merge that is not two tokens with a space between.
    #[error("merge {rank} is not two tokens with a space between them")]
    MergeForm {
        /// The merge's place in the list.
        rank: usize,
    },
    /// A merge of, or to, a token that does not exist.
    #[error("merge {rank} needs the token {token:?}, which the vocabulary does not have")]
    MergeToken {
        /// The merge's place in the list.
        rank: usize,
        /// The token's spelling.
        token: String,
    },
    /// The tokenizer is of a kind that can't be imported.
    #[error(
        "the tokenizer is of kind {got:?}; byte-level BPE (\"gpt2\", as in Llama 3 and Qwen \
         models), SentencePiece BPE (\"llama\", as in Gemma and Mistral models) and Unigram \
         (\"t5\") can be imported"
    )]
    Model {
        /// The kind the file names.
        got: String,
    },
    /// An id past the end of the vocabulary.
    #[error("{key} is {id}, but there are {tokens} tokens")]
    NoSuchToken {
        /// The metadata key.
        key: String,
        /// The id.
        id: u64,
        /// Tokens of the vocabulary.
        tokens: usize,
    },
    /// A rule for splitting text that is not known here.
    #[error(
        "text is split by the rule {got:?} ({PRE}), which is not known here: the model learned \
         from text that was cut in its own way, and guessing would give it wrong tokens. Import \
         the model's folder with its tokenizer.json, which states its rule itself, or a file with \
         one of the rules that docs/package.md lists"
    )]
    Pre {
        /// The rule the file names.
        got: String,
    },
    /// A rule that rewrites text before it is split.
    #[error("text is rewritten by {key} before it is split; that cannot be imported")]
    Rewrite {
        /// The metadata key.
        key: &'static str,
    },
    /// The score of a token is no number.
    #[error("the score of token {id} is not a number")]
    Score {
        /// The token.
        id: usize,
    },
    /// Tokens and scores are lists of different lengths.
    #[error("{scores} scores for {tokens} tokens")]
    ScoreCount {
        /// Length of the token list.
        tokens: usize,
        /// Length of the score list.
        scores: usize,
    },
    /// A chat template of the file can't be taken.
    #[error(transparent)]
    Templates(#[from] ChatTemplatesError),
    /// A token type that this kind of tokenizer does not have.
    #[error("token {id} is of type {got}, which such a tokenizer does not have")]
    TokenType {
        /// The token.
        id: usize,
        /// The type.
        got: i64,
    },
    /// More of something than the bound allows.
    #[error("{key}: {got}, more than the limit of {limit}")]
    TooMany {
        /// What is counted.
        key: String,
        /// How many there are.
        got: usize,
        /// The bound.
        limit: usize,
    },
    /// Tokens and token types are lists of different lengths.
    #[error("{types} token types for {tokens} tokens")]
    TypeCount {
        /// Length of the token list.
        tokens: usize,
        /// Length of the type list.
        types: usize,
    },
    /// The vocabulary can't be encoded.
    #[error("tokenizer: {0}")]
    Vocabulary(DecodeError),
}

// What these say is part of what the error says, so they are no sources: a chain says it once.

impl From<DefinitionError> for TokenizerError {
    fn from(error: DefinitionError) -> Self {
        Self::Definition(error)
    }
}

impl From<GgufError> for TokenizerError {
    fn from(error: GgufError) -> Self {
        Self::Gguf(error)
    }
}

impl From<DecodeError> for TokenizerError {
    fn from(error: DecodeError) -> Self {
        Self::Vocabulary(error)
    }
}
