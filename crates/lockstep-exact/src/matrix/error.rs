//! Why a packed matrix is refused.

use core::fmt;

use super::{COLUMNS_MAX, Codec, ROWS_MAX, Shape};

/// Why a packed matrix was refused.
#[derive(Clone, Debug, PartialEq)]
pub enum MatrixError {
    /// A stored code of 0 in w8, which would be -128.
    Code {
        /// The row.
        row: usize,
        /// The column.
        column: usize,
    },
    /// A group scale outside 1..=63 (w8) or 1..=255 (w4).
    GroupScale {
        /// The matrix' codec.
        codec: Codec,
        /// The row.
        row: usize,
        /// The group.
        group: usize,
        /// What was found.
        got: u8,
    },
    /// The matrix has another number of bytes than its shape demands.
    Length {
        /// The matrix' size.
        shape: Shape,
        /// Bytes expected.
        expected: usize,
        /// Bytes found.
        got: usize,
    },
    /// Padding that is not code 0, group scale 1, shift 0, row scale 1, zero bytes.
    Padding {
        /// The block of 16 rows.
        block: usize,
    },
    /// A row scale outside [2^-60, 2^40] (w8) or [2^-60, 2^36] (w4) in magnitude.
    RowScale {
        /// The matrix' codec.
        codec: Codec,
        /// The row.
        row: usize,
        /// What was found.
        got: f32,
    },
    /// No rows, no columns, or too many.
    Shape(Shape),
    /// A shift is -128, which no quantisation gives.
    Shift {
        /// The row.
        row: usize,
        /// The group.
        group: usize,
    },
}

impl fmt::Display for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code { row, column } => {
                write!(f, "code -128 at row {row}, column {column} (codes are -127..=127)")
            }
            Self::GroupScale { codec, row, group, got } => {
                let most = codec.group_scale_max();
                write!(f, "group scale {got} at row {row}, group {group} (expected 1..={most})")
            }
            Self::Length { shape, expected, got } => {
                write!(f, "a {shape} matrix takes {expected} bytes, got {got}")
            }
            Self::Padding { block } => write!(f, "padding of row block {block} is not canonical"),
            Self::RowScale { codec, row, got } => {
                let most = match codec {
                    Codec::W8 => 40,
                    Codec::W4 => 36,
                };
                write!(f, "row scale {got} of row {row} is outside [2^-60, 2^{most}]")
            }
            Self::Shape(shape) => write!(
                f,
                "matrix size {shape} is outside 1..={ROWS_MAX} rows, 1..={COLUMNS_MAX} columns"
            ),
            Self::Shift { row, group } => {
                write!(f, "shift -128 at row {row}, group {group} (shifts are -127..=127)")
            }
        }
    }
}

impl core::error::Error for MatrixError {}
