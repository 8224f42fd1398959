//! The addresses of an announcement: where a node says that it can be reached.
//!
//! They are one text, `IP:PORT` or for a relay `NODE_ID@IP:PORT`, comma-separated. Nothing proves
//! that a node is where it says, and everybody who hears of it may send datagrams there. So an
//! announcement names few addresses, none at which no single node can be, and each of their hosts
//! counts for the limits of hosts.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

use crate::limits;

/// The reasons why a text does not say where a node can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFault {
    /// No single node can be at one of the addresses: port 0, or an IP address that is unspecified,
    /// reserved, broadcast or multicast.
    Nobody,
    /// The text has more than [`limits::DIALLED_ADDRESSES`] addresses.
    TooMany,
    /// One of the addresses is neither `IP:PORT` nor `NODE_ID@IP:PORT`.
    Unreadable,
}

impl fmt::Display for AddressFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str(
                "no node can be at an address that is unspecified, reserved, broadcast or \
                 multicast, or has port 0",
            ),
            Self::TooMany => write!(f, "more than {} addresses", limits::DIALLED_ADDRESSES),
            Self::Unreadable => f.write_str("an address is not IP:PORT or NODE_ID@IP:PORT"),
        }
    }
}

/// An IPv4 address, or the network of an IPv6 address, which is what one customer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// The bytes of an IPv4 address.
    V4([u8; 4]),
    /// The first 64 bits of an IPv6 address.
    V6([u16; 4]),
}

/// A host for which nodes are counted: whoever owns it can announce as many nodes as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// The host of nodes that do not say where they can be reached.
    Nowhere,
    /// The host of a relay, over which many nodes are reached.
    Relay(Network),
    /// The host of a node's own socket.
    Socket(Network),
}

impl Host {
    /// Returns the host of the first of the addresses of an announcement; `None` if there is none,
    /// or one of them is no address.
    pub(crate) fn of(text: &str) -> Option<Self> {
        // default: a node without addresses is on no host
        read(text).ok()?.first().map(Address::host)
    }

    /// Returns the most nodes of this host that one node knows.
    #[must_use]
    pub const fn most_nodes(self) -> usize {
        match self {
            Self::Nowhere | Self::Socket(_) => limits::SWARM_NODES_OF_HOST,
            Self::Relay(_) => limits::SWARM_NODES_OF_RELAY,
        }
    }
}

/// An address at which a node says that it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The socket of the node, or of the relay.
    pub socket: SocketAddr,
    /// Whether it is the socket of a relay, to which nobody connects for another node's sake.
    pub is_relay: bool,
}

impl Address {
    /// Returns the host of the address.
    #[must_use]
    pub const fn host(&self) -> Host {
        let network = match self.socket.ip().to_canonical() {
            IpAddr::V4(ip) => Network::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Network::V6([a, b, c, d])
            }
        };
        if self.is_relay { Host::Relay(network) } else { Host::Socket(network) }
    }

    fn read(text: &str) -> Result<Self, AddressFault> {
        let text = text.trim();
        let (socket, is_relay) = match text.split_once('@') {
            None => (text, false),
            Some((id, socket)) if is_node_id(id) => (socket, true),
            Some(_) => return Err(AddressFault::Unreadable),
        };
        let socket: SocketAddr = socket.parse().map_err(|_| AddressFault::Unreadable)?;
        if is_dialable(&socket) { Ok(Self { socket, is_relay }) } else { Err(AddressFault::Nobody) }
    }
}

/// Returns whether a text has the form of a node id: 64 hexadecimal digits in lower case.
fn is_node_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns whether a single node can be at a socket address, as far as its numbers tell: it has a
/// port, and its IP address is not unspecified, reserved, broadcast or multicast.
#[must_use]
pub const fn is_dialable(socket: &SocketAddr) -> bool {
    let is_host = match socket.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [first, ..] = ip.octets();
            // 0.0.0.0/8 is "this network"; from 224.0.0.0 on come multicast and what is reserved.
            first != 0 && first < 224
        }
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    };
    is_host && socket.port() != 0
}

/// Reads the addresses of an announcement; an empty text has none.
///
/// # Errors
/// [`AddressFault`]: one wrong address spoils all of them.
pub fn read(text: &str) -> Result<Vec<Address>, AddressFault> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.split(',').count() > limits::DIALLED_ADDRESSES {
        return Err(AddressFault::TooMany);
    }
    text.split(',').map(Address::read).collect()
}

