//! Append and attend: each is defined by the reference's of the same name.
//!
//! A [`Batch`] says where rows belong; one is made for each layer, because each has pages of its
//! own. All rows of a batch are appended before any of them attends.

use std::sync::Arc;

use lockstep_exact::attend::first_position;
use lockstep_exact::kv::{KvShape, PAGE};
use lockstep_exact::limits;
use lockstep_exact::ops::Place;
use lockstep_exact::plan::AttentionPlan;

use crate::driver::{Argument, Buffer, Error};
use crate::gpu::{Gpu, Norm, at_most, same, size};
use crate::kv::{Kv, padded};
use crate::limits::BATCH_ROWS;
use crate::rows::{Flags, Rows};

/// Threads of a block that takes a head.
const HEAD_THREADS: u32 = 128;
/// Threads of a block that takes a chunk.
const CHUNK_THREADS: u32 = 256;
/// Query heads that a block takes together: two planes each, the 8 columns of a product.
const HEADS: usize = 4;
/// Bytes of what a chunk says of itself: two numbers of 4 bytes and one of 8.
const SHARE: usize = 16;

/// Returns the bytes that attention keeps of a chunk for a head of a row.
pub(crate) const fn share_bytes(head_dim: usize) -> usize {
    padded(head_dim) * size_of::<i32>() + SHARE
}

/// The parts of a layer that attention reads, in the device's memory.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The numbers of heads, their sizes, the window and the scale.
    pub plan: &'a AttentionPlan,
    /// Turn per position of each rotated pair, in units of 2^-64.
    pub rope: &'a Buffer<u64>,
    /// Normalisation of query heads and of key heads, before they are rotated.
    pub norms: Option<(&'a Norm, &'a Norm)>,
}

/// The places of a batch's rows in their sessions' caches.
#[derive(Debug)]
pub struct Batch {
    places: Vec<Place>,
    /// The size of the caches' rows.
    shape: KvShape,
    /// Kept as long as their addresses are in use.
    _held: Vec<Arc<Buffer<u8>>>,
    positions: Buffer<u32>,
    /// The page of each row's own position.
    pages: Buffer<u64>,
    /// The pages of each slot, one slot after the other.
    tables: Buffer<u64>,
    /// For each row's slot the index in `tables` at which its pages start.
    first_page: Buffer<u32>,
}

impl Batch {
    /// Makes room in the caches for the positions of `places`, and says to the device where they
    /// are.
    ///
    /// # Errors
    /// [`Error::Shape`] for a slot without a cache, caches of different sizes, a gap in the
    /// positions of a slot, or too many rows or positions; [`Error::Memory`]; [`Error::Lost`],
    /// [`Error::Call`].
    pub fn new(gpu: &Gpu, places: &[Place], caches: &mut [&mut Kv]) -> Result<Self, Error> {
        let operation = "batch";
        for place in places {
            at_most(operation, "a slot", caches.len().saturating_sub(1), place.slot)?;
            let cache = &mut caches[place.slot];
            at_most(operation, "a position", cache.len(), place.position)?;
            cache.extend(gpu, place.position + 1)?;
        }
        let caches: Vec<&Kv> = caches.iter().map(|cache| &**cache).collect();
        Self::of(gpu, places, &caches)
    }

    /// Says to the device where the rows of `places` are, whose positions the caches have.
    ///
    /// # Errors
    /// As [`Batch::new`].
    pub(crate) fn of(gpu: &Gpu, places: &[Place], caches: &[&Kv]) -> Result<Self, Error> {
        let operation = "batch";
        at_most(operation, "rows of a batch", BATCH_ROWS, places.len())?;
        let none = KvShape { kv_heads: 0, head_dim: 0 };
        let shape = caches.first().map_or(none, |cache| cache.shape());
        for cache in caches.iter() {
            same(operation, "kv heads of a cache", shape.kv_heads, cache.shape().kv_heads)?;
            same(operation, "size of a cache's heads", shape.head_dim, cache.shape().head_dim)?;
        }
        for place in places {
            at_most(operation, "a slot", caches.len().saturating_sub(1), place.slot)?;
            let cache = caches[place.slot];
            at_most(operation, "a position", cache.len().saturating_sub(1), place.position)?;
        }
        let (mut held, mut starts) = (Vec::new(), Vec::new());
        for cache in caches {
            starts.push(held.len());
            held.extend(cache.pages().iter().cloned());
        }
        let tables: Vec<u64> = held.iter().map(|page| page.address()).collect();
        let first_page: Vec<usize> = places.iter().map(|place| starts[place.slot]).collect();
        let page = |(place, first): (&Place, &usize)| tables[first + place.position / PAGE];
        let pages: Vec<u64> = places.iter().zip(&first_page).map(page).collect();
        let positions: Vec<u32> = places.iter().map(|place| place.position as u32).collect();
        let first_page: Vec<u32> = first_page.iter().map(|&first| first as u32).collect();
        Ok(Self {
            places: places.to_vec(),
            shape,
            _held: held,
            positions: gpu.table(positions)?,
            pages: gpu.table(pages)?,
            tables: gpu.table(tables)?,
            first_page: gpu.table(first_page)?,
        })
    }

