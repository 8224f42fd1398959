//! Drivers: the loops between the protocol's machines and sockets, threads and the clock.
//!
//! A driver decides nothing. It brings frames, lost links, finished jobs and time to a machine, and
//! does what the machine asks for. Every machine runs in the same loop (`drive`), on a task of its
//! own; what differs is its port: a server's links and executor, the link of a request, the links
//! of challenges. A [`Node`] runs any number of machines on one endpoint.
//!
//! ```text
//!  Node ── one endpoint, one pool of kept links
//!   ├── links that come in, by class ──▶ port of a server ◀──▶ Server      ◀──▶ executor thread
//!   ├── a kept link, or a new one ────── port of a request ◀──▶ Client     ──▶ Asking
//!   ├── a kept link for each stage ───── port of challenges ◀──▶ Challenger ──▶ Answers
//!   ├── a link for each exchange ─────── port of a swarm ◀──▶ Gossip     ──▶ View
//!   ├── links that come in for files ─── port of a share ◀──▶ Uploads    ◀── store
//!   └── links to those who hold files ── port of a fetch ◀──▶ Fetch      ──▶ store
//! ```

mod ask;
mod book;
mod challenge;
mod clock;
mod drive;
mod fetch;
mod figures;
mod links;
mod node;
mod outlines;
mod peers;
mod server;
mod share;
mod status;
mod swarm;

pub use ask::{Answer, AskError, Asking, ask};
pub use challenge::{Answers, Peers, challenge};
pub use clock::Clock;
pub use fetch::{FetchError, Fetched, fetch, holders, wanted};
pub use figures::{Figures, Observer, SwarmFigures};
pub use links::{Links, Taken};
pub use node::{Finder, Node, Serving, serve};
pub use server::{AlreadyServed, ServeError};
pub use status::{Contact, StatusError, status, statuses};
pub use swarm::{View, members, peer_of, swarm};

use bytes::Bytes;
use lockstep_proto::limits::LENGTH_BYTES;

/// Returns a frame without its length, which the transport writes itself.
fn body(wire: Vec<u8>) -> Bytes {
    let mut bytes = Bytes::from(wire);
    bytes.split_off(LENGTH_BYTES.min(bytes.len()))
}
