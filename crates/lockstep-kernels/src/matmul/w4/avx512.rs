//! AVX-512 VNNI: `vpdpbusd` of 16 rows × 4 columns of codes with 4 broadcast i8 inputs, `vpdpwssd`
//! of shifts with the sums of two groups of inputs.
//!
//! Tiles are those of w8. Plane sums start at −8·Σx of the group, which undoes the +8 in stored
//! codes.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by all loops")]

use std::arch::x86_64::*;

use lockstep_exact::matrix::{BLOCK_ROWS, Codec, GROUP};

use super::super::avx512::{self, Ahead, RowTile, add_sums, multiply_rows, wide};
use super::super::{BlockSums, Step, Tile};
use super::{HALF, HALVES, LINES};

pub(in super::super) mod row;

/// Only named where the processor has AVX-512 F, BW, DQ, VL and VNNI.
pub(in super::super) struct Tiles;

const CODE_BYTES: usize = Codec::W4.code_bytes();
const SCALE_BYTES: usize = Codec::W4.scale_bytes();

impl Tile for Tiles {
    fn multiply<const NB: usize>(step: &Step<'_, NB>, sums: &mut [BlockSums]) {
        // SAFETY: `Tiles` is only named where the processor has these instructions.
        unsafe { multiply_rows::<Self, NB>(step, sums) };
    }
}

impl RowTile for Tiles {
    const LINES: usize = HALVES * LINES;
    const SCALE_BYTES: usize = SCALE_BYTES;

    unsafe fn tile<const MR: usize, const NB: usize>(
        step: &Step<'_, NB>,
        row: usize,
        ahead: Ahead<Self>,
        sums: &mut [BlockSums],
    ) {
        // SAFETY: as the caller says.
        unsafe { tile::<MR, NB>(step, row, ahead, sums) };
    }
}

/// Scales of both groups of 64 columns as i32, and scales times shifts as pairs of i16.
#[derive(Clone, Copy)]
struct Scales {
    groups: [__m512i; HALVES],
    shifts: __m512i,
}

/// Adds the products of `NB` blocks with the `MR` input rows from `row` on.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tile<const MR: usize, const NB: usize>(
    step: &Step<'_, NB>,
    row: usize,
    ahead: Ahead<Tiles>,
    sums: &mut [BlockSums],
) {
    let groups = step.groups.len();
    let first = step.groups.start;
    let inputs = step.inputs.planes_from::<MR>(row, first);
    let halves = step.inputs.halves_from::<MR>(row, first);
    // Everything below reads inside these lengths.
    assert!(inputs.iter().all(|x| x.len() >= groups * 2 * GROUP));
    assert!(halves.iter().all(|x| x.len() >= groups));
    assert!(step.parts.iter().all(|part| part.codes.len() == groups * CODE_BYTES));
    assert!(step.parts.iter().all(|part| part.scales.len() == groups * SCALE_BYTES));
    let inputs = inputs.map(<[i8]>::as_ptr);
    let codes = step.parts.map(|part| part.codes.as_ptr());
    let zero = _mm512_setzero_si512();
    let mut totals = [[[zero; 2]; NB]; MR];
    let mut shifted = [[[zero; 2]; NB]; MR];
    for g in 0..groups {
        step.next.iter().for_each(|next| ahead.bring_scales(*next, g));
        let scales: [Scales; NB] = std::array::from_fn(|n| {
            // SAFETY: 64 bytes per group, `groups` groups: asserted above.
            unsafe { scales(step.parts[n].scales.as_ptr().add(g * SCALE_BYTES)) }
        });
        for h in 0..HALVES {
            let mut acc = [[[zero; 2]; NB]; MR];
            for r in 0..MR {
                // SAFETY: `groups` of them, asserted above.
                let [high, low] = unsafe { halves[r].get_unchecked(g) }.offsets[h];
                acc[r] = [[_mm512_set1_epi32(high), _mm512_set1_epi32(low)]; NB];
            }
            // SAFETY: as asserted above, this group's lines of codes and its inputs can be read.
            unsafe {
                let codes = codes.map(|codes| codes.add(g * CODE_BYTES + h * LINES * 64));
                let inputs = inputs.map(|x| x.add(g * 2 * GROUP + h * HALF));
                group_sums(step, ahead, (g, h), codes, inputs, &mut acc);
            }
            for n in 0..NB {
                for r in 0..MR {
                    for plane in 0..2 {
                        let scaled = _mm512_mullo_epi32(acc[r][n][plane], scales[n].groups[h]);
                        totals[r][n][plane] = _mm512_add_epi32(totals[r][n][plane], scaled);
                    }
                }
            }
        }
        for r in 0..MR {
            // SAFETY: `groups` of them, asserted above.
            let sums = unsafe { halves[r].get_unchecked(g) };
            for (part, pair) in [sums.coarse, sums.fine].into_iter().enumerate() {
                for n in 0..NB {
                    let sum = &mut shifted[r][n][part];
                    *sum = _mm512_dpwssd_epi32(*sum, scales[n].shifts, _mm512_set1_epi32(pair));
                }
            }
        }
    }
    for r in 0..MR {
        for n in 0..NB {
            let sums = &mut sums[n * step.inputs.rows() + row + r];
            add_sums(sums, step.is_first(), joined(totals[r][n], shifted[r][n]));
        }
    }
}

