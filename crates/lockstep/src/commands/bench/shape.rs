//! Models of random weights, packed and mapped like those of a package.
//!
//! Codes, group scales and the sizes of everything are those of a model; the answers mean nothing.
//! The bytes go through a file without a name, so that they are mapped as a package's are, and are
//! gone when the program ends.

use anyhow::Result;
use lockstep_client::place::Place;
use lockstep_exact::Digest;
use lockstep_exact::blob::{Blob, append_section};
use lockstep_exact::feed_forward::{FeedForward, Gated};
use lockstep_exact::manifest::{BlobRef, Manifest, Provenance, RopeTable};
use lockstep_exact::matrix::{Codec, seeded_bytes};
use lockstep_exact::num::LOG2_E;
use lockstep_exact::plan::{
    Activation, AttentionPlan, HeadPlan, LayerPlan, MatrixRef, NormPlan, ProductPlan, VectorRef,
};
use lockstep_exact::tree::LayerTree;
use lockstep_node::local::Local;
use lockstep_node::store::Store;

use super::Subject;
use crate::args::Shape;
use crate::backend;
use crate::output;

/// The sizes of a model whose weights are random.
struct Sizes {
    name: &'static str,
    what: &'static str,
    layers: u32,
    hidden: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    inner: u32,
    vocabulary: u32,
    context: u32,
}

const SMOLLM2: Sizes = Sizes {
    name: "smollm2-135m",
    what: "random weights of SmolLM2-135M's sizes",
    layers: 30,
    hidden: 576,
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
    inner: 1536,
    vocabulary: 49_152,
    context: 131_072,
};

const LLAMA_1B: Sizes = Sizes {
    name: "llama-3.2-1b",
    what: "random weights of Llama-3.2-1B's sizes, vocabulary of 49,152",
    layers: 16,
    hidden: 2048,
    heads: 32,
    kv_heads: 8,
    head_dim: 64,
    inner: 8192,
    vocabulary: 49_152,
    context: 131_072,
};

const LLAMA_8B_LAYERS: Sizes = Sizes {
    name: "llama-3.1-8b-layers",
    what: "random weights of 4 of Llama-3.1-8B's 32 layers, vocabulary of 1,024",
    layers: 4,
    hidden: 4096,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    inner: 14_336,
    vocabulary: 1024,
    context: 131_072,
};

const fn sizes(shape: Shape) -> &'static Sizes {
    match shape {
        Shape::Smollm2 => &SMOLLM2,
        Shape::Llama1b => &LLAMA_1B,
        Shape::Llama8bLayers => &LLAMA_8B_LAYERS,
    }
}

/// Returns the name of a shape, as `--shape` takes it.
pub(super) const fn name(shape: Shape) -> &'static str {
    sizes(shape).name
}

/// Makes a model of random weights, and loads it.
pub(super) fn subject(
    place: &Place,
    shape: Shape,
    codec: Codec,
    threads: usize,
) -> Result<Subject> {
    let sizes = sizes(shape);
    let mut maker = Maker::new(&place.store, sizes);
    let bar = output::steps_bar("random weights", u64::from(sizes.layers) + 1);
    let head = maker.head()?;
    let mut layers = Vec::new();
    for _ in 0..sizes.layers {
        bar.inc(1);
        layers.push(maker.layer(codec)?);
    }
    bar.finish_and_clear();
    let Maker { blobs, maps, .. } = maker;
    let manifest = Manifest {
        provenance: Provenance { name: sizes.name.to_owned(), ..Provenance::default() },
        hidden: sizes.hidden,
        vocabulary: sizes.vocabulary,
        context: sizes.context,
        blobs,
        // Not read: there is no text here.
        vocabulary_blob: head.blob,
        tokenizer_blob: head.blob,
        end_tokens: Vec::new(),
        ropes: vec![RopeTable {
            frequencies: (0..sizes.head_dim / 2).map(|pair| (1 << 61) >> pair.min(60)).collect(),
        }],
        head,
        layers,
    };
    manifest.check()?;
    let blob = |index: u32| maps.get(index as usize).cloned();
    let empty = Blob::new(Vec::new());
    let source = |index| blob(index).unwrap_or_else(|| empty.clone());
    let local = Local::load(backend::backend(Some(threads))?, &manifest, source)?;
    Ok(Subject { name: format!("{}, {codec}", sizes.what), manifest, local })
}

