//! Weight matrices: integer codes with an integer scale per group of 64 columns and one f32 scale
//! per row, `w[n][k] = row_scale[n] · (group_scale[n][k/64] · code[n][k])`.
//!
//! The packed form is the stored, mapped and computed form. Rows come in blocks of 16; a block is
//! one byte range: codes `[K/4][16 rows][4 columns]` as `code + 128`, group scales `[K/64][16]`,
//! row scales `[16]` f32 little-endian, zero padding to 64 bytes. Columns are padded to a multiple
//! of 64 and rows to a multiple of 16 with code 0, group scale 1 and row scale 1.

use core::fmt;

use crate::blob::Slice;

/// Rows in a block.
pub const BLOCK_ROWS: usize = 16;
/// Columns that share a group scale.
pub const GROUP: usize = 64;
/// The largest code.
pub const CODE_MAX: i32 = 127;
/// The largest group scale.
pub const GROUP_SCALE_MAX: i32 = 63;
/// The largest integer weight, `CODE_MAX · GROUP_SCALE_MAX`.
pub const WEIGHT_MAX: i64 = 8001;
/// The largest code of a matrix-product input.
pub const INPUT_MAX: i32 = 32512;
/// The most columns a matrix may have: one plane's sum of raw codes stays inside i32.
pub const COLUMNS_MAX: usize = 131_072;
/// The most rows a matrix may have.
pub const ROWS_MAX: usize = 1 << 22;

/// The size of a matrix, and where things are in its packed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Outputs, `N`.
    pub rows: usize,
    /// Inputs, `K`.
    pub columns: usize,
}

impl Shape {
    /// Columns after padding.
    #[must_use]
    pub const fn padded_columns(&self) -> usize {
        self.columns.next_multiple_of(GROUP)
    }

    /// Groups in a row.
    #[must_use]
    pub const fn groups(&self) -> usize {
        self.columns.div_ceil(GROUP)
    }

    /// Blocks of 16 rows.
    #[must_use]
    pub const fn blocks(&self) -> usize {
        self.rows.div_ceil(BLOCK_ROWS)
    }

    /// Offset of the group scales in a block.
    #[must_use]
    pub const fn group_scales_offset(&self) -> usize {
        self.padded_columns() * BLOCK_ROWS
    }

    /// Offset of the row scales in a block.
    #[must_use]
    pub const fn row_scales_offset(&self) -> usize {
        self.group_scales_offset() + self.groups() * BLOCK_ROWS
    }

    /// Bytes from one block to the next.
    #[must_use]
    pub const fn block_bytes(&self) -> usize {
        (self.row_scales_offset() + BLOCK_ROWS * 4).next_multiple_of(64)
    }

    /// Bytes of the whole packed matrix.
    #[must_use]
    pub const fn packed_bytes(&self) -> usize {
        self.blocks() * self.block_bytes()
    }

    /// The largest magnitude an exact sum of this matrix can have: `max|W| · 32512 · K`.
    #[must_use]
    pub const fn sum_bound(&self) -> i64 {
        WEIGHT_MAX * INPUT_MAX as i64 * self.columns as i64
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.columns)
    }
}

/// Why a packed matrix was refused.
#[derive(Clone, Debug, PartialEq)]
pub enum MatrixError {
    /// A stored code of 0, which would be -128.
    Code {
        /// The row.
        row: usize,
        /// The column.
        column: usize,
    },
    /// A group scale outside 1..=63.
    GroupScale {
        /// The row.
        row: usize,
        /// The group.
        group: usize,
        /// What was found.
        got: u8,
    },
    /// The wrong number of bytes.
    Length {
        /// The matrix' size.
        shape: Shape,
        /// Bytes expected.
        expected: usize,
        /// Bytes found.
        got: usize,
    },
    /// Padding that is not code 0, group scale 1, row scale 1, zero bytes.
    Padding {
        /// The block of 16 rows.
        block: usize,
    },
    /// A row scale outside [2^-60, 2^40] in magnitude.
    RowScale {
        /// The row.
        row: usize,
        /// What was found.
        got: f32,
    },
    /// No rows, no columns, or too many.
    Shape(Shape),
}

impl fmt::Display for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code { row, column } => {
                write!(f, "code -128 at row {row}, column {column} (codes are -127..=127)")
            }
            Self::GroupScale { row, group, got } => {
                write!(f, "group scale {got} at row {row}, group {group} (expected 1..=63)")
            }
            Self::Length { shape, expected, got } => {
                write!(f, "a {shape} matrix takes {expected} bytes, got {got}")
            }
            Self::Padding { block } => write!(f, "padding of row block {block} is not canonical"),
            Self::RowScale { row, got } => {
                write!(f, "row scale {got} of row {row} is outside [2^-60, 2^40]")
            }
            Self::Shape(shape) => write!(
                f,
                "matrix size {shape} is outside 1..={ROWS_MAX} rows, 1..={COLUMNS_MAX} columns"
            ),
        }
    }
}

