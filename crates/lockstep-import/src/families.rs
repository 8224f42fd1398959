//! Model families as GGUF files describe them: hyperparameters, and which tensor is what.
//!
//! A family is a row of a table: which keys it may have and which optional parts its layers have.
//! Everything else is read the same way for all of them, into a description that import and the
//! f32 forward pass walk.
//!
//! Strict both ways: a hyperparameter or tensor that is needed and absent is an error, and so is
//! one that is present and not understood, since ignoring it would silently change the answers.

mod experts;
mod positions;
mod tensors;

use lockstep_exact::limits as exact_limits;
use lockstep_exact::matrix::COLUMNS_MAX;
use lockstep_exact::num;
use lockstep_exact::plan::Activation;

use crate::gguf::{Array, Gguf, GgufError, Value, required};
pub(crate) use experts::ExpertSizes;
use experts::Mixture;
pub(crate) use positions::Positions;
pub(crate) use tensors::{LayerTensors, OUTPUT, ProductTensors, Rows, Tensors};

/// Keys that every family may have: understood, or silent about the answers.
const KNOWN: [&str; 18] = [
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
    "rope.scale_linear",
    "rope.scaling.factor",
    "rope.scaling.type",
    "tensor_data_layout",
    "vocab_size",
];

/// The properties in which a family of models differs from others.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Family {
    /// Its name in `general.architecture`, and the prefix of its keys.
    pub(crate) name: &'static str,
    /// Keys that it may have besides [`KNOWN`].
    keys: &'static [&'static str],
    /// Query and key rows are stored interleaved: row 2i of a head turns with row 2i + 1.
    interleaved: bool,
    /// Queries, keys and values have biases: always, or if the file has them.
    biases: Biases,
    /// Query and key heads are normalised.
    head_norms: bool,
    /// Attention and feed-forward outputs are normalised.
    post_norms: bool,
    /// Queries, keys and values are one tensor, and so are gate and up.
    fused: bool,
    /// Layers can have experts in place of one feed-forward product.
    experts: Mixture,
    /// The activation that is applied to the gate.
    pub(crate) activation: Activation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Biases {
    None,
    Allowed,
    Required,
}

const LLAMA: Family = Family {
    name: "llama",
    keys: &["attention.sliding_window"],
    interleaved: true,
    biases: Biases::Allowed,
    head_norms: false,
    post_norms: false,
    fused: false,
    experts: Mixture::Allowed,
    activation: Activation::Silu,
};

const QWEN_2: Family = Family {
    name: "qwen2",
    keys: &[],
    interleaved: false,
    biases: Biases::Required,
    experts: Mixture::None,
    ..LLAMA
};

const QWEN_3: Family = Family { name: "qwen3", biases: Biases::None, head_norms: true, ..QWEN_2 };

const QWEN_MOE_KEYS: &[&str] = &[
    "expert_feed_forward_length",
    "expert_gating_func",
    "expert_shared_feed_forward_length",
    "expert_weights_norm",
];

/// The families that can be imported.
const FAMILIES: [Family; 7] = [
    LLAMA,
    QWEN_2,
    Family {
        name: "qwen2moe",
        keys: QWEN_MOE_KEYS,
        experts: Mixture::Required { normalise: false, shared: true },
        ..QWEN_2
    },
    QWEN_3,
    Family {
        name: "qwen3moe",
        keys: QWEN_MOE_KEYS,
        experts: Mixture::Required { normalise: true, shared: false },
        ..QWEN_3
    },
    Family {
        name: "gemma3",
        keys: &[
            "attention.sliding_window",
            "attention.sliding_window_pattern",
            "rope.freq_base_swa",
        ],
        interleaved: false,
        biases: Biases::None,
        head_norms: true,
        post_norms: true,
        experts: Mixture::None,
        activation: Activation::GeluTanh,
        ..LLAMA
    },
    Family {
        name: "phi3",
        keys: &[
            "attention.sliding_window",
            "rope.scaling.attn_factor",
            "rope.scaling.original_context_length",
        ],
        interleaved: false,
        biases: Biases::None,
        fused: true,
        experts: Mixture::None,
        ..LLAMA
    },
];

const GEMMA: &str = "gemma3";
const PHI: &str = "phi3";

