//! Wᵀr modulo p in plain Rust, with sums in 128 bits.

use lockstep_exact::matrix::{BLOCK_ROWS, GROUP, Packed, ROWS_MAX};

use super::{codes, columns, groups, scaled};

const _: () = assert!((1_u128 << 61).checked_mul(255 * ROWS_MAX as u128).is_some());

pub(super) fn transposed(matrix: &Packed, residues: &[u64]) -> Vec<u64> {
    let shape = matrix.shape();
    let mut sums = vec![0_i128; shape.padded_columns()];
    let width = shape.codec.group();
    let mut totals = vec![0; groups(shape)];
    let mut buffer = [0; GROUP * BLOCK_ROWS];
    for block in 0..shape.blocks() {
        let groups = sums.chunks_exact_mut(width).zip(&mut totals).enumerate();
        for (group, (sums, total)) in groups {
            let weights = scaled(matrix, residues, block, group, total);
            let lines = codes(matrix, block, group, &mut buffer).chunks_exact(BLOCK_ROWS * 4);
            for (line, sums) in lines.zip(sums.chunks_exact_mut(4)) {
                for (codes, &weight) in line.chunks_exact(4).zip(&weights) {
                    for (sum, &code) in sums.iter_mut().zip(codes) {
                        *sum += i128::from(weight) * i128::from(code);
                    }
                }
            }
        }
    }
    columns(shape, &mut sums, &mut totals)
}
