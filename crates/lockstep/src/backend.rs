//! Which operations this machine computes with.

use anyhow::Result;

/// The operations of this build.
pub(crate) type Backend = lockstep_exact::reference::Reference;

/// The fastest operations that this machine has, on so many threads.
pub(crate) fn backend(_threads: Option<usize>) -> Result<Backend> {
    Ok(lockstep_exact::reference::Reference)
}
