//! A relay that people can run themselves, for nodes that nobody can reach from outside.
//!
//! A node behind a router connects to the relay and stays connected. Whoever wants to reach it
//! sends its packets to the relay, which hands them on; both ends then try to find a direct way
//! (QUIC address discovery and hole punching), and leave the relay when they have. What is handed
//! on is encrypted from end to end: a relay sees who talks to whom and how much, and can hold
//! packets back, but can't read or change them. The protocol is that of the library `iroh-relay`.
//!
//! The relay proves its node id with TLS; see [`Relay`] for the text that names it. One port number
//! is used, over TCP for what is handed on and over UDP for address discovery.
//!
//! | module | what it has |
//! |---|---|
//! | `front` | the TCP socket, with limits on connections by where they come from |

mod front;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use iroh::EndpointId;
use iroh_relay::server::{
    Access, AccessControl, CertConfig, ClientRateLimit, ClientRequest, ConnectionId, Limits,
    QuicConfig, RelayConfig, Server, ServerConfig, TlsConfig,
};

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::limits;
use crate::transport::{AllowList, Identity, NodeId, Relay, deepest, relay_server_config};

/// A relay that is running; it ends when it is dropped.
#[derive(Debug)]
pub struct Running {
    server: Server,
    id: NodeId,
    bound: SocketAddr,
    /// Ends when this is dropped.
    _front: JoinSet<()>,
}

/// The nodes that may use a relay, and how much each of them may send.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The nodes that may use the relay.
    pub allow: AllowList,
    /// The most bytes per second that each connection may send; none for no limit.
    pub bytes_per_second: Option<NonZeroU32>,
}

/// The error that a relay could not be started, or ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the relay at {addr}: {detail}")]
pub struct RelayError {
    /// The address at which it was to listen.
    pub addr: SocketAddr,
    /// The error that the system or the library reported, and what to do.
    pub detail: String,
}

impl Running {
    /// Starts a relay that listens at `addr`, over TCP and UDP. Port 0 lets the system choose.
    ///
    /// # Errors
    /// [`RelayError`] if the address can't be listened on.
    pub async fn start(
        identity: &Identity,
        addr: SocketAddr,
        terms: Terms,
    ) -> Result<Self, RelayError> {
        let failed = |detail: String| RelayError { addr, detail };
        let tls = relay_server_config(identity).map_err(|error| failed(error.to_string()))?;
        // The port that the system chooses for UDP is asked for over TCP.
        let port = free_port(addr).map_err(|error| failed(error.to_string()))?;
        let bound = SocketAddr::new(addr.ip(), port);
        let outer = TcpListener::bind(bound).await.map_err(|error| failed(error.to_string()))?;
        // What is served there without TLS is for the detection of captive portals: no node asks.
        let mut relay = RelayConfig::new((Ipv4Addr::LOCALHOST, 0));
        let inner = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        relay.tls = Some(TlsConfig::new(inner, CertConfig::Manual { server_config: tls }));
        relay.key_cache_capacity = Some(limits::RELAY_NODES);
        relay.limits = Limits::default();
        relay.limits.client_rx = terms.bytes_per_second.map(ClientRateLimit::new);
        relay.access = Arc::new(Guests::new(terms.allow));
        let mut config = ServerConfig::default();
        config.relay = Some(relay);
        config.quic = Some(QuicConfig::new(bound));
        let server = Server::spawn(config).await.map_err(|error| failed(deepest(&error)))?;
        let inner = server.https_addr().ok_or_else(|| failed("it has no socket".to_owned()))?;
        let mut front = JoinSet::new();
        front.spawn(front::hand_on(outer, inner));
        Ok(Self { server, id: identity.id(), bound, _front: front })
    }

    /// Returns the address at which the relay listens.
    #[must_use]
    pub const fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Returns what nodes are told of the relay: its node id, and `addr`.
    #[must_use]
    pub const fn at(&self, addr: SocketAddr) -> Relay {
        Relay { id: self.id, addr }
    }