/// A checked description of a model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Model {
    pub(crate) family: &'static Family,
    pub(crate) layers: u32,
    pub(crate) hidden: u32,
    /// Feed-forward size of layers without experts.
    pub(crate) inner: u32,
    pub(crate) experts: Option<ExpertSizes>,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) context: u32,
    pub(crate) vocabulary: u32,
    pub(crate) eps: f32,
    /// Multiplied into every embedding element.
    pub(crate) embedding_scale: f32,
    /// Multiplied into every score, before the change to powers of two.
    pub(crate) head_scale: f32,
    pub(crate) positions: Positions,
}

impl Model {
    /// Reads the hyperparameters of a model with `vocabulary` tokens, and the tensors that hold
    /// rotary factors.
    pub(crate) fn read(tensors: &Tensors<'_, '_>, vocabulary: usize) -> Result<Self, FamilyError> {
        let family = check_kind(tensors.gguf)?;
        let keys = Keys { gguf: tensors.gguf, family: family.name };
        keys.check(family)?;
        let hidden = keys.size("embedding_length", limit(exact_limits::HIDDEN))?;
        if !hidden.is_multiple_of(32) {
            return Err(keys.refused("embedding_length", hidden, "a multiple of 32"));
        }
        let heads = keys.size("attention.head_count", limit(exact_limits::HEADS))?;
        let stated = keys.optional_size("attention.head_count_kv", heads)?;
        let kv_heads = stated.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            let expected = "a divisor of head_count";
            return Err(keys.refused("attention.head_count_kv", kv_heads, expected));
        }
        let head_dim = keys.head_dim(hidden, heads)?;
        let queries = heads as usize * head_dim as usize;
        if queries > COLUMNS_MAX {
            let expected = format!("heads whose sizes add up to at most {COLUMNS_MAX}");
            return Err(keys.refused("attention.head_count", heads, &expected));
        }
        let layers = keys.size("block_count", limit(exact_limits::LAYERS))?;
        let context = keys.size("context_length", u32::MAX)?.min(limit(exact_limits::CONTEXT));
        let inner = keys.size("feed_forward_length", limit(exact_limits::INNER))?;
        let is_gemma = family.name == GEMMA;
        // The largest Gemma scales scores by the size that a head would have if they shared the
        // state; its files do not say so.
        let scaled_by = if is_gemma && layers == 62 { hidden / heads } else { head_dim };
        Ok(Self {
            family,
            layers,
            hidden,
            inner,
            experts: ExpertSizes::read(&keys, family, inner)?,
            heads,
            kv_heads,
            head_dim,
            context,
            vocabulary: keys.vocabulary(vocabulary)?,
            eps: keys.eps()?,
            embedding_scale: if is_gemma { (hidden as f32).sqrt() } else { 1.0 },
            head_scale: 1.0 / (scaled_by as f32).sqrt(),
            positions: Positions::read(&keys, tensors, layers, head_dim)?,
        })
    }

    /// Returns the number of outputs of the query product.
    pub(crate) fn query_width(&self) -> usize {
        self.heads as usize * self.head_dim as usize
    }

    /// Outputs of the key product, and of the value product.
    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads as usize * self.head_dim as usize
    }

    /// Returns the factor of scores in powers of two.
    pub(crate) fn score_scale(&self) -> f32 {
        let plain = self.head_scale == 1.0 / (self.head_dim as f32).sqrt();
        if plain {
            num::LOG2_E / (self.head_dim as f32).sqrt()
        } else {
            num::LOG2_E * self.head_scale
        }
    }
}

