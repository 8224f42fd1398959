//! Rings in memory, in virtual time: honest ones are verified, lying ones are caught, and only
//! they.

use lockstep_exact::fixture::TinyModel;

mod honest;
mod lies;
mod rates;
mod ring;

/// The model of these tests.
fn model() -> TinyModel {
    TinyModel::new(1)
}
