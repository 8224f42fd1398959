//! What the answer is.
//!
//! This crate defines every number that a Lockstep server computes: the exact arithmetic, the forward
//! pass over a span of layers, sampling, the manifest that names a model, and the canonical bytes of
//! everything that is hashed. [`reference::Reference`] is the oracle; a backend may only be faster.
//!
//! No unsafe code, no I/O, no clock, no threads, no hash maps; floats only through the few operations
//! that every machine defines alike.
#![forbid(unsafe_code)]

pub mod attend;
pub mod blob;
pub mod bytes;
pub mod digest;
pub mod field;
pub mod fixture;
pub mod forward;
pub mod kv;
pub mod limits;
pub mod manifest;
pub mod matrix;
pub mod num;
pub mod ops;
pub mod reference;
pub mod sample;
pub mod state;
pub mod vocabulary;
pub mod weights;

pub use digest::Digest;
