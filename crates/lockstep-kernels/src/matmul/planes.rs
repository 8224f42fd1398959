//! Activations.

use super::GROUP;

/// Rows of i16 codes as two i8 planes.
#[derive(Clone, Debug, Default)]
pub struct Planes {
    rows: usize,
    groups: usize,
    planes: Vec<i8>,
    offsets: Vec<i32>,
    pub(super) codes: Vec<i16>,
}

impl Planes {
    /// Splits.
    pub fn new(codes: &[i16], rows: usize, cols: usize) -> Self {
        let groups = cols.div_ceil(GROUP);
        let mut planes = vec![0i8; rows * groups * GROUP * 2];
        let mut offsets = vec![0i32; rows * groups * 2];
        let mut padded = vec![0i16; rows * groups * GROUP];
        for r in 0..rows {
            for c in 0..cols {
                let x = i32::from(codes[r * cols + c]);
                padded[r * groups * GROUP + c] = x as i16;
                let hi = (x * 257 + 32768) >> 16;
                let lo = x - 255 * hi;
                let (g, i) = (c / GROUP, c % GROUP);
                let at = (r * groups + g) * 2;
                planes[at * GROUP + i] = hi as i8;
                planes[(at + 1) * GROUP + i] = lo as i8;
                offsets[at] -= 128 * hi;
                offsets[at + 1] -= 128 * lo;
            }
        }
        Self { rows, groups, planes, offsets, codes: padded }
    }
    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Groups.
    pub fn groups(&self) -> usize {
        self.groups
    }
    pub(super) fn planes_at(&self, row: usize, group: usize) -> *const i8 {
        self.planes[(row * self.groups + group) * 2 * GROUP..].as_ptr()
    }
    pub(super) fn offsets_at(&self, row: usize, group: usize) -> *const i32 {
        self.offsets[(row * self.groups + group) * 2..].as_ptr()
    }
}
