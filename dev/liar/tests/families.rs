//! The rings of `memory`, over a model with all that only some families have: biases, norms of heads
//! and after each part, GELU, two rotary tables, windows.

use lockstep_exact::fixture::{Features, Sizes, TinyModel};

#[path = "memory/lies.rs"]
mod lies;
#[path = "memory/ring.rs"]
mod ring;

/// The model of these tests.
fn model() -> TinyModel {
    TinyModel::with_features(1, Sizes::default(), Features::ALL)
}
