//! The device memory that serving a span of layers takes, known before anything is loaded.

use std::ops::Range;

use lockstep_exact::kv::PAGE;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::plan::{LayerPlan, ProductPlan};
use lockstep_exact::weights::kv_shape;

use crate::attention;
use crate::kv::Kv;
use crate::limits::{POOL_STEP, RESERVE};
use crate::products;

/// The device memory that a server of a span takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of the weights of all layers, and of the head if it is with them.
    pub weights: u64,
    /// Bytes of intermediate results, at most, and of what stays free.
    pub scratch: u64,
    /// Bytes of a page of keys and values: 256 positions of one layer.
    pub page: u64,
}

impl Needs {
    /// Computes what a server of `span` takes whose batches have up to `rows` rows, of sessions of
    /// up to `positions` positions; with the head if the span starts at layer 0.
    #[must_use]
    pub fn of(manifest: &Manifest, span: &Range<u32>, rows: u64, positions: u64) -> Self {
        let layers = manifest.layers.get(span.start as usize..span.end as usize);
        // default: a span that the model does not have takes nothing, and loading refuses it
        let layers = layers.unwrap_or_default();
        let mut weights: u64 = layers.iter().map(layer).sum();
        let mut scratch = layers.iter().map(|layer| of_batch(layer, rows, positions)).max();
        if span.start == 0 {
            let shape = manifest.head.output.shape();
            weights += products::stored_bytes(shape) + floats(manifest.head.norm.gain.len.into());
            let logits = rows * floats(shape.rows as u64);
            scratch = scratch.map(|bytes| bytes.max(logits));
        }
        let page = layers.iter().map(|layer| Kv::page_bytes(kv_shape(layer)) as u64).max();
        // default: as above
        let (scratch, page) = (scratch.unwrap_or(0), page.unwrap_or(1));
        // Pages are allocated in multiples of this.
        let page = page.next_multiple_of(POOL_STEP as u64);
        Self { weights, scratch: scratch + RESERVE, page }
    }

    /// Returns the number of pages that fit beside the rest into so many free bytes.
    #[must_use]
    pub const fn pages(&self, free: u64) -> u64 {
        free.saturating_sub(self.weights.saturating_add(self.scratch)) / self.page
    }
}

const fn floats(count: u64) -> u64 {
    count * size_of::<f32>() as u64
}

/// Bytes of a layer's weights.
fn layer(plan: &LayerPlan) -> u64 {
    let product = |of: &ProductPlan| {
        let shape = of.matrix.shape();
        let bias = of.bias.map_or(0, |bias| u64::from(bias.len));
        products::stored_bytes(shape) + floats(shape.rows as u64 + bias)
    };
    let products: u64 = plan.parts.products().into_iter().map(|(_, of)| product(of)).sum();
    let vectors: u64 = plan.parts.vectors().into_iter().map(|(_, of)| floats(of.len.into())).sum();
    products + vectors + 8 * u64::from(plan.attention.head_dim)
}

/// Bytes of what a batch keeps of a layer while it is computed: rows in and out of the widest
/// product as floats and codes, attention's shares of chunks, and all that is shown to the host.
fn of_batch(plan: &LayerPlan, rows: u64, positions: u64) -> u64 {
    let widths = plan.parts.products().into_iter().map(|(_, of)| of.matrix.shape());
    // default: a layer has products
    let widest = widths.map(|shape| shape.rows.max(shape.columns)).max().unwrap_or(0) as u64;
    let chunks = positions.div_ceil(PAGE as u64);
    let heads = u64::from(plan.attention.heads);
    let share = attention::share_bytes(plan.attention.head_dim as usize) as u64;
    rows * (16 * widest + heads * chunks * share)
}
