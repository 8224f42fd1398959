//! What the answer is.
//!
//! This crate defines every number that a Lockstep server computes: the exact arithmetic, the
//! forward pass over a span of layers, sampling, the manifest that names a model, and the
//! canonical bytes of everything that is hashed. [`reference::Reference`] is the oracle; a backend
//! may only be faster.
//!
//! No unsafe code, no I/O, no clock, no threads, no hash maps; floats only through the few
//! operations that every machine defines alike.
#![forbid(unsafe_code)]
#![deny(
    missing_docs,
    clippy::allow_attributes_without_reason,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::host_endian_bytes,
    clippy::let_underscore_must_use,
    clippy::panic,
    clippy::panic_in_result_fn,
    clippy::todo,
    clippy::unimplemented,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm
)]

pub mod attend;
pub mod blob;
pub mod bytes;
pub mod digest;
pub mod experts;
pub mod feed_forward;
pub mod field;
pub mod figure;
pub mod flags;
pub mod forward;
pub mod invariant;
pub mod kv;
pub mod limits;
pub mod manifest;
pub mod matrix;
pub mod names;
pub mod norm;
pub mod num;
pub mod ops;
pub mod plan;
mod probe;
pub mod reference;
pub mod sample;
pub mod state;
pub mod tree;
pub mod vocabulary;
pub mod weights;

pub use digest::Digest;
