//! The inputs of a product, in the form its instruction set reads.
//!
//! Dot products of bytes (AVX-512 and AVX VNNI, NEON) take u8 or i8 by i8, so a code becomes two
//! planes, `code = 255·high + low`; the others multiply i16 by i16 and read the codes as they are.
//! Stored weights are `code + 128`, so every form carries −128·Σ per group to start its sums from.
//! Planes have the same for w4, whose groups are half as long, and their sums once more, split in
//! two so that 16-bit multiplies take them ([`Halves`]). Columns are padded to whole groups with 0.

use lockstep_exact::matrix::GROUP;

use crate::buffer::Buffer;
use crate::isa::per_isa;
use crate::isa::{Isa, Kind};

/// Rows of i16 codes, prepared for one instruction set.
#[derive(Clone, Debug)]
pub(crate) struct Activations {
    isa: Isa,
    rows: usize,
    columns: usize,
    /// The codes, as `[rows][groups][64]`.
    codes: Buffer<i16>,
    /// `[rows][groups][high, low][64]`, for dot products of bytes only.
    planes: Buffer<i8>,
    /// −128·Σ per row and group: of the codes, or of both planes.
    offsets: Buffer<i32>,
    /// `[rows][groups]`, where there are planes.
    halves: Buffer<Halves>,
}

/// The numbers that w4 needs for 64 columns, which are two of its groups.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Halves {
    /// For each group −8·Σ of the high and of the low plane.
    #[cfg_attr(target_arch = "aarch64", expect(dead_code, reason = "NEON takes the 8 off codes"))]
    pub(super) offsets: [[i32; 2]; 2],
    /// Σ of the codes of each group is `1024 · coarse + fine`, with both parts in i16: the first
    /// group's in the low half of the number, the second's in the high half.
    pub(super) coarse: i32,
    pub(super) fine: i32,
}

/// The largest magnitudes of a coarse and of a fine part.
pub(super) const COARSE_MAX: i32 = 1016;
const FINE_MAX: i32 = 512;
/// The largest magnitude of the sum of a w4 group's codes.
const HALF_SUM_MAX: i32 = 32_512 * GROUP as i32 / 2;

const _: () = assert!((HALF_SUM_MAX + FINE_MAX) >> 10 == COARSE_MAX);

/// Some neighbouring rows of [`Activations`], to be filled.
pub(crate) struct RowsMut<'a> {
    isa: Isa,
    columns: usize,
    codes: &'a mut [i16],
    planes: &'a mut [i8],
    offsets: &'a mut [i32],
    halves: &'a mut [Halves],
}

impl Default for Activations {
    fn default() -> Self {
        Self {
            isa: Isa::PORTABLE,
            rows: 0,
            columns: 0,
            codes: Buffer::default(),
            planes: Buffer::default(),
            offsets: Buffer::default(),
            halves: Buffer::default(),
        }
    }
}

impl Activations {
    /// Makes this `rows` rows of `columns` codes for `isa`, reusing memory. They are unspecified
    /// until each row is filled.
    pub(crate) fn reshape(&mut self, isa: Isa, rows: usize, columns: usize) {
        let groups = columns.div_ceil(GROUP);
        let padded = groups * GROUP;
        (self.isa, self.rows, self.columns) = (isa, rows, columns);
        self.codes.resize(rows * padded);
        self.planes.resize(if isa.uses_planes() { rows * padded * 2 } else { 0 });
        self.offsets.resize(rows * groups * isa.offsets_per_group());
        self.halves.resize(if isa.uses_planes() { rows * groups } else { 0 });
    }

    /// Returns all rows, `each` at a time, to be filled.
    pub(crate) fn parts_mut(&mut self, each: usize) -> impl Iterator<Item = RowsMut<'_>> {
        let (isa, columns) = (self.isa, self.columns);
        let padded = columns.next_multiple_of(GROUP).max(1);
        let offsets = (self.groups() * isa.offsets_per_group()).max(1);
        let mut planes = self.planes.chunks_mut(each * padded * 2);
        let mut halves = self.halves.chunks_mut(each * (padded / GROUP));
        let codes = self.codes.chunks_mut(each * padded);
        codes.zip(self.offsets.chunks_mut(each * offsets)).map(move |(codes, offsets)| RowsMut {
            isa,
            columns,
            codes,
            // default: where the instructions use no planes there are none
            planes: planes.next().unwrap_or_default(),
            offsets,
            // default: as above
            halves: halves.next().unwrap_or_default(),
        })
    }

    /// Returns the instruction set these are prepared for.
    pub(crate) const fn isa(&self) -> Isa {
        self.isa
    }

    /// Returns the number of input rows.
    pub(crate) const fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of codes of a row, without padding.
    pub(crate) const fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the codes of a row, without padding.
    pub(crate) fn codes(&self, row: usize) -> &[i16] {
        &self.codes[row * self.columns.next_multiple_of(GROUP)..][..self.columns]
    }

    /// Returns all codes, row after row, if rows need no padding.
    pub(crate) fn unpadded_codes(&self) -> Option<&[i16]> {
        self.columns.is_multiple_of(GROUP).then_some(&self.codes)
    }

    const fn groups(&self) -> usize {
        self.columns.div_ceil(GROUP)
    }

    /// Returns the codes of some rows, from `group` to each row's end, padding included.
    #[inline]
    pub(super) fn codes_from<const N: usize>(&self, row: usize, group: usize) -> [&[i16]; N] {
        rows_from(&self.codes, self.groups(), GROUP, row, group)
    }

    /// Returns the planes of some rows, from `group` to each row's end: 128 per group.
    #[inline]
    pub(super) fn planes_from<const N: usize>(&self, row: usize, group: usize) -> [&[i8]; N] {
        rows_from(&self.planes, self.groups(), 2 * GROUP, row, group)
    }

    /// Returns the offsets of some rows, from `group` to each row's end.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(super) fn offsets_from<const N: usize>(&self, row: usize, group: usize) -> [&[i32]; N] {
        rows_from(&self.offsets, self.groups(), self.isa.offsets_per_group(), row, group)
    }

    /// Returns the numbers that w4 needs for some rows, from `group` to each row's end.
    #[inline]
    pub(super) fn halves_from<const N: usize>(&self, row: usize, group: usize) -> [&[Halves]; N] {
        rows_from(&self.halves, self.groups(), 1, row, group)
    }
}

