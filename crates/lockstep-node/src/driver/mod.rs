//! Drivers: the loops between the protocol's machines and sockets, threads and the clock.
//!
//! A driver decides nothing. It brings frames, lost links, finished jobs and time to a machine, and
//! does what the machine asks for.

mod book;
mod client;
mod clock;
mod peers;
mod server;

pub use client::{
    Answers, AskError, Contact, Peers, StatusError, ask, challenge, status, statuses,
};
pub use clock::Clock;
pub use server::{ServeError, Serving, serve};

use bytes::Bytes;
use lockstep_proto::limits::LENGTH_BYTES;

/// A frame without its length, which the transport writes itself.
fn body(wire: Vec<u8>) -> Bytes {
    let mut bytes = Bytes::from(wire);
    bytes.split_off(LENGTH_BYTES.min(bytes.len()))
}
