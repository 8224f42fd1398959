//! Attention over the pages of a cache.
//!
//! The work is cut into *tiles*, some neighbouring rows of one session, and these into *units*:
//! the query heads that share a key head, and one chunk of 256 positions. A unit is two products
//! of integers with passes over its scores in between, a few queries at a time so that everything
//! stays in the first-level cache; meanwhile the next unit's keys and values are fetched. Units
//! are independent, and what they give is combined per row and head with integer shifts.
//! `lockstep_exact::attend` is the definition.
//!
//! A tile is one thread's work if there are enough of them; otherwise its units are shared.

use std::cell::RefCell;
use std::ops::Range;

use lockstep_exact::attend::{Chunk, first_position};
use lockstep_exact::kv::PAGE;
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{AttentionLayer, Place};

use crate::isa::Isa;
use crate::kv::{Head, Kv, LANES};
use crate::pool::Pool;

mod combine;
mod products;
mod softmax;
mod unit;

use combine::combine;
use unit::Work;

/// Query vectors that are multiplied with a chunk at once.
const VECTORS: usize = 6;
/// Query vectors of a tile, about: each use of keys and values from memory.
const TILE_VECTORS: usize = 48;
/// Bytes of a tile's results for one key head, about: they stay in the second-level cache.
const RESULT_BYTES: usize = 1 << 20;
/// Scores that are worth sharing between threads, where each row counts as if it saw this many
/// positions at least: a unit has its price.
const SHARED_SCORES: usize = 1024;
const LEAST_POSITIONS: usize = 64;
/// Parts that the work is cut into, per thread: enough to even out what is uneven.
const PARTS_PER_THREAD: usize = 4;

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

/// Neighbouring rows of one session. Its units are numbered by key head, then chunk.
#[derive(Clone, Debug)]
struct Tile {
    rows: Range<usize>,
    chunks: Range<usize>,
}

/// What a chunk gave for one row and head; `None` for a row that does not see the chunk.
type Partial = Option<Result<Chunk, Overflow>>;

/// What some units gave.
#[derive(Debug, Default)]
struct Results {
    /// `[units][rows of the tile][heads of the group]`.
    partials: Vec<Partial>,
    /// As `partials`, times the padded head size.
    numerators: Vec<i32>,
}

/// The rows of a tile, to be written.
struct Output<'a> {
    tile: Tile,
    out: &'a mut [f32],
    overflows: &'a mut [bool],
}

/// Some neighbouring units of a tile and where their results go.
struct Part<'a> {
    tile: &'a Tile,
    units: Range<usize>,
    partials: &'a mut [Partial],
    numerators: &'a mut [i32],
}

/// Memory that a thread keeps.
#[derive(Default)]
struct Scratch {
    work: Work,
    results: Results,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
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
    let shared = pool.threads() > 1 && batch.scores() >= SHARED_SCORES;
    let threads = if shared { pool.threads() } else { 1 };
    let outputs = batch.outputs(batch.tiles(threads), out, overflows);
    if threads == 1 {
        outputs.into_iter().for_each(|output| batch.run_tile(isa, output));
    } else if outputs.len() >= 2 * threads {
        pool.each(outputs, |output| batch.run_tile(isa, output));
    } else {
        batch.run_shared(isa, pool, outputs);
    }
}

impl Results {
    /// Makes room for `count` vectors; what was there is not cleared.
    fn resize(&mut self, count: usize, padded_head: usize) {
        self.partials.resize(count, None);
        self.numerators.resize(count * padded_head, 0);
    }
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

    const fn kv_heads(&self) -> usize {
        self.layer.plan.kv_heads as usize
    }

    /// Query heads that share a key head.
    const fn group_heads(&self) -> usize {
        self.heads() / self.kv_heads()
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

    /// Scores of all rows and heads; of rows that see few positions, what costs as much.
    fn scores(&self) -> usize {
        let positions = |row| self.positions(row).len().max(LEAST_POSITIONS);
        let positions = (0..self.places.len()).map(positions);
        positions.sum::<usize>() * self.heads()
    }

    /// What a unit of a tile reads.
    fn head(&self, tile: &Tile, unit: usize) -> Head<'a> {
        let (kv_head, chunk) = (unit / tile.chunks.len(), unit % tile.chunks.len());
        let slot = self.places[tile.rows.start].slot;
        self.caches[slot].head(self.layer.index, tile.chunks.start + chunk, kv_head)
    }

