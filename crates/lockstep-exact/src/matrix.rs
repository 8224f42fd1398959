//! Weight matrices: integer codes with integer scales per group of columns and one f32 scale per
//! row, `w[n][k] = row_scale[n] · W[n][k]` with an integer `W` that the matrix' [`Codec`] stores:
//!
//! - **w8**: `W = group_scale · code`, codes in ±127, a scale in 1..=63 per 64 columns;
//! - **w4**: `W = group_scale · (16 · code + shift)`, codes in -8..=7, a scale in 1..=255 and a
//!   shift in ±127 per 32 columns: it says, in sixteenths of a step, where code 0 lies.
//!
//! The packed form is the stored, mapped and computed form. Rows come in blocks of 16; a block is
//! one byte range: codes, group scales (with shifts), row scales `[16]` f32 little-endian, zero
//! padding to 64 bytes. Codes of w8 are `[K/4][16 rows][4 columns]` as `code + 128`; of w4
//! `[K/8][16 rows][4 columns]` as `code + 8`, where the low half of a byte belongs to the first
//! four of eight columns and the high half to the last four. Group scales of w8 are `[K/64][16]`;
//! w4 has, per 64 columns, scales `[16][2 groups]` and then shifts `[16][2 groups]`. Columns are
//! padded to a multiple of 64 and rows to a multiple of 16 with code 0, group scale 1, shift 0 and
//! row scale 1.

mod codec;
mod error;
mod pack;
mod seeded;

pub use codec::{Codec, Shape};
pub use error::MatrixError;
pub use pack::{QuantisedRow, pack};
pub use seeded::{seeded_bytes, seeded_weight_size};

use crate::blob::Slice;

/// The number of rows in a block.
pub const BLOCK_ROWS: usize = 16;
/// Columns that share a group scale in w8, and to whose multiple columns are padded.
pub const GROUP: usize = 64;
/// The largest code of w8 in magnitude.
pub const CODE_MAX: i32 = 127;
/// The largest group scale of w8.
pub const GROUP_SCALE_MAX: i32 = 63;
/// The largest magnitude of a w4 shift, in sixteenths of a step.
pub const SHIFT_MAX: i32 = 127;
/// The largest integer weight of w8, `CODE_MAX · GROUP_SCALE_MAX`.
pub const WEIGHT_MAX: i64 = Codec::W8.weight_max();
/// The largest code of a matrix-product input.
pub const INPUT_MAX: i32 = 32512;
/// The most columns a matrix may have: one plane's sum of raw codes stays inside i32.
pub const COLUMNS_MAX: usize = 131_072;
/// The most rows a matrix may have.
pub const ROWS_MAX: usize = 1 << 22;

/// A checked matrix in packed form. Cheap to clone: the bytes are shared.
#[derive(Clone, Debug)]
pub struct Packed {
    shape: Shape,
    bytes: Slice,
}

impl Packed {
    /// Checks `bytes` as the packed form of a matrix of this shape.
    ///
    /// # Errors
    /// [`MatrixError`] for a wrong length or any value outside its range.
    pub fn new(shape: Shape, bytes: Slice) -> Result<Self, MatrixError> {
        let Shape { rows, columns, .. } = shape;
        if !(1..=ROWS_MAX).contains(&rows) || !(1..=COLUMNS_MAX).contains(&columns) {
            return Err(MatrixError::Shape(shape));
        }
        let (expected, got) = (shape.packed_bytes(), bytes.len());
        if expected != got {
            return Err(MatrixError::Length { shape, expected, got });
        }
        let matrix = Self { shape, bytes };
        for block in 0..shape.blocks() {
            matrix.check_block(block)?;
        }
        Ok(matrix)
    }

    fn check_block(&self, block: usize) -> Result<(), MatrixError> {
        let (shape, codec) = (self.shape, self.shape.codec);
        match codec {
            Codec::W8 => self.check_w8(block)?,
            Codec::W4 => self.check_w4(block)?,
        }
        for lane in 0..BLOCK_ROWS {
            let row = block * BLOCK_ROWS + lane;
            let got = self.row_scale(row);
            let magnitude = f32::from_bits(got.to_bits() & 0x7fff_ffff);
            if !(codec.row_scale_min()..=codec.row_scale_max()).contains(&magnitude) {
                return Err(MatrixError::RowScale { codec, row, got });
            }
            if row >= shape.rows && !self.row_is_padding(row) {
                return Err(MatrixError::Padding { block });
            }
        }
        let tail = &self.block(block)[shape.row_scale_at(BLOCK_ROWS)..];
        if tail.iter().all(|&b| b == 0) && self.columns_are_padded(block) {
            Ok(())
        } else {
            Err(MatrixError::Padding { block })
        }
    }

    fn check_w8(&self, block: usize) -> Result<(), MatrixError> {
        let shape = self.shape;
        let (codes, rest) = self.block(block).split_at(shape.group_scales_offset());
        if let Some(at) = codes.iter().position(|&code| code == 0) {
            let row = block * BLOCK_ROWS + at % 64 / 4;
            return Err(MatrixError::Code { row, column: at / 64 * 4 + at % 4 });
        }
        let group_scales = &rest[..shape.groups() * BLOCK_ROWS];
        let bad = |&scale: &u8| !(1..=63).contains(&scale);
        let Some(at) = group_scales.iter().position(bad) else { return Ok(()) };
        let (row, group) = (block * BLOCK_ROWS + at % BLOCK_ROWS, at / BLOCK_ROWS);
        Err(MatrixError::GroupScale { codec: shape.codec, row, group, got: group_scales[at] })
    }

