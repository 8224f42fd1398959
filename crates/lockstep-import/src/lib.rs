//! Model files that people already have, turned into canonical content-addressed packages.
//!
//! This crate parses hostile files and holds the last free use of floating point: what it writes
//! is integers, row scales and tables, and is a pure function of the input file's bytes.
#![forbid(unsafe_code)]
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs
)]

mod balance;
mod date;
mod families;
pub mod float;
pub mod foreign;
pub mod gguf;
mod jinja;
mod layout;
pub mod limits;
mod oddity;
pub mod package;
mod quantise;
mod rope;
pub mod safetensors;
pub mod source;
pub mod template;
pub mod tokenizer;

pub use families::FamilyError;
pub use oddity::Oddity;
