//! Scores: products of queries and keys as numbers, and the largest of them.
//!
//! Keys are multiplied a *span* at a time, 64 positions. What a query does not see scores minus
//! infinity, which weighs nothing.

use std::ops::Range;

use lockstep_exact::kv::PAGE;

use super::VECTORS;
use crate::isa::Isa;
use crate::isa::per_isa;
use crate::kv::SPAN;
use crate::line::LANES;

/// Bits of 2^20, the smallest magnitude of a score that overflows.
const OVERFLOW_BITS: u32 = (127 + 20) << 23;
/// 1.5 · 2^23: adding it rounds to an integer, which the low bits of the sum then hold.
pub(super) const MAGIC: f32 = 12_582_912.0;

/// The scores of a query with a chunk, as far as they have been computed, and what was found.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Scores {
    /// The scale of the query.
    pub(super) scale: f32,
    /// The positions of the chunk that it sees.
    pub(super) seen: Range<usize>,
    /// Bits of the largest scores plus [`MAGIC`].
    pub(super) top_bits: [i32; LANES],
    /// The bits of the largest magnitude in each lane.
    pub(super) largest: [u32; LANES],
    /// The scores, which later become weights.
    pub(super) of: [f32; PAGE],
}

/// A span of a chunk and the queries whose scores it gives.
pub(super) struct Span<'a> {
    /// The first position, counted from the chunk's first.
    pub(super) first: usize,
    pub(super) key_scales: &'a [f32; SPAN],
    pub(super) scores: &'a mut [Scores],
}

impl Default for Scores {
    fn default() -> Self {
        let (top_bits, largest) = ([i32::MIN; LANES], [0; LANES]);
        Self { scale: 0.0, seen: 0..0, top_bits, largest, of: [0.0; PAGE] }
    }
}

impl Scores {
    /// Begins a chunk of which a query of this scale sees the positions `seen`.
    pub(super) const fn start(&mut self, scale: f32, seen: Range<usize>) {
        (self.scale, self.seen) = (scale, seen);
        (self.top_bits, self.largest) = ([i32::MIN; LANES], [0; LANES]);
    }

    /// Bits of the largest score plus [`MAGIC`], of a query that has seen something, unless a
    /// score is too large to be exact.
    pub(super) fn top_bits(&self, isa: Isa) -> Option<i32> {
        let (top_bits, largest) = largest(isa, &self.top_bits, &self.largest);
        (largest < OVERFLOW_BITS).then_some(top_bits)
    }

    /// Returns the positions of a span that are seen, counted from its first.
    pub(super) fn in_span(&self, first: usize) -> Range<u32> {
        let place = |position: usize| position.saturating_sub(first).min(SPAN) as u32;
        place(self.seen.start)..place(self.seen.end)
    }
}

impl Span<'_> {
    /// Computes the scores of the positions from the dot products.
    pub(super) fn score(self, isa: Isa, dots: &[[i32; SPAN]; VECTORS]) {
        for (dots, scores) in dots.iter().zip(self.scores) {
            score(isa, dots, self.key_scales, self.first, scores);
        }
    }
}

per_isa! {
    /// Computes `t = f32(dot) · (query_scale · key_scale)`.
    fn score(
        isa: Isa,
        dots: &[i32; SPAN],
        key_scales: &[f32; SPAN],
        first: usize,
        scores: &mut Scores,
    ) {
        let seen = scores.in_span(first);
        let Scores { scale, top_bits, largest, of, .. } = scores;
        let of = &mut of[first..][..SPAN];
        for block in 0..SPAN / LANES {
            for lane in 0..LANES {
                let at = block * LANES + lane;
                let t = dots[at] as f32 * (*scale * key_scales[at]);
                let is_seen = seen.start <= at as u32 && (at as u32) < seen.end;
                let magnitude = if is_seen { t.to_bits() & 0x7fff_ffff } else { 0 };
                let t = if is_seen { t } else { f32::NEG_INFINITY };
                largest[lane] = largest[lane].max(magnitude);
                top_bits[lane] = top_bits[lane].max((t + MAGIC).to_bits().cast_signed());
                of[at] = t;
            }
        }
    }
}

per_isa! {
    fn largest(isa: Isa, top_bits: &[i32; LANES], magnitudes: &[u32; LANES]) -> (i32, u32) {
        let top_bits = top_bits.iter().fold(i32::MIN, |most, &bits| most.max(bits));
        (top_bits, magnitudes.iter().fold(0, |most, &bits| most.max(bits)))
    }
}
