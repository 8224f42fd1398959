//! Swarms of many machines as a capacity model: what takes time and room is counted, and no frame
//! is made.
//!
//! | module | what it has |
//! |---|---|
//! | `machines` | uneven machines, drawn from a seed, and what they announce |
//! | `bound` | the most tokens per second that placed machines can give |
//! | `policy` | who serves which layers, and which ring a request gets: ours, and three baselines |
//! | `service` | clients, queues and batches in virtual time |

pub(crate) mod bound;
pub(crate) mod machines;
pub mod policy;
pub(crate) mod service;
