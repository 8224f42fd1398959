//! Sums to f32.

use lockstep_exact::matrix::BLOCK_ROWS;

use super::per_isa;
use crate::matmul::BlockSums;

per_isa! {
    /// `f32(sum) · (row_scale · token_scale)` for the input row `row` of `rows`; `sums` is
    /// block-major.
    pub(crate) fn dequant(
        isa: Isa,
        sums: &[BlockSums],
        rows: usize,
        row: usize,
        scales: &[f32],
        token_scale: f32,
        out: &mut [f32],
    ) {
        let blocks = sums.iter().skip(row).step_by(rows);
        let whole = scales.len() / BLOCK_ROWS * BLOCK_ROWS;
        let (scales, last_scales) = scales.split_at(whole);
        let (out, last_out) = out.split_at_mut(whole);
        let outputs = out.chunks_exact_mut(BLOCK_ROWS).zip(scales.chunks_exact(BLOCK_ROWS));
        for (sums, (out, scales)) in blocks.zip(outputs) {
            for ((out, &sum), scale) in out.iter_mut().zip(sums).zip(scales) {
                *out = sum as f32 * (scale * token_scale);
            }
        }
        if let Some(sums) = sums.iter().skip(row).step_by(rows).nth(whole / BLOCK_ROWS) {
            for ((out, &sum), scale) in last_out.iter_mut().zip(sums).zip(last_scales) {
                *out = sum as f32 * (scale * token_scale);
            }
        }
    }
}
