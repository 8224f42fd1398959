//! The shell around Lockstep's protocol: sockets, files, threads and the clock, and nothing else.
//!
//! | module | what it owns |
//! |---|---|
//! | [`transport`] | authenticated links of frames between nodes |
//! | [`driver`] | the loops around the protocol's machines: a server, and a client's requests |
//! | [`executor`] | the thread that computes: sessions, batches, openings |
//! | [`local`] | a whole model in this process, without servers |
//! | [`ticket`] | the text that tells where a swarm is |
//! | [`home`], [`config`], [`several`] | the directory, its file modes, and the settings |
//! | [`store`] | content-addressed model files, checked and mapped |
//! | [`receipts`], [`record`] | the receipts that are kept, within a limit; how servers answered |
//! | [`pull`] | model files from elsewhere |
//! | [`memory`], [`cgroup`] | how much of it there is, and what models take of it |
//! | [`doctor`] | what this machine can and can't do |
//! | [`limits`] | every limit and deadline |
//!
//! Every wait has a deadline and every queue and file a limit; they are all in [`limits`].
//! `unsafe` is allowed in `store::mmap` alone.

#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    unsafe_code
)]

pub mod cgroup;
pub mod config;
pub mod doctor;
pub mod driver;
pub mod executor;
pub mod home;
pub mod limits;
pub mod local;
pub mod memory;
pub mod pull;
pub mod receipts;
pub mod record;
pub mod several;
pub mod store;
pub mod ticket;
pub mod transport;

#[cfg(test)]
mod testdir;
