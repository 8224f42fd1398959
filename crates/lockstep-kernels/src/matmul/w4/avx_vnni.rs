//! AVX VNNI: `vpdpbusd` on 256 bits, for processors without AVX-512.
//!
//! As the AVX-512 path, with two registers per block of 16 weight rows and up to 2 input rows: 2
//! rows × 2 planes × 2 registers are 8 of the 16, beside 4 of codes. A single input row takes two
//! blocks at a time.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by all loops")]

use std::arch::x86_64::*;

use lockstep_exact::matrix::{Codec, GROUP};

use super::super::avx_vnni::{RowTile, multiply_rows};
use super::super::{BlockSums, Part, Step, Tile};
use super::{HALF, HALVES, LINES};

/// Only named where the processor has AVX2 and AVX VNNI.
pub(in super::super) struct Tiles;

/// The number of registers per block of 16 rows.
const REGISTERS: usize = 2;

const CODE_BYTES: usize = Codec::W4.code_bytes();
const SCALE_BYTES: usize = Codec::W4.scale_bytes();

impl Tile for Tiles {
    fn multiply<const NB: usize>(step: &Step<'_, NB>, sums: &mut [BlockSums]) {
        // SAFETY: `Tiles` is only named where the processor has these instructions.
        unsafe { multiply_rows::<Self, NB>(step, sums) };
    }
}

impl RowTile for Tiles {
    const ROWS: usize = 2;

    unsafe fn tile<const MR: usize, const N: usize, const NB: usize>(
        step: &Step<'_, NB>,
        parts: [Part<'_>; N],
        ahead: [Option<*const u8>; N],
        row: usize,
        sums: &mut [BlockSums],
    ) {
        // SAFETY: as the caller says.
        unsafe { tile::<MR, N, NB>(step, parts, ahead, row, sums) };
    }
}

/// 16 rows of i32, twice: of both planes, or of coarse and fine parts.
type Pair = [[__m256i; REGISTERS]; 2];

/// Adds the products of `N` blocks with the `MR` input rows from `row` on.
#[target_feature(enable = "avx2,avxvnni")]
fn tile<const MR: usize, const N: usize, const NB: usize>(
    step: &Step<'_, NB>,
    parts: [Part<'_>; N],
    ahead: [Option<*const u8>; N],
    row: usize,
    sums: &mut [BlockSums],
) {
    let groups = step.groups.len();
    let inputs = step.inputs.planes_from::<MR>(row, step.groups.start);
    let halves = step.inputs.halves_from::<MR>(row, step.groups.start);
    // What is read without checks below.
    assert!(inputs.iter().all(|x| x.len() >= groups * 2 * GROUP));
    assert!(parts.iter().all(|part| part.codes.len() == groups * CODE_BYTES));
    assert!(parts.iter().all(|part| part.scales.len() == groups * SCALE_BYTES));
    let zero: Pair = [[_mm256_setzero_si256(); REGISTERS]; 2];
    let (mut totals, mut shifted) = ([[zero; N]; MR], [[zero; N]; MR]);
    for g in 0..groups {
        for h in 0..HALVES {
            let mut acc = [[zero; N]; MR];
            for r in 0..MR {
                acc[r] = [halves[r][g].offsets[h].map(|sum| [_mm256_set1_epi32(sum); 2]); N];
            }
            let at = g * CODE_BYTES + h * LINES * 64;
            for ahead in ahead.iter().flatten() {
                for line in 0..LINES {
                    _mm_prefetch(ahead.wrapping_add(at + line * 64).cast(), _MM_HINT_T1);
                }
            }
            // SAFETY: as asserted above, this group's lines of codes and its inputs can be read.
            unsafe {
                let codes = parts.map(|part| part.codes.as_ptr().add(at));
                let inputs = inputs.map(|x| x.as_ptr().add(g * 2 * GROUP + h * HALF));
                group_sums(codes, inputs, &mut acc);
            }
            for n in 0..N {
                let scales = scales(&parts[n].scales[g * SCALE_BYTES..]);
                for r in 0..MR {
                    add_scaled(&mut totals[r][n], &acc[r][n], scales, h);
                }
            }
        }
        for n in 0..N {
            let shifts = shifts(&parts[n].scales[g * SCALE_BYTES..]);
            for r in 0..MR {
                let sums = &halves[r][g];
                for (part, pair) in [sums.coarse, sums.fine].into_iter().enumerate() {
                    for half in 0..REGISTERS {
                        let sum = &mut shifted[r][n][part][half];
                        *sum = _mm256_dpwssd_avx_epi32(*sum, shifts[half], _mm256_set1_epi32(pair));
                    }
                }
            }
        }
    }
    for r in 0..MR {
        for n in 0..N {
            let sums = &mut sums[n * step.inputs.rows() + row + r];
            add_sums(sums, step.is_first(), &totals[r][n], &shifted[r][n]);
        }
    }
}

/// Adds the products of one group of columns to `acc`.
///
/// # Safety
/// `codes` may be read for the lines of a group, `inputs` for 32 bytes and, for the other plane,
/// for 32 bytes 64 further on.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn group_sums<const MR: usize, const N: usize>(
    codes: [*const u8; N],
    inputs: [*const i8; MR],
    acc: &mut [[Pair; N]; MR],
) {
    let low_half = _mm256_set1_epi8(15);
    for line in 0..LINES {
        let mut w = [[[_mm256_setzero_si256(); REGISTERS]; 2]; N];
        for n in 0..N {
            for half in 0..REGISTERS {
                // SAFETY: as the caller says.
                let both =
                    unsafe { _mm256_loadu_si256(codes[n].add(line * 64 + half * 32).cast()) };
                w[n][0][half] = _mm256_and_si256(both, low_half);
                w[n][1][half] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low_half);
            }
        }
        for quad in 0..2 {
            for r in 0..MR {
                for plane in 0..2 {
                    let at = plane * GROUP + line * 8 + quad * 4;
                    // SAFETY: as the caller says.
                    let x = unsafe { inputs[r].add(at).cast::<i32>().read_unaligned() };
                    let x = _mm256_set1_epi32(x);
                    for n in 0..N {
                        for half in 0..REGISTERS {
                            let acc = &mut acc[r][n][plane][half];
                            *acc = _mm256_dpbusd_avx_epi32(*acc, w[n][quad][half], x);
                        }
                    }
                }
            }
        }
    }
}

