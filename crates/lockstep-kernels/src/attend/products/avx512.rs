//! AVX-512 VNNI: a line is one register; `vpdpbusd` with 4 broadcast bytes of each plane.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by all loops")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Ahead, Product, Signs, fetch};
use crate::kv::{DEPTH, LANES, Line};

/// Vectors of the largest tile. Up to 3 vectors × 4 blocks × 2 planes are 24 of the 32 registers.
const VECTORS: usize = 3;
/// Blocks of the largest tile.
const BLOCKS: usize = 4;
/// Lines that are fetched ahead in each step of a tile.
const AHEAD: usize = 2;

/// Called only where the processor has AVX-512 F, BW, DQ, VL and VNNI.
pub(super) fn multiply(
    product: &Product<'_>,
    blocks: Range<usize>,
    sums: &mut [i32],
    width: usize,
    ahead: &mut Ahead<'_>,
) {
    let mut vector = 0;
    while vector < product.vectors.count {
        let count = match product.vectors.count - vector {
            // Not 3 and 1.
            4 => 2,
            left => left.min(VECTORS),
        };
        match (product.vectors.signs, count) {
            (Signs::Keys, 1) => walk::<true, 1>(product, &blocks, vector, sums, width, ahead),
            (Signs::Keys, 2) => walk::<true, 2>(product, &blocks, vector, sums, width, ahead),
            (Signs::Keys, _) => walk::<true, 3>(product, &blocks, vector, sums, width, ahead),
            (Signs::Values, 1) => walk::<false, 1>(product, &blocks, vector, sums, width, ahead),
            (Signs::Values, 2) => walk::<false, 2>(product, &blocks, vector, sums, width, ahead),
            (Signs::Values, _) => walk::<false, 3>(product, &blocks, vector, sums, width, ahead),
        }
        vector += count;
    }
}

fn walk<const KEYS: bool, const MR: usize>(
    product: &Product<'_>,
    blocks: &Range<usize>,
    vector: usize,
    sums: &mut [i32],
    width: usize,
    ahead: &mut Ahead<'_>,
) {
    let mut block = blocks.start;
    while block < blocks.end {
        let count = match blocks.end - block {
            3 => 2,
            left => left.min(BLOCKS),
        };
        let ahead = ahead.take(product.steps.len() * AHEAD);
        // SAFETY: the processor has these instructions.
        unsafe {
            match count {
                1 => tile::<KEYS, MR, 1>(product, block, vector, sums, width, ahead),
                2 => tile::<KEYS, MR, 2>(product, block, vector, sums, width, ahead),
                _ => tile::<KEYS, MR, 4>(product, block, vector, sums, width, ahead),
            }
        }
        block += count;
    }
}

/// The sums of `NB` blocks of 16 lanes with `MR` vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tile<const KEYS: bool, const MR: usize, const NB: usize>(
    product: &Product<'_>,
    block: usize,
    vector: usize,
    sums: &mut [i32],
    width: usize,
    ahead: &[Line],
) {
    let lines = product.lines::<NB>(block);
    let planes = product.planes::<MR>(vector);
    let (steps, side) = (product.steps.len(), product.lines.side);
    let offsets = &product.vectors.offsets[vector..][..MR];
    let sums = &mut sums[vector * width + block * LANES..];
    // Everything below reads and writes inside these lengths.
    assert!(lines.iter().all(|lines| lines.len() == (steps - 1) * side + 1));
    assert!(planes.as_flattened().iter().all(|plane| plane.len() == steps * DEPTH));
    assert!(sums.len() >= (MR - 1) * width + NB * LANES);
    let mut acc = [[[_mm512_setzero_si512(); 2]; NB]; MR];
    for r in 0..MR {
        // Offsets are 0 for values.
        let [high, low] = offsets[r];
        acc[r] = [[_mm512_set1_epi32(high), _mm512_set1_epi32(low)]; NB];
    }
    for s in 0..steps {
        if s * AHEAD < ahead.len() {
            for line in 0..AHEAD {
                fetch(ahead.as_ptr().wrapping_add(s * AHEAD + line));
            }
        }
        let mut w = [_mm512_setzero_si512(); NB];
        for n in 0..NB {
            // SAFETY: within the length asserted above; a line is an aligned register.
            w[n] = unsafe { _mm512_load_si512(lines[n].as_ptr().add(s * side).cast()) };
        }
        for r in 0..MR {
            for plane in 0..2 {
                let plane_at = planes[r][plane].as_ptr();
                // SAFETY: `4 · steps` bytes, asserted above.
                let x = unsafe { plane_at.add(s * DEPTH).cast::<i32>().read_unaligned() };
                let x = _mm512_set1_epi32(x);
                for n in 0..NB {
                    let (unsigned, signed) = if KEYS { (w[n], x) } else { (x, w[n]) };
                    acc[r][n][plane] = _mm512_dpbusd_epi32(acc[r][n][plane], unsigned, signed);
                }
            }
        }
    }
    for r in 0..MR {
        for n in 0..NB {
            let [high, low] = acc[r][n];
            let shifted = _mm512_slli_epi32::<8>(high);
            // 255 · high for keys, 256 · high for values.
            let high = if KEYS { _mm512_sub_epi32(shifted, high) } else { shifted };
            // SAFETY: sixteen i32 are 64 bytes, within the length asserted above.
            unsafe {
                let sums = sums.as_mut_ptr().add(r * width + n * LANES);
                _mm512_storeu_si512(sums.cast(), _mm512_add_epi32(high, low));
            }
        }
    }
}
