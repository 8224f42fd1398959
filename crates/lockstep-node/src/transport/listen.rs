//! The addresses at which an endpoint listens, and those at which it says that it can be reached.
//!
//! At most one address of each family: what goes out to a peer leaves through the socket of the
//! peer's family. A machine that is reached through another address than its own (a router, a
//! container) states it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::Deserialize;
use serde::de::Deserializer;

use super::{Address, Relay};
use crate::{limits, several};

/// The UDP addresses of an endpoint: one of IPv4, one of IPv6, or both. Port 0 lets the system
/// choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    addrs: Vec<SocketAddr>,
    /// Whether it is enough that one of the addresses can be listened on.
    any: bool,
    /// The relays through which this endpoint is reached and reaches others.
    relays: Vec<Relay>,
}

/// Why addresses can't be listened on together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// A text is not a socket address.
    #[error("{text:?} is no socket address, such as 0.0.0.0:4848 or [::]:4848")]
    NotAnAddress {
        /// The text that was given.
        text: String,
    },
    /// No address to listen on is given.
    #[error("expected a socket address, such as 0.0.0.0:4848 or [::]:4848")]
    Nothing,
    /// Two addresses are of one family.
    #[error("{first} and {second}: expected at most one IPv4 and one IPv6 address")]
    SameFamily {
        /// The address that was given earlier.
        first: SocketAddr,
        /// The address that was given later.
        second: SocketAddr,
    },
}

impl Listen {
    /// Listens on all of these addresses: at most one of IPv4 and one of IPv6.
    ///
    /// # Errors
    /// [`ListenError`] if there is none, or two of one family.
    pub fn on(addrs: &[SocketAddr]) -> Result<Self, ListenError> {
        if addrs.is_empty() {
            return Err(ListenError::Nothing);
        }
        for (index, first) in addrs.iter().enumerate() {
            let mut others = addrs.iter().skip(index + 1);
            if let Some(second) = others.find(|addr| addr.is_ipv4() == first.is_ipv4()) {
                return Err(ListenError::SameFamily { first: *first, second: *second });
            }
        }
        Ok(Self { addrs: addrs.to_vec(), any: false, relays: Vec::new() })
    }

    /// Listens where these addresses can be reached from: for each of their families on a port that
    /// the system chooses, and on the loopback if all of them are loopback addresses. It is enough
    /// if one of the families can be listened on. Relays among the addresses are used.
    #[must_use]
    pub fn to_reach(addresses: &[Address]) -> Self {
        let relays = addresses.iter().filter_map(Address::relay);
        let own = addresses.iter().filter_map(Address::socket);
        // Behind a relay there may be a node of this machine or of another: its sockets say.
        let addrs: Vec<SocketAddr> = own.chain(relays.clone().map(|relay| relay.addr)).collect();
        let of = |is_ipv4: bool| addrs.iter().filter(move |addr| addr.is_ipv4() == is_ipv4);
        let is_local = |is_ipv4| of(is_ipv4).all(|addr| addr.ip().is_loopback());
        let pick = |is_ipv4: bool, local: IpAddr, all: IpAddr| {
            of(is_ipv4).next()?;
            Some(SocketAddr::new(if is_local(is_ipv4) { local } else { all }, 0))
        };
        let four = pick(true, Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into());
        let six = pick(false, Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into());
        let addrs: Vec<_> = four.into_iter().chain(six).collect();
        let listen = match addrs.is_empty() {
            true => Self::default(),
            false => Self { addrs, any: true, relays: Vec::new() },
        };
        listen.through(relays)
    }

    /// Uses these relays as well; of more than [`limits::RELAYS`], the first ones.
    #[must_use]
    pub fn through(mut self, relays: impl IntoIterator<Item = Relay>) -> Self {
        for relay in relays {
            if self.relays.len() < limits::RELAYS && !self.relays.contains(&relay) {
                self.relays.push(relay);
            }
        }
        self
    }

    /// Returns the relays that are used.
    #[must_use]
    pub fn relays(&self) -> &[Relay] {
        &self.relays
    }