/// A maker of a model's blobs, one after the other.
struct Maker<'a> {
    store: &'a Store,
    sizes: &'a Sizes,
    /// The number of matrices made so far, from which the seed of the next is derived.
    matrices: u64,
    blobs: Vec<BlobRef>,
    maps: Vec<Blob>,
}

impl<'a> Maker<'a> {
    const fn new(store: &'a Store, sizes: &'a Sizes) -> Self {
        Self { store, sizes, matrices: 0, blobs: Vec::new(), maps: Vec::new() }
    }

    fn head(&mut self) -> Result<HeadPlan> {
        let Sizes { hidden, vocabulary, .. } = *self.sizes;
        let mut bytes = Vec::new();
        let norm = self.norm(&mut bytes);
        let output = self.matrix(&mut bytes, Codec::W8, vocabulary, hidden);
        let blob = self.map(&bytes)?;
        Ok(HeadPlan {
            embedding_blob: blob,
            embedding: output,
            embedding_scale: 1.0,
            blob,
            norm,
            output,
        })
    }

    fn layer(&mut self, codec: Codec) -> Result<LayerPlan> {
        let Sizes { hidden, heads, kv_heads, head_dim, inner, .. } = *self.sizes;
        let score_scale = LOG2_E / (head_dim as f32).sqrt();
        let attention =
            AttentionPlan { heads, kv_heads, head_dim, rope: 0, window: 0, score_scale };
        let mut bytes = Vec::new();
        let attention_norm = self.norm(&mut bytes);
        let qkv = self.product(&mut bytes, Codec::W8, attention.qkv_width() as u32, hidden);
        let output = self.product(&mut bytes, codec, hidden, attention.query_width() as u32);
        let ffn_norm = self.norm(&mut bytes);
        let gate_up = self.product(&mut bytes, codec, 2 * inner, hidden);
        let down = self.product(&mut bytes, codec, hidden, inner);
        let parts = LayerTree {
            attention_norm,
            qkv,
            output,
            ffn_norm,
            feed_forward: FeedForward::Dense(Gated { gate_up, down }),
            head_norms: None,
            post_norms: None,
        };
        let (blob, activation) = (self.map(&bytes)?, Activation::Silu);
        Ok(LayerPlan { blob, attention, activation, parts })
    }

    fn product(
        &mut self,
        blob: &mut Vec<u8>,
        codec: Codec,
        rows: u32,
        columns: u32,
    ) -> ProductPlan {
        ProductPlan { matrix: self.matrix(blob, codec, rows, columns), bias: None }
    }

    fn norm(&self, blob: &mut Vec<u8>) -> NormPlan {
        let len = self.sizes.hidden;
        let gain = 1.0_f32.to_le_bytes().repeat(len as usize);
        NormPlan::new(1e-5, VectorRef { offset: append_section(blob, &gain), len })
    }

    fn matrix(&mut self, blob: &mut Vec<u8>, codec: Codec, rows: u32, columns: u32) -> MatrixRef {
        let shape = codec.shape(rows as usize, columns as usize);
        self.matrices += 1;
        let packed = seeded_bytes(self.matrices, shape);
        MatrixRef {
            offset: append_section(blob, &packed),
            rows,
            columns,
            codec,
            digest: Digest::of(&packed),
        }
    }

    fn map(&mut self, bytes: &[u8]) -> Result<u32> {
        let map = self.store.map_unnamed(&[bytes])?;
        self.blobs.push(BlobRef { digest: map.digest(), len: bytes.len() as u64 });
        self.maps.push(Blob::new(map));
        Ok(self.maps.len() as u32 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrices_of_every_shape_are_whole_blocks() {
        for sizes in [&SMOLLM2, &LLAMA_1B, &LLAMA_8B_LAYERS] {
            let heads = sizes.heads + 2 * sizes.kv_heads;
            let rows = [sizes.hidden, 2 * sizes.inner, heads * sizes.head_dim, sizes.vocabulary];
            assert!(rows.iter().all(|rows| rows.is_multiple_of(16)), "{}", sizes.name);
        }
    }

    #[test]
    fn every_shape_is_called_what_the_command_line_calls_it() {
        use clap::ValueEnum as _;
        for shape in Shape::value_variants() {
            assert_eq!(shape.to_possible_value().unwrap().get_name(), name(*shape));
        }
    }
}
