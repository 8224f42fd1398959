//! Units: the products of some queries with one chunk.

use std::ops::Range;

use lockstep_exact::kv::PAGE;

use super::products::{Ahead, Lines, Signs, Vectors, multiply};
use super::softmax::{View, weigh};
use super::{Batch, Part, Partial, Tile, VECTORS};
use crate::isa::Isa;
use crate::kv::{DEPTH, Head, KEY_SIDE, LANES, SPAN};

/// What a thread works with.
#[derive(Default)]
pub(super) struct Work {
    /// The queries of a tile for one key head, [`VECTORS`] at a time.
    queries: Vec<Vectors>,
    /// The weights of a chunk's values.
    weights: Vectors,
    /// Products of queries and keys.
    dots: Vec<[i32; PAGE]>,
    /// Scores, then weights.
    powers: Vec<[f32; PAGE]>,
    views: Vec<View>,
}

impl Batch<'_> {
    /// Runs the units of a part, in order.
    pub(super) fn run_units(&self, isa: Isa, work: &mut Work, part: Part<'_>) {
        let Part { tile, units, partials, numerators } = part;
        let vectors = self.vectors(tile);
        let partials = partials.chunks_exact_mut(vectors);
        let results = partials.zip(numerators.chunks_exact_mut(vectors * self.padded_head()));
        let last = self.kv_heads() * tile.chunks.len() - 1;
        let mut prepared = None;
        for (unit, (partials, numerators)) in units.zip(results) {
            let kv_head = unit / tile.chunks.len();
            if prepared != Some(kv_head) {
                self.prepare(isa, tile, kv_head, &mut work.queries);
                prepared = Some(kv_head);
            }
            let next = (unit < last).then(|| self.head(tile, unit + 1));
            self.run_unit(isa, work, tile, unit, next, partials, numerators);
        }
    }

    /// The row and query head of a vector.
    const fn vector(&self, tile: &Tile, kv_head: usize, vector: usize) -> (usize, usize) {
        let group = self.group_heads();
        (tile.rows.start + vector / group, kv_head * group + vector % group)
    }

    fn prepare(&self, isa: Isa, tile: &Tile, kv_head: usize, queries: &mut Vec<Vectors>) {
        let vectors = self.vectors(tile);
        queries.resize_with(vectors.div_ceil(VECTORS), Vectors::default);
        for (index, queries) in queries.iter_mut().enumerate() {
            let first = index * VECTORS;
            let count = VECTORS.min(vectors - first);
            queries.reset(isa, Signs::Keys, count, self.head_dim());
            for at in 0..count {
                let (row, head) = self.vector(tile, kv_head, first + at);
                let code = (row * self.heads() + head) * self.head_dim();
                queries.set(at, 0, &self.queries[code..code + self.head_dim()]);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a unit, what it reads and what it writes")]
    fn run_unit(
        &self,
        isa: Isa,
        work: &mut Work,
        tile: &Tile,
        unit: usize,
        next: Option<Head<'_>>,
        partials: &mut [Partial],
        numerators: &mut [i32],
    ) {
        let head = self.head(tile, unit);
        let mut ahead = Ahead::new(&head, next);
        let (kv_head, chunk) = (unit / tile.chunks.len(), unit % tile.chunks.len());
        let chunk = tile.chunks.start + chunk;
        let Work { queries, weights, dots, powers, views } = work;
        dots.resize(VECTORS, [0; PAGE]);
        powers.resize(VECTORS, [0.0; PAGE]);
        let numerators = numerators.chunks_mut(VECTORS * self.padded_head());
        let results = partials.chunks_mut(VECTORS).zip(numerators);
        for (index, (queries, (partials, numerators))) in queries.iter().zip(results).enumerate() {
            views.clear();
            views.extend((0..queries.count()).map(|at| {
                let (row, head) = self.vector(tile, kv_head, index * VECTORS + at);
                let scale = self.scales[row * self.heads() + head];
                View { scale, seen: self.seen(row, chunk) }
            }));
            let Some(range) = spans(views) else {
                partials.fill(None);
                continue;
            };
            multiply_keys(queries, &head, &range, dots, &mut ahead);
            weights.reset(isa, Signs::Values, queries.count(), PAGE);
            weigh(isa, &head, range.clone(), views, dots, powers, weights, partials, &mut ahead);
            multiply_values(weights, &head, &range, numerators, &mut ahead);
        }
    }
}

fn multiply_keys(
    queries: &Vectors,
    head: &Head<'_>,
    range: &Range<usize>,
    dots: &mut [[i32; PAGE]],
    ahead: &mut Ahead<'_>,
) {
    let steps = head.keys.len() / (PAGE / LANES);
    let lines = Lines { lines: head.keys, side: KEY_SIDE, steps };
    let blocks = range.start / LANES..range.end / LANES;
    multiply(queries, lines, blocks, 0..steps, dots.as_flattened_mut(), PAGE, ahead);
}

fn multiply_values(
    weights: &Vectors,
    head: &Head<'_>,
    range: &Range<usize>,
    numerators: &mut [i32],
    ahead: &mut Ahead<'_>,
) {
    let blocks = head.values.len() / (PAGE / DEPTH);
    let lines = Lines { lines: head.values, side: blocks, steps: PAGE / DEPTH };
    let steps = range.start / DEPTH..range.end / DEPTH;
    multiply(weights, lines, 0..blocks, steps, numerators, blocks * LANES, ahead);
}

/// The smallest range of whole lines of values around all that is seen.
fn spans(views: &[View]) -> Option<Range<usize>> {
    let seen = || views.iter().map(|view| &view.seen).filter(|seen| !seen.is_empty());
    let start = seen().map(|seen| seen.start).min()?;
    let end = seen().map(|seen| seen.end).max()?;
    Some(start / SPAN * SPAN..end.next_multiple_of(SPAN))
}
