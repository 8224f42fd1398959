//! Rules that are not the model's: what a server holds is what its protocol machine goes by.

use lockstep_proto::model::Model;

use crate::lie::{Lie, Script};

/// Returns the model as the liar's protocol machine knows it, with other end tokens where the
/// script lies about the end of an answer.
#[must_use]
pub fn model(script: Option<Script>, model: Model) -> Model {
    let end_tokens = match script.map(|script| script.lie) {
        Some(Lie::StopsEarly) => (0..model.vocabulary).collect(),
        Some(Lie::GoesOn | Lie::HiddenTail) => Vec::new(),
        _ => model.end_tokens,
    };
    Model { end_tokens, ..model }
}
