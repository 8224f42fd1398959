//! One input row: weights stream past once, so the product is as fast as memory lets it be. Here is
//! the loop over blocks of both codecs, and what w8 brings to it.
//!
//! What a core has under way to memory is bounded by its window of instructions, and the window
//! fills with whatever stands between two loads. So there is one loop from block to block, nothing
//! is stored but the result, and dequantisation happens in registers. Two blocks that are far apart
//! are two streams in order of memory, which the processor's prefetchers follow better than one.

use std::arch::x86_64::*;
use std::ops::Range;

use lockstep_exact::matrix::{BLOCK_ROWS, Codec, GROUP};

use super::{LANE, joined};
use crate::matmul::activations::Halves;
use crate::matmul::fetch::WIDE_SPANS;
use crate::matmul::row::RowProduct;
use crate::matmul::{CHUNK_GROUPS, Columns, Hint};

/// The way in which weights are prefetched ahead of the product: a [`Hint`] as a type, so that each
/// has a loop of its own without a branch.
pub(in crate::matmul) trait Fetch {
    /// Asks for what follows `line`, a cache line of weights that is multiplied now.
    ///
    /// # Safety
    /// The processor has SSE. The address may be any.
    unsafe fn ahead(line: *const u8);
}

/// The hint [`Hint::Near`] as a type.
struct Near;
/// The hint [`Hint::Staged`] as a type.
struct Staged;
/// The hint [`Hint::NonTemporal`] as a type.
struct NonTemporal;
/// No hint: the processor's prefetchers alone.
struct Nothing;

/// Bytes from the weights that are multiplied to those that are fetched.
const NEAR_BYTES: usize = 2 * 1024;
const STAGED_BYTES: [usize; 2] = [4 * 1024, 512];
const NON_TEMPORAL_BYTES: usize = 2 * 1024;

impl Fetch for Near {
    #[inline(always)]
    unsafe fn ahead(line: *const u8) {
        // SAFETY: as the caller says.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(NEAR_BYTES).cast()) };
    }
}

impl Fetch for Staged {
    #[inline(always)]
    unsafe fn ahead(line: *const u8) {
        // SAFETY: as the caller says.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(STAGED_BYTES[0]).cast());
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(STAGED_BYTES[1]).cast());
        }
    }
}

impl Fetch for NonTemporal {
    #[inline(always)]
    unsafe fn ahead(line: *const u8) {
        // SAFETY: as the caller says.
        unsafe { _mm_prefetch::<_MM_HINT_NTA>(line.wrapping_add(NON_TEMPORAL_BYTES).cast()) };
    }
}

impl Fetch for Nothing {
    #[inline(always)]
    unsafe fn ahead(_: *const u8) {}
}

/// The sums of a row's product for one codec.
pub(in crate::matmul) trait RowSums {
    /// The codec whose sums these are.
    const CODEC: Codec;

    /// Returns the sums of each block's first 8 rows and of its other 8 with the input, while `F`
    /// fetches the weights that come next.
    ///
    /// # Safety
    /// The processor has the instructions; `layout` is that of the blocks, which may be read, and
    /// the input holds all its spans.
    unsafe fn sums<F: Fetch, const NB: usize>(
        layout: Layout,
        input: Input,
        blocks: [*const u8; NB],
    ) -> [[__m512i; 2]; NB];
}

/// The input row, by addresses.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Input {
    /// The planes, as `[spans][high, low][64]`.
    pub(in crate::matmul) planes: *const i8,
    /// The offsets, as `[spans][high, low]`.
    offsets: *const i32,
    /// The numbers for w4, as `[spans]`.
    pub(in crate::matmul) halves: *const Halves,
}

/// The offsets of the parts of a block.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Layout {
    /// The number of runs of 64 columns.
    pub(in crate::matmul) spans: usize,
    /// The number of bytes before the group scales.
    pub(in crate::matmul) scales: usize,
    /// The number of bytes before the row scales.
    pub(in crate::matmul) row_scales: usize,
    /// The number of bytes from one block to the next.
    stride: usize,
}

