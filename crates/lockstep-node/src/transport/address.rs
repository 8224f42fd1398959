//! The addresses at which a node is reached: sockets, and relays.
//!
//! A relay ([`crate::relay`]) hands on the packets of nodes that nobody can reach from outside,
//! until the two ends have found a way of their own. It is named by a node id as nodes are, so
//! nobody else can answer in its place; what it hands on is encrypted from end to end.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use lockstep_proto::announcement::addresses::is_dialable;
use serde::{Serialize, Serializer};

use super::{NodeId, parse_node_id};

/// An address at which a node is reached, as tickets, leases and announcements state it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A UDP socket of the node itself.
    Socket(SocketAddr),
    /// A relay to which the node is connected.
    Relay(Relay),
}

/// A relay: the node id that it proves, and the TCP and UDP port at which it listens.
///
/// Its text is `NODE_ID@IP:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Relay {
    /// The node id of the relay.
    pub id: NodeId,
    /// The socket address of the relay: HTTPS over TCP, and QUIC over UDP.
    pub addr: SocketAddr,
}

/// The error for a text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address: expected IP:PORT, or NODE_ID@IP:PORT for a relay")]
pub struct AddressError {
    /// The text that was given.
    pub text: String,
}

impl Address {
    /// Returns the socket address of the node itself; none if this is a relay.
    #[must_use]
    pub const fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(addr) => Some(*addr),
            Self::Relay(_) => None,
        }
    }

    /// Returns the relay; none if this is a socket of the node itself.
    #[must_use]
    pub const fn relay(&self) -> Option<Relay> {
        match self {
            Self::Socket(_) => None,
            Self::Relay(relay) => Some(*relay),
        }
    }

    /// Returns whether a single node can be there, as far as the numbers tell.
    #[must_use]
    pub const fn is_dialable(&self) -> bool {
        match self {
            Self::Socket(addr) | Self::Relay(Relay { addr, .. }) => is_dialable(addr),
        }
    }

    /// Returns whether only this machine can reach the address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.socket().is_some_and(|addr| addr.ip().is_loopback())
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Socket(addr)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(addr) => addr.fmt(f),
            Self::Relay(relay) => relay.fmt(f),
        }
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.addr)
    }
}

impl FromStr for Relay {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let read = || {
            let (id, addr) = text.trim().split_once('@')?;
            let (id, addr) = (parse_node_id(id).ok()?, addr.parse::<SocketAddr>().ok()?);
            is_dialable(&addr).then_some(Self { id, addr })
        };
        read().ok_or_else(|| AddressError { text: text.to_owned() })
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        if text.contains('@') {
            return Ok(Self::Relay(text.parse()?));
        }
        let socket = text.parse().map(Self::Socket);
        socket.map_err(|_| AddressError { text: text.to_owned() })
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Identity;

    #[test]
    fn an_address_is_a_socket_or_a_relay() {
        let id = Identity::from_secret(&[7; 32]).id();
        for text in ["203.0.113.7:4848", "[2001:db8::7]:4848"] {
            let address: Address = text.parse().expect(text);
            assert_eq!((address.to_string(), address.relay()), (text.to_owned(), None));
        }
        let text = format!("{id}@203.0.113.7:4849");
        let address: Address = text.parse().expect("relay");
        let relay = Relay { id, addr: "203.0.113.7:4849".parse().expect("socket") };
        assert_eq!((address.relay(), address.socket()), (Some(relay), None));
        assert_eq!(address.to_string(), text);
    }

    #[test]
    fn what_nobody_can_dial_is_no_relay() {
        let id = Identity::from_secret(&[7; 32]).id();
        for text in [
            format!("{id}@203.0.113.7"),
            format!("{id}@203.0.113.7:0"),
            format!("{id}@0.0.0.0:4849"),
            format!("{id}@224.0.0.1:4849"),
            format!("{id}@255.255.255.255:4849"),
            format!("{id}@relay.example:4849"),
            format!("{id}@"),
            "@203.0.113.7:4849".to_owned(),
            "abcd@203.0.113.7:4849".to_owned(),
            format!("{}@203.0.113.7:4849", "02".repeat(32)),
            String::new(),
        ] {
            let error = text.parse::<Address>().expect_err(&text).to_string();
            assert!(error.contains("NODE_ID@IP:PORT"), "{error}");
        }
    }
}
