//! Wᵀr modulo p over the packed layout, in one pass: how a verifier makes its key.
//!
//! The group scale goes into the residue, `w = scale · r` modulo p, and stored codes are
//! `code + 128`, so a column's sum is `Σ w · stored − 128 · Σ w` over the rows of its group.

use lockstep_exact::field::{P, add, mul, reduce, sub};
use lockstep_exact::matrix::{BLOCK_ROWS, GROUP, Packed};

use crate::isa::{Isa, Kind};

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Scaled residues of the rows of one block, for one group of columns.
type Scaled = [u64; BLOCK_ROWS];

/// `Σ_n weight(n, column) · residues[n]` modulo p, for every column.
///
/// # Panics
/// When there are not as many residues as the matrix has rows.
pub(crate) fn transposed(isa: Isa, matrix: &Packed, residues: &[u64]) -> Vec<u64> {
    let shape = matrix.shape();
    assert_eq!(residues.len(), shape.rows, "a residue for each row of a {shape} matrix");
    debug_assert!(residues.iter().all(|&residue| residue < P), "residues");
    let mut columns = match isa.0 {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => avx512::transposed(matrix, residues),
        _ => portable::transposed(matrix, residues),
    };
    columns.truncate(shape.columns);
    columns
}

/// The residues of a block's rows times their scales for `group`.
fn scaled(matrix: &Packed, residues: &[u64], block: usize, group: usize) -> Scaled {
    let scales = &matrix.block(block)[matrix.shape().group_scales_offset()..];
    let scales = &scales[group * BLOCK_ROWS..][..BLOCK_ROWS];
    let mut out = [0; BLOCK_ROWS];
    for ((out, &scale), &residue) in out.iter_mut().zip(scales).zip(&residues[block * BLOCK_ROWS..])
    {
        *out = mul(residue, scale.into());
    }
    out
}

/// Undoes the 128 in stored codes: `sum − 128 · total`, where `total` is that of the group.
fn without_offset(sum: i128, total: u64) -> u64 {
    let magnitude = reduce(sum.unsigned_abs());
    let sum = if sum < 0 { sub(0, magnitude) } else { magnitude };
    sub(sum, mul(total, 128))
}

/// Adds all residues of a block to a group's total.
fn add_total(total: &mut u64, scaled: &Scaled) {
    *total = scaled.iter().fold(*total, |total, &residue| add(total, residue));
}

/// The codes of one group in a block: 16 lines of 16 rows × 4 columns.
fn codes(matrix: &Packed, block: usize, group: usize) -> &[u8] {
    &matrix.block(block)[group * GROUP * BLOCK_ROWS..][..GROUP * BLOCK_ROWS]
}
