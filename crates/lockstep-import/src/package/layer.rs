//! Writes a file's tensors into the blob of a layer, and says how large it becomes.
//!
//! Sections lie in the order of the layer's tree, but the biases come after all matrices and before
//! the vectors that not every layer has. The order is part of what package ids are made of.

use std::mem;

use lockstep_exact::matrix::{Codec, Shape};
use lockstep_exact::names::{ProductName, VectorName};
use lockstep_exact::plan::{AttentionPlan, LayerPlan, ProductPlan, VectorRef};
use lockstep_exact::tree::LayerTree;

use super::{ImportError, ModelError, ModelFile, Progress, Sink, Writer, section, vector};
use crate::balance::Balance;
use crate::families::{LayerTensors, Model, ProductTensors, Tensors};

impl ModelFile<'_> {
    /// Writes the blob of layer `layer` and returns the plan of what is in it.
    pub(super) fn import_layer<S: Sink, P: FnMut(Progress)>(
        &self,
        writer: &mut Writer<'_, S, P>,
        layer: u32,
    ) -> Result<LayerPlan, ImportError<S::Error>> {
        let model = &self.model;
        let tensors = Tensors::new(&self.gguf).layer(model, layer).map_err(ModelError::from)?;
        let attention = attention(model, layer);
        let rope =
            model.positions.ropes.get(attention.rope as usize).map_or(&[][..], Vec::as_slice);
        let balance = Balance::of(model, rope, &tensors).map_err(ModelError::from)?;
        let bytes = LayerSizes::of(&tensors).blob_bytes(self.codec);
        let bytes = Vec::with_capacity(bytes);
        let mut blob = LayerBlob { bytes, waiting: Vec::new(), biases: Vec::new() };
        let mut parts = tensors.try_map(
            &mut blob,
            |blob, name, product| {
                let bias = product.bias.as_ref().map(|bias| balance.bias(name, bias));
                blob.waiting.extend(bias.map(|bias| (name, bias)));
                let codec = codec_of(name, self.codec);
                let factor = |row| balance.of_row(name, row);
                let matrix = writer.matrix(&mut blob.bytes, codec, product, factor)?;
                Ok::<_, ModelError>(ProductPlan { matrix, bias: None })
            },
            |blob, name, numbers| Ok(blob.vector(name, &balance.vector(name, numbers))),
        )?;
        blob.write_biases();
        for (name, product) in parts.products_mut() {
            product.bias = blob.bias_of(name);
        }
        let blob = writer.put(blob.bytes)?;
        Ok(LayerPlan { blob, attention, activation: model.family.activation, parts })
    }
}

fn attention(model: &Model, layer: u32) -> AttentionPlan {
    let (rope, window) = model.positions.layers.get(layer as usize).copied().unwrap_or_default();
    AttentionPlan {
        heads: model.heads,
        kv_heads: model.kv_heads,
        head_dim: model.head_dim,
        rope,
        window,
        score_scale: model.score_scale(),
    }
}

/// A layer's blob while it is written.
struct LayerBlob {
    bytes: Vec<u8>,
    /// Biases of products that are written already, which wait for the matrices to end.
    waiting: Vec<(ProductName, Vec<f32>)>,
    /// The places of the biases that have been written.
    biases: Vec<(ProductName, VectorRef)>,
}

impl LayerBlob {
    /// Appends a vector of the tree, and before it the biases if it belongs behind them.
    fn vector(&mut self, name: VectorName, numbers: &[f32]) -> VectorRef {
        if !is_in_every_layer(name) {
            self.write_biases();
        }
        vector(&mut self.bytes, numbers)
    }

    /// Appends the biases that wait.
    fn write_biases(&mut self) {
        for (name, numbers) in mem::take(&mut self.waiting) {
            self.biases.push((name, vector(&mut self.bytes, &numbers)));
        }
    }

    fn bias_of(&self, product: ProductName) -> Option<VectorRef> {
        let found = self.biases.iter().find(|(name, _)| *name == product);
        found.map(|(_, bias)| *bias)
    }
}

/// Whether a vector is one that lies among the matrices; the others follow the biases.
const fn is_in_every_layer(name: VectorName) -> bool {
    matches!(name, VectorName::AttentionNorm | VectorName::FfnNorm)
}

/// Returns the codec of a layer's product where `codec` is asked for. Queries, keys and values are
/// a small part of a layer, and 4 bits cost them more than any other matrix; routers and the gates
/// of shared experts are small and decide about much. They all stay in 8 bits.
pub(super) const fn codec_of(name: ProductName, codec: Codec) -> Codec {
    match name {
        ProductName::Qkv | ProductName::Router | ProductName::SharedGate => Codec::W8,
        _ => codec,
    }
}

/// The sizes of the parts of a layer.
#[derive(Debug)]
pub(super) struct LayerSizes(LayerTree<ProductSize, usize>);

/// The size of a product: rows and columns of the matrix, and numbers of the bias if it has one.
#[derive(Debug)]
struct ProductSize {
    matrix: [usize; 2],
    bias: Option<usize>,
}

impl LayerSizes {
    pub(super) fn of(tensors: &LayerTensors<'_>) -> Self {
        let size = |_, product: &ProductTensors<'_>| ProductSize {
            matrix: product.size(),
            bias: product.bias.as_ref().map(Vec::len),
        };
        Self(tensors.map(size, |_, numbers| numbers.len()))
    }

    /// Returns the shapes of the matrices as they are stored where `codec` is asked for.
    pub(super) fn shapes(&self, codec: Codec) -> impl Iterator<Item = Shape> + '_ {
        self.0.products().into_iter().map(move |(name, product)| {
            let [rows, columns] = product.matrix;
            codec_of(name, codec).shape(rows, columns)
        })
    }

    /// Returns the number of bytes of the layer's blob: sections with gaps between them, and none
    /// after the last.
    pub(super) fn blob_bytes(&self, codec: Codec) -> usize {
        let matrices = self.shapes(codec).map(|shape| shape.packed_bytes());
        let biases = self.0.products().into_iter().filter_map(|(_, product)| product.bias);
        let vectors = self.0.vectors().into_iter().map(|(name, len)| (name, *len));
        let (first, last): (Vec<_>, Vec<_>) =
            vectors.partition(|(name, _)| is_in_every_layer(*name));
        let of = |vectors: Vec<(VectorName, usize)>| vectors.into_iter().map(|(_, len)| len);
        let sections = of(first).map(|len| 4 * len).chain(matrices);
        let sections = sections.chain(biases.chain(of(last)).map(|len| 4 * len));
        sections.fold(0, |end, bytes| section(end) + bytes)
    }
}