/// Scales of both groups of 64 columns, as pairs of i16 per row.
#[inline]
#[target_feature(enable = "avx2")]
fn scales(scales: &[u8]) -> [__m256i; REGISTERS] {
    assert!(scales.len() >= SCALE_BYTES);
    // SAFETY: 32 bytes of scales.
    [0, 16]
        .map(|at| unsafe { _mm256_cvtepu8_epi16(_mm_loadu_si128(scales.as_ptr().add(at).cast())) })
}

/// Returns the products of scales and shifts.
#[inline]
#[target_feature(enable = "avx2")]
fn shifts(bytes: &[u8]) -> [__m256i; REGISTERS] {
    let scales = scales(bytes);
    // SAFETY: 32 bytes of shifts follow the scales.
    let shifts = [32, 48]
        .map(|at| unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes.as_ptr().add(at).cast())) });
    [0, 1].map(|half| _mm256_mullo_epi16(scales[half], shifts[half]))
}

/// `totals += scales · acc`, with the scales of one of the two groups.
#[inline]
#[target_feature(enable = "avx2")]
fn add_scaled(totals: &mut Pair, acc: &Pair, scales: [__m256i; REGISTERS], group: usize) {
    for half in 0..REGISTERS {
        let scale = match group {
            0 => _mm256_and_si256(scales[half], _mm256_set1_epi32(0xffff)),
            _ => _mm256_srli_epi32(scales[half], 16),
        };
        for plane in 0..2 {
            let scaled = _mm256_mullo_epi32(acc[plane][half], scale);
            totals[plane][half] = _mm256_add_epi32(totals[plane][half], scaled);
        }
    }
}

/// `sums += 16 · (255·high + low) + 1024·coarse + fine` in 64 bits; `sums` count as 0 if this is
/// the first.
#[inline]
#[target_feature(enable = "avx2")]
fn add_sums(sums: &mut BlockSums, is_first: bool, [high, low]: &Pair, [coarse, fine]: &Pair) {
    for (quarter, sums) in sums.chunks_exact_mut(4).enumerate() {
        let wide = |halves: &[__m256i; REGISTERS]| {
            let half = halves[quarter / 2];
            _mm256_cvtepi32_epi64(if quarter % 2 == 0 {
                _mm256_castsi256_si128(half)
            } else {
                _mm256_extracti128_si256(half, 1)
            })
        };
        let high = wide(high);
        let codes = _mm256_add_epi64(_mm256_sub_epi64(_mm256_slli_epi64(high, 8), high), wide(low));
        let shifts = _mm256_add_epi64(_mm256_slli_epi64(wide(coarse), 10), wide(fine));
        let add = _mm256_add_epi64(_mm256_slli_epi64(codes, 4), shifts);
        let at = sums.as_mut_ptr().cast::<__m256i>();
        // SAFETY: a chunk of four i64 is 32 bytes.
        unsafe {
            let before = if is_first { _mm256_setzero_si256() } else { _mm256_loadu_si256(at) };
            _mm256_storeu_si256(at, _mm256_add_epi64(before, add));
        }
    }
}