    /// Waits until the relay ends, which it does by itself only when something is broken.
    pub async fn ended(&mut self) -> RelayError {
        let detail = match self.server.join().await {
            Ok(Ok(())) => "it has ended".to_owned(),
            Ok(Err(error)) => deepest(&error),
            Err(error) => error.to_string(),
        };
        RelayError { addr: self.bound, detail }
    }

    /// Ends the relay, and closes the connections of its nodes.
    pub async fn stop(self) {
        // On a deadline: nobody waits for a node that doesn't let go.
        let stopped = tokio::time::timeout(limits::CLOSE_DEADLINE, self.server.shutdown()).await;
        if stopped.is_err() {
            tracing::debug!("the relay did not end in time");
        }
    }
}

/// Returns the port of an address, or for port 0 one that is free over both TCP and UDP.
fn free_port(addr: SocketAddr) -> std::io::Result<u16> {
    if addr.port() != 0 {
        return Ok(addr.port());
    }
    let udp = std::net::UdpSocket::bind(addr)?;
    let port = udp.local_addr()?.port();
    std::net::TcpListener::bind((addr.ip(), port))?;
    Ok(port)
}

/// The nodes that are connected to a relay, of which each may have a few connections.
#[derive(Debug)]
struct Guests {
    allow: AllowList,
    connections: Mutex<BTreeMap<NodeId, usize>>,
}

impl Guests {
    fn new(allow: AllowList) -> Self {
        Self { allow, connections: Mutex::default() }
    }

    /// Lets a node in, or says why not.
    fn enter(&self, node: NodeId) -> Result<(), &'static str> {
        if !self.allow.permits(&node) {
            return Err("this relay keeps an allow-list, and the node is not on it");
        }
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = connections.len() >= limits::RELAY_NODES;
        match connections.get_mut(&node) {
            Some(count) if *count >= limits::RELAY_CONNECTIONS_OF_NODE => {
                Err("the node has too many connections to this relay")
            }
            Some(count) => {
                *count += 1;
                Ok(())
            }
            None if is_full => Err("this relay is full"),
            None => {
                connections.insert(node, 1);
                Ok(())
            }
        }
    }

    fn leave(&self, node: NodeId) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = connections.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&node);
            }
        }
    }
}

impl AccessControl for Guests {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let node = NodeId(*request.endpoint_id().as_bytes());
        match self.enter(node) {
            Ok(()) => Access::Allow,
            Err(reason) => {
                tracing::debug!(node = %node.short(), reason, "a node is not let in");
                Access::Deny { reason: Some(reason.to_owned()) }
            }
        }
    }

    fn on_disconnect(&self, endpoint: EndpointId, _connection: ConnectionId) {
        self.leave(NodeId(*endpoint.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        NodeId(id)
    }

    #[test]
    fn a_relay_lets_in_whom_it_may_and_as_many_as_it_may() {
        let guests = Guests::new(AllowList::Only([node(1)].into()));
        assert!(guests.enter(node(2)).expect_err("a stranger").contains("allow-list"));
        for _ in 0..limits::RELAY_CONNECTIONS_OF_NODE {
            guests.enter(node(1)).expect("allowed");
        }
        assert!(guests.enter(node(1)).expect_err("one more").contains("too many"));
        guests.leave(node(1));
        guests.enter(node(1)).expect("there is room again");

        let guests = Guests::new(AllowList::Anyone);
        for number in 0..limits::RELAY_NODES {
            guests.enter(node(number)).expect("room");
        }
        assert!(guests.enter(node(limits::RELAY_NODES)).expect_err("full").contains("full"));
        guests.enter(node(0)).expect("a node that is in already");
        guests.leave(node(1));
        guests.enter(node(limits::RELAY_NODES)).expect("a place was left");
    }
}
