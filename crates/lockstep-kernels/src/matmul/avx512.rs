//! AVX-512 VNNI: `vpdpbusd` of 16 rows × 4 columns of u8 codes with 4 broadcast i8 inputs.
//!
//! A tile is up to 6 input rows × 2 blocks of 16 weight rows; each 64-byte weight load feeds both
//! planes of every input row. `vpdpbusd` does not saturate. Accumulators start at −128·Σx of the
//! group, which undoes the +128 in the stored codes, so a group's plane sum is at most
//! 64·127·127, its scaled form 63 times that, and 32 groups of those fit an i32 before they go to
//! the i64 sums.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by all loops")]

use std::arch::x86_64::*;
use std::marker::PhantomData;

use lockstep_exact::matrix::{BLOCK_ROWS, GROUP};

use super::{BlockSums, Next, Part, Step, Tile};

pub(super) mod row;

/// Only named where the processor has AVX-512 F, BW, DQ, VL and VNNI.
pub(super) struct Tiles;

/// Columns per 32-bit lane of `vpdpbusd`.
const LANE: usize = 4;
/// Input rows of the largest tile: 6 rows × 2 blocks × 2 planes are 24 of the 32 registers.
const ROWS: usize = 6;

impl Tile for Tiles {
    fn multiply<const NB: usize>(step: &Step<'_, NB>, sums: &mut [BlockSums]) {
        // SAFETY: `Tiles` is only named where the processor has these instructions.
        unsafe { multiply_rows::<Self, NB>(step, sums) };
    }
}

/// The inner loop of one codec: the products of some blocks with some input rows.
pub(super) trait RowTile {
    /// Lines of codes in 64 columns, and bytes of scales.
    const LINES: usize;
    const SCALE_BYTES: usize;

    /// Adds the products of `NB` blocks with the `MR` input rows from `row` on.
    ///
    /// # Safety
    /// The processor has these instructions.
    unsafe fn tile<const MR: usize, const NB: usize>(
        step: &Step<'_, NB>,
        row: usize,
        ahead: Ahead<Self>,
        sums: &mut [BlockSums],
    );
}

/// Cuts the rows of a step into tiles.
///
/// # Safety
/// The processor has these instructions.
pub(super) unsafe fn multiply_rows<T: RowTile, const NB: usize>(
    step: &Step<'_, NB>,
    sums: &mut [BlockSums],
) {
    let count = step.rows.len();
    let tiles = count.div_ceil(ROWS);
    for t in 0..tiles {
        let row = step.rows.start + count * t / tiles;
        let end = step.rows.start + count * (t + 1) / tiles;
        let ahead = Ahead::of(t, tiles, step.groups.len());
        // SAFETY: as the caller says.
        unsafe {
            match end - row {
                1 => T::tile::<1, NB>(step, row, ahead, sums),
                2 => T::tile::<2, NB>(step, row, ahead, sums),
                3 => T::tile::<3, NB>(step, row, ahead, sums),
                4 => T::tile::<4, NB>(step, row, ahead, sums),
                5 => T::tile::<5, NB>(step, row, ahead, sums),
                6 => T::tile::<6, NB>(step, row, ahead, sums),
                other => unreachable!("{count} rows were cut into a tile of {other}"),
            }
        }
    }
}

impl RowTile for Tiles {
    const LINES: usize = GROUP / LANE;
    const SCALE_BYTES: usize = BLOCK_ROWS;

    unsafe fn tile<const MR: usize, const NB: usize>(
        step: &Step<'_, NB>,
        row: usize,
        ahead: Ahead<Self>,
        sums: &mut [BlockSums],
    ) {
        // SAFETY: as the caller says.
        unsafe { tile::<MR, NB>(step, row, ahead, sums) };
    }
}

/// Bytes from the weights that a lone tile multiplies to those that it brings into the cache: what
/// memory has under way, and no more, because lines that come early push others out.
const NEAR: usize = 3 * 1024;

/// Which lines of weights a tile brings into the cache.
pub(super) struct Ahead<T: ?Sized> {
    lines: Lines,
    codec: PhantomData<T>,
}

impl<T: ?Sized> Clone for Ahead<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Ahead<T> {}

#[derive(Clone, Copy)]
enum Lines {
    /// The lines that it needs next, into the first-level cache: it is the only tile of its step.
    Near,
    /// A share of what the next step reads. All tiles of a step together prefetch all of it,
    /// evenly: memory is busy all the time, and never overloaded.
    Shared {
        /// The earliest byte of the share.
        start: usize,
        /// The number of lines for each group of columns.
        lines: usize,
    },
}

impl<T: RowTile + ?Sized> Ahead<T> {
    const fn of(tile: usize, tiles: usize, groups: usize) -> Self {
        let lines = T::LINES.div_ceil(tiles);
        let lines = match tiles {
            1 => Lines::Near,
            // Past the last line there is nothing left to bring.
            _ if tile * lines >= T::LINES => Lines::Shared { start: 0, lines: 0 },
            _ => Lines::Shared { start: tile * groups * lines * 64, lines },
        };
        Self { lines, codec: PhantomData }
    }

    /// Brings what is due at one line of a group of `part`, which `next` follows.
    #[inline(always)]
    pub(super) fn bring(self, part: Part<'_>, next: Next, group: usize, step: usize) {
        match self.lines {
            Lines::Near => {
                let to = (group * T::LINES + step) * 64 + NEAR;
                let len = part.codes.len();
                let is_here = to < len;
                let line = if is_here { part.codes.as_ptr() } else { next.codes };
                let line = line.wrapping_add(if is_here { to } else { to - len });
                // SAFETY: prefetching may name any address; `Tiles` is only named where there is
                // SSE.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
            }
            Lines::Shared { start, lines } => {
                if step < lines {
                    let line = next.codes.wrapping_add(start + (group * lines + step) * 64);
                    // What many tiles read stays out of their way in the first-level cache.
                    // SAFETY: as above.
                    unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
                }
            }
        }
    }

