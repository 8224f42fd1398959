//! Whole sessions over a tiny model: honest rings, lying servers, tampered receipts.
//!
//! Rings run in memory: stages, head and client are the crate's own statements, columns and
//! openings around the reference's forward pass. A lie is told at one named place of one stage;
//! everything else that the stage does with it is what its honest code does.

mod binding;
mod blame;
mod bytes;
mod checks;
#[path = "../support/drive.rs"]
mod drive;
mod families;
mod honest;
mod lengths;
mod lies;
mod parts;
mod provers;
mod rates;
mod takeover;
mod tamper;
