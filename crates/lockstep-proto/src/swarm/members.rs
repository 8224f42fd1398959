//! The members of a swarm: the newest announcement of each node, for as long as it is true.
//!
//! Announcements come from anybody, and each is kept because of its own signature, never because of
//! who brought it. What a stranger could cost is bounded: how many nodes are kept, how many of each
//! of the hosts that it names, how many that one peer alone has brought, and how often a node's
//! announcement may change.
//! A node whose announcement has expired is gone, whoever says otherwise; where it was is
//! remembered for a while, so that two halves of a network that lost each other find together
//! again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use core::fmt;
use core::ops::Bound;

use lockstep_verify::sign::NodeId;

use crate::announcement::addresses::{self, Address, Host};
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
    /// The hosts of its addresses.
    hosts: BTreeSet<Host>,
    /// The one of its addresses at which this node has found it, if there is one.
    found_at: Option<String>,
}

impl Member {
    fn has_left(&self) -> bool {
        self.announcement.status.state == State::Left
    }

    /// Returns where the node is dialled: where it was found, or else all that it says.
    #[must_use]
    pub fn dialled(&self) -> Dialled {
        let node = self.announcement.status.node;
        let is_found = self.found_at.is_some();
        // default: whoever was not found may be at any of its addresses
        let address = self.found_at.as_ref().unwrap_or(&self.announcement.address).clone();
        Dialled { node, address, is_found }
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
    /// The peer that brought it has had as many signatures checked as it may for now.
    Unchecked,
}

impl MemberFault {
    /// Returns whether the announcement is not signed by its node.
    #[must_use]
    pub const fn is_forgery(self) -> bool {
        matches!(self, Self::Announcement(AnnouncementFault::Signature(_)))
    }
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
            Self::Unchecked => f.write_str("the peer brings more than is checked at once"),
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

/// A node that is a member or was one, and where it is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialled {
    /// The id of the node that is dialled.
    pub node: NodeId,
    /// The address at which this node has found it, or all those that it announced.
    pub address: String,
    /// Whether this node has found it there.
    pub is_found: bool,
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
    former: VecDeque<Dialled>,
    banned: BTreeSet<NodeId>,
}

/// Returns the hosts for which a node with these addresses counts.
fn hosts_of(addresses: &[Address]) -> BTreeSet<Host> {
    let hosts: BTreeSet<Host> = addresses.iter().map(Address::host).collect();
    if hosts.is_empty() { BTreeSet::from([Host::Nowhere]) } else { hosts }
}

impl Members {
    /// Checks whether an announcement that a peer has brought would be taken at the time `now` if
    /// its signature holds: everything that costs next to nothing.
    ///
    /// # Errors
    /// [`MemberFault`].
    pub fn screen(
        &self,
        announcement: &Announcement,
        brought_by: NodeId,
        now: Now,
    ) -> Result<(), MemberFault> {
        self.screened(announcement, brought_by, now).map(drop)
    }

    /// Returns the hosts of an announcement that passes [`Members::screen`], and the members that
    /// give their places on them to it.
    fn screened(
        &self,
        announcement: &Announcement,
        brought_by: NodeId,
        now: Now,
    ) -> Result<(BTreeSet<Host>, Vec<NodeId>), MemberFault> {
        let node = announcement.status.node;
        if self.banned.contains(&node) {
            return Err(MemberFault::Banned);
        }
        let old = self.members.get(&node);
        let newest = old.map(|member| member.announcement.sequence);
        let addresses = announcement.check_unverified(newest, now.unix_ms());
        let hosts = hosts_of(&addresses.map_err(MemberFault::Announcement)?);
        if old.is_some_and(|member| allowance(member, now) == 0) {
            return Err(MemberFault::TooOften);
        }
        let squatters = self.make_room(node, &hosts, brought_by)?;
        Ok((hosts, squatters))
    }

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
        let (hosts, squatters) = self.screened(&announcement, brought_by, now)?;
        let is_signed = announcement.verify();
        is_signed.map_err(|bad| MemberFault::Announcement(AnnouncementFault::Signature(bad)))?;
        let node = announcement.status.node;
        squatters.into_iter().for_each(|squatter| drop(self.remove(squatter)));
        let old = self.remove(node);
        // default: nobody knew the node, so that it has all that one may make at once
        let left = old.as_ref().map_or(limits::SWARM_RENEWALS_AT_ONCE, |old| allowance(old, now));
        let first_brought = old.as_ref().map_or(brought_by, |old| old.brought_by);
        let was_here = old.as_ref().is_some_and(|old| !old.has_left());
        let is_there_still = |at: &String| addresses::find(&announcement.address, at).is_some();
        let found_at = old.and_then(|old| old.found_at).filter(is_there_still);
        let has_left = announcement.status.state == State::Left;
        self.insert(Member {
            announcement,
            came: now,
            brought_by: first_brought,
            allowance: left.saturating_sub(1),
            hosts,
            found_at,
        });
        Ok(match (was_here, has_left) {
            (true, true) => Taken::Left,
            (false, false) => Taken::Joined,
            (true, false) | (false, true) => Taken::Renewed,
        })
    }

