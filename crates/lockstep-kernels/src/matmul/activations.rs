//! The inputs of a product, in the form its instruction set reads.
//!
//! AVX-512 multiplies u8 by i8, so a code becomes two planes, `code = 255·high + low`; the others
//! multiply i16 by i16 and read the codes as they are. Stored weights are `code + 128`, so every
//! form carries −128·Σ per group to start its sums from. Columns are padded to whole groups with 0.

use lockstep_exact::matrix::GROUP;

use crate::isa::{Isa, Kind};

/// Rows of i16 codes, prepared for one instruction set.
#[derive(Clone, Debug)]
pub struct Activations {
    isa: Isa,
    rows: usize,
    columns: usize,
    /// `[rows][groups][64]`.
    codes: Vec<i16>,
    /// `[rows][groups][high, low][64]`, for AVX-512 only.
    planes: Vec<i8>,
    /// −128·Σ per row and group: of the codes, or for AVX-512 of both planes.
    offsets: Vec<i32>,
}

/// One row of [`Activations`], to be filled.
pub(crate) struct RowMut<'a> {
    /// The codes, padding included (which stays 0).
    pub(crate) codes: &'a mut [i16],
    planes: &'a mut [i8],
    offsets: &'a mut [i32],
}

impl Activations {
    /// No rows yet.
    #[must_use]
    pub const fn new(isa: Isa) -> Self {
        Self {
            isa,
            rows: 0,
            columns: 0,
            codes: Vec::new(),
            planes: Vec::new(),
            offsets: Vec::new(),
        }
    }

    /// `codes` as rows of `columns`.
    ///
    /// # Panics
    /// When `codes` are not whole rows.
    #[must_use]
    pub fn from_codes(isa: Isa, columns: usize, codes: &[i16]) -> Self {
        assert_eq!(codes.len() % columns, 0, "whole rows of {columns} codes");
        let mut all = Self::new(isa);
        all.reshape(codes.len() / columns, columns);
        for (row, codes) in all.rows_mut().zip(codes.chunks_exact(columns)) {
            row.codes[..columns].copy_from_slice(codes);
            row.finish(isa);
        }
        all
    }

    /// Makes this `rows` rows of `columns` codes, reusing memory. Padding is 0 afterwards, all else
    /// unspecified until each row is filled and finished.
    pub(crate) fn reshape(&mut self, rows: usize, columns: usize) {
        let groups = columns.div_ceil(GROUP);
        let padded = groups * GROUP;
        if columns != self.columns {
            self.codes.clear();
        }
        (self.rows, self.columns) = (rows, columns);
        self.codes.resize(rows * padded, 0);
        self.planes.resize(if self.isa.uses_planes() { rows * padded * 2 } else { 0 }, 0);
        self.offsets.resize(rows * groups * self.isa.offsets_per_group(), 0);
    }

    /// All rows, to be filled.
    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = RowMut<'_>> {
        let padded = self.columns.next_multiple_of(GROUP);
        let offsets = self.columns.div_ceil(GROUP) * self.isa.offsets_per_group();
        let mut planes = self.planes.chunks_exact_mut((padded * 2).max(1));
        self.codes.chunks_exact_mut(padded).zip(self.offsets.chunks_exact_mut(offsets)).map(
            move |(codes, offsets)| {
                RowMut { codes, planes: planes.next().unwrap_or_default(), offsets }
            },
        )
    }

    /// The instruction set these are prepared for.
    #[must_use]
    pub const fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Codes of a row, without padding.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// The codes of a row, without padding.
    #[must_use]
    pub fn codes(&self, row: usize) -> &[i16] {
        &self.codes[row * self.columns.next_multiple_of(GROUP)..][..self.columns]
    }

    const fn groups(&self) -> usize {
        self.columns.div_ceil(GROUP)
    }

    /// The codes of a row from `group` to its end, padding included.
    pub(super) fn codes_from(&self, row: usize, group: usize) -> &[i16] {
        let groups = self.groups();
        &self.codes[(row * groups + group) * GROUP..(row + 1) * groups * GROUP]
    }

    /// The planes of a row from `group` to its end, 128 per group. AVX-512 only.
    pub(super) fn planes_from(&self, row: usize, group: usize) -> &[i8] {
        let groups = self.groups();
        &self.planes[(row * groups + group) * 2 * GROUP..(row + 1) * groups * 2 * GROUP]
    }

    /// The offsets of a row from `group` to its end.
    pub(super) fn offsets_from(&self, row: usize, group: usize) -> &[i32] {
        let (groups, each) = (self.groups(), self.isa.offsets_per_group());
        &self.offsets[(row * groups + group) * each..(row + 1) * groups * each]
    }
}

impl Isa {
    const fn uses_planes(self) -> bool {
        match self.0 {
            Kind::Portable => false,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => false,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => true,
        }
    }

    const fn offsets_per_group(self) -> usize {
        if self.uses_planes() { 2 } else { 1 }
    }
}

impl RowMut<'_> {
    /// Derives planes and offsets from the codes.
    pub(crate) fn finish(self, isa: Isa) {
        if isa.uses_planes() {
            self.finish_planes();
        } else {
            for (offset, codes) in self.offsets.iter_mut().zip(self.codes.chunks_exact(GROUP)) {
                *offset = -128 * codes.iter().map(|&code| i32::from(code)).sum::<i32>();
            }
        }
    }

    fn finish_planes(self) {
        let planes = self.planes.chunks_exact_mut(2 * GROUP);
        let groups = self.codes.chunks_exact(GROUP).zip(planes).zip(self.offsets.chunks_exact_mut(2));
        for ((codes, planes), offsets) in groups {
            let (high, low) = planes.split_at_mut(GROUP);
            let mut sums = [0_i32; 2];
            for ((&code, high), low) in codes.iter().zip(high).zip(low) {
                let h = nearest_255th(code);
                let l = code - 255 * h;
                sums[0] += i32::from(h);
                sums[1] += i32::from(l);
                (*high, *low) = (h as i8, l as i8);
            }
            offsets.copy_from_slice(&sums.map(|sum| -128 * sum));
        }
    }
}

/// `code / 255` rounded to the nearest integer, for |code| ≤ 32512.
const fn nearest_255th(code: i16) -> i16 {
    ((code as i32 * 257 + 0x8000) >> 16) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_splits_into_two_planes_that_give_it_back() {
        for code in -32512..=32512_i16 {
            let high = nearest_255th(code);
            let low = code - 255 * high;
            assert!((-127..=127).contains(&high) && (-127..=127).contains(&low), "{code}");
        }
    }
}
