//! What an application does with Lockstep: makes requests, has them answered and audited, keeps
//! the receipts and verifies them again.

#![forbid(unsafe_code)]
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs
)]

pub mod backend;
pub mod bundle_file;
pub mod format;
pub mod here;
pub mod keys;
pub mod model;
pub mod own;
pub mod place;
pub mod random;
pub mod receipts;
pub mod request;
mod shown;
pub mod standing;
pub mod text;