/// Refuses files of another architecture, adapters, and parts of a split model.
pub(crate) fn check_kind(gguf: &Gguf<'_>) -> Result<&'static Family, FamilyError> {
    // Parts but the first do not even say what the architecture is.
    if gguf.optional_u64("split.count")?.is_some_and(|count| count > 1) {
        return Err(FamilyError::Split);
    }
    let architecture =
        required(gguf.optional_str("general.architecture")?, "general.architecture")?;
    // Files for images of before 2025 have no type.
    let untyped = if architecture == "clip" { "mmproj" } else { "model" };
    let kind = gguf.optional_str("general.type")?.unwrap_or(untyped);
    if kind != "model" {
        return Err(FamilyError::Kind { got: kind.to_owned() });
    }
    let known = FAMILIES.iter().find(|family| family.name == architecture);
    known.ok_or_else(|| FamilyError::Architecture { got: architecture.to_owned() })
}

/// Returns in words what a GGUF file holds whose type is `kind` and not a model, and which file to
/// take instead.
fn called(kind: &str) -> (String, &'static str) {
    const BESIDE: &str = "take the model's own file, which is beside it";
    match kind {
        "adapter" => (
            "a LoRA adapter (\"adapter\")".to_owned(),
            "take a file in which it is merged with its model",
        ),
        "imatrix" => ("an importance matrix (\"imatrix\")".to_owned(), BESIDE),
        "mmproj" | "vision" => (format!("the part of a model that sees images ({kind:?})"), BESIDE),
        "vocab" => ("a vocabulary (\"vocab\")".to_owned(), BESIDE),
        other => (format!("a {other:?}"), "take the model's own file"),
    }
}

fn limit(limit: usize) -> u32 {
    u32::try_from(limit).unwrap_or(u32::MAX)
}

/// The hyperparameters of a file, by their names without the family's prefix.
struct Keys<'g, 'a> {
    gguf: &'g Gguf<'a>,
    family: &'static str,
}

impl Keys<'_, '_> {
    fn check(&self, family: &Family) -> Result<(), FamilyError> {
        for (key, value) in self.gguf.metadata() {
            let name = key.strip_prefix(self.family).and_then(|name| name.strip_prefix('.'));
            let Some(name) = name else { continue };
            let known = match name {
                "expert_count" | "expert_used_count" if family.experts == Mixture::None => false,
                // A softmax: the one that is known here.
                "expert_gating_func" => number(value) == Some(1.0),
                _ => KNOWN.contains(&name) || family.keys.contains(&name),
            };
            if !known && !says_nothing(name, value) {
                let value = shown(value);
                return Err(FamilyError::UnknownKey { key: key.to_owned(), value });
            }
        }
        Ok(())
    }

    fn full(&self, name: &str) -> String {
        format!("{}.{name}", self.family)
    }

    fn refused(&self, name: &str, got: impl ToString, expected: &str) -> FamilyError {
        let expected = expected.to_owned();
        FamilyError::Hyperparameter { key: self.full(name), got: got.to_string(), expected }
    }

    /// Returns a size from 1 to `limit`; a list of sizes, one for each layer, if they are all the
    /// same.
    fn optional_size(&self, name: &str, limit: u32) -> Result<Option<u32>, FamilyError> {
        let key = self.full(name);
        let got = match self.gguf.get(&key) {
            Some(Value::Array(sizes)) => Some(self.same_of_all(name, sizes)?),
            _ => self.gguf.optional_u64(&key)?,
        };
        let Some(got) = got else { return Ok(None) };
        let size = u32::try_from(got).ok().filter(|size| (1..=limit).contains(size));
        size.map(Some).ok_or_else(|| self.refused(name, got, &format!("1 to {limit}")))
    }

    /// Returns the size that all layers have.
    fn same_of_all(&self, name: &str, sizes: &Array<'_>) -> Result<u64, FamilyError> {
        let of_all = sizes.integers().and_then(|mut sizes| {
            let first = sizes.next()?;
            sizes.all(|size| size == first).then_some(first)
        });
        let expected = "one size for all layers";
        let of_all = of_all.and_then(|size| u64::try_from(size).ok());
        of_all.ok_or_else(|| self.refused(name, "a list of several", expected))
    }

    fn size(&self, name: &str, limit: u32) -> Result<u32, FamilyError> {
        Ok(required(self.optional_size(name, limit)?, &self.full(name))?)
    }

    /// Returns the number under `name`, if the file has one, checked to be in `low..=high`.
    fn number(&self, name: &str, low: f32, high: f32) -> Result<Option<f32>, FamilyError> {
        let Some(got) = self.gguf.optional_f32(&self.full(name))? else { return Ok(None) };
        if (low..=high).contains(&got) {
            return Ok(Some(got));
        }
        Err(self.refused(name, got, &format!("a number in [{low}, {high:e}]")))
    }

    /// Elements of a head; queries, keys and values must agree on it.
    fn head_dim(&self, hidden: u32, heads: u32) -> Result<u32, FamilyError> {
        let limit = limit(exact_limits::HEAD_DIM);
        let head_dim = match self.optional_size("attention.key_length", limit)? {
            Some(stated) => stated,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let expected = "a divisor of embedding_length";
                return Err(self.refused("attention.head_count", heads, expected));
            }
        };
        if !head_dim.is_multiple_of(2) || head_dim > limit {
            let expected = format!("even, at most {limit}");
            return Err(self.refused("attention.key_length", head_dim, &expected));
        }
        let stated = self.optional_size("attention.value_length", u32::MAX)?.unwrap_or(head_dim);
        if stated != head_dim {
            let expected = format!("{head_dim}, the size of a head");
            return Err(self.refused("attention.value_length", stated, &expected));
        }
        Ok(head_dim)
    }

    fn vocabulary(&self, tokens: usize) -> Result<u32, FamilyError> {
        let counted = u32::try_from(tokens).unwrap_or(u32::MAX);
        let stated = self.optional_size("vocab_size", u32::MAX)?.unwrap_or(counted);
        if stated == counted {
            return Ok(counted);
        }
        let expected = format!("{tokens}, the number of tokens in the tokenizer");
        Err(self.refused("vocab_size", stated, &expected))
    }

    fn eps(&self) -> Result<f32, FamilyError> {
        const NAME: &str = "attention.layer_norm_rms_epsilon";
        let eps = required(self.gguf.optional_f32(&self.full(NAME))?, &self.full(NAME))?;
        // 2^-60 is what the exact arithmetic takes; no model comes near.
        let fits = (f32::from_bits((127 - 60) << 23)..=1.0).contains(&eps);
        if fits { Ok(eps) } else { Err(self.refused(NAME, eps, "a number in [2^-60, 1]")) }
    }
}

