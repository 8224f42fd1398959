//! The world that tests run in: seeded numbers, models without files, and a ring in memory.
//!
//! Everything is drawn from one seed and there is no other source of chance, no clock and no
//! thread, so a failing test is repeated by its seed. Only tests, examples and benchmarks link this
//! crate.
//!
//! | module | what it has |
//! |---|---|
//! | [`numbers`] | pseudo-random numbers from a seed |
//! | [`tiny_model`] | a model of a few layers with weights from a seed, for the real arithmetic |
//! | [`device`] | a device with a memory of its own, for the real arithmetic; it can fail |
//! | [`gossip`] | nodes that gossip, with links that lose frames |
//! | [`hash_model`] | a model whose layers are hashes, for protocols: it costs nothing |
//! | [`lie`] | the lies that a server could tell, and what must find each |
//! | [`liar`] | the operations, weights, openings and frames of a server that tells one |
//! | [`long_layer`] | one layer of a session too long to compute, opened and audited in parts |
//! | [`overflow`] | tiny models whose numbers overflow where they are told to |
//! | [`proofs`] | receipts, and stages that open cells, made without frames |
//! | [`shown`] | everything that a forward pass shows, kept for comparisons |
//! | [`ring`] | servers, clients, links and time, with any executor; frames can be changed |
#![forbid(unsafe_code)]

pub mod device;
pub mod gossip;
pub mod hash_model;
pub mod liar;
pub mod lie;
pub mod long_layer;
pub mod numbers;
pub mod overflow;
pub mod proofs;
pub mod ring;
pub mod shown;
pub mod tiny_model;
