//! The tokenizer that a GGUF file's metadata describe.
//!
//! Read are byte-level BPE (`tokenizer.ggml.model = "gpt2"`) with a known `tokenizer.ggml.pre`, and
//! SentencePiece BPE (`"llama"`). Anything else is an error: a wrong splitter gives plausible ids
//! and a model that seems stupid.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lockstep_exact::bytes::DecodeError;
use lockstep_exact::vocabulary::Vocabulary;

use super::{
    Definition, DefinitionError, Merge, Model, Splitter, Strip, TokenKind, alphabet, pieces,
};
use crate::gguf::{Gguf, GgufError, Strings, Value, required};
use crate::limits::{
    MAX_MERGES, MAX_PIECE_WORK, MAX_STOP_IDS, MAX_TEMPLATE_BYTES, MAX_TOKEN_BYTES, MAX_VOCAB,
};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
/// Rules for rewriting text before it is split, which no model in use here has.
const REWRITES: [&str; 2] =
    ["tokenizer.ggml.precompiled_charsmap", "tokenizer.ggml.remove_extra_whitespaces"];
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const TEMPLATE: &str = "tokenizer.chat_template";
/// Ids of tokens that swallow white space before or behind them. No exporter writes these lists:
/// they are how folders say it.
pub(crate) const STRIPS: [&str; 2] =
    ["tokenizer.lockstep.strip_left", "tokenizer.lockstep.strip_right"];
/// The architecture whose SentencePiece models swallow white space behind special tokens although
/// GGUF files do not say so, and the tokens of theirs that do not.
const STRIPPING: &str = "phi3";
const NOT_STRIPPING: [&[u8]; 3] = [b"<unk>", b"<s>", b"<|endoftext|>"];
/// Keys of further tokens that end an answer.
const OTHER_ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
/// Control tokens that end an answer wherever they occur, whether or not a key names them.
const END_TEXTS: [&[u8]; 7] = [
    b"<end_of_turn>",
    b"<|end_of_text|>",
    b"<|end|>",
    b"<|endoftext|>",
    b"<|eom_id|>",
    b"<|eot_id|>",
    b"<|im_end|>",
];

/// What a GGUF file says about text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromGguf {
    /// The bytes of every token.
    pub vocabulary: Vocabulary,
    /// How text becomes tokens.
    pub definition: Definition,
    /// Tokens that end an answer, ascending.
    pub end_tokens: Vec<u32>,
}

/// Reads the tokenizer from a file's metadata.
///
/// # Errors
/// The file's tokenizer is of another kind, or contradicts itself.
pub fn read(gguf: &Gguf<'_>) -> Result<FromGguf, TokenizerError> {
    let texts = strings(gguf, TOKENS, MAX_VOCAB)?;
    let parts = match required(gguf.optional_str(MODEL)?, MODEL)? {
        "gpt2" => read_pairs(gguf, &texts)?,
        "llama" => read_pieces(gguf, &texts)?,
        got => return Err(TokenizerError::Model { got: got.to_owned() }),
    };
    let Parts { vocabulary, kinds, model, adds_bos } = parts;
    let chat_template = gguf.optional_str(TEMPLATE)?.map(str::to_owned);
    if let Some(got) = chat_template.as_ref().map(String::len).filter(|n| *n > MAX_TEMPLATE_BYTES) {
        return Err(TokenizerError::LongTemplate { got });
    }
    let definition = Definition {
        model,
        add_bos: gguf.optional_bool(ADD_BOS)?.unwrap_or(adds_bos),
        bos: read_id(gguf, BOS, texts.len())?,
        eos: read_id(gguf, EOS, texts.len())?,
        strips: read_strips(gguf, &vocabulary, &kinds)?,
        kinds,
        chat_template,
    };
    definition.check(&vocabulary)?;
    let end_tokens = read_ends(gguf, &vocabulary, &definition)?;
    Ok(FromGguf { vocabulary, definition, end_tokens })
}

/// What depends on the kind of tokenizer.
struct Parts {
    vocabulary: Vocabulary,
    kinds: Vec<TokenKind>,
    model: Model,
    /// Whether prompts begin with the beginning-of-sequence token if the file does not say.
    adds_bos: bool,
}

fn read_pairs(gguf: &Gguf<'_>, texts: &[&str]) -> Result<Parts, TokenizerError> {
    let splitter = read_splitter(gguf)?;
    let kinds = read_kinds(gguf, texts.len(), false)?;
    let spelled = |id, text: &str, kind| match kind {
        // Ordinary tokens are spelled in the byte alphabet; all others are the text they show.
        TokenKind::Text => {
            alphabet::bytes_of(text).map_err(|letter| TokenizerError::Letter { id, letter })
        }
        _ => Ok(text.as_bytes().to_vec()),
    };
    let vocabulary = read_vocabulary(texts, &kinds, spelled)?;
    let model = Model::Pairs { splitter, merges: read_merges(gguf, texts)? };
    Ok(Parts { vocabulary, kinds, model, adds_bos: splitter.adds_bos_by_default() })
}

