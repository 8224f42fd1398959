//! Plain Rust: i16 products in i32 per group, i64 across groups.

use lockstep_exact::matrix::{BLOCK_ROWS, Codec};

use super::super::portable::add_group;
use super::super::{BlockSums, Part, Step, Tile};
use super::{HALF, HALVES};

pub(in super::super) struct Tiles;

impl Tile for Tiles {
    fn multiply<const NB: usize>(step: &Step<'_, NB>, sums: &mut [BlockSums]) {
        step.clear(sums);
        for (part, sums) in step.parts.iter().zip(sums.chunks_mut(step.inputs.rows())) {
            for (at, span) in step.groups.clone().enumerate() {
                for half in 0..HALVES {
                    let (rows, scales) = group_rows(part, at, half);
                    for input in step.rows.clone() {
                        let [codes] = step.inputs.codes_from(input, span);
                        add_group(&mut sums[input], &rows, &scales, &codes[half * HALF..][..HALF]);
                    }
                }
            }
        }
    }
}

/// Returns `16 · code + shift` of a group, one row after the other, and the scales of its rows.
fn group_rows(
    part: &Part<'_>,
    span: usize,
    half: usize,
) -> ([[i16; HALF]; BLOCK_ROWS], [u8; BLOCK_ROWS]) {
    let scales = &part.scales[span * Codec::W4.scale_bytes()..][..Codec::W4.scale_bytes()];
    let (scales, shifts) = scales.split_at(2 * BLOCK_ROWS);
    let codes = &part.codes[span * Codec::W4.code_bytes()..][..Codec::W4.code_bytes()];
    let codes = &codes[half * codes.len() / HALVES..][..codes.len() / HALVES];
    let mut rows = [[0; HALF]; BLOCK_ROWS];
    for (line, lanes) in codes.chunks_exact(4 * BLOCK_ROWS).enumerate() {
        for (lane, (row, bytes)) in rows.iter_mut().zip(lanes.chunks_exact(4)).enumerate() {
            let zero = i16::from(shifts[2 * lane + half].cast_signed()) - 16 * 8;
            let (low, high) = row[line * 8..line * 8 + 8].split_at_mut(4);
            for ((low, high), &byte) in low.iter_mut().zip(high).zip(bytes) {
                *low = i16::from(byte << 4) + zero;
                *high = i16::from(byte & 0xf0) + zero;
            }
        }
    }
    (rows, std::array::from_fn(|lane| scales[2 * lane + half]))
}
