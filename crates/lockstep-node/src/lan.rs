//! Servers that find each other on a local network, by multicast DNS service discovery (RFC 6762
//! and RFC 6763), with the service type `_lockstep._udp`.
//!
//! A server's record has in its text the node id (`id`), the addresses (`at`, as leases have them;
//! of these its sockets are read, not relays), the model's manifest (`manifest`) and what the model
//! is called (`called`). Anybody on the network can write such a record, so it is believed as
//! little as a ticket: whoever answers at the addresses must prove the node id, and what it
//! computes is audited. Multicast does not cross routers, and some wireless networks drop it: then
//! a ticket is needed.

use std::collections::BTreeMap;
use std::time::Duration;

use lockstep_exact::digest::Digest;
use mdns_sd::{Receiver, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::time::{Instant, timeout_at};

use crate::ticket::{Ticket, is_plain_name};
use crate::transport::{Address, NodeId, PeerAddr, Source, parse_node_id};
use crate::{home, limits};

/// The type of the service, as tools for service discovery show it.
const SERVICE: &str = "_lockstep._udp.local.";

/// The error that the local network can't be asked or told.
#[derive(Debug, thiserror::Error)]
#[error("multicast DNS does not work on this machine: {0}; use tickets (--join)")]
pub struct LanError(#[from] mdns_sd::Error);

/// A server that was found on the local network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The server's node id and addresses.
    pub peer: PeerAddr,
    /// The digest of the manifest of the model that it serves.
    pub manifest: Digest,
    /// The name of the model there; empty if it does not say.
    pub called: String,
}

impl Found {
    /// Returns the ticket that the server would give out.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        let Self { peer, manifest, called } = self.clone();
        Ticket { peers: vec![peer], manifest: Some(manifest), called }
    }

    fn read(service: &ResolvedService) -> Option<Self> {
        let text = |name: &str| service.get_property_val_str(name);
        Self::of(text)
    }

    /// Reads the text of a record; none if it makes no sense.
    fn of<'a>(text: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let id = parse_node_id(text("id")?).ok()?;
        let manifest = Digest::parse(text("manifest")?)?;
        // Not relays: a stranger must not choose to which machines this one connects.
        let parse = |one: &str| one.parse::<Address>().ok()?.socket().map(Address::Socket);
        let addrs = text("at")?.split(',').filter_map(parse).take(limits::PEER_ADDRESSES);
        let addrs: Vec<Address> = addrs.collect();
        let called = text("called").filter(|name| is_plain_name(name)).unwrap_or_default();
        let peer = PeerAddr { id, addrs };
        let found = Self { peer, manifest, called: called.to_owned() };
        (!found.peer.addrs.is_empty()).then_some(found)
    }
}

/// A part in service discovery on the local network, which ends when this is dropped.
pub struct Lan {
    daemon: ServiceDaemon,
    own: Option<NodeId>,
    heard: Receiver<ServiceEvent>,
}

impl Drop for Lan {
    fn drop(&mut self) {
        // It says good-bye for the server's record; nobody waits for that.
        self.daemon.shutdown().ok();
    }
}

impl Lan {
    /// Begins to look for servers.
    ///
    /// # Errors
    /// [`LanError`] if no socket for multicast can be opened.
    pub fn open() -> Result<Self, LanError> {
        let daemon = ServiceDaemon::new()?;
        let heard = daemon.browse(SERVICE)?;
        Ok(Self { daemon, own: None, heard })
    }

    /// Tells the local network of a server of this process.
    ///
    /// # Errors
    /// [`LanError`] if the record can't be made.
    pub fn announce(&mut self, server: &Found) -> Result<(), LanError> {
        let sockets: Vec<_> = server.peer.addrs.iter().filter_map(Address::socket).collect();
        let ips: Vec<_> = sockets.iter().map(std::net::SocketAddr::ip).collect();
        let port = sockets.first().map_or(0, std::net::SocketAddr::port);
        // A label has at most 63 bytes, a node id 64 digits.
        let name = server.peer.id.to_string().chars().take(32).collect::<String>();
        let host = format!("lockstep-{}.local.", server.peer.id.short());
        let text = [
            ("id", server.peer.id.to_string()),
            ("at", first_addresses(&server.peer)),
            ("manifest", server.manifest.to_string()),
            ("called", server.called.chars().take(limits::LAN_NAME_BYTES).collect()),
        ];
        let info = ServiceInfo::new(SERVICE, &name, &host, &*ips, port, &text[..])?;
        self.daemon.register(info)?;
        self.own = Some(server.peer.id);
        Ok(())
    }

    /// Returns the next server that is found or has changed; none if this machine does not listen
    /// any more. Waits for as long as it takes.
    pub async fn next(&self) -> Option<Found> {
        loop {
            if let ServiceEvent::ServiceResolved(service) = self.heard.recv_async().await.ok()?
                && let Some(found) = Found::read(&service)
                && Some(found.peer.id) != self.own
            {
                return Some(found);
            }
        }
    }

    /// Returns the servers that are found until `wait` has passed; no more than
    /// [`limits::TICKET_PEERS`], of as many hosts as there are.
    pub async fn find(&self, wait: Duration) -> Vec<Found> {
        let end = Instant::now() + wait;
        let mut found = BTreeMap::new();
        while found.len() < limits::LAN_RECORDS
            && let Ok(Some(one)) = timeout_at(end, self.next()).await
        {
            found.insert(one.peer.id, one);
        }
        // default: without a random number the order is that of another hash of the ids
        let random = home::unique().unwrap_or(0);
        of_many_hosts(found.into_values(), random)
    }
}