fn read_pieces(gguf: &Gguf<'_>, texts: &[&str]) -> Result<Parts, TokenizerError> {
    for key in REWRITES {
        if gguf.get(key).is_some_and(|value| *value != Value::Bool(false)) {
            return Err(TokenizerError::Rewrite { key });
        }
    }
    let kinds = read_kinds(gguf, texts.len(), true)?;
    let spelled = |id, text: &str, kind| match kind {
        TokenKind::Byte => {
            let byte = text.strip_prefix("<0x").and_then(|digits| digits.strip_suffix('>'));
            let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            byte.map(|byte| vec![byte]).ok_or(TokenizerError::ByteForm { id })
        }
        _ => Ok(pieces::unescaped(text).as_bytes().to_vec()),
    };
    let vocabulary = read_vocabulary(texts, &kinds, spelled)?;
    let squares = texts.iter().map(|text| text.len().saturating_mul(text.len()));
    if squares.fold(0, usize::saturating_add) > MAX_PIECE_WORK {
        return Err(TokenizerError::LongTokens);
    }
    let scores = read_scores(gguf, texts.len())?;
    let space_prefix = gguf.optional_bool(SPACE_PREFIX)?.unwrap_or(true);
    let ranks = pieces::ranks(&vocabulary, &kinds, &scores);
    let model = Model::Pieces { space_prefix, ranks };
    Ok(Parts { vocabulary, kinds, model, adds_bos: true })
}

fn read_scores(gguf: &Gguf<'_>, tokens: usize) -> Result<Vec<f32>, TokenizerError> {
    let array = required(gguf.optional_array(SCORES)?, SCORES)?;
    if array.len() != tokens {
        return Err(TokenizerError::ScoreCount { tokens, scores: array.len() });
    }
    let wrong = GgufError::WrongValue {
        key: SCORES.to_owned(),
        expected: "an array of 32-bit floats",
        got: "an array of something else",
    };
    // Zeros of either sign are one score.
    let scores: Vec<f32> = array.floats().ok_or(wrong)?.map(|score| score + 0.0).collect();
    match scores.iter().position(|score| score.is_nan()) {
        None => Ok(scores),
        Some(id) => Err(TokenizerError::Score { id }),
    }
}

fn read_splitter(gguf: &Gguf<'_>) -> Result<Splitter, TokenizerError> {
    let pre = gguf.optional_str(PRE)?.ok_or(TokenizerError::NoPre)?;
    Splitter::from_name(pre).ok_or_else(|| TokenizerError::Pre { got: pre.to_owned() })
}

fn strings<'a>(gguf: &Gguf<'a>, key: &str, limit: usize) -> Result<Vec<&'a str>, TokenizerError> {
    let array = required(gguf.optional_array(key)?, key)?;
    if array.len() > limit {
        return Err(TokenizerError::TooMany { key: key.to_owned(), got: array.len(), limit });
    }
    let wrong = GgufError::WrongValue {
        key: key.to_owned(),
        expected: "an array of strings",
        got: "an array of something else",
    };
    array.strings().map(Strings::collect).ok_or(TokenizerError::Gguf(wrong))
}

fn read_kinds(
    gguf: &Gguf<'_>,
    tokens: usize,
    has_bytes: bool,
) -> Result<Vec<TokenKind>, TokenizerError> {
    // Without them all tokens are ordinary, as llama.cpp has it.
    let Some(array) = gguf.optional_array(TYPES)? else {
        return Ok(vec![TokenKind::Text; tokens]);
    };
    let wrong = GgufError::WrongValue {
        key: TYPES.to_owned(),
        expected: "an array of 32-bit integers",
        got: "an array of something else",
    };
    if array.len() != tokens {
        return Err(TokenizerError::TypeCount { tokens, types: array.len() });
    }
    let kind = |(id, ty)| match ty {
        1 => Ok(TokenKind::Text),
        2 | 3 => Ok(TokenKind::Control),
        4 => Ok(TokenKind::Added),
        5 => Ok(TokenKind::Unused),
        6 if has_bytes => Ok(TokenKind::Byte),
        got => Err(TokenizerError::TokenType { id, got }),
    };
    array.integers().ok_or(wrong)?.enumerate().map(kind).collect()
}

/// What the file says, or what runtimes do with models of its architecture.
fn read_strips(
    gguf: &Gguf<'_>,
    vocabulary: &Vocabulary,
    kinds: &[TokenKind],
) -> Result<BTreeMap<u32, Strip>, TokenizerError> {
    let mut strips = BTreeMap::<u32, Strip>::new();
    let mut is_stated = false;
    for (key, is_left) in STRIPS.into_iter().zip([true, false]) {
        let Some(array) = gguf.optional_array(key)? else { continue };
        is_stated = true;
        let wrong = || GgufError::WrongValue {
            key: key.to_owned(),
            expected: "an array of 32-bit integers",
            got: "an array of something else",
        };
        for id in array.integers().ok_or_else(wrong)? {
            let strip = strips.entry(u32::try_from(id).unwrap_or(u32::MAX)).or_default();
            (strip.left, strip.right) = (strip.left || is_left, strip.right || !is_left);
        }
    }
    let is_phi = gguf.optional_str("general.architecture")? == Some(STRIPPING)
        && gguf.optional_str(MODEL)? == Some("llama");
    if is_phi && !is_stated {
        let of = |(id, kind): (u32, &TokenKind)| {
            let strips = kind.is_special() && !NOT_STRIPPING.contains(&vocabulary.token(id));
            strips.then_some((id, Strip { left: false, right: true }))
        };
        strips = (0..).zip(kinds).filter_map(of).collect();
    }
    Ok(strips)
}

