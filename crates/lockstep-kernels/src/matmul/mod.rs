//! Exact matrix products over the packed layout. (draft)

use std::ops::Range;

use crate::isa::{Isa, Kind};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod planes;
mod portable;

pub use planes::Planes;

/// Weight rows per block.
pub const BLOCK: usize = 16;
/// Weight columns per group scale.
pub const GROUP: usize = 64;
/// Groups whose scaled plane sums fit an i32 together.
const CHUNK: usize = 32;
/// Bytes of activation planes that are kept in the second-level cache.
const CACHED: usize = 512 * 1024;

/// A packed matrix.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    bytes: &'a [u8],
    rows: usize,
    groups: usize,
}

/// A part of one block: 16 rows × some groups.
#[derive(Clone, Copy)]
struct Block<'a> {
    codes: &'a [u8],
    scales: &'a [u8],
}

impl<'a> Packed<'a> {
    /// Bytes of one block of 16 rows × `cols`.
    pub const fn stride(cols: usize) -> usize {
        let groups = cols.div_ceil(GROUP);
        (groups * (GROUP + 1) * BLOCK + 64).next_multiple_of(64)
    }

    /// View of `bytes`.
    pub fn new(bytes: &'a [u8], rows: usize, cols: usize) -> Option<Self> {
        let groups = cols.div_ceil(GROUP);
        (bytes.len() == rows.div_ceil(BLOCK) * Self::stride(cols)).then_some(Self { bytes, rows, groups })
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.rows.div_ceil(BLOCK)
    }

    fn part(&self, block: usize, groups: &Range<usize>) -> Block<'a> {
        let stride = Self::stride(self.groups * GROUP);
        let (codes, rest) = self.bytes[block * stride..][..stride].split_at(self.groups * GROUP * BLOCK);
        let codes = &codes[groups.start * GROUP * BLOCK..groups.end * GROUP * BLOCK];
        let scales = &rest[groups.start * BLOCK..groups.end * BLOCK];
        Block { codes, scales }
    }
}

/// Some rows and groups of the activations.
#[derive(Clone, Copy)]
struct Panel<'a> {
    planes: &'a Planes,
    row: usize,
    first: usize,
    groups: usize,
}

/// Sums for `blocks` of `w`: [block][row of x][16].
pub fn sums(isa: Isa, w: Packed<'_>, blocks: Range<usize>, x: &Planes, out: &mut [[i64; BLOCK]]) {
    assert_eq!(out.len(), blocks.len() * x.rows());
    assert_eq!(w.groups, x.groups());
    assert!(blocks.end <= w.blocks());
    out.fill([0; BLOCK]);
    match isa.0 {
        Kind::Portable => portable::sums(w, blocks, x, out),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => avx2::sums(w, blocks, x, out),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => avx512::sums(w, blocks, x, out),
    }
}