/// Returns the address of `text`, as it is written there, that means the same as `address`.
#[must_use]
pub fn find<'t>(text: &'t str, address: &str) -> Option<&'t str> {
    let canonical = |text: &str| {
        let (id, socket) = text.split_once('@').unzip();
        // default: without a relay's id the whole text is the socket
        let socket: SocketAddr = socket.unwrap_or(text).parse().ok()?;
        Some((id.map(str::to_owned), socket.ip().to_canonical(), socket.port()))
    };
    let wanted = canonical(address.trim())?;
    text.split(',').map(str::trim).find(|one| canonical(one).as_ref() == Some(&wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn addresses_are_read_with_all_their_hosts() {
        let text = format!("192.0.2.1:1, [2001:db8:1:2::7]:4848,{ID}@[::ffff:192.0.2.1]:3");
        let hosts: Vec<Host> = read(&text).unwrap().iter().map(Address::host).collect();
        let v4 = Network::V4([192, 0, 2, 1]);
        let v6 = Network::V6([0x2001, 0xdb8, 1, 2]);
        assert_eq!(hosts, [Host::Socket(v4), Host::Socket(v6), Host::Relay(v4)]);
        assert_eq!(read(""), Ok(Vec::new()));
        assert_eq!(find(&text, "[2001:db8:1:2::7]:4848"), Some("[2001:db8:1:2::7]:4848"));
        assert_eq!(find(&text, "[::ffff:192.0.2.1]:1"), Some("192.0.2.1:1"));
        assert_eq!(find(&text, "192.0.2.1:3"), None, "that is the relay's");
    }

    #[test]
    fn what_nobody_can_be_at_is_no_address() {
        use AddressFault::{Nobody, TooMany, Unreadable};
        let relay = format!("{ID}@0.0.0.0:1");
        let named = format!("{ID}@relay.example:1");
        let short = format!("{}@192.0.2.1:1", ID.strip_prefix('0').unwrap());
        let upper = format!("{}@192.0.2.1:1", ID.to_uppercase());
        let twice = format!("{ID}@{ID}@192.0.2.1:1");
        let many = ["192.0.2.1:1"; limits::DIALLED_ADDRESSES + 1].join(",");
        let nobody = format!("{ID}@[::ffff:255.255.255.255]:7");
        let rows: [(&str, AddressFault); 32] = [
            (&nobody, Nobody),
            ("[ff0e::1%2]:5", Nobody),
            (" 0.0.0.0:1", Nobody),
            ("[::ffff:0:0]:9", Nobody),
            ("@192.0.2.1:5", Unreadable),
            ("192.0.2.1:1;192.0.2.2:1", Unreadable),
            ("192.0.2.1:1\n\n192.0.2.2:1", Unreadable),
            ("0.0.0.0:1", Nobody),
            ("0.1.2.3:1", Nobody),
            ("[::]:1", Nobody),
            ("[::ffff:0.0.0.0]:1", Nobody),
            ("224.0.0.251:5353", Nobody),
            ("239.255.255.250:1900", Nobody),
            ("[ff02::fb]:5353", Nobody),
            ("[::ffff:224.0.0.1]:1", Nobody),
            ("255.255.255.255:67", Nobody),
            ("240.0.0.1:1", Nobody),
            ("192.0.2.1:0", Nobody),
            ("[2001:db8::1]:0", Nobody),
            (&relay, Nobody),
            ("192.0.2.1:1,224.0.0.1:1", Nobody),
            ("192.0.2.1", Unreadable),
            ("example.org:80", Unreadable),
            ("192.0.2.1:65536", Unreadable),
            ("192.0.2.1:1,", Unreadable),
            (",", Unreadable),
            (" ", Unreadable),
            (&named, Unreadable),
            (&short, Unreadable),
            (&upper, Unreadable),
            (&twice, Unreadable),
            (&many, TooMany),
        ];
        for (text, fault) in rows {
            assert_eq!(read(text), Err(fault), "{text:?}");
        }
        // Two machines at home, and two processes on one, can reach each other.
        for text in ["127.0.0.1:1", "192.168.1.2:1", "[fe80::1%3]:1", "223.255.255.255:65535"] {
            assert!(read(text).is_ok(), "{text:?}");
        }
    }
}
