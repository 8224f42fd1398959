//! The errors of reading a model's folder.

use crate::foreign::Foreign;
use crate::limits::{MAX_SAFETENSORS_HEADER, MAX_SHARDS, MAX_TENSOR_DIMS, MAX_TENSORS, MAX_VOCAB};

/// The rules that a folder of a model can break. Names taken from its files are shown escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    /// Not all products have the bias that the settings speak of.
    #[error("config.json: attention_bias asks for {expected} biases; there are {got}")]
    Biases {
        /// Biases among the tensors.
        got: u64,
        /// Four for each layer.
        expected: u64,
    },
    /// A layer with experts that should have none, or the other way round.
    #[error(
        "config.json: layer {layer} should have {}; its tensors say otherwise",
        if *.expected { "experts" } else { "no experts" }
    )]
    ExpertLayer {
        /// The layer.
        layer: u64,
        /// Whether it should have experts.
        expected: bool,
    },
    /// The index names a file outside the folder, or of another kind.
    #[error("the index names {name:?}, which is not the plain name of a safetensors file")]
    FileName {
        /// The name.
        name: String,
    },
    /// A file is something else than its name says.
    #[error("{file}: {is}")]
    Foreign {
        /// The file's name.
        file: String,
        /// What it looks like.
        is: Foreign,
    },
    /// A file is not the JSON it should be.
    #[error("{file}: {reason}")]
    Json {
        /// The file's name.
        file: String,
        /// The reader's words.
        reason: String,
    },
    /// A file is longer than the limit.
    #[error("{file} has {got} bytes; the limit is {limit}")]
    LongFile {
        /// The file's name.
        file: String,
        /// Its bytes.
        got: usize,
        /// The bound.
        limit: usize,
    },
    /// The directory of a file of weights is too long.
    #[error("{file}: the header has {got} bytes; the limit is {MAX_SAFETENSORS_HEADER}")]
    LongHeader {
        /// The file's name.
        file: String,
        /// Its stated length.
        got: u64,
    },
    /// A merge does not consist of two tokens.
    #[error("tokenizer.json: merge {rank} is not two tokens with a space between them")]
    MergeForm {
        /// The merge's place in the list.
        rank: usize,
    },
    /// A value that is needed is not there.
    #[error("{file}: {key:?} is missing")]
    Missing {
        /// The file's name.
        file: String,
        /// The key.
        key: String,
    },
    /// The folder is of a kind of model that can't be imported.
    #[error(
        "config.json: the model is of type {got:?}; folders of \"llama\", \"mistral\", \
         \"mixtral\", \"qwen2\", \"qwen2_moe\", \"qwen3\", \"qwen3_moe\", \"gemma3_text\" and \
         \"phi3\" models can be imported"
    )]
    ModelType {
        /// The type.
        got: String,
    },
    /// The settings name a token that does not exist.
    #[error("tokenizer_config.json: {name} is {text:?}, which is no token of the model")]
    NamedToken {
        /// What the token is for.
        name: String,
        /// Its text.
        text: String,
    },
    /// Several files of weights, and nothing that says which tensor is where.
    #[error("{files} files of weights without model.safetensors.index.json")]
    NoIndex {
        /// How many files there are.
        files: usize,
    },
    /// A tensor that the index does not name.
    #[error("tensor {tensor:?} is not in the index")]
    NotInIndex {
        /// The tensor's name.
        tensor: String,
    },
    /// A tensor is not where the index says.
    #[error("the index says that tensor {tensor:?} is in {file:?}; it is not")]
    NotThere {
        /// The tensor's name.
        tensor: String,
        /// The file's name.
        file: String,
    },
    /// A tensor's bytes do not lie inside the file, or are not as many as its shape says.
    #[error(
        "tensor {tensor:?} needs {bytes} bytes and has the range {start} to {end} of the data, \
         which has {available}; the file is truncated or damaged"
    )]
    OutsideFile {
        /// The tensor's name.
        tensor: String,
        /// Where its bytes start.
        start: u64,
        /// Where they end.
        end: u64,
        /// How many bytes its shape implies.
        bytes: u64,
        /// Size of the data.
        available: u64,
    },
    /// Two tensors share bytes of a file.
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The tensor that starts inside it.
        second: String,
    },
    /// The weights are quantised in a way that is not read.
    #[error(
        "the weights are quantised by {by}{}, which cannot be imported: fetch the original folder \
         (F16 or BF16), or a GGUF file of the model (Q8_0, Q4_K_M); --weights w4 makes 4-bit \
         weights of either",
        .bits.map_or_else(String::new, |bits| format!(" in {bits} bits"))
    )]
    Quantised {
        /// The method's name.
        by: String,
        /// Bits of a weight, if the settings say so.
        bits: Option<u64>,
    },
    /// A setting that changes how the model works.
    #[error("config.json: {key:?} is {value}, which cannot be imported")]
    Setting {
        /// The key.
        key: String,
        /// The beginning of its value.
        value: String,
    },
    /// A tensor's dimensions are none, too many, empty or too large.
    #[error(
        "tensor {tensor:?} has the shape {shape:?}: 1 to {MAX_TENSOR_DIMS} dimensions of at least \
         1 were expected"
    )]
    Shape {
        /// The tensor's name.
        tensor: String,
        /// Its dimensions, slowest first.
        shape: Vec<u64>,
    },
    /// A tensor occurs more than once in the folder.
    #[error("tensor {name:?} occurs twice")]
    TensorTwice {
        /// The tensor's name.
        name: String,
    },
    /// A token id past the end of the vocabulary.
    #[error("tokenizer.json: there is a token {id}, but the model has {vocabulary} ids")]
    TokenId {
        /// The id.
        id: u32,
        /// Ids of the model.
        vocabulary: usize,
    },
    /// Two tokens have the same id.
    #[error("tokenizer.json: there are two tokens {id}")]
    TokenIdTwice {
        /// The id.
        id: u32,
    },
    /// A field of the tokenizer that changes ids and is not understood.
    #[error("tokenizer.json: {field} is {value}: {why}")]
    Tokenizer {
        /// The field.
        field: &'static str,
        /// What it holds, shortened.
        value: String,
        /// Why it is refused.
        why: String,
    },
    /// The tokenizer is of a kind that can't be imported.
    #[error(
        "tokenizer.json: the model is of type {got:?}; only \"BPE\" and \"Unigram\" can be imported"
    )]
    TokenizerModel {
        /// The type.
        got: String,
    },
    /// The index names more files of weights than the limit.
    #[error("{got} files of weights, more than the limit of {MAX_SHARDS}")]
    TooManyFiles {
        /// How many there are.
        got: usize,
    },
    /// A file has more tensors than the limit.
    #[error("{got} tensors in one file, more than the limit of {MAX_TENSORS}")]
    TooManyTensors {
        /// How many there are.
        got: usize,
    },
    /// A file of weights ends too early.
    #[error("{file} ends inside its header; it is truncated or damaged")]
    Truncated {
        /// The file's name.
        file: String,
    },
    /// A tensor is stored in a type that cannot be imported.
    #[error(
        "tensor {tensor:?} is stored as {dtype:?}{}; F32, F16 and BF16 can be imported, and \
         quantised models as GGUF files: fetch the original folder or a GGUF file (Q8_0, Q4_K_M)",
        about_type(.dtype)
    )]
    Type {
        /// The tensor's name.
        tensor: String,
        /// The type.
        dtype: String,
    },
    /// A tensor that a plain model does not have.
    #[error(
        "tensor {name:?} does not belong to a plain {architecture} model; it cannot be imported"
    )]
    UnknownTensor {
        /// The tensor's name.
        name: String,
        /// What GGUF files call the model's architecture.
        architecture: &'static str,
    },
    /// The model has more token ids than the limit.
    #[error("config.json: vocab_size is {got}; the limit is {MAX_VOCAB}")]
    Vocabulary {
        /// The stated number.
        got: u64,
    },
    /// A value of the wrong type, or at odds with another.
    #[error("{file}: {key:?} is not what was expected")]
    Wrong {
        /// The file's name.
        file: String,
        /// The key.
        key: String,
    },
}

