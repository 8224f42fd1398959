//! Dot products in the field of integers modulo 2^61 − 1, reduced once per many elements.

use lockstep_exact::field::{P, add, from_i64, reduce};

/// Products of two residues whose sum fits u128.
const LAZY_PRODUCTS: usize = 32;
/// 16-bit values times 32-bit halves of residues whose sum fits i64.
const LAZY_VALUES: usize = 1 << 15;

const _: () = assert!((P as u128 * P as u128).checked_mul(LAZY_PRODUCTS as u128).is_some());

/// As [`lockstep_exact::field::dot_i64`].
pub(crate) fn dot_i64(weights: &[u64], values: &[i64]) -> u64 {
    let len = weights.len().min(values.len());
    let weights = weights[..len].chunks(LAZY_PRODUCTS);
    weights.zip(values[..len].chunks(LAZY_PRODUCTS)).fold(0, |sum, (weights, values)| {
        let products =
            weights.iter().zip(values).map(|(&w, &x)| u128::from(w) * u128::from(residue(x)));
        add(sum, reduce(products.sum()))
    })
}

/// A number congruent to `x`, at most p.
#[inline]
const fn residue(x: i64) -> u64 {
    // |x| ≤ 2^63 = 4 · 2^61: one fold leaves at most p + 4.
    let magnitude = x.unsigned_abs();
    let folded = (magnitude & P) + (magnitude >> 61);
    let folded = if folded >= P { folded - P } else { folded };
    if x < 0 { P - folded } else { folded }
}

/// As [`lockstep_exact::field::dot_i16`].
pub(crate) fn dot_i16(weights: &[u64], values: &[i16]) -> u64 {
    let len = weights.len().min(values.len());
    let weights = weights[..len].chunks(LAZY_VALUES);
    weights.zip(values[..len].chunks(LAZY_VALUES)).fold(0, |sum, (weights, values)| {
        let (mut high, mut low) = (0_i64, 0_i64);
        for (&w, &x) in weights.iter().zip(values) {
            high += (w >> 32).cast_signed() * i64::from(x);
            low += (w & 0xffff_ffff).cast_signed() * i64::from(x);
        }
        let high = reduce(u128::from(from_i64(high)) << 32);
        add(sum, add(high, from_i64(low)))
    })
}
