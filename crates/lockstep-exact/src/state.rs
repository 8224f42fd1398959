//! The state that crosses a layer boundary: block-i16, hashed and sent as it is.
//!
//! Per group of 32 elements, i16 mantissas and one exponent byte: `x = m · 2^e`, byte `e + 128`. A
//! row on the wire is all mantissas little-endian, then the exponent bytes. A row is canonical if
//! every group is all zeros with byte 0, or has max|m| in 16384..=32767 with e in -54..=40; or if
//! it is the overflow marker: all mantissas 0, all exponent bytes 255.

use core::fmt;

use crate::num;

/// Elements that share an exponent.
pub const GROUP: usize = 32;
/// The smallest mantissa exponent of a group.
pub const EXPONENT_MIN: i32 = -54;
/// The largest mantissa exponent of a group.
pub const EXPONENT_MAX: i32 = 40;
/// The exponent byte of a row that overflowed.
pub const OVERFLOW: u8 = 255;
const BIAS: i32 = 128;

/// Returns the number of bytes of a row of `width` elements.
#[must_use]
pub const fn row_bytes(width: usize) -> usize {
    width * 2 + width.div_ceil(GROUP)
}

/// Why a row of bytes is not a canonical state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateError {
    /// A group whose mantissas and exponent are not the canonical form of any numbers.
    Group {
        /// The index of the row in the input.
        row: usize,
        /// The index of the group of 32 elements.
        group: usize,
    },
    /// The bytes are not a whole number of rows.
    Length {
        /// The number of bytes of a row.
        row_bytes: usize,
        /// The number of bytes found.
        got: usize,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group { row, group } => {
                write!(f, "state row {row}: group {group} is not canonical block-i16")
            }
            Self::Length { row_bytes, got } => {
                write!(f, "{got} bytes are not whole state rows of {row_bytes} bytes")
            }
        }
    }
}

impl core::error::Error for StateError {}

/// Rows of block-i16 numbers: what crosses a layer boundary, one row for each position.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct State {
    width: usize,
    mantissas: Vec<i16>,
    exponents: Vec<u8>,
}

impl State {
    /// Creates `rows` rows of zeros, with `width` elements each.
    #[must_use]
    pub fn zeros(rows: usize, width: usize) -> Self {
        let groups = width.div_ceil(GROUP);
        Self { width, mantissas: vec![0; rows * width], exponents: vec![0; rows * groups] }
    }

    /// Makes this `rows` rows of `width` elements with unspecified contents, reusing memory.
    pub fn reshape(&mut self, rows: usize, width: usize) {
        self.width = width;
        self.mantissas.resize(rows * width, 0);
        self.exponents.resize(rows * width.div_ceil(GROUP), 0);
    }

    /// Returns the number of elements of a row.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Returns the number of groups of a row.
    #[must_use]
    pub const fn groups(&self) -> usize {
        self.width.div_ceil(GROUP)
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        // default: states without elements have no rows
        self.mantissas.len().checked_div(self.width).unwrap_or(0)
    }

    /// Returns the mantissas of a row.
    #[must_use]
    pub fn mantissas(&self, row: usize) -> &[i16] {
        &self.mantissas[row * self.width..(row + 1) * self.width]
    }

    /// Returns the exponent bytes of a row, one for each group.
    #[must_use]
    pub fn exponents(&self, row: usize) -> &[u8] {
        &self.exponents[row * self.groups()..(row + 1) * self.groups()]
    }

    /// Returns the mantissas and the exponent bytes of a row, to be written.
    pub fn row_mut(&mut self, row: usize) -> (&mut [i16], &mut [u8]) {
        let groups = self.groups();
        (
            &mut self.mantissas[row * self.width..(row + 1) * self.width],
            &mut self.exponents[row * groups..(row + 1) * groups],
        )
    }

    /// Returns all mantissas and exponent bytes, row after row, to be written by a backend.
    pub fn parts_mut(&mut self) -> (&mut [i16], &mut [u8]) {
        (&mut self.mantissas, &mut self.exponents)
    }

    /// Returns whether a row is the overflow marker.
    #[must_use]
    pub fn overflowed(&self, row: usize) -> bool {
        self.exponents(row).first() == Some(&OVERFLOW)
    }

    /// Makes a row the overflow marker.
    pub fn mark_overflow(&mut self, row: usize) {
        let (mantissas, exponents) = self.row_mut(row);
        mantissas.fill(0);
        exponents.fill(OVERFLOW);
    }

