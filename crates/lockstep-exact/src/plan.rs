//! What a layer and the head are made of: which parts there are, how large they are, and where a
//! blob holds them.
//!
//! A [`LayerPlan`] says all that tells one model family from another. Forward pass, verifier's key,
//! opening and audit all walk the same plan. Whether a plan fits its model is checked with the
//! manifest that holds it.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use crate::bytes::{Canonical, DecodeError, Reader};
use crate::canonical_struct;
use crate::digest::Digest;
use crate::feed_forward::FeedForward;
use crate::matrix::{Codec, Shape};
use crate::norm::{HeadNorms, Norm, PostNorms};
use crate::tree::LayerTree;

/// A packed matrix ([`crate::matrix`]) inside a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixRef {
    /// Offset in the blob, a multiple of 64. The length follows from the size.
    pub offset: u64,
    /// The number of rows, which are outputs.
    pub rows: u32,
    /// The number of columns, which are inputs.
    pub columns: u32,
    /// The codec in which its integers are stored.
    pub codec: Codec,
    /// BLAKE3 of the packed bytes: names the matrix in a verifier's key.
    pub digest: Digest,
}
canonical_struct!(MatrixRef { offset, rows, columns, codec, digest });

impl MatrixRef {
    /// Returns the size and codec of the matrix.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.codec.shape(self.rows as usize, self.columns as usize)
    }
}

/// A vector of f32 little-endian inside a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorRef {
    /// Offset in the blob, a multiple of 64.
    pub offset: u64,
    /// The number of elements of the vector.
    pub len: u32,
}
canonical_struct!(VectorRef { offset, len });

/// The plan of a normalisation: where its gains are.
pub type NormPlan = Norm<VectorRef>;
canonical_struct!(NormPlan { eps, gain });

/// Normalisation of query and key heads.
pub type HeadNormsPlan = HeadNorms<VectorRef>;
canonical_struct!(HeadNormsPlan { query, key });

/// Normalisation before the residual additions.
pub type PostNormsPlan = PostNorms<VectorRef>;
canonical_struct!(PostNormsPlan { attention, ffn });

/// The plan of a matrix product with its bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductPlan {
    /// The matrix that inputs are multiplied by.
    pub matrix: MatrixRef,
    /// One number per output that is added to it, or nothing.
    pub bias: Option<VectorRef>,
}
canonical_struct!(ProductPlan { matrix, bias });

impl ProductPlan {
    /// Returns the size of the matrix.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.matrix.shape()
    }
}

/// The plan of the feed-forward part of a layer.
pub type FeedForwardPlan = FeedForward<ProductPlan>;

/// Attention with grouped queries and rotary positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionPlan {
    /// The number of query heads.
    pub heads: u32,
    /// Key/value heads; divides `heads`.
    pub kv_heads: u32,
    /// The number of elements of a head; even.
    pub head_dim: u32,
    /// Which of the manifest's rotary tables.
    pub rope: u32,
    /// Positions that attention sees, the current one included; 0 = all.
    pub window: u32,
    /// `head_scale · log2(e)`, usually `log2(e) / sqrt(head_dim)`: scores in log2 units.
    pub score_scale: f32,
}
canonical_struct!(AttentionPlan { heads, kv_heads, head_dim, rope, window, score_scale });

impl AttentionPlan {
    /// Returns the number of elements of all query heads.
    #[must_use]
    pub const fn query_width(&self) -> usize {
        self.heads as usize * self.head_dim as usize
    }

    /// Elements of all key heads; values have as many.
    #[must_use]
    pub const fn kv_width(&self) -> usize {
        self.kv_heads as usize * self.head_dim as usize
    }

    /// Outputs of the fused query, key and value product.
    #[must_use]
    pub const fn qkv_width(&self) -> usize {
        self.query_width() + 2 * self.kv_width()
    }
}

/// The function between the gate and the product with `up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The SiLU activation, `x · sigmoid(x)`.
    Silu,
    /// The tanh form of GELU: `x · sigmoid(2·sqrt(2/π)·(x + 0.044715·x³))`.
    GeluTanh,
}

impl Canonical for Activation {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Silu => out.push(0),
            Self::GeluTanh => out.push(1),
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(Self::Silu),
            1 => Ok(Self::GeluTanh),
            tag => Err(input.unknown_tag("activation", tag)),
        }
    }
}

/// The plan of a layer: what it is made of, and where its blob holds it. What a model family does
/// not have is absent here: there is one forward pass, which walks this plan.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerPlan {
    /// Which of the manifest's blobs holds all of this layer.
    pub blob: u32,
    /// The sizes and settings of the attention heads.
    pub attention: AttentionPlan,
    /// The function that is applied to every gate of the feed-forward part.
    pub activation: Activation,
    /// The products and vectors of the layer, each with its place in the blob.
    pub parts: LayerTree<ProductPlan, VectorRef>,
}

/// The canonical bytes of a layer in a manifest. They have an order of their own: the biases of the
/// attention products follow the feed-forward part.
impl Canonical for LayerPlan {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { blob, attention, activation, parts } = self;
        let LayerTree { attention_norm, qkv, output, ffn_norm, .. } = parts;
        blob.encode(out);
        attention_norm.encode(out);
        qkv.matrix.encode(out);
        attention.encode(out);
        output.matrix.encode(out);
        ffn_norm.encode(out);
        activation.encode(out);
        let LayerTree { feed_forward, head_norms, post_norms, .. } = parts;
        feed_forward.encode(out);
        qkv.bias.encode(out);
        output.bias.encode(out);
        head_norms.encode(out);
        post_norms.encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let blob = u32::decode(input)?;
        let attention_norm = NormPlan::decode(input)?;
        let qkv = MatrixRef::decode(input)?;
        let attention = AttentionPlan::decode(input)?;
        let output = MatrixRef::decode(input)?;
        let ffn_norm = NormPlan::decode(input)?;
        let activation = Activation::decode(input)?;
        let feed_forward = FeedForwardPlan::decode(input)?;
        let qkv = ProductPlan { matrix: qkv, bias: Option::decode(input)? };
        let output = ProductPlan { matrix: output, bias: Option::decode(input)? };
        let head_norms = Option::decode(input)?;
        let post_norms = Option::decode(input)?;
        let parts = LayerTree {
            attention_norm,
            qkv,
            output,
            ffn_norm,
            feed_forward,
            head_norms,
            post_norms,
        };
        Ok(Self { blob, attention, activation, parts })
    }
}

/// Embedding, final normalisation and output product: server 1's part besides its layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadPlan {
    /// The index of the blob that holds the embedding.
    pub embedding_blob: u32,
    /// The embedding, with one row per token.
    pub embedding: MatrixRef,
    /// The factor of every embedding element.
    pub embedding_scale: f32,
    /// The index of the blob that holds the final norm and the output matrix (the embedding's, if
    /// they are tied).
    pub blob: u32,
    /// The normalisation before the output product.
    pub norm: NormPlan,
    /// The output matrix, with one row per token.
    pub output: MatrixRef,
}
canonical_struct!(HeadPlan { embedding_blob, embedding, embedding_scale, blob, norm, output });
