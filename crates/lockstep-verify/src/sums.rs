//! Exact sums in an opening, packed: blocks of 64, each in as few bits as its largest sum needs.
//!
//! A row's sums are cut into blocks of [`BLOCK`], the last one of what is left. A block is a byte,
//! the width in bits, and its sums in two's complement of that width, one after the other from the
//! lowest bit of the first byte on, with zeros up to a whole byte. The width is the smallest that
//! holds every sum of the block, so sums have one encoding. Sums outside `±Shape::sum_bound()` are
//! refused: that is what makes a check modulo p a check over the integers.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use lockstep_exact::invariant;
use lockstep_exact::invariant::Broken;
use lockstep_exact::matrix::Shape;

/// The number of sums in a block.
pub const BLOCK: usize = 64;
/// Bits of a number that is read with one load at any place in a byte.
const WIDEST: usize = 57;
/// Bytes of the largest block, and of one load behind it.
const ROOM: usize = BLOCK * 8 + 8;

/// Returns the most bits that a sum of a product of this shape takes: 0 if every sum is zero.
#[must_use]
pub const fn widest(shape: Shape) -> usize {
    bits(shape.sum_bound()) as usize
}

/// Returns the most bytes that the packed sums of one row of a product take, widths of blocks
/// included.
#[must_use]
pub const fn most_bytes(shape: Shape) -> usize {
    let packed = shape.rows.saturating_mul(widest(shape)).div_ceil(8);
    // Each block has its width, and its last byte need not be full.
    packed.saturating_add(shape.rows.div_ceil(BLOCK).saturating_mul(2))
}

/// Bits of a number in two's complement.
const fn bits(number: i64) -> u32 {
    let magnitude = if number < 0 { !number } else { number };
    match u64::BITS.saturating_sub(magnitude.leading_zeros()) {
        0 if number == 0 => 0,
        used => used.saturating_add(1),
    }
}

/// Appends the sums of whole rows.
pub fn encode(shape: Shape, sums: &[i64], out: &mut Vec<u8>) {
    for block in sums.chunks(shape.rows.max(1)).flat_map(|row| row.chunks(BLOCK)) {
        encode_block(block, out);
    }
}

fn encode_block(block: &[i64], out: &mut Vec<u8>) {
    let width = block.iter().map(|&sum| bits(sum)).fold(0, u32::max);
    // A width is 64 at most, so its lowest byte is all of it.
    out.push(width.to_le_bytes()[0]);
    let mask = u64::MAX.unbounded_shr(u64::BITS.saturating_sub(width));
    let (mut pending, mut count) = (0_u128, 0_u32);
    for sum in block {
        pending |= u128::from(sum.cast_unsigned() & mask) << count;
        count = count.saturating_add(width);
        while count >= 8 {
            out.push(pending.to_le_bytes()[0]);
            pending >>= 8;
            count = count.saturating_sub(8);
        }
    }
    if count > 0 {
        out.push(pending.to_le_bytes()[0]);
    }
}

/// Bytes that are not the sums of so many rows of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SumsError {
    /// Too few bytes for the rows, or more than they take.
    Length {
        /// Bytes found.
        got: usize,
    },
    /// A sum that no input gives.
    Range {
        /// The row in the opening.
        row: usize,
    },
    /// A block that is wider than its sums need, or has bits behind its last.
    Width {
        /// The row in the opening.
        row: usize,
    },
    /// An invariant of the reader's own does not hold.
    Internal(Broken),
}

impl core::fmt::Display for SumsError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Length { got } => {
                write!(f, "{got} bytes are too few for the rows, or more than they take")
            }
            Self::Range { row } => write!(f, "row {row} holds a sum that no input gives"),
            Self::Width { row } => {
                write!(f, "row {row} holds sums that are not encoded in the fewest bits")
            }
            Self::Internal(broken) => broken.fmt(f),
        }
    }
}

impl core::error::Error for SumsError {}

impl From<Broken> for SumsError {
    fn from(broken: Broken) -> Self {
        Self::Internal(broken)
    }
}

/// Reads the sums of `rows` rows.
///
/// # Errors
/// [`SumsError`].
pub fn decode(shape: Shape, rows: usize, bytes: &[u8]) -> Result<Vec<i64>, SumsError> {
    let length = || SumsError::Length { got: bytes.len() };
    // A block takes a byte at least: what cannot be there is not made room for.
    let blocks = rows.saturating_mul(shape.rows.div_ceil(BLOCK));
    if blocks > bytes.len() {
        return Err(length());
    }
    let mut sums = Vec::with_capacity(rows.saturating_mul(shape.rows));
    let mut rest = bytes;
    for row in 0..rows {
        let mut left = shape.rows;
        while left > 0 {
            let count = left.min(BLOCK);
            let (&width, after) = rest.split_first().ok_or_else(length)?;
            let width = u32::from(width);
            if width as usize > widest(shape) {
                return Err(SumsError::Range { row });
            }
            let packed = count.saturating_mul(width as usize).div_ceil(8);
            let (packed, after) = after.split_at_checked(packed).ok_or_else(length)?;
            let first = sums.len();
            unpack(packed, width, count, &mut sums)?;
            let block = sums.get(first..).ok_or_else(|| Broken::new("unpacked sums are gone"))?;
            check_block(shape, block, packed, width, row)?;
            rest = after;
            left = left.saturating_sub(count);
        }
    }
    if rest.is_empty() { Ok(sums) } else { Err(length()) }
}

