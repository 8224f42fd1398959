//! Selects the operations that this machine computes with, and the number of threads.

use std::num::NonZeroUsize;
use std::thread;

use lockstep_kernels::{Kernels, StartError};

/// The operations that this build computes with.
pub type Backend = Kernels;

/// A number of threads that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected 1 to {most} (four for each of this machine's {cores} cores, and 16 in any case), got \
     {got}"
)]
pub struct ThreadsError {
    /// The number of cores that this machine has.
    pub cores: usize,
    /// The most threads that can be used.
    pub most: usize,
    /// The number of threads that was asked for.
    pub got: usize,
}

/// Why there are no operations to compute with.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The kernels or their threads did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The number of threads can't be used.
    #[error("threads: {0}")]
    Threads(#[from] ThreadsError),
}

/// Returns the number of cores that the system lets this process use; 1 if it does not say.
#[must_use]
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Threads that may compute: four for each core, and 16 in any case. They wait for each other at
/// every step of a layer, so more than cores only slow each other down.
fn most_threads(cores: usize) -> usize {
    cores.saturating_mul(4).max(16)
}

/// Returns the number of threads, if it is one that can be used.
///
/// # Errors
/// [`ThreadsError`] says how many can be used.
pub fn checked_threads(threads: usize) -> Result<usize, ThreadsError> {
    let (cores, most) = (cores(), most_threads(cores()));
    if (1..=most).contains(&threads) {
        return Ok(threads);
    }
    Err(ThreadsError { cores, most, got: threads })
}

/// Returns the fastest operations that this machine has, with `threads` threads, or one for each
/// core if that is `None`.
///
/// # Errors
/// [`BackendError`].
pub fn backend(threads: Option<usize>) -> Result<Backend, BackendError> {
    Ok(Kernels::detect(checked_threads(threads.unwrap_or_else(cores))?)?)
}
