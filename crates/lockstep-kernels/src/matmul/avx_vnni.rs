//! AVX VNNI: `vpdpbusd` on 256 bits, for processors without AVX-512.
//!
//! As the AVX-512 path, with two registers per block of 16 weight rows: 3 input rows × 2 planes
//! × 2 registers are 12 of the 16. A single input row takes two blocks at a time instead, so that
//! there are as many independent sums.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by all loops")]

use std::arch::x86_64::*;
use std::ops::Range;

use lockstep_exact::matrix::{BLOCK_ROWS, GROUP};

use super::{BlockSums, Part, Step, Tile};

/// Only named where the processor has AVX2 and AVX VNNI.
pub(super) struct Tiles;

/// Columns per 32-bit lane of `vpdpbusd`.
const LANE: usize = 4;
/// The number of registers per block of 16 rows.
const HALVES: usize = 2;

impl Tile for Tiles {
    fn multiply<const NB: usize>(step: &Step<'_, NB>, sums: &mut [BlockSums]) {
        // SAFETY: `Tiles` is only named where the processor has these instructions.
        unsafe { multiply_rows::<Self, NB>(step, sums) };
    }
}

impl RowTile for Tiles {
    const ROWS: usize = 3;

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

/// The inner loop of one codec: the products of some blocks with some input rows.
pub(super) trait RowTile {
    /// Input rows of the largest tile, at most 3.
    const ROWS: usize;

    /// Adds the products of `N` blocks with the `MR` input rows from `row` on, and brings the
    /// weights at `ahead` into the cache.
    ///
    /// # Safety
    /// The processor has these instructions.
    unsafe fn tile<const MR: usize, const N: usize, const NB: usize>(
        step: &Step<'_, NB>,
        parts: [Part<'_>; N],
        ahead: [Option<*const u8>; N],
        row: usize,
        sums: &mut [BlockSums],
    );
}

/// Cuts a step into tiles: of all blocks for a single input row, of one block for more.
///
/// # Safety
/// The processor has these instructions.
pub(super) unsafe fn multiply_rows<T: RowTile, const NB: usize>(
    step: &Step<'_, NB>,
    sums: &mut [BlockSums],
) {
    let stride = step.inputs.rows();
    let Range { start, end } = step.rows;
    if end - start == 1 {
        let ahead = step.next.map(|next| Some(next.codes));
        // SAFETY: as the caller says.
        return unsafe { T::tile::<1, NB, NB>(step, step.parts, ahead, start, sums) };
    }
    for n in 0..NB {
        let sums = &mut sums[n * stride..];
        let parts = [step.parts[n]];
        let mut ahead = [Some(step.next[n].codes)];
        for row in (start..end).step_by(T::ROWS) {
            // SAFETY: as the caller says.
            unsafe {
                match (end - row).min(T::ROWS) {
                    1 => T::tile::<1, 1, NB>(step, parts, ahead, row, sums),
                    2 => T::tile::<2, 1, NB>(step, parts, ahead, row, sums),
                    _ => T::tile::<3, 1, NB>(step, parts, ahead, row, sums),
                }
            }
            // The first tile brings the weights of the next step into the cache.
            ahead = [None];
        }
    }
}

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
    let offsets = step.inputs.offsets_from::<MR>(row, step.groups.start);
    // What is read without checks below.
    assert!(inputs.iter().all(|x| x.len() >= groups * 2 * GROUP));
    assert!(parts.iter().all(|part| part.codes.len() == groups * GROUP * BLOCK_ROWS));
    let mut totals = [[[[_mm256_setzero_si256(); HALVES]; 2]; N]; MR];
    for g in 0..groups {
        let mut acc = [[[[_mm256_setzero_si256(); HALVES]; 2]; N]; MR];
        for r in 0..MR {
            let starts = [0, 1].map(|plane| [_mm256_set1_epi32(offsets[r][g * 2 + plane]); HALVES]);
            acc[r] = [starts; N];
        }
        for s in 0..GROUP / LANE {
            let at = (g * (GROUP / LANE) + s) * 64;
            let mut w = [[_mm256_setzero_si256(); HALVES]; N];
            for n in 0..N {
                for half in 0..HALVES {
                    // SAFETY: 64 bytes per step, 16 steps per group, as asserted above.
                    let codes = unsafe { parts[n].codes.as_ptr().add(at + half * 32) };
                    // SAFETY: as above.
                    w[n][half] = unsafe { _mm256_loadu_si256(codes.cast()) };
                }
                if let Some(ahead) = ahead[n] {
                    _mm_prefetch(ahead.wrapping_add(at).cast(), _MM_HINT_T1);
                }
            }
            for r in 0..MR {
                for plane in 0..2 {
                    let at = g * 2 * GROUP + plane * GROUP + s * LANE;
                    // SAFETY: 128 bytes per group, asserted above.
                    let x = unsafe { inputs[r].as_ptr().add(at).cast::<i32>().read_unaligned() };
                    let x = _mm256_set1_epi32(x);
                    for n in 0..N {
                        for half in 0..HALVES {
                            let acc = &mut acc[r][n][plane][half];
                            *acc = _mm256_dpbusd_avx_epi32(*acc, w[n][half], x);
                        }
                    }
                }
            }
        }
        for n in 0..N {
            let scales = &parts[n].scales[g * BLOCK_ROWS..][..BLOCK_ROWS];
            for r in 0..MR {
                add_scaled(&mut totals[r][n], &acc[r][n], scales);
            }
        }
    }
    for r in 0..MR {
        for n in 0..N {
            let sums = &mut sums[n * step.inputs.rows() + row + r];
            add_planes(sums, step.is_first(), &totals[r][n]);
        }
    }
}

/// The sums of both planes of 16 weight rows.
type Planes = [[__m256i; HALVES]; 2];

/// Computes `totals += scales · acc`.
#[inline]
#[target_feature(enable = "avx2")]
fn add_scaled(totals: &mut Planes, acc: &Planes, scales: &[u8]) {
    for half in 0..HALVES {
        let (scales, _) = scales[half * 8..].as_chunks::<8>();
        let scales = _mm_cvtsi64_si128(i64::from_le_bytes(scales[0]));
        let scale = _mm256_cvtepu8_epi32(scales);
        for plane in 0..2 {
            let scaled = _mm256_mullo_epi32(acc[plane][half], scale);
            totals[plane][half] = _mm256_add_epi32(totals[plane][half], scaled);
        }
    }
}

/// `sums += 255·high + low` in 64 bits; `sums` count as 0 if this is the first.
#[inline]
#[target_feature(enable = "avx2")]
fn add_planes(sums: &mut BlockSums, is_first: bool, [high, low]: &Planes) {
    for (quarter, sums) in sums.chunks_exact_mut(4).enumerate() {
        let wide = |halves: &[__m256i; HALVES]| {
            let half = halves[quarter / 2];
            _mm256_cvtepi32_epi64(if quarter % 2 == 0 {
                _mm256_castsi256_si128(half)
            } else {
                _mm256_extracti128_si256(half, 1)
            })
        };
        let high = wide(high);
        let high = _mm256_sub_epi64(_mm256_slli_epi64(high, 8), high);
        let add = _mm256_add_epi64(high, wide(low));
        let at = sums.as_mut_ptr().cast::<__m256i>();
        // SAFETY: a chunk of four i64 is 32 bytes.
        unsafe {
            let before = if is_first { _mm256_setzero_si256() } else { _mm256_loadu_si256(at) };
            _mm256_storeu_si256(at, _mm256_add_epi64(before, add));
        }
    }
}