    /// Checks that the caches are those of a layer with this plan.
    fn check(&self, operation: &'static str, plan: &AttentionPlan) -> Result<(), Error> {
        same(operation, "kv heads", self.shape.kv_heads, plan.kv_heads as usize)?;
        same(operation, "size of a head", self.shape.head_dim, plan.head_dim as usize)?;
        let (heads, kv_heads) = (plan.heads as usize, plan.kv_heads as usize);
        let whole = heads.checked_next_multiple_of(kv_heads).unwrap_or(0);
        same(operation, "heads, in groups of kv heads", whole, heads)
    }

    /// Returns the most chunks of 256 positions that a row of the batch sees.
    fn chunks(&self, window: u32) -> usize {
        let chunks = |place: &Place| {
            place.position / PAGE - first_position(window, place.position) / PAGE + 1
        };
        self.places.iter().map(chunks).max().unwrap_or(0)
    }
}

/// Rows of query heads: codes in two planes and a scale per head.
#[derive(Debug)]
pub struct Queries {
    rows: usize,
    heads: usize,
    head_dim: usize,
    /// The codes, as `[row][head][plane][padded]`.
    codes: Buffer<i8>,
    scales: Buffer<f32>,
}

impl Queries {
    /// Creates queries without any rows.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn new(gpu: &Gpu) -> Result<Self, Error> {
        let (codes, scales) = (gpu.buffer(&[])?, gpu.buffer(&[])?);
        Ok(Self { rows: 0, heads: 0, head_dim: 0, codes, scales })
    }

    /// Returns all codes, row after row and head after head, and the heads' scales.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn read(&self) -> Result<(Vec<i16>, Vec<f32>), Error> {
        let (heads, plane) = (self.rows * self.heads, padded(self.head_dim));
        let bytes = self.codes.read(0..heads * 2 * plane)?;
        let mut codes = Vec::with_capacity(heads * self.head_dim);
        for head in bytes.chunks_exact(2 * plane) {
            let (high, low) = head.split_at(plane);
            let both = high.iter().zip(low).take(self.head_dim);
            codes.extend(both.map(|(&high, &low)| 255 * i16::from(high) + i16::from(low)));
        }
        Ok((codes, self.scales.read(0..heads)?))
    }
}

/// The results of attention for each chunk, until they are combined.
#[derive(Debug)]
pub struct Scratch {
    numerators: Buffer<i32>,
    shares: Buffer<u8>,
}

impl Scratch {
    /// Creates scratch without memory; it is allocated when it is needed.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn new(gpu: &Gpu) -> Result<Self, Error> {
        Ok(Self { numerators: gpu.buffer(&[])?, shares: gpu.buffer(&[])? })
    }
}

