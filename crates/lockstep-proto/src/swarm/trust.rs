//! Trust: what this node has itself seen of servers, and what it makes of their claims.
//!
//! An announcement binds nobody. Any key can announce that it is ready, holds every layer and takes
//! no time, and keys cost nothing. So a claim wins no traffic of users:
//!
//! | standing | what it gets |
//! |---|---|
//! | [`Standing::Banned`]: an audit convicted it | nothing, for ever |
//! | [`Standing::Unproven`]: every node, at first | canaries: requests without a user in them |
//! | [`Standing::Proven`]: verified, or named by a person | requests of users |
//!
//! Everything here is this node's own experience: nobody's word makes or breaks a standing.
//!
//! What is measured takes the place of what is claimed. Of a ring only its whole time can be
//! measured, and what it took beyond its servers' claims, with the sessions that they announce, is
//! the fault of at least one of them. Each
//! is charged with all of it, and the best that was seen of a node in its last
//! [`limits::RINGS_TIMED`] rings counts. A server that claims too much slows down every ring, so it
//! is never cleared; one that says the truth is cleared by the first ring without a liar.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lockstep_exact::digest::Digest;
use lockstep_verify::request::Hop;
use lockstep_verify::sign::NodeId;

use super::cost::Pace;
use super::demand::{Demand, Room, why_not};
use super::route::{fastest, longest_ns};
use super::trial::ring_through;
use crate::announcement::{Speed, Status};
use crate::limits;
use crate::now::Now;

/// Whether requests of users may go over a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// An audit convicted it: nothing goes over it.
    Banned,
    /// Nothing that was verified went over it: it gets canaries alone.
    Unproven,
    /// A person named it, or an answer that went over it was verified.
    Proven,
}

/// What was seen of one node.
#[derive(Clone, Debug, Default)]
struct Seen {
    is_named: bool,
    is_banned: bool,
    is_verified: bool,
    /// The nanoseconds per layer in the last rings, if all delay of each was this node's; the
    /// latest at the end.
    layer_ns: VecDeque<u64>,
    /// Canaries in a row that came to nothing.
    failures: u32,
    /// No canary goes over it before this time.
    again_at: Now,
}

impl Seen {
    const fn standing(&self) -> Standing {
        if self.is_banned {
            Standing::Banned
        } else if self.is_named || self.is_verified {
            Standing::Proven
        } else {
            Standing::Unproven
        }
    }
}

/// The record of a node about the servers of its swarm: what came of rings over them.
#[derive(Clone, Debug)]
pub struct Experience {
    nodes: BTreeMap<NodeId, Seen>,
    /// Orders the nodes whose turn for a canary is equally due.
    secret: u64,
}

impl Experience {
    /// Creates the experience of who has seen nobody. `secret` is drawn at random: nobody who does
    /// not know it can make node ids that are always tried first.
    #[must_use]
    pub const fn new(secret: u64) -> Self {
        Self { nodes: BTreeMap::new(), secret }
    }

    /// Returns the standing of a node.
    #[must_use]
    pub fn standing(&self, node: NodeId) -> Standing {
        self.nodes.get(&node).map_or(Standing::Unproven, Seen::standing)
    }

    /// Notes that a person named a node: in a ticket, or in the settings.
    pub fn named(&mut self, node: NodeId) {
        self.change(node, |seen| seen.is_named = true);
    }

    /// Notes that an answer, which went over this node, was verified by an audit.
    pub fn verified(&mut self, node: NodeId) {
        self.change(node, |seen| (seen.is_verified, seen.failures) = (true, 0));
    }

    /// Notes that an audit convicted a node.
    pub fn convicted(&mut self, node: NodeId) {
        self.change(node, |seen| seen.is_banned = true);
    }

    /// Notes that a canary over this node came to nothing at the time `now`: it was refused, lost,
    /// or not verified. The node waits for its next canary, twice as long each time.
    pub fn failed(&mut self, node: NodeId, now: Now) {
        self.change(node, |seen| {
            let doublings = seen.failures.min(limits::CANARY_DOUBLINGS);
            seen.failures = seen.failures.saturating_add(1);
            seen.again_at = now.after(limits::CANARY_AGAIN_US << doublings);
        });
    }

    /// Notes that `ring` took `measured_ns` nanoseconds from one token to the next, on average over
    /// an answer, while its servers announced `peers`. A ring of which a server is not among them
    /// says nothing.
    pub fn timed(&mut self, peers: &[Status], demand: &Demand, ring: &[Hop], measured_ns: u64) {
        let Some(longest) = longest_ns(peers, demand, ring) else { return };
        let beyond = measured_ns.saturating_sub(longest);
        for hop in ring {
            let Some(peer) = peers.iter().find(|peer| peer.node == hop.node) else { continue };
            let layers = u64::from(hop.end.saturating_sub(hop.first)).max(1);
            let claimed = Pace::of(&peer.speed).layer_ns(1);
            let layer_ns = claimed.saturating_add(beyond.div_ceil(layers));
            self.change(hop.node, |seen| {
                seen.layer_ns.push_back(layer_ns);
                if seen.layer_ns.len() > limits::RINGS_TIMED {
                    seen.layer_ns.pop_front();
                }
            });
        }
    }

