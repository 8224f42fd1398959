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
/// Bytes up to which device memory is kept for its next use when it is given back: pages of keys
/// and values, and what a batch needs for a moment, such as the states of a prompt after a layer.
pub(crate) const POOL_PIECE: usize = 64 << 20;
/// Kept memory of up to so many bytes has a power of two of them, more of it a multiple of these.
pub(crate) const POOL_STEP: usize = 64 << 10;
/// Bytes of a tray at least: what the host is to see is copied to it in such pieces. The smaller
/// they are, the earlier it begins to hash.
pub(crate) const TRAY: usize = 4 << 20;
/// Rows of a batch: the largest second and third side of a grid.
pub(crate) const BATCH_ROWS: usize = 65_535;
/// Sessions of a decode step: two tiles of four rows.
pub(crate) const STEP_ROWS: usize = 8;
/// Positions that a session can have at least in a server's decode steps: memory for longer ones is
/// taken when one comes.
pub(crate) const STEP_POSITIONS: usize = 1024;
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
