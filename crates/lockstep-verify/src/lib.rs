//! How an answer is checked: statements, commitments, keys, challenges, openings and audits.
//!
//! Everything here is total: hostile bytes and lying servers give typed errors and faults, never a
//! panic. Nothing here does I/O, reads a clock or draws randomness; callers bring bytes, time and
//! seeds.
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

pub mod archive;
pub mod audit;
mod auditor;
pub mod bundle;
mod cells;
pub mod challenge;
mod checked;
pub mod column;
pub mod coverage;
pub mod device;
pub mod draw;
pub mod fault;
pub mod key;
mod layer;
pub mod limits;
pub mod links;
pub mod measure;
pub mod opening;
pub mod price;
pub mod rates;
pub mod receipt;
pub mod request;
mod run;
pub mod run_id;
pub mod secret;
pub mod sign;
pub mod slice;
mod slots;
pub mod statement;
pub mod sums;
