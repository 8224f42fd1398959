//! lockstep-kernels.
mod isa;
pub mod matmul;
pub use isa::{Isa, IsaError, OVERRIDE};
