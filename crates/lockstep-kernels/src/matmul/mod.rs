//! Exact matrix products over the packed layout: one layout for one row, few rows and many.
//!
//! Inputs are i16 codes, outputs exact i64 sums. Group scales are applied in integers, once per
//! group of columns for 16 rows; nothing can overflow for any matrix that [`Packed::new`] accepts
//! and any codes in −32512..=32512. Sums are *block-major*, `[block][input row][16]`, so that
//! threads that share a product by blocks write to separate ranges.
//!
//! What [`multiply`] does for its range of blocks, with loops from the outside in:
//!
//! ```text
//! for panel in input rows, as many as the second-level cache holds:    walk
//!   for pair in blocks, two of 16 weight rows side by side:            walk
//!     for chunk in spans of 64 columns, 32 at a time:                  walk_groups
//!       for row in panel, one or a few at a time:                      Tile::multiply
//!         for span in chunk:
//!           for n in 16 weight rows, in the lanes of a register:
//!             dot = sum of weight code[n] · input code    over 64 columns, exact
//!             sums[block][row][n] += dot · group scale[n]
//!       meanwhile: fetch the next chunk of weights
//! ```
//!
//! How `dot` is made is the instruction set's matter ([`Tile`]): some multiply 16-bit input codes,
//! others two planes of 8 bits whose totals stay in 32 bits for a chunk. w4 adds a shift for each
//! group, times the sum of the group's input codes. A product with one input row goes another way
//! where there is AVX-512, with equal results: [`RowProduct`].

use std::ops::Range;

use lockstep_exact::matrix::{BLOCK_ROWS, Codec, GROUP, Packed, Shape};

use crate::isa::{Isa, Kind};

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx_vnni;
mod deal;
mod fetch;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod row;
mod w4;

pub(crate) use activations::Activations;
pub(crate) use deal::{Columns, Deal, Stripe};
pub(crate) use fetch::{Chooser, Hint};
pub(crate) use row::RowProduct;

/// The sums of one input row with the 16 rows of one block.
pub(crate) type BlockSums = [i64; BLOCK_ROWS];

/// Bytes of inputs that a tile's weights are multiplied with while they are in the cache: half of
/// a small second-level cache.
const PANEL_BYTES: usize = 512 * 1024;
/// Spans of 64 columns that a tile multiplies in one go: what i32 totals of scaled plane sums can
/// hold, 32 · 64 · 127 · 127 · 63 < 2^31. For w4 see there.
const CHUNK_GROUPS: usize = 32;

const _: () = assert!(CHUNK_GROUPS * GROUP * 127 * 127 * 63 < i32::MAX as usize);

/// Writes the sums of the rows in `blocks` of `matrix` with all rows of `inputs` to `sums`.
///
/// # Panics
/// When `blocks` is not inside the matrix, or lengths differ: `inputs` has as many columns as
/// `matrix`, is prepared for `isa`, and `sums` has `blocks.len() · inputs.rows()` entries.
pub(crate) fn multiply(
    isa: Isa,
    matrix: &Packed,
    blocks: Range<usize>,
    inputs: &Activations,
    sums: &mut [BlockSums],
) {
    let shape = matrix.shape();
    assert!(blocks.end <= shape.blocks(), "blocks of a {shape} matrix");
    assert_eq!(inputs.columns(), shape.columns, "columns of inputs for a {shape} matrix");
    assert_eq!(inputs.isa(), isa, "inputs are prepared for the same instruction set");
    assert_eq!(sums.len(), blocks.len() * inputs.rows(), "sums of a {shape} matrix");
    let walk = match (isa.0, shape.codec) {
        (Kind::Portable, Codec::W8) => walk::<portable::Tiles>,
        (Kind::Portable, Codec::W4) => walk::<w4::portable::Tiles>,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, Codec::W8) => walk::<avx2::Tiles>,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx2, Codec::W4) => walk::<w4::avx2::Tiles>,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Codec::W8) => walk::<avx512::Tiles>,
        #[cfg(target_arch = "x86_64")]
        (Kind::Avx512, Codec::W4) => walk::<w4::avx512::Tiles>,
        #[cfg(target_arch = "x86_64")]
        (Kind::AvxVnni, Codec::W8) => walk::<avx_vnni::Tiles>,
        #[cfg(target_arch = "x86_64")]
        (Kind::AvxVnni, Codec::W4) => walk::<w4::avx_vnni::Tiles>,
        #[cfg(target_arch = "aarch64")]
        (Kind::Neon, Codec::W8) => walk::<neon::Tiles>,
        #[cfg(target_arch = "aarch64")]
        (Kind::Neon, Codec::W4) => walk::<w4::neon::Tiles>,
    };
    walk(matrix, blocks, inputs, sums);
}

