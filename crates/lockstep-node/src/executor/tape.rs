//! What a forward pass leaves behind: committed columns, and the first cell that overflowed.

use lockstep_exact::forward::{Probe, Row};
use lockstep_exact::ops::Ops;
use lockstep_exact::state::State;
use lockstep_proto::job::Cell;
use lockstep_verify::column::{Columns, Recorder};

/// Records a batch: slot `i` into the `i`-th session's columns.
pub(super) struct Tape<'a, 'b> {
    recorder: Recorder<'a, 'b>,
    /// Rows that came in as overflow markers, by slot and position.
    marked: Vec<(usize, usize)>,
    overflow: Vec<Option<Cell>>,
}

impl<'a, 'b> Tape<'a, 'b> {
    /// A tape for rows that start as `state`.
    pub(super) fn new(columns: &'a mut [&'b mut Columns], rows: &[Row], state: &State) -> Self {
        let marked = rows.iter().enumerate().filter(|(index, _)| state.overflowed(*index));
        let marked = marked.map(|(_, row)| (row.place.slot, row.place.position)).collect();
        let overflow = vec![None; columns.len()];
        Self { recorder: Recorder { sessions: columns }, marked, overflow }
    }

    /// The first cell of each slot, by position and then layer, that overflowed in this pass.
    pub(super) fn overflow(self) -> Vec<Option<Cell>> {
        self.overflow
    }
}

impl<O: Ops> Probe<O> for Tape<'_, '_> {
    const SEES_SUMS: bool = false;

    fn kv(&mut self, layer: u32, index: usize, rows: &[Row], caches: &[&mut O::Kv]) {
        Probe::<O>::kv(&mut self.recorder, layer, index, rows, caches);
    }

    fn state(&mut self, layer: u32, rows: &[Row], state: &State) {
        Probe::<O>::state(&mut self.recorder, layer, rows, state);
        for (index, row) in rows.iter().enumerate() {
            let place = (row.place.slot, row.place.position);
            if state.overflowed(index) && !self.marked.contains(&place) {
                let cell = Cell { position: row.place.position as u32, layer };
                if let Some(first) = self.overflow.get_mut(row.place.slot)
                    && first.is_none_or(|first| cell < first)
                {
                    *first = Some(cell);
                }
            }
        }
    }
}
