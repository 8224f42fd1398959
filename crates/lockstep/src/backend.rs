//! Which operations this machine computes with.

use std::num::NonZeroUsize;
use std::thread;

use anyhow::Result;
use lockstep_kernels::Kernels;

/// The operations of this build.
pub(crate) type Backend = Kernels;

/// How many cores there are.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// The fastest operations that this machine has, on so many threads; all cores if none are given.
pub(crate) fn backend(threads: Option<usize>) -> Result<Backend> {
    Ok(Kernels::detect(threads.unwrap_or_else(cores).max(1))?)
}
