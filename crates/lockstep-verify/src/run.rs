//! Running opened cells of one layer: the one routine that prover and auditor share.
//!
//! The cache is filled from the committed KV rows; the challenged positions then go through the
//! forward pass that serves, many at once, which puts its own KV rows in their places and attends
//! to those before. The prover takes the sums out of it, the auditor puts claimed ones in.

use lockstep_exact::forward::{Probe, Row, Scratch, forward};
use lockstep_exact::kv::{KvCache, KvRowError};
use lockstep_exact::ops::{Ops, Place};
use lockstep_exact::state::State;
use lockstep_exact::weights::LayerWeights;

use crate::opening::runs;

/// Rows that go through a layer at once.
pub(crate) const ROWS: usize = 64;

/// Why a run did not get through.
#[derive(Debug)]
pub(crate) enum RunError<E> {
    /// A committed KV row is not canonical.
    Kv { position: u32, error: KvRowError },
    /// The operations refused a product.
    Ops(E),
}

/// One layer, with the KV rows of positions 0 on that were committed.
pub(crate) struct LayerRun<'a, O: Ops> {
    pub(crate) ops: &'a O,
    pub(crate) weights: &'a LayerWeights<O::Matrix>,
    /// The first position whose state the head reads.
    pub(crate) first_head: u32,
    kv: &'a [u8],
    cache: O::Kv,
    filled: u32,
    scratch: Scratch<O>,
}

impl<'a, O: Ops> LayerRun<'a, O> {
    pub(crate) fn new(
        ops: &'a O,
        weights: &'a LayerWeights<O::Matrix>,
        first_head: u32,
        kv: &'a [u8],
    ) -> Self {
        let cache = KvCache::new(&[weights.kv_shape()]);
        Self { ops, weights, first_head, kv, cache, filled: 0, scratch: Scratch::default() }
    }

    /// Puts increasing positions, which come after all before, through the layer. `state` holds
    /// their input rows. Each attends to the rows before it, whether committed or computed here.
    pub(crate) fn through<P: Probe<O>>(
        &mut self,
        positions: &[u32],
        state: State,
        probe: &mut P,
    ) -> Result<State, RunError<O::Error>> {
        // Rows come without gaps: those of the last run follow what is filled.
        self.fill(runs(positions).last().map_or(0, |run| run.start))?;
        let row = |&position: &u32| Row {
            place: Place { slot: 0, position: position as usize },
            feeds_head: position >= self.first_head,
        };
        let rows: Vec<Row> = positions.iter().map(row).collect();
        let layers = core::slice::from_ref(self.weights);
        let caches = &mut [&mut self.cache];
        let out = forward(self.ops, layers, &rows, caches, state, &mut self.scratch, probe);
        self.filled = positions.last().map_or(0, |last| last.saturating_add(1));
        out.map_err(RunError::Ops)
    }

    /// Appends the committed rows of the positions before `end` that are not there yet.
    fn fill(&mut self, end: u32) -> Result<(), RunError<O::Error>> {
        let row_bytes = self.weights.kv_shape().row_bytes();
        let rows = self.kv.chunks_exact(row_bytes).enumerate();
        let missing = rows.take(end as usize).skip(self.filled as usize);
        for (position, row) in missing {
            self.cache.write_row(0, position, row).map_err(|error| RunError::Kv {
                position: u32::try_from(position).unwrap_or(u32::MAX),
                error,
            })?;
        }
        Ok(())
    }
}