/// The bytes of all tokens, each as `spelled` reads it.
fn read_vocabulary(
    texts: &[&str],
    kinds: &[TokenKind],
    spelled: impl Fn(usize, &str, TokenKind) -> Result<Vec<u8>, TokenizerError>,
) -> Result<Vocabulary, TokenizerError> {
    let mut tokens = Vec::with_capacity(texts.len());
    for (id, (text, kind)) in texts.iter().zip(kinds).enumerate() {
        let bytes = spelled(id, text, *kind)?;
        if bytes.len() > MAX_TOKEN_BYTES {
            return Err(TokenizerError::LongToken { id, got: bytes.len() });
        }
        tokens.push(bytes);
    }
    Ok(Vocabulary::new(tokens.iter().map(Vec::as_slice))?)
}

fn read_merges(gguf: &Gguf<'_>, texts: &[&str]) -> Result<Vec<Merge>, TokenizerError> {
    let ids: HashMap<&str, u32> = texts.iter().copied().zip(0..).collect();
    let merge = |(rank, rule): (usize, &str)| {
        let (left, right) = rule.split_once(' ').ok_or(TokenizerError::MergeForm { rank })?;
        let id = |token: &str| {
            let unknown = || TokenizerError::MergeToken { rank, token: token.to_owned() };
            ids.get(token).copied().ok_or_else(unknown)
        };
        let joined = [left, right].concat();
        Ok(Merge { left: id(left)?, right: id(right)?, result: id(&joined)? })
    };
    strings(gguf, MERGES, MAX_MERGES)?.into_iter().enumerate().map(merge).collect()
}

fn read_id(gguf: &Gguf<'_>, key: &str, tokens: usize) -> Result<Option<u32>, TokenizerError> {
    let Some(id) = gguf.optional_u64(key)? else { return Ok(None) };
    let unknown = TokenizerError::NoSuchToken { key: key.to_owned(), id, tokens };
    let known = u32::try_from(id).ok().filter(|_| id < tokens as u64);
    known.ok_or(unknown).map(Some)
}

fn read_ends(
    gguf: &Gguf<'_>,
    vocabulary: &Vocabulary,
    definition: &Definition,
) -> Result<Vec<u32>, TokenizerError> {
    let mut ends: BTreeSet<u32> = definition.eos.into_iter().collect();
    for key in OTHER_ENDS {
        ends.extend(read_id(gguf, key, vocabulary.len())?);
    }
    let by_text = |(id, kind): &(u32, &TokenKind)| {
        **kind == TokenKind::Control && END_TEXTS.contains(&vocabulary.token(*id))
    };
    ends.extend((0..).zip(&definition.kinds).filter(by_text).map(|(id, _)| id));
    if ends.len() > MAX_STOP_IDS {
        return Err(TokenizerError::TooMany {
            key: "tokens that end an answer".to_owned(),
            got: ends.len(),
            limit: MAX_STOP_IDS,
        });
    }
    Ok(ends.into_iter().collect())
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
    /// The parts do not hold together.
    #[error("tokenizer: {0}")]
    Definition(#[from] DefinitionError),
    /// A metadata value is missing or of the wrong type.
    #[error("tokenizer: {0}")]
    Gguf(#[from] GgufError),
    /// An ordinary token is spelled with a character that stands for no byte.
    #[error("token {id} holds {letter:?}, which stands for no byte in the byte-level alphabet")]
    Letter {
        /// The token.
        id: usize,
        /// The character.
        letter: char,
    },
    /// The chat template is too long.
    #[error("the chat template has {got} bytes; the limit is {MAX_TEMPLATE_BYTES}")]
    LongTemplate {
        /// Bytes of the template.
        got: usize,
    },
    /// A token is too long.
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
    /// Another kind of tokenizer.
    #[error(
        "the tokenizer is of kind {got:?}; only byte-level BPE (\"gpt2\", as in Llama 3 and Qwen \
         models) and SentencePiece BPE (\"llama\", as in Gemma and Mistral models) can be imported"
    )]
    Model {
        /// The kind the file names.
        got: String,
    },
    /// The file does not say how text is split.
    #[error(
        "the file does not say how text is split before tokenization ({PRE} is missing); export \
         it again with a current exporter"
    )]
    NoPre,
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
        "text is split by the rule {got:?}, which is not known here (known: {}); guessing would \
         give wrong tokens",
        Splitter::NAMES
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
    /// A score that is no number.
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
    /// The vocabulary is refused.
    #[error("tokenizer: {0}")]
    Vocabulary(#[from] DecodeError),
}
