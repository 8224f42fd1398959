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
use crate::names::ProductName;
use crate::norm::{HeadNorms, Norm, PostNorms};
use crate::tree::LayerTree;

/// A packed matrix ([`crate::matrix`]) inside a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixRef {
    /// Offset in the blob, a multiple of 64. The length follows from the size.
    pub offset: u64,
    /// Outputs.
    pub rows: u32,
    /// Inputs.
    pub columns: u32,
    /// How its integers are stored.
    pub codec: Codec,
    /// BLAKE3 of the packed bytes: names the matrix in a verifier's key.
    pub digest: Digest,
}
canonical_struct!(MatrixRef { offset, rows, columns, codec, digest });

impl MatrixRef {
    /// The size and codec.
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
    /// Elements.
    pub len: u32,
}
canonical_struct!(VectorRef { offset, len });

/// A normalisation.
pub type NormPlan = Norm<VectorRef>;
canonical_struct!(NormPlan { eps, gain });

/// Normalisation of query and key heads.
pub type HeadNormsPlan = HeadNorms<VectorRef>;
canonical_struct!(HeadNormsPlan { query, key });

/// Normalisation before the residual additions.
pub type PostNormsPlan = PostNorms<VectorRef>;
canonical_struct!(PostNormsPlan { attention, ffn });

/// A matrix product with its bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductPlan {
    /// What inputs are multiplied by.
    pub matrix: MatrixRef,
    /// One number per output that is added to it, or nothing.
    pub bias: Option<VectorRef>,
}
canonical_struct!(ProductPlan { matrix, bias });

impl ProductPlan {
    /// The size of the matrix.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.matrix.shape()
    }
}

/// What the feed-forward part of a layer is made of.
pub type FeedForwardPlan = FeedForward<ProductPlan>;

/// What is added to the outputs of the products of attention: one number per output, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BiasesPlan {
    /// Queries, keys and values.
    pub qkv: Option<VectorRef>,
    /// Attention output.
    pub output: Option<VectorRef>,
}
canonical_struct!(BiasesPlan { qkv, output });

/// Attention with grouped queries and rotary positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionPlan {
    /// Query heads.
    pub heads: u32,
    /// Key/value heads; divides `heads`.
    pub kv_heads: u32,
    /// Elements of a head; even.
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
    /// Elements of all query heads.
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
    /// `x · sigmoid(x)`.
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

/// What a layer is made of, and where its blob holds it. What a model family does not have is
/// absent here: there is one forward pass, which walks this plan.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerPlan {
    /// Which of the manifest's blobs holds all of this layer.
    pub blob: u32,
    /// Normalisation before attention.
    pub attention_norm: NormPlan,
    /// Queries, keys and values, fused in this order of rows.
    pub qkv: MatrixRef,
    /// How heads attend.
    pub attention: AttentionPlan,
    /// Attention output.
    pub output: MatrixRef,
    /// Normalisation before the feed-forward part.
    pub ffn_norm: NormPlan,
    /// Applied to every gate of the feed-forward part.
    pub activation: Activation,
    /// The products of the feed-forward part.
    pub feed_forward: FeedForwardPlan,
    /// Added to what the products of attention give.
    pub biases: BiasesPlan,
    /// Normalisation of query and key heads.
    pub head_norms: Option<HeadNormsPlan>,
    /// Normalisation before each residual addition.
    pub post_norms: Option<PostNormsPlan>,
}
canonical_struct!(LayerPlan {
    blob,
    attention_norm,
    qkv,
    attention,
    output,
    ffn_norm,
    activation,
    feed_forward,
    biases,
    head_norms,
    post_norms,
});

impl LayerPlan {
    /// The products and vectors of the layer as the tree that weights and keys are too.
    #[must_use]
    pub fn parts(&self) -> LayerTree<ProductPlan, VectorRef> {
        LayerTree {
            attention_norm: self.attention_norm,
            qkv: ProductPlan { matrix: self.qkv, bias: self.biases.qkv },
            output: ProductPlan { matrix: self.output, bias: self.biases.output },
            ffn_norm: self.ffn_norm,
            feed_forward: self.feed_forward.clone(),
            head_norms: self.head_norms,
            post_norms: self.post_norms,
        }
    }

    /// The matrices with their names, in order of use.
    #[must_use]
    pub fn matrices(&self) -> Vec<(ProductName, &MatrixRef)> {
        let rest = self.feed_forward.products().into_iter();
        let rest = rest.map(|(name, product)| (name, &product.matrix));
        self.of_attention().into_iter().chain(rest).collect()
    }

    /// The matrices that one row goes through, as [`FeedForward::of_a_row`] has them.
    #[must_use]
    pub fn matrices_of_a_row(&self) -> Vec<(ProductName, usize, &MatrixRef)> {
        let attention = self.of_attention().map(|(name, matrix)| (name, 1, matrix));
        let rest = self.feed_forward.of_a_row().into_iter();
        let rest = rest.map(|(name, times, product)| (name, times, &product.matrix));
        attention.into_iter().chain(rest).collect()
    }

    const fn of_attention(&self) -> [(ProductName, &MatrixRef); 2] {
        [(ProductName::Qkv, &self.qkv), (ProductName::Output, &self.output)]
    }
}

/// Embedding, final normalisation and output product: server 1's part besides its layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadPlan {
    /// Which blob holds the embedding.
    pub embedding_blob: u32,
    /// One row per token.
    pub embedding: MatrixRef,
    /// Multiplied into every embedding element.
    pub embedding_scale: f32,
    /// Which blob holds the final norm and the output matrix (the embedding's, if they are tied).
    pub blob: u32,
    /// Normalisation before the output product.
    pub norm: NormPlan,
    /// One row per token.
    pub output: MatrixRef,
}
canonical_struct!(HeadPlan { embedding_blob, embedding, embedding_scale, blob, norm, output });
