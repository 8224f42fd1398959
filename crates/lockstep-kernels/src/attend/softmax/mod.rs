//! Turns scores into integer weights, for some queries and one chunk.
//!
//! Works on whole lines of weights.

use lockstep_exact::attend::Chunk;
use lockstep_exact::kv::PAGE;
use lockstep_exact::num::{Overflow, block_exponent};

use super::Partial;
use super::products::{Ahead, Vectors, fetch_all};
use super::scores::{MAGIC, Scores};
use crate::isa::Isa;
use crate::isa::per_isa;
use crate::kv::SPAN;
use crate::line::{DEPTH, LANES, Line};
use crate::rows::{exp2_fraction, pow2, rne};

#[cfg(target_arch = "x86_64")]
mod avx512;

/// Scores this many powers of two below the largest weigh nothing.
const BELOW_MAX: i32 = 40;
/// The results of a pass over the weights of a chunk.
#[derive(Clone, Copy, Debug)]
struct Sums {
    denominator: u64,
    /// Bits of the largest weight of a value.
    largest: u32,
}

/// Turns the scores of queries into the chunk's summaries and the vectors that values are
/// multiplied with, at the positions from `first` on: as many as there are scales of values,
/// whole lines of values.
pub(super) fn weigh(
    isa: Isa,
    value_scales: &[f32],
    first: usize,
    scores: &mut [Scores],
    weights: &mut Vectors,
    partials: &mut [Partial],
    ahead: &mut Ahead<'_>,
) {
    let lines = value_scales.len() / LANES * ahead.pace.scores;
    for (at, (scores, partial)) in scores.iter_mut().zip(partials).enumerate() {
        if scores.seen.is_empty() {
            *partial = None;
            continue;
        }
        let Some(top_bits) = scores.top_bits(isa) else {
            *partial = Some(Err(Overflow));
            continue;
        };
        let powers = &mut scores.of[first..][..value_scales.len()];
        let sums = sum_and_scale(isa, top_bits, value_scales, powers, ahead.take(lines));
        let exponent = block_exponent(sums.largest);
        if let Ok(Some(exponent)) = exponent {
            round(isa, powers, pow2(-exponent), first, weights, at);
        }
        let top = top_bits - MAGIC.to_bits().cast_signed();
        let chunk = |exponent| Chunk { top, denominator: sums.denominator, exponent };
        *partial = Some(exponent.map(chunk));
    }
}

/// Returns the denominator `Σ rne(m · 2^(30 - below))`; scores become the weights of the values.
fn sum_and_scale(
    isa: Isa,
    top_bits: i32,
    value_scales: &[f32],
    scores: &mut [f32],
    ahead: &[Line],
) -> Sums {
    #[cfg(target_arch = "x86_64")]
    if isa.0 == crate::isa::Kind::Avx512 {
        return avx512::sum_and_scale(top_bits, value_scales, scores, ahead);
    }
    fetch_all(ahead);
    sum_and_scale_any(isa, top_bits, value_scales, scores)
}

/// Sets a vector to `rne(weight · factor)`, from position `first` on.
fn round(isa: Isa, weights: &[f32], factor: f32, first: usize, vectors: &mut Vectors, at: usize) {
    #[cfg(target_arch = "x86_64")]
    if isa.0 == crate::isa::Kind::Avx512 {
        let [high, low] = vectors.planes_mut(at);
        return avx512::round(weights, factor, &mut high[first..], &mut low[first..]);
    }
    let mut codes = [0; PAGE];
    let codes = &mut codes[..weights.len()];
    round_any(isa, weights, factor, codes);
    vectors.set(at, first, codes);
}

per_isa! {
    fn sum_and_scale_any(
        isa: Isa,
        top_bits: i32,
        value_scales: &[f32],
        scores: &mut [f32],
    ) -> Sums {
        // A term is below 2^31: two sums of at most 256 halves each fit u32.
        let (mut high, mut low, mut largest) = (0_u32, 0_u32, 0_u32);
        for (score, scale) in scores.iter_mut().zip(value_scales) {
            let shifted = *score + MAGIC;
            let below = top_bits.wrapping_sub(shifted.to_bits().cast_signed());
            let m = exp2_fraction(*score - (shifted - MAGIC));
            // Exact: m is in [2^-1/2, 2^1/2].
            let power = f32::from_bits(m.to_bits().wrapping_sub((below << 23).cast_unsigned()));
            let weight = if below > BELOW_MAX { 0.0 } else { power };
            let term = round_below_31_bits(weight * pow2(30));
            high += term >> 16;
            low += term & 0xffff;
            *score = weight * scale;
            largest = largest.max(score.to_bits());
        }
        Sums { denominator: (u64::from(high) << 16) + u64::from(low), largest }
    }
}

/// Rounds x in [0, 2^31) to the nearest integer, ties to even.
#[inline(always)]
fn round_below_31_bits(x: f32) -> u32 {
    // From 2^22 on, adding the magic number is not exact, but x has at most one fractional bit;
    // from 2^23 on it has none.
    let rounded = x.round_ties_even();
    // SAFETY: the caller's x is in [0, 2^31).
    unsafe { rounded.to_int_unchecked::<i32>() }.cast_unsigned()
}

per_isa! {
    /// Computes `rne(weight · factor)`, in the order in which values are stored.
    fn round_any(isa: Isa, weights: &[f32], factor: f32, codes: &mut [i16]) {
        for (weights, codes) in weights.chunks_exact(SPAN).zip(codes.chunks_exact_mut(SPAN)) {
            for (depth, weights) in weights.chunks_exact(LANES).enumerate() {
                for (lane, weight) in weights.iter().enumerate() {
                    codes[lane * DEPTH + depth] = rne(weight * factor) as i16;
                }
            }
        }
    }
}