impl Gpu {
    /// Splits fused rows, normalises, rotates and quantises heads, puts keys and values into the
    /// pages of `batch`, and makes queries of the rows `wanted` (increasing indexes).
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Memory`]; [`Error::Lost`], [`Error::Call`].
    pub fn append(
        &self,
        layer: Heads<'_>,
        qkv: &Rows,
        batch: &Batch,
        wanted: &[usize],
        queries: &mut Queries,
        flags: &mut Flags,
    ) -> Result<(), Error> {
        let (operation, plan) = ("append", layer.plan);
        let (heads, head_dim) = (plan.heads as usize, plan.head_dim as usize);
        batch.check(operation, plan)?;
        same(operation, "width of fused rows", plan.qkv_width(), qkv.width)?;
        same(operation, "rows", batch.places.len(), qkv.rows)?;
        same(operation, "flags", qkv.rows, flags.rows)?;
        at_most(operation, "size of a head", limits::HEAD_DIM, head_dim)?;
        at_most(operation, "rotated pairs", head_dim / 2, layer.rope.len())?;
        for norm in layer.norms.iter().flat_map(|(query, key)| [query, key]) {
            same(operation, "gains of a head", head_dim, norm.gain.len())?;
        }
        let mut index = vec![u32::MAX; qkv.rows];
        for (query, &row) in wanted.iter().enumerate() {
            at_most(operation, "a wanted row", qkv.rows.saturating_sub(1), row)?;
            index[row] = query as u32;
        }
        let index = self.table(index)?;
        (queries.rows, queries.heads, queries.head_dim) = (wanted.len(), heads, head_dim);
        queries.codes.fit(wanted.len() * heads * 2 * padded(head_dim))?;
        queries.scales.fit(wanted.len() * heads)?;
        let norm = |norm: Option<&Norm>| match norm {
            Some(norm) => [norm.gain.argument(), Argument::F32(norm.eps)],
            None => [Argument::U64(0), Argument::F32(0.0)],
        };
        let [query_gain, query_eps] = norm(layer.norms.map(|(query, _)| query));
        let [key_gain, key_eps] = norm(layer.norms.map(|(_, key)| key));
        let arguments = [
            qkv.data.argument(),
            Argument::U32(plan.heads),
            Argument::U32(plan.kv_heads),
            Argument::U32(plan.head_dim),
            layer.rope.argument(),
            Argument::U32(size(operation, "pairs", layer.rope.len())?),
            query_gain,
            query_eps,
            key_gain,
            key_eps,
            Argument::F32(plan.score_scale),
            batch.positions.argument(),
            batch.pages.argument(),
            index.argument(),
            queries.codes.argument(),
            queries.scales.argument(),
            flags.data.argument(),
        ];
        let grid = [plan.heads + 2 * plan.kv_heads, size(operation, "rows", qkv.rows)?, 1];
        self.launch(operation, grid, HEAD_THREADS, &arguments)
    }

    /// Computes the attention of each query over the positions up to its own, in the plan's window.
    /// `batch` says where the queries belong; its positions have been appended.
    ///
    /// # Errors
    /// As [`Gpu::append`].
    pub fn attend(
        &self,
        plan: &AttentionPlan,
        queries: &Queries,
        batch: &Batch,
        scratch: &mut Scratch,
        out: &mut Rows,
        flags: &mut Flags,
    ) -> Result<(), Error> {
        let (operation, rows) = ("attend", queries.rows);
        let (heads, kv_heads) = (plan.heads as usize, plan.kv_heads as usize);
        batch.check(operation, plan)?;
        same(operation, "rows", batch.places.len(), rows)?;
        same(operation, "heads", heads, queries.heads)?;
        same(operation, "size of a head", plan.head_dim as usize, queries.head_dim)?;
        same(operation, "flags", rows, flags.rows)?;
        out.fit(operation, rows, plan.query_width())?;
        let chunks = batch.chunks(plan.window);
        let shares = rows * heads * chunks;
        scratch.numerators.fit(shares * padded(queries.head_dim))?;
        scratch.shares.fit(shares * SHARE)?;
        let tiles = kv_heads * (heads / kv_heads).div_ceil(HEADS);
        let rows = size(operation, "rows", rows)?;
        let chunks = size(operation, "chunks", chunks)?;
        let arguments = [
            queries.codes.argument(),
            queries.scales.argument(),
            Argument::U32(plan.heads),
            Argument::U32(plan.kv_heads),
            Argument::U32(plan.head_dim),
            Argument::U32(plan.window),
            batch.positions.argument(),
            batch.tables.argument(),
            batch.first_page.argument(),
            scratch.numerators.argument(),
            scratch.shares.argument(),
        ];
        let grid = [chunks, size(operation, "tiles of heads", tiles)?, rows];
        self.launch(operation, grid, CHUNK_THREADS, &arguments)?;
        let arguments = [
            scratch.numerators.argument(),
            scratch.shares.argument(),
            Argument::U32(plan.heads),
            Argument::U32(plan.head_dim),
            Argument::U32(plan.window),
            Argument::U32(chunks),
            batch.positions.argument(),
            out.data.argument(),
            flags.data.argument(),
        ];
        self.launch("combine", [plan.heads, rows, 1], HEAD_THREADS, &arguments)
    }
}