/// Writes the dequantised outputs of `pairs` for the only input row, whose scale is `scale`.
///
/// # Safety
/// The processor has the instructions, and nobody else has these columns of `out`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in crate::matmul) unsafe fn product<S: RowSums>(
    row: &RowProduct<'_>,
    pairs: Range<usize>,
    scale: f32,
    hint: Hint,
    out: &Columns<'_>,
) {
    let shape = row.shape();
    assert_eq!(shape.codec, S::CODEC, "the codec of a {shape} matrix");
    let layout = Layout {
        spans: shape.spans(),
        scales: shape.group_scales_offset(),
        row_scales: shape.row_scales_offset(),
        stride: shape.block_bytes(),
    };
    let ([planes], [offsets]) = (row.input.planes_from(0, 0), row.input.offsets_from(0, 0));
    let [halves] = row.input.halves_from(0, 0);
    // What is read below; blocks are slices of `block_bytes`.
    assert!(planes.len() >= layout.spans * 2 * GROUP && offsets.len() >= layout.spans * 2);
    assert!(halves.len() >= layout.spans);
    let input =
        Input { planes: planes.as_ptr(), offsets: offsets.as_ptr(), halves: halves.as_ptr() };
    // SAFETY: the columns are the caller's part, the rest is asserted above.
    unsafe {
        match hint {
            Hint::Near => walk::<S, Near>(row, layout, input, pairs, scale, out),
            Hint::Staged => walk::<S, Staged>(row, layout, input, pairs, scale, out),
            Hint::NonTemporal => walk::<S, NonTemporal>(row, layout, input, pairs, scale, out),
        }
    }
}

/// Multiplies one pair of blocks after the other with the input row.
///
/// # Safety
/// As [`product`]; `layout` is that of the matrix, and `input` holds all its spans.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn walk<S: RowSums, F: Fetch>(
    row: &RowProduct<'_>,
    layout: Layout,
    input: Input,
    pairs: Range<usize>,
    scale: f32,
    out: &Columns<'_>,
) {
    let block = |block| (block, row.matrix.block(block));
    for pair in pairs {
        // SAFETY: as the caller says.
        unsafe {
            match row.pair(pair) {
                (first, Some(second)) => {
                    multiply::<S, F, 2>(layout, input, [first, second].map(block), scale, out);
                }
                (alone, None) => multiply::<S, F, 1>(layout, input, [block(alone)], scale, out),
            }
        }
    }
}

/// Multiplies `NB` numbered blocks.
///
/// # Safety
/// As [`product`]; `layout` is that of `blocks`, and `input` holds all its spans.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply<S: RowSums, F: Fetch, const NB: usize>(
    layout: Layout,
    input: Input,
    blocks: [(usize, &[u8]); NB],
    scale: f32,
    out: &Columns<'_>,
) {
    // SAFETY: as the caller says.
    let sums = unsafe { S::sums::<F, NB>(layout, input, blocks.map(|(_, bytes)| bytes.as_ptr())) };
    for n in 0..NB {
        let (block, bytes) = blocks[n];
        // SAFETY: the caller's, for the columns.
        let mut stripe = unsafe { out.stripe(block * BLOCK_ROWS..(block + 1) * BLOCK_ROWS) };
        let scales = &bytes[layout.row_scales..][..BLOCK_ROWS * 4];
        // SAFETY: 16 numbers.
        let scales = unsafe { _mm512_loadu_ps(scales.as_ptr().cast()) };
        let scales = _mm512_mul_ps(scales, _mm512_set1_ps(scale));
        let halves = sums[n].map(|half| _mm512_cvtepi64_ps(half));
        let values = _mm512_insertf32x8(_mm512_castps256_ps512(halves[0]), halves[1], 1);
        let row = stripe.row(0);
        let mask = u16::MAX >> (BLOCK_ROWS - row.len());
        // SAFETY: as many numbers as the row has.
        unsafe { _mm512_mask_storeu_ps(row.as_mut_ptr(), mask, _mm512_mul_ps(values, scales)) };
    }
}

/// The sums of the codec w8.
pub(in crate::matmul) struct W8;