    /// Checks whether a node may be added, or one that is known may be on these hosts, and returns
    /// the members that go for it: where a host is full, one that was put there by others alone and
    /// was never found makes room for a node that comes itself. Otherwise whoever invents nodes on
    /// somebody's host would keep that one's own out.
    fn make_room(
        &self,
        node: NodeId,
        hosts: &BTreeSet<Host>,
        brought_by: NodeId,
    ) -> Result<Vec<NodeId>, MemberFault> {
        let old = self.members.get(&node);
        let is_full = |host: &&Host| {
            let is_there = old.is_some_and(|old| old.hosts.contains(host));
            let nodes = self.hosts.get(host).is_some_and(|nodes| *nodes >= host.most_nodes());
            !is_there && nodes
        };
        let squatter = |host: &Host| {
            let is_one = |one: &&Member| {
                let id = one.announcement.status.node;
                one.hosts.contains(host) && one.found_at.is_none() && one.brought_by != id
            };
            let squatter = self.members.values().find(is_one).filter(|_| node == brought_by);
            squatter.map(|one| one.announcement.status.node)
        };
        let squatters = hosts.iter().filter(is_full).map(squatter);
        let squatters: Option<Vec<NodeId>> = squatters.collect();
        let squatters = squatters.ok_or(MemberFault::HostFull)?;
        if old.is_some() {
            return Ok(squatters);
        }
        if self.members.len() >= limits::SWARM_NODES {
            return Err(MemberFault::Full);
        }
        // default: it has brought none
        let brought = self.brought.get(&brought_by).copied().unwrap_or(0);
        if node != brought_by && brought >= limits::SWARM_NODES_OF_PEER {
            return Err(MemberFault::PeerFull);
        }
        Ok(squatters)
    }

    /// Notes that a member was found at an address. It counts if the member announces it.
    pub fn found(&mut self, node: NodeId, address: &str) {
        if let Some(member) = self.members.get_mut(&node) {
            let announced = addresses::find(&member.announcement.address, address);
            member.found_at = announced.map(str::to_owned).or_else(|| member.found_at.take());
        }
    }

    /// Notes that a member was not found where it had been.
    pub fn lost(&mut self, node: NodeId) {
        if let Some(member) = self.members.get_mut(&node) {
            member.found_at = None;
        }
    }

    fn insert(&mut self, member: Member) {
        let announcement = &member.announcement;
        let node = announcement.status.node;
        self.ends.insert((announcement.expires_unix_ms, node));
        for host in &member.hosts {
            let count = self.hosts.entry(*host).or_default();
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
        for host in &member.hosts {
            one_less(&mut self.hosts, *host);
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
                self.remember(member.dialled());
                gone.push(node);
            }
        }
        gone
    }

    /// Remembers where a node was that is gone. Of too many the oldest is forgotten that this node
    /// never found, so that invented ones push none out that were there.
    fn remember(&mut self, former: Dialled) {
        self.former.retain(|known| known.node != former.node);
        self.former.push_back(former);
        if self.former.len() > limits::SWARM_FORMER_NODES {
            // default: all were found, and the first is the oldest
            let oldest = self.former.iter().position(|known| !known.is_found).unwrap_or(0);
            self.former.remove(oldest);
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
    pub fn former(&self) -> impl Iterator<Item = &Dialled> {
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
