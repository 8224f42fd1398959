//! AVX-512 IFMA: eight products of 52-bit numbers per instruction, low and high halves apart.
//!
//! A weight is `low + 2^52 · high` with 52 and 9 bits (the instructions look at the low 52 bits of
//! their operands anyway). A value in −2^42..2^42 becomes a number below 2^43 by adding 2^42. So
//! three products do: `low·value` has two halves, `high·value` fits 52 bits. The sum of all
//! weights, which takes the 2^42 out again, comes with them.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by all loops")]

use std::arch::x86_64::*;
use std::ops::Range;

use lockstep_exact::field::add;

use super::{Value, part, portable, without_bias};

/// The number of 64-bit lanes.
const LANES: usize = 8;
/// Bits of a value, its bias added.
const BITS: u32 = 43;
const BIAS: u32 = BITS - 1;
/// Weights of one go: each lane then adds up at most 2^11 numbers below 2^52.
const CHUNK: usize = 1 << 14;
/// Rows of a tile: 12 sums are in flight, where 8 keep both multipliers busy.
const ROWS: usize = 4;

const _: () = assert!(CHUNK / LANES <= 1 << 11 && 9 + BITS <= 52);

/// Loading of values into registers.
pub(crate) trait Load: Sized {
    /// Loads eight values, sign-extended.
    ///
    /// # Safety
    /// Eight values can be read at `at`, and the processor has AVX-512 F.
    unsafe fn eight(at: *const Self) -> __m512i;

    /// Returns the values that `mask` names; 0 for others.
    ///
    /// # Safety
    /// The values that `mask` names can be read at `at`, and the processor has AVX-512 F, BW, VL.
    unsafe fn eight_of(mask: __mmask8, at: *const Self) -> __m512i;
}

impl Load for i64 {
    #[inline(always)]
    unsafe fn eight(at: *const Self) -> __m512i {
        // SAFETY: as the caller says.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn eight_of(mask: __mmask8, at: *const Self) -> __m512i {
        // SAFETY: as the caller says.
        unsafe { _mm512_maskz_loadu_epi64(mask, at) }
    }
}

impl Load for i16 {
    #[inline(always)]
    unsafe fn eight(at: *const Self) -> __m512i {
        // SAFETY: as the caller says.
        unsafe { _mm512_cvtepi16_epi64(_mm_loadu_si128(at.cast())) }
    }

    #[inline(always)]
    unsafe fn eight_of(mask: __mmask8, at: *const Self) -> __m512i {
        // SAFETY: as the caller says.
        unsafe { _mm512_cvtepi16_epi64(_mm_maskz_loadu_epi16(mask, at)) }
    }
}

/// Returns whether this processor has the instructions, those of [`crate::isa::Kind::Avx512`]
/// given.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512ifma")
}

pub(super) fn dots<V: Value>(weights: &[u64], values: &[V], out: &mut [u64]) {
    out.fill(0);
    for start in (0..weights.len()).step_by(CHUNK) {
        let columns = start..weights.len().min(start + CHUNK);
        let mut row = 0;
        while row < out.len() {
            row += match out.len() - row {
                1 => add_tile::<1, V>(weights, values, row, &columns, out),
                2 => add_tile::<2, V>(weights, values, row, &columns, out),
                3 => add_tile::<3, V>(weights, values, row, &columns, out),
                _ => add_tile::<ROWS, V>(weights, values, row, &columns, out),
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
    // SAFETY: this module is only entered where the processor has these instructions.
    let dots = unsafe { tile(weights, rows) };
    // default: where a value is too large for the tile, the portable code has it
    let dots = dots.unwrap_or_else(|| rows.map(|row| portable::dot(weights, row)));
    for (out, dot) in out[row..].iter_mut().zip(dots) {
        *out = add(*out, dot);
    }
    MR
}

/// Returns the dot products of `MR` rows, each as long as `weights`; `None` if a value is too
/// large.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma")]
fn tile<const MR: usize, V: Value>(weights: &[u64], rows: [&[V]; MR]) -> Option<[u64; MR]> {
    assert!(weights.len() <= CHUNK && rows.iter().all(|row| row.len() == weights.len()));
    let mut sums = Sums::<MR>::new();
    let whole = weights.len() / LANES;
    for at in (0..whole * LANES).step_by(LANES) {
        // SAFETY: `at + LANES` is within all lengths.
        let (weight, values) = unsafe {
            let weight = _mm512_loadu_si512(weights.as_ptr().add(at).cast());
            (weight, rows.map(|row| V::eight(row.as_ptr().add(at))))
        };
        sums.add(weight, values);
    }
    let left = weights.len() % LANES;
    if left > 0 {
        let (mask, at) = ((1_u8 << left) - 1, whole * LANES);
        // SAFETY: the mask names the elements from `at` to the end.
        let (weight, values) = unsafe {
            let weight = _mm512_maskz_loadu_epi64(mask, weights.as_ptr().add(at).cast());
            (weight, rows.map(|row| V::eight_of(mask, row.as_ptr().add(at))))
        };
        sums.add(weight, values);
    }
    sums.finish()
}

/// The sums of a tile, in eight lanes each.
struct Sums<const MR: usize> {
    /// The sums of the low halves of low·value.
    low: [__m512i; MR],
    /// High halves of low·value, in units of 2^52.
    middle: [__m512i; MR],
    /// The sums of high·value, in units of 2^52.
    high: [__m512i; MR],
    /// The weights themselves, low and high.
    weights: [__m512i; 2],
    /// All bits that were set in any value.
    seen: __m512i,
}

impl<const MR: usize> Sums<MR> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new() -> Self {
        let zero = _mm512_setzero_si512();
        let rows = [zero; MR];
        Self { low: rows, middle: rows, high: rows, weights: [zero; 2], seen: zero }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn add(&mut self, weight: __m512i, values: [__m512i; MR]) {
        let bias = _mm512_set1_epi64(1 << BIAS);
        let high = _mm512_srli_epi64(weight, 52);
        self.weights[0] = _mm512_madd52lo_epu64(self.weights[0], weight, _mm512_set1_epi64(1));
        self.weights[1] = _mm512_add_epi64(self.weights[1], high);
        for r in 0..MR {
            let value = _mm512_add_epi64(values[r], bias);
            self.seen = _mm512_or_si512(self.seen, value);
            self.low[r] = _mm512_madd52lo_epu64(self.low[r], weight, value);
            self.middle[r] = _mm512_madd52hi_epu64(self.middle[r], weight, value);
            self.high[r] = _mm512_madd52lo_epu64(self.high[r], high, value);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn finish(self) -> Option<[u64; MR]> {
        let too_large = _mm512_set1_epi64(-1 << BITS);
        if _mm512_test_epi64_mask(self.seen, too_large) != 0 {
            return None;
        }
        let [low, high] = self.weights.map(|lanes| sum(lanes));
        let weights = low + (high << 52);
        let mut dots = [0; MR];
        for r in 0..MR {
            let upper = sum(self.middle[r]) + sum(self.high[r]);
            dots[r] = without_bias(sum(self.low[r]) + (upper << 52), weights, BIAS);
        }
        Some(dots)
    }
}

/// Returns the sum of all lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum(lanes: __m512i) -> u128 {
    let mut all = [0_u64; LANES];
    // SAFETY: eight u64 are 64 bytes.
    unsafe { _mm512_storeu_si512(all.as_mut_ptr().cast(), lanes) };
    all.into_iter().map(u128::from).sum()
}
