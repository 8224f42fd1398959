//! The members of a swarm: the newest announcement of each node, for as long as it is true.
//!
//! Announcements come from anybody, and each is kept because of its own signature, never because of
//! who brought it. What a stranger could cost is bounded: how many nodes are kept, how many of one
//! host, how many that one peer alone has brought, and how often a node's announcement may change.
//! A node whose announcement has expired is gone, whoever says otherwise; where it was is
//! remembered for a while, so that two halves of a network that lost each other find together
//! again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::ops::Bound;

use lockstep_verify::sign::NodeId;

use crate::announcement::{Announcement, AnnouncementFault, State};
use crate::frame::{Known, ShortId};
use crate::limits;
use crate::now::Now;

/// A node of which an announcement is known that is true now.
#[derive(Clone, Debug)]
pub struct Member {
    /// The newest announcement of the node.
    pub announcement: Arc<Announcement>,
    /// The time at which this announcement came.
    pub came: Now,
    /// The peer that brought the first announcement of this node; the node itself if it came on a
    /// link of its own.
    pub brought_by: NodeId,
    /// How many more announcements of this node are taken at once.
    allowance: u64,
}

impl Member {
    fn has_left(&self) -> bool {
        self.announcement.status.state == State::Left
    }
}

/// The reasons why an announcement that was handed on is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberFault {
    /// The announcement itself is not to be taken.
    Announcement(AnnouncementFault),
    /// The node was banned here.
    Banned,
    /// This node knows as many nodes already as it may.
    Full,
    /// This node knows as many nodes of the same host already as it may.
    HostFull,
    /// The peer that brought it has brought as many nodes as one peer may.
    PeerFull,
    /// The node announces more often than it may.
    TooOften,
}

impl fmt::Display for MemberFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Announcement(fault) => fault.fmt(f),
            Self::Banned => f.write_str("the node is banned here"),
            Self::Full => write!(f, "{} nodes are known, which is the limit", limits::SWARM_NODES),
            Self::HostFull => {
                write!(f, "{} nodes of one host are the limit", limits::SWARM_NODES_OF_HOST)
            }
            Self::PeerFull => {
                write!(f, "{} nodes brought by one peer are the limit", limits::SWARM_NODES_OF_PEER)
            }
            Self::TooOften => f.write_str("the node announces itself too often"),
        }
    }
}

impl core::error::Error for MemberFault {}

/// The change that a taken announcement has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The node was not known before.
    Joined,
    /// A newer announcement takes the place of an older one.
    Renewed,
    /// The announcement says that its node has left.
    Left,
}

/// A node that was a member, and where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Former {
    /// The id of the node that was a member.
    pub node: NodeId,
    /// The addresses that it announced.
    pub address: String,
}

/// The members of a swarm, as one node knows them.
#[derive(Debug, Default)]
pub struct Members {
    members: BTreeMap<NodeId, Member>,
    /// When each announcement ends, by this node's clock.
    ends: BTreeSet<(u64, NodeId)>,
    /// The number of nodes on each host.
    hosts: BTreeMap<Host, usize>,
    /// The number of nodes that each peer was the first to bring.
    brought: BTreeMap<NodeId, usize>,
    former: VecDeque<Former>,
    banned: BTreeSet<NodeId>,
}

/// The host of a node: an IPv4 address, or the network of an IPv6 address, which is what one
/// customer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    V4([u8; 4]),
    V6([u16; 4]),
}

impl Host {
    /// Returns the host of the first of the addresses, which are comma-separated.
    pub(super) fn of(address: &str) -> Option<Self> {
        // default: an address that does not parse is nobody's: it can't be dialled
        let address: SocketAddr = host_of(address.split(',').next()?).parse().ok()?;
        Some(match address.ip().to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self::V6([a, b, c, d])
            }
        })
    }
}

/// Returns the socket address of an address: of a relay (`NODE_ID@IP:PORT`), the relay's.
fn host_of(address: &str) -> &str {
    address.split_once('@').map_or(address, |(_, socket)| socket)
}

impl Members {
    /// Takes an announcement that a peer has brought, at the time `now`.
    ///
    /// # Errors
    /// [`MemberFault`]; then nothing has changed.
    pub fn take(
        &mut self,
        announcement: Arc<Announcement>,
        brought_by: NodeId,
        now: Now,
    ) -> Result<Taken, MemberFault> {
        self.expire(now);
        let node = announcement.status.node;
        if self.banned.contains(&node) {
            return Err(MemberFault::Banned);
        }
        let old = self.members.get(&node);
        let newest = old.map(|member| member.announcement.sequence);
        // What costs nothing comes before the signature.
        let allowance = match old {
            Some(member) => allowance(member, now),
            None => limits::SWARM_RENEWALS_AT_ONCE,
        };
        if newest.is_none_or(|newest| announcement.sequence > newest) {
            if allowance == 0 {
                return Err(MemberFault::TooOften);
            }
            self.check_room(&announcement, brought_by)?;
        }
        let unix_ms = now.unix_ms();
        announcement.check_handed_on(newest, unix_ms).map_err(MemberFault::Announcement)?;
        let first_brought = old.map_or(brought_by, |member| member.brought_by);
        let was_here = self.remove(node).is_some_and(|old| !old.has_left());
        let has_left = announcement.status.state == State::Left;
        self.insert(Member {
            announcement,
            came: now,
            brought_by: first_brought,
            allowance: allowance.saturating_sub(1),
        });
        Ok(match (was_here, has_left) {
            (true, true) => Taken::Left,
            (false, false) => Taken::Joined,
            (true, false) | (false, true) => Taken::Renewed,
        })
    }

