//! Frames between nodes: who is at the other end is certain, every wait has a deadline, and a
//! peer that dies is noticed.
//!
//! An [`Endpoint`] dials and accepts [`Link`]s. A link is one connection to one peer for one
//! [`Class`] of traffic, with one stream of frames in each direction; links of different classes
//! never wait for one another. Both ends are authenticated by their ed25519 keys, and everything
//! is encrypted. The same types run over QUIC ([`Endpoint::bind`]) and in memory
//! ([`memory::Network`]), so that whatever is built on them can be tested without sockets.
//!
//! Refused here: a peer with another key than the one dialled, a peer outside the [`AllowList`],
//! a frame longer than its class and kind allow, a frame that starts and never ends, a peer that
//! doesn't take what is sent to it, and more links, handshakes, and bytes that are unfinished, not
//! taken up or unread, than one peer, one source or all together may have. Of a frame's meaning
//! only its kind is known here.
//!
//! Invariant: a link never loses, repeats or reorders a frame; it delivers a prefix of what was
//! sent, then says why it ended.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use lockstep_proto::frame::{self as protocol, Frame as _};
use tokio::sync::{Mutex, mpsc};

use crate::limits;

mod address;
mod door;
mod error;
mod flight;
mod frame;
mod held;
mod identity;
mod link;
mod listen;
pub mod memory;
mod quic;
mod relay_tls;
mod unread;
mod way;
mod wire;

pub use address::{Address, AddressError, Relay};
pub(crate) use door::Source;
pub(crate) use error::deepest;
pub use error::{BindError, ConnectError, ConnectFailure, HangUp, LinkError, LinkFailure};
pub use identity::{Held, Identity, IdentityError, NodeIdError, is_key, parse_node_id};
pub use link::{Link, Receiver, Sender};
pub use listen::{Advertised, AdvertisedError, Listen, ListenError, own_addresses};
pub use lockstep_verify::sign::NodeId;
pub(crate) use relay_tls::server_config as relay_server_config;
pub use way::Way;

/// A class of traffic: its own connections, limits and protocol name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// States on their way round the ring.
    Ring,
    /// Requests, status, challenges and openings.
    Control,
    /// The announcements that nodes tell each other of their swarm.
    Swarm,
    /// The files of a model, from a node that holds them to one that fetches them.
    Blobs,
}

impl Class {
    /// All classes of links, in order.
    pub const ALL: [Self; 4] = [Self::Ring, Self::Control, Self::Swarm, Self::Blobs];

    /// Returns the protocol name on the wire; its version is part of it.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Ring => protocol::RING_ALPN,
            Self::Control => protocol::CTL_ALPN,
            Self::Swarm => protocol::SWARM_ALPN,
            Self::Blobs => protocol::BLOBS_ALPN,
        }
    }

    /// Returns the most bytes that a frame may have which one end of a link sends.
    pub fn frame_cap(self, from: End) -> usize {
        match (self, from) {
            (Self::Ring, _) => limits::RING_FRAME_BYTES,
            (Self::Control, End::Dialler) => limits::TO_SERVER_FRAME_BYTES,
            (Self::Control, End::Acceptor) => limits::TO_CLIENT_FRAME_BYTES,
            (Self::Swarm, _) => limits::SWARM_FRAME_BYTES,
            (Self::Blobs, End::Dialler) => limits::TO_HOLDER_FRAME_BYTES,
            (Self::Blobs, End::Acceptor) => limits::FROM_HOLDER_FRAME_BYTES,
        }
    }

    /// Returns the most bytes that a frame may have which begins with the byte `kind`: the kind of
    /// a frame bounds its length.
    fn cap_of_kind(self, from: End, kind: u8) -> usize {
        match (self, from) {
            (Self::Ring, _) => protocol::RingFrame::limit_of(kind),
            (Self::Control, End::Dialler) => protocol::ToServer::limit_of(kind),
            (Self::Control, End::Acceptor) => protocol::ToClient::limit_of(kind),
            (Self::Swarm, _) => protocol::SwarmFrame::limit_of(kind),
            (Self::Blobs, End::Dialler) => protocol::ToHolder::limit_of(kind),
            (Self::Blobs, End::Acceptor) => protocol::FromHolder::limit_of(kind),
        }
    }

    fn from_alpn(alpn: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.alpn() == alpn)
    }
}

/// One of the two ends of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The node that opened the link.
    Dialler,
    /// The node that accepted the link.
    Acceptor,
}

impl End {
    const fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Acceptor,
            Self::Acceptor => Self::Dialler,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ring => "ring link",
            Self::Control => "control link",
            Self::Swarm => "swarm link",
            Self::Blobs => "link for files",
        })
    }
}

