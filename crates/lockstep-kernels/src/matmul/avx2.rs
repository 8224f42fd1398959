//! AVX2: codes widened to i16, `vpmaddwd` with 4 broadcast i16 inputs.
//!
//! `vpmaddubsw` would saturate on u8 codes, so it is not used. A register holds 4 weight rows × 2
//! partial sums of i32 that start at −128·Σx of the group; 32-bit multiplies into 64 bits apply
//! the group scale, and adding the two partial sums is part of adding them to the i64 sums.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by all loops")]

use std::arch::x86_64::*;

use lockstep_exact::matrix::{BLOCK_ROWS, GROUP};

use super::{BlockSums, PairTile, Part, Step, Tile, multiply_pairs};

/// Only named where the processor has AVX2.
pub(super) struct Tiles;

/// Columns per step, registers per 16 rows.
const LANE: usize = 4;

impl Tile for Tiles {
    fn multiply<const NB: usize>(step: &Step<'_, NB>, sums: &mut [BlockSums]) {
        step.clear(sums);
        // SAFETY: `Tiles` is only named where the processor has these instructions.
        unsafe { multiply_pairs::<Self, NB>(step, sums) };
    }
}

impl PairTile for Tiles {
    unsafe fn tile<const MR: usize, const NB: usize>(
        step: &Step<'_, NB>,
        part: &Part<'_>,
        row: usize,
        ahead: Option<*const u8>,
        sums: &mut [BlockSums],
    ) {
        // SAFETY: as the caller says.
        unsafe { tile::<MR, NB>(step, part, row, ahead, sums) };
    }
}

/// Adds the products of 16 weight rows with `MR` input rows.
#[target_feature(enable = "avx2")]
fn tile<const MR: usize, const NB: usize>(
    step: &Step<'_, NB>,
    part: &Part<'_>,
    row: usize,
    ahead: Option<*const u8>,
    sums: &mut [BlockSums],
) {
    let mut inputs = step.inputs.codes_from::<MR>(row, step.groups.start);
    let offsets = step.inputs.offsets_from::<MR>(row, step.groups.start);
    for g in 0..step.groups.len() {
        let codes = &part.codes[g * GROUP * BLOCK_ROWS..][..GROUP * BLOCK_ROWS];
        if let Some(ahead) = ahead {
            for line in (0..codes.len()).step_by(64) {
                let at = ahead.wrapping_add(g * GROUP * BLOCK_ROWS + line);
                _mm_prefetch(at.cast(), _MM_HINT_T1);
            }
        }
        let mut acc = [[_mm256_setzero_si256(); LANE]; MR];
        for r in 0..MR {
            // The offset goes to one of the two partial sums of each row.
            acc[r] = [_mm256_set1_epi64x(i64::from(offsets[r][g].cast_unsigned())); LANE];
        }
        group_sums(codes, &mut inputs, &mut acc);
        let scales = &part.scales[g * BLOCK_ROWS..][..BLOCK_ROWS];
        for r in 0..MR {
            add_scaled(&mut sums[row + r], acc[r], scales);
        }
    }
}

/// Adds the partial sums of one group of columns, which is taken off `inputs`.
#[inline]
#[target_feature(enable = "avx2")]
fn group_sums<const MR: usize>(
    codes: &[u8],
    inputs: &mut [&[i16]; MR],
    acc: &mut [[__m256i; LANE]; MR],
) {
    assert_eq!(codes.len(), GROUP * BLOCK_ROWS);
    let mut group: [&[i16]; MR] = [&[]; MR];
    for r in 0..MR {
        (group[r], inputs[r]) = inputs[r].split_at(GROUP);
    }
    for s in 0..GROUP / LANE {
        let mut x = [_mm256_setzero_si256(); MR];
        for r in 0..MR {
            // SAFETY: a group has 64 inputs, this reads 4 of them at 4·s.
            let four = unsafe { group[r].as_ptr().add(s * LANE).cast::<i64>().read_unaligned() };
            x[r] = _mm256_set1_epi64x(four);
        }
        for q in 0..LANE {
            // SAFETY: a group has 16 · 64 codes, this reads 16 of them at 64·s + 16·q.
            let w = unsafe { _mm_loadu_si128(codes.as_ptr().add(s * 64 + q * 16).cast()) };
            let w = _mm256_cvtepu8_epi16(w);
            for r in 0..MR {
                acc[r][q] = _mm256_add_epi32(acc[r][q], _mm256_madd_epi16(w, x[r]));
            }
        }
    }
}

/// `sums += scales · (even partial sums + odd partial sums)` in 64 bits.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add_scaled(sums: &mut BlockSums, acc: [__m256i; LANE], scales: &[u8]) {
    for ((sums, scales), acc) in sums.chunks_exact_mut(4).zip(scales.chunks_exact(4)).zip(acc) {
        let scales = i32::from_le_bytes([scales[0], scales[1], scales[2], scales[3]]);
        let scale = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(scales));
        let even = _mm256_mul_epi32(acc, scale);
        let odd = _mm256_mul_epi32(_mm256_srli_epi64(acc, 32), scale);
        let at = sums.as_mut_ptr().cast::<__m256i>();
        // SAFETY: a chunk of four i64 is 32 bytes.
        unsafe {
            let sum = _mm256_add_epi64(_mm256_loadu_si256(at), _mm256_add_epi64(even, odd));
            _mm256_storeu_si256(at, sum);
        }
    }
}
