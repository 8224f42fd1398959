//! Matrices with pseudo-random weights: what a benchmark multiplies by where it has no model.

use super::{BLOCK_ROWS, Codec, Shape};

/// Makes the packed bytes of a matrix with pseudo-random weights from `seed`, which is not 0. The
/// rows of `shape` are whole blocks. It draws fast (xorshift), so that a benchmark can make a model
/// of billions of weights.
#[must_use]
pub fn seeded_bytes(seed: u64, shape: Shape) -> Vec<u8> {
    debug_assert!(seed != 0 && shape.rows.is_multiple_of(BLOCK_ROWS), "{shape}");
    let mut word = seed;
    let mut next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word
    };
    let mut bytes = vec![0; shape.packed_bytes()];
    for bytes in bytes.as_chunks_mut().0 {
        // No code of w8 is stored as 0.
        *bytes = next().to_le_bytes().map(|byte: u8| byte.max(1));
    }
    let scale = 1.0 / ((shape.columns as f32).sqrt() * seeded_weight_size(shape.codec));
    for block in bytes.chunks_exact_mut(shape.block_bytes()) {
        let (parts, rows) = block.split_at_mut(shape.row_scales_offset());
        let (codes, groups) = parts.split_at_mut(shape.group_scales_offset());
        match shape.codec {
            Codec::W8 => {
                for (step, line) in codes.chunks_exact_mut(BLOCK_ROWS * 4).enumerate() {
                    let used = shape.columns.saturating_sub(step * 4).min(4);
                    line.chunks_exact_mut(4).for_each(|lane| lane[used..].fill(128));
                }
                groups.iter_mut().for_each(|scale| *scale = 1 + *scale % 63);
            }
            Codec::W4 => w4_padding(shape, codes, groups),
        }
        rows.fill(0);
        rows[..BLOCK_ROWS * 4].as_chunks_mut().0.fill(scale.to_le_bytes());
    }
    bytes
}

/// Makes random bytes a block of w4: padding, and no shift of -128.
fn w4_padding(shape: Shape, codes: &mut [u8], groups: &mut [u8]) {
    for (step, line) in codes.chunks_exact_mut(BLOCK_ROWS * 4).enumerate() {
        for (at, byte) in line.iter_mut().enumerate() {
            let column = step * 8 + at % 4;
            if column >= shape.columns {
                *byte = *byte & 0xf0 | 8;
            }
            if column + 4 >= shape.columns {
                *byte = *byte & 0x0f | 0x80;
            }
        }
    }
    for (span, parts) in groups.chunks_exact_mut(4 * BLOCK_ROWS).enumerate() {
        let (scales, shifts) = parts.split_at_mut(2 * BLOCK_ROWS);
        for (at, (scale, shift)) in scales.iter_mut().zip(shifts).enumerate() {
            if span * 2 + at % 2 >= shape.groups() {
                (*scale, *shift) = (1, 0);
            } else if *shift == 128 {
                *shift = 0;
            }
        }
    }
}

/// Returns about the root mean square of the integer weights of a matrix whose packed bytes are
/// pseudo-random: a row scale divides by it, so that weights have a size near one.
#[must_use]
pub const fn seeded_weight_size(codec: Codec) -> f32 {
    match codec {
        Codec::W8 => 3500.0,
        Codec::W4 => 20_000.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::Blob;
    use crate::matrix::Packed;

    #[test]
    fn seeded_matrices_are_in_packed_form() {
        for (rows, columns) in [(16, 64), (48, 130), (32, 1), (16, 576)] {
            for codec in Codec::ALL {
                let shape = codec.shape(rows, columns);
                let blob = Blob::new(seeded_bytes(7, shape));
                let slice = blob.slice(0, shape.packed_bytes()).unwrap();
                Packed::new(shape, slice).unwrap();
            }
        }
    }
}
