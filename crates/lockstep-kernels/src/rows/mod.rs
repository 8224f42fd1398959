//! The element-wise operations, one row at a time.
//!
//! Each is one plain Rust body that is compiled once per instruction set: IEEE operations give the
//! same bits at any vector width, reductions are over integers, and the compiler neither contracts
//! nor reorders float operations. So there is nothing to keep equal by hand.

mod dequant;
mod gate;
mod norm;
mod quantise;
mod rotate;
mod state;

pub(crate) use dequant::{add_bias, add_weighted, dequant, dequant_blocks};
pub(crate) use gate::{gelu_gate, silu_gate};
pub(crate) use norm::{Block, norm, norm_in_place};
pub(crate) use quantise::{quantise_i8, quantise_i16};
pub(crate) use rotate::{Angles, rotate};
pub(crate) use state::{StateRow, add, encode};

use crate::isa::per_isa;

/// Rounds to the nearest integer, ties to even, for |x| ≤ 2^22; anything else gives some integer.
///
/// Adding 1.5 · 2^23 leaves no room for a fraction, so the addition itself rounds.
#[inline(always)]
pub(crate) const fn rne(x: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()).cast_signed()
}

/// Returns two to the power of `exponent`, in -126..=127.
#[inline(always)]
pub(crate) const fn pow2(exponent: i32) -> f32 {
    f32::from_bits((exponent.wrapping_add(127) as u32) << 23)
}

/// Returns the largest magnitude of `values`, as bits of an f32 without a sign; 0 if there are
/// none.
#[inline(always)]
pub(crate) fn amax_bits(values: &[f32]) -> u32 {
    values.iter().map(|value| value.to_bits() & 0x7fff_ffff).fold(0, Ord::max)
}

per_isa! {
    /// Returns whether every number is below 2^55 in magnitude, which overflowed ones and NaN are
    /// not.
    pub(crate) fn fits(isa: Isa, values: &[f32]) -> bool {
        amax_bits(values) < lockstep_exact::num::OVERFLOW_BITS
    }
}

/// Computes [`lockstep_exact::num::exp2_fraction`], bit for bit, in a form that is inlined into
/// vector loops.
#[inline(always)]
pub(crate) fn exp2_fraction(f: f32) -> f32 {
    let [c0, c1, c2, c3, c4, c5] = lockstep_exact::num::EXP2;
    1.0 + f * (c0 + f * (c1 + f * (c2 + f * (c3 + f * (c4 + f * c5)))))
}

#[cfg(test)]
mod tests {
    use lockstep_exact::num;

    use super::*;

    #[test]
    fn rounding_by_addition_is_rounding_to_even_where_it_is_used() {
        let edges = [0.0, 0.5, 1.5, 2.5, 0.499_999_97, 32_511.5, 1_048_575.5, 4_194_303.5];
        for x in edges.into_iter().flat_map(|x| [x, -x]) {
            assert_eq!(rne(x), num::rne(x), "{x}");
        }
        for step in 0..2_000_000 {
            let x = (step - 1_000_000) as f32 * 4.193_7;
            if x.to_bits() & 0x7fff_ffff <= (127 + 22) << 23 {
                assert_eq!(rne(x), num::rne(x), "{x}");
            }
        }
    }

    #[test]
    fn powers_and_polynomial_are_those_of_the_definition() {
        for exponent in -126..=127 {
            assert_eq!(pow2(exponent).to_bits(), num::pow2(exponent).to_bits());
        }
        for step in -500_000..=500_000 {
            let f = step as f32 * 1e-6;
            assert_eq!(exp2_fraction(f).to_bits(), num::exp2_fraction(f).to_bits());
        }
    }
}