/// The address of a peer: its node id, and where it is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddr {
    /// The peer's name; whoever answers must prove it.
    pub id: NodeId,
    /// The sockets at which the peer listens, and the relays to which it is connected.
    pub addrs: Vec<Address>,
}

impl PeerAddr {
    /// Returns the addresses as leases and announcements carry them: comma-separated.
    #[must_use]
    pub fn text(&self) -> String {
        self.addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Whose connections an endpoint accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowList {
    /// Any node that can prove its id may connect.
    #[default]
    Anyone,
    /// These nodes alone may connect.
    Only(BTreeSet<NodeId>),
}

impl AllowList {
    /// Returns whether this list lets the node in.
    pub fn permits(&self, node: &NodeId) -> bool {
        match self {
            Self::Anyone => true,
            Self::Only(nodes) => nodes.contains(node),
        }
    }
}

/// The allow-list of a running endpoint, which may be replaced at any time.
type SharedAllowList = Arc<RwLock<AllowList>>;

fn permits(allow: &SharedAllowList, node: &NodeId) -> bool {
    allow.read().unwrap_or_else(PoisonError::into_inner).permits(node)
}

/// A place from which links are dialled and at which links are accepted.
///
/// Close it with [`Endpoint::close`]: that is what tells the peers. Dropped without it, peers see
/// silence.
#[derive(Debug)]
pub struct Endpoint {
    id: NodeId,
    allow: SharedAllowList,
    inbox: Mutex<mpsc::Receiver<Link>>,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Quic(quic::Socket),
    Memory(memory::Port),
}

impl Endpoint {
    /// Listens on UDP sockets, and uses nothing but these and the relays that `listen` names: no
    /// DNS, no port mapping. Port 0 lets the system choose; [`Endpoint::addr`] returns the port
    /// that it chose. With a relay, this waits until the relay has answered, or
    /// [`limits::RELAY_DEADLINE`] has passed.
    ///
    /// # Errors
    /// [`BindError`] if an address can't be listened on.
    pub async fn bind(
        identity: &Identity,
        listen: impl Into<Listen>,
        allow: AllowList,
    ) -> Result<Self, BindError> {
        let listen = listen.into();
        let allow = Arc::new(RwLock::new(allow));
        let (accepted, inbox) = mpsc::channel(limits::ACCEPT_QUEUE_LINKS);
        let socket = quic::Socket::bind(identity, &listen, Arc::clone(&allow), accepted).await?;
        let (inbox, inner) = (Mutex::new(inbox), Inner::Quic(socket));
        Ok(Self { id: identity.id(), allow, inbox, inner })
    }

    /// Returns the id of this node.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Returns the addresses that are listened on.
    pub fn bound(&self) -> Vec<SocketAddr> {
        match &self.inner {
            Inner::Quic(socket) => socket.bound(),
            Inner::Memory(_) => Vec::new(),
        }
    }

    /// Returns the address at which peers reach this endpoint. An endpoint that listens on sockets
    /// always has one, if only one for this machine.
    pub fn addr(&self) -> PeerAddr {
        let addrs = match &self.inner {
            Inner::Quic(socket) => socket.addrs(),
            Inner::Memory(_) => Vec::new(),
        };
        PeerAddr { id: self.id, addrs }
    }

    /// Replaces the list of nodes that may connect. Links that are open stay open.
    pub fn set_allow(&self, allow: AllowList) {
        *self.allow.write().unwrap_or_else(PoisonError::into_inner) = allow;
    }

    /// Dials a peer and opens a link of the class `class`. When this returns, the peer has proved
    /// its id and accepted this node.
    ///
    /// # Errors
    /// [`ConnectError`], at the latest after [`limits::CONNECT_DEADLINE`].
    pub async fn connect(&self, peer: &PeerAddr, class: Class) -> Result<Link, ConnectError> {
        let dialled = match &self.inner {
            _ if peer.id == self.id => Err(ConnectFailure::Oneself),
            Inner::Quic(socket) => socket.dial(peer, class).await,
            Inner::Memory(port) => port.dial(peer.id, class),
        };
        dialled.map_err(|why| ConnectError { peer: peer.id, class, why })
    }

    /// Returns the next link that a peer has opened; `None` once this endpoint is closed.
    pub async fn accept(&self) -> Option<Link> {
        self.inbox.lock().await.recv().await
    }

    /// Closes every link and tells the peers. What is still queued is lost: see
    /// [`Sender::finish`].
    pub async fn close(&self) {
        match &self.inner {
            Inner::Quic(socket) => socket.close().await,
            Inner::Memory(port) => port.close(),
        }
    }
}
