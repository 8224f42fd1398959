//! Random weights and inputs, made fast.

use std::ops::Range;

use lockstep_exact::blob::Blob;
use lockstep_exact::matrix::{BLOCK_ROWS, Packed, Shape};

/// A pseudo-random sequence (xorshift).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Bytes that start at a multiple of 64, as those of a mapped file do.
pub(crate) struct Aligned {
    memory: Vec<u8>,
    range: Range<usize>,
}

impl Aligned {
    fn zeros(len: usize) -> Self {
        let memory = vec![0; len + 64];
        let start = memory.as_ptr().align_offset(64);
        Self { memory, range: start..start + len }
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.range.clone()]
    }
}

/// Packed bytes of `copies` random matrices, one after the other.
pub(crate) fn packed_bytes(random: &mut Random, shape: Shape, copies: usize) -> Aligned {
    let mut aligned = Aligned::zeros(shape.packed_bytes() * copies);
    let bytes = &mut aligned.memory[aligned.range.clone()];
    for eight in bytes.chunks_exact_mut(8) {
        for (byte, random) in eight.iter_mut().zip(random.next().to_le_bytes()) {
            *byte = random.max(1);
        }
    }
    let scale = 1.0 / ((shape.columns as f32).sqrt() * 3500.0);
    for block in bytes.chunks_exact_mut(shape.block_bytes()) {
        let (codes, rest) = block.split_at_mut(shape.group_scales_offset());
        for (step, line) in codes.chunks_exact_mut(BLOCK_ROWS * 4).enumerate() {
            for lane in line.chunks_exact_mut(4) {
                lane[shape.columns.saturating_sub(step * 4).min(4)..].fill(128);
            }
        }
        let (groups, rows) = rest.split_at_mut(shape.groups() * BLOCK_ROWS);
        groups.iter_mut().for_each(|scale| *scale = 1 + *scale % 63);
        rows.fill(0);
        for row in rows[..BLOCK_ROWS * 4].chunks_exact_mut(4) {
            row.copy_from_slice(&scale.to_le_bytes());
        }
    }
    aligned
}

/// `copies` random matrices in one range of memory. Rows are whole blocks.
pub(crate) fn matrices(random: &mut Random, shape: Shape, copies: usize) -> Vec<Packed> {
    let blob = Blob::new(packed_bytes(random, shape, copies));
    let one = shape.packed_bytes();
    (0..copies)
        .filter_map(|copy| blob.slice(copy * one, one))
        .filter_map(|slice| Packed::new(shape, slice).ok())
        .collect()
}

/// One random matrix.
pub(crate) fn matrix(random: &mut Random, rows: usize, columns: usize) -> Packed {
    let shape = Shape { rows, columns };
    matrices(random, shape, 1).pop().unwrap_or_else(|| panic!("a random {shape} matrix"))
}
