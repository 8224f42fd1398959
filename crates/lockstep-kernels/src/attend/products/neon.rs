//! NEON: a line is split by depth as it is loaded, widened to i16, and `smlal` multiplies it with
//! one i16 of the vector.
//!
//! Codes are signed here (keys lose their +128 by a flipped top bit), so sums start from 0.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by all loops")]

use std::arch::aarch64::*;

use super::Product;
use crate::line::{DEPTH, LANES};

/// Registers of 4 lanes that hold 16 lanes.
const QUARTERS: usize = 4;

pub(super) fn multiply(product: &Product<'_>, sums: &mut [i32], width: usize) {
    let flip = product.vectors.signs.flip();
    for block in 0..product.panel.side {
        let mut vector = 0;
        while vector < product.vectors.count {
            let count = (product.vectors.count - vector).min(4);
            match count {
                1 => tile::<1>(product, block, vector, flip, sums, width),
                2 => tile::<2>(product, block, vector, flip, sums, width),
                3 => tile::<3>(product, block, vector, flip, sums, width),
                _ => tile::<4>(product, block, vector, flip, sums, width),
            }
            vector += count;
        }
    }
}

/// Computes the sums of 16 lanes with `MR` vectors.
fn tile<const MR: usize>(
    product: &Product<'_>,
    block: usize,
    vector: usize,
    flip: u8,
    sums: &mut [i32],
    width: usize,
) {
    let codes = product.codes::<MR>(vector);
    // SAFETY: every AArch64 processor that Rust's standard library runs on has NEON; registers
    // are loaded from and stored to arrays of their size.
    unsafe {
        let mut acc = [[vdupq_n_s32(0); QUARTERS]; MR];
        for (step, line) in product.block(block).enumerate() {
            let uint8x16x4_t(a, b, c, d) = vld4q_u8(line.0.as_ptr());
            let mut x = [vdup_n_s16(0); MR];
            for r in 0..MR {
                x[r] = vld1_s16(codes[r][step * DEPTH..][..DEPTH].as_ptr());
            }
            let signed = |bytes| vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(flip)));
            add::<MR, 0>(&mut acc, signed(a), &x);
            add::<MR, 1>(&mut acc, signed(b), &x);
            add::<MR, 2>(&mut acc, signed(c), &x);
            add::<MR, 3>(&mut acc, signed(d), &x);
        }
        for r in 0..MR {
            let sums = &mut sums[(vector + r) * width + block * LANES..][..LANES];
            for (sums, acc) in sums.chunks_exact_mut(4).zip(acc[r]) {
                vst1q_s32(sums.as_mut_ptr(), acc);
            }
        }
    }
}

/// Computes `acc += codes · x[K]`, for 16 lanes.
#[inline]
#[target_feature(enable = "neon")]
fn add<const MR: usize, const K: i32>(
    acc: &mut [[int32x4_t; QUARTERS]; MR],
    codes: int8x16_t,
    x: &[int16x4_t; MR],
) {
    let (low, high) = (vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes));
    let quarters = [vget_low_s16(low), vget_high_s16(low), vget_low_s16(high), vget_high_s16(high)];
    for r in 0..MR {
        for q in 0..QUARTERS {
            acc[r][q] = vmlal_lane_s16::<K>(acc[r][q], quarters[q], x[r]);
        }
    }
}
