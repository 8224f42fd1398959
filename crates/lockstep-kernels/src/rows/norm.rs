//! RMS normalisation of a state row.

use lockstep_exact::num;
use lockstep_exact::state::{GROUP, OVERFLOW, exponent};

use super::{StateRow, encode, pow2};
use crate::isa::Isa;
use crate::isa::per_isa;

per_isa! {
    /// Computes `(x · r) · gain` with `r = 1/sqrt(mean(x²) + eps)` of a state row `x`.
    pub(crate) fn norm(
        isa: Isa,
        mantissas: &[i16],
        exponents: &[u8],
        eps: f32,
        gain: &[f32],
        out: &mut [f32],
    ) {
        let r = 1.0 / (mean_of_squares(mantissas, exponents) + eps).sqrt();
        let groups = mantissas.chunks(GROUP).zip(exponents).zip(gain.chunks(GROUP));
        for (((mantissas, &byte), gain), out) in groups.zip(out.chunks_mut(GROUP)) {
            let unit = pow2(exponent(byte));
            for ((out, &m), gain) in out.iter_mut().zip(mantissas).zip(gain) {
                *out = ((f32::from(m) * unit) * r) * gain;
            }
        }
    }
}

/// Memory for a row on its way through block-i16.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    mantissas: Vec<i16>,
    exponents: Vec<u8>,
}

/// Rounds `values` to block-i16, and normalises them in place as [`norm`] does. Returns false if
/// they overflow; `values` are then the result for a row of zeros.
pub(crate) fn norm_in_place(
    isa: Isa,
    values: &mut [f32],
    eps: f32,
    gain: &[f32],
    block: &mut Block,
) -> bool {
    let Block { mantissas, exponents } = block;
    mantissas.resize(values.len(), 0);
    exponents.resize(values.len().div_ceil(GROUP), 0);
    let fits = encode(isa, values, StateRow { mantissas, exponents });
    if !fits {
        mantissas.fill(0);
        exponents.fill(0);
    }
    norm(isa, mantissas, exponents, eps, gain, values);
    fits
}

/// Computes the mean of squares of a state row, from an integer sum of each block's squares,
/// shifted to the largest exponent.
#[inline(always)]
fn mean_of_squares(mantissas: &[i16], exponents: &[u8]) -> f32 {
    let used = |byte: u8| byte != 0 && byte != OVERFLOW;
    let largest = exponents.iter().copied().filter(|&byte| used(byte)).fold(0, Ord::max);
    if largest == 0 {
        return 0.0;
    }
    let mut sum = 0_u64;
    for (mantissas, &byte) in mantissas.chunks(GROUP).zip(exponents) {
        if used(byte) {
            let shift = 2 * u32::from(largest - byte);
            // default: shifted by all its bits a number is zero
            sum += (squares(mantissas) << 16).checked_shr(shift).unwrap_or(0);
        }
    }
    (sum as f32 * num::pow2(2 * exponent(largest) - 16)) / mantissas.len() as f32
}

/// Returns Σm², which is below 2^35.
#[inline(always)]
fn squares(mantissas: &[i16]) -> u64 {
    // Eight lanes of at most four squares, each at most 32767²: they fit u32.
    let mut lanes = [0_u32; 8];
    let (eights, rest) = mantissas.as_chunks::<8>();
    for eight in eights {
        for lane in 0..8 {
            lanes[lane] += square(eight[lane]);
        }
    }
    for (lane, &m) in lanes.iter_mut().zip(rest) {
        *lane += square(m);
    }
    lanes.iter().map(|&lane| u64::from(lane)).sum()
}

#[inline(always)]
fn square(m: i16) -> u32 {
    (i32::from(m) * i32::from(m)).cast_unsigned()
}

const _: () = assert!(GROUP / 8 * 32_767 * 32_767 <= u32::MAX as usize);
