//! AVX2: codes widened to i16, `vpmaddwd` with 4 broadcast i16, as in the matrix products.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by all loops")]

use std::arch::x86_64::*;

use super::{Product, Signs};
use crate::line::{DEPTH, LANES};

/// Registers of 4 lanes × 2 partial sums that hold 16 lanes.
const QUARTERS: usize = 4;

/// Called only where the processor has AVX2.
pub(super) fn multiply(product: &Product<'_>, sums: &mut [i32], width: usize) {
    for block in 0..product.panel.side {
        let mut vector = 0;
        while vector < product.vectors.count {
            let many = product.vectors.count - vector >= 2;
            // SAFETY: the processor has AVX2.
            unsafe {
                match (product.vectors.signs, many) {
                    (Signs::Keys, true) => tile::<2, true>(product, block, vector, sums, width),
                    (Signs::Keys, false) => tile::<1, true>(product, block, vector, sums, width),
                    (Signs::Values, true) => tile::<2, false>(product, block, vector, sums, width),
                    (Signs::Values, false) => tile::<1, false>(product, block, vector, sums, width),
                }
            }
            vector += 1 + usize::from(many);
        }
    }
}

/// The sums of 16 lanes with `MR` vectors.
#[target_feature(enable = "avx2")]
fn tile<const MR: usize, const KEYS: bool>(
    product: &Product<'_>,
    block: usize,
    vector: usize,
    sums: &mut [i32],
    width: usize,
) {
    let codes = product.codes::<MR>(vector);
    let mut acc = [[_mm256_setzero_si256(); QUARTERS]; MR];
    for r in 0..MR {
        // The offset goes to one of the two partial sums of each lane; it is 0 for values.
        let [offset, _] = product.vectors.offsets[vector + r];
        acc[r] = [_mm256_set1_epi64x(i64::from(offset.cast_unsigned())); QUARTERS];
    }
    for (step, line) in product.block(block).enumerate() {
        let mut x = [_mm256_setzero_si256(); MR];
        for r in 0..MR {
            let codes = &codes[r][step * DEPTH..][..DEPTH];
            // SAFETY: four i16 are 8 bytes.
            x[r] = _mm256_set1_epi64x(unsafe { codes.as_ptr().cast::<i64>().read_unaligned() });
        }
        for q in 0..QUARTERS {
            // SAFETY: a line is four times 16 bytes.
            let bytes = unsafe { _mm_load_si128(line.0.as_ptr().add(q * LANES).cast()) };
            let w = if KEYS { _mm256_cvtepu8_epi16(bytes) } else { _mm256_cvtepi8_epi16(bytes) };
            for r in 0..MR {
                acc[r][q] = _mm256_add_epi32(acc[r][q], _mm256_madd_epi16(w, x[r]));
            }
        }
    }
    for r in 0..MR {
        let sums = &mut sums[(vector + r) * width + block * LANES..][..LANES];
        for (sums, pair) in sums.chunks_exact_mut(8).zip(acc[r].chunks_exact(2)) {
            let added = _mm256_hadd_epi32(pair[0], pair[1]);
            let ordered = _mm256_permute4x64_epi64(added, 0b11_01_10_00);
            // SAFETY: eight i32 are 32 bytes.
            unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), ordered) };
        }
    }
}