impl core::error::Error for MatrixError {}

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
        let Shape { rows, columns } = shape;
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
        let shape = self.shape;
        let bytes = self.block(block);
        let (codes, rest) = bytes.split_at(shape.group_scales_offset());
        if let Some(at) = codes.iter().position(|&code| code == 0) {
            let row = block * BLOCK_ROWS + at % 64 / 4;
            return Err(MatrixError::Code { row, column: at / 64 * 4 + at % 4 });
        }
        let group_scales = &rest[..shape.groups() * BLOCK_ROWS];
        let bad = |&scale: &u8| !(1..=63).contains(&scale);
        if let Some(at) = group_scales.iter().position(bad) {
            let row = block * BLOCK_ROWS + at % BLOCK_ROWS;
            let got = group_scales[at];
            return Err(MatrixError::GroupScale { row, group: at / BLOCK_ROWS, got });
        }
        for lane in 0..BLOCK_ROWS {
            let row = block * BLOCK_ROWS + lane;
            let got = self.row_scale(row);
            // 2^-60 and 2^40.
            let in_range = (f32::from_bits(67 << 23)..=f32::from_bits(167 << 23))
                .contains(&f32::from_bits(got.to_bits() & 0x7fff_ffff));
            if !in_range {
                return Err(MatrixError::RowScale { row, got });
            }
            if row >= shape.rows && !self.row_is_padding(row) {
                return Err(MatrixError::Padding { block });
            }
        }
        let tail_is_zero =
            bytes[shape.row_scales_offset() + BLOCK_ROWS * 4..].iter().all(|&b| b == 0);
        if tail_is_zero && self.columns_are_padded(block) {
            Ok(())
        } else {
            Err(MatrixError::Padding { block })
        }
    }

    fn row_is_padding(&self, row: usize) -> bool {
        self.row_scale(row) == 1.0
            && (0..self.shape.columns).all(|k| self.code(row, k) == 0)
            && (0..self.shape.groups()).all(|g| self.group_scale(row, g) == 1)
    }

    fn columns_are_padded(&self, block: usize) -> bool {
        let rows = block * BLOCK_ROWS..(block + 1) * BLOCK_ROWS;
        let mut padding = self.shape.columns..self.shape.padded_columns();
        padding.all(|k| rows.clone().all(|row| self.code(row, k) == 0))
    }

    /// The size, without padding.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// All packed bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The packed bytes of one block of 16 rows.
    #[must_use]
    pub fn block(&self, block: usize) -> &[u8] {
        let stride = self.shape.block_bytes();
        &self.bytes()[block * stride..(block + 1) * stride]
    }

    /// The code of a row and column, in -127..=127. Padding counts as columns and rows.
    #[must_use]
    pub fn code(&self, row: usize, column: usize) -> i32 {
        let at = column / 4 * 64 + row % BLOCK_ROWS * 4 + column % 4;
        i32::from(self.block(row / BLOCK_ROWS)[at]) - 128
    }

    /// The integer scale of a group of 64 columns, in 1..=63.
    #[must_use]
    pub fn group_scale(&self, row: usize, group: usize) -> i32 {
        let at = self.shape.group_scales_offset() + group * BLOCK_ROWS + row % BLOCK_ROWS;
        i32::from(self.block(row / BLOCK_ROWS)[at])
    }

    /// The integer weight: group scale times code.
    #[must_use]
    pub fn weight(&self, row: usize, column: usize) -> i32 {
        self.group_scale(row, column / GROUP) * self.code(row, column)
    }

    /// The f32 scale of a row.
    #[must_use]
    pub fn row_scale(&self, row: usize) -> f32 {
        let at = self.shape.row_scales_offset() + row % BLOCK_ROWS * 4;
        let block = self.block(row / BLOCK_ROWS);
        f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
    }

    /// The f32 scales of all rows, without padding.
    #[must_use]
    pub fn row_scales(&self) -> Vec<f32> {
        (0..self.shape.rows).map(|row| self.row_scale(row)).collect()
    }
}

/// One quantised row, before packing.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantisedRow {
    /// Codes in -127..=127, one per column.
    pub codes: Vec<i8>,
    /// Group scales in 1..=63, one per group of 64 columns.
    pub group_scales: Vec<u8>,
    /// The row's f32 scale.
    pub scale: f32,
}

/// Packs quantised rows, in order, into the stored form.
///
/// # Panics
/// When a row's lengths do not fit `shape`; the caller made both.
#[must_use]
pub fn pack(shape: Shape, rows: impl IntoIterator<Item = QuantisedRow>) -> Vec<u8> {
    let stride = shape.block_bytes();
    let mut out = vec![0; shape.packed_bytes()];
    for block in out.chunks_exact_mut(stride) {
        block[..shape.group_scales_offset()].fill(128);
        block[shape.group_scales_offset()..shape.row_scales_offset()].fill(1);
        for lane in 0..BLOCK_ROWS {
            let at = shape.row_scales_offset() + lane * 4;
            block[at..at + 4].copy_from_slice(&1.0_f32.to_le_bytes());
        }
    }
    let mut count = 0;
    for (index, row) in rows.into_iter().enumerate() {
        assert!(index < shape.rows, "more rows than the shape says");
        assert_eq!(row.codes.len(), shape.columns, "columns of row {index}");
        assert_eq!(row.group_scales.len(), shape.groups(), "groups of row {index}");
        let lane = index % BLOCK_ROWS;
        let block = &mut out[index / BLOCK_ROWS * stride..][..stride];
        for (column, &code) in row.codes.iter().enumerate() {
            block[column / 4 * 64 + lane * 4 + column % 4] = (i32::from(code) + 128) as u8;
        }
        for (group, &scale) in row.group_scales.iter().enumerate() {
            block[shape.group_scales_offset() + group * BLOCK_ROWS + lane] = scale;
        }
        let at = shape.row_scales_offset() + lane * 4;
        block[at..at + 4].copy_from_slice(&row.scale.to_le_bytes());
        count += 1;
    }
    assert_eq!(count, shape.rows, "fewer rows than the shape says");
    out
}
