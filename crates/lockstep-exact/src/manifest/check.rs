//! Whether the parts of a manifest fit together and inside the limits.
//!
//! The first part that does not is named, with what was expected and what was found.

use core::fmt;

use super::{BlobRef, Manifest};
use crate::blob::SECTION;
use crate::bytes::{Canonical, DecodeError};
use crate::feed_forward::{FeedForward, Gated};
use crate::limits;
use crate::matrix::{COLUMNS_MAX, ROWS_MAX};
use crate::names::{ProductName, VectorName};
use crate::plan::{FeedForwardPlan, LayerPlan, MatrixRef, NormPlan, ProductPlan, VectorRef};

/// Why a manifest was refused although its bytes decode.
#[derive(Clone, Debug, PartialEq)]
pub enum ManifestError {
    /// The bytes are not a canonical manifest.
    Decode(DecodeError),
    /// A value that contradicts another or a limit.
    Inconsistent {
        /// The place in the manifest, such as "layer 3: qkv".
        at: String,
        /// A description of what was expected.
        expected: String,
        /// A description of what was found.
        got: String,
    },
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(error) => write!(f, "manifest: {error}"),
            Self::Inconsistent { at, expected, got } => {
                write!(f, "manifest: {at}: expected {expected}, got {got}")
            }
        }
    }
}

impl core::error::Error for ManifestError {}

impl From<DecodeError> for ManifestError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl Manifest {
    /// Decodes a manifest, and checks that it is consistent.
    ///
    /// # Errors
    /// [`ManifestError`] for malformed bytes or parts that contradict each other.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest = Self::from_bytes(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks that all parts fit together and inside the limits.
    ///
    /// # Errors
    /// [`ManifestError::Inconsistent`] names the first part that does not fit.
    pub fn check(&self) -> Result<(), ManifestError> {
        let hidden = self.hidden;
        range("hidden size", hidden, 32, limits::HIDDEN as u32)?;
        equal("hidden size modulo 32", &0, &(hidden % 32))?;
        range("vocabulary", self.vocabulary, 1, limits::VOCABULARY as u32)?;
        range("context", self.context, 1, limits::CONTEXT as u32)?;
        range("number of layers", self.layers.len() as u32, 1, limits::LAYERS as u32)?;
        self.blob("vocabulary blob", self.vocabulary_blob)?;
        self.blob("tokenizer blob", self.tokenizer_blob)?;
        for &token in &self.end_tokens {
            range("end token", token, 0, self.vocabulary - 1)?;
        }
        for (index, figure) in self.provenance.figures.iter().enumerate() {
            if let Some((part, expected, got)) = figure.fault() {
                return Err(inconsistent(&format!("figure {index}: {part}"), expected, got));
            }
        }
        self.check_head()?;
        for (index, layer) in self.layers.iter().enumerate() {
            self.check_layer(&format!("layer {index}"), layer)?;
        }
        Ok(())
    }

    fn check_head(&self) -> Result<(), ManifestError> {
        let head = &self.head;
        let shape = (self.vocabulary, self.hidden);
        self.matrix("embedding", head.embedding_blob, &head.embedding, shape)?;
        self.matrix("output matrix", head.blob, &head.output, shape)?;
        self.norm("final norm", head.blob, &head.norm, self.hidden)?;
        positive("embedding scale", head.embedding_scale)
    }

