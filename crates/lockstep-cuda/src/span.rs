//! The weights of a span of layers, of embedding and head, in the device's memory.

use lockstep_exact::kv::KvShape;
use lockstep_exact::matrix::Packed;
use lockstep_exact::names::VectorName;
use lockstep_exact::plan::{Activation, AttentionPlan};
use lockstep_exact::tree::LayerTree;
use lockstep_exact::weights::{HeadWeights, LayerWeights};

use crate::driver::{Buffer, Error};
use crate::gpu::{Gpu, Norm, at_most, same};
use crate::kv::{Kv, padded};
use crate::limits::{STEP_HIDDEN, STEP_POOL};
use crate::products::{Matrix, Product};
use crate::words::Words;

/// Layers of a model, and embedding and head if they are with it.
#[derive(Debug)]
pub struct Span {
    pub(crate) hidden: usize,
    pub(crate) layers: Vec<Layer>,
    pub(crate) embedding: Option<(Matrix, f32)>,
    pub(crate) head: Option<(Norm, Matrix)>,
}

/// A layer's weights, on the device.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention: AttentionPlan,
    pub(crate) inner: usize,
    activation: Activation,
    /// The products and vectors; the feed-forward part is dense.
    parts: LayerTree<Product, Buffer<f32>>,
    rope: Buffer<u64>,
}

/// Bytes that attention of a decode step keeps of a chunk, in `ChunkShared<16>`.
const CHUNK_BYTES: usize = 3136;
/// Warps of a decode step's blocks: each has a head of floats.
const WARPS: usize = 16;

impl Layer {
    fn new(gpu: &Gpu, of: &LayerWeights<Packed>) -> Result<Self, Error> {
        let operation = "span";
        let Some(gated) = of.parts.feed_forward.dense() else {
            let experts =
                of.parts.feed_forward.experts().map_or(0, |experts| experts.experts.len());
            let (what, expected) = ("experts of a layer", 0);
            return Err(Error::Shape { operation, what, expected, got: experts });
        };
        let inner = gated.down.matrix.shape().columns;
        same(operation, "a feed-forward size, in 16", inner.next_multiple_of(16), inner)?;
        let plan = of.plan.attention;
        let head_dim = plan.head_dim as usize;
        let group = plan.heads as usize / plan.kv_heads.max(1) as usize;
        let shared = CHUNK_BYTES + group * (2 * padded(head_dim) + 4) + WARPS * head_dim * 4;
        at_most(operation, "bytes of heads that share keys", STEP_POOL, shared)?;
        let parts = of.parts.try_map(
            &mut (),
            |(), _, product| Product::new(gpu, product),
            |(), _, vector| gpu.buffer(vector),
        )?;
        Ok(Self {
            attention: plan,
            inner,
            activation: of.plan.activation,
            parts,
            rope: gpu.buffer(&of.rope)?,
        })
    }

    /// Returns the size of the layer's KV rows.
    pub(crate) const fn kv_shape(&self) -> KvShape {
        KvShape {
            kv_heads: self.attention.kv_heads as usize,
            head_dim: self.attention.head_dim as usize,
        }
    }

    /// Writes the structure `LayerPlan`, with the addresses of the layer's tables of pages and of
    /// the step's KV rows.
    pub(crate) fn write(&self, tables: u64, kv_rows: u64, words: &mut Words) -> Result<(), Error> {
        for (_, product) in self.parts.products() {
            words.product(product)?;
        }
        for name in VectorName::ALL {
            words.norm(self.parts.norm(name));
        }
        words.buffer(&self.rope);
        words.word(tables);
        words.word(kv_rows);
        let plan = &self.attention;
        words.pair(self.rope.len() as u32, plan.window);
        words.pair(plan.heads, plan.kv_heads);
        let activation = match self.activation {
            Activation::Silu => 0,
            Activation::GeluTanh => 1,
        };
        words.pair(plan.head_dim, activation);
        words.pair(plan.score_scale.to_bits(), self.inner as u32);
        Ok(())
    }
}

impl Span {
    /// Copies layers to the device, of which there is at least one.
    ///
    /// # Errors
    /// [`Error::Shape`] for layers that decode steps can't do: experts, a feed-forward size that is
    /// no multiple of 16, states of more than 11,264 elements, too many large heads that share
    /// keys; [`Error::Memory`]; [`Error::Lost`], [`Error::Call`].
    pub fn new(gpu: &Gpu, layers: &[LayerWeights<Packed>]) -> Result<Self, Error> {
        let hidden = layers.first().map_or(0, |layer| layer.parts.attention_norm.gain.len());
        at_most("span", "elements of a state", STEP_HIDDEN, hidden)?;
        same("span", "layers, at least", layers.len().max(1), layers.len())?;
        let layers = layers.iter().map(|layer| Layer::new(gpu, layer)).collect::<Result<_, _>>()?;
        Ok(Self { hidden, layers, embedding: None, head: None })
    }

    /// Returns the span with the model's embedding: its steps begin with tokens.
    ///
    /// # Errors
    /// [`Error::Shape`] for another state's size; [`Error::Memory`]; [`Error::Lost`],
    /// [`Error::Call`].
    pub fn with_embedding(mut self, gpu: &Gpu, of: &HeadWeights<Packed>) -> Result<Self, Error> {
        same("span", "columns of the embedding", self.hidden, of.embedding.shape().columns)?;
        self.embedding = Some((Matrix::new(gpu, &of.embedding)?, of.embedding_scale));
        Ok(self)
    }

    /// Returns the span with the model's head: its steps end with logits.
    ///
    /// # Errors
    /// As [`Span::with_embedding`].
    pub fn with_head(mut self, gpu: &Gpu, of: &HeadWeights<Packed>) -> Result<Self, Error> {
        same("span", "columns of the head", self.hidden, of.output.matrix.shape().columns)?;
        self.head = Some((gpu.norm_of(&of.norm)?, Matrix::new(gpu, &of.output.matrix)?));
        Ok(self)
    }

    /// Creates the empty caches of a session, one per layer.
    #[must_use]
    pub fn caches(&self) -> Vec<Kv> {
        self.layers.iter().map(|layer| Kv::new(layer.kv_shape())).collect()
    }

    /// Returns the number of logits of a row; 0 without a head.
    pub(crate) fn vocabulary(&self) -> usize {
        self.head.as_ref().map_or(0, |(_, matrix)| matrix.shape().rows)
    }
}