    fn check_w4(&self, block: usize) -> Result<(), MatrixError> {
        let shape = self.shape;
        let parts = &self.block(block)[shape.group_scales_offset()..shape.row_scales_offset()];
        for (span, parts) in parts.chunks_exact(4 * BLOCK_ROWS).enumerate() {
            let (scales, shifts) = parts.split_at(2 * BLOCK_ROWS);
            let place = |at: usize| (block * BLOCK_ROWS + at / 2, span * 2 + at % 2);
            if let Some((row, group)) = scales.iter().position(|&scale| scale == 0).map(place) {
                return Err(MatrixError::GroupScale { codec: shape.codec, row, group, got: 0 });
            }
            if let Some((row, group)) = shifts.iter().position(|&shift| shift == 128).map(place) {
                return Err(MatrixError::Shift { row, group });
            }
        }
        Ok(())
    }

    /// Groups in a row, with those that are all padding.
    const fn padded_groups(&self) -> usize {
        self.shape.padded_columns() / self.shape.codec.group()
    }

    fn row_is_padding(&self, row: usize) -> bool {
        self.row_scale(row) == 1.0
            && (0..self.shape.columns).all(|k| self.code(row, k) == 0)
            && (0..self.padded_groups()).all(|group| self.group_is_padding(row, group))
    }

    fn group_is_padding(&self, row: usize, group: usize) -> bool {
        self.group_scale(row, group) == 1 && self.shift(row, group) == 0
    }

    fn columns_are_padded(&self, block: usize) -> bool {
        let rows = block * BLOCK_ROWS..(block + 1) * BLOCK_ROWS;
        let mut columns = self.shape.columns..self.shape.padded_columns();
        let mut groups = self.shape.groups()..self.padded_groups();
        columns.all(|k| rows.clone().all(|row| self.code(row, k) == 0))
            && groups.all(|group| rows.clone().all(|row| self.group_is_padding(row, group)))
    }

    /// Returns the size and codec of the matrix, without padding.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Returns all packed bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Returns the packed bytes of one block of 16 rows.
    #[must_use]
    pub fn block(&self, block: usize) -> &[u8] {
        let stride = self.shape.block_bytes();
        &self.bytes()[block * stride..(block + 1) * stride]
    }

    /// Returns the byte at offset `at` of the block of a row.
    fn byte(&self, row: usize, at: usize) -> u8 {
        self.block(row / BLOCK_ROWS)[at]
    }

    /// Returns the code of a row and column, in -127..=127 (w8) or -8..=7 (w4). Padding counts as
    /// columns and rows.
    #[must_use]
    pub fn code(&self, row: usize, column: usize) -> i32 {
        let byte = self.byte(row, self.shape.code_at(row % BLOCK_ROWS, column));
        match self.shape.codec {
            Codec::W8 => i32::from(byte) - 128,
            Codec::W4 => i32::from(if column & 4 == 0 { byte & 15 } else { byte >> 4 }) - 8,
        }
    }

    /// Returns the integer scale of a group of columns, in 1..=63 (w8) or 1..=255 (w4).
    #[must_use]
    pub fn group_scale(&self, row: usize, group: usize) -> i32 {
        i32::from(self.byte(row, self.shape.group_scale_at(row % BLOCK_ROWS, group)))
    }

    /// Returns the shift of a group: where its code 0 lies, in sixteenths of a step, in -127..=127;
    /// 0 in w8.
    #[must_use]
    pub fn shift(&self, row: usize, group: usize) -> i32 {
        match self.shape.codec {
            Codec::W8 => 0,
            Codec::W4 => {
                let at = self.shape.shift_at(row % BLOCK_ROWS, group);
                i32::from(self.byte(row, at).cast_signed())
            }
        }
    }

    /// Returns the integer weight of a row and column.
    #[must_use]
    pub fn weight(&self, row: usize, column: usize) -> i32 {
        let group = column / self.shape.codec.group();
        let (scale, code) = (self.group_scale(row, group), self.code(row, column));
        match self.shape.codec {
            Codec::W8 => scale * code,
            Codec::W4 => scale * (16 * code + self.shift(row, group)),
        }
    }

    /// Returns the f32 scale of a row.
    #[must_use]
    pub fn row_scale(&self, row: usize) -> f32 {
        let at = self.shape.row_scale_at(row % BLOCK_ROWS);
        let block = self.block(row / BLOCK_ROWS);
        f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
    }

    /// Returns the f32 scales of all rows, without padding.
    #[must_use]
    pub fn row_scales(&self) -> Vec<f32> {
        (0..self.shape.rows).map(|row| self.row_scale(row)).collect()
    }

    /// Returns a row in the form that [`pack`] takes.
    #[must_use]
    pub fn row(&self, row: usize) -> QuantisedRow {
        let groups = 0..self.shape.groups();
        let shifts = match self.shape.codec {
            Codec::W8 => Vec::new(),
            Codec::W4 => groups.clone().map(|group| self.shift(row, group) as i8).collect(),
        };
        QuantisedRow {
            codes: (0..self.shape.columns).map(|column| self.code(row, column) as i8).collect(),
            group_scales: groups.map(|group| self.group_scale(row, group) as u8).collect(),
            shifts,
            scale: self.row_scale(row),
        }
    }
}
