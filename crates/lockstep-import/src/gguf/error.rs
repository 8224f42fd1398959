//! The errors of reading a GGUF file.

use super::TensorType;
use crate::foreign::Foreign;
use crate::limits::{MAX_ALIGNMENT, MAX_TENSOR_DIMS};

/// The rules of the format that a GGUF file can break. Names taken from the file are shown escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// `general.alignment` is out of range.
    #[error("general.alignment is {got}; it must be a power of two from 8 to {MAX_ALIGNMENT}")]
    Alignment {
        /// The stated alignment.
        got: u64,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("metadata {key:?} holds {got} where a boolean (0 or 1) was expected")]
    BadBool {
        /// The metadata key.
        key: String,
        /// The byte found.
        got: u8,
    },
    /// The file is stored in big-endian byte order.
    #[error("this is a big-endian GGUF file; export it again on (or for) a little-endian machine")]
    BigEndian,
    /// A tensor has no dimension, or too many.
    #[error("tensor {tensor:?} has {got} dimensions; 1 to {MAX_TENSOR_DIMS} were expected")]
    Dimensions {
        /// The tensor's name.
        tensor: String,
        /// The stated number of dimensions.
        got: u32,
    },
    /// One file of a split model is malformed.
    #[error("in file {shard} of the split model: {error}")]
    InShard {
        /// The file's place in the list, from 1.
        shard: usize,
        /// What is wrong with it.
        error: Box<Self>,
    },
    /// A string in the metadata is longer than the limit.
    #[error("metadata {key:?} has {got} bytes, more than the limit of {limit}")]
    LongValue {
        /// The metadata key.
        key: String,
        /// The string's length in bytes.
        got: u64,
        /// The bound.
        limit: u64,
    },
    /// A metadata key occurs more than once.
    #[error("metadata key {key:?} occurs twice")]
    KeyTwice {
        /// The key.
        key: String,
    },
    /// A tensor does not start at a multiple of the alignment.
    #[error("tensor {tensor:?} starts at offset {offset}, not a multiple of {alignment}")]
    Misaligned {
        /// The tensor's name.
        tensor: String,
        /// Its offset in the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A metadata key that is needed is not there.
    #[error("metadata key {key:?} is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A tensor that is needed is not there.
    #[error("tensor {name:?} is missing")]
    MissingTensor {
        /// The tensor's name.
        name: String,
    },
    /// A metadata value is an array of arrays.
    #[error("metadata {key:?} is an array of arrays, which no supported key uses")]
    NestedArray {
        /// The metadata key.
        key: String,
    },
    /// An infinity or a NaN among the weights.
    #[error("tensor {tensor:?} holds a number that is not finite at row {row}, column {column}")]
    NotFinite {
        /// The tensor's name.
        tensor: String,
        /// Row of the first such number.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// The file does not begin with the magic bytes.
    #[error("not a GGUF file: {}", not_gguf(.got, *.is))]
    NotGguf {
        /// The first four bytes, or all of a shorter file.
        got: Vec<u8>,
        /// What it looks like.
        is: Option<Foreign>,
    },
    /// A string in the file is not UTF-8.
    #[error("the {what} at byte {at} is not UTF-8")]
    NotUtf8 {
        /// What was being read.
        what: &'static str,
        /// Where in the file.
        at: u64,
    },
    /// A tensor's bytes do not lie inside the file.
    #[error(
        "tensor {tensor:?} needs {bytes} bytes at offset {offset} of the data section, which has \
         {available}; the file is truncated or damaged: download it again"
    )]
    OutsideFile {
        /// The tensor's name.
        tensor: String,
        /// Its offset in the data section.
        offset: u64,
        /// Its size.
        bytes: u64,
        /// The size of the data section.
        available: u64,
    },
    /// Two tensors share bytes of the data section.
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The tensor that starts inside it.
        second: String,
    },
    /// A file is a part of more, or fewer, files than there are.
    #[error("file {shard} is one of {stated}, but {given} are given")]
    ShardCount {
        /// The file's place in the list, from 1.
        shard: usize,
        /// How many files it says there are.
        stated: u64,
        /// How many there are.
        given: usize,
    },
    /// A later file of a split model says something else than the first.
    #[error("part {shard} of the split model contradicts part 1, or adds to it, in {key:?}")]
    ShardMetadata {
        /// The part, from 1.
        shard: usize,
        /// The metadata key.
        key: String,
    },
    /// A part of a split model is not among the files; another is there twice.
    #[error("part {shard} of {count} is missing; another part is given twice")]
    ShardMissing {
        /// The part, from 1.
        shard: usize,
        /// How many parts there are.
        count: usize,
    },
    /// A file does not say which part it is.
    #[error("file {shard} is part {number} by its own count from 0; there are {count} parts")]
    ShardNumber {
        /// The file's place in the list, from 1.
        shard: usize,
        /// What the file says.
        number: String,
        /// How many parts there are.
        count: usize,
    },
    /// The parts have more, or fewer, tensors together than the first says.
    #[error("the parts hold {got} tensors; the first says {stated}")]
    ShardTensors {
        /// How many the first part says there are.
        stated: u64,
        /// How many there are.
        got: u64,
    },
    /// A tensor's dimensions are empty, too large, or do not hold whole blocks of its type.
    #[error(
        "tensor {tensor:?} of type {ty} has dimensions {dims:?}: each must be at least 1, the \
         first a multiple of {}, and the whole must fit 64 bits", ty.block_len()
    )]
    Shape {
        /// The tensor's name.
        tensor: String,
        /// Its dimensions, fastest first, padded with ones.
        dims: [u64; MAX_TENSOR_DIMS],
        /// Its type.
        ty: TensorType,
    },
    /// A tensor name occurs more than once.
    #[error("tensor {name:?} occurs twice")]
    TensorTwice {
        /// The name.
        name: String,
    },
    /// More of something than the bound allows.
    #[error("{what}: {got}, more than the limit of {limit}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The stated count.
        got: u64,
        /// The bound.
        limit: u64,
    },
    /// The file ends before a value is complete.
    #[error(
        "the file ends inside the {what}: {need} bytes needed at byte {at}, {left} left; it is \
         truncated or damaged: download it again"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where in the file.
        at: u64,
        /// Bytes needed.
        need: u64,
        /// Bytes left.
        left: u64,
    },
    /// A tensor is stored in a type that cannot be imported.
    #[error(
        "tensor {tensor:?} is stored as {ty}: {reason}; take a file of the model in Q8_0 \
         (recommended), F32, F16, BF16, Q2_K to Q6_K, Q4_0 to Q5_1, IQ1 to IQ4, TQ1_0, TQ2_0 or \
         MXFP4"
    )]
    UnsupportedTensorType {
        /// The tensor's name.
        tensor: String,
        /// The type's name, or its number.
        ty: String,
        /// What it is.
        reason: &'static str,
    },
    /// A metadata value of a type that GGUF does not define.
    #[error("metadata {key:?} has value type {got}, which GGUF does not define")]
    ValueType {
        /// The metadata key.
        key: String,
        /// The type number.
        got: u32,
    },
    /// A GGUF version other than 2 and 3.
    #[error(
        "GGUF version {got}; versions 2 and 3 can be imported: {}", match .got {
            1 => "version 1 was written for a few days in August 2023; take a newer file",
            _ => "a newer program may read it",
        }
    )]
    Version {
        /// The stated version.
        got: u32,
    },
    /// A tensor has another shape than the model needs.
    #[error("tensor {tensor:?} has dimensions {got:?}; the model needs {rows} rows × {cols}")]
    WrongShape {
        /// The tensor's name.
        tensor: String,
        /// Its dimensions, fastest first, padded with ones.
        got: [u64; MAX_TENSOR_DIMS],
        /// Rows the model needs.
        rows: usize,
        /// Columns the model needs.
        cols: usize,
    },
    /// A metadata value of another type than its key has.
    #[error("metadata {key:?} is {got}; {expected} was expected")]
    WrongValue {
        /// The metadata key.
        key: String,
        /// What the key holds.
        expected: &'static str,
        /// What was found.
        got: &'static str,
    },
}

/// Returns a sentence about a file that is no GGUF file: its beginning, and what it looks like.
fn not_gguf(got: &[u8], is: Option<Foreign>) -> String {
    match is {
        Some(kind) => kind.to_string(),
        None => format!("it begins with {got:02x?}, not with \"GGUF\""),
    }
}
