//! From scores to integer weights, for one query and one chunk.

use lockstep_exact::attend::Chunk;
use lockstep_exact::kv::PAGE;
use lockstep_exact::num::{Overflow, block_exponent};

use crate::isa::Isa;
use crate::rows::{amax_bits, exp2_fraction, per_isa, pow2, rne};

/// Scores this many powers of two below the largest weigh nothing.
const BELOW_MAX: i32 = 40;
/// Bits of 2^20, the smallest magnitude of a score that overflows.
const SCORE_OVERFLOW_BITS: u32 = (127 + 20) << 23;

/// The scales of a query and of the keys and values it sees.
#[derive(Clone, Copy)]
pub(super) struct Scales<'a> {
    pub(super) query: f32,
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
}

/// Turns the products of a query with the keys it sees into the chunk's summary and the i16
/// weights of its values, which are not negative.
pub(super) fn weights(
    isa: Isa,
    dots: &[i32],
    scales: Scales<'_>,
    codes: &mut [i16],
) -> Result<Chunk, Overflow> {
    let count = dots.len();
    let (mut parts, mut fractions) = ([0_i32; PAGE], [0.0_f32; PAGE]);
    let (parts, weights) = (&mut parts[..count], &mut fractions[..count]);
    let top = scores(isa, dots, scales.query, scales.keys, parts, weights)?;
    let denominator = sum_and_scale(isa, top, parts, scales.values, weights);
    let exponent = block_exponent(amax(isa, weights))?;
    if let Some(exponent) = exponent {
        round(isa, weights, pow2(-exponent), codes);
    }
    Ok(Chunk { top, denominator, exponent })
}

per_isa! {
    /// Integer parts, and 2 to the power of the fractions; returns the largest integer part.
    fn scores(
        isa: Isa,
        dots: &[i32],
        query_scale: f32,
        key_scales: &[f32],
        parts: &mut [i32],
        powers: &mut [f32],
    ) -> Result<i32, Overflow> {
        let (mut top, mut largest) = (i32::MIN, 0_u32);
        let outputs = parts.iter_mut().zip(powers);
        for ((&dot, key_scale), (part, power)) in dots.iter().zip(key_scales).zip(outputs) {
            let t = dot as f32 * (query_scale * key_scale);
            largest = largest.max(t.to_bits() & 0x7fff_ffff);
            let n = rne(t);
            top = top.max(n);
            *part = n;
            *power = exp2_fraction(t - n as f32);
        }
        if largest >= SCORE_OVERFLOW_BITS { Err(Overflow) } else { Ok(top) }
    }
}

per_isa! {
    /// The denominator `Σ rne(m · 2^(30 - below))`; `powers` become the weights of the values.
    fn sum_and_scale(
        isa: Isa,
        top: i32,
        parts: &[i32],
        value_scales: &[f32],
        powers: &mut [f32],
    ) -> u64 {
        // A term is below 2^31: two sums of at most 256 halves each fit u32.
        let (mut high, mut low) = (0_u32, 0_u32);
        for ((&part, scale), power) in parts.iter().zip(value_scales).zip(powers) {
            let below = top - part;
            let shift = pow2(-below.min(BELOW_MAX));
            let weight = if below > BELOW_MAX { 0.0 } else { *power * shift };
            let term = round_below_31_bits(weight * pow2(30));
            high += term >> 16;
            low += term & 0xffff;
            // Not `weight · scale` where nothing is left: a scale may be anything.
            *power = if below > BELOW_MAX { 0.0 } else { weight * scale };
        }
        (u64::from(high) << 16) + u64::from(low)
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
    /// The largest magnitude, as bits.
    fn amax(isa: Isa, values: &[f32]) -> u32 {
        amax_bits(values)
    }
}

per_isa! {
    /// `rne(weight · factor)`.
    fn round(isa: Isa, weights: &[f32], factor: f32, codes: &mut [i16]) {
        for (code, weight) in codes.iter_mut().zip(weights) {
            *code = rne(weight * factor) as i16;
        }
    }
}
