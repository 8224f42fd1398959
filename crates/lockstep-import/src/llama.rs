//! The Llama family as GGUF files describe it: hyperparameters, and which tensor is what.
//!
//! Strict both ways: a hyperparameter or tensor that is needed and absent is an error, and so is
//! one that is present and not understood, since ignoring it would silently change the answers.
//! Of positional scaling only per-pair frequency factors (`rope_freqs.weight`) are read.

use std::collections::BTreeSet;

use lockstep_exact::limits as exact_limits;
use lockstep_exact::matrix::COLUMNS_MAX;

use crate::gguf::{Gguf, GgufError, Matrix, Value, required};
use crate::rope;

/// Keys under `llama.` that are understood, or say nothing about the answers.
const KNOWN: [&str; 16] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "tensor_data_layout",
    "vocab_size",
];
const PREFIX: &str = "llama.";
/// `rope.freq_base` of files that do not state one.
const DEFAULT_BASE: f32 = 10_000.0;
/// The output matrix; a file without it uses the embedding.
pub(crate) const OUTPUT: &str = "output.weight";
const FACTORS: &str = "rope_freqs.weight";

/// A checked description of a Llama model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Llama {
    pub(crate) layers: u32,
    pub(crate) hidden: u32,
    pub(crate) inner: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) context: u32,
    pub(crate) vocabulary: u32,
    pub(crate) eps: f32,
    /// Turn per position of each pair.
    pub(crate) frequencies: Vec<u64>,
}

/// The tensors of one layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerTensors<'a> {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query: Matrix<'a>,
    pub(crate) key: Matrix<'a>,
    pub(crate) value: Matrix<'a>,
    pub(crate) output: Matrix<'a>,
    pub(crate) ffn_norm: Vec<f32>,
    pub(crate) gate: Matrix<'a>,
    pub(crate) up: Matrix<'a>,
    pub(crate) down: Matrix<'a>,
}

/// The tensors outside the layers.
#[derive(Debug, Clone)]
pub(crate) struct HeadTensors<'a> {
    pub(crate) embedding: Matrix<'a>,
    pub(crate) norm: Vec<f32>,
    /// Absent if the embedding serves as the output matrix too.
    pub(crate) output: Option<Matrix<'a>>,
}

impl Llama {
    /// Reads the hyperparameters of a model with `vocabulary` tokens.
    pub(crate) fn read(gguf: &Gguf<'_>, vocabulary: usize) -> Result<Self, LlamaError> {
        check_keys(gguf)?;
        let limit = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
        let hidden = size(gguf, "embedding_length", limit(exact_limits::HIDDEN))?;
        if !hidden.is_multiple_of(32) {
            return Err(refused("embedding_length", hidden, "a multiple of 32"));
        }
        let heads = size(gguf, "attention.head_count", limit(exact_limits::HEADS))?;
        let kv_heads = optional_size(gguf, "attention.head_count_kv", heads)?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(refused("attention.head_count_kv", kv_heads, "a divisor of head_count"));
        }
        let head_dim = read_head_dim(gguf, hidden, heads)?;
        let queries = heads as usize * head_dim as usize;
        if queries > COLUMNS_MAX {
            let expected = format!("heads whose sizes add up to at most {COLUMNS_MAX}");
            return Err(refused("attention.head_count", heads, &expected));
        }
        let vocabulary = check_vocabulary(gguf, vocabulary)?;
        let context = size(gguf, "context_length", u32::MAX)?;
        Ok(Self {
            layers: size(gguf, "block_count", limit(exact_limits::LAYERS))?,
            hidden,
            inner: size(gguf, "feed_forward_length", limit(exact_limits::INNER))?,
            heads,
            kv_heads,
            head_dim,
            context: context.min(limit(exact_limits::CONTEXT)),
            vocabulary,
            eps: read_eps(gguf)?,
            frequencies: read_frequencies(gguf, head_dim)?,
        })
    }

    /// Outputs of the query product.
    pub(crate) fn query_width(&self) -> usize {
        self.heads as usize * self.head_dim as usize
    }

    /// Outputs of the key product, and of the value product.
    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads as usize * self.head_dim as usize
    }

    /// Finds the tensors of layer `layer`, each of the right shape.
    pub(crate) fn layer<'a>(
        &self,
        gguf: &Gguf<'a>,
        layer: u32,
    ) -> Result<LayerTensors<'a>, LlamaError> {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let (hidden, inner) = (self.hidden as usize, self.inner as usize);
        let (queries, kv) = (self.query_width(), self.kv_width());
        let matrix = |part, rows, cols| gguf.matrix(&name(part), rows, cols);
        Ok(LayerTensors {
            attention_norm: norm(gguf, &name("attn_norm"), hidden)?,
            query: matrix("attn_q", queries, hidden)?,
            key: matrix("attn_k", kv, hidden)?,
            value: matrix("attn_v", kv, hidden)?,
            output: matrix("attn_output", hidden, queries)?,
            ffn_norm: norm(gguf, &name("ffn_norm"), hidden)?,
            gate: matrix("ffn_gate", inner, hidden)?,
            up: matrix("ffn_up", inner, hidden)?,
            down: matrix("ffn_down", hidden, inner)?,
        })
    }

    /// Finds the tensors outside the layers, each of the right shape.
    pub(crate) fn head<'a>(&self, gguf: &Gguf<'a>) -> Result<HeadTensors<'a>, LlamaError> {
        let (vocabulary, hidden) = (self.vocabulary as usize, self.hidden as usize);
        let output = match gguf.tensor(OUTPUT) {
            Some(tensor) => Some(tensor.matrix(vocabulary, hidden)?),
            None => None,
        };
        let embedding = gguf.matrix("token_embd.weight", vocabulary, hidden)?;
        Ok(HeadTensors { embedding, norm: norm(gguf, "output_norm.weight", hidden)?, output })
    }

    /// Refuses a file with a tensor that no part of the model takes.
    pub(crate) fn check_names(&self, gguf: &Gguf<'_>) -> Result<(), LlamaError> {
        const PARTS: [&str; 9] = [
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_norm",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ];
        let in_layers = (0..self.layers)
            .flat_map(|layer| PARTS.map(|part| format!("blk.{layer}.{part}.weight")));
        let outside = ["token_embd.weight", "output_norm.weight", OUTPUT, FACTORS];
        let known: BTreeSet<String> =
            in_layers.chain(outside.into_iter().map(str::to_owned)).collect();
        match gguf.tensors().iter().find(|tensor| !known.contains(tensor.name())) {
            None => Ok(()),
            Some(tensor) => Err(LlamaError::UnknownTensor { name: tensor.name().to_owned() }),
        }
    }
}