/// Returns [`limits::TICKET_PEERS`] of these servers: the first one of each host, then the second
/// one of each, and so on, in an order that follows from `random`. Whoever writes many records, or
/// such with low ids, shuts out no server at another address.
fn of_many_hosts(found: impl Iterator<Item = Found>, random: u64) -> Vec<Found> {
    let mut hosts: BTreeMap<Source, usize> = BTreeMap::new();
    let mut turns = BTreeMap::new();
    for one in found {
        let source = Source::of(one.peer.addrs.first().and_then(Address::socket));
        let of_host = hosts.entry(source).or_default();
        let chance = blake3::keyed_hash(&one.peer.id.0, &random.to_le_bytes());
        turns.insert((*of_host, *chance.as_bytes()), one);
        *of_host += 1;
    }
    turns.into_values().take(limits::TICKET_PEERS).collect()
}

/// Returns the first addresses of a server, as many as a text of a record has room for.
fn first_addresses(peer: &PeerAddr) -> String {
    let mut text = String::new();
    for address in &peer.addrs {
        let next = address.to_string();
        if text.len() + next.len() < limits::LAN_ADDRESS_BYTES {
            let comma = if text.is_empty() { "" } else { "," };
            text = format!("{text}{comma}{next}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Identity;

    fn record(pairs: &[(&'static str, String)]) -> Option<Found> {
        let text: BTreeMap<&str, &str> =
            pairs.iter().map(|(name, text)| (*name, text.as_str())).collect();
        Found::of(|name| text.get(name).copied())
    }

    fn pairs() -> Vec<(&'static str, String)> {
        vec![
            ("id", Identity::from_secret(&[1; 32]).id().to_string()),
            ("at", "192.0.2.1:4848,[2001:db8::1]:4848".to_owned()),
            ("manifest", Digest([7; 32]).to_string()),
            ("called", "smollm2".to_owned()),
        ]
    }

    #[test]
    fn a_record_is_a_ticket() {
        let found = record(&pairs()).expect("a record");
        assert_eq!(found.peer.text(), pairs()[1].1);
        let ticket = found.ticket();
        assert_eq!(ticket.to_string().parse::<Ticket>(), Ok(ticket.clone()));
        assert_eq!((ticket.manifest, &*ticket.called), (Some(Digest([7; 32])), "smollm2"));
    }

    #[test]
    fn a_record_that_makes_no_sense_is_passed_over() {
        for (at, wrong) in [
            (0, "me"),
            (0, &"02".repeat(32)),
            (0, ""),
            (1, ""),
            (1, "here"),
            (1, "192.0.2.1"),
            (2, "abc"),
            (2, &"xy".repeat(32)),
        ] {
            let mut pairs = pairs();
            wrong.clone_into(&mut pairs[at].1);
            assert_eq!(record(&pairs), None, "{wrong:?}");
            pairs.remove(at);
            assert_eq!(record(&pairs), None, "without {at}");
        }
        // A relay is nothing that a stranger may name.
        let mut relayed = pairs();
        let relay = format!("{}@192.0.2.9:443", Identity::from_secret(&[2; 32]).id());
        relayed[1].1 = format!("{relay},192.0.2.1:4848");
        assert_eq!(record(&relayed).expect("a record").peer.text(), "192.0.2.1:4848");
        relayed[1].1 = relay;
        assert_eq!(record(&relayed), None);
        // A name that is not plain is left out, and so is an address that is none.
        let mut odd = pairs();
        odd[3].1 = "\u{1b}[31mred".to_owned();
        odd[1].1 = "here,192.0.2.1:4848".to_owned();
        let found = record(&odd).expect("a record");
        assert_eq!((&*found.called, &*found.peer.text()), ("", "192.0.2.1:4848"));
    }

    #[test]
    fn many_records_of_one_host_shut_out_nobody_at_another() {
        let found = |number: u8, address: &str| Found {
            peer: PeerAddr {
                id: NodeId([number; 32]),
                addrs: vec![address.parse().expect("an address")],
            },
            manifest: Digest([7; 32]),
            called: String::new(),
        };
        let fakes = (0..200).map(|number| found(number, &format!("192.0.2.1:{}", 1 + number)));
        let honest = [found(201, "192.0.2.2:1"), found(202, "[2001:db8::1]:1")];
        let chosen = of_many_hosts(fakes.chain(honest.clone()), 1);
        assert_eq!(chosen.len(), limits::TICKET_PEERS);
        assert!(honest.iter().all(|one| chosen.contains(one)), "{chosen:?}");
        // Several servers of one machine are all found.
        let few = (0..5).map(|number| found(number, &format!("192.0.2.1:{}", 1 + number)));
        assert_eq!(of_many_hosts(few, 1).len(), 5);
        // Low ids at many addresses have no precedence.
        let many = (0..200).map(|number| found(number, &format!("192.0.2.{number}:1")));
        let others = |random| of_many_hosts(many.clone(), random);
        assert_ne!(others(1), others(2));
        assert!(others(1).iter().any(|one| one.peer.id.0[0] >= limits::TICKET_PEERS as u8));
    }

    #[test]
    fn addresses_that_do_not_fit_a_text_are_left_out() {
        let relay = format!("{}@192.0.2.9:4849", Identity::from_secret(&[2; 32]).id());
        let many = (0..12).map(|host| format!("[2001:db8:1234:5678:9abc:def0:1234:{host}]:4848"));
        let addrs = many.chain([relay]).map(|text| text.parse().expect("address")).collect();
        let text = first_addresses(&PeerAddr { id: Identity::from_secret(&[1; 32]).id(), addrs });
        assert!(text.len() < limits::LAN_ADDRESS_BYTES && text.contains(','), "{text}");
        assert!(text.split(',').all(|one| one.parse::<Address>().is_ok()), "{text}");
    }
}