    /// Checks whether a node may be added, or an announcement of another host take a place.
    fn check_room(&self, one: &Announcement, brought_by: NodeId) -> Result<(), MemberFault> {
        let old = self.members.get(&one.status.node);
        let host = Host::of(&one.address);
        let old_host = old.and_then(|member| Host::of(&member.announcement.address));
        // default: no node is there
        let of_host = host.and_then(|host| self.hosts.get(&host)).copied().unwrap_or(0);
        if host != old_host && of_host >= limits::SWARM_NODES_OF_HOST {
            return Err(MemberFault::HostFull);
        }
        if old.is_some() {
            return Ok(());
        }
        if self.members.len() >= limits::SWARM_NODES {
            return Err(MemberFault::Full);
        }
        // default: it has brought none
        let brought = self.brought.get(&brought_by).copied().unwrap_or(0);
        let is_its_own = one.status.node == brought_by;
        if !is_its_own && brought >= limits::SWARM_NODES_OF_PEER {
            return Err(MemberFault::PeerFull);
        }
        Ok(())
    }

    fn insert(&mut self, member: Member) {
        let announcement = &member.announcement;
        let node = announcement.status.node;
        self.ends.insert((announcement.expires_unix_ms, node));
        if let Some(host) = Host::of(&announcement.address) {
            let count = self.hosts.entry(host).or_default();
            *count = count.saturating_add(1);
        }
        let count = self.brought.entry(member.brought_by).or_default();
        *count = count.saturating_add(1);
        self.members.insert(node, member);
    }

    fn remove(&mut self, node: NodeId) -> Option<Member> {
        let member = self.members.remove(&node)?;
        let announcement = &member.announcement;
        self.ends.remove(&(announcement.expires_unix_ms, node));
        if let Some(host) = Host::of(&announcement.address) {
            one_less(&mut self.hosts, host);
        }
        one_less(&mut self.brought, member.brought_by);
        Some(member)
    }

    /// Forgets the nodes whose announcements have ended, and returns them.
    pub fn expire(&mut self, now: Now) -> Vec<NodeId> {
        let mut gone = Vec::new();
        while let Some(&(ends, node)) = self.ends.first()
            && ends <= now.unix_ms()
        {
            self.ends.remove(&(ends, node));
            // Who has left was told of when it left.
            if let Some(member) = self.remove(node).filter(|member| !member.has_left()) {
                let address = member.announcement.address.clone();
                self.remember(Former { node, address });
                gone.push(node);
            }
        }
        gone
    }

    /// Remembers where a node was that is gone; the oldest of too many is forgotten.
    fn remember(&mut self, former: Former) {
        self.former.retain(|known| known.node != former.node);
        self.former.push_back(former);
        if self.former.len() > limits::SWARM_FORMER_NODES {
            self.former.pop_front();
        }
    }

    /// Never takes an announcement of this node again, and forgets the one it has.
    pub fn ban(&mut self, node: NodeId) {
        self.remove(node);
        self.banned.insert(node);
    }

    /// Returns the time at which the next announcement ends to be true; `None` if none is held.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        let (ends, _) = self.ends.first()?;
        Some(Now(ends.saturating_mul(1000)))
    }

    /// Returns the member with this node id; `None` for a node that is not known or has left.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node).filter(|member| !member.has_left())
    }

    /// Returns all members, in the order of their node ids. Those that have left are not among
    /// them, although their last announcements are kept and handed on until they end.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.has_left())
    }

    /// Returns the number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Returns whether no member is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Returns the nodes that were members and are gone, the latest last.
    pub fn former(&self) -> impl Iterator<Item = &Former> {
        self.former.iter()
    }

    /// Returns the summary of all announcements, as a frame has it.
    #[must_use]
    pub fn summary(&self) -> Vec<Known> {
        let known = |member: &Member| Known {
            node: member.announcement.status.node.into(),
            sequence: member.announcement.sequence,
        };
        let mut summary: Vec<Known> = self.members.values().map(known).collect();
        summary.dedup_by_key(|known| known.node);
        summary
    }

    /// Returns the members with this short id.
    pub fn called(&self, short: ShortId) -> impl Iterator<Item = &Member> {
        let mut least = [0; 32];
        let prefix = short.0.to_be_bytes();
        least.iter_mut().zip(prefix).for_each(|(to, from)| *to = from);
        let range = (Bound::Included(NodeId(least)), Bound::Unbounded);
        let members = self.members.range(range).map(|(_, member)| member);
        members.take_while(move |member| ShortId::from(member.announcement.status.node) == short)
    }
}

/// Returns how many announcements a member's node may make now.
fn allowance(member: &Member, now: Now) -> u64 {
    let since = now.since(member.came) / limits::SWARM_RENEWAL_US;
    member.allowance.saturating_add(since).min(limits::SWARM_RENEWALS_AT_ONCE)
}

fn one_less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