/// Refuses files of another architecture, adapters, and parts of a split model.
pub(crate) fn check_kind(gguf: &Gguf<'_>) -> Result<(), LlamaError> {
    let architecture =
        required(gguf.optional_str("general.architecture")?, "general.architecture")?;
    if gguf.optional_u64("split.count")?.is_some_and(|count| count > 1) {
        return Err(LlamaError::Split);
    }
    let kind = gguf.optional_str("general.type")?.unwrap_or("model");
    if kind != "model" {
        return Err(LlamaError::Kind { got: kind.to_owned() });
    }
    if architecture != "llama" {
        return Err(LlamaError::Architecture { got: architecture.to_owned() });
    }
    Ok(())
}

fn check_keys(gguf: &Gguf<'_>) -> Result<(), LlamaError> {
    for (key, value) in gguf.metadata() {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        let known = match name {
            "expert_count" | "expert_used_count" => *value == Value::Unsigned(0),
            "rope.scaling.type" => *value == Value::String("none"),
            _ => KNOWN.contains(&name),
        };
        if !known {
            return Err(LlamaError::UnknownKey { key: key.to_owned() });
        }
    }
    Ok(())
}

fn refused(name: &str, got: impl ToString, expected: &str) -> LlamaError {
    let expected = expected.to_owned();
    LlamaError::Hyperparameter { key: format!("{PREFIX}{name}"), got: got.to_string(), expected }
}

/// A size from 1 to `limit`.
fn optional_size(gguf: &Gguf<'_>, name: &str, limit: u32) -> Result<Option<u32>, LlamaError> {
    let Some(got) = gguf.optional_u64(&format!("{PREFIX}{name}"))? else { return Ok(None) };
    let size = u32::try_from(got).ok().filter(|size| (1..=limit).contains(size));
    size.map(Some).ok_or_else(|| refused(name, got, &format!("1 to {limit}")))
}

fn size(gguf: &Gguf<'_>, name: &str, limit: u32) -> Result<u32, LlamaError> {
    Ok(required(optional_size(gguf, name, limit)?, &format!("{PREFIX}{name}"))?)
}

/// Elements of a head; queries, keys, values and rotation must agree on it.
fn read_head_dim(gguf: &Gguf<'_>, hidden: u32, heads: u32) -> Result<u32, LlamaError> {
    let limit = u32::try_from(exact_limits::HEAD_DIM).unwrap_or(u32::MAX);
    let head_dim = match optional_size(gguf, "attention.key_length", limit)? {
        Some(stated) => stated,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(refused("attention.head_count", heads, "a divisor of embedding_length"));
        }
    };
    if !head_dim.is_multiple_of(2) || head_dim > limit {
        return Err(refused("attention.key_length", head_dim, &format!("even, at most {limit}")));
    }
    for name in ["attention.value_length", "rope.dimension_count"] {
        let stated = optional_size(gguf, name, u32::MAX)?.unwrap_or(head_dim);
        if stated != head_dim {
            return Err(refused(name, stated, &format!("{head_dim}, the size of a head")));
        }
    }
    Ok(head_dim)
}

