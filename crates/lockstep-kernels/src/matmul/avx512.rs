//! AVX-512 VNNI: `vpdpbusd` of 16 rows × 4 columns of u8 codes with 4 broadcast i8 activations.
//!
//! A tile is `MR` activation rows × `NB` blocks of 16 weight rows. Each 64-byte weight load feeds
//! both planes of every activation row. Accumulators start at −128·Σx of the group, which undoes the
//! +128 in the stored codes, so a group's plane sum is at most 64·127·127 and its scaled form
//! 63 times that: 32 groups fit an i32 and are then flushed to the i64 sums.

use std::arch::x86_64::*;

use std::ops::Range;

use super::{BLOCK, Block, CACHED, CHUNK, GROUP, Packed, Planes};

/// Columns per `vpdpbusd` lane.
const LANE: usize = 4;

/// Adds the products of `blocks` (at most `NB` used) with `MR` rows of `panel` to `out`.
///
/// # Safety
/// The processor has AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile<const MR: usize, const NB: usize, const AHEAD: bool>(
    blocks: [Block<'_>; NB],
    planes: &Planes,
    row: usize,
    chunk: Range<usize>,
    out: &mut [[i64; BLOCK]],
    stride: usize,
    ahead: [*const u8; NB],
) {
    let groups = chunk.len();
    let x: [*const i8; MR] = std::array::from_fn(|r| planes.planes_at(row + r, chunk.start));
    let init: [*const i32; MR] = std::array::from_fn(|r| planes.offsets_at(row + r, chunk.start));
    let codes: [*const u8; NB] = std::array::from_fn(|n| blocks[n].codes.as_ptr());
    let scales: [*const u8; NB] = std::array::from_fn(|n| blocks[n].scales.as_ptr());
    let mut total = [[[_mm512_setzero_si512(); 2]; NB]; MR];
    for g in 0..groups {
        let mut acc = [[[_mm512_setzero_si512(); 2]; NB]; MR];
        for r in 0..MR {
            for p in 0..2 {
                // SAFETY: offsets hold two words per group.
                let start = _mm512_set1_epi32(unsafe { init[r].add(g * 2 + p).read() });
                for n in 0..NB {
                    acc[r][n][p] = start;
                }
            }
        }
        for s in 0..GROUP / LANE {
            let step = g * (GROUP / LANE) + s;
            let mut w = [_mm512_setzero_si512(); NB];
            for n in 0..NB {
                // SAFETY: codes hold 64 bytes per 4 columns, 16 steps per group.
                w[n] = unsafe { _mm512_loadu_si512(codes[n].add(step * 64).cast()) };
                if AHEAD {
                    unsafe { _mm_prefetch(ahead[n].wrapping_add(step * 64).cast(), _MM_HINT_T1) };
                }
            }
            for r in 0..MR {
                for p in 0..2 {
                    let at = g * (2 * GROUP) + p * GROUP + s * LANE;
                    // SAFETY: planes hold 128 bytes per group.
                    let v = unsafe { x[r].add(at).cast::<i32>().read_unaligned() };
                    let v = _mm512_set1_epi32(v);
                    for n in 0..NB {
                        acc[r][n][p] = _mm512_dpbusd_epi32(acc[r][n][p], w[n], v);
                    }
                }
            }
        }
        for n in 0..NB {
            // SAFETY: scales hold 16 bytes per group.
            let scale = unsafe { _mm_loadu_si128(scales[n].add(g * BLOCK).cast()) };
            let scale = _mm512_cvtepu8_epi32(scale);
            for r in 0..MR {
                for p in 0..2 {
                    let scaled = _mm512_mullo_epi32(acc[r][n][p], scale);
                    total[r][n][p] = _mm512_add_epi32(total[r][n][p], scaled);
                }
            }
        }
    }
    for r in 0..MR {
        for n in 0..NB {
            add_to(&mut out[n * stride + r], total[r][n]);
        }
    }
}

/// `out += 255·hi + lo` in 64 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_to(out: &mut [i64; BLOCK], [hi, lo]: [__m512i; 2]) {
    let combine = |hi: __m256i, lo: __m256i| {
        let hi = _mm512_cvtepi32_epi64(hi);
        let hi = _mm512_sub_epi64(_mm512_slli_epi64(hi, 8), hi);
        _mm512_add_epi64(hi, _mm512_cvtepi32_epi64(lo))
    };
    let low = combine(_mm512_castsi512_si256(hi), _mm512_castsi512_si256(lo));
    let high = combine(_mm512_extracti64x4_epi64(hi, 1), _mm512_extracti64x4_epi64(lo, 1));
    let at = out.as_mut_ptr();
    // SAFETY: `out` is 16 words.
    unsafe {
        let (first, second) = (at.cast::<__m512i>(), at.add(8).cast::<__m512i>());
        _mm512_storeu_si512(first, _mm512_add_epi64(_mm512_loadu_si512(first), low));
        _mm512_storeu_si512(second, _mm512_add_epi64(_mm512_loadu_si512(second), high));
    }
}

const MAX: usize = 6;

pub(super) fn sums(w: Packed<'_>, blocks: Range<usize>, x: &Planes, out: &mut [[i64; BLOCK]]) {
    let rows = x.rows();
    let most = (CACHED / (w.groups * 2 * GROUP)).max(4 * MAX);
    let panels = rows.div_ceil(most);
    let stride = Packed::stride(w.groups * GROUP);
    for p in 0..panels {
        let panel = rows * p / panels..rows * (p + 1) / panels;
        for first in blocks.clone().step_by(2) {
            let out = &mut out[(first - blocks.start) * rows..];
            for start in (0..w.groups).step_by(CHUNK) {
                let chunk = start..(start + CHUNK).min(w.groups);
                let a = w.part(first, &chunk);
                let last = chunk.end == w.groups;
                let pair = first + 1 < blocks.end;
                let next = |part: Block<'_>| {
                    let n = if last { (1 + usize::from(pair)) * stride - start * GROUP * BLOCK } else { part.codes.len() };
                    part.codes.as_ptr().wrapping_add(n)
                };
                if pair {
                    let b = w.part(first + 1, &chunk);
                    panel_of([a, b], x, panel.clone(), chunk, out, rows, [next(a), next(b)]);
                } else {
                    panel_of([a], x, panel.clone(), chunk, out, rows, [next(a)]);
                }
            }
        }
    }
}

fn panel_of<const NB: usize>(
    w: [Block<'_>; NB],
    x: &Planes,
    panel: Range<usize>,
    chunk: Range<usize>,
    out: &mut [[i64; BLOCK]],
    stride: usize,
    next: [*const u8; NB],
) {
    let tiles = panel.len().div_ceil(MAX);
    for t in 0..tiles {
        let start = panel.start + panel.len() * t / tiles;
        let end = panel.start + panel.len() * (t + 1) / tiles;
        let out = &mut out[start..];
        let chunk = chunk.clone();
        // SAFETY: draft
        macro_rules! go { ($a:literal) => { unsafe {
            match end - start {
                1 => tile::<1, NB, $a>(w, x, start, chunk, out, stride, next),
                2 => tile::<2, NB, $a>(w, x, start, chunk, out, stride, next),
                3 => tile::<3, NB, $a>(w, x, start, chunk, out, stride, next),
                4 => tile::<4, NB, $a>(w, x, start, chunk, out, stride, next),
                5 => tile::<5, NB, $a>(w, x, start, chunk, out, stride, next),
                _ => tile::<6, NB, $a>(w, x, start, chunk, out, stride, next),
            }
        } } }
        if t == 0 { go!(true) } else { go!(false) }
    }
}
