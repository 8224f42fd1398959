//! NEON: `sdot` of 4 rows × 4 columns of codes with 4 broadcast i8 inputs.
//!
//! `sdot` takes signed bytes, so a stored code loses its +128 by a flipped top bit, and sums start
//! from 0 rather than from the offsets. A block of 16 weight rows is 4 registers per step; 2 input
//! rows × 2 planes × 4 registers are 16 of the 32 that hold sums. The instruction has no stable
//! intrinsic, hence the assembly: one instruction each, placed by the compiler.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by all loops")]

use std::arch::aarch64::*;
use std::arch::asm;

use lockstep_exact::matrix::{BLOCK_ROWS, GROUP};

use super::{BlockSums, PairTile, Part, Step, Tile, multiply_pairs};

/// Only named where the processor has the dot product instructions.
pub(super) struct Tiles;

/// Columns per 32-bit lane of `sdot`, and registers per block of 16 rows.
pub(super) const LANE: usize = 4;
/// The number of bytes of a register.
pub(super) const REGISTER: usize = 16;
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

/// The sums of both planes of 16 weight rows.
type Planes = [[int32x4_t; LANE]; 2];

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
    // What is read without checks below.
    assert!(inputs.iter().all(|x| x.len() >= groups * 2 * GROUP));
    assert_eq!(part.codes.len(), groups * GROUP * BLOCK_ROWS);
    let mut totals = [[[vdupq_n_s32(0); LANE]; 2]; MR];
    for g in 0..groups {
        let mut acc = [[[vdupq_n_s32(0); LANE]; 2]; MR];
        for quarter in 0..GROUP / REGISTER {
            let mut x = [[vdupq_n_s8(0); 2]; MR];
            for r in 0..MR {
                for plane in 0..2 {
                    let at = g * 2 * GROUP + plane * GROUP + quarter * REGISTER;
                    // SAFETY: 128 bytes per group, asserted above.
                    x[r][plane] = unsafe { vld1q_s8(inputs[r].as_ptr().add(at)) };
                }
            }
            let at = (g * GROUP + quarter * REGISTER) * BLOCK_ROWS;
            if let Some(ahead) = ahead {
                (0..4).for_each(|line| prefetch(ahead.wrapping_add(at + line * 64)));
            }
            let codes = &part.codes[at..];
            let codes = codes[..REGISTER * BLOCK_ROWS].as_ptr();
            // SAFETY: four steps of 64 bytes each are what `codes` has.
            unsafe {
                dots::<MR, 0>(codes, &x, &mut acc);
                dots::<MR, 1>(codes.add(64), &x, &mut acc);
                dots::<MR, 2>(codes.add(128), &x, &mut acc);
                dots::<MR, 3>(codes.add(192), &x, &mut acc);
            }
        }
        let scales = &part.scales[g * BLOCK_ROWS..][..BLOCK_ROWS];
        for r in 0..MR {
            add_scaled(&mut totals[r], &acc[r], scales);
        }
    }
    for r in 0..MR {
        add_planes(&mut sums[row + r], step.is_first(), &totals[r]);
    }
}

/// Computes one step: 16 rows × 4 columns of codes with the inputs in lane `S` of their registers.
///
/// # Safety
/// `codes` may be read for 64 bytes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn dots<const MR: usize, const S: i32>(
    codes: *const u8,
    x: &[[int8x16_t; 2]; MR],
    acc: &mut [Planes; MR],
) {
    for q in 0..LANE {
        // SAFETY: the caller's.
        let stored = unsafe { vld1q_u8(codes.add(q * REGISTER)) };
        let w = vreinterpretq_s8_u8(veorq_u8(stored, vdupq_n_u8(0x80)));
        for r in 0..MR {
            for plane in 0..2 {
                acc[r][plane][q] = sdot::<S>(acc[r][plane][q], w, x[r][plane]);
            }
        }
    }
}

/// Computes `acc[i] += Σ w[4·i + k] · x[4·S + k]`, k = 0..4; nothing saturates.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn sdot<const S: i32>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: computes on registers; this function is for processors that have the instruction.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const S,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Brings a line into the second-level cache. The address may be anything.
#[inline]
pub(super) fn prefetch(at: *const u8) {
    // SAFETY: a hint: it never faults and writes nothing.
    unsafe {
        asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly))
    };
}

/// Computes `totals += scales · acc`.
#[inline]
#[target_feature(enable = "neon")]
fn add_scaled(totals: &mut Planes, acc: &Planes, scales: &[u8]) {
    for (q, scales) in scales.chunks_exact(LANE).enumerate() {
        let scale = [scales[0], scales[1], scales[2], scales[3]].map(i32::from);
        // SAFETY: four i32 are a register.
        let scale = unsafe { vld1q_s32(scale.as_ptr()) };
        for plane in 0..2 {
            totals[plane][q] = vmlaq_s32(totals[plane][q], acc[plane][q], scale);
        }
    }
}

/// `sums += 255·high + low` in 64 bits; `sums` count as 0 if this is the first.
#[inline]
#[target_feature(enable = "neon")]
fn add_planes(sums: &mut BlockSums, is_first: bool, [high, low]: &Planes) {
    if is_first {
        *sums = [0; BLOCK_ROWS];
    }
    for (q, sums) in sums.chunks_exact_mut(LANE).enumerate() {
        let at = sums.as_mut_ptr();
        // SAFETY: a chunk of four i64 is two registers.
        unsafe {
            let first = vaddw_s32(vld1q_s64(at), vget_low_s32(low[q]));
            vst1q_s64(at, vmlal_n_s32(first, vget_low_s32(high[q]), 255));
            let at = at.add(2);
            let second = vaddw_s32(vld1q_s64(at), vget_high_s32(low[q]));
            vst1q_s64(at, vmlal_n_s32(second, vget_high_s32(high[q]), 255));
        }
    }
}
