//! AVX2: `16 · code + shift` as i16, `vpmaddwd` with 4 broadcast i16 inputs.
//!
//! A register holds 4 weight rows × 2 partial sums of i32; 32-bit multiplies into 64 bits apply the
//! group scale, and adding the two partial sums is part of adding them to the i64 sums.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by all loops")]

use std::arch::x86_64::*;

use lockstep_exact::matrix::{BLOCK_ROWS, Codec};

use super::super::avx2::add_scaled;
use super::super::{BlockSums, PairTile, Part, Step, Tile, multiply_pairs};
use super::{HALF, HALVES, LINES};

/// Only named where the processor has AVX2.
pub(in super::super) struct Tiles;

/// The number of registers per 16 rows.
const REGISTERS: usize = 4;

const CODE_BYTES: usize = Codec::W4.code_bytes();
const SCALE_BYTES: usize = Codec::W4.scale_bytes();

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
    let inputs = step.inputs.codes_from::<MR>(row, step.groups.start);
    for g in 0..step.groups.len() {
        let codes = &part.codes[g * CODE_BYTES..][..CODE_BYTES];
        if let Some(ahead) = ahead {
            for line in (0..CODE_BYTES).step_by(64) {
                let at = ahead.wrapping_add(g * CODE_BYTES + line);
                _mm_prefetch(at.cast(), _MM_HINT_T1);
            }
        }
        let parts = &part.scales[g * SCALE_BYTES..][..SCALE_BYTES];
        for h in 0..HALVES {
            let every_second = |at: usize| -> [u8; BLOCK_ROWS] {
                std::array::from_fn(|lane| parts[at + 2 * lane + h])
            };
            let (scales, shifts) = (every_second(0), every_second(2 * BLOCK_ROWS));
            let x: [&[i16]; MR] =
                std::array::from_fn(|r| &inputs[r][(g * HALVES + h) * HALF..][..HALF]);
            let acc = group_sums(&codes[h * LINES * 64..][..LINES * 64], &shifts, &x);
            for r in 0..MR {
                add_scaled(&mut sums[row + r], acc[r], &scales);
            }
        }
    }
}

/// Returns the partial sums of one group of columns.
#[inline]
#[target_feature(enable = "avx2")]
fn group_sums<const MR: usize>(
    codes: &[u8],
    shifts: &[u8; BLOCK_ROWS],
    inputs: &[&[i16]; MR],
) -> [[__m256i; REGISTERS]; MR] {
    assert_eq!(codes.len(), LINES * 64);
    assert!(inputs.iter().all(|x| x.len() == HALF));
    let high_half = _mm_set1_epi8(0xf0_u8.cast_signed());
    // What 16 times a stored code lacks, four times for each row.
    let zeros: [__m256i; REGISTERS] = std::array::from_fn(|q| {
        let zero = |lane: usize| {
            let zero = i16::from(shifts[q * 4 + lane].cast_signed()) - 16 * 8;
            i64::from(zero.cast_unsigned()).wrapping_mul(0x0001_0001_0001_0001)
        };
        _mm256_setr_epi64x(zero(0), zero(1), zero(2), zero(3))
    });
    let mut acc = [[_mm256_setzero_si256(); REGISTERS]; MR];
    for line in 0..LINES {
        let mut x = [[_mm256_setzero_si256(); 2]; MR];
        for r in 0..MR {
            for quad in 0..2 {
                // SAFETY: a group has 32 inputs, this reads 4 of them at 8·line + 4·quad.
                let four = unsafe {
                    inputs[r].as_ptr().add(line * 8 + quad * 4).cast::<i64>().read_unaligned()
                };
                x[r][quad] = _mm256_set1_epi64x(four);
            }
        }
        for q in 0..REGISTERS {
            // SAFETY: a line has 64 bytes.
            let both = unsafe { _mm_loadu_si128(codes.as_ptr().add(line * 64 + q * 16).cast()) };
            for (quad, codes) in [_mm_slli_epi16(both, 4), both].into_iter().enumerate() {
                let w = _mm256_cvtepu8_epi16(_mm_and_si128(codes, high_half));
                let w = _mm256_add_epi16(w, zeros[q]);
                for r in 0..MR {
                    acc[r][q] = _mm256_add_epi32(acc[r][q], _mm256_madd_epi16(w, x[r][quad]));
                }
            }
        }
    }
    acc
}