    /// Appends a row's canonical bytes.
    pub fn write_row(&self, row: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(row_bytes(self.width));
        // All at once: pushed one by one, they take as long as their hash.
        out.resize(start + 2 * self.width, 0);
        let bytes = out[start..].as_chunks_mut().0.iter_mut();
        bytes.zip(self.mantissas(row)).for_each(|(to, mantissa)| *to = mantissa.to_le_bytes());
        out.extend_from_slice(self.exponents(row));
    }

    /// Returns the canonical bytes of all rows, one row after the other.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.rows() * row_bytes(self.width));
        for row in 0..self.rows() {
            self.write_row(row, &mut out);
        }
        out
    }

    /// Reads whole rows and refuses anything that is not canonical.
    ///
    /// # Errors
    /// [`StateError`] names the row and group.
    pub fn parse(width: usize, bytes: &[u8]) -> Result<Self, StateError> {
        let len = row_bytes(width);
        if len == 0 || !bytes.len().is_multiple_of(len) {
            return Err(StateError::Length { row_bytes: len, got: bytes.len() });
        }
        let mut state = Self::zeros(bytes.len() / len, width);
        for (row, bytes) in bytes.chunks_exact(len).enumerate() {
            let (mantissa_bytes, exponent_bytes) = bytes.split_at(width * 2);
            let (mantissas, exponents) = state.row_mut(row);
            for (mantissa, pair) in mantissas.iter_mut().zip(mantissa_bytes.chunks_exact(2)) {
                *mantissa = i16::from_le_bytes([pair[0], pair[1]]);
            }
            exponents.copy_from_slice(exponent_bytes);
            if let Some(group) = first_bad_group(mantissas, exponents) {
                return Err(StateError::Group { row, group });
            }
        }
        Ok(state)
    }

    /// Returns the rows at `indexes`, in that order.
    #[must_use]
    pub fn select(&self, indexes: &[usize]) -> Self {
        let mut out = Self::zeros(indexes.len(), self.width);
        for (to, &from) in indexes.iter().enumerate() {
            let (mantissas, exponents) = out.row_mut(to);
            mantissas.copy_from_slice(self.mantissas(from));
            exponents.copy_from_slice(self.exponents(from));
        }
        out
    }

    /// Appends all rows of `other`, which has the same width.
    pub fn append(&mut self, other: &Self) {
        if self.width == 0 {
            self.width = other.width;
        }
        debug_assert_eq!(self.width, other.width, "states of one model");
        self.mantissas.extend_from_slice(&other.mantissas);
        self.exponents.extend_from_slice(&other.exponents);
    }

    /// Returns the value of an element. The overflow marker reads as zero.
    #[must_use]
    pub fn value(&self, row: usize, element: usize) -> f32 {
        let exponent = exponent(self.exponents(row)[element / GROUP]);
        f32::from(self.mantissas(row)[element]) * num::pow2(exponent)
    }
}

/// Returns the mantissa exponent of an exponent byte; 0 for zero groups and the overflow marker.
#[must_use]
pub const fn exponent(byte: u8) -> i32 {
    match byte {
        0 | OVERFLOW => 0,
        byte => byte as i32 - BIAS,
    }
}

fn first_bad_group(mantissas: &[i16], exponents: &[u8]) -> Option<usize> {
    if exponents.iter().all(|&byte| byte == OVERFLOW) {
        return mantissas.iter().position(|&m| m != 0).map(|at| at / GROUP);
    }
    mantissas.chunks(GROUP).zip(exponents).position(|(group, &byte)| !is_canonical(group, byte))
}

fn is_canonical(group: &[i16], byte: u8) -> bool {
    let peak = group.iter().map(|m| m.unsigned_abs()).fold(0, u16::max);
    let exponent = i32::from(byte) - BIAS;
    if byte == 0 {
        peak == 0
    } else {
        (16_384..=32_767).contains(&peak) && (EXPONENT_MIN..=EXPONENT_MAX).contains(&exponent)
    }
}

/// Encodes one group of at most 32 numbers; `Err` is overflow (including infinity and NaN), in
/// which case `mantissas` holds zeros.
///
/// # Errors
/// [`num::Overflow`] when the largest magnitude rounds to 2^55 or more.
pub fn encode_group(values: &[f32], mantissas: &mut [i16]) -> Result<u8, num::Overflow> {
    mantissas.fill(0);
    match num::block_exponent(num::amax_bits(values))? {
        None => Ok(0),
        Some(exponent) => {
            let scale = num::pow2(-exponent);
            for (mantissa, &value) in mantissas.iter_mut().zip(values) {
                *mantissa = num::rne(value * scale) as i16;
            }
            Ok((exponent + BIAS) as u8)
        }
    }
}