fn check_block(
    shape: Shape,
    block: &[i64],
    packed: &[u8],
    width: u32,
    row: usize,
) -> Result<(), SumsError> {
    let bound = shape.sum_bound().unsigned_abs();
    let (mut wrong, mut used) = (false, 0_i64);
    for &sum in block {
        wrong |= sum.unsigned_abs() > bound;
        used |= if sum < 0 { !sum } else { sum };
    }
    if wrong {
        return Err(SumsError::Range { row });
    }
    let negative = block.iter().any(|&sum| sum < 0);
    let narrowest = if used == 0 { u32::from(negative) } else { bits(used) };
    let numbers = block.len().saturating_mul(width as usize);
    let behind = packed.len().saturating_mul(8).saturating_sub(numbers);
    // Zeros have no bytes, and nothing behind them.
    let is_zero = |last: &u8| u32::from(*last) >> 8_usize.saturating_sub(behind) == 0;
    let is_padded = packed.last().is_none_or(is_zero);
    if width == narrowest && is_padded { Ok(()) } else { Err(SumsError::Width { row }) }
}

/// Appends `count` numbers of `width` bits.
fn unpack(packed: &[u8], width: u32, count: usize, sums: &mut Vec<i64>) -> Result<(), Broken> {
    invariant!(width as usize <= WIDEST, "a number is wider than one load");
    let mut room = [0_u8; ROOM];
    for (to, &from) in room.iter_mut().zip(packed) {
        *to = from;
    }
    let unused = u64::BITS.saturating_sub(width);
    for index in 0..count {
        let at = index.saturating_mul(width as usize);
        let word = room.get(at >> 3..).and_then(<[u8]>::first_chunk);
        let word = word.ok_or_else(|| Broken::new("a block is longer than the room for one"))?;
        let word = u64::from_le_bytes(*word) >> (at & 7);
        // Bits above the number go, and its highest is its sign.
        sums.push(word.unbounded_shl(unused).cast_signed().unbounded_shr(unused));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lockstep_exact::matrix::{COLUMNS_MAX, Codec};
    use lockstep_testing::numbers::Numbers;

    use super::*;

    #[test]
    fn sums_of_every_size_read_back_and_larger_ones_are_refused() {
        let mut numbers = Numbers::new(7);
        for codec in Codec::ALL {
            for (rows, columns) in [(1, 4), (63, 64), (64, 576), (65, 2114), (130, COLUMNS_MAX)] {
                let shape = codec.shape(rows, columns);
                let bound = shape.sum_bound();
                let mut sums = Vec::new();
                for at in 0..3 * rows {
                    let magnitude = numbers.below(1 << (at * 7 % widest(shape)));
                    let sum = i64::try_from(magnitude).unwrap().min(bound);
                    sums.push(if at % 3 == 0 { -sum } else { sum });
                }
                (sums[0], sums[rows - 1], sums[2 * rows]) = (bound, -bound, 0);
                let mut out = Vec::new();
                encode(shape, &sums, &mut out);
                assert!(out.len() <= 3 * most_bytes(shape), "{shape}");
                assert_eq!(decode(shape, 3, &out), Ok(sums.clone()), "{shape}");
                let length = Err(SumsError::Length { got: out.len() });
                assert_eq!(decode(shape, 2, &out), length);
                assert_eq!(decode(shape, 4, &out), length);
                let cut = &out[..out.len() - 1];
                assert_eq!(decode(shape, 3, cut), Err(SumsError::Length { got: cut.len() }));
                let row = 1;
                sums[rows] = bound + 1;
                let mut out = Vec::new();
                encode(shape, &sums, &mut out);
                assert_eq!(decode(shape, 3, &out), Err(SumsError::Range { row }), "{shape}");
            }
        }
    }

    #[test]
    fn sums_have_one_encoding() {
        let shape = Codec::W8.shape(3, 64);
        let encoded = |sums: &[i64]| {
            let mut out = Vec::new();
            encode(shape, sums, &mut out);
            out
        };
        assert_eq!(encoded(&[0, 0, 0]), [0]);
        assert_eq!(encoded(&[-1, 0, -1]), [1, 0b101]);
        assert_eq!(encoded(&[1, -2, 0]), [2, 0b00_10_01]);
        assert_eq!(decode(shape, 1, &[1, 0b101]), Ok(vec![-1, 0, -1]));
        let width = Err(SumsError::Width { row: 0 });
        // Wider than need be, and a bit behind the last sum.
        assert_eq!(decode(shape, 1, &[1, 0]), width);
        assert_eq!(decode(shape, 1, &[2, 0b11_00_11]), width);
        assert_eq!(decode(shape, 1, &[2, 0b0100_1001]), width);
        let wide = u8::try_from(widest(shape) + 1).unwrap();
        let range = Err(SumsError::Range { row: 0 });
        assert_eq!(decode(shape, 1, &[&[wide], [0; 30].as_slice()].concat()), range);
        // No bytes, and rows that no memory holds.
        assert_eq!(decode(shape, usize::MAX, &[]), Err(SumsError::Length { got: 0 }));
    }

    #[test]
    fn no_sum_of_a_model_comes_near_the_fields_modulus() {
        for codec in Codec::ALL {
            let shape = codec.shape(1, COLUMNS_MAX);
            assert!(2 * shape.sum_bound().unsigned_abs() < lockstep_exact::field::P);
            assert!(widest(shape) <= WIDEST);
        }
    }
}
