//! Which operations this machine computes with.

use std::num::NonZeroUsize;
use std::thread;

use anyhow::Result;
use lockstep_kernels::Kernels;

use crate::exit::usage;

/// The operations of this build.
pub(crate) type Backend = Kernels;

/// How many cores there are.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Threads that may compute: four for each core, and 16 in any case. They wait for each other at
/// every step of a layer, so more than cores only slow each other down.
fn most_threads(cores: usize) -> usize {
    cores.saturating_mul(4).max(16)
}

/// The number of threads, if it is one that can be used.
pub(crate) fn checked_threads(threads: usize) -> Result<usize> {
    let (cores, most) = (cores(), most_threads(cores()));
    if (1..=most).contains(&threads) {
        return Ok(threads);
    }
    Err(usage(format!(
        "--threads: expected 1 to {most} (four for each of this machine's {cores} cores, and 16 in \
         any case), got {threads}"
    )))
}

/// The fastest operations that this machine has, on so many threads; all cores if none are given.
pub(crate) fn backend(threads: Option<usize>) -> Result<Backend> {
    Ok(Kernels::detect(checked_threads(threads.unwrap_or_else(cores))?)?)
}
