//! The manifest: everything that defines a model's answers, by digest.
//!
//! A manifest lists content-addressed blobs and, per layer, a [`LayerPlan`] that says what the
//! layer is made of and where in its blob each part lies. Forward pass, verifier's key, opening
//! and audit all walk the same plan. The model's id is the BLAKE3 digest of the manifest's
//! canonical bytes.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use core::fmt;

use crate::blob::SECTION;
use crate::bytes::{Canonical, DecodeError, Reader, put_bytes, put_list};
use crate::canonical_struct;
use crate::digest::Digest;
use crate::feed_forward::{Experts, FeedForward, Gated};
use crate::figure::Figure;
use crate::forward::ProductName;
use crate::limits;
use crate::matrix::{COLUMNS_MAX, Codec, ROWS_MAX, Shape};

/// The version of the arithmetic and of this format.
pub const VERSION: u16 = 0;
const MAGIC: [u8; 8] = *b"LOCKSTEP";

/// A content-addressed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRef {
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub len: u64,
}
canonical_struct!(BlobRef { digest, len });

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

/// RMS normalisation: `x / sqrt(mean(x²) + eps) · gain`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormPlan {
    /// Added to the mean of squares.
    pub eps: f32,
    /// One gain per element.
    pub gain: VectorRef,
}
canonical_struct!(NormPlan { eps, gain });

/// Normalisation of every query and key head, between product and rotation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadNormsPlan {
    /// One gain per element of a query head.
    pub query: NormPlan,
    /// One gain per element of a key head.
    pub key: NormPlan,
}
canonical_struct!(HeadNormsPlan { query, key });

/// Normalisation of what a part of a layer gives, before it is added to the state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PostNormsPlan {
    /// Of the attention output.
    pub attention: NormPlan,
    /// Of the feed-forward output.
    pub ffn: NormPlan,
}
canonical_struct!(PostNormsPlan { attention, ffn });

/// A matrix product of the feed-forward part.
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

/// A rotary table: per pair of elements, the turn per position as a fraction of 2^64.
///
/// Element `i` of a head pairs with element `i + pairs` (the half-split pairing); elements from
/// `2 · pairs` on are not rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RopeTable {
    /// One frequency per pair.
    pub frequencies: Vec<u64>,
}

impl Canonical for RopeTable {
    fn encode(&self, out: &mut Vec<u8>) {
        put_list(out, &self.frequencies);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { frequencies: input.list("rotary table", limits::HEAD_DIM / 2, 8)? })
    }
}

/// Where the model came from and on which terms; shown to people, part of the id.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Provenance {
    /// The model's own name.
    pub name: String,
    /// Its architecture as its source names it ("llama").
    pub architecture: String,
    /// Licence name or SPDX expression, or "unknown".
    pub license: String,
    /// The type that most weights of the source were stored in ("Q4_1"; "unquantised" for floats
    /// of 16 or 32 bits). How they are stored here, each matrix says.
    pub source_format: String,
    /// What whoever made the manifest measured of the model; an import measures nothing.
    pub figures: Vec<Figure>,
}

impl Canonical for Provenance {
    fn encode(&self, out: &mut Vec<u8>) {
        for text in [&self.name, &self.architecture, &self.license, &self.source_format] {
            put_bytes(out, text.as_bytes());
        }
        put_list(out, &self.figures);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: input.text("model name", limits::NAME_BYTES)?,
            architecture: input.text("architecture", limits::NAME_BYTES)?,
            license: input.text("licence", limits::LICENSE_BYTES)?,
            source_format: input.text("source format", limits::NAME_BYTES)?,
            figures: input.list("figures", limits::FIGURES, Figure::LEAST_BYTES)?,
        })
    }
}

/// Everything that defines a model's answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Name, licence, source.
    pub provenance: Provenance,
    /// Elements of a state.
    pub hidden: u32,
    /// Number of token ids.
    pub vocabulary: u32,
    /// Most positions a session may have.
    pub context: u32,
    /// All blobs.
    pub blobs: Vec<BlobRef>,
    /// Which blob lists the bytes of every token ([`crate::vocabulary`]).
    pub vocabulary_blob: u32,
    /// Which blob holds tokenizer and chat template; its format belongs to the importer.
    pub tokenizer_blob: u32,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
    /// Rotary tables that layers refer to.
    pub ropes: Vec<RopeTable>,
    /// Embedding and head.
    pub head: HeadPlan,
    /// The layers, in order.
    pub layers: Vec<LayerPlan>,
}

