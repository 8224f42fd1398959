//! Units: the products of some queries with one chunk.

use std::ops::Range;

use lockstep_exact::kv::PAGE;

use super::products::{Ahead, Panel, Signs, Vectors, score_keys, sum_values};
use super::scores::{Scores, Span};
use super::softmax::weigh;
use super::{Batch, Part, Partial, Section, VECTORS};
use crate::isa::Isa;
use crate::kv::{Head, SPAN};
use crate::line::{DEPTH, LANES};

/// The memory that a thread works with from unit to unit.
#[derive(Default)]
pub(super) struct Work {
    /// The queries of a section, `[key heads][rows and heads of the group]`, at most [`VECTORS`]
    /// together.
    queries: Vec<Queries>,
    /// The weights of a chunk's values.
    weights: Vectors,
    /// For each query the scores, which later become weights.
    scores: Vec<Scores>,
}

/// Some of the queries of a key head.
#[derive(Default)]
struct Queries {
    vectors: Vectors,
    /// The row and the scale of each query.
    of: Vec<(usize, f32)>,
}

/// A chunk of a key head, and what is to be fetched meanwhile.
struct Unit<'a> {
    chunk: usize,
    head: Head<'a>,
    ahead: Ahead<'a>,
}

impl Work {
    /// Prepares the queries of a section.
    pub(super) fn prepare(&mut self, isa: Isa, batch: &Batch<'_>, section: &Section<'_>) {
        let (vectors, group) = (batch.vectors(section.tile), batch.group_heads());
        self.scores.resize_with(VECTORS, Scores::default);
        let count = section.kv_heads.len() * vectors.div_ceil(VECTORS);
        self.queries.resize_with(count, Queries::default);
        let mut queries = self.queries.iter_mut();
        for kv_head in section.kv_heads.clone() {
            for (first, queries) in (0..vectors).step_by(VECTORS).zip(&mut queries) {
                let count = VECTORS.min(vectors - first);
                queries.vectors.reset(isa, Signs::Keys, count, batch.head_dim());
                queries.of.clear();
                for at in 0..count {
                    let vector = first + at;
                    let row = section.tile.rows.start + vector / group;
                    let place = row * batch.heads() + kv_head * group + vector % group;
                    let codes = &batch.queries[place * batch.head_dim()..][..batch.head_dim()];
                    queries.vectors.set(at, 0, codes);
                    queries.of.push((row, batch.scales[place]));
                }
            }
        }
    }

    /// Runs some units of the section that was prepared, in order.
    pub(super) fn run(
        &mut self,
        isa: Isa,
        batch: &Batch<'_>,
        section: &Section<'_>,
        part: Part<'_>,
    ) {
        let Part { units, partials, numerators } = part;
        let (vectors, padded) = (batch.vectors(section.tile), batch.padded_head());
        let partials = partials.chunks_exact_mut(vectors);
        let results = partials.zip(numerators.chunks_exact_mut(vectors * padded));
        let mut head = batch.head(section, units.start);
        for (unit, (partials, numerators)) in units.zip(results) {
            let (chunk, kv_head) = batch.place(section, unit);
            let next = (unit + 1 < section.units()).then(|| batch.head(section, unit + 1));
            let ahead = Ahead::new(&head, next, vectors.min(VECTORS));
            let mut unit = Unit { chunk, head, ahead };
            let first = (kv_head - section.kv_heads.start) * vectors.div_ceil(VECTORS);
            let results = partials.chunks_mut(VECTORS).zip(numerators.chunks_mut(VECTORS * padded));
            for (queries, (partials, numerators)) in (first..).zip(results) {
                self.attend(isa, batch, queries, &mut unit, partials, numerators);
            }
            // default: behind the last unit comes none
            head = next.unwrap_or(head);
        }
    }

    /// Computes a unit for some of its queries, given by their numbers.
    fn attend(
        &mut self,
        isa: Isa,
        batch: &Batch<'_>,
        queries: usize,
        unit: &mut Unit<'_>,
        partials: &mut [Partial],
        numerators: &mut [i32],
    ) {
        let Queries { vectors, of } = &self.queries[queries];
        let scores = &mut self.scores[..of.len()];
        for (scores, &(row, scale)) in scores.iter_mut().zip(of) {
            scores.start(scale, batch.seen(row, unit.chunk));
        }
        let Some(range) = spans(scores) else {
            partials.fill(None);
            return;
        };
        let Unit { head, ahead, .. } = unit;
        for first in range.clone().step_by(SPAN) {
            score_span(vectors, head, first, scores, ahead);
        }
        self.weights.reset(isa, Signs::Values, of.len(), PAGE);
        let value_scales = &head.value_scales()[range.clone()];
        weigh(isa, value_scales, range.start, scores, &mut self.weights, partials, ahead);
        multiply_values(&self.weights, head, &range, numerators, ahead);
    }
}

/// Computes the scores of a span of positions, which begins at `first`.
fn score_span(
    queries: &Vectors,
    head: &Head<'_>,
    first: usize,
    scores: &mut [Scores],
    ahead: &mut Ahead<'_>,
) {
    let each = head.keys.len() / head.spans;
    let keys = &head.keys[first / SPAN * each..][..each];
    let Some(key_scales) = head.key_scales()[first..].first_chunk() else { return };
    score_keys(queries, keys, Span { first, key_scales, scores }, ahead);
}

fn multiply_values(
    weights: &Vectors,
    head: &Head<'_>,
    range: &Range<usize>,
    numerators: &mut [i32],
    ahead: &mut Ahead<'_>,
) {
    let (side, first) = (head.values.len() / (head.spans * LANES), range.start / DEPTH);
    let lines = &head.values[first * side..range.end / DEPTH * side];
    let panel = Panel { lines, steps: range.len() / DEPTH, side, first };
    sum_values(weights, panel, numerators, side * LANES, ahead);
}

/// Returns the smallest range of whole lines of values around all positions that are seen; `None`
/// if none is.
fn spans(scores: &[Scores]) -> Option<Range<usize>> {
    let seen = || scores.iter().map(|scores| &scores.seen).filter(|seen| !seen.is_empty());
    let start = seen().map(|seen| seen.start).min()?;
    let end = seen().map(|seen| seen.end).max()?;
    Some(start / SPAN * SPAN..end.next_multiple_of(SPAN))
}
