//! The rows of a batch that have overflowed: what happens to them stands in [`crate::ops`].

use crate::state::State;

/// Which rows of a batch have overflowed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Flags(Vec<bool>);

impl Flags {
    /// The rows of `state` that are overflow markers.
    #[must_use]
    pub fn of(state: &State) -> Self {
        Self((0..state.rows()).map(|row| state.overflowed(row)).collect())
    }

    /// Flags a row.
    pub fn set(&mut self, row: usize) {
        if let Some(flag) = self.0.get_mut(row) {
            *flag = true;
        }
    }

    /// Whether a row is flagged.
    #[must_use]
    pub fn get(&self, row: usize) -> bool {
        self.0.get(row).copied().unwrap_or(false)
    }

    /// The flags of the rows at `indexes`, in that order.
    #[must_use]
    pub fn select(&self, indexes: &[usize]) -> Self {
        Self(indexes.iter().map(|&row| self.get(row)).collect())
    }

    /// Flags the row `indexes[i]` for every flagged row `i` of `other`.
    pub fn merge_at(&mut self, other: &Self, indexes: &[usize]) {
        let flagged = indexes.iter().zip(&other.0).filter(|(_, flag)| **flag);
        flagged.for_each(|(&row, _)| self.set(row));
    }

    /// Flags every row whose flag is set in `other`, for a backend that works on parts of a batch.
    pub fn merge(&mut self, first_row: usize, other: &[bool]) {
        for (row, _) in other.iter().enumerate().filter(|(_, flag)| **flag) {
            self.set(first_row + row);
        }
    }
}
