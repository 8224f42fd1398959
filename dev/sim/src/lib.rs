//! Deterministic simulation: servers and clients, or whole swarms, in virtual time and from one
//! seed.
//!
//! `cargo run --release -p sim -- --scenario faults --seed 1 --seeds 100 --json` runs a hundred
//! seeds. Whatever a checker finds is printed with the command that repeats the seed.
//! docs/testing.md says what each scenario shows, and what in it is the real machine and what a
//! model.
//!
//! | module | what it has |
//! |---|---|
//! | [`report`] | the counts of a run, and marks: which rare paths were taken |
//! | [`judge`] | a model of a full audit |
//! | `swarm` | machines as a capacity model, and who serves and routes by which policy |
//! | [`balance`] | the scenario in which uneven machines serve as much as they can |
//! | `membership` | real gossip under churn |
//! | [`churn`] | the scenario in which machines join, leave and crash |
//! | [`sybils`] | the scenario with nodes that announce wonders, and users who trust or do not |
//! | [`faults`] | the scenario with real servers and clients, and everything that can happen |
#![forbid(unsafe_code)]

pub mod balance;
pub mod churn;
pub mod faults;
pub mod judge;
mod membership;
pub mod report;
pub mod swarm;
pub mod sybils;
