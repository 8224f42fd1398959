//! Products of i16 vectors with lines of 16 lanes × 4 codes.
//!
//! Queries with keys: lanes are positions, depth runs over elements, keys are `code + 128` and
//! the vectors lie in ±32512. Weights with values: lanes are elements, depth runs over positions,
//! values are signed codes and the vectors lie in 0..=32767. Either way a sum fits i32.

use std::ops::Range;

use super::scores::Span;
use crate::isa::per_isa;
use crate::isa::{Isa, Kind};
use crate::kv::{Head, KEY_SIDE, SPAN};
use crate::line::{DEPTH, LANES, Line};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

/// Blocks and vectors that are multiplied together, about.
const BLOCKS_TOGETHER: usize = 4;
const VECTORS_TOGETHER: usize = 3;

/// Which operand of a product is signed how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signs {
    /// Lines of `code + 128`, vectors in ±32512 = 255·high + low with signed planes.
    Keys,
    /// Lines of signed codes, vectors in 0..=32767 = 256·high + low with unsigned planes.
    Values,
}

impl Signs {
    /// Returns the bits to flip in a byte of a line so that it is a signed code: 0 where it is one
    /// already.
    const fn flip(self) -> u8 {
        match self {
            Self::Keys => 0x80,
            Self::Values => 0,
        }
    }
}

/// Lines that will be read next, still to be fetched into the first-level cache.
///
/// They are asked for at an even pace while others are multiplied and weighed: so memory is always
/// busy, and what is asked for at once never exceeds what a core can have under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead<'a> {
    first: &'a [Line],
    then: &'a [Line],
    pub(super) pace: Pace,
}

/// Lines that are fetched in each step of the products of a chunk, and for each line of scores.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) step: usize,
    pub(super) scores: usize,
}

impl<'a> Ahead<'a> {
    /// Returns the lines that are read after the keys of `head`: its values, and the keys of
    /// `next`; they are fetched while `queries` queries are multiplied with those keys for the
    /// first time.
    pub(super) fn new(head: &Head<'a>, next: Option<Head<'a>>, queries: usize) -> Self {
        let (first, then) = (head.value_half, next.map_or(&[] as &[Line], |next| next.key_half));
        let lines = first.len() + then.len();
        // Three tenths of them with keys, as many with values, the rest with scores.
        let steps = (head.keys.len() + head.values.len()) / BLOCKS_TOGETHER;
        let steps = steps * queries.div_ceil(VECTORS_TOGETHER);
        let scores = queries * head.spans * (SPAN / LANES);
        let step = (lines * 3).div_ceil((steps * 5).max(1));
        let scores = (lines * 2).div_ceil((scores * 5).max(1));
        Self { first, then, pace: Pace { step, scores } }
    }

    /// Returns at most the next `count` lines, of the values or of the keys, and goes on behind
    /// them.
    pub(super) fn take(&mut self, count: usize) -> &'a [Line] {
        if self.first.is_empty() {
            self.first = std::mem::take(&mut self.then);
        }
        let (now, later) = self.first.split_at(count.min(self.first.len()));
        self.first = later;
        now
    }

    /// Fetches at most the next `count` lines.
    pub(super) fn fetch(&mut self, count: usize) {
        fetch_all(self.take(count));
    }
}

/// Starts to fetch some lines.
pub(super) fn fetch_all(lines: &[Line]) {
    lines.iter().for_each(|line| fetch(line));
}

/// Starts to fetch the line at an address, which need not be one.
#[inline(always)]
pub(super) fn fetch(line: *const Line) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it cannot fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Vectors to be multiplied with lines, in the form the instruction set reads.
#[derive(Clone, Debug)]
pub(super) struct Vectors {
    isa: Isa,
    signs: Signs,
    count: usize,
    len: usize,
    /// Elements of a vector, rounded up to a multiple of 4.
    depth: usize,
    /// The codes, as `[count][depth]`.
    codes: Vec<i16>,
    /// `[count][high, low][depth]`, for AVX-512 only.
    planes: Vec<u8>,
    /// The numbers that sums start from, for lines of `code + 128`: −128·Σ, of the vector or of its
    /// planes.
    offsets: Vec<[i32; 2]>,
}

impl Default for Vectors {
    /// Returns an empty list of vectors.
    fn default() -> Self {
        Self {
            isa: Isa::PORTABLE,
            signs: Signs::Keys,
            count: 0,
            len: 0,
            depth: 0,
            codes: Vec::new(),
            planes: Vec::new(),
            offsets: Vec::new(),
        }
    }
}

impl Vectors {
    /// Makes these `count` vectors of `len` elements, which are to be set: until then they hold
    /// zeros or what was there.
    pub(super) fn reset(&mut self, isa: Isa, signs: Signs, count: usize, len: usize) {
        let same = (self.isa, self.signs, self.len) == (isa, signs, len);
        self.count = count;
        if same && count <= self.offsets.len() {
            return;
        }
        // Elements between `len` and `depth` are never set.
        let depth = len.next_multiple_of(DEPTH);
        let planes = if uses_planes(isa) { count * depth * 2 } else { 0 };
        (self.isa, self.signs, self.len, self.depth) = (isa, signs, len, depth);
        self.codes = vec![0; if uses_planes(isa) { 0 } else { count * depth }];
        self.planes = vec![0; planes];
        self.offsets = vec![[0; 2]; count];
    }

