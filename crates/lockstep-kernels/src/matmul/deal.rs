//! Distributes the blocks of a product over threads, and gives each thread the columns to write to.
//!
//! Each thread has a *lane*, a range of neighbouring blocks, and takes from its front, so that it
//! reads memory in one direction; whoever is done takes from the lanes of others. A thread that
//! the system holds up therefore delays a region by no more than the blocks it is at.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use lockstep_exact::matrix::Shape;

/// Bytes of weights, times input rows, that are worth sharing between threads.
const SHARED_WEIGHTS: usize = 64 * 1024;
/// Bytes of weights that are claimed at a time, about: by one of many threads, and by the only.
const CLAIM_BYTES: usize = 64 * 1024;
const LONE_CLAIM_BYTES: usize = 256 * 1024;
/// The least blocks that are claimed at a time for many input rows, by one of many threads and by
/// the only: narrow stripes of the output are slow to write.
const WIDE_CLAIM: usize = 4;
const LONE_WIDE_CLAIM: usize = 8;
/// The most input rows that count as few.
const FEW_ROWS: usize = 16;

/// Blocks that are claimed by some threads, each block once.
pub(crate) struct Deal {
    lanes: Vec<Lane>,
    each: usize,
}

/// A thread's share, on a cache line of its own.
#[repr(align(128))]
struct Lane {
    next: AtomicUsize,
    end: usize,
}

impl Deal {
    /// Deals `blocks` blocks to `lanes` lanes, to be claimed `each` at a time.
    pub(crate) fn new(blocks: usize, lanes: usize, each: usize) -> Self {
        let units = blocks.div_ceil(each);
        let bound = |lane: usize| (units * lane / lanes * each).min(blocks);
        let lane = |lane| Lane { next: bound(lane).into(), end: bound(lane + 1) };
        Self { lanes: (0..lanes).map(lane).collect(), each }
    }

    /// Deals a product with `rows` input rows to as many of `threads` threads as it is worth.
    pub(crate) fn of_product(shape: Shape, rows: usize, threads: usize) -> Self {
        let lanes = if shape.packed_bytes() * rows < SHARED_WEIGHTS { 1 } else { threads };
        let (bytes, wide) = match lanes {
            1 => (LONE_CLAIM_BYTES, LONE_WIDE_CLAIM),
            _ => (CLAIM_BYTES, WIDE_CLAIM),
        };
        // An even number: kernels take blocks in pairs.
        let least = if rows > FEW_ROWS { wide } else { 2 };
        let each = (bytes / shape.block_bytes()).next_multiple_of(2);
        Self::new(shape.blocks(), lanes, each.max(least))
    }

    /// Deals a product with one input row, in pairs: block `i` goes with block `i` of the second
    /// half of the blocks. So each lane reads two streams that are far apart, both in the order of
    /// memory, and the processor's prefetchers follow two better than one.
    pub(crate) fn of_row(shape: Shape, threads: usize) -> Self {
        let pairs = shape.blocks().div_ceil(2);
        if shape.packed_bytes() < SHARED_WEIGHTS || threads == 1 {
            return Self::new(pairs, 1, pairs);
        }
        Self::new(pairs, threads, (CLAIM_BYTES / (2 * shape.block_bytes())).max(1))
    }

    /// Returns the number of lanes, one for each thread.
    pub(crate) const fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Returns the most blocks that a claim gives.
    pub(crate) const fn each(&self) -> usize {
        self.each
    }

    /// Returns the next blocks of `lane` or, when there are none left, of another; `None` when all
    /// are claimed.
    pub(crate) fn claim(&self, lane: usize) -> Option<Range<usize>> {
        let (before, own_and_after) = self.lanes.split_at(lane);
        own_and_after.iter().chain(before).find_map(|lane| lane.claim(self.each))
    }
}

impl Lane {
    fn claim(&self, each: usize) -> Option<Range<usize>> {
        // Goes beyond the end by at most one claim for every call.
        let start = self.next.fetch_add(each, Ordering::Relaxed);
        (start < self.end).then(|| start..self.end.min(start + each))
    }
}

/// Rows of f32 that several threads write at once, each to columns of its own.
pub(crate) struct Columns<'a> {
    start: *mut f32,
    rows: usize,
    width: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: f32 may be written from any thread; `Columns::stripe` asks for what keeps writes apart.
unsafe impl Sync for Columns<'_> {}

/// Some neighbouring columns of all rows of [`Columns`].
pub(crate) struct Stripe<'a> {
    all: &'a Columns<'a>,
    columns: Range<usize>,
}

impl<'a> Columns<'a> {
    /// Returns all columns of `data`, which is rows of `width`.
    pub(crate) fn new(data: &'a mut [f32], width: usize) -> Self {
        // default: rows without columns are none
        let rows = data.len().checked_div(width).unwrap_or(0);
        Self { start: data.as_mut_ptr(), rows, width, borrow: PhantomData }
    }

    /// Returns some of the columns; those beyond the last are left out.
    ///
    /// # Safety
    /// While the result lives there is no other stripe with any of these columns.
    pub(crate) unsafe fn stripe(&'a self, columns: Range<usize>) -> Stripe<'a> {
        let end = columns.end.min(self.width);
        Stripe { all: self, columns: columns.start.min(end)..end }
    }
}

impl Stripe<'_> {
    /// Returns the number of columns.
    #[inline(always)]
    pub(crate) const fn width(&self) -> usize {
        self.columns.end - self.columns.start
    }

    /// Returns these columns of one row.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.all.rows, "a row of the rows");
        // SAFETY: inside the borrowed rows: the row is asserted, the columns are inside the width
        // (`Columns::stripe`). Nobody else has these columns, and here they are borrowed from
        // `self`.
        unsafe {
            let start = self.all.start.add(row * self.all.width + self.columns.start);
            std::slice::from_raw_parts_mut(start, self.width())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_dealt_once_whoever_claims() {
        for blocks in [0, 1, 2, 3, 7, 36, 60, 193] {
            for lanes in [1, 2, 3, 5] {
                for each in [1, 2, 4, 100] {
                    let deal = Deal::new(blocks, lanes, each);
                    let mut seen = vec![0; blocks];
                    // Lanes take turns; some never come.
                    let mut lane = 0;
                    while let Some(range) = deal.claim(lane) {
                        assert!(!range.is_empty() && range.len() <= each);
                        seen[range].iter_mut().for_each(|count| *count += 1);
                        lane = (lane + 1) % lanes.min(2);
                    }
                    assert_eq!(seen, vec![1; blocks], "{blocks} blocks, {lanes} lanes of {each}");
                }
            }
        }
    }

    #[test]
    fn a_lane_is_taken_in_order_before_any_other() {
        let deal = Deal::new(10, 2, 2);
        let own: Vec<_> = std::iter::from_fn(|| deal.claim(1)).collect();
        assert_eq!(own, [4..6, 6..8, 8..10, 0..2, 2..4]);
    }
}
