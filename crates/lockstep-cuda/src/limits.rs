//! Every limit of this crate on sizes of its own; limits of models are those of
//! [`lockstep_exact::limits`].

use crate::version::{Capability, Version};

/// The oldest driver that takes the embedded text: the one for CUDA 12.0.
pub(crate) const OLDEST_DRIVER: Version = Version { major: 12, minor: 0 };
/// The oldest chips that have the instructions of the embedded text.
pub(crate) const OLDEST_CHIP: Capability = Capability { major: 7, minor: 5 };
/// Bytes of the device's memory that allocations leave free: the driver's own needs, and those of
/// whatever else the card does.
pub(crate) const RESERVE: u64 = 256 << 20;
/// Rows of a batch: the largest second and third side of a grid.
pub(crate) const BATCH_ROWS: usize = 65_535;
/// Sessions of a decode step: two tiles of four rows.
pub(crate) const STEP_ROWS: usize = 8;
/// Elements of a state in a decode step: a row lies in a block's shared memory as floats.
pub(crate) const STEP_HIDDEN: usize = 352 * 32;
/// Bytes of shared memory that a block of a decode step has for what changes.
pub(crate) const STEP_POOL: usize = 45_056;
/// Chunks of weights that a warp has on their way at most in a decode step of up to four sessions.
/// The kernels can wait for up to 3.
pub(crate) const STEP_CHUNKS_OF_FEW: u32 = 3;
/// The counterpart of [`STEP_CHUNKS_OF_FEW`] for more sessions: their codes and positions are
/// stored after the chunks.
pub(crate) const STEP_CHUNKS_OF_MANY: u32 = 2;
