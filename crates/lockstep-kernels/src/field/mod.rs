//! Dot products in the field of integers modulo p = 2^61 − 1: one vector of residues with many
//! rows of integers, as a verifier needs them for a batch of cells.
//!
//! Every row gets its own exact residue: rows share only the loads of the vector. Nothing is
//! reduced per element. The vector paths take values up to a width that every sum of real layers
//! stays inside and notice when one does not; those rows go the portable way, which takes all.

#[cfg(target_arch = "x86_64")]
use std::ops::Range;

use lockstep_exact::field::P;
#[cfg(target_arch = "x86_64")]
use lockstep_exact::field::{reduce, sub};

use crate::isa::{Isa, Kind};
use crate::pool::Pool;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod ifma;
mod portable;
mod transposed;

pub(crate) use transposed::transposed;

/// Values that are worth sharing between threads.
const SHARED_VALUES: usize = 64 * 1024;

/// Writes `Σ weights[i] · row[i]` modulo p of each row of `values` to `out`. Weights are residues.
///
/// # Panics
/// When `values` is not `out.len()` rows of `weights.len()`.
pub(crate) fn dots<V: Value>(
    isa: Isa,
    pool: &Pool,
    weights: &[u64],
    values: &[V],
    out: &mut [u64],
) {
    assert_eq!(values.len(), weights.len() * out.len(), "rows as long as the vector");
    debug_assert!(weights.iter().all(|&weight| weight < P), "weights are residues");
    if pool.threads() == 1 || values.len() < SHARED_VALUES {
        return rows(isa, weights, values, out);
    }
    let each = out.len().div_ceil(pool.threads());
    let parts = values.chunks(each * weights.len()).zip(out.chunks_mut(each)).collect();
    pool.each(parts, |(values, out)| rows(isa, weights, values, out));
}

fn rows<V: Value>(isa: Isa, weights: &[u64], values: &[V], out: &mut [u64]) {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 if ifma::is_available() => ifma::dots(weights, values, out),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 | Kind::AvxVnni | Kind::Avx2 => avx2::dots(weights, values, out),
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => portable::dots(weights, values, out),
        Kind::Portable => portable::dots(weights, values, out),
    }
}

/// Integers that residues are multiplied with.
#[cfg(target_arch = "x86_64")]
pub(crate) trait Value: Copy + Sync + Into<i128> + avx2::Load + ifma::Load {}

/// Integers that residues are multiplied with.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) trait Value: Copy + Sync + Into<i128> {}

impl Value for i64 {}
impl Value for i16 {}

/// Returns the values at `columns` of `N` rows of `width`, from `row` on.
#[cfg(target_arch = "x86_64")]
fn part<'a, const N: usize, V>(
    values: &'a [V],
    width: usize,
    row: usize,
    columns: &Range<usize>,
) -> [&'a [V]; N] {
    std::array::from_fn(|n| &values[(row + n) * width..][columns.clone()])
}

/// Returns `total − 2^bias · weights` modulo p, which undoes that 2^bias was added to every value.
#[cfg(target_arch = "x86_64")]
const fn without_bias(total: u128, weights: u128, bias: u32) -> u64 {
    sub(reduce(total), reduce((reduce(weights) as u128) << bias))
}