fn check_vocabulary(gguf: &Gguf<'_>, tokens: usize) -> Result<u32, LlamaError> {
    let counted = u32::try_from(tokens).unwrap_or(u32::MAX);
    let stated = optional_size(gguf, "vocab_size", u32::MAX)?.unwrap_or(counted);
    if stated == counted {
        return Ok(counted);
    }
    Err(refused("vocab_size", stated, &format!("{tokens}, the number of tokens in the tokenizer")))
}

fn read_eps(gguf: &Gguf<'_>) -> Result<f32, LlamaError> {
    const NAME: &str = "attention.layer_norm_rms_epsilon";
    let key = format!("{PREFIX}{NAME}");
    let eps = required(gguf.optional_f32(&key)?, &key)?;
    // 2^-60 is what the exact arithmetic takes; no model comes near.
    let fits = (f32::from_bits((127 - 60) << 23)..=1.0).contains(&eps);
    if fits { Ok(eps) } else { Err(refused(NAME, eps, "a number in [2^-60, 1]")) }
}

fn read_frequencies(gguf: &Gguf<'_>, head_dim: u32) -> Result<Vec<u64>, LlamaError> {
    const NAME: &str = "rope.freq_base";
    let base = gguf.optional_f32(&format!("{PREFIX}{NAME}"))?.unwrap_or(DEFAULT_BASE);
    if !(1.0..=1e12).contains(&base) {
        return Err(refused(NAME, base, "a number in [1, 1e12]"));
    }
    let pairs = head_dim as usize / 2;
    let factors = match gguf.tensor(FACTORS) {
        None => None,
        Some(_) => Some(gguf.vector(FACTORS, pairs)?),
    };
    let slows = |factor: &f32| (1.0 / 256.0..=1e12).contains(factor);
    if let Some(pair) = factors.iter().flatten().position(|factor| !slows(factor)) {
        return Err(LlamaError::Factor { pair });
    }
    Ok(rope::frequencies(base, pairs, factors.as_deref()))
}

/// A normalisation's gains: magnitudes below 2^40, as the exact arithmetic takes them.
fn norm(gguf: &Gguf<'_>, name: &str, len: usize) -> Result<Vec<f32>, LlamaError> {
    let gains = gguf.vector(name, len)?;
    let limit = f32::from_bits((127 + 40) << 23);
    match gains.iter().position(|gain| gain.abs() >= limit) {
        None => Ok(gains),
        Some(element) => Err(LlamaError::Gain { tensor: name.to_owned(), element }),
    }
}

/// Why a model cannot be imported as a Llama model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LlamaError {
    /// Another architecture.
    #[error("the model's architecture is {got:?}; only \"llama\" can be imported")]
    Architecture {
        /// The architecture the file names.
        got: String,
    },
    /// A frequency factor out of range.
    #[error("rope_freqs.weight: factor {pair} is not a number in [1/256, 1e12]")]
    Factor {
        /// The pair of elements it belongs to.
        pair: usize,
    },
    /// A normalisation gain that is too large.
    #[error("tensor {tensor:?}: gain {element} is 2^40 or more")]
    Gain {
        /// The tensor's name.
        tensor: String,
        /// The element.
        element: usize,
    },
    /// Metadata or tensors are missing or of the wrong type or shape.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A hyperparameter out of range, or at odds with another.
    #[error("{key} is {got}; expected {expected}")]
    Hyperparameter {
        /// The metadata key.
        key: String,
        /// The value.
        got: String,
        /// What it should be.
        expected: String,
    },
    /// Not a model but, for instance, an adapter.
    #[error("the file holds a {got:?}, not a model")]
    Kind {
        /// What the file says it holds.
        got: String,
    },
    /// One part of a model that was split into several files.
    #[error("this is one file of several; merge them into one GGUF file first")]
    Split,
    /// A hyperparameter that is not understood.
    #[error("{key} changes how the model works in a way that cannot be imported")]
    UnknownKey {
        /// The metadata key.
        key: String,
    },
    /// A tensor that a plain Llama model does not have.
    #[error("tensor {name:?} does not belong to a plain Llama model; it cannot be imported")]
    UnknownTensor {
        /// The tensor's name.
        name: String,
    },
}