    /// Brings the scales of the next step that are due at the start of a group.
    #[inline(always)]
    pub(super) fn bring_scales(self, next: Next, group: usize) {
        let at = group * T::SCALE_BYTES;
        if matches!(self.lines, Lines::Near) && at.is_multiple_of(64) {
            let line = next.scales.wrapping_add(at);
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
        }
    }
}

/// Adds the products of `NB` blocks with the `MR` input rows from `row` on.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn tile<const MR: usize, const NB: usize>(
    step: &Step<'_, NB>,
    row: usize,
    ahead: Ahead<Tiles>,
    sums: &mut [BlockSums],
) {
    let groups = step.groups.len();
    let first = step.groups.start;
    let inputs = step.inputs.planes_from::<MR>(row, first);
    let offsets = step.inputs.offsets_from::<MR>(row, first);
    // Everything below reads inside these lengths.
    assert!(inputs.iter().all(|x| x.len() >= groups * 2 * GROUP));
    assert!(offsets.iter().all(|x| x.len() >= groups * 2));
    assert!(step.parts.iter().all(|part| part.codes.len() == groups * GROUP * BLOCK_ROWS));
    assert!(step.parts.iter().all(|part| part.scales.len() == groups * BLOCK_ROWS));
    let inputs = inputs.map(<[i8]>::as_ptr);
    let offsets = offsets.map(<[i32]>::as_ptr);
    let codes = step.parts.map(|part| part.codes.as_ptr());
    let scales = step.parts.map(|part| part.scales.as_ptr());
    let mut totals = [[[_mm512_setzero_si512(); 2]; NB]; MR];
    for g in 0..groups {
        step.next.iter().for_each(|next| ahead.bring_scales(*next, g));
        let mut acc = [[[_mm512_setzero_si512(); 2]; NB]; MR];
        for r in 0..MR {
            // SAFETY: two offsets per group, asserted above.
            let [high, low] = [0, 1].map(|plane| unsafe { *offsets[r].add(g * 2 + plane) });
            acc[r] = [[_mm512_set1_epi32(high), _mm512_set1_epi32(low)]; NB];
        }
        for s in 0..GROUP / LANE {
            let at = (g * (GROUP / LANE) + s) * 64;
            let mut w = [_mm512_setzero_si512(); NB];
            for n in 0..NB {
                // SAFETY: 64 bytes per step, 16 steps per group, `groups` groups: asserted above.
                w[n] = unsafe { _mm512_loadu_si512(codes[n].add(at).cast()) };
                ahead.bring(step.parts[n], step.next[n], g, s);
            }
            for r in 0..MR {
                for plane in 0..2 {
                    let at = g * 2 * GROUP + plane * GROUP + s * LANE;
                    // SAFETY: 128 bytes per group, `groups` groups: asserted above.
                    let x = unsafe { inputs[r].add(at).cast::<i32>().read_unaligned() };
                    let x = _mm512_set1_epi32(x);
                    for n in 0..NB {
                        acc[r][n][plane] = _mm512_dpbusd_epi32(acc[r][n][plane], w[n], x);
                    }
                }
            }
        }
        for n in 0..NB {
            // SAFETY: 16 scales per group, asserted above.
            let scale = unsafe { _mm_loadu_si128(scales[n].add(g * BLOCK_ROWS).cast()) };
            let scale = _mm512_cvtepu8_epi32(scale);
            for r in 0..MR {
                for plane in 0..2 {
                    let scaled = _mm512_mullo_epi32(acc[r][n][plane], scale);
                    totals[r][n][plane] = _mm512_add_epi32(totals[r][n][plane], scaled);
                }
            }
        }
    }
    for r in 0..MR {
        for n in 0..NB {
            let sums = &mut sums[n * step.inputs.rows() + row + r];
            add_sums(sums, step.is_first(), joined(totals[r][n]));
        }
    }
}

/// Numbers in 64 bits: of 8 rows, and of the other 8.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn wide(lanes: __m512i) -> [__m512i; 2] {
    [_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64(lanes, 1)]
        .map(|half| _mm512_cvtepi32_epi64(half))
}

/// Returns `255·high + low` in 64 bits: of 8 rows, and of the other 8.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn joined([high, low]: [__m512i; 2]) -> [__m512i; 2] {
    let (high, low) = (wide(high), wide(low));
    std::array::from_fn(|half| {
        let times_255 = _mm512_sub_epi64(_mm512_slli_epi64(high[half], 8), high[half]);
        _mm512_add_epi64(times_255, low[half])
    })
}

/// `sums += add`, of 8 rows and of the other 8; `sums` count as 0 if this is the first.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn add_sums(sums: &mut BlockSums, is_first: bool, add: [__m512i; 2]) {
    for (half, add) in sums.chunks_exact_mut(8).zip(add) {
        let at = half.as_mut_ptr().cast::<__m512i>();
        // SAFETY: a chunk of eight i64 is 64 bytes.
        unsafe {
            let before = if is_first { _mm512_setzero_si512() } else { _mm512_loadu_si512(at) };
            _mm512_storeu_si512(at.cast(), _mm512_add_epi64(before, add));
        }
    }
}