    fn check_layer(&self, name: &str, layer: &LayerPlan) -> Result<(), ManifestError> {
        let attention = &layer.attention;
        let at = |part: &str| format!("{name}: {part}");
        range(&at("heads"), attention.heads, 1, limits::HEADS as u32)?;
        range(&at("kv heads"), attention.kv_heads, 1, attention.heads)?;
        equal(&at("heads modulo kv heads"), &0, &(attention.heads % attention.kv_heads))?;
        range(&at("head size"), attention.head_dim, 2, limits::HEAD_DIM as u32)?;
        equal(&at("head size modulo 2"), &0, &(attention.head_dim % 2))?;
        positive(&at("score scale"), attention.score_scale)?;
        let rope = self.ropes.get(attention.rope as usize).ok_or_else(|| {
            inconsistent(&at("rotary table"), format!("below {}", self.ropes.len()), attention.rope)
        })?;
        let pairs = rope.frequencies.len() as u32;
        range(&at("rotary pairs"), pairs, 0, attention.head_dim / 2)?;
        self.check_feed_forward(name, &layer.parts.feed_forward)?;
        layer.parts.try_map_norms(
            &mut (),
            |(), part, product| {
                let (at, part) = (at(&part.to_string()), self.shape(layer, part));
                let shape = part.ok_or_else(|| inconsistent(&at, "a part of a layer", "another"));
                self.product(&at, layer.blob, product, shape?)
            },
            |(), part, norm| {
                let len = self.vector_len(layer, part);
                self.norm(&at(&part.to_string()), layer.blob, norm, len)?;
                norm.try_map(|_| Ok::<_, ManifestError>(()))
            },
        )?;
        Ok(())
    }

    /// Rows and columns of a product of a layer; nothing for a name that the layer does not have.
    fn shape(&self, layer: &LayerPlan, name: ProductName) -> Option<(u32, u32)> {
        let (hidden, feed_forward) = (self.hidden, &layer.parts.feed_forward);
        let inner = || Some(feed_forward.gated_of(name)?.down.matrix.columns);
        Some(match name {
            ProductName::Qkv => (layer.attention.qkv_width() as u32, hidden),
            ProductName::Output => (hidden, layer.attention.query_width() as u32),
            ProductName::GateUp | ProductName::ExpertGateUp(_) | ProductName::SharedGateUp => {
                (2 * inner()?, hidden)
            }
            ProductName::Down | ProductName::ExpertDown(_) | ProductName::SharedDown => {
                (hidden, inner()?)
            }
            ProductName::Router => (feed_forward.experts()?.experts.len() as u32, hidden),
            ProductName::SharedGate => (1, hidden),
            ProductName::Logits => return None,
        })
    }

    /// Elements of a vector of a layer.
    const fn vector_len(&self, layer: &LayerPlan, name: VectorName) -> u32 {
        match name {
            VectorName::AttentionNorm
            | VectorName::FfnNorm
            | VectorName::AttentionPostNorm
            | VectorName::FfnPostNorm => self.hidden,
            VectorName::QueryNorm | VectorName::KeyNorm => layer.attention.head_dim,
        }
    }

    /// Checks the sizes inside the feed-forward part, from which those of its products follow.
    fn check_feed_forward(&self, name: &str, part: &FeedForwardPlan) -> Result<(), ManifestError> {
        let check_size = |name: &str, gated: &Gated<ProductPlan>| {
            let size = gated.down.matrix.columns;
            range(&format!("{name}: feed-forward size"), size, 1, limits::INNER as u32)
        };
        let of = match part {
            FeedForward::Dense(gated) => return check_size(name, gated),
            FeedForward::Experts(of) => of,
        };
        let count = of.experts.len() as u32;
        range(&format!("{name}: experts"), count, 1, limits::EXPERTS as u32)?;
        range(&format!("{name}: experts used"), of.rule.used, 1, count)?;
        // An opening's sums have the same size, and the same bounds, for any choice.
        let inner = |gated: &Gated<ProductPlan>| gated.down.matrix.columns;
        let codecs = |gated: &Gated<ProductPlan>| {
            format!("{} and {}", gated.gate_up.matrix.codec, gated.down.matrix.codec)
        };
        let first = of.experts.first();
        let (size, stored) = (first.map_or(0, inner), first.map_or_else(String::new, codecs));
        let outputs = u64::from(of.rule.used) * (2 * u64::from(size) + u64::from(self.hidden));
        if outputs > limits::EXPERT_OUTPUTS {
            let most = format!("at most {} outputs of them together", limits::EXPERT_OUTPUTS);
            return Err(inconsistent(&format!("{name}: experts used"), most, outputs));
        }
        for (index, expert) in of.experts.iter().enumerate() {
            let name = format!("{name}: expert {index}");
            equal(&format!("{name}: feed-forward size"), &size, &inner(expert))?;
            equal(&format!("{name}: codecs"), &stored, &codecs(expert))?;
            check_size(&name, expert)?;
        }
        let Some(shared) = &of.shared else { return Ok(()) };
        check_size(&format!("{name}: shared expert"), &shared.gated)
    }

