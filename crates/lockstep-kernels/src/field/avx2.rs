//! AVX2: four products of 32-bit numbers per instruction.
//!
//! A weight is `low + 2^32 · high` with 32 and 29 bits. A value becomes a number of at most 48 bits
//! by adding half of its range and is split in two of 24 bits, so that 256 products of its parts
//! can be added up in 64 bits; 16-bit values need no split.

use std::arch::x86_64::*;
use std::ops::Range;

use lockstep_exact::field::add;

use super::{Value, part, portable, without_bias};

/// The number of 64-bit lanes.
const LANES: usize = 4;
/// The number of bits of a part of a value.
const PART: u32 = 24;
/// Weights of one go: each lane adds up at most 256 numbers below 2^56.
const CHUNK: usize = 256 * LANES;
/// The number of rows of a tile.
const ROWS: usize = 2;

/// Loading of values into registers.
pub(crate) trait Load: Sized {
    /// Values have these many bits; wider ones are noticed.
    const BITS: u32;

    /// Loads four values, sign-extended.
    ///
    /// # Safety
    /// Four values can be read at `at`, and the processor has AVX2.
    unsafe fn four(at: *const Self) -> __m256i;
}

impl Load for i64 {
    const BITS: u32 = 2 * PART;

    #[inline(always)]
    unsafe fn four(at: *const Self) -> __m256i {
        // SAFETY: as the caller says.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }
}

impl Load for i16 {
    const BITS: u32 = 16;

    #[inline(always)]
    unsafe fn four(at: *const Self) -> __m256i {
        // SAFETY: as the caller says.
        unsafe { _mm256_cvtepi16_epi64(_mm_loadl_epi64(at.cast())) }
    }
}

pub(super) fn dots<V: Value>(weights: &[u64], values: &[V], out: &mut [u64]) {
    out.fill(0);
    for start in (0..weights.len()).step_by(CHUNK) {
        let columns = start..weights.len().min(start + CHUNK);
        let mut row = 0;
        while row < out.len() {
            // Two rows of values in two parts would not fit the registers.
            row += if V::BITS > PART || out.len() - row < ROWS {
                add_tile::<1, V>(weights, values, row, &columns, out)
            } else {
                add_tile::<ROWS, V>(weights, values, row, &columns, out)
            };
        }
    }
}

/// Adds the products at `columns` of `MR` rows to `out`; returns `MR`.
fn add_tile<const MR: usize, V: Value>(
    weights: &[u64],
    values: &[V],
    row: usize,
    columns: &Range<usize>,
    out: &mut [u64],
) -> usize {
    let rows = part::<MR, V>(values, weights.len(), row, columns);
    let weights = &weights[columns.clone()];
    let whole = weights.len() / LANES * LANES;
    // SAFETY: this module is only entered where the processor has AVX2.
    let dots = unsafe { tile(&weights[..whole], rows.map(|row| &row[..whole])) };
    for (n, row_values) in rows.into_iter().enumerate() {
        let dot = match dots {
            Some(dots) => add(dots[n], portable::dot(&weights[whole..], &row_values[whole..])),
            None => portable::dot(weights, row_values),
        };
        out[row + n] = add(out[row + n], dot);
    }
    MR
}

/// Returns the dot products of `MR` rows, each as long as `weights`, whole lanes; `None` if a value
/// is too large.
#[target_feature(enable = "avx2")]
fn tile<const MR: usize, V: Value>(weights: &[u64], rows: [&[V]; MR]) -> Option<[u64; MR]> {
    assert!(weights.len() <= CHUNK && weights.len().is_multiple_of(LANES));
    assert!(rows.iter().all(|row| row.len() == weights.len()));
    let bias = _mm256_set1_epi64x(1 << (V::BITS - 1));
    let part = _mm256_set1_epi64x((1 << PART) - 1);
    let half = _mm256_set1_epi64x(0xffff_ffff);
    let zero = _mm256_setzero_si256();
    // Low part of the value with low and high half of the weight, then its high part.
    let mut sums = [[zero; 4]; MR];
    let mut all = [zero; 2];
    let mut seen = zero;
    for at in (0..weights.len()).step_by(LANES) {
        // SAFETY: `at + LANES` is within all lengths.
        let (low, values) = unsafe {
            let weight = _mm256_loadu_si256(weights.as_ptr().add(at).cast());
            (weight, rows.map(|row| V::four(row.as_ptr().add(at))))
        };
        let high = _mm256_srli_epi64(low, 32);
        all[0] = _mm256_add_epi64(all[0], _mm256_and_si256(low, half));
        all[1] = _mm256_add_epi64(all[1], high);
        for r in 0..MR {
            let value = _mm256_add_epi64(values[r], bias);
            let sums = &mut sums[r];
            let mut first = value;
            if V::BITS > PART {
                seen = _mm256_or_si256(seen, value);
                first = _mm256_and_si256(value, part);
                let second = _mm256_srli_epi64(value, PART as i32);
                sums[2] = _mm256_add_epi64(sums[2], _mm256_mul_epu32(low, second));
                sums[3] = _mm256_add_epi64(sums[3], _mm256_mul_epu32(high, second));
            }
            sums[0] = _mm256_add_epi64(sums[0], _mm256_mul_epu32(low, first));
            sums[1] = _mm256_add_epi64(sums[1], _mm256_mul_epu32(high, first));
        }
    }
    let too_large = _mm256_set1_epi64x(-1 << V::BITS);
    if _mm256_testz_si256(seen, too_large) == 0 {
        return None;
    }
    let weights = sum(all[0]) + (sum(all[1]) << 32);
    let mut dots = [0; MR];
    for r in 0..MR {
        let [a, b, c, d] = sums[r].map(|lanes| sum(lanes));
        let total = a + (b << 32) + ((c + (d << 32)) << PART);
        dots[r] = without_bias(total, weights, V::BITS - 1);
    }
    Some(dots)
}

/// Returns the sum of all lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn sum(lanes: __m256i) -> u128 {
    let mut all = [0_u64; LANES];
    // SAFETY: four u64 are 32 bytes.
    unsafe { _mm256_storeu_si256(all.as_mut_ptr().cast(), lanes) };
    all.into_iter().map(u128::from).sum()
}
