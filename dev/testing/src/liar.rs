//! Servers that lie: what an audit is worth is what it finds.
//!
//! A [lie](crate::lie) is told where a server would tell it: in its [`weights`], in its [`ops`], in
//! what its [`executor`] answers, in its openings, in its [`rules`] or in its [`frames`]. It is
//! told consistently: the server that opens cells is the one that computed them, with the same
//! wrong weights and operations, so that the audit finds the lie and not a slip of the liar.

pub mod executor;
pub mod frames;
mod openings;
pub mod ops;
pub mod rules;
pub mod session;
mod states;
pub mod weights;