/// A part of a block: 16 rows × some whole spans of 64 columns, which are the groups of w8.
#[derive(Clone, Copy)]
struct Part<'a> {
    /// `[groups · 16][16 rows][4 columns]`; w4 has two columns in a byte.
    codes: &'a [u8],
    /// `[groups][16 rows]`; of w4 `[groups][scales, shifts][16 rows][2]`.
    scales: &'a [u8],
}

/// The address of the part of a later step, to be prefetched. It may point anywhere.
#[derive(Clone, Copy)]
struct Next {
    codes: *const u8,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "AVX-512 fetches them"))]
    scales: *const u8,
}

impl Part<'_> {
    /// Returns the part `codes` and `scales` bytes after this one.
    const fn after(&self, codes: usize, scales: usize) -> Next {
        Next {
            codes: self.codes.as_ptr().wrapping_add(codes),
            scales: self.scales.as_ptr().wrapping_add(scales),
        }
    }
}

/// One step of [`walk`]: `NB` neighbouring blocks × some input rows × some groups.
struct Step<'a, const NB: usize> {
    parts: [Part<'a>; NB],
    /// For each part the one that follows in the next step, to be prefetched meanwhile.
    next: [Next; NB],
    inputs: &'a Activations,
    /// The range of input rows.
    rows: Range<usize>,
    /// The same groups of columns as in `parts`, as numbered in `inputs`.
    groups: Range<usize>,
}

impl<const NB: usize> Step<'_, NB> {
    /// Returns whether nothing has been added to these sums yet.
    const fn is_first(&self) -> bool {
        self.groups.start == 0
    }

    /// Makes the step's sums 0 if nothing has been added yet, for tiles that add to memory.
    fn clear(&self, sums: &mut [BlockSums]) {
        if self.is_first() {
            for sums in sums.chunks_exact_mut(self.inputs.rows()).take(NB) {
                sums[self.rows.clone()].fill([0; BLOCK_ROWS]);
            }
        }
    }
}

/// The inner loop of an instruction set, which [`walk`] calls.
trait Tile {
    /// Adds the products of `step` to `sums`, which starts at the step's first block and has
    /// `step.inputs.rows()` entries per block. The first step of a row's groups overwrites them.
    fn multiply<const NB: usize>(step: &Step<'_, NB>, sums: &mut [BlockSums]);
}

/// A tile of one block and one or two input rows, of one codec.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
trait PairTile {
    /// Adds the products of 16 weight rows with the `MR` input rows from `row` on to `sums`, one
    /// entry per input row, and brings the weights at `ahead` into the cache.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn tile<const MR: usize, const NB: usize>(
        step: &Step<'_, NB>,
        part: &Part<'_>,
        row: usize,
        ahead: Option<*const u8>,
        sums: &mut [BlockSums],
    );
}

