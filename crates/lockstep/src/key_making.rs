//! The key of a model, made with a bar that shows how far it is.

use anyhow::Result;
use indicatif::ProgressBar;
use lockstep_client::keys::{self, KeyFileError};
use lockstep_client::model::Model;
use lockstep_client::place::Place;
use lockstep_verify::key::Key as VerifierKey;

use crate::output;

/// Returns the key in the keys folder; made now if there is none.
pub(crate) fn ensure(place: &Place, model: &Model) -> Result<VerifierKey> {
    with_bar(model, |progress| keys::ensure(place, model, progress))
}

/// Returns a new key, whether there is one or not.
pub(crate) fn make(place: &Place, model: &Model) -> Result<VerifierKey> {
    with_bar(model, |progress| keys::make(place, model, progress))
}

/// Shows how many layers are done, if any are.
fn with_bar(
    model: &Model,
    work: impl FnOnce(&mut dyn FnMut(u32)) -> Result<VerifierKey, KeyFileError>,
) -> Result<VerifierKey> {
    let mut bar = None;
    let layers = model.manifest.layers.len() as u64;
    let key = work(&mut |done| {
        let bar = bar.get_or_insert_with(|| output::steps_bar("making the key", layers));
        bar.set_position(done.into());
    })?;
    bar.iter().for_each(ProgressBar::finish_and_clear);
    Ok(key)
}
