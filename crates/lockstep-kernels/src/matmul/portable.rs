//! Plain Rust: i16 products in i32 per group, i64 across groups.
//!
//! A group of codes is first turned to rows of i16, so that the inner loop is a plain dot product
//! that any compiler turns into the machine's widening multiplies. Even for one input row that is
//! faster than multiplying codes as they lie, which compilers do not vectorise.

use lockstep_exact::matrix::{BLOCK_ROWS, GROUP};

use super::{BlockSums, Part, Step, Tile};

pub(super) struct Tiles;

impl Tile for Tiles {
    fn multiply<const NB: usize>(step: &Step<'_, NB>, sums: &mut [BlockSums]) {
        step.clear(sums);
        for (part, sums) in step.parts.iter().zip(sums.chunks_mut(step.inputs.rows())) {
            for (at, group) in step.groups.clone().enumerate() {
                let rows = group_rows(part, at);
                let scales = &part.scales[at * BLOCK_ROWS..][..BLOCK_ROWS];
                for input in step.rows.clone() {
                    let [codes] = step.inputs.codes_from(input, group);
                    add_group(&mut sums[input], &rows, scales, &codes[..GROUP]);
                }
            }
        }
    }
}

/// Returns the codes of a group, one row after the other.
fn group_rows(part: &Part<'_>, group: usize) -> [[i16; GROUP]; BLOCK_ROWS] {
    let mut rows = [[0; GROUP]; BLOCK_ROWS];
    let bytes = &part.codes[group * GROUP * BLOCK_ROWS..][..GROUP * BLOCK_ROWS];
    for (column, lanes) in bytes.chunks_exact(4 * BLOCK_ROWS).enumerate() {
        for (row, lane) in rows.iter_mut().zip(lanes.chunks_exact(4)) {
            for (code, &byte) in row[column * 4..column * 4 + 4].iter_mut().zip(lane) {
                *code = i16::from(byte) - 128;
            }
        }
    }
    rows
}

/// Adds the products of 16 rows of a group with its inputs, times the rows' scales.
pub(super) fn add_group<const W: usize>(
    sums: &mut BlockSums,
    rows: &[[i16; W]; BLOCK_ROWS],
    scales: &[u8],
    codes: &[i16],
) {
    for ((sum, row), &scale) in sums.iter_mut().zip(rows).zip(scales) {
        let products = row.iter().zip(codes).map(|(&w, &x)| i32::from(w) * i32::from(x));
        *sum += i64::from(scale) * i64::from(products.sum::<i32>());
    }
}
