//! Exact sums in an opening: fixed width per product, little-endian two's complement.
//!
//! The width is the smallest that holds a product's largest possible sum, so a product's bytes
//! follow from its size alone. Sums outside `±Shape::sum_bound()` are refused: that is what makes
//! a check modulo p a check over the integers.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use lockstep_exact::matrix::Shape;

/// Bytes of one sum of a product.
#[must_use]
pub const fn width(shape: Shape) -> usize {
    let bound = shape.sum_bound();
    let mut bytes: usize = 1;
    while bytes < 8 && bound >> (bytes.saturating_mul(8).saturating_sub(1)) != 0 {
        bytes = bytes.saturating_add(1);
    }
    bytes
}

/// Appends sums.
pub fn encode(shape: Shape, sums: &[i64], out: &mut Vec<u8>) {
    let width = width(shape);
    for sum in sums {
        out.extend(sum.to_le_bytes().iter().take(width));
    }
}

/// Bytes that are not the sums of so many rows of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SumsError {
    /// Not the number of bytes that the rows take.
    Length {
        /// Bytes expected.
        expected: usize,
        /// Bytes found.
        got: usize,
    },
    /// A sum that no input gives.
    Range {
        /// The row in the opening.
        row: usize,
    },
}

impl core::fmt::Display for SumsError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Length { expected, got } => write!(f, "expected {expected} bytes, got {got}"),
            Self::Range { row } => write!(f, "row {row} holds a sum that no input gives"),
        }
    }
}

impl core::error::Error for SumsError {}

/// Reads the sums of `rows` rows.
///
/// # Errors
/// [`SumsError`].
pub fn decode(shape: Shape, rows: usize, bytes: &[u8]) -> Result<Vec<i64>, SumsError> {
    let width = width(shape);
    let expected = rows.saturating_mul(shape.rows).saturating_mul(width);
    if bytes.len() != expected {
        return Err(SumsError::Length { expected, got: bytes.len() });
    }
    let sums = match width {
        4 => extend_all::<4>(bytes),
        5 => extend_all::<5>(bytes),
        6 => extend_all::<6>(bytes),
        _ => bytes.chunks_exact(width).map(extend).collect(),
    };
    let bound = shape.sum_bound().unsigned_abs();
    // All are looked at first, because that is fast; where the wrong one is matters later.
    let wrong = sums.iter().fold(false, |wrong, sum| wrong | (sum.unsigned_abs() > bound));
    let at = if wrong { sums.iter().position(|sum| sum.unsigned_abs() > bound) } else { None };
    match at {
        Some(at) => Err(SumsError::Range { row: at.checked_div(shape.rows).unwrap_or(0) }),
        None => Ok(sums),
    }
}

/// Every `WIDTH` bytes: a constant, so that each number is read at once.
fn extend_all<const WIDTH: usize>(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks::<WIDTH>().0.iter().map(|bytes| extend(bytes)).collect()
}

/// Sign-extends up to 8 little-endian bytes.
#[inline]
fn extend(bytes: &[u8]) -> i64 {
    let mut all = [0; 8];
    let unused = 8_usize.saturating_sub(bytes.len());
    for (to, &from) in all.iter_mut().skip(unused).zip(bytes) {
        *to = from;
    }
    i64::from_le_bytes(all) >> unused.saturating_mul(8)
}

#[cfg(test)]
mod tests {
    use lockstep_exact::matrix::Codec;

    use super::*;

    #[test]
    fn sums_read_back_in_the_smallest_width_and_larger_ones_are_refused() {
        let w8 = [(1, 4), (64, 5), (576, 5), (2113, 5), (2114, 6), (131_072, 6)];
        let w4 = [(1, 4), (64, 5), (260, 5), (261, 6), (66_571, 6), (131_072, 7)];
        let shapes = |codec: Codec, widths: [(usize, usize); 6]| {
            widths.map(|(columns, bytes)| (codec.shape(4, columns), bytes))
        };
        for (shape, bytes) in shapes(Codec::W8, w8).into_iter().chain(shapes(Codec::W4, w4)) {
            assert_eq!(width(shape), bytes, "{shape}");
            let bound = shape.sum_bound();
            let sums = [bound, -bound, 0, -1];
            let mut out = Vec::new();
            encode(shape, &sums, &mut out);
            assert_eq!(out.len(), 4 * bytes);
            assert_eq!(decode(shape, 1, &out), Ok(sums.to_vec()));
            assert!(decode(shape, 2, &out).is_err());
            let mut out = Vec::new();
            encode(shape, &[0, 0, bound + 1, 0], &mut out);
            assert_eq!(decode(shape, 1, &out), Err(SumsError::Range { row: 0 }));
        }
    }

    #[test]
    fn no_sum_of_a_model_comes_near_the_fields_modulus() {
        for codec in Codec::ALL {
            let shape = codec.shape(1, lockstep_exact::matrix::COLUMNS_MAX);
            assert!(2 * shape.sum_bound().unsigned_abs() < lockstep_exact::field::P);
        }
    }
}