/// Cuts the input rows of a step into pairs, block after block. The first tile of a block brings
/// the weights of the next step into the cache.
///
/// # Safety
/// The processor has the instructions of `T`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
unsafe fn multiply_pairs<T: PairTile, const NB: usize>(
    step: &Step<'_, NB>,
    sums: &mut [BlockSums],
) {
    let stride = step.inputs.rows();
    for (n, part) in step.parts.iter().enumerate() {
        let sums = &mut sums[n * stride..(n + 1) * stride];
        let mut ahead = Some(step.next[n].codes);
        for row in step.rows.clone().step_by(2) {
            let ahead = ahead.take();
            // SAFETY: as the caller says.
            unsafe {
                match step.rows.end - row {
                    1 => T::tile::<1, NB>(step, part, row, ahead, sums),
                    _ => T::tile::<2, NB>(step, part, row, ahead, sums),
                }
            }
        }
    }
}

/// Walks a product so that weights come from memory once per panel of inputs, in order, two blocks
/// side by side, and the inputs of a panel stay in the second-level cache.
fn walk<T: Tile>(
    matrix: &Packed,
    blocks: Range<usize>,
    inputs: &Activations,
    sums: &mut [BlockSums],
) {
    let rows = inputs.rows();
    let panels = rows.div_ceil((PANEL_BYTES / (2 * matrix.shape().padded_columns())).max(24));
    for panel in 0..panels {
        let panel_rows = rows * panel / panels..rows * (panel + 1) / panels;
        let mut block = blocks.start;
        while block < blocks.end {
            let sums = &mut sums[(block - blocks.start) * rows..];
            if block + 1 < blocks.end {
                walk_groups::<T, 2>(matrix, block, inputs, &panel_rows, sums);
                block += 2;
            } else {
                walk_groups::<T, 1>(matrix, block, inputs, &panel_rows, sums);
                block += 1;
            }
        }
    }
}

fn walk_groups<T: Tile, const NB: usize>(
    matrix: &Packed,
    block: usize,
    inputs: &Activations,
    rows: &Range<usize>,
    sums: &mut [BlockSums],
) {
    let shape = matrix.shape();
    for start in (0..shape.spans()).step_by(CHUNK_GROUPS) {
        let groups = start..(start + CHUNK_GROUPS).min(shape.spans());
        let parts: [Part<'_>; NB] =
            std::array::from_fn(|n| part(matrix.block(block + n), shape, &groups));
        // The next chunk of these blocks, or the first of the next ones.
        let next = parts.map(|part| {
            if groups.end < shape.spans() {
                part.after(part.codes.len(), part.scales.len())
            } else {
                let stride = NB * shape.block_bytes();
                let (codes, scales) = (shape.codec.code_bytes(), shape.codec.scale_bytes());
                part.after(stride - start * codes, stride - start * scales)
            }
        });
        T::multiply(&Step { parts, next, inputs, rows: rows.clone(), groups }, sums);
    }
}

fn part<'a>(block: &'a [u8], shape: Shape, groups: &Range<usize>) -> Part<'a> {
    let (codes, rest) = block.split_at(shape.group_scales_offset());
    let of = |bytes: &'a [u8], each: usize| &bytes[groups.start * each..groups.end * each];
    Part { codes: of(codes, shape.codec.code_bytes()), scales: of(rest, shape.codec.scale_bytes()) }
}

impl RowProduct<'_> {
    /// Writes the dequantised outputs of some pairs of blocks: `f32(sum) · (row scale · scale)`.
    /// Weights are fetched ahead as `hint` says.
    ///
    /// # Safety
    /// Nobody else has these columns of `out` meanwhile.
    pub(crate) unsafe fn multiply(
        &self,
        pairs: Range<usize>,
        scale: f32,
        hint: Hint,
        out: &Columns<'_>,
    ) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the columns are the caller's part; `new` has seen that there is AVX-512.
        unsafe {
            match self.shape().codec {
                Codec::W8 => avx512::row::product::<avx512::row::W8>(self, pairs, scale, hint, out),
                Codec::W4 => {
                    avx512::row::product::<w4::avx512::row::W4>(self, pairs, scale, hint, out);
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (pairs, scale, hint, out);
    }
}
