//! Changing a state row so that it stays canonical: nothing but its value tells.

use lockstep_exact::state::State;

/// Flips the lowest bit of the first mantissa of a row for which the row stays canonical.
pub(crate) fn flip_bit(state: &mut State, row: usize) {
    let width = state.width();
    for element in 0..width {
        state.row_mut(row).0[element] ^= 1;
        let mut bytes = Vec::new();
        state.write_row(row, &mut bytes);
        if State::parse(width, &bytes).is_ok() {
            return;
        }
        state.row_mut(row).0[element] ^= 1;
    }
}
