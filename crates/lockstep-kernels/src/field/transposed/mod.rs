//! Computes Wᵀr modulo p over the packed layout, in one pass: this is how a verifier makes its key.
//!
//! The group scale goes into the residue, `w = scale · r` modulo p. Stored codes of w8 are
//! `code + 128`, so a column's sum is `Σ w · stored − 128 · Σ w` over the rows of its group; of w4
//! they are `code + 8`, and it is `16 · Σ w · stored − Σ w · (128 − shift)`.

use std::hint::black_box;

use lockstep_exact::field::{P, add, mul, reduce, sub};
use lockstep_exact::matrix::{BLOCK_ROWS, Codec, GROUP, Packed, Shape};

use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Kind;

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Scaled residues of the rows of one block, for one group of columns.
type Scaled = [u64; BLOCK_ROWS];

/// Computes `Σ_n weight(n, column) · residues[n]` modulo p, for every column.
///
/// # Panics
/// When there are not as many residues as the matrix has rows.
pub(crate) fn transposed(isa: Isa, matrix: &Packed, residues: &[u64]) -> Vec<u64> {
    let shape = matrix.shape();
    assert_eq!(residues.len(), shape.rows, "a residue for each row of a {shape} matrix");
    debug_assert!(residues.iter().all(|&residue| residue < P), "residues");
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => avx512::transposed(matrix, residues),
        _ => portable::transposed(matrix, residues),
    }
}

/// Returns the columns' sums, corrected; what they are made of is wiped, because residues are
/// secret.
fn columns(shape: Shape, sums: &mut [i128], totals: &mut [u64]) -> Vec<u64> {
    let width = shape.codec.group();
    let column =
        |(column, sum): (usize, &i128)| corrected(shape.codec, *sum, totals[column / width]);
    let columns = sums.iter().enumerate().map(column).take(shape.columns).collect();
    sums.fill(0);
    totals.fill(0);
    black_box((sums, totals));
    columns
}

/// Groups of a row, padding included.
const fn groups(shape: Shape) -> usize {
    shape.padded_columns() / shape.codec.group()
}

/// Returns the residues of a block's rows times their scales for `group`; adds what is wrong with
/// the sum of their products with stored codes to `total`.
fn scaled(
    matrix: &Packed,
    residues: &[u64],
    block: usize,
    group: usize,
    total: &mut u64,
) -> Scaled {
    let mut out = [0; BLOCK_ROWS];
    let first = block * BLOCK_ROWS;
    for (lane, (out, &residue)) in out.iter_mut().zip(&residues[first..]).enumerate() {
        *out = mul(residue, u64::from(matrix.group_scale(first + lane, group).unsigned_abs()));
        let wrong = match matrix.shape().codec {
            Codec::W8 => 128,
            Codec::W4 => 128 - matrix.shift(first + lane, group),
        };
        // Shifts are ±127.
        *total = add(*total, mul(*out, u64::from(wrong.unsigned_abs())));
    }
    out
}

/// Returns a column's sum, from that of products with stored codes and from what is wrong with it.
fn corrected(codec: Codec, sum: i128, total: u64) -> u64 {
    let magnitude = reduce(sum.unsigned_abs());
    let sum = if sum < 0 { sub(0, magnitude) } else { magnitude };
    match codec {
        Codec::W8 => sub(sum, total),
        Codec::W4 => sub(mul(sum, 16), total),
    }
}

/// Returns the stored codes of one group in a block: lines of 16 rows × 4 columns, a byte each.
fn codes<'a>(
    matrix: &'a Packed,
    block: usize,
    group: usize,
    buffer: &'a mut [u8; GROUP * BLOCK_ROWS],
) -> &'a [u8] {
    let codec = matrix.shape().codec;
    let bytes = codec.code_bytes() * codec.group() / GROUP;
    let stored = &matrix.block(block)[group * bytes..][..bytes];
    if codec == Codec::W8 {
        return stored;
    }
    for (both, lines) in stored.chunks_exact(64).zip(buffer.chunks_exact_mut(2 * 64)) {
        let (low, high) = lines.split_at_mut(64);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(both) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
    }
    &buffer[..2 * bytes]
}
