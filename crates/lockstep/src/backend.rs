//! Threads to compute with, and errors that name the flag.

use anyhow::Result;
use lockstep_client::backend::{self, Backend, BackendError, ThreadsError};
use lockstep_client::model::{LoadModelError, Model};
use lockstep_client::place::Place;
use lockstep_node::local::Local;

use crate::exit::usage;

fn in_flags(error: ThreadsError) -> anyhow::Error {
    usage(format!("--threads: {error}"))
}

/// Returns the number of threads that compute: `given` if there is one, else what the settings say;
/// `None` if neither says.
///
/// # Errors
/// A usage error that says how many can be used.
pub(crate) fn threads(place: &Place, given: Option<usize>) -> Result<Option<usize>> {
    place.threads(given).map_err(in_flags)
}

/// Returns the fastest operations that this machine has, with `threads` threads, or one for each
/// core if that is `None`.
pub(crate) fn backend(threads: Option<usize>) -> Result<Backend> {
    backend::backend(threads).map_err(|error| match error {
        BackendError::Threads(error) => in_flags(error),
        BackendError::Start(_) => error.into(),
    })
}

/// Loads all layers and the head of a model.
pub(crate) fn load(place: &Place, model: &Model, threads: Option<usize>) -> Result<Local<Backend>> {
    model.load(place, threads).map_err(|error| match error {
        LoadModelError::Backend(BackendError::Threads(error)) => in_flags(error),
        error => error.into(),
    })
}
