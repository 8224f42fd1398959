//! The operations of [`lockstep_exact::ops`], fast.
//!
//! [`Kernels`] computes on one of the processor's instruction sets ([`Isa`]) and some threads;
//! which of them, and how work is cut into parts, cannot change a bit of any result. It is equal
//! to [`lockstep_exact::reference::Reference`] or it is a bug: `tests/laws.rs` holds every
//! available instruction set and several thread counts to that.
//!
//! Integer products (matrices, attention) are written with intrinsics; everything element-wise
//! is plain Rust compiled once per instruction set, but for the weights of attention, which are
//! both. `unsafe` is for four things only: calling code that is compiled for an instruction set
//! which an [`Isa`] proves, reading whole registers from slices whose lengths are checked, lending
//! a region of work to the pool's threads, and the mapped memory of sessions.

#![deny(
    clippy::disallowed_methods,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    unsafe_op_in_unsafe_fn
)]

mod append;
mod attend;
mod buffer;
mod field;
mod float_mode;
mod isa;
mod kv;
mod line;
pub mod machine;
mod matmul;
mod ops;
mod pool;
mod rows;
mod slabs;

pub use float_mode::FloatModeError;
pub use isa::{Isa, IsaError, OVERRIDE};
pub use kv::Kv;
pub use ops::{Codes, Kernels, Rows, Sums};

/// Why kernels could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread's floating-point mode is not the one the arithmetic is defined for.
    #[error(transparent)]
    FloatMode(#[from] FloatModeError),
    /// The instruction set asked for is unknown or not available.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// A compute thread could not be started.
    #[error("a compute thread could not be started: {0}")]
    Spawn(#[source] std::io::Error),
}
