//! The metadata keys that describe a tokenizer.

pub(crate) const MODEL: &str = "tokenizer.ggml.model";
pub(crate) const PRE: &str = "tokenizer.ggml.pre";
pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(crate) const TYPES: &str = "tokenizer.ggml.token_type";
pub(crate) const MERGES: &str = "tokenizer.ggml.merges";
pub(crate) const SCORES: &str = "tokenizer.ggml.scores";
pub(crate) const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
/// A table for rewriting text before it is split, as T5 has one.
pub(crate) const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
/// Whether spaces in a row are one.
pub(crate) const EXTRA_SPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";
/// Rules for rewriting text that no SentencePiece BPE model in use has.
pub(crate) const REWRITES: [&str; 2] = [CHARSMAP, EXTRA_SPACES];
pub(crate) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(crate) const EOS: &str = "tokenizer.ggml.eos_token_id";
pub(crate) const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
pub(crate) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(crate) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
/// The chat template for every chat; behind a dot follow the names of others.
pub(crate) const TEMPLATE: &str = "tokenizer.chat_template";
/// Keys of further tokens that end an answer.
pub(crate) const OTHER_ENDS: [&str; 2] =
    ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

// No exporter writes the keys below: they are how folders say what GGUF files have no word for.

/// Ids of tokens that swallow white space before or behind them.
pub(crate) const STRIPS: [&str; 2] =
    ["tokenizer.lockstep.strip_left", "tokenizer.lockstep.strip_right"];
/// Ids of tokens that count only where no word goes on beside them.
pub(crate) const WORDS: &str = "tokenizer.lockstep.single_word";
/// Ids of tokens that are looked for in rewritten text.
pub(crate) const REWRITTEN: &str = "tokenizer.lockstep.normalized";
/// Ids of tokens that texts are searched for with the mark where they have a space.
pub(crate) const MARKED: &str = "tokenizer.lockstep.marked";
/// Ids of tokens that end an answer.
pub(crate) const ENDS: &str = "tokenizer.lockstep.end_ids";
/// The steps from text to pieces in their canonical encoding, a number a byte.
pub(crate) const STEPS: &str = "tokenizer.lockstep.steps";
/// Whether a piece that is a token as a whole is that token.
pub(crate) const TAKES_WHOLE: &str = "tokenizer.lockstep.ignore_merges";
/// The character that stands for a space; empty if none does.
pub(crate) const MARK: &str = "tokenizer.lockstep.mark";
/// Whether unknown characters in a row are one token.
pub(crate) const FUSES_UNKNOWN: &str = "tokenizer.lockstep.fuse_unk";
/// Scores in binary64, the low half of each and then the high half.
pub(crate) const SCORE_BITS: &str = "tokenizer.lockstep.scores";
