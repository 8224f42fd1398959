//! Plain Rust: products in 128 bits, folded once per eight.

use lockstep_exact::field::{P, reduce, sub};

use super::Value;

/// Products of a residue and any 64-bit integer whose sum fits i128: 8 · 2^61 · 2^63.
const LAZY_PRODUCTS: usize = 8;

const _: () = assert!(P < 1 << 61);

pub(super) fn dots<V: Value>(weights: &[u64], values: &[V], out: &mut [u64]) {
    if weights.is_empty() {
        return out.fill(0);
    }
    for (out, row) in out.iter_mut().zip(values.chunks_exact(weights.len())) {
        *out = dot(weights, row);
    }
}

/// Returns the dot product of `weights` and one row, modulo p. It takes every value.
pub(super) fn dot<V: Value>(weights: &[u64], row: &[V]) -> u64 {
    let (weights, rest) = weights.as_chunks::<LAZY_PRODUCTS>();
    let (row, row_rest) = row.as_chunks::<LAZY_PRODUCTS>();
    let chunks = weights.iter().zip(row);
    let folded = chunks.map(|(weights, row)| fold(products(weights, row))).sum::<i128>();
    residue(folded + fold(products(rest, row_rest)))
}

#[inline]
fn products<V: Value>(weights: &[u64], row: &[V]) -> i128 {
    weights.iter().zip(row).map(|(&weight, &value)| i128::from(weight) * value.into()).sum()
}

/// Returns a congruent number below 2^67 in magnitude, because 2^61 = 1 modulo p.
#[inline]
const fn fold(sum: i128) -> i128 {
    (sum & P as i128) + (sum >> 61)
}

const fn residue(sum: i128) -> u64 {
    let magnitude = reduce(sum.unsigned_abs());
    if sum < 0 { sub(0, magnitude) } else { magnitude }
}
