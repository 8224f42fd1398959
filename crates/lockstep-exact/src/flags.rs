//! The rows of a batch that have overflowed: what happens to them stands in [`crate::ops`].

use crate::state::State;

/// Which rows of a batch have overflowed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Flags(Vec<bool>);

impl Flags {
    /// Creates the flags of `rows` rows, of which none is set.
    #[must_use]
    pub fn none(rows: usize) -> Self {
        Self(vec![false; rows])
    }

    /// Returns the flags of a state's rows, set for those that are overflow markers.
    #[must_use]
    pub fn of(state: &State) -> Self {
        Self((0..state.rows()).map(|row| state.overflowed(row)).collect())
    }

    /// Sets the flag of the row `row`.
    ///
    /// # Panics
    /// For a row that the batch does not have: an operation that took it for one would overflow
    /// without a trace. Rows are counted by the operations themselves; no peer names one.
    pub fn set(&mut self, row: usize) {
        self.0[row] = true;
    }

    /// Returns whether the flag of the row `row` is set.
    ///
    /// # Panics
    /// For a row that the batch does not have, as [`Flags::set`].
    #[must_use]
    pub fn get(&self, row: usize) -> bool {
        self.0[row]
    }

    /// Returns the flags of the rows at `indexes`, in that order.
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

#[cfg(test)]
mod tests {
    use super::*;

    // Where a panic ends the program, as in WebAssembly, none can be caught.
    #[cfg(panic = "unwind")]
    #[test]
    fn a_row_that_the_batch_does_not_have_is_no_row() {
        let mut flags = Flags::none(2);
        flags.set(1);
        assert_eq!((flags.get(0), flags.get(1)), (false, true));
        let got = std::panic::catch_unwind(|| flags.clone().get(2));
        let set = std::panic::catch_unwind(|| flags.clone().set(2));
        assert!(got.is_err() && set.is_err(), "it would overflow without a trace");
    }
}
