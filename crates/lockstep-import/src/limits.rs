//! Every bound this crate puts on what it reads, in one place.
//!
//! A file that passes a bound is refused with an error that names the bound; nothing is ever cut
//! short silently, and nothing is allocated from a length a file claims before the length was
//! compared with the bytes that are really there.

/// Metadata pairs in one GGUF file (real ones have about 40).
pub const MAX_METADATA_PAIRS: u64 = 4096;
/// The most bytes of one metadata key.
pub const MAX_KEY_BYTES: u64 = 256;
/// Bytes of one metadata string that is a value of its own (the longest in practice is a whole
/// `tokenizer.json`, which some exporters add and nothing here reads).
pub const MAX_VALUE_BYTES: u64 = 128 << 20;
/// Bytes of one string in a metadata array (tokens and merges).
pub const MAX_STRING_BYTES: u64 = 1 << 20;
/// Items of one metadata array (tokens and merges are the longest in practice).
pub const MAX_ARRAY_ITEMS: u64 = 1 << 22;
/// The most tensors in one GGUF file.
pub const MAX_TENSORS: u64 = 1 << 16;
/// The most files of one split model.
pub const MAX_SHARDS: usize = 1024;
/// The most bytes of one tensor's name.
pub const MAX_TENSOR_NAME_BYTES: u64 = 128;
/// The most dimensions of one tensor.
pub const MAX_TENSOR_DIMS: usize = 4;
/// The largest value of `general.alignment`.
pub const MAX_ALIGNMENT: u64 = 1 << 20;

/// Bytes of a safetensors file's directory.
pub const MAX_SAFETENSORS_HEADER: u64 = 64 << 20;
/// Bytes of a `config.json` or `tokenizer_config.json`.
pub const MAX_CONFIG_BYTES: usize = 4 << 20;
/// Bytes of a `tokenizer.json` (the longest in use have about 35,000,000).
pub const MAX_TOKENIZER_JSON_BYTES: usize = 128 << 20;

/// The most tokens in a vocabulary.
pub const MAX_VOCAB: usize = lockstep_exact::limits::VOCABULARY;
/// The most merge rules of a tokenizer.
pub const MAX_MERGES: usize = 1 << 21;
/// Bytes of all merge rules' results together (real ones have about 2,000,000): the library keeps
/// each rule as text while it reads them.
pub const MAX_MERGE_BYTES: usize = 64 << 20;
/// The most bytes that one token stands for.
pub const MAX_TOKEN_BYTES: usize = lockstep_exact::limits::TOKEN_BYTES;
/// Squares of the lengths in bytes of all tokens of a SentencePiece model, added up (Gemma's have
/// about 20,000,000): finding the merges that make a token takes that many steps.
pub const MAX_PIECE_WORK: usize = 1 << 30;
/// The most token ids that end a turn.
pub const MAX_STOP_IDS: usize = lockstep_exact::limits::END_TOKENS;
/// Bytes of text given to the tokenizer at once.
pub const MAX_TEXT_BYTES: usize = 4 << 20;
/// Bytes of text once it is rewritten (a normal form makes up to 11 characters of one).
pub const MAX_REWRITTEN_BYTES: usize = 4 * MAX_TEXT_BYTES;
/// Bytes that one rewriting step may put in place of others.
pub const MAX_REWRITE_BYTES: usize = 256;
/// Rewriting steps of a tokenizer, and cutting steps (real ones have up to 9).
pub const MAX_STEPS: usize = 32;
/// Bytes of a regular expression that cuts text (real ones have up to 1,500).
pub const MAX_EXPRESSION_BYTES: usize = 1 << 14;
/// Groups of such an expression that stand in each other.
pub const MAX_EXPRESSION_DEPTH: usize = 32;
/// Repetitions that such an expression may count (`{512}` is the most in use).
pub const MAX_EXPRESSION_REPEATS: u32 = 1024;
/// Operations of such an expression.
pub const MAX_EXPRESSION_OPERATIONS: usize = 1 << 14;
/// Steps that the expressions of a tokenizer may take in one text, and how many more for each of
/// its bytes (real ones take up to 20 in real texts): a character looked at, a way tried again.
pub const SPLIT_STEPS: u64 = 1 << 22;
/// The steps that each byte of a text adds to [`SPLIT_STEPS`].
pub const SPLIT_STEPS_PER_BYTE: u64 = 64;
/// Ways that an expression may leave for later at one place of a text.
pub const MAX_SPLIT_CHOICES: usize = 1 << 22;
/// Bytes of a piece times those of the longest token of a Unigram model (Gemma's longest has 48):
/// finding its best spelling takes up to that many steps.
pub const MAX_UNIGRAM_WORK: usize = 1 << 30;

/// Bytes of a chat template's source (the longest in use have about 20,000).
pub const MAX_TEMPLATE_BYTES: usize = 64 << 10;
/// Levels of expressions and tags inside each other in a chat template.
pub const MAX_TEMPLATE_NESTING: usize = 200;
/// Stack on which a chat template is rendered: for [`MAX_RENDER_DEPTH`] levels of some kilobytes.
pub const RENDER_STACK_BYTES: usize = 128 << 20;
/// Levels of expressions, bodies and macro calls inside each other while a chat template runs.
pub const MAX_RENDER_DEPTH: u32 = 4096;
/// Levels of lists and dicts inside each other that a chat template may make.
pub const MAX_VALUE_DEPTH: u32 = 512;
/// Work a chat template may do: one unit for each part of an expression, each item looked at, and
/// each 64 bytes read or written.
pub const RENDER_FUEL: u64 = 1 << 22;
/// Bytes of all values that a chat template makes together, however short they live.
pub const RENDER_MEMORY: usize = 128 << 20;
/// Templates of one model: `default`, `tool_use`, and others by name.
pub const MAX_TEMPLATES: usize = 16;
/// Bytes of the name of such a template.
pub const MAX_TEMPLATE_NAME_BYTES: usize = 128;
/// Bytes a rendered chat template may have: what the tokenizer takes.
pub const MAX_RENDERED_BYTES: usize = MAX_TEXT_BYTES;

/// The most entries of a wheel's directory.
pub const MAX_WHEEL_ENTRIES: usize = 1 << 16;
/// Files of a remote repository's listing.
pub const MAX_LISTED_FILES: usize = 1 << 16;
/// Bytes of a remote repository's listing.
pub const MAX_LISTING_BYTES: usize = 16 << 20;

const _: () = assert!(MAX_TEMPLATE_BYTES as u64 <= MAX_VALUE_BYTES);
const _: () = assert!(MAX_VOCAB as u64 <= MAX_ARRAY_ITEMS && MAX_MERGES as u64 <= MAX_ARRAY_ITEMS);
const _: () = assert!(8 * MAX_RENDERED_BYTES as u64 <= RENDER_FUEL * 64, "long chats may render");
const _: () = assert!(8 * MAX_RENDERED_BYTES <= RENDER_MEMORY, "long chats may render");
const _: () = assert!(MAX_RENDER_DEPTH as usize * 16_384 <= RENDER_STACK_BYTES);
const _: () = assert!(MAX_RENDERED_BYTES <= MAX_TEXT_BYTES);
