//! Attention over the pages of a cache.
//!
//! The work is cut into *units*: some neighbouring rows of one session, the query heads that
//! share a key head, and one chunk of 256 positions. A unit is two products of integers with a
//! pass over its scores in between; units are independent, and what they give is combined per row
//! and head with integer shifts. `lockstep_exact::attend` is the definition.

use std::ops::Range;

use lockstep_exact::attend::{Chunk, first_position};
use lockstep_exact::kv::PAGE;
use lockstep_exact::ops::{AttentionLayer, Place};

use crate::isa::Isa;
use crate::kv::{DEPTH, Kv, LANES};
use crate::pool::Pool;

mod combine;
mod products;
mod softmax;

use products::{Signs, Vectors, multiply};

/// Query vectors of a unit, about: enough to use each key and value several times.
const VECTORS: usize = 24;
/// Bytes of partial results that are kept before they are combined.
const PARTIAL_BYTES: usize = 8 << 20;
/// Scores in a region of work that is worth sharing between threads.
const SHARED_SCORES: usize = 2048;

/// What a batch attends with.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub(crate) layer: AttentionLayer<'a>,
    /// `[rows][heads][head_dim]`.
    pub(crate) queries: &'a [i16],
    /// `[rows][heads]`.
    pub(crate) scales: &'a [f32],
    pub(crate) places: &'a [Place],
    pub(crate) caches: &'a [&'a mut Kv],
}

/// Neighbouring rows of one session whose queries are multiplied together.
#[derive(Clone, Debug)]
struct Tile {
    rows: Range<usize>,
    chunks: Range<usize>,
}

/// What a chunk gave for one row and head; `None` for a row that does not see the chunk.
pub(crate) type Partial = Option<Result<Chunk, lockstep_exact::num::Overflow>>;

/// One unit and where its results go.
struct Unit<'a> {
    tile: &'a Tile,
    kv_head: usize,
    chunk: usize,
    /// `[rows of the tile][heads of the group]`.
    partials: &'a mut [Partial],
    /// As `partials`, times the padded head size.
    numerators: &'a mut [i32],
}

/// Writes the attention outputs of all rows to `out` (`[rows][heads][head_dim]`) and sets
/// `overflows` for rows in which a head overflowed (that head's output is 0).
pub(crate) fn attend(
    isa: Isa,
    pool: &Pool,
    batch: Batch<'_>,
    out: &mut [f32],
    overflows: &mut [bool],
) {
    let tiles = tiles(&batch);
    let mut rest = tiles.as_slice();
    while !rest.is_empty() {
        let count = batch.tiles_at_once(rest);
        let (now, later) = rest.split_at(count);
        rest = later;
        attend_tiles(isa, pool, batch, now, out, overflows);
    }
}

fn attend_tiles(
    isa: Isa,
    pool: &Pool,
    batch: Batch<'_>,
    tiles: &[Tile],
    out: &mut [f32],
    overflows: &mut [bool],
) {
    let sizes = tiles.iter().map(|tile| batch.partials(tile));
    let total: usize = sizes.sum();
    let mut partials: Vec<Partial> = vec![None; total];
    let mut numerators = vec![0; total * batch.padded_head()];
    let units = batch.units(tiles, &mut partials, &mut numerators);
    let shared = total * PAGE >= SHARED_SCORES && units.len() > 1;
    if shared {
        pool.each(units, |unit| batch.run(isa, unit));
    } else {
        units.into_iter().for_each(|unit| batch.run(isa, unit));
    }
    combine::combine(isa, pool, &batch, tiles, &partials, &numerators, out, overflows);
}

/// Cuts the batch into tiles.
fn tiles(batch: &Batch<'_>) -> Vec<Tile> {
    let most = (VECTORS / batch.group_heads()).max(1);
    let mut tiles: Vec<Tile> = Vec::new();
    for (row, place) in batch.places.iter().enumerate() {
        let chunks = batch.chunks(row);
        match tiles.last_mut() {
            Some(tile)
                if tile.rows.len() < most
                    && batch.places[tile.rows.start].slot == place.slot
                    && chunks.start <= tile.chunks.end
                    && tile.chunks.start <= chunks.end =>
            {
                tile.rows.end = row + 1;
                tile.chunks.start = tile.chunks.start.min(chunks.start);
                tile.chunks.end = tile.chunks.end.max(chunks.end);
            }
            _ => tiles.push(Tile { rows: row..row + 1, chunks }),
        }
    }
    tiles
}

impl<'a> Batch<'a> {
    const fn head_dim(&self) -> usize {
        self.layer.plan.head_dim as usize
    }

    /// The head size of values and numerators: whole blocks of elements.
    const fn padded_head(&self) -> usize {
        self.head_dim().next_multiple_of(LANES)
    }

    const fn heads(&self) -> usize {
        self.layer.plan.heads as usize
    }

    /// Query heads that share a key head.
    const fn group_heads(&self) -> usize {
        self.heads() / self.layer.plan.kv_heads as usize
    }

