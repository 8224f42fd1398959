//! Counts the least work that a model makes a machine do: bytes to read, multiply-adds to make.

use lockstep_exact::manifest::Manifest;
use lockstep_exact::plan::{LayerPlan, MatrixRef};

/// Planes of 8 bits in a 16-bit input: each weight is multiplied with both.
const PLANES: u64 = 2;

/// The least work of a token and of a prompt.
pub(super) struct Work {
    /// Bytes of weights that one token reads: each once.
    pub(super) token_bytes: u64,
    /// Multiply-adds of all matrix products of a prompt, both planes.
    pub(super) prompt_multiply_adds: u64,
}

impl Work {
    pub(super) fn of(manifest: &Manifest, prompt: usize) -> Self {
        let bytes = |(times, matrix): Used<'_>| times * matrix.shape().packed_bytes() as u64;
        let head = [(1, &manifest.head.output)];
        let all = manifest.layers.iter().flat_map(products).chain(head);
        let token_bytes = all.clone().map(bytes).sum();
        let whole: u64 = all.map(used_weights).sum();
        // Every position but the last stops after the last layer's keys and values.
        let qkv = |layer: &LayerPlan| weights(&layer.parts.qkv.matrix);
        let last = manifest.layers.last();
        let after =
            last.map_or(0, |layer| products(layer).into_iter().map(used_weights).sum::<u64>());
        let skipped = after - last.map_or(0, qkv) + weights(&manifest.head.output);
        let prompt = prompt as u64;
        let prompt_multiply_adds = PLANES * (prompt * whole - prompt.saturating_sub(1) * skipped);
        Self { token_bytes, prompt_multiply_adds }
    }
}

/// A matrix, and how many matrices of its size a token uses: of experts as many as are chosen.
type Used<'a> = (u64, &'a MatrixRef);

/// Returns the matrices of a layer that a token uses.
fn products(layer: &LayerPlan) -> Vec<Used<'_>> {
    let products = layer.parts.products_of_a_row().into_iter();
    products.map(|(_, times, product)| (times as u64, &product.matrix)).collect()
}

const fn used_weights((times, matrix): Used<'_>) -> u64 {
    times * weights(matrix)
}

const fn weights(matrix: &MatrixRef) -> u64 {
    matrix.rows as u64 * matrix.columns as u64
}

#[cfg(test)]
mod tests {
    use lockstep_testing::tiny_model::{Sizes, TinyModel};

    use super::Work;

    #[test]
    fn a_prompt_passes_the_last_layer_and_the_head_once() {
        let sizes = Sizes { layers: 2, ..Sizes::default() };
        let manifest = TinyModel::with_sizes(1, sizes).manifest;
        // 64 wide; qkv 64 + 2 · 32 rows, output 64 x 64, gate and up 192 x 64, down 64 x 96.
        let (qkv, rest, head) = (128 * 64, 64 * 64 + 192 * 64 + 64 * 96, 272 * 64);
        let expected = 2 * (10 * (2 * qkv + rest) + rest + head);
        assert_eq!(Work::of(&manifest, 10).prompt_multiply_adds, expected);
        assert_eq!(Work::of(&manifest, 1).prompt_multiply_adds, 2 * (2 * (qkv + rest) + head));
    }
}
