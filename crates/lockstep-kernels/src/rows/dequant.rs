//! Sums to f32.

use lockstep_exact::matrix::BLOCK_ROWS;

use super::per_isa;
use crate::matmul::BlockSums;

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
    /// Adds one number per column.
    pub(crate) fn add_bias(isa: Isa, bias: &[f32], row: &mut [f32]) {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value += bias;
        }
    }
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