    /// Returns what is believed of these statuses: speeds that were measured in the place of those
    /// that are claimed. Of a node that was not measured neither speeds nor links are believed,
    /// unless a person named it.
    #[must_use]
    pub fn believed(&self, peers: &[Status]) -> Vec<Status> {
        peers.iter().map(|peer| self.believed_of(peer)).collect()
    }

    fn believed_of(&self, peer: &Status) -> Status {
        let mut status = peer.clone();
        let seen = self.nodes.get(&peer.node);
        let measured = seen.and_then(|seen| seen.layer_ns.iter().min()).copied();
        let is_believed = |seen: &Seen| seen.is_named || measured.is_some();
        let is_proven = |seen: &Seen| seen.standing() == Standing::Proven;
        if !seen.is_some_and(|seen| is_proven(seen) && is_believed(seen)) {
            (status.speed, status.neighbours) = (Speed::UNKNOWN, Vec::new());
            return status;
        }
        let claimed = Pace::of(&peer.speed);
        if let Some(more) = measured.and_then(|ns| ns.checked_sub(claimed.layer_ns(1)))
            && more > 0
        {
            let ns = |batch| claimed.layer_ns(batch).saturating_add(more).try_into();
            // default: the longest time that a status can hold
            let ns = |batch| ns(batch).unwrap_or(u32::MAX);
            status.speed.decode_ns = crate::announcement::BATCHES.map(ns);
        }
        status
    }

    /// Returns the demand of a user's request: what `demand` asks for, over proven nodes alone.
    #[must_use]
    pub fn of_users(&self, demand: &Demand) -> Demand {
        let mut demand = demand.clone();
        let with = |wanted: Standing| {
            let nodes = self.nodes.iter().filter(move |(_, seen)| seen.standing() == wanted);
            nodes.map(|(node, _)| *node)
        };
        demand.banned.extend(with(Standing::Banned));
        demand.proven = Some(with(Standing::Proven).collect());
        demand
    }

    /// Returns the ring over which a canary goes now: over one unproven node whose turn it is, and
    /// proven ones beside it; or, where proven ones do not hold the other layers, over as many
    /// unproven ones as it takes. `None` if nobody is to be tried now, or no ring is there.
    #[must_use]
    pub fn canary(&self, peers: &[Status], demand: &Demand, now: Now) -> Option<Vec<Hop>> {
        let users = self.of_users(demand);
        let believed = self.believed(peers);
        let is_due = |node: NodeId| self.nodes.get(&node).is_none_or(|seen| seen.again_at <= now);
        let may_serve = |peer: &&Status| why_not(peer, demand, Room::Needed).is_none();
        let mut due: Vec<&Status> = believed
            .iter()
            .filter(may_serve)
            .filter(|peer| self.standing(peer.node) == Standing::Unproven && is_due(peer.node))
            .collect();
        due.sort_by_cached_key(|peer| self.turn(peer.node));
        let helps = |peer: &&Status| why_not(peer, &users, Room::Needed).is_none();
        let proven: Vec<Status> = believed.iter().filter(helps).cloned().collect();
        // Those that failed less often go first, also where it takes several of them for a ring.
        let mut levels: Vec<u32> = due.iter().map(|peer| self.level(peer.node)).collect();
        levels.dedup();
        levels.into_iter().find_map(|most| {
            let of_level = due.iter().filter(|peer| self.level(peer.node) == most);
            let mut tried = of_level.take(limits::CANARY_CANDIDATES);
            let alone = tried.find_map(|peer| ring_through(peer, &proven, demand.layers));
            alone.or_else(|| {
                let tried = due.iter().filter(|peer| self.level(peer.node) <= most);
                let tried: BTreeSet<NodeId> = tried.map(|peer| peer.node).collect();
                let mut widened = users.clone();
                widened.proven.iter_mut().for_each(|proven| proven.extend(&tried));
                // default: no ring over these, but perhaps over those that failed more often
                let ring = fastest(&believed, &widened).ok()?.hops;
                ring.iter().any(|hop| tried.contains(&hop.node)).then_some(ring)
            })
        })
    }

    /// Returns how often a node failed in a row, as far as it makes a difference.
    fn level(&self, node: NodeId) -> u32 {
        let failures = self.nodes.get(&node).map_or(0, |seen| seen.failures);
        failures.min(limits::CANARY_DOUBLINGS)
    }

    /// The order in which unproven nodes are tried: those that failed least first, and among them
    /// by a draw that nobody else knows.
    fn turn(&self, node: NodeId) -> (u32, Digest) {
        let parts: [&[u8]; 2] = [&self.secret.to_le_bytes(), &node.0];
        (self.level(node), Digest::derive("lockstep 2026 turn for a canary", &parts))
    }

    /// Changes what is known of a node. Of more than [`limits::SWARM_NODES`] nodes one that has
    /// proved nothing is forgotten, and if there is none the new one is not remembered.
    fn change(&mut self, node: NodeId, change: impl FnOnce(&mut Seen)) {
        if self.nodes.len() >= limits::SWARM_NODES && !self.nodes.contains_key(&node) {
            let mut nodes = self.nodes.iter();
            let idle = nodes.find(|(_, seen)| seen.standing() == Standing::Unproven);
            let Some(idle) = idle.map(|(node, _)| *node) else { return };
            self.nodes.remove(&idle);
        }
        change(self.nodes.entry(node).or_default());
    }
}
