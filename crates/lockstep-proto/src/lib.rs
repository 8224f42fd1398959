//! The protocol without I/O: wire frames, and the machines of a ring's stages and of a client.
//!
//! Every machine takes inputs and the time, and gives outputs; sockets, threads and clocks are the
//! driver's. Compute is I/O too: a machine asks for a [`job::Job`] and is told what came of it.
//! Everything that a peer sends is hostile until it is checked, and the same inputs at the same
//! times always give the same outputs.
#![forbid(unsafe_code)]
#![deny(
    missing_docs,
    clippy::allow_attributes_without_reason,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::get_unwrap,
    clippy::host_endian_bytes,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::panic,
    clippy::panic_in_result_fn,
    clippy::string_slice,
    clippy::todo,
    clippy::unimplemented,
    clippy::unreachable,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm
)]

pub mod announcement;
mod chain;
pub mod client;
pub mod failure;
pub mod frame;
pub mod job;
mod life;
pub mod limits;
pub mod model;
pub mod now;
mod promise;
pub mod route;
pub mod schedule;
pub mod server;
pub mod version;
