//! NEON: `sdot` of 4 rows × 4 columns of codes with 4 broadcast i8 inputs.
//!
//! As the w8 path; codes lose their +8 by a subtraction, so plane sums start from 0. What shifts
//! add comes from `smlal`.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by all loops")]

use std::arch::aarch64::*;

use lockstep_exact::matrix::{BLOCK_ROWS, Codec, GROUP};

use super::super::neon::{LANE, REGISTER, prefetch, sdot};
use super::super::{BlockSums, PairTile, Part, Step, Tile, multiply_pairs};
use super::{HALF, HALVES, LINES};

/// Only named where the processor has the dot product instructions.
pub(in super::super) struct Tiles;

const CODE_BYTES: usize = Codec::W4.code_bytes();
const SCALE_BYTES: usize = Codec::W4.scale_bytes();

impl Tile for Tiles {
    fn multiply<const NB: usize>(step: &Step<'_, NB>, sums: &mut [BlockSums]) {
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

/// 16 rows of i32, twice: of both planes, or of coarse and fine parts.
type Pair = [[int32x4_t; LANE]; 2];

/// Adds the products of 16 weight rows with `MR` input rows.
#[target_feature(enable = "neon,dotprod")]
fn tile<const MR: usize, const NB: usize>(
    step: &Step<'_, NB>,
    part: &Part<'_>,
    row: usize,
    ahead: Option<*const u8>,
    sums: &mut [BlockSums],
) {
    let groups = step.groups.len();
    let inputs = step.inputs.planes_from::<MR>(row, step.groups.start);
    let halves = step.inputs.halves_from::<MR>(row, step.groups.start);
    // What is read without checks below.
    assert!(inputs.iter().all(|x| x.len() >= groups * 2 * GROUP));
    assert_eq!(part.codes.len(), groups * CODE_BYTES);
    let zero: Pair = [[vdupq_n_s32(0); LANE]; 2];
    let (mut totals, mut shifted) = ([zero; MR], [zero; MR]);
    for g in 0..groups {
        let parts = &part.scales[g * SCALE_BYTES..][..SCALE_BYTES];
        for h in 0..HALVES {
            let mut acc = [zero; MR];
            for two in 0..LINES / 2 {
                let mut x = [[vdupq_n_s8(0); 2]; MR];
                for r in 0..MR {
                    for plane in 0..2 {
                        let at = g * 2 * GROUP + plane * GROUP + h * HALF + two * REGISTER;
                        // SAFETY: 128 bytes per group, asserted above.
                        x[r][plane] = unsafe { vld1q_s8(inputs[r].as_ptr().add(at)) };
                    }
                }
                let at = g * CODE_BYTES + (h * LINES + two * 2) * 64;
                if let Some(ahead) = ahead {
                    (0..2).for_each(|line| prefetch(ahead.wrapping_add(at + line * 64)));
                }
                let codes = part.codes[at..][..128].as_ptr();
                // SAFETY: two lines of 64 bytes each are what `codes` has.
                unsafe {
                    dots::<MR, 0, 1>(codes, &x, &mut acc);
                    dots::<MR, 2, 3>(codes.add(64), &x, &mut acc);
                }
            }
            for r in 0..MR {
                add_scaled(&mut totals[r], &acc[r], parts, h);
            }
        }
        for r in 0..MR {
            let sums = &halves[r][g];
            for (part, pair) in [sums.coarse, sums.fine].into_iter().enumerate() {
                add_shifts(&mut shifted[r][part], parts, pair);
            }
        }
    }
    for r in 0..MR {
        add_sums(&mut sums[row + r], step.is_first(), &totals[r], &shifted[r]);
    }
}

/// Computes one line: 16 rows × 8 columns of codes with the inputs in lanes `A` and `B` of their
/// registers.
///
/// # Safety
/// `codes` may be read for 64 bytes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn dots<const MR: usize, const A: i32, const B: i32>(
    codes: *const u8,
    x: &[[int8x16_t; 2]; MR],
    acc: &mut [Pair; MR],
) {
    let eight = vdupq_n_s8(8);
    for q in 0..LANE {
        // SAFETY: the caller's.
        let both = unsafe { vld1q_u8(codes.add(q * REGISTER)) };
        let low = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))), eight);
        let high = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8::<4>(both)), eight);
        for r in 0..MR {
            for plane in 0..2 {
                let sum = sdot::<A>(acc[r][plane][q], low, x[r][plane]);
                acc[r][plane][q] = sdot::<B>(sum, high, x[r][plane]);
            }
        }
    }
}

/// `totals += scales · acc`, with the scales of one of the two groups.
#[inline]
#[target_feature(enable = "neon")]
fn add_scaled(totals: &mut Pair, acc: &Pair, parts: &[u8], group: usize) {
    for (q, scales) in parts[..2 * BLOCK_ROWS].chunks_exact(2 * LANE).enumerate() {
        let scale: [i32; LANE] = std::array::from_fn(|lane| scales[2 * lane + group].into());
        // SAFETY: four i32 are a register.
        let scale = unsafe { vld1q_s32(scale.as_ptr()) };
        for plane in 0..2 {
            totals[plane][q] = vmlaq_s32(totals[plane][q], acc[plane][q], scale);
        }
    }
}

/// `sums += scale · shift · part`, for the parts of both groups.
#[inline]
#[target_feature(enable = "neon")]
fn add_shifts(sums: &mut [int32x4_t; LANE], parts: &[u8], pair: i32) {
    let (scales, shifts) = parts.split_at(2 * BLOCK_ROWS);
    let both = scales.chunks_exact(2 * LANE).zip(shifts.chunks_exact(2 * LANE));
    for (sum, (scales, shifts)) in sums.iter_mut().zip(both) {
        for (group, part) in [pair as i16, (pair >> 16) as i16].into_iter().enumerate() {
            let product: [i16; LANE] = std::array::from_fn(|lane| {
                let at = 2 * lane + group;
                i16::from(scales[at]) * i16::from(shifts[at].cast_signed())
            });
            // SAFETY: four i16 are a register.
            let product = unsafe { vld1_s16(product.as_ptr()) };
            *sum = vmlal_n_s16(*sum, product, part);
        }
    }
}

/// `sums += 16 · (255·high + low) + 1024·coarse + fine` in 64 bits; `sums` count as 0 if this is
/// the first.
#[inline]
#[target_feature(enable = "neon")]
fn add_sums(sums: &mut BlockSums, is_first: bool, [high, low]: &Pair, [coarse, fine]: &Pair) {
    if is_first {
        *sums = [0; BLOCK_ROWS];
    }
    for (q, sums) in sums.chunks_exact_mut(LANE).enumerate() {
        let wide = |lanes: int32x4_t, upper: bool| {
            vmovl_s32(if upper { vget_high_s32(lanes) } else { vget_low_s32(lanes) })
        };
        for (upper, sums) in sums.chunks_exact_mut(2).enumerate() {
            let upper = upper == 1;
            let (high, low) = (wide(high[q], upper), wide(low[q], upper));
            let codes = vaddq_s64(vsubq_s64(vshlq_n_s64::<8>(high), high), low);
            let shifts = vaddq_s64(vshlq_n_s64::<10>(wide(coarse[q], upper)), wide(fine[q], upper));
            let add = vaddq_s64(vshlq_n_s64::<4>(codes), shifts);
            let at = sums.as_mut_ptr();
            // SAFETY: a chunk of two i64 is a register.
            unsafe { vst1q_s64(at, vaddq_s64(vld1q_s64(at), add)) };
        }
    }
}
