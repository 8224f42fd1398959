//! The weights of a span of layers, of embedding and head, in the device's memory.

use lockstep_exact::matrix::Packed;
use lockstep_exact::names::VectorName;
use lockstep_exact::plan::Activation;
use lockstep_exact::weights::{HeadWeights, LayerWeights, Product};

use crate::driver::{Buffer, Error};
use crate::gpu::{Gpu, Norm, at_most, same};
use crate::kv::{Kv, padded};
use crate::limits::{STEP_HIDDEN, STEP_POOL};
use crate::products::Matrix;
use crate::words::Words;

/// A layer's weights on the device.
pub type Layer = LayerWeights<Matrix, Buffer<f32>, Buffer<u64>>;

/// Layers of a model, and embedding and head if they are with it.
#[derive(Debug)]
pub struct Span {
    layers: Vec<Layer>,
    embedding: Option<(Matrix, f32)>,
    head: Option<(Norm, Matrix)>,
}

/// The way of a decode step: layers on the device, and embedding and head if they are with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a> {
    pub(crate) layers: &'a [Layer],
    pub(crate) embedding: Option<&'a (Matrix, f32)>,
    pub(crate) head: Option<&'a (Norm, Matrix)>,
}

/// Bytes that attention of a decode step keeps of a chunk, in `ChunkShared<16>`.
const CHUNK_BYTES: usize = 3136;
/// Warps of a decode step's blocks: each has a head of floats.
const WARPS: usize = 16;

/// Checks that decode steps can do a layer.
fn check(layer: &Layer) -> Result<(), Error> {
    let operation = "span";
    let Some(gated) = layer.parts.feed_forward.dense() else {
        let experts = layer.parts.feed_forward.experts().map_or(0, |of| of.experts.len());
        let (what, expected) = ("experts of a layer", 0);
        return Err(Error::Shape { operation, what, expected, got: experts });
    };
    let inner = gated.down.matrix.shape().columns;
    same(operation, "a feed-forward size, in 16", inner.next_multiple_of(16), inner)?;
    let plan = &layer.plan.attention;
    let head_dim = plan.head_dim as usize;
    let group = plan.heads as usize / plan.kv_heads.max(1) as usize;
    let shared = CHUNK_BYTES + group * (2 * padded(head_dim) + 4) + WARPS * head_dim * 4;
    at_most(operation, "bytes of heads that share keys", STEP_POOL, shared)
}

/// Returns a layer's feed-forward size; 0 where it has experts.
pub(crate) fn inner(layer: &Layer) -> usize {
    layer.parts.feed_forward.dense().map_or(0, |gated| gated.down.matrix.shape().columns)
}

/// Writes the structure `LayerPlan` of a layer, with the addresses of its tables of pages and of
/// the step's KV rows.
pub(crate) fn write(
    layer: &Layer,
    tables: u64,
    kv_rows: u64,
    words: &mut Words,
) -> Result<(), Error> {
    for (_, product) in layer.parts.products() {
        words.matrix(Some(&product.matrix), product.bias.as_ref())?;
    }
    for name in VectorName::ALL {
        words.norm(layer.parts.norm(name));
    }
    words.buffer(&layer.rope);
    words.word(tables);
    words.word(kv_rows);
    let plan = &layer.plan.attention;
    words.pair(layer.rope.len() as u32, plan.window);
    words.pair(plan.heads, plan.kv_heads);
    let activation = match layer.plan.activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
    };
    words.pair(plan.head_dim, activation);
    words.pair(plan.score_scale.to_bits(), inner(layer) as u32);
    Ok(())
}

impl<'a> Path<'a> {
    /// Returns the way through layers, of which there is at least one, if decode steps can do them.
    ///
    /// # Errors
    /// [`Error::Shape`] says why they can't.
    pub(crate) fn new(layers: &'a [Layer]) -> Result<Self, Error> {
        same("span", "layers, at least", layers.len().max(1), layers.len())?;
        layers.iter().try_for_each(check)?;
        let path = Self { layers, embedding: None, head: None };
        at_most("span", "elements of a state", STEP_HIDDEN, path.hidden())?;
        Ok(path)
    }