impl Canonical for Manifest {
    fn encode(&self, out: &mut Vec<u8>) {
        MAGIC.encode(out);
        VERSION.encode(out);
        self.provenance.encode(out);
        self.hidden.encode(out);
        self.vocabulary.encode(out);
        self.context.encode(out);
        put_list(out, &self.blobs);
        self.vocabulary_blob.encode(out);
        self.tokenizer_blob.encode(out);
        put_list(out, &self.end_tokens);
        put_list(out, &self.ropes);
        self.head.encode(out);
        put_list(out, &self.layers);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if input.array::<8>("manifest")? != MAGIC {
            return Err(input.invalid("manifest", "does not start with LOCKSTEP"));
        }
        if u16::decode(input)? != VERSION {
            return Err(input.invalid("manifest version", "this build reads version 0 only"));
        }
        Ok(Self {
            provenance: Provenance::decode(input)?,
            hidden: u32::decode(input)?,
            vocabulary: u32::decode(input)?,
            context: u32::decode(input)?,
            blobs: input.list("blobs", limits::LAYERS + 8, 40)?,
            vocabulary_blob: u32::decode(input)?,
            tokenizer_blob: u32::decode(input)?,
            end_tokens: input.list("end tokens", limits::END_TOKENS, 4)?,
            ropes: input.list("rotary tables", limits::ROPE_TABLES, 4)?,
            head: HeadPlan::decode(input)?,
            layers: input.list("layers", limits::LAYERS, 64)?,
        })
    }
}

/// Why a manifest was refused although its bytes decode.
#[derive(Clone, Debug, PartialEq)]
pub enum ManifestError {
    /// The bytes do not decode.
    Decode(DecodeError),
    /// A value that contradicts another or a limit.
    Inconsistent {
        /// Where ("layer 3: qkv").
        at: String,
        /// What was expected.
        expected: String,
        /// What was found.
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
    /// Decodes and checks a manifest.
    ///
    /// # Errors
    /// [`ManifestError`] for malformed bytes or parts that contradict each other.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest = Self::from_bytes(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The model's id: BLAKE3 of the canonical bytes.
    #[must_use]
    pub fn id(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// Bytes of one state row on the wire and in a column.
    #[must_use]
    pub const fn state_row_bytes(&self) -> usize {
        crate::state::row_bytes(self.hidden as usize)
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
        let (hidden, blob, attention) = (self.hidden, layer.blob, &layer.attention);
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
        let qkv = (attention.qkv_width() as u32, hidden);
        self.norm(&at("attention norm"), blob, &layer.attention_norm, hidden)?;
        self.matrix(&at("qkv"), blob, &layer.qkv, qkv)?;
        let query_width = attention.query_width() as u32;
        self.matrix(&at("attention output"), blob, &layer.output, (hidden, query_width))?;
        self.norm(&at("feed-forward norm"), blob, &layer.ffn_norm, hidden)?;
        match &layer.feed_forward {
            FeedForward::Dense(gated) => self.check_gated(name, blob, gated)?,
            FeedForward::Experts(experts) => self.check_experts(name, blob, experts)?,
        }
        self.check_optional(name, layer)
    }

    fn check_gated(
        &self,
        name: &str,
        blob: u32,
        gated: &Gated<ProductPlan>,
    ) -> Result<(), ManifestError> {
        let (hidden, inner) = (self.hidden, gated.down.matrix.columns);
        range(&format!("{name}: feed-forward size"), inner, 1, limits::INNER as u32)?;
        self.product(&format!("{name}: gate and up"), blob, &gated.gate_up, (2 * inner, hidden))?;
        self.product(&format!("{name}: down"), blob, &gated.down, (hidden, inner))
    }

    fn check_experts(
        &self,
        name: &str,
        blob: u32,
        of: &Experts<ProductPlan>,
    ) -> Result<(), ManifestError> {
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
        self.product(&format!("{name}: router"), blob, &of.router, (count, self.hidden))?;
        for (index, expert) in of.experts.iter().enumerate() {
            let name = format!("{name}: expert {index}");
            equal(&format!("{name}: feed-forward size"), &size, &inner(expert))?;
            equal(&format!("{name}: codecs"), &stored, &codecs(expert))?;
            self.check_gated(&name, blob, expert)?;
        }
        let Some(shared) = &of.shared else { return Ok(()) };
        self.check_gated(&format!("{name}: shared expert"), blob, &shared.gated)?;
        self.product(&format!("{name}: shared expert: gate"), blob, &shared.gate, (1, self.hidden))
    }

    /// The parts that only some model families have.
    fn check_optional(&self, name: &str, layer: &LayerPlan) -> Result<(), ManifestError> {
        let (blob, biases) = (layer.blob, &layer.biases);
        let at = |part: &str| format!("{name}: {part}");
        for (part, bias, matrix) in [
            ("qkv bias", biases.qkv, layer.qkv),
            ("attention output bias", biases.output, layer.output),
        ] {
            if let Some(bias) = bias {
                self.vector(&at(part), blob, &bias, matrix.rows)?;
            }
        }
        if let Some(norms) = &layer.head_norms {
            let head_dim = layer.attention.head_dim;
            self.norm(&at("query norm"), blob, &norms.query, head_dim)?;
            self.norm(&at("key norm"), blob, &norms.key, head_dim)?;
        }
        if let Some(norms) = &layer.post_norms {
            self.norm(&at("attention post-norm"), blob, &norms.attention, self.hidden)?;
            self.norm(&at("feed-forward post-norm"), blob, &norms.ffn, self.hidden)?;
        }
        Ok(())
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
        self.section(at, blob, matrix.offset, matrix.shape().packed_bytes() as u64)
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