    /// Cuts the batch into tiles.
    fn tiles(&self, threads: usize) -> Vec<Tile> {
        let group = self.group_heads();
        let most = (TILE_VECTORS / group).min(self.places.len().div_ceil(2 * threads)).max(1);
        let bytes_each = group * (self.padded_head() * size_of::<i32>() + size_of::<Partial>());
        let mut tiles: Vec<Tile> = Vec::new();
        for (row, place) in self.places.iter().enumerate() {
            let chunks = self.chunks(row);
            if let Some(tile) = tiles.last_mut() {
                let union = tile.chunks.start.min(chunks.start)..tile.chunks.end.max(chunks.end);
                if tile.rows.len() < most
                    && (tile.rows.len() + 1) * union.len() * bytes_each <= RESULT_BYTES
                    && self.places[tile.rows.start].slot == place.slot
                    && chunks.start <= tile.chunks.end
                    && tile.chunks.start <= chunks.end
                {
                    *tile = Tile { rows: tile.rows.start..row + 1, chunks: union };
                    continue;
                }
            }
            tiles.push(Tile { rows: row..row + 1, chunks });
        }
        tiles
    }

    /// The tiles with the rows that they write.
    fn outputs<'o>(
        &self,
        tiles: Vec<Tile>,
        mut out: &'o mut [f32],
        mut overflows: &'o mut [bool],
    ) -> Vec<Output<'o>> {
        let width = self.heads() * self.head_dim();
        let output = |tile: Tile| {
            let rows = tile.rows.len();
            let out = out.split_off_mut(..rows * width).unwrap_or_default();
            let overflows = overflows.split_off_mut(..rows).unwrap_or_default();
            Output { tile, out, overflows }
        };
        tiles.into_iter().map(output).collect()
    }

    /// A whole tile: the units of each key head, then what they give together.
    fn run_tile(&self, isa: Isa, mut output: Output<'_>) {
        SCRATCH.with_borrow_mut(|Scratch { work, results }| {
            let (chunks, vectors) = (output.tile.chunks.len(), self.vectors(&output.tile));
            results.resize(chunks * vectors, self.padded_head());
            for kv_head in 0..self.kv_heads() {
                let part = Part {
                    tile: &output.tile,
                    units: kv_head * chunks..(kv_head + 1) * chunks,
                    partials: &mut results.partials[..chunks * vectors],
                    numerators: &mut results.numerators,
                };
                self.run_units(isa, work, part);
                let Results { partials, numerators } = &*results;
                combine(isa, self, &mut output, kv_head, partials, numerators);
            }
        });
    }

    /// Some tiles, fewer than keep the threads busy: their units are shared.
    fn run_shared(&self, isa: Isa, pool: &Pool, mut outputs: Vec<Output<'_>>) {
        let mut results = SCRATCH.with_borrow_mut(|scratch| std::mem::take(&mut scratch.results));
        let size = |tile: &Tile| tile.chunks.len() * self.vectors(tile);
        let total: usize = outputs.iter().map(|output| size(&output.tile)).sum();
        results.resize(total * self.kv_heads(), self.padded_head());
        let parts = self.parts(pool.threads() * PARTS_PER_THREAD, &outputs, &mut results);
        pool.each(parts, |part| {
            SCRATCH.with_borrow_mut(|scratch| self.run_units(isa, &mut scratch.work, part));
        });
        let (mut partials, mut numerators) = (&*results.partials, &*results.numerators);
        for output in &mut outputs {
            let size = size(&output.tile);
            for kv_head in 0..self.kv_heads() {
                combine(isa, self, output, kv_head, &partials[..size], numerators);
                partials = &partials[size..];
                numerators = &numerators[size * self.padded_head()..];
            }
        }
        SCRATCH.with_borrow_mut(|scratch| scratch.results = results);
    }

    /// The units of all tiles in about `count` parts.
    fn parts<'p>(
        &self,
        count: usize,
        outputs: &'p [Output<'_>],
        results: &'p mut Results,
    ) -> Vec<Part<'p>> {
        let (mut partials, mut numerators) =
            (results.partials.as_mut_slice(), results.numerators.as_mut_slice());
        let each_tile = count.div_ceil(outputs.len().max(1));
        let mut parts = Vec::new();
        for Output { tile, .. } in outputs {
            let total = self.kv_heads() * tile.chunks.len();
            let each = total.div_ceil(each_tile);
            for first in (0..total).step_by(each) {
                let units = first..total.min(first + each);
                let size = units.len() * self.vectors(tile);
                parts.push(Part {
                    tile,
                    units,
                    partials: partials.split_off_mut(..size).unwrap_or_default(),
                    numerators: numerators
                        .split_off_mut(..size * self.padded_head())
                        .unwrap_or_default(),
                });
            }
        }
        parts
    }

    /// Query vectors of a tile for each key head.
    const fn vectors(&self, tile: &Tile) -> usize {
        (tile.rows.end - tile.rows.start) * self.group_heads()
    }
}