/// Returns `N` rows of `all`, which holds `each` elements per group, from `group` to each row's
/// end.
#[inline]
fn rows_from<T, const N: usize>(
    all: &[T],
    groups: usize,
    each: usize,
    row: usize,
    group: usize,
) -> [&[T]; N] {
    std::array::from_fn(|r| {
        &all[((row + r) * groups + group) * each..(row + r + 1) * groups * each]
    })
}

impl Isa {
    const fn uses_planes(self) -> bool {
        match self.0 {
            Kind::Portable => false,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => false,
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni | Kind::Avx512 => true,
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => true,
        }
    }

    const fn offsets_per_group(self) -> usize {
        if self.uses_planes() { 2 } else { 1 }
    }
}

impl RowsMut<'_> {
    /// Lets `write` fill the codes of one row, and derives the rest from them.
    pub(crate) fn fill<R>(&mut self, row: usize, write: impl FnOnce(&mut [i16]) -> R) -> R {
        let padded = self.columns.next_multiple_of(GROUP);
        let codes = &mut self.codes[row * padded..][..padded];
        let result = write(&mut codes[..self.columns]);
        codes[self.columns..].fill(0);
        let each = padded / GROUP * self.isa.offsets_per_group();
        let offsets = &mut self.offsets[row * each..][..each];
        if self.isa.uses_planes() {
            let halves = &mut self.halves[row * padded / GROUP..][..padded / GROUP];
            let planes = &mut self.planes[row * padded * 2..][..padded * 2];
            split(self.isa, codes, planes, offsets, halves);
        } else {
            sum(self.isa, codes, offsets);
        }
        result
    }
}

per_isa! {
    /// Computes −128·Σ of each group.
    fn sum(isa: Isa, codes: &[i16], offsets: &mut [i32]) {
        for (offset, codes) in offsets.iter_mut().zip(codes.chunks_exact(GROUP)) {
            *offset = -128 * codes.iter().map(|&code| i32::from(code)).sum::<i32>();
        }
    }
}

per_isa! {
    /// Computes both planes, and what is derived from the sums of each plane of each group.
    fn split(
        isa: Isa,
        codes: &[i16],
        planes: &mut [i8],
        offsets: &mut [i32],
        halves: &mut [Halves],
    ) {
        let planes = planes.chunks_exact_mut(2 * GROUP);
        let groups = codes.chunks_exact(GROUP).zip(planes);
        let derived = offsets.chunks_exact_mut(2).zip(halves);
        for ((codes, planes), (offsets, halves)) in groups.zip(derived) {
            let (high, low) = planes.split_at_mut(GROUP);
            let mut sums = [[0_i16; 2]; 2];
            let parts = codes.chunks_exact(GROUP / 2).zip(high.chunks_exact_mut(GROUP / 2));
            for ((sums, (codes, high)), low) in
                sums.iter_mut().zip(parts).zip(low.chunks_exact_mut(GROUP / 2))
            {
                for ((&code, high), low) in codes.iter().zip(high).zip(low) {
                    let h = nearest_255th(code);
                    let l = code - 255 * h;
                    sums[0] += h;
                    sums[1] += l;
                    (*high, *low) = (h as i8, l as i8);
                }
            }
            let sums = sums.map(|sums| sums.map(i32::from));
            offsets[0] = -128 * (sums[0][0] + sums[1][0]);
            offsets[1] = -128 * (sums[0][1] + sums[1][1]);
            *halves = Halves::of(sums);
        }
    }
}

impl Halves {
    /// Computes the numbers for w4 from the sums of the high and of the low plane of each group.
    #[inline(always)]
    fn of(sums: [[i32; 2]; 2]) -> Self {
        let codes = sums.map(|[high, low]| 255 * high + low);
        let coarse = codes.map(|sum| (sum + FINE_MAX) >> 10);
        let fine = [codes[0] - (coarse[0] << 10), codes[1] - (coarse[1] << 10)];
        let pair = |[first, second]: [i32; 2]| second << 16 | first & 0xffff;
        Self {
            offsets: sums.map(|sums| sums.map(|sum| -8 * sum)),
            coarse: pair(coarse),
            fine: pair(fine),
        }
    }
}

/// Returns `code / 255` rounded to the nearest integer, for |code| ≤ 32512.
#[inline(always)]
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
