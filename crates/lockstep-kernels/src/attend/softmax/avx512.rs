//! The same passes with AVX-512: 16 positions at once. Called only where the processor has it.

use std::arch::x86_64::*;

use super::{BELOW_MAX, MAGIC, Sums};
use crate::attend::products::fetch_all;
use crate::kv::SPAN;
use crate::line::{LANES, Line};

/// Computes what [`super::sum_and_scale_any`] computes, with AVX-512.
pub(super) fn sum_and_scale(
    top_bits: i32,
    value_scales: &[f32],
    scores: &mut [f32],
    ahead: &[Line],
) -> Sums {
    assert_eq!(scores.len(), value_scales.len(), "one of each");
    // SAFETY: the processor has these instructions.
    unsafe { sum_and_scale_lanes(top_bits, value_scales, scores, ahead) }
}

/// Rounds as [`super::round_any`] does, and writes the bytes of codes into two planes.
pub(super) fn round(weights: &[f32], factor: f32, high: &mut [u8], low: &mut [u8]) {
    assert!(high.len() >= weights.len() && low.len() >= weights.len(), "one of each");
    // SAFETY: the processor has these instructions.
    unsafe { round_spans(weights, factor, high, low) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn load(values: &[f32; LANES]) -> __m512 {
    // SAFETY: sixteen f32 are 64 bytes.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn store(values: &mut [f32; LANES], register: __m512) {
    // SAFETY: as above.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), register) }
}

/// Computes [`crate::rows::exp2_fraction`] of several registers side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn exp2_fraction<const N: usize>(f: [__m512; N]) -> [__m512; N] {
    let [rest @ .., last] = lockstep_exact::num::EXP2;
    let mut sums = [_mm512_set1_ps(last); N];
    for c in rest.into_iter().rev().chain([1.0]) {
        for (sum, f) in sums.iter_mut().zip(f) {
            *sum = _mm512_add_ps(_mm512_set1_ps(c), _mm512_mul_ps(f, *sum));
        }
    }
    sums
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn sum_and_scale_lanes(
    top_bits: i32,
    value_scales: &[f32],
    scores: &mut [f32],
    ahead: &[Line],
) -> Sums {
    let (top, most) = (_mm512_set1_epi32(top_bits), _mm512_set1_epi32(BELOW_MAX));
    let (magic, unit) = (_mm512_set1_ps(MAGIC), _mm512_set1_ps(1_073_741_824.0));
    let zero = _mm512_setzero_si512();
    let (mut wrapped, mut high, mut largest) = (zero, zero, zero);
    let spans = scores.as_chunks_mut::<SPAN>().0.iter_mut();
    let spans = spans.zip(value_scales.as_chunks::<SPAN>().0);
    let each = ahead.len().div_ceil(value_scales.len() / LANES);
    let mut ahead = ahead.chunks(each.max(1));
    for (scores, scales) in spans {
        // Steps that wait for each other are long: four registers at a time fill the gaps.
        let scores = scores.as_chunks_mut::<LANES>().0;
        let scales = scales.as_chunks::<LANES>().0;
        let mut t = [_mm512_setzero_ps(); SPAN / LANES];
        for (t, scores) in t.iter_mut().zip(&*scores) {
            *t = load(scores);
        }
        let shifted = t.map(|t| _mm512_add_ps(t, magic));
        let mut f = t;
        for (f, shifted) in f.iter_mut().zip(shifted) {
            *f = _mm512_sub_ps(*f, _mm512_sub_ps(shifted, magic));
        }
        let m = exp2_fraction(f);
        for n in 0..SPAN / LANES {
            // default: where nothing is left to fetch, nothing is
            fetch_all(ahead.next().unwrap_or_default());
            let below = _mm512_sub_epi32(top, _mm512_castps_si512(shifted[n]));
            let counts = _mm512_cmple_epi32_mask(below, most);
            let below = _mm512_slli_epi32::<23>(below);
            let weight = _mm512_maskz_sub_epi32(counts, _mm512_castps_si512(m[n]), below);
            let weight = _mm512_castsi512_ps(weight);
            let term = _mm512_cvtps_epi32(_mm512_mul_ps(weight, unit));
            wrapped = _mm512_add_epi32(wrapped, term);
            high = _mm512_add_epi32(high, _mm512_srli_epi32::<16>(term));
            let weight = _mm512_mul_ps(weight, load(&scales[n]));
            largest = _mm512_max_epu32(largest, _mm512_castps_si512(weight));
            store(&mut scores[n], weight);
        }
    }
    // The sum is at least that of the high halves, at most 256 · 2^16 more, and known modulo 2^32.
    let high = _mm512_reduce_add_epi32(high).cast_unsigned();
    let rest = _mm512_reduce_add_epi32(wrapped).cast_unsigned().wrapping_sub(high << 16);
    Sums {
        denominator: (u64::from(high) << 16) + u64::from(rest),
        largest: _mm512_reduce_max_epu32(largest),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn round_spans(weights: &[f32], factor: f32, high: &mut [u8], low: &mut [u8]) {
    let factor = _mm512_set1_ps(factor);
    let odd = _mm512_set1_epi32(0xff00_ff00_u32.cast_signed());
    let planes = high.as_chunks_mut::<SPAN>().0.iter_mut().zip(low.as_chunks_mut::<SPAN>().0);
    for (weights, (high, low)) in weights.as_chunks::<SPAN>().0.iter().zip(planes) {
        let [mut a, mut b, mut c, mut d] = [_mm512_setzero_si512(); 4];
        let lanes = weights.as_chunks::<LANES>().0;
        for (code, weights) in [&mut a, &mut b, &mut c, &mut d].into_iter().zip(lanes) {
            *code = _mm512_cvtps_epi32(_mm512_mul_ps(load(weights), factor));
        }
        // Codes are 16 bits: two of them in each of 16 lanes, then bytes of four.
        let even_codes = _mm512_or_si512(a, _mm512_slli_epi32::<16>(c));
        let odd_codes = _mm512_or_si512(b, _mm512_slli_epi32::<16>(d));
        // 0xca: the second where the first has bits, else the third.
        let lows = _mm512_slli_epi16::<8>(odd_codes);
        let lows = _mm512_ternarylogic_epi32::<0xca>(odd, lows, even_codes);
        let highs = _mm512_srli_epi16::<8>(even_codes);
        let highs = _mm512_ternarylogic_epi32::<0xca>(odd, odd_codes, highs);
        // SAFETY: 64 bytes each.
        unsafe {
            _mm512_storeu_si512(high.as_mut_ptr().cast(), highs);
            _mm512_storeu_si512(low.as_mut_ptr().cast(), lows);
        }
    }
}