    /// Returns the number of elements of a state.
    pub(crate) fn hidden(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.parts.attention_norm.gain.len())
    }

    /// Returns the number of logits of a row; 0 without a head.
    pub(crate) fn vocabulary(&self) -> usize {
        self.head.map_or(0, |(_, matrix)| matrix.shape().rows)
    }
}

/// Copies a product's weights to the device.
fn product(gpu: &Gpu, of: &Product<Packed>) -> Result<Product<Matrix, Buffer<f32>>, Error> {
    let bias = of.bias.as_ref().map(|bias| gpu.buffer(bias)).transpose()?;
    Ok(Product { matrix: Matrix::new(gpu, &of.matrix)?, scales: gpu.buffer(&of.scales)?, bias })
}

/// Copies a layer to the device.
fn layer(gpu: &Gpu, of: &LayerWeights<Packed>) -> Result<Layer, Error> {
    Ok(Layer {
        layer: of.layer,
        is_last: of.is_last,
        plan: of.plan.clone(),
        rope: gpu.buffer(&of.rope)?,
        parts: of.parts.try_map(
            &mut (),
            |(), _, of| product(gpu, of),
            |(), _, vector| gpu.buffer(vector),
        )?,
    })
}

impl Span {
    /// Copies layers to the device, of which there is at least one.
    ///
    /// # Errors
    /// [`Error::Shape`] for layers that decode steps can't do: experts, a feed-forward size that is
    /// no multiple of 16, states of more than 11,264 elements, too many large heads that share
    /// keys; [`Error::Memory`]; [`Error::Lost`], [`Error::Call`].
    pub fn new(gpu: &Gpu, layers: &[LayerWeights<Packed>]) -> Result<Self, Error> {
        let layers: Vec<Layer> =
            layers.iter().map(|of| layer(gpu, of)).collect::<Result<_, _>>()?;
        Path::new(&layers)?;
        Ok(Self { layers, embedding: None, head: None })
    }

    /// Returns the span with the model's embedding: its steps begin with tokens.
    ///
    /// # Errors
    /// [`Error::Shape`] for another state's size; [`Error::Memory`]; [`Error::Lost`],
    /// [`Error::Call`].
    pub fn with_embedding(mut self, gpu: &Gpu, of: &HeadWeights<Packed>) -> Result<Self, Error> {
        same(
            "span",
            "columns of the embedding",
            self.path().hidden(),
            of.embedding.shape().columns,
        )?;
        self.embedding = Some((Matrix::new(gpu, &of.embedding)?, of.embedding_scale));
        Ok(self)
    }

    /// Returns the span with the model's head: its steps end with logits.
    ///
    /// # Errors
    /// As [`Span::with_embedding`].
    pub fn with_head(mut self, gpu: &Gpu, of: &HeadWeights<Packed>) -> Result<Self, Error> {
        same(
            "span",
            "columns of the head",
            self.path().hidden(),
            of.output.matrix.shape().columns,
        )?;
        self.head = Some((gpu.norm_of(&of.norm)?, Matrix::new(gpu, &of.output.matrix)?));
        Ok(self)
    }

    /// Returns the layers, as the backend's forward pass takes them.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Creates the empty caches of a session, one per layer.
    #[must_use]
    pub fn caches(&self) -> Vec<Kv> {
        self.layers.iter().map(|layer| Kv::new(layer.kv_shape())).collect()
    }

    /// Returns the way through all of it.
    pub(crate) fn path(&self) -> Path<'_> {
        let (embedding, head) = (self.embedding.as_ref(), self.head.as_ref());
        Path { layers: &self.layers, embedding, head }
    }
}
