//! AVX-512 VNNI: residues as eight signed digits of base 256, `vpdpbusd` of stored codes with them.
//!
//! A line of 16 rows × 4 columns is turned, within its 128-bit quarters, to 4 columns of 4 rows
//! each; a product with a digit of 16 rows then adds up 4 rows in each 32-bit lane.

use std::arch::x86_64::*;

use lockstep_exact::matrix::{BLOCK_ROWS, GROUP, Packed};

use super::{Scaled, codes, columns, groups, scaled};

/// Signed digits of a residue: 2^61 < 127 · 256^7.
const DIGITS: usize = 8;
/// Blocks whose products are added up in registers.
const TOGETHER: usize = 8;
/// Blocks after which 32-bit sums could overflow: 2^13 · 4 · 255 · 128 < 2^31.
const FLUSH: usize = 1 << 13;
const _: () = assert!(FLUSH * 4 * 255 * 128 < 1 << 31 && FLUSH.is_multiple_of(TOGETHER));

/// One sum per digit, row quarter and column of a line.
type LineSums = [[i32; 16]; DIGITS];
/// One digit of 16 rows, each quarter of them once per column.
type Digits = [[i32; 16]; DIGITS];

pub(super) fn transposed(matrix: &Packed, residues: &[u64]) -> Vec<u64> {
    let shape = matrix.shape();
    // Of a group.
    let lines = shape.codec.group() / 4;
    let mut sums = vec![[[0; 16]; DIGITS]; groups(shape) * lines];
    let mut wide = vec![0_i128; shape.padded_columns()];
    let mut totals = vec![0; groups(shape)];
    let mut buffers = [[0; GROUP * BLOCK_ROWS]; TOGETHER];
    for first in (0..shape.blocks()).step_by(TOGETHER) {
        let blocks = first..(first + TOGETHER).min(shape.blocks());
        for (group, (sums, total)) in sums.chunks_exact_mut(lines).zip(&mut totals).enumerate() {
            let mut parts: [(Digits, &[u8]); TOGETHER] = [([[0; 16]; DIGITS], &[]); TOGETHER];
            for ((part, buffer), block) in parts.iter_mut().zip(&mut buffers).zip(blocks.clone()) {
                let weights = scaled(matrix, residues, block, group, total);
                *part = (digits(&weights), codes(matrix, block, group, buffer));
            }
            // SAFETY: this module is only entered where the processor has these instructions.
            unsafe { add_parts(&parts[..blocks.len()], sums) };
        }
        if blocks.end.is_multiple_of(FLUSH) || blocks.end == shape.blocks() {
            flush(&mut sums, &mut wide);
        }
    }
    columns(shape, &mut wide, &mut totals)
}

/// Digits in −128..=127, lowest first.
fn digits(weights: &Scaled) -> Digits {
    let mut bytes = [[0_u8; BLOCK_ROWS]; DIGITS];
    for (row, &weight) in weights.iter().enumerate() {
        // Adding 128 to every digit makes them unsigned, with all carries in place.
        let biased = weight + 0x8080_8080_8080_8080;
        for (bytes, byte) in bytes.iter_mut().zip(biased.to_le_bytes()) {
            bytes[row] = byte ^ 0x80;
        }
    }
    bytes.map(|rows| {
        std::array::from_fn(|lane| {
            let at = lane / 4 * 4;
            i32::from_le_bytes([rows[at], rows[at + 1], rows[at + 2], rows[at + 3]])
        })
    })
}

/// Adds the products of some blocks' codes of one group to its sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_parts(parts: &[(Digits, &[u8])], sums: &mut [LineSums]) {
    assert!(parts.iter().all(|(_, codes)| codes.len() == sums.len() * 64));
    // Byte 4·row + column of a quarter goes to 4·column + row.
    let turn =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    for (line, sums) in sums.iter_mut().enumerate() {
        let mut acc = [_mm512_setzero_si512(); DIGITS];
        for (acc, sums) in acc.iter_mut().zip(sums.iter()) {
            // SAFETY: sixteen i32 are 64 bytes.
            *acc = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
        }
        for (digits, codes) in parts {
            // SAFETY: there are as many lines of 64 bytes, asserted above.
            let codes = unsafe { _mm512_loadu_si512(codes.as_ptr().add(line * 64).cast()) };
            let codes = _mm512_shuffle_epi8(codes, turn);
            for (acc, digit) in acc.iter_mut().zip(digits) {
                // SAFETY: sixteen i32 are 64 bytes.
                let digit = unsafe { _mm512_loadu_si512(digit.as_ptr().cast()) };
                *acc = _mm512_dpbusd_epi32(*acc, codes, digit);
            }
        }
        for (acc, sums) in acc.iter().zip(sums.iter_mut()) {
            // SAFETY: sixteen i32 are 64 bytes.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), *acc) };
        }
    }
}

/// Moves 32-bit sums of digits to sums of columns.
fn flush(sums: &mut [LineSums], wide: &mut [i128]) {
    for (sums, columns) in sums.iter_mut().zip(wide.chunks_exact_mut(4)) {
        for (digit, sums) in sums.iter_mut().enumerate() {
            for (lane, sum) in sums.iter_mut().enumerate() {
                columns[lane % 4] += i128::from(std::mem::take(sum)) << (8 * digit);
            }
        }
    }
}
