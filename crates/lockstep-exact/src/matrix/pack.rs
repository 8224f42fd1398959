//! Rows of integers to the packed form.

use super::{BLOCK_ROWS, Codec, Shape};

/// One quantised row, before packing.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantisedRow {
    /// Codes in -127..=127 (w8) or -8..=7 (w4), one per column.
    pub codes: Vec<i8>,
    /// Group scales in 1..=63, one per group of 64 columns (w8), or 1..=255, per 32 columns (w4).
    pub group_scales: Vec<u8>,
    /// Shifts in -127..=127, one per group of 32 columns (w4); none (w8).
    pub shifts: Vec<i8>,
    /// The scale of the row in f32.
    pub scale: f32,
}

impl QuantisedRow {
    /// Returns the integer weight of a column.
    ///
    /// # Panics
    /// When there is no such column.
    #[must_use]
    pub fn weight(&self, codec: Codec, column: usize) -> i32 {
        let group = column / codec.group();
        let (scale, code) = (i32::from(self.group_scales[group]), i32::from(self.codes[column]));
        match codec {
            Codec::W8 => scale * code,
            Codec::W4 => scale * (16 * code + i32::from(self.shifts[group])),
        }
    }
}

/// Packs quantised rows, in order, into the stored form.
///
/// # Panics
/// When a row's lengths do not fit `shape`; the caller made both.
#[must_use]
pub fn pack(shape: Shape, rows: impl IntoIterator<Item = QuantisedRow>) -> Vec<u8> {
    let stride = shape.block_bytes();
    let mut out = vec![0; shape.packed_bytes()];
    out.chunks_exact_mut(stride).for_each(|block| pad(shape, block));
    let mut count = 0;
    for (index, row) in rows.into_iter().enumerate() {
        assert!(index < shape.rows, "more rows than the shape says");
        assert_eq!(row.codes.len(), shape.columns, "columns of row {index}");
        assert_eq!(row.group_scales.len(), shape.groups(), "groups of row {index}");
        put(shape, &mut out[index / BLOCK_ROWS * stride..][..stride], index % BLOCK_ROWS, &row);
        count += 1;
    }
    assert_eq!(count, shape.rows, "fewer rows than the shape says");
    out
}

/// Makes a block of zero bytes one of padding.
fn pad(shape: Shape, block: &mut [u8]) {
    let (codes, rest) = block.split_at_mut(shape.group_scales_offset());
    let (scales, rest) = rest.split_at_mut(shape.row_scales_offset() - codes.len());
    match shape.codec {
        Codec::W8 => {
            codes.fill(128);
            scales.fill(1);
        }
        Codec::W4 => {
            codes.fill(0x88);
            let spans = scales.chunks_exact_mut(4 * BLOCK_ROWS);
            spans.for_each(|span| span[..2 * BLOCK_ROWS].fill(1));
        }
    }
    rest[..BLOCK_ROWS * 4].as_chunks_mut().0.fill(1.0_f32.to_le_bytes());
}

/// Writes a row to its lane of a padded block.
fn put(shape: Shape, block: &mut [u8], lane: usize, row: &QuantisedRow) {
    for (column, &code) in row.codes.iter().enumerate() {
        let byte = &mut block[shape.code_at(lane, column)];
        match shape.codec {
            Codec::W8 => *byte = (i32::from(code) + 128) as u8,
            Codec::W4 => {
                debug_assert!((-8..=7).contains(&code), "code {code} of w4");
                let half = column & 4;
                *byte = *byte & !(15 << half) | ((code + 8) as u8 & 15) << half;
            }
        }
    }
    for (group, &scale) in row.group_scales.iter().enumerate() {
        block[shape.group_scale_at(lane, group)] = scale;
    }
    if shape.codec == Codec::W4 {
        assert_eq!(row.shifts.len(), row.group_scales.len(), "shifts of a w4 row");
        for (group, &shift) in row.shifts.iter().enumerate() {
            block[shape.shift_at(lane, group)] = shift.cast_unsigned();
        }
    }
    let at = shape.row_scale_at(lane);
    block[at..at + 4].copy_from_slice(&row.scale.to_le_bytes());
}
