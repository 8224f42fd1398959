//! The dealings of gossip with each peer: how many exchanges and signatures it may still cost, and
//! for how long it is left alone.
//!
//! A peer that could not be reached is not dialled for a while, but answered when it comes. One
//! that sent what no node sends, or kept an exchange open in vain, is neither dialled nor answered:
//! by coming again at once it would get rid of that. Both times double with each failure.
//!
//! Where a node is that was never found at its address, only others say. So the addresses at which
//! such nodes are looked for are bounded in number and time, and where somebody was looked for in
//! vain, no stranger is looked for again for a while, whatever its name.

use std::collections::BTreeMap;

use lockstep_verify::sign::NodeId;

use crate::announcement::addresses::{Address, Host};
use crate::limits;
use crate::now::Now;

/// How much of something there may be at once, and how fast it grows again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    most: u64,
    every_us: u64,
}

const EXCHANGES: Rate =
    Rate { most: limits::EXCHANGES_OF_PEER_AT_ONCE, every_us: limits::EXCHANGE_OF_PEER_US };
const CHECKS: Rate =
    Rate { most: limits::SWARM_CHECKS_OF_PEER, every_us: limits::SWARM_CHECK_OF_PEER_US };
const STRANGE: Rate =
    Rate { most: limits::GOSSIP_STRANGE_ADDRESSES, every_us: limits::GOSSIP_STRANGE_ADDRESS_US };
/// The rounds that begin before their time.
pub(super) const AT_ONCE: Rate =
    Rate { most: limits::GOSSIP_AT_ONCE, every_us: limits::GOSSIP_AT_ONCE_US };

/// A stock of something that is used up, and grows again with time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stock {
    rate: Rate,
    used: u64,
    /// Until when what was used has grown again.
    since: Now,
}

impl Stock {
    /// Returns a stock of which nothing is used.
    pub(super) const fn full(rate: Rate) -> Self {
        Self { rate, used: 0, since: Now(0) }
    }

    /// Takes `count` at the time `now`, and returns whether there were as many.
    pub(super) fn take(&mut self, count: u64, now: Now) -> bool {
        // default: no rate is 0
        let grown = now.since(self.since).checked_div(self.rate.every_us).unwrap_or(0);
        self.since = self.since.after(grown.saturating_mul(self.rate.every_us));
        self.used = self.used.saturating_sub(grown);
        let used = self.used.saturating_add(count);
        let may = used <= self.rate.most;
        if may {
            self.used = used;
        }
        may
    }
}

/// A time for which somebody is left alone, which doubles with each failure.
#[derive(Clone, Copy, Debug, Default)]
struct Backoff {
    failures: u32,
    until: Now,
}

impl Backoff {
    const fn holds(self, now: Now) -> bool {
        self.until.0 > now.0
    }

    fn failed(&mut self, now: Now) {
        self.failures = self.failures.saturating_add(1);
        let doublings = self.failures.min(limits::GOSSIP_BACKOFF_DOUBLINGS);
        self.until = now.after(limits::GOSSIP_BACKOFF_US.saturating_mul(1_u64 << doublings));
    }
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    /// The exchanges that it may begin.
    exchanges: Stock,
    /// The signatures that it may have checked.
    checks: Stock,
    /// It was dialled in vain.
    missed: Backoff,
    /// It did what no node does.
    faults: Backoff,
}

impl Peer {
    const FRESH: Self = Self {
        exchanges: Stock::full(EXCHANGES),
        checks: Stock::full(CHECKS),
        missed: Backoff { failures: 0, until: Now(0) },
        faults: Backoff { failures: 0, until: Now(0) },
    };

    const fn is_left_alone(&self, now: Now) -> bool {
        self.missed.holds(now) || self.faults.holds(now)
    }
}

/// The dealings with all peers.
#[derive(Debug)]
pub(super) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
    /// The hosts at which somebody was looked for in vain.
    hosts: BTreeMap<Host, Backoff>,
    strange: Stock,
}

impl Default for Peers {
    fn default() -> Self {
        let (peers, hosts) = (BTreeMap::new(), BTreeMap::new());
        Self { peers, hosts, strange: Stock::full(STRANGE) }
    }
}

impl Peers {
    /// Returns whether a peer may be dialled.
    pub(super) fn may_be_dialled(&self, peer: NodeId, now: Now) -> bool {
        self.peers.get(&peer).is_none_or(|peer| !peer.is_left_alone(now))
    }

    /// Returns whether a node that was never found may be looked for at these addresses, and counts
    /// them.
    pub(super) fn may_look(&mut self, addresses: &[Address], now: Now) -> bool {
        let was_missed = |address: &Address| {
            self.hosts.get(&address.host()).is_some_and(|backoff| backoff.holds(now))
        };
        !addresses.is_empty()
            && !addresses.iter().any(was_missed)
            && self.strange.take(addresses.len() as u64, now)
    }

    /// Notes that a peer was dialled in vain at these addresses, where it was never found.
    pub(super) fn missed(&mut self, peer: NodeId, strange: &[Address], now: Now) {
        self.of(peer, now).missed.failed(now);
        // What only this machine can reach harms nobody else; relays are asked for nobody's sake.
        let others = strange.iter().filter(|one| !one.is_relay && !one.socket.ip().is_loopback());
        for host in others.map(Address::host) {
            if self.hosts.len() >= limits::GOSSIP_HOSTS && !self.hosts.contains_key(&host) {
                self.hosts.retain(|_, backoff| backoff.holds(now));
                if self.hosts.len() >= limits::GOSSIP_HOSTS {
                    self.hosts.pop_first();
                }
            }
            self.hosts.entry(host).or_default().failed(now);
        }
    }

    /// Notes that a peer is there, whatever failed before.
    pub(super) fn is_there(&mut self, peer: NodeId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.missed = Backoff::default();
        }
    }

    /// Returns whether a peer may begin an exchange, and counts it.
    pub(super) fn may_begin(&mut self, peer: NodeId, now: Now) -> bool {
        let peer = self.of(peer, now);
        !peer.faults.holds(now) && peer.exchanges.take(1, now)
    }

    /// Returns whether a signature that a peer has brought may be checked, and counts it.
    pub(super) fn may_check(&mut self, peer: NodeId, now: Now) -> bool {
        self.of(peer, now).checks.take(1, now)
    }

    /// Notes that a peer sent what no node sends, or kept an exchange open in vain.
    pub(super) fn at_fault(&mut self, peer: NodeId, now: Now) {
        self.of(peer, now).faults.failed(now);
    }

    /// Notes that an exchange with a peer went as it should: one of its faults is forgotten.
    pub(super) fn is_well(&mut self, peer: NodeId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.faults.failures = peer.faults.failures.saturating_sub(1);
        }
    }

    fn of(&mut self, peer: NodeId, now: Now) -> &mut Peer {
        // Of too many, those that are not left alone are forgotten, and then the first.
        if self.peers.len() >= limits::SWARM_NODES && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, peer| peer.is_left_alone(now));
            if self.peers.len() >= limits::SWARM_NODES {
                self.peers.pop_first();
            }
        }
        self.peers.entry(peer).or_insert(Peer::FRESH)
    }
}
