//! Attention over the pages of a cache.
//!
//! The work is cut into *tiles*, some neighbouring rows of one session, and these into *units*:
//! the query heads that share a key head, and one chunk of 256 positions. A unit is two products
//! of integers with passes over its scores in between, a few queries at a time so that everything
//! stays in the first-level cache; meanwhile the next unit's keys and values are fetched. Units
//! are independent, and what they give is combined per row and head with integer shifts.
//! `lockstep_exact::attend` is the definition.
//!
//! Units are run in the order in which their keys and values lie in memory: chunk by chunk, and in
//! a chunk key head by key head. A tile is one thread's work if there are enough of them; otherwise
//! each thread has a range of its units.
//!
//! ```text
//! for tile in neighbouring rows of one session:                        attend
//!   for unit in chunks of 256 positions × key heads:                   Work::run
//!     for queries in rows of the tile × heads of the group, six:       Work::attend
//!       for span in the positions that any of them sees:               score_span
//!         scores = query codes · key codes                integers
//!       top = largest whole part of the scores that are seen
//!       denominator = sum of 2^(score - top)              integers
//!       weights = 2^(score - top) · value scale           block-i16    weigh
//!       numerators = weights · value codes                integers     multiply_values
//!       partial = top, denominator, exponent of the weights
//!   for row, head in tile:                                             combine
//!     numerators of all chunks, shifted to the largest exponent, and added
//!     denominators of all chunks, shifted to the largest top, and added
//!     out = numerators / denominator
//! ```

use std::cell::RefCell;
use std::ops::Range;

use lockstep_exact::attend::{Chunk, first_position};
use lockstep_exact::kv::PAGE;
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{AttentionLayer, Place};

use crate::isa::Isa;
use crate::kv::{Head, Kv};
use crate::line::LANES;
use crate::matmul::Deal;
use crate::pool::{Chunks, Parts as _, Pool};

mod combine;
mod products;
mod scores;
mod softmax;
mod unit;

use combine::{HeadResults, Share, combine};
use unit::Work;

/// Query vectors that are multiplied with a chunk at once.
const VECTORS: usize = 6;
/// Query vectors of a tile, about: each use of keys and values from memory.
const TILE_VECTORS: usize = 48;
/// Bytes of a tile's results for the key heads that are run together, about: they stay in the
/// second-level cache.
const RESULT_BYTES: usize = 1 << 20;
/// Scores that are worth sharing between threads, where each row counts as if it saw this many
/// positions at least: a unit has its price.
const SHARED_SCORES: usize = 1024;
const LEAST_POSITIONS: usize = 64;
/// Units that a thread claims at a time, at most.
const CLAIM: usize = 4;

/// The inputs of attention for a batch of rows.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub(crate) layer: AttentionLayer<'a>,
    /// The codes of the queries, as `[rows][heads][head_dim]`.
    pub(crate) queries: &'a [i16],
    /// The scales of the queries, as `[rows][heads]`.
    pub(crate) scales: &'a [f32],
    pub(crate) places: &'a [Place],
    pub(crate) caches: &'a [&'a mut Kv],
}

/// Neighbouring rows of one session.
#[derive(Clone, Debug)]
struct Tile {
    rows: Range<usize>,
    chunks: Range<usize>,
}

/// Some of the key heads of a tile. Its units are numbered by chunk, and then by key head.
#[derive(Clone, Debug)]
struct Section<'a> {
    tile: &'a Tile,
    kv_heads: Range<usize>,
}

/// The result of one chunk for one row and head; `None` for a row that does not see the chunk.
type Partial = Option<Result<Chunk, Overflow>>;

/// The results of the units of a section.
#[derive(Debug, Default)]
struct Results {
    /// `[units][rows of the tile][heads of the group]`.
    partials: Vec<Partial>,
    /// The numerators: for each of `partials` as many as the padded head size.
    numerators: Vec<i32>,
}