    fn blob(&self, at: &str, index: u32) -> Result<&BlobRef, ManifestError> {
        let count = self.blobs.len();
        self.blobs
            .get(index as usize)
            .ok_or_else(|| inconsistent(at, format!("a blob index below {count}"), index))
    }

    fn matrix(
        &self,
        at: &str,
        blob: u32,
        matrix: &MatrixRef,
        (rows, columns): (u32, u32),
    ) -> Result<(), ManifestError> {
        equal(&format!("{at}: rows"), &rows, &matrix.rows)?;
        equal(&format!("{at}: columns"), &columns, &matrix.columns)?;
        range(&format!("{at}: rows"), rows, 1, ROWS_MAX as u32)?;
        range(&format!("{at}: columns"), columns, 1, COLUMNS_MAX as u32)?;
        self.section(at, blob, matrix.offset, matrix.shape().stored_bytes())
    }

    fn product(
        &self,
        at: &str,
        blob: u32,
        product: &ProductPlan,
        shape: (u32, u32),
    ) -> Result<(), ManifestError> {
        self.matrix(at, blob, &product.matrix, shape)?;
        match &product.bias {
            Some(bias) => self.vector(&format!("{at} bias"), blob, bias, shape.0),
            None => Ok(()),
        }
    }

    fn norm(&self, at: &str, blob: u32, norm: &NormPlan, len: u32) -> Result<(), ManifestError> {
        positive(&format!("{at}: eps"), norm.eps)?;
        self.vector(at, blob, &norm.gain, len)
    }

    fn vector(&self, at: &str, blob: u32, vec: &VectorRef, len: u32) -> Result<(), ManifestError> {
        equal(&format!("{at}: length"), &len, &vec.len)?;
        self.section(at, blob, vec.offset, u64::from(len) * 4)
    }

    fn section(&self, at: &str, blob: u32, offset: u64, len: u64) -> Result<(), ManifestError> {
        let blob = self.blob(at, blob)?;
        equal(&format!("{at}: offset modulo 64"), &0, &(offset % SECTION as u64))?;
        match offset.checked_add(len) {
            Some(end) if end <= blob.len => Ok(()),
            _ => Err(inconsistent(
                at,
                format!("a section inside the blob's {} bytes", blob.len),
                format!("{len} bytes at {offset}"),
            )),
        }
    }
}

fn inconsistent(at: &str, expected: impl ToString, got: impl ToString) -> ManifestError {
    ManifestError::Inconsistent {
        at: at.to_owned(),
        expected: expected.to_string(),
        got: got.to_string(),
    }
}

fn equal<T: PartialEq + ToString>(at: &str, expected: &T, got: &T) -> Result<(), ManifestError> {
    if expected == got {
        Ok(())
    } else {
        Err(inconsistent(at, expected.to_string(), got.to_string()))
    }
}

fn range(at: &str, got: u32, low: u32, high: u32) -> Result<(), ManifestError> {
    if (low..=high).contains(&got) {
        Ok(())
    } else {
        Err(inconsistent(at, format!("{low}..={high}"), got))
    }
}

fn positive(at: &str, got: f32) -> Result<(), ManifestError> {
    // 2^-60 and 2^40: products with state and row scales stay far from the edges of f32.
    let (low, high) = (f32::from_bits(67 << 23), f32::from_bits(167 << 23));
    if (low..=high).contains(&got) {
        Ok(())
    } else {
        Err(inconsistent(at, "a number in [2^-60, 2^40]", got))
    }
}