impl RowSums for W8 {
    const CODEC: Codec = Codec::W8;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn sums<F: Fetch, const NB: usize>(
        layout: Layout,
        input: Input,
        blocks: [*const u8; NB],
    ) -> [[__m512i; 2]; NB] {
        // SAFETY: as the caller says.
        unsafe {
            if NB > 1 && layout.spans < WIDE_SPANS {
                sums::<Nothing, NB>(layout, input, blocks)
            } else {
                sums::<F, NB>(layout, input, blocks)
            }
        }
    }
}

/// Returns the sums of some blocks of w8.
///
/// # Safety
/// As [`RowSums::sums`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn sums<F: Fetch, const NB: usize>(
    layout: Layout,
    input: Input,
    blocks: [*const u8; NB],
) -> [[__m512i; 2]; NB] {
    let mut sums = [[_mm512_setzero_si512(); 2]; NB];
    for start in (0..layout.spans).step_by(CHUNK_GROUPS) {
        let end = layout.spans.min(start + CHUNK_GROUPS);
        let mut totals = [[_mm512_setzero_si512(); 2]; NB];
        for group in start..end {
            // SAFETY: the group is in the blocks and in the input.
            unsafe { multiply_group::<F, NB>(layout, input, blocks, group, &mut totals) };
        }
        for n in 0..NB {
            sums[n] = add(sums[n], joined(totals[n]));
        }
    }
    sums
}

/// Adds the sums of 8 rows and of the other 8.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::matmul) fn add(a: [__m512i; 2], b: [__m512i; 2]) -> [__m512i; 2] {
    [_mm512_add_epi64(a[0], b[0]), _mm512_add_epi64(a[1], b[1])]
}

/// Adds a group's scaled plane sums to `totals`.
///
/// # Safety
/// `group` is one of `blocks` and of `input`, whose layout is `layout`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply_group<F: Fetch, const NB: usize>(
    layout: Layout,
    input: Input,
    blocks: [*const u8; NB],
    group: usize,
    totals: &mut [[__m512i; 2]; NB],
) {
    for block in blocks {
        bring_scales(layout, block.wrapping_add(layout.stride), group);
    }
    // SAFETY: two offsets per group.
    let offsets = [0, 1].map(|plane| unsafe { *input.offsets.add(group * 2 + plane) });
    let mut sums = [offsets.map(|offset| _mm512_set1_epi32(offset)); NB];
    for step in 0..GROUP / LANE {
        let at = (group * (GROUP / LANE) + step) * 64;
        // SAFETY: 16 lines of codes per group.
        let codes = blocks.map(|block| unsafe { _mm512_loadu_si512(block.add(at).cast()) });
        for block in blocks {
            // SAFETY: there is AVX-512.
            unsafe { F::ahead(block.wrapping_add(at)) };
        }
        for plane in 0..2 {
            let at = (group * 2 + plane) * GROUP + step * LANE;
            // SAFETY: 128 bytes per group.
            let x = unsafe { input.planes.add(at).cast::<i32>().read_unaligned() };
            let x = _mm512_set1_epi32(x);
            for n in 0..NB {
                sums[n][plane] = _mm512_dpbusd_epi32(sums[n][plane], codes[n], x);
            }
        }
    }
    for n in 0..NB {
        let scales = blocks[n].wrapping_add(layout.scales + group * BLOCK_ROWS);
        // SAFETY: 16 scales per group.
        let scales = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(scales.cast()) });
        for plane in 0..2 {
            let scaled = _mm512_mullo_epi32(sums[n][plane], scales);
            totals[n][plane] = _mm512_add_epi32(totals[n][plane], scaled);
        }
    }
}

/// Brings the scales of the block at `next` into the cache, a line at a time.
#[inline]
fn bring_scales(layout: Layout, next: *const u8, group: usize) {
    let bring = |at: usize| {
        // SAFETY: prefetching may name any address; this is only called where there is SSE.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(at).cast()) };
    };
    if (group * BLOCK_ROWS).is_multiple_of(64) {
        bring(layout.scales + group * BLOCK_ROWS);
    }
    if group + 1 == layout.spans {
        bring(layout.stride - 1);
    }
}
