//! From scores to integer weights, for some queries and one chunk.
//!
//! Works on whole lines of weights. At positions that a query does not see, the first score that
//! it sees stands in while the largest is looked for, then a score that weighs nothing.

use std::ops::Range;

use lockstep_exact::attend::Chunk;
use lockstep_exact::kv::PAGE;
use lockstep_exact::num::{Overflow, block_exponent};

use super::Partial;
use super::products::{Ahead, Vectors};
use crate::isa::Isa;
use crate::kv::{DEPTH, Head, LANES, SPAN};
use crate::rows::{exp2_fraction, per_isa, pow2, rne};

#[cfg(target_arch = "x86_64")]
mod avx512;

/// Scores this many powers of two below the largest weigh nothing.
const BELOW_MAX: i32 = 40;
/// Bits of 2^20, the smallest magnitude of a score that overflows.
const SCORE_OVERFLOW_BITS: u32 = (127 + 20) << 23;
/// 1.5 · 2^23: adding it rounds to an integer, which the low bits of the sum then hold.
const MAGIC: f32 = 12_582_912.0;
/// How far below the largest a score stands in that is not seen.
const UNSEEN: i32 = 100;

/// A query's scale, and which positions of the chunk it sees.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) scale: f32,
    pub(super) seen: Range<usize>,
}

/// What a pass over scores finds.
#[derive(Clone, Copy, Debug, Default)]
struct Scores {
    /// Bits of the largest score plus [`MAGIC`].
    top_bits: i32,
    /// Bits of the largest magnitude.
    largest: u32,
}

/// What a pass over weights finds.
#[derive(Clone, Copy, Debug)]
struct Sums {
    denominator: u64,
    /// Bits of the largest weight of a value.
    largest: u32,
}

/// Turns the products of queries with keys, `[views][256]`, into the chunk's summaries and the
/// vectors that values are multiplied with; only the positions in `range` (whole lines of values)
/// are looked at. `powers` is scratch of the same size.
#[expect(clippy::too_many_arguments, reason = "a chunk and its queries, scratch and results")]
pub(super) fn weigh(
    isa: Isa,
    head: &Head<'_>,
    range: Range<usize>,
    views: &[View],
    dots: &mut [[i32; PAGE]],
    powers: &mut [[f32; PAGE]],
    weights: &mut Vectors,
    partials: &mut [Partial],
    ahead: &mut Ahead<'_>,
) {
    // What keys and values leave to fetch, in nine bursts for three queries.
    let share = (ahead.len() * 2 / 3).div_ceil(3 * views.len());
    let mut found = [Scores::default(); super::VECTORS];
    for (at, view) in views.iter().enumerate() {
        partials[at] = None;
        if view.seen.is_empty() {
            continue;
        }
        found[at] = look(isa, head, range.clone(), view, &mut dots[at], &mut powers[at]);
        if found[at].largest >= SCORE_OVERFLOW_BITS {
            partials[at] = Some(Err(Overflow));
            continue;
        }
        let top = found[at].top_bits - MAGIC.to_bits().cast_signed();
        let unseen = (top - UNSEEN) as f32;
        powers[at][range.start..view.seen.start].fill(unseen);
        powers[at][view.seen.end..range.end].fill(unseen);
        partials[at] = Some(Ok(Chunk { top, denominator: 0, exponent: None }));
        ahead.fetch(share);
    }
    let scales = &head.value_scales[range.clone()];
    for at in 0..views.len() {
        if let Some(Ok(chunk)) = &mut partials[at] {
            let powers = &mut powers[at][range.clone()];
            let sums = sum_and_scale(isa, found[at].top_bits, scales, powers);
            chunk.denominator = sums.denominator;
            match block_exponent(sums.largest) {
                Ok(exponent) => chunk.exponent = exponent,
                Err(Overflow) => partials[at] = Some(Err(Overflow)),
            }
        }
        ahead.fetch(share);
    }
    for at in 0..views.len() {
        if let Some(Ok(Chunk { exponent: Some(exponent), .. })) = partials[at] {
            let powers = &powers[at][range.clone()];
            round(isa, powers, pow2(-exponent), range.start, weights, at);
        }
        ahead.fetch(share);
    }
}

/// Scores from products.
fn look(
    isa: Isa,
    head: &Head<'_>,
    range: Range<usize>,
    view: &View,
    dots: &mut [i32; PAGE],
    scores: &mut [f32; PAGE],
) -> Scores {
    let out = &mut scores[range.clone()];
    if view.seen == range {
        return find(isa, &dots[range.clone()], view.scale, &head.key_scales[range], out);
    }
    let (first, end) = (view.seen.start, view.seen.end);
    let mut keys = [head.key_scales[first]; PAGE];
    keys[view.seen.clone()].copy_from_slice(&head.key_scales[view.seen.clone()]);
    let stand_in = dots[first];
    dots[range.start..first].fill(stand_in);
    dots[end..range.end].fill(stand_in);
    find(isa, &dots[range.clone()], view.scale, &keys[range], out)
}

/// `t = f32(dot) · (query_scale · key_scale)` and the largest of them.
fn find(isa: Isa, dots: &[i32], scale: f32, key_scales: &[f32], scores: &mut [f32]) -> Scores {
    #[cfg(target_arch = "x86_64")]
    if isa.0 == crate::isa::Kind::Avx512 {
        return avx512::find(dots, scale, key_scales, scores);
    }
    find_any(isa, dots, scale, key_scales, scores)
}

/// The denominator `Σ rne(m · 2^(30 - below))`; scores become the weights of the values.
fn sum_and_scale(isa: Isa, top_bits: i32, value_scales: &[f32], scores: &mut [f32]) -> Sums {
    #[cfg(target_arch = "x86_64")]
    if isa.0 == crate::isa::Kind::Avx512 {
        return avx512::sum_and_scale(top_bits, value_scales, scores);
    }
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
    fn find_any(
        isa: Isa,
        dots: &[i32],
        scale: f32,
        key_scales: &[f32],
        scores: &mut [f32],
    ) -> Scores {
        let mut found = Scores { top_bits: i32::MIN, largest: 0 };
        for ((&dot, key_scale), score) in dots.iter().zip(key_scales).zip(scores) {
            let t = dot as f32 * (scale * key_scale);
            found.largest = found.largest.max(t.to_bits() & 0x7fff_ffff);
            found.top_bits = found.top_bits.max((t + MAGIC).to_bits().cast_signed());
            *score = t;
        }
        found
    }
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
    /// `rne(weight · factor)`, in the order in which values lie.
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