    /// Sets the elements of a vector from `first` on.
    pub(super) fn set(&mut self, vector: usize, first: usize, codes: &[i16]) {
        if !uses_planes(self.isa) {
            self.codes[vector * self.depth + first..][..codes.len()].copy_from_slice(codes);
            if self.signs == Signs::Keys {
                let sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
                self.offsets[vector] = [-128 * sum, 0];
            }
            return;
        }
        let (isa, signs) = (self.isa, self.signs);
        let [high, low] = self.planes_mut(vector);
        let (high, low) = (&mut high[first..], &mut low[first..]);
        match signs {
            Signs::Keys => {
                let mut offsets = [0; 2];
                split_255(isa, codes, high, low, &mut offsets);
                self.offsets[vector] = offsets;
            }
            Signs::Values => split_256(isa, codes, high, low),
        }
    }

    /// Returns the high and the low bytes of a vector.
    pub(super) fn planes_mut(&mut self, vector: usize) -> [&mut [u8]; 2] {
        let planes = &mut self.planes[vector * 2 * self.depth..][..2 * self.depth];
        planes.split_at_mut(self.depth).into()
    }
}

const fn uses_planes(isa: Isa) -> bool {
    match isa.0 {
        Kind::Portable => false,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 | Kind::AvxVnni => false,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => true,
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => false,
    }
}

per_isa! {
    fn split_255(isa: Isa, codes: &[i16], high: &mut [u8], low: &mut [u8], offsets: &mut [i32; 2]) {
        let mut sums = [0_i32; 2];
        for ((&code, high), low) in codes.iter().zip(high).zip(low) {
            let h = (i32::from(code) * 257 + 0x8000) >> 16;
            let l = i32::from(code) - 255 * h;
            sums[0] += h;
            sums[1] += l;
            (*high, *low) = (h as u8, l as u8);
        }
        *offsets = sums.map(|sum| -128 * sum);
    }
}

per_isa! {
    fn split_256(isa: Isa, codes: &[i16], high: &mut [u8], low: &mut [u8]) {
        for ((&code, high), low) in codes.iter().zip(high).zip(low) {
            (*high, *low) = ((code >> 8) as u8, code as u8);
        }
    }
}

/// A product of vectors with a panel of lines.
struct Product<'a> {
    vectors: &'a Vectors,
    panel: Panel<'a>,
}

/// Lines of neighbouring steps, `side` blocks of 16 lanes side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel<'a> {
    /// The lines, as `[steps][side]`.
    pub(super) lines: &'a [Line],
    pub(super) steps: usize,
    pub(super) side: usize,
    /// The step of the vectors that the first is multiplied with.
    pub(super) first: usize,
}

impl<'a> Product<'a> {
    fn new(vectors: &'a Vectors, panel: Panel<'a>) -> Self {
        assert_eq!(panel.lines.len(), panel.steps * panel.side, "whole steps");
        let product = Self { vectors, panel };
        assert!(product.elements().end <= vectors.depth, "elements of a product");
        product
    }

    /// Returns the lines of a block.
    #[inline]
    fn block(&self, block: usize) -> impl Iterator<Item = &Line> {
        self.panel.lines[block..].iter().step_by(self.panel.side)
    }

    /// Returns the elements of `N` neighbouring vectors that are multiplied.
    #[inline]
    fn codes<const N: usize>(&self, vector: usize) -> [&[i16]; N] {
        let Vectors { codes, depth, .. } = self.vectors;
        std::array::from_fn(|n| &codes[(vector + n) * depth..][self.elements()])
    }

    const fn elements(&self) -> Range<usize> {
        self.panel.first * DEPTH..(self.panel.first + self.panel.steps) * DEPTH
    }

    /// Multiplies with an instruction set that does not fetch on the way.
    fn multiply_any(&self, sums: &mut [i32], width: usize, ahead: &mut Ahead<'_>) {
        ahead.fetch(self.panel.lines.len() / BLOCKS_TOGETHER * ahead.pace.step);
        match self.vectors.isa.0 {
            Kind::Portable => portable::multiply(self, sums, width),
            #[cfg(target_arch = "x86_64")]
            _ => avx2::multiply(self, sums, width),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => neon::multiply(self, sums, width),
        }
    }
}

/// Multiplies weights with the values of a panel: writes the sums of every vector with the lanes
/// of block `b` to `sums[vector · width + 16 · b]` and following.
pub(super) fn sum_values(
    weights: &Vectors,
    panel: Panel<'_>,
    sums: &mut [i32],
    width: usize,
    ahead: &mut Ahead<'_>,
) {
    let product = Product::new(weights, panel);
    #[cfg(target_arch = "x86_64")]
    if weights.isa.0 == Kind::Avx512 {
        return avx512::sum_values(&product, sums, width, ahead);
    }
    product.multiply_any(sums, width, ahead);
}

/// Multiplies queries with the keys of a span: writes the scores of the positions that they see.
pub(super) fn score_keys(queries: &Vectors, keys: &[Line], span: Span<'_>, ahead: &mut Ahead<'_>) {
    let panel = Panel { lines: keys, steps: keys.len() / KEY_SIDE, side: KEY_SIDE, first: 0 };
    let product = Product::new(queries, panel);
    #[cfg(target_arch = "x86_64")]
    if queries.isa.0 == Kind::Avx512 {
        return avx512::score_keys(&product, span, ahead);
    }
    let mut dots = [[0; SPAN]; super::VECTORS];
    product.multiply_any(dots.as_flattened_mut(), SPAN, ahead);
    span.score(queries.isa, &dots);
}
