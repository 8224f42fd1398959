//! Running opened cells of one layer: the one routine that prover and auditor share.
//!
//! The cache is filled from the committed KV rows, part after part; the challenged positions of a
//! part go through the forward pass that serves, many at once, which puts its own KV rows in their
//! places and attends to those before. The prover takes the sums out of it, the auditor puts
//! claimed ones in. What is held between parts is the cache alone: KV rows as attention reads them.

use lockstep_exact::forward::{Probe, Row, Scratch, forward};
use lockstep_exact::kv::{KvCache, KvRowError, KvShape};
use lockstep_exact::ops::{Host as _, KvOf, Place, Products};
use lockstep_exact::state::State;
use lockstep_exact::weights::LayerOf;

use crate::opening::runs;

/// Rows that go through a layer at once.
pub(crate) const ROWS: usize = 64;

/// The reasons why a run did not get through.
#[derive(Debug)]
pub(crate) enum RunError<E> {
    /// A committed KV row is not canonical.
    Kv { position: u32, error: KvRowError },
    /// A product was refused by its check.
    Products(E),
}

/// The KV rows of one layer, of positions 0 to `rows`, as attention reads them.
#[derive(Debug)]
pub(crate) struct Filled<K> {
    cache: K,
    rows: u32,
}

impl<K: KvCache> Filled<K> {
    /// Creates a collection without any rows.
    pub(crate) fn new(shape: KvShape) -> Self {
        Self { cache: K::new(&[shape]), rows: 0 }
    }

    /// Returns the number of rows.
    pub(crate) const fn rows(&self) -> u32 {
        self.rows
    }
}

/// A part of what is opened of one layer.
pub(crate) struct LayerRun<'a, O: Products> {
    pub(crate) ops: &'a O,
    pub(crate) weights: &'a LayerOf<O>,
    /// The first position whose state the head reads.
    pub(crate) first_head: u32,
    /// Committed KV rows, from the position on that comes after all that is filled.
    pub(crate) kv: &'a [u8],
    pub(crate) first: u32,
    pub(crate) filled: &'a mut Filled<KvOf<O>>,
    pub(crate) scratch: Scratch<O::Device>,
}

impl<O: Products> LayerRun<'_, O> {
    /// Puts increasing positions, which come after all before, through the layer. `state` holds
    /// their input rows. Each attends to the rows before it, whether committed or computed here.
    pub(crate) fn through<P: Probe>(
        &mut self,
        positions: &[u32],
        state: State,
        probe: &mut P,
    ) -> Result<(), RunError<O::Error>> {
        // Rows come without gaps: those of the last run follow what is filled.
        self.fill(runs(positions).last().map_or(0, |run| run.start))?;
        let row = |&position: &u32| Row {
            place: Place { slot: 0, position: position as usize },
            feeds_head: position >= self.first_head,
        };
        let rows: Vec<Row> = positions.iter().map(row).collect();
        let state = self.ops.device().put_state(state);
        let state = state.map_err(|error| RunError::Products(error.into()))?;
        let layers = core::slice::from_ref(self.weights);
        let caches = &mut [&mut self.filled.cache];
        let out = forward(self.ops, layers, &rows, caches, state, &mut self.scratch, probe);
        let end = positions.last().map_or(0, |last| last.saturating_add(1));
        self.filled.rows = self.filled.rows.max(end);
        out.map(drop).map_err(RunError::Products)
    }

    /// Appends the committed rows of the positions before `end` that are not there yet.
    pub(crate) fn fill(&mut self, end: u32) -> Result<(), RunError<O::Error>> {
        let row_bytes = self.weights.kv_shape().row_bytes();
        let rows = (self.first..end).zip(self.kv.chunks_exact(row_bytes));
        let filled = self.filled.rows;
        for (position, row) in rows.skip_while(|(position, _)| *position < filled) {
            let written = self.filled.cache.write_row(0, position as usize, row);
            written.map_err(|error| RunError::Kv { position, error })?;
            self.filled.rows = position.saturating_add(1);
        }
        Ok(())
    }
}