    /// Returns the addresses to listen on.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Returns whether an address that can't be listened on is passed over, if another can.
    pub(super) fn is_any(&self) -> bool {
        self.any
    }
}

/// This machine alone, on a port that the system chooses.
impl Default for Listen {
    fn default() -> Self {
        Self::from(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))
    }
}

impl From<SocketAddr> for Listen {
    fn from(addr: SocketAddr) -> Self {
        Self { addrs: vec![addr], any: false, relays: Vec::new() }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, addr) in self.addrs.iter().enumerate() {
            write!(f, "{}{addr}", if index == 0 { "" } else { " and " })?;
        }
        Ok(())
    }
}

/// Parses addresses to listen on, which commas separate.
impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| ListenError::NotAnAddress { text: text.to_owned() })
        };
        Self::on(&several::parts(text).map(parse).collect::<Result<Vec<_>, _>>()?)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        several::several(deserializer)
    }
}

/// An address at which a server says that it can be reached, in place of those that it has: an IP
/// address, whose port is then the one that is listened on, or one with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertised {
    ip: IpAddr,
    port: Option<u16>,
}

/// Why nobody can be told an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdvertisedError {
    /// The text is not an address.
    #[error("{text:?} is no address, such as 203.0.113.7, 203.0.113.7:4848 or [2001:db8::7]:4848")]
    NotAnAddress {
        /// The text that was given.
        text: String,
    },
    /// The address is one that nobody can dial.
    #[error("{text} can't be dialled: state the address at which others reach this machine")]
    NotDialled {
        /// The text that was given.
        text: String,
    },
}

impl Advertised {
    /// Returns the socket address, for a server that listens on these.
    #[must_use]
    pub fn over(&self, bound: &[SocketAddr]) -> SocketAddr {
        let same = bound.iter().find(|addr| addr.is_ipv4() == self.ip.is_ipv4());
        let bound = same.or_else(|| bound.first()).map_or(0, SocketAddr::port);
        SocketAddr::new(self.ip, self.port.unwrap_or(bound))
    }
}

impl FromStr for Advertised {
    type Err = AdvertisedError;

    fn from_str(text: &str) -> Result<Self, AdvertisedError> {
        let text = text.trim();
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let whole = text.parse::<SocketAddr>().ok().map(|addr| (addr.ip(), Some(addr.port())));
        let (ip, port) = whole
            .or_else(|| Some((bare.parse::<IpAddr>().ok()?, None)))
            .ok_or_else(|| AdvertisedError::NotAnAddress { text: text.to_owned() })?;
        if ip.is_unspecified() || ip.is_multicast() || port == Some(0) {
            return Err(AdvertisedError::NotDialled { text: text.to_owned() });
        }
        Ok(Self { ip, port })
    }
}

/// Returns the addresses at which others reach a program of this machine that listens at these: of
/// an unspecified one, the addresses that this machine's networks have.
#[must_use]
pub fn own_addresses(bound: &[SocketAddr]) -> Vec<SocketAddr> {
    let found = bound.iter().flat_map(|addr| match addr.ip().is_unspecified() {
        // A machine whose networks can't be listed is reached from itself.
        true => if_addrs::get_if_addrs()
            .unwrap_or_default()
            .into_iter()
            .map(|network| network.ip())
            .filter(|ip| ip.is_ipv4() == addr.is_ipv4() && !ip.is_loopback())
            .map(|ip| SocketAddr::new(ip, addr.port()))
            .collect(),
        false => vec![*addr],
    });
    reachable(found.collect(), bound)
}

