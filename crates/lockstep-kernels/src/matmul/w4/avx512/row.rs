//! One input row, in the order of memory: w4 has a line of scales for eight lines of codes, and the
//! scales of a block lie behind its codes.
//!
//! To read both side by side would be twice the streams, and a leap at the end of each block. So
//! the sums of codes wait on the stack, 128 bytes for each span, until the scales are read.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use lockstep_exact::matrix::{BLOCK_ROWS, Codec, GROUP};

use super::super::{HALF, HALVES, LINES};
use super::{CODE_BYTES, SCALE_BYTES, joined};
use crate::matmul::CHUNK_GROUPS;
use crate::matmul::activations::Halves;
use crate::matmul::avx512::row::{Fetch, Input, Layout, RowSums, add};

/// Spans whose sums wait for scales: those of two blocks are 32 KiB.
const WAITING: usize = 4 * CHUNK_GROUPS;

/// The sums of the codec w4.
pub(in crate::matmul) struct W4;

/// Sums of the high and of the low plane of a span, each as pairs of i16: of both groups.
type Pairs = [__m512i; 2];

// Codes are -8..=7.
const _: () = assert!(8 * 127 * HALF <= i16::MAX as usize && HALVES == 2);

impl RowSums for W4 {
    const CODEC: Codec = Codec::W4;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn sums<F: Fetch, const NB: usize>(
        layout: Layout,
        input: Input,
        blocks: [*const u8; NB],
    ) -> [[__m512i; 2]; NB] {
        let mut sums = [[_mm512_setzero_si512(); 2]; NB];
        let mut waiting = [const { MaybeUninit::<[Pairs; NB]>::uninit() }; WAITING];
        for start in (0..layout.spans).step_by(WAITING) {
            let waiting = &mut waiting[..(layout.spans - start).min(WAITING)];
            for (at, waiting) in (start..).zip(&mut *waiting) {
                // SAFETY: the span is in the blocks and in the input.
                waiting.write(unsafe { span_sums::<F, NB>(blocks, input, at) });
            }
            for (chunk, waiting) in waiting.chunks(CHUNK_GROUPS).enumerate() {
                let mut totals = [Totals::zero(); NB];
                for (at, waiting) in (start + chunk * CHUNK_GROUPS..).zip(waiting) {
                    for n in 0..NB {
                        // SAFETY: the span is in the block and in the input, and its sums have
                        // been written.
                        unsafe {
                            let scales = blocks[n].add(layout.scales + at * SCALE_BYTES);
                            let halves = &*input.halves.add(at);
                            totals[n].add::<F>(waiting.assume_init_ref()[n], scales, halves);
                        }
                    }
                }
                for n in 0..NB {
                    sums[n] = add(sums[n], joined(totals[n].planes, totals[n].shifted));
                }
            }
        }
        for block in blocks {
            // SAFETY: there is AVX-512.
            unsafe { F::ahead(block.wrapping_add(layout.row_scales)) };
        }
        sums
    }
}

/// Computes the sums of the codes of a span with the input.
///
/// # Safety
/// The blocks and the input have a span `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn span_sums<F: Fetch, const NB: usize>(
    blocks: [*const u8; NB],
    input: Input,
    at: usize,
) -> [Pairs; NB] {
    let low_half = _mm512_set1_epi8(15);
    // SAFETY: as the caller says.
    let (planes, halves) = unsafe { (input.planes.add(at * 2 * GROUP), &*input.halves.add(at)) };
    let mut sums = [[[_mm512_setzero_si512(); HALVES]; 2]; NB];
    for h in 0..HALVES {
        for n in 0..NB {
            for plane in 0..2 {
                sums[n][plane][h] = _mm512_set1_epi32(halves.offsets[h][plane]);
            }
        }
        for line in h * LINES..(h + 1) * LINES {
            for n in 0..NB {
                let codes = blocks[n].wrapping_add(at * CODE_BYTES + line * 64);
                // SAFETY: a span has 8 lines.
                let both = unsafe { _mm512_loadu_si512(codes.cast()) };
                // Unpacking fills the window of instructions: without a hint memory has too little
                // under way. SAFETY: there is AVX-512.
                unsafe { F::ahead(codes) };
                let high = _mm512_srli_epi16(both, 4);
                let quads = [_mm512_and_si512(both, low_half), _mm512_and_si512(high, low_half)];
                for quad in 0..2 {
                    for plane in 0..2 {
                        // SAFETY: 128 bytes per span.
                        let x = unsafe { planes.add(plane * GROUP + line * 8 + quad * 4) };
                        // SAFETY: as above.
                        let x = _mm512_set1_epi32(unsafe { x.cast::<i32>().read_unaligned() });
                        sums[n][plane][h] = _mm512_dpbusd_epi32(sums[n][plane][h], quads[quad], x);
                    }
                }
            }
        }
    }
    // Not `map`: its closure becomes a call.
    let mut out = [[low_half; 2]; NB];
    for n in 0..NB {
        out[n] = [pairs(sums[n][0]), pairs(sums[n][1])];
    }
    out
}

/// Joins the sums of two groups, which fit i16, to pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn pairs([first, second]: [__m512i; HALVES]) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, first, _mm512_slli_epi32(second, 16))
}

/// The sums of a block in 32 bits, over at most [`CHUNK_GROUPS`] spans.
#[derive(Clone, Copy)]
struct Totals {
    /// Scaled sums of the high and of the low plane.
    planes: [__m512i; 2],
    /// Scaled shifts with coarse and with fine parts.
    shifted: [__m512i; 2],
}

impl Totals {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zero() -> Self {
        Self { planes: [_mm512_setzero_si512(); 2], shifted: [_mm512_setzero_si512(); 2] }
    }

    /// Adds the sums of one more span.
    ///
    /// # Safety
    /// `scales` may be read for 64 bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn add<F: Fetch>(&mut self, sums: Pairs, scales: *const u8, halves: &Halves) {
        // SAFETY: there is AVX-512.
        unsafe { F::ahead(scales) };
        // SAFETY: as the caller says.
        let shifts = unsafe { _mm256_loadu_si256(scales.add(2 * BLOCK_ROWS).cast()) };
        // SAFETY: as the caller says.
        let scales = _mm512_cvtepu8_epi16(unsafe { _mm256_loadu_si256(scales.cast()) });
        let shifts = _mm512_mullo_epi16(scales, _mm512_cvtepi8_epi16(shifts));
        let parts = [halves.coarse, halves.fine];
        for i in 0..2 {
            self.planes[i] = _mm512_dpwssd_epi32(self.planes[i], sums[i], scales);
            let part = _mm512_set1_epi32(parts[i]);
            self.shifted[i] = _mm512_dpwssd_epi32(self.shifted[i], shifts, part);
        }
    }
}
