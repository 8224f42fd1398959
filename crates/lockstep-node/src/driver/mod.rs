//! Drivers: the loops between the protocol's machines and sockets, threads and the clock.
//!
//! A driver decides nothing. It brings frames, lost links, finished jobs and time to a machine, and
//! does what the machine asks for.

mod ask;
mod book;
mod client;
mod clock;
mod links;
mod peers;
mod server;

pub use ask::{Answer, AskError, Asking, ask};
pub use client::{Answers, Contact, Peers, StatusError, challenge, status, statuses};
pub use clock::Clock;
pub use links::{Links, Taken};
pub use server::{ServeError, Serving, serve};

use bytes::Bytes;
use lockstep_proto::limits::LENGTH_BYTES;

/// Returns a frame without its length, which the transport writes itself.
fn body(wire: Vec<u8>) -> Bytes {
    let mut bytes = Bytes::from(wire);
    bytes.split_off(LENGTH_BYTES.min(bytes.len()))
}