/// Returns the addresses that a ticket states of a server that listens on `bound`, where the
/// settings state none: those of this machine's networks that were `found`, and if there is none,
/// the loopback.
pub(super) fn reachable(found: Vec<SocketAddr>, bound: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_link_local = |addr: &SocketAddr| match addr.ip() {
        // Means another machine on each network; the ticket has no place for which.
        IpAddr::V6(ip) => ip.segments().first().is_some_and(|first| first & 0xffc0 == 0xfe80),
        IpAddr::V4(ip) => ip.is_link_local(),
    };
    let mut addrs: Vec<_> = found.into_iter().filter(|addr| !is_link_local(addr)).collect();
    for addr in bound {
        let has_family = addrs.iter().any(|told| told.is_ipv4() == addr.is_ipv4());
        if !has_family {
            addrs.push(match addr.ip() {
                ip if !ip.is_unspecified() => *addr,
                IpAddr::V4(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), addr.port()),
                IpAddr::V6(_) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), addr.port()),
            });
        }
    }
    // Addresses that others can reach first.
    addrs.sort_by_key(|addr| addr.ip().is_loopback());
    addrs.truncate(limits::PEER_ADDRESSES);
    addrs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| addr(text)).collect()
    }

    #[test]
    fn at_most_one_address_of_each_family_is_listened_on() {
        let both: Listen = "0.0.0.0:4848, [::]:4848".parse().expect("both");
        assert_eq!(both.addrs(), addrs(&["0.0.0.0:4848", "[::]:4848"]));
        assert_eq!(both.to_string(), "0.0.0.0:4848 and [::]:4848");
        for (text, word) in [
            ("0.0.0.0:1,127.0.0.1:2", "at most one IPv4 and one IPv6"),
            ("[::]:1,[::1]:2", "at most one IPv4 and one IPv6"),
            ("here", "socket address"),
            ("", "socket address"),
        ] {
            let error = text.parse::<Listen>().expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_client_listens_on_the_families_that_it_dials() {
        for (dialled, listens) in [
            (&["127.0.0.1:1"][..], &["127.0.0.1:0"][..]),
            (&["[::1]:1"], &["[::1]:0"]),
            (&["192.0.2.1:1", "127.0.0.1:1"], &["0.0.0.0:0"]),
            (&["[2001:db8::1]:1", "127.0.0.1:1"], &["127.0.0.1:0", "[::]:0"]),
            (&[], &["127.0.0.1:0"]),
        ] {
            let to_dial: Vec<_> = addrs(dialled).into_iter().map(Address::from).collect();
            assert_eq!(Listen::to_reach(&to_dial).addrs(), addrs(listens), "{dialled:?}");
        }
    }

    #[test]
    fn an_advertised_address_takes_the_port_of_its_family() {
        let bound = addrs(&["0.0.0.0:4848", "[::]:4949"]);
        for (text, told) in [
            ("203.0.113.7", "203.0.113.7:4848"),
            ("203.0.113.7:80", "203.0.113.7:80"),
            ("2001:db8::7", "[2001:db8::7]:4949"),
            ("[2001:db8::7]", "[2001:db8::7]:4949"),
            ("[2001:db8::7]:80", "[2001:db8::7]:80"),
        ] {
            let advertised: Advertised = text.parse().expect(text);
            assert_eq!(advertised.over(&bound), addr(told));
        }
        for text in ["here", "0.0.0.0", "[::]:80", "203.0.113.7:0", "224.0.0.1", ""] {
            assert!(text.parse::<Advertised>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_ticket_is_never_without_addresses() {
        let told = |found: &[&str], bound: &[&str]| reachable(addrs(found), &addrs(bound));
        let network = ["192.0.2.2:1", "[fe80::1]:1"];
        assert_eq!(told(&network, &["0.0.0.0:1"]), addrs(&["192.0.2.2:1"]));
        // No network: this machine alone.
        assert_eq!(told(&[], &["0.0.0.0:1"]), addrs(&["127.0.0.1:1"]));
        assert_eq!(told(&["[fe80::1]:2"], &["[::]:2"]), addrs(&["[::1]:2"]));
        assert_eq!(
            told(&["192.0.2.2:1"], &["0.0.0.0:1", "[::]:2"]),
            addrs(&["192.0.2.2:1", "[::1]:2"]),
        );
        assert_eq!(told(&[], &["[2001:db8::1]:3"]), addrs(&["[2001:db8::1]:3"]));
        let many: Vec<String> = (0..20).map(|host| format!("192.0.2.{host}:1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(told(&many, &["0.0.0.0:1"]).len(), limits::PEER_ADDRESSES);
    }
}
