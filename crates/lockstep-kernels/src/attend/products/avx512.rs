//! AVX-512 VNNI: a line is one register; `vpdpbusd` with 4 broadcast bytes of each plane.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by all loops")]

use std::arch::x86_64::*;

use super::{Ahead, Panel, Product, VECTORS_TOGETHER, fetch};
use crate::attend::scores::{MAGIC, Scores, Span};
use crate::kv::{KEY_SIDE, SPAN};
use crate::line::{DEPTH, LANES};

/// Blocks of the largest tile. With 3 vectors and 2 planes they are 24 of the 32 registers.
const BLOCKS: usize = 4;

/// The sums of a tile's planes.
type Planes<const MR: usize, const NB: usize> = [[[__m512i; 2]; NB]; MR];

/// As [`super::sum_values`]. Called only where the processor has AVX-512 F, BW, DQ, VL and VNNI.
pub(super) fn sum_values(
    product: &Product<'_>,
    sums: &mut [i32],
    width: usize,
    ahead: &mut Ahead<'_>,
) {
    for (vector, count) in together(product.vectors.count) {
        let mut block = 0;
        while block < product.panel.side {
            let blocks = match product.panel.side - block {
                3 => 2,
                left => left.min(BLOCKS),
            };
            let place = Place { vector, block };
            let sums = &mut sums[vector * width + block * LANES..];
            // SAFETY: the processor has these instructions.
            unsafe {
                match (count, blocks) {
                    (1, 1) => values::<1, 1>(product, place, sums, width, ahead),
                    (1, 2) => values::<1, 2>(product, place, sums, width, ahead),
                    (1, _) => values::<1, 4>(product, place, sums, width, ahead),
                    (2, 1) => values::<2, 1>(product, place, sums, width, ahead),
                    (2, 2) => values::<2, 2>(product, place, sums, width, ahead),
                    (2, _) => values::<2, 4>(product, place, sums, width, ahead),
                    (_, 1) => values::<3, 1>(product, place, sums, width, ahead),
                    (_, 2) => values::<3, 2>(product, place, sums, width, ahead),
                    _ => values::<3, 4>(product, place, sums, width, ahead),
                }
            }
            block += blocks;
        }
    }
}

/// As [`super::score_keys`], called where [`sum_values`] may be.
pub(super) fn score_keys(product: &Product<'_>, span: Span<'_>, ahead: &mut Ahead<'_>) {
    let Span { first, key_scales, scores } = span;
    for (vector, count) in together(product.vectors.count) {
        let span = Span { first, key_scales, scores: &mut scores[vector..] };
        // SAFETY: the processor has these instructions.
        unsafe {
            match count {
                1 => keys::<1>(product, vector, span, ahead),
                2 => keys::<2>(product, vector, span, ahead),
                _ => keys::<3>(product, vector, span, ahead),
            }
        }
    }
}

/// Numbers of vectors that are multiplied together, with the first of each.
fn together(vectors: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut vector = 0;
    std::iter::from_fn(move || {
        let count = match vectors - vector {
            0 => return None,
            // Not 3 and 1.
            4 => 2,
            left => left.min(VECTORS_TOGETHER),
        };
        vector += count;
        Some((vector - count, count))
    })
}

/// The first vector and block of a tile.
#[derive(Clone, Copy)]
struct Place {
    vector: usize,
    block: usize,
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn values<const MR: usize, const NB: usize>(
    product: &Product<'_>,
    place: Place,
    sums: &mut [i32],
    width: usize,
    ahead: &mut Ahead<'_>,
) {
    assert!(sums.len() >= (MR - 1) * width + NB * LANES, "room for sums");
    let planes = tile::<false, MR, NB>(product, place, ahead);
    for r in 0..MR {
        for n in 0..NB {
            let [high, low] = planes[r][n];
            let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low);
            // SAFETY: sixteen i32 are 64 bytes, within the length asserted above.
            unsafe {
                _mm512_storeu_si512(sums.as_mut_ptr().add(r * width + n * LANES).cast(), sum)
            };
        }
    }
}

