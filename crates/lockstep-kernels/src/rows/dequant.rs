//! Sums to f32.

use std::ops::Range;

use lockstep_exact::matrix::{BLOCK_ROWS, Packed};

use super::per_isa;
use crate::matmul::{BlockSums, Stripe};

per_isa! {
    /// `f32(sum) · (row_scale · token_scale)` for the input rows from `first` on, of `rows` rows:
    /// as many as there are token scales. `sums` is block-major.
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
    /// As [`dequant`], for all rows of some neighbouring blocks of `matrix`, with that matrix' row
    /// scales. `out` are the columns that those blocks give.
    pub(crate) fn dequant_blocks(
        isa: Isa,
        matrix: &Packed,
        blocks: Range<usize>,
        sums: &[BlockSums],
        token_scales: &[f32],
        out: &mut Stripe<'_>,
    ) {
        let rows = token_scales.len();
        for (at, (block, sums)) in blocks.zip(sums.chunks_exact(rows)).enumerate() {
            let scales = row_scales(matrix, block);
            let start = at * BLOCK_ROWS;
            let len = BLOCK_ROWS.min(out.width() - start);
            for ((row, sums), token_scale) in sums.iter().enumerate().zip(token_scales) {
                let out = &mut out.row(row)[start..start + len];
                convert(sums, &scales[..len], *token_scale, out);
            }
        }
    }
}

/// The row scales of a block, padding included.
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