fn number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Unsigned(n) => Some(*n as f64),
        Value::Signed(n) => Some(*n as f64),
        Value::F32(x) => Some((*x).into()),
        Value::F64(x) => Some(*x),
        Value::Array(_) | Value::Bool(_) | Value::String(_) => None,
    }
}

/// Returns a metadata value as a message shows it.
fn shown(value: &Value<'_>) -> String {
    match (value, number(value)) {
        (_, Some(number)) => number.to_string(),
        (Value::Bool(flag), _) => flag.to_string(),
        (Value::String(text), _) => format!("{:?}", text.chars().take(80).collect::<String>()),
        (other, None) => other.kind().to_owned(),
    }
}

/// Returns whether a key that is not read changes nothing: llama.cpp has zero and false where a
/// file is silent, and a factor of one changes no number.
fn says_nothing(name: &str, value: &Value<'_>) -> bool {
    /// The keys that say nothing about the forward pass: about the model's use for embeddings,
    /// about norms that are not RMS norms, and about how a context was made longer where only the
    /// factor counts.
    const SILENT: [&str; 5] = [
        "attention.layer_norm_epsilon",
        "decoder_start_token_id",
        "pooling_type",
        "rope.scaling.finetuned",
        "rope.scaling.original_context_length",
    ];
    let is_factor = name.contains("scale") || name.contains("factor");
    match (name, value) {
        ("attention.causal", value) => *value == Value::Bool(true),
        (name, _) if SILENT.contains(&name) => true,
        (_, Value::Bool(flag)) => !flag,
        (_, value) => number(value).is_some_and(|n| n == 0.0 || is_factor && n == 1.0),
    }
}

/// The reasons why a model's family or hyperparameters can't be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FamilyError {
    /// The architecture is not one that can be imported.
    #[error(
        "the model's architecture is {got:?}; \"llama\", \"qwen2\", \"qwen2moe\", \"qwen3\", \
         \"qwen3moe\", \"gemma3\" and \"phi3\" can be imported"
    )]
    Architecture {
        /// The architecture the file names.
        got: String,
    },
    /// A frequency factor out of range.
    #[error("{tensor}: factor {pair} is not a number in [1/256, 1e12]")]
    Factor {
        /// The tensor's name.
        tensor: &'static str,
        /// The pair of elements it belongs to.
        pair: usize,
    },
    /// A normalisation gain or a bias that is too large.
    #[error("tensor {tensor:?}: element {element} is 2^40 or more")]
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
    #[error("the file holds {}, not a model; {}", called(.got).0, called(.got).1)]
    Kind {
        /// What the file says it holds.
        got: String,
    },
    /// One part of a model that was split into several files.
    #[error("this is one file of several; the others must be beside it, under their own names")]
    Split,
    /// A hyperparameter that is not understood.
    #[error("{key} is {value}, which changes how the model works in a way that cannot be imported")]
    UnknownKey {
        /// The metadata key.
        key: String,
        /// The value, for people.
        value: String,
    },
    /// The file holds a tokenizer, but no model.
    #[error(
        "the file holds a vocabulary and no weights; take the model's own GGUF file, which is \
         larger"
    )]
    VocabularyOnly,
    /// A tensor that the family does not have.
    #[error("tensor {name:?} does not belong to a plain {family} model; it cannot be imported")]
    UnknownTensor {
        /// The tensor's name.
        name: String,
        /// The family.
        family: &'static str,
    },
}
