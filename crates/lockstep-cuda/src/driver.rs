//! The CUDA driver: the library is loaded at run time, every result is typed, memory is checked
//! before it is taken.
//!
//! This is the only module with `unsafe` code. What its safe functions promise: a handle lives as
//! long as what was made with it; host memory is passed with its real length and is no longer in
//! use when a function returns; a kernel gets exactly the parameters that its text declares. A
//! kernel that reads or writes a wrong place does so in the device's memory, or in the host's that
//! is pinned for copies; no Rust reference points to either, and it comes back as [`Error::Lost`].
//!
//! It refuses drivers and chips older than the embedded text needs. Unified memory is not used.

mod api;
mod context;
mod error;
mod landing;
mod memory;
mod module;
mod pool;

pub use context::{DeviceInfo, Driver};
pub use error::Error;
pub use memory::{Buffer, Element};

pub(crate) use context::Context;
pub(crate) use landing::Landing;
pub(crate) use module::{Argument, Module};
