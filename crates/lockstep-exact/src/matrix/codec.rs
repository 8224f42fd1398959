//! How the integers of a matrix are stored, and what that makes of a matrix' size.

use core::fmt;

use super::{BLOCK_ROWS, CODE_MAX, GROUP, GROUP_SCALE_MAX, INPUT_MAX};
use crate::bytes::{Canonical, DecodeError, DecodeReason, Reader};

/// The way in which the integer weights of a matrix are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// 8-bit codes, an integer scale in 1..=63 per 64 columns: 8.125 bits a weight.
    #[default]
    W8,
    /// 4-bit codes, an integer scale in 1..=255 and a shift in ±127 per 32 columns: 4.5 bits.
    W4,
}

impl Codec {
    /// All codecs, in the order of their tags.
    pub const ALL: [Self; 2] = [Self::W8, Self::W4];

    /// Returns the shape of a matrix of this codec with `rows` rows and `columns` columns.
    #[must_use]
    pub const fn shape(self, rows: usize, columns: usize) -> Shape {
        Shape { rows, columns, codec: self }
    }

    /// Returns the name of the codec, as people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::W8 => "w8",
            Self::W4 => "w4",
        }
    }

    /// Returns the codec called `name`, if there is one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// Returns the number of columns that share a scale: a divisor of [`GROUP`].
    #[must_use]
    pub const fn group(self) -> usize {
        match self {
            Self::W8 => GROUP,
            Self::W4 => GROUP / 2,
        }
    }

    /// Returns the largest magnitude of an integer weight.
    #[must_use]
    pub const fn weight_max(self) -> i64 {
        match self {
            Self::W8 => (CODE_MAX * GROUP_SCALE_MAX) as i64,
            // Codes are -8..=7 steps of 16, shifts ±127.
            Self::W4 => 255 * (8 * 16 + 127),
        }
    }

    /// Returns the largest group scale.
    #[must_use]
    pub const fn group_scale_max(self) -> i32 {
        match self {
            Self::W8 => GROUP_SCALE_MAX,
            Self::W4 => 255,
        }
    }

    /// Returns the largest magnitude of a row scale: a power of two that keeps the results of a
    /// product finite, whatever its input.
    #[must_use]
    pub const fn row_scale_max(self) -> f32 {
        match self {
            Self::W8 => f32::from_bits((127 + 40) << 23),
            Self::W4 => f32::from_bits((127 + 36) << 23),
        }
    }

    /// Returns the smallest magnitude of a row scale, 2^-60.
    #[must_use]
    pub const fn row_scale_min(self) -> f32 {
        f32::from_bits((127 - 60) << 23)
    }

    /// Returns the number of bytes of codes that a block has per 64 columns.
    #[must_use]
    pub const fn code_bytes(self) -> usize {
        match self {
            Self::W8 => GROUP * BLOCK_ROWS,
            Self::W4 => GROUP * BLOCK_ROWS / 2,
        }
    }

    /// Returns the number of bytes of group scales, and of shifts, that a block has per 64 columns.
    #[must_use]
    pub const fn scale_bytes(self) -> usize {
        match self {
            Self::W8 => BLOCK_ROWS,
            Self::W4 => 4 * BLOCK_ROWS,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Canonical for Codec {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::W8 => 0,
            Self::W4 => 1,
        });
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = input.position();
        match u8::decode(input)? {
            0 => Ok(Self::W8),
            1 => Ok(Self::W4),
            tag => Err(DecodeError { what: "codec", at, reason: DecodeReason::UnknownTag(tag) }),
        }
    }
}

/// The size and codec of a matrix, and where things are in its packed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The number of rows, which are outputs: `N`.
    pub rows: usize,
    /// The number of columns, which are inputs: `K`.
    pub columns: usize,
    /// The codec in which its integers are stored.
    pub codec: Codec,
}

impl Shape {
    /// Returns the number of columns after padding to whole groups of 64.
    #[must_use]
    pub const fn padded_columns(&self) -> usize {
        self.columns.next_multiple_of(GROUP)
    }

    /// Returns the number of groups of columns in a row, without those that are all padding.
    #[must_use]
    pub const fn groups(&self) -> usize {
        self.columns.div_ceil(self.codec.group())
    }

    /// Returns the number of runs of 64 columns in a row: what kernels take at a time, whatever the
    /// codec.
    #[must_use]
    pub const fn spans(&self) -> usize {
        self.columns.div_ceil(GROUP)
    }

    /// Returns the number of blocks of 16 rows.
    #[must_use]
    pub const fn blocks(&self) -> usize {
        self.rows.div_ceil(BLOCK_ROWS)
    }

    /// Returns the offset of the group scales in a block, in bytes.
    #[must_use]
    pub const fn group_scales_offset(&self) -> usize {
        self.spans() * self.codec.code_bytes()
    }

    /// Returns the offset of the row scales in a block, in bytes.
    #[must_use]
    pub const fn row_scales_offset(&self) -> usize {
        self.group_scales_offset() + self.spans() * self.codec.scale_bytes()
    }

    /// Returns the number of bytes from one block to the next.
    #[must_use]
    pub const fn block_bytes(&self) -> usize {
        (self.row_scales_offset() + BLOCK_ROWS * 4).next_multiple_of(64)
    }

    /// Returns the number of bytes of the whole packed matrix, in memory or not: a matrix of the
    /// largest shape that a manifest may name has more than a machine with 32-bit addresses can
    /// count.
    #[must_use]
    pub const fn stored_bytes(&self) -> u64 {
        self.blocks() as u64 * self.block_bytes() as u64
    }

    /// Returns the number of bytes of the whole packed matrix in memory; [`usize::MAX`] if they
    /// cannot be there, which is the length of no slice.
    #[must_use]
    pub const fn packed_bytes(&self) -> usize {
        self.blocks().saturating_mul(self.block_bytes())
    }

    /// Returns the largest magnitude that an exact sum of this matrix can have:
    /// `max|W| · 32512 · K`.
    #[must_use]
    pub const fn sum_bound(&self) -> i64 {
        self.codec.weight_max() * INPUT_MAX as i64 * self.columns as i64
    }

    /// Returns the offset in a block of the byte with the code of a lane and column; in w4 the low
    /// half belongs to columns whose bit 2 is not set, the high half to the others.
    pub(super) const fn code_at(&self, lane: usize, column: usize) -> usize {
        match self.codec {
            Codec::W8 => column / 4 * 64 + lane * 4 + column % 4,
            Codec::W4 => column / 8 * 64 + lane * 4 + column % 4,
        }
    }

    /// Returns the offset in a block of the byte with the scale of a lane and group.
    pub(super) const fn group_scale_at(&self, lane: usize, group: usize) -> usize {
        self.group_scales_offset()
            + match self.codec {
                Codec::W8 => group * BLOCK_ROWS + lane,
                Codec::W4 => group / 2 * 64 + lane * 2 + group % 2,
            }
    }

    /// Returns the offset in a w4 block of the byte with the shift of a lane and group.
    pub(super) const fn shift_at(&self, lane: usize, group: usize) -> usize {
        self.group_scale_at(lane, group) + 2 * BLOCK_ROWS
    }

    /// Returns the offset in a block of the earliest of the four bytes of a lane's row scale.
    pub(super) const fn row_scale_at(&self, lane: usize) -> usize {
        self.row_scales_offset() + lane * 4
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} {}", self.rows, self.columns, self.codec)
    }
}