/// Adds the products of group `h` of the 64 columns `g` to `acc`.
///
/// # Safety
/// `codes` may be read for the lines of a group, `inputs` for 32 bytes and, for the other plane,
/// for 32 bytes 64 further on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn group_sums<const MR: usize, const NB: usize>(
    step: &Step<'_, NB>,
    ahead: Ahead<Tiles>,
    (g, h): (usize, usize),
    codes: [*const u8; NB],
    inputs: [*const i8; MR],
    acc: &mut [[[__m512i; 2]; NB]; MR],
) {
    let low_half = _mm512_set1_epi8(15);
    for line in 0..LINES {
        let mut w = [[_mm512_setzero_si512(); 2]; NB];
        for n in 0..NB {
            // SAFETY: as the caller says.
            let both = unsafe { _mm512_loadu_si512(codes[n].add(line * 64).cast()) };
            ahead.bring(step.parts[n], step.next[n], g, h * LINES + line);
            let high = _mm512_srli_epi16(both, 4);
            w[n] = [both, high].map(|codes| _mm512_and_si512(codes, low_half));
        }
        for quad in 0..2 {
            for r in 0..MR {
                for plane in 0..2 {
                    let at = plane * GROUP + line * 8 + quad * 4;
                    // SAFETY: as the caller says.
                    let x = unsafe { inputs[r].add(at).cast::<i32>().read_unaligned() };
                    let x = _mm512_set1_epi32(x);
                    for n in 0..NB {
                        let acc = &mut acc[r][n][plane];
                        *acc = _mm512_dpbusd_epi32(*acc, w[n][quad], x);
                    }
                }
            }
        }
    }
}

/// Reads the scales and shifts of 16 rows for 64 columns.
///
/// # Safety
/// `at` may be read for 64 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn scales(at: *const u8) -> Scales {
    // SAFETY: as the caller says.
    let [scales, shifts] =
        unsafe { [at, at.add(2 * BLOCK_ROWS)].map(|at| _mm256_loadu_si256(at.cast())) };
    let scales = _mm512_cvtepu8_epi16(scales);
    let first = _mm512_and_si512(scales, _mm512_set1_epi32(0xffff));
    Scales {
        groups: [first, _mm512_srli_epi32(scales, 16)],
        shifts: _mm512_mullo_epi16(scales, _mm512_cvtepi8_epi16(shifts)),
    }
}

/// Returns `16 · (255·high + low) + 1024·coarse + fine` in 64 bits: of 8 rows, and of the other 8.
#[inline]
#[target_feature(enable = "avx512f")]
fn joined(planes: [__m512i; 2], [coarse, fine]: [__m512i; 2]) -> [__m512i; 2] {
    let (codes, coarse, fine) = (avx512::joined(planes), wide(coarse), wide(fine));
    std::array::from_fn(|half| {
        let shifts = _mm512_add_epi64(_mm512_slli_epi64(coarse[half], 10), fine[half]);
        _mm512_add_epi64(_mm512_slli_epi64(codes[half], 4), shifts)
    })
}