impl FolderError {
    /// Returns the refusal of a file that should be JSON and can't be read as such: what it is
    /// instead, if that can be told.
    pub(super) fn json(file: &str, bytes: &[u8], error: &serde_json::Error) -> Self {
        let file = file.to_owned();
        match Foreign::of(bytes) {
            None | Some(Foreign::Json | Foreign::Text) => {
                Self::Json { file, reason: error.to_string() }
            }
            Some(is) => Self::Foreign { file, is },
        }
    }

    /// Returns the error that refuses `field` of `tokenizer.json`, with as much of its `value` as a
    /// person can read.
    pub(super) fn tokenizer(
        field: &'static str,
        value: impl ToString,
        why: impl Into<String>,
    ) -> Self {
        const SHOWN: usize = 160;
        let whole = value.to_string();
        let mut value: String = whole.chars().take(SHOWN).collect();
        if value.len() < whole.len() {
            value.push_str("...");
        }
        Self::Tokenizer { field, value, why: why.into() }
    }
}

/// Returns a sentence about a type of numbers that can't be read.
fn about_type(dtype: &str) -> &'static str {
    match dtype {
        "F8_E4M3" | "F8_E5M2" => " (8-bit floats)",
        "F8_E8M0" | "F4" => " (4-bit floats with scales: MXFP4 or NVFP4)",
        "U8" | "I8" | "U16" | "I16" | "U32" | "I32" | "I64" | "U64" => " (codes of a quantiser)",
        "F64" => " (64-bit floats)",
        _ => "",
    }
}