/// Some neighbouring units of a section and where their results go.
struct Part<'a> {
    units: Range<usize>,
    partials: &'a mut [Partial],
    numerators: &'a mut [i32],
}

/// The rows of a tile, to be written.
struct Output<'a> {
    tile: Tile,
    out: &'a mut [f32],
    overflows: &'a mut [bool],
}

/// Memory that a thread keeps from one tile to the next.
#[derive(Default)]
struct Scratch {
    work: Work,
    results: Results,
    shares: Vec<Share>,
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
        outputs.into_iter().for_each(|output| batch.share_tile(isa, pool, output));
    }
}

impl Section<'_> {
    const fn units(&self) -> usize {
        let Range { start, end } = self.tile.chunks;
        (end - start) * (self.kv_heads.end - self.kv_heads.start)
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

    /// Returns the elements of a head in values and numerators: its size, rounded up to whole
    /// blocks of 16.
    const fn padded_head(&self) -> usize {
        self.head_dim().next_multiple_of(LANES)
    }

    const fn heads(&self) -> usize {
        self.layer.plan.heads as usize
    }

    const fn kv_heads(&self) -> usize {
        self.layer.plan.kv_heads as usize
    }

    /// Returns the number of query heads that share a key head.
    const fn group_heads(&self) -> usize {
        self.heads() / self.kv_heads()
    }

    /// Returns the positions that a row of the batch sees: its own, and those before it within the
    /// window.
    const fn positions(&self, row: usize) -> Range<usize> {
        let position = self.places[row].position;
        first_position(self.layer.plan.window, position)..position + 1
    }

    /// Returns the chunks that a row sees.
    const fn chunks(&self, row: usize) -> Range<usize> {
        let positions = self.positions(row);
        positions.start / PAGE..positions.end.div_ceil(PAGE)
    }

    /// Returns the positions of `chunk` that a row sees, counted from the chunk's first.
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

    /// Returns the chunk and key head of a unit.
    fn place(&self, section: &Section<'_>, unit: usize) -> (usize, usize) {
        let heads = section.kv_heads.len();
        (section.tile.chunks.start + unit / heads, section.kv_heads.start + unit % heads)
    }

    /// Returns the keys and values that a unit reads.
    fn head(&self, section: &Section<'_>, unit: usize) -> Head<'a> {
        let (chunk, kv_head) = self.place(section, unit);
        let slot = self.places[section.tile.rows.start].slot;
        self.caches[slot].head(self.layer.index, chunk, kv_head)
    }

    /// Returns the number of bytes of a unit's results for a query.
    const fn bytes_each(&self) -> usize {
        self.padded_head() * size_of::<i32>() + size_of::<Partial>()
    }

    /// Cuts the batch into tiles, for `threads` threads.
    fn tiles(&self, threads: usize) -> Vec<Tile> {
        let group = self.group_heads();
        let most = (TILE_VECTORS / group).min(self.places.len().div_ceil(2 * threads)).max(1);
        let bytes_each = group * self.bytes_each();
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

    /// Returns the tiles with the rows that they write.
    fn outputs<'o>(
        &self,
        tiles: Vec<Tile>,
        mut out: &'o mut [f32],
        mut overflows: &'o mut [bool],
    ) -> Vec<Output<'o>> {
        let width = self.heads() * self.head_dim();
        let output = |tile: Tile| {
            let rows = tile.rows.len();
            // default: the slices are as long as all tiles together; behind them is nothing
            let out = out.split_off_mut(..rows * width).unwrap_or_default();
            // default: as above
            let overflows = overflows.split_off_mut(..rows).unwrap_or_default();
            Output { tile, out, overflows }
        };
        tiles.into_iter().map(output).collect()
    }

    /// Computes a whole tile, with as many key heads at a time as have results of [`RESULT_BYTES`].
    fn run_tile(&self, isa: Isa, output: Output<'_>) {
        SCRATCH.with_borrow_mut(|Scratch { work, results, shares }| {
            let tile = &output.tile;
            let bytes = tile.chunks.len() * self.vectors(tile) * self.bytes_each();
            let most = (RESULT_BYTES / bytes.max(1)).clamp(1, self.kv_heads());
            for first in (0..self.kv_heads()).step_by(most) {
                let section = Section { tile, kv_heads: first..self.kv_heads().min(first + most) };
                results.resize(section.units() * self.vectors(tile), self.padded_head());
                let Results { partials, numerators } = results;
                let part = Part { units: 0..section.units(), partials, numerators };
                work.prepare(isa, self, &section);
                work.run(isa, self, &section, part);
                let group = self.group_heads();
                for row in 0..tile.rows.len() {
                    for head in first * group..section.kv_heads.end * group {
                        let out = &mut output.out[(row * self.heads() + head) * self.head_dim()..];
                        let of_head = self.head_results(&section, results, row, head);
                        let out = &mut out[..self.head_dim()];
                        output.overflows[row] |= combine(isa, &of_head, shares, out).is_err();
                    }
                }
            }
        });
    }

    /// Computes a tile whose units are shared by all threads, and then combines its heads.
    fn share_tile(&self, isa: Isa, pool: &Pool, output: Output<'_>) {
        let mut results = SCRATCH.with_borrow_mut(|scratch| std::mem::take(&mut scratch.results));
        let section = Section { tile: &output.tile, kv_heads: 0..self.kv_heads() };
        let (units, vectors) = (section.units(), self.vectors(&output.tile));
        results.resize(units * vectors, self.padded_head());
        let each = (units / (2 * pool.threads())).clamp(1, CLAIM);
        let deal = Deal::new(units.div_ceil(each), pool.threads(), 1);
        let partials = Chunks::new(&mut results.partials, each * vectors);
        let numerators = Chunks::new(&mut results.numerators, each * vectors * self.padded_head());
        let parts = (partials, numerators);
        pool.run(deal.lanes(), |lane| {
            SCRATCH.with_borrow_mut(|Scratch { work, .. }| {
                work.prepare(isa, self, &section);
                while let Some(numbers) = deal.claim(lane) {
                    for number in numbers {
                        // SAFETY: `deal` gives each number once.
                        let (partials, numerators) = unsafe { parts.part(number) };
                        let units = number * each..units.min((number + 1) * each);
                        work.run(isa, self, &section, Part { units, partials, numerators });
                    }
                }
            });
        });
        let mut overflows = vec![false; output.tile.rows.len() * self.heads()];
        let heads = (Chunks::new(output.out, self.head_dim()), Chunks::new(&mut overflows, 1));
        pool.parts(heads, |number, (out, overflow)| {
            let of_head =
                self.head_results(&section, &results, number / self.heads(), number % self.heads());
            SCRATCH.with_borrow_mut(|Scratch { shares, .. }| {
                overflow.fill(combine(isa, &of_head, shares, out).is_err());
            });
        });
        for (row, heads) in output.overflows.iter_mut().zip(overflows.chunks_exact(self.heads())) {
            *row = heads.contains(&true);
        }
        SCRATCH.with_borrow_mut(|scratch| scratch.results = results);
    }

    /// Returns the results of the units of a section for a row of its tile and a head.
    fn head_results<'r>(
        &self,
        section: &Section<'_>,
        results: &'r Results,
        row: usize,
        head: usize,
    ) -> HeadResults<'r> {
        let (vectors, group) = (self.vectors(section.tile), self.group_heads());
        let first = (head / group - section.kv_heads.start) * vectors + row * group + head % group;
        HeadResults {
            partials: &results.partials,
            numerators: &results.numerators,
            first,
            stride: section.kv_heads.len() * vectors,
            padded_head: self.padded_head(),
        }
    }

    /// Returns the number of query vectors of a tile for each key head.
    const fn vectors(&self, tile: &Tile) -> usize {
        (tile.rows.end - tile.rows.start) * self.group_heads()
    }
}