/// The scores of [`KEY_SIDE`] blocks of keys with the first `MR` queries of a span.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn keys<const MR: usize>(
    product: &Product<'_>,
    vector: usize,
    span: Span<'_>,
    ahead: &mut Ahead<'_>,
) {
    let planes = tile::<true, MR, KEY_SIDE>(product, Place { vector, block: 0 }, ahead);
    let magic = _mm512_set1_ps(MAGIC);
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    let unseen = _mm512_set1_ps(f32::NEG_INFINITY);
    for (scores, planes) in span.scores.iter_mut().zip(planes) {
        let seen = scores.in_span(span.first);
        let seen = low_bits(seen.end) & !low_bits(seen.start);
        let Scores { scale, top_bits, largest, of, .. } = scores;
        let scale = _mm512_set1_ps(*scale);
        let out = of[span.first..][..SPAN].as_chunks_mut::<LANES>().0;
        // SAFETY: sixteen numbers are 64 bytes.
        let (mut top, mut most) = unsafe {
            (
                _mm512_loadu_si512(top_bits.as_ptr().cast()),
                _mm512_loadu_si512(largest.as_ptr().cast()),
            )
        };
        let scales = span.key_scales.as_chunks::<LANES>().0.iter().zip(out);
        for (n, ([high, low], (key_scales, out))) in planes.into_iter().zip(scales).enumerate() {
            // 255 · high + low.
            let dot = _mm512_sub_epi32(_mm512_slli_epi32::<8>(high), _mm512_sub_epi32(high, low));
            let seen = (seen >> (n * LANES)) as u16;
            // SAFETY: as above.
            let key_scales = unsafe { _mm512_loadu_ps(key_scales.as_ptr()) };
            let t = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, key_scales));
            let bits = _mm512_and_si512(_mm512_castps_si512(t), magnitude);
            most = _mm512_mask_max_epu32(most, seen, most, bits);
            let t = _mm512_mask_mov_ps(unseen, seen, t);
            top = _mm512_max_epi32(top, _mm512_castps_si512(_mm512_add_ps(t, magic)));
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), t) };
        }
        // SAFETY: as above.
        unsafe {
            _mm512_storeu_si512(top_bits.as_mut_ptr().cast(), top);
            _mm512_storeu_si512(largest.as_mut_ptr().cast(), most);
        }
    }
}

/// Returns the lowest `count` of 64 bits.
const fn low_bits(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// Returns the plane sums of `NB` blocks of 16 lanes with `MR` vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tile<const KEYS: bool, const MR: usize, const NB: usize>(
    product: &Product<'_>,
    place: Place,
    ahead: &mut Ahead<'_>,
) -> Planes<MR, NB> {
    let Product { vectors, panel } = product;
    let Panel { steps, side, .. } = *panel;
    let each = ahead.pace.step;
    let mut next = ahead.take(steps * each).as_ptr_range();
    let offsets = &vectors.offsets[place.vector..][..MR];
    let codes = &vectors.planes[place.vector * 2 * vectors.depth..][..MR * 2 * vectors.depth];
    // Everything below reads inside these lengths.
    assert!(place.block + NB <= side && panel.lines.len() == steps * side, "lines of a tile");
    assert!((panel.first + steps) * DEPTH <= vectors.depth, "elements of a tile");
    let lines = panel.lines[place.block..].as_ptr();
    let codes = codes[panel.first * DEPTH..].as_ptr();
    let mut acc = [[[_mm512_setzero_si512(); 2]; NB]; MR];
    for r in 0..MR {
        // Offsets are 0 for values.
        let [high, low] = offsets[r];
        acc[r] = [[_mm512_set1_epi32(high), _mm512_set1_epi32(low)]; NB];
    }
    for s in 0..steps {
        if next.start < next.end {
            for _ in 0..each {
                fetch(next.start);
                next.start = next.start.wrapping_add(1);
            }
        }
        let mut w = [_mm512_setzero_si512(); NB];
        for n in 0..NB {
            // SAFETY: a step has `side` lines; a line is an aligned register.
            w[n] = unsafe { _mm512_load_si512(lines.add(s * side + n).cast()) };
        }
        for r in 0..MR {
            for plane in 0..2 {
                // SAFETY: `4 · steps` bytes of each plane, asserted above.
                let x = unsafe {
                    let plane = codes.add((r * 2 + plane) * vectors.depth);
                    plane.add(s * DEPTH).cast::<i32>().read_unaligned()
                };
                let x = _mm512_set1_epi32(x);
                for n in 0..NB {
                    let (unsigned, signed) = if KEYS { (w[n], x) } else { (x, w[n]) };
                    acc[r][n][plane] = _mm512_dpbusd_epi32(acc[r][n][plane], unsigned, signed);
                }
            }
        }
    }
    acc
}
