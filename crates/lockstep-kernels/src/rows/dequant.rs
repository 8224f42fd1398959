//! Converts the exact sums of a product to f32.

use std::ops::Range;

use lockstep_exact::matrix::{BLOCK_ROWS, Packed};

use crate::isa::per_isa;
use crate::matmul::{BlockSums, Stripe};

/// Blocks whose outputs are written side by side, row after row.
const TOGETHER: usize = 8;

per_isa! {
    /// Computes `f32(sum) · (row_scale · token_scale)` for the input rows from `first` on, of
    /// `rows` rows: as many as there are token scales. `sums` is block-major.
    pub(crate) fn dequant(
        isa: Isa,
        sums: &[BlockSums],
        rows: usize,
        first: usize,
        scales: &[f32],
        token_scales: &[f32],
        out: &mut [f32],
    ) {
        let width = scales.len();
        for (block, sums) in sums.chunks_exact(rows).enumerate() {
            let start = block * BLOCK_ROWS;
            let end = width.min(start + BLOCK_ROWS);
            let outputs = out.chunks_exact_mut(width).zip(token_scales);
            for (sums, (out, token_scale)) in sums[first..].iter().zip(outputs) {
                convert(sums, &scales[start..end], *token_scale, &mut out[start..end]);
            }
        }
    }
}

per_isa! {
    /// Dequantises as [`dequant`] does, for all rows of some neighbouring blocks of `matrix`, with
    /// that matrix's row scales. `out` are the columns that those blocks give.
    pub(crate) fn dequant_blocks(
        isa: Isa,
        matrix: &Packed,
        blocks: Range<usize>,
        sums: &[BlockSums],
        token_scales: &[f32],
        out: &mut Stripe<'_>,
    ) {
        if let [token_scale] = token_scales {
            let out = out.row(0).chunks_mut(BLOCK_ROWS);
            for ((out, sums), block) in out.zip(sums).zip(blocks) {
                convert(sums, &row_scales(matrix, block)[..out.len()], *token_scale, out);
            }
            return;
        }
        let rows = token_scales.len();
        for (at, sums) in sums.chunks(TOGETHER * rows).enumerate() {
            let first = blocks.start + at * TOGETHER;
            let count = sums.len() / rows;
            let mut scales = [[0.0; BLOCK_ROWS]; TOGETHER];
            for (scales, block) in scales.iter_mut().zip(first..first + count) {
                *scales = row_scales(matrix, block);
            }
            let start = at * TOGETHER * BLOCK_ROWS;
            let end = out.width().min(start + count * BLOCK_ROWS);
            for (row, token_scale) in token_scales.iter().enumerate() {
                let out = out.row(row)[start..end].chunks_mut(BLOCK_ROWS);
                let sums = sums[row..].iter().step_by(rows);
                for ((out, sums), scales) in out.zip(sums).zip(&scales) {
                    convert(sums, &scales[..out.len()], *token_scale, out);
                }
            }
        }
    }
}

per_isa! {
    /// Adds `bias` to `row`, element by element.
    pub(crate) fn add_bias(isa: Isa, bias: &[f32], row: &mut [f32]) {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value += bias;
        }
    }
}

per_isa! {
    /// Computes `out + weight · row`: the product is rounded, then the sum.
    pub(crate) fn add_weighted(isa: Isa, weight: f32, row: &[f32], out: &mut [f32]) {
        for (out, value) in out.iter_mut().zip(row) {
            *out += weight * value;
        }
    }
}

/// Returns the row scales of a block, padding included.
#[inline(always)]
fn row_scales(matrix: &Packed, block: usize) -> [f32; BLOCK_ROWS] {
    let bytes = &matrix.block(block)[matrix.shape().row_scales_offset()..];
    let mut scales = [0.0; BLOCK_ROWS];
    for (scale, bytes) in scales.iter_mut().zip(bytes.as_chunks().0) {
        *scale = f32::from_le_bytes(*bytes);
    }
    scales
}

#[inline(always)]
fn convert(sums: &BlockSums, scales: &[f32], token_scale: f32, out: &mut [f32]) {
    // A whole block has a known length, which is what makes it a few vector instructions.
    if let (Ok(scales), Ok(out)) =
        (<&[f32; BLOCK_ROWS]>::try_from(scales), <&mut [f32; BLOCK_ROWS]>::try_from(&mut *out))
    {
        for lane in 0..BLOCK_ROWS {
            out[lane] = sums[lane] as f32 * (scales[lane] * token_scale);
        }
        return;
    }
    for ((out, &sum), scale) in out.iter_mut().zip(sums).zip(scales) {
        *out = sum as f32 * (scale * token_scale);
    }
}
