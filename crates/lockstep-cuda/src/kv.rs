//! Keys and values of one layer of one session, in pages of 256 positions in the device's memory.
//!
//! A page is laid out for attention: keys by position, values by dimension. Canonical rows are
//! written to it and read from it by kernels; a host never sees the page itself.

use std::ops::Range;
use std::sync::Arc;

use lockstep_exact::kv::{KvRow, KvRowError, KvShape, PAGE};
use lockstep_exact::limits;

use crate::driver::{Argument, Buffer, Error};
use crate::gpu::{Gpu, at_most, same, size};

/// Threads of a block that moves a row.
const THREADS: u32 = 256;
/// The number of rows that one launch moves.
const ROWS: usize = 4096;

/// Keys and values of one layer of one session.
#[derive(Debug)]
pub struct Kv {
    shape: KvShape,
    pages: Vec<Arc<Buffer<u8>>>,
    len: usize,
}

/// Returns the size of a head with what fills it up for tensor cores.
pub(crate) const fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(32)
}

impl Kv {
    /// Creates a cache without any positions.
    #[must_use]
    pub const fn new(shape: KvShape) -> Self {
        Self { shape, pages: Vec::new(), len: 0 }
    }

    /// Returns the size of a row of the cache.
    #[must_use]
    pub const fn shape(&self) -> KvShape {
        self.shape
    }

    /// Returns the number of positions that have been written.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no position has been written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of bytes of a page: what the planner counts with.
    #[must_use]
    pub const fn page_bytes(shape: KvShape) -> usize {
        2 * shape.kv_heads * PAGE * (padded(shape.head_dim) + size_of::<f32>())
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.pages.truncate(len.div_ceil(PAGE));
        self.len = self.len.min(len);
    }

    /// Makes room for positions up to `len`, and counts them as written: they are next.
    pub(crate) fn extend(&mut self, gpu: &Gpu, len: usize) -> Result<(), Error> {
        at_most("append", "positions", limits::CONTEXT, len)?;
        while self.pages.len() * PAGE < len {
            let page = Buffer::zeros(&gpu.context, Self::page_bytes(self.shape))?;
            self.pages.push(Arc::new(page));
        }
        self.len = self.len.max(len);
        Ok(())
    }

    /// Returns all pages, in order. A page lives as long as somebody holds it, even when the cache
    /// no longer does.
    pub(crate) fn pages(&self) -> &[Arc<Buffer<u8>>] {
        &self.pages
    }

    /// Writes canonical rows of consecutive positions from `first` on, which is at most the number
    /// of positions written.
    ///
    /// # Errors
    /// The outer: [`Error::Shape`] for a gap or for too many positions; [`Error::Memory`];
    /// [`Error::Lost`], [`Error::Call`]. The inner: rows that are not canonical; nothing is
    /// written then.
    pub fn write(
        &mut self,
        gpu: &Gpu,
        first: usize,
        rows: &[u8],
    ) -> Result<Result<(), KvRowError>, Error> {
        let bytes = self.shape.row_bytes();
        let count = rows.len() / bytes;
        same("write_kv", "bytes of whole rows", count * bytes, rows.len())?;
        at_most("write_kv", "the first position", self.len, first)?;
        for row in rows.chunks_exact(bytes) {
            if let Err(error) = KvRow::parse(self.shape, row) {
                return Ok(Err(error));
            }
        }
        self.extend(gpu, first + count)?;
        for (part, rows) in rows.chunks(ROWS * bytes).enumerate() {
            let buffer = gpu.buffer(rows)?;
            let start = first + part * ROWS;
            let part = start..start + rows.len() / bytes;
            let (pages, positions) = (self.pages_of(part.clone())?, numbers(part));
            move_rows(gpu, "write_kv", self.shape, pages, positions, buffer.argument())?;
        }
        gpu.synchronise()?;
        Ok(Ok(()))
    }

    /// Returns the canonical rows of some positions, in order.
    ///
    /// # Errors
    /// [`Error::Shape`] for positions that were not written; [`Error::Memory`]; [`Error::Lost`],
    /// [`Error::Call`].
    pub fn read(&self, gpu: &Gpu, positions: Range<usize>) -> Result<Vec<u8>, Error> {
        at_most("read_kv", "the end of positions", self.len, positions.end)?;
        let (bytes, mut rows) = (self.shape.row_bytes(), Vec::new());
        for start in positions.clone().step_by(ROWS) {
            let part = start..positions.end.min(start + ROWS);
            let buffer: Buffer<u8> = Buffer::zeros(&gpu.context, part.len() * bytes)?;
            let (pages, positions) = (self.pages_of(part.clone())?, numbers(part));
            move_rows(gpu, "read_kv", self.shape, pages, positions, buffer.argument())?;
            rows.extend(buffer.read(0..buffer.len())?);
        }
        Ok(rows)
    }

    /// Returns the address of the page of a position, which has been written.
    pub(crate) fn page_of(&self, position: usize) -> Result<u64, Error> {
        at_most("read_kv", "a position", self.len.saturating_sub(1), position)?;
        let page = self.pages.get(position / PAGE).map(|page| page.address());
        let (operation, what) = ("read_kv", "pages");
        page.ok_or(Error::Shape { operation, what, expected: position / PAGE + 1, got: 0 })
    }

    fn pages_of(&self, positions: Range<usize>) -> Result<Vec<u64>, Error> {
        positions.map(|position| self.page_of(position)).collect()
    }
}

/// Returns positions as a kernel takes them.
fn numbers(positions: Range<usize>) -> Vec<u32> {
    positions.map(|position| position as u32).collect()
}

/// Launches a kernel that moves canonical rows between `rows` and the pages of their positions.
pub(crate) fn move_rows(
    gpu: &Gpu,
    kernel: &'static str,
    shape: KvShape,
    pages: Vec<u64>,
    positions: Vec<u32>,
    rows: Argument,
) -> Result<(), Error> {
    let count = size(kernel, "rows", positions.len())?;
    let (pages, positions) = (gpu.table(pages)?, gpu.table(positions)?);
    let arguments = [
        rows,
        Argument::U32(size(kernel, "heads", shape.kv_heads)?),
        Argument::U32(size(kernel, "size of a head", shape.head_dim)?),
        positions.argument(),
        pages.argument(),
    ];
    gpu.launch(kernel, [count, 1, 1], THREADS, &arguments)
}