    /// The positions that a row sees.
    const fn positions(&self, row: usize) -> Range<usize> {
        let position = self.places[row].position;
        first_position(self.layer.plan.window, position)..position + 1
    }

    /// The chunks that a row sees.
    const fn chunks(&self, row: usize) -> Range<usize> {
        let positions = self.positions(row);
        positions.start / PAGE..positions.end.div_ceil(PAGE)
    }

    /// The positions of `chunk` that a row sees, counted from the chunk's first.
    fn seen(&self, row: usize, chunk: usize) -> Range<usize> {
        let positions = self.positions(row);
        let place = |position: usize| position.saturating_sub(chunk * PAGE).min(PAGE);
        place(positions.start)..place(positions.end)
    }

    /// Partial results of a tile.
    fn partials(&self, tile: &Tile) -> usize {
        tile.rows.len() * self.heads() * tile.chunks.len()
    }

    /// How many of the first `tiles` to work on before combining.
    fn tiles_at_once(&self, tiles: &[Tile]) -> usize {
        let bytes_each = self.padded_head() * size_of::<i32>() + size_of::<Partial>();
        let mut bytes = 0;
        let fits = tiles.iter().position(|tile| {
            bytes += self.partials(tile) * bytes_each;
            bytes > PARTIAL_BYTES
        });
        fits.unwrap_or(tiles.len()).max(1)
    }

    /// The units of `tiles`, in order of tile, key head and chunk.
    fn units<'u>(
        &self,
        tiles: &'u [Tile],
        mut partials: &'u mut [Partial],
        mut numerators: &'u mut [i32],
    ) -> Vec<Unit<'u>> {
        let mut units = Vec::new();
        for tile in tiles {
            let size = tile.rows.len() * self.group_heads();
            for kv_head in 0..self.layer.plan.kv_heads as usize {
                for chunk in tile.chunks.clone() {
                    let (now, later) = partials.split_at_mut(size);
                    partials = later;
                    let (sums, later) = numerators.split_at_mut(size * self.padded_head());
                    numerators = later;
                    units.push(Unit { tile, kv_head, chunk, partials: now, numerators: sums });
                }
            }
        }
        units
    }

    /// The query heads of a unit's vector: `(row, head)`.
    const fn vector(&self, tile: &Tile, kv_head: usize, vector: usize) -> (usize, usize) {
        let group = self.group_heads();
        (tile.rows.start + vector / group, kv_head * group + vector % group)
    }

    fn run(&self, isa: Isa, unit: Unit<'_>) {
        let Unit { tile, kv_head, chunk, partials, numerators } = unit;
        let slot = self.places[tile.rows.start].slot;
        let page = self.caches[slot].page(self.layer.index, chunk);
        let ranges: Vec<Range<usize>> =
            tile.rows.clone().map(|row| self.seen(row, chunk)).collect();
        let Some(union) = union(&ranges) else { return };

        let mut queries = Vectors::new(isa, Signs::Keys, partials.len(), self.head_dim());
        for vector in 0..partials.len() {
            let (row, head) = self.vector(tile, kv_head, vector);
            let at = (row * self.heads() + head) * self.head_dim();
            queries.set(vector, &self.queries[at..at + self.head_dim()]);
        }
        let mut dots = vec![0; partials.len() * PAGE];
        let blocks = union.start / LANES..union.end.div_ceil(LANES);
        let steps = 0..self.head_dim().div_ceil(DEPTH);
        multiply(&queries, page.keys(kv_head), steps.len(), blocks, steps, &mut dots, PAGE);

        let mut weights = Vectors::new(isa, Signs::Values, partials.len(), PAGE);
        for (vector, (partial, dots)) in
            partials.iter_mut().zip(dots.chunks_exact(PAGE)).enumerate()
        {
            let (row, head) = self.vector(tile, kv_head, vector);
            let seen = ranges[row - tile.rows.start].clone();
            if !seen.is_empty() {
                let scales = softmax::Scales {
                    query: self.scales[row * self.heads() + head],
                    keys: &page.key_scales(kv_head)[seen.clone()],
                    values: &page.value_scales(kv_head)[seen.clone()],
                };
                let mut codes = [0; PAGE];
                let codes_seen = &mut codes[seen.clone()];
                *partial = Some(softmax::weights(isa, &dots[seen], scales, codes_seen));
                weights.set(vector, &codes);
            }
        }
        let blocks = 0..self.padded_head() / LANES;
        let steps = union.start / DEPTH..union.end.div_ceil(DEPTH);
        let values = page.values(kv_head);
        multiply(&weights, values, PAGE / DEPTH, blocks, steps, numerators, self.padded_head());
    }
}

/// The smallest range around all that are not empty.
fn union(ranges: &[Range<usize>]) -> Option<Range<usize>> {
    let used = || ranges.iter().filter(|range| !range.is_empty());
    Some(used().map(|range| range.start).min()?..used().map(|range| range.end).max()?)
}
