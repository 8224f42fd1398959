//! What a client needs of the servers of a ring, and which servers are left out for it.
//!
//! What servers announce is a claim. Whoever has measured a server or a link puts its own figures
//! into the [`Status`] before it plans with it, and gives a server that has not shown yet what it
//! can [`Speed::UNKNOWN`](crate::announcement::Speed::UNKNOWN): claims alone win no traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::digest::Digest;
use lockstep_exact::kv::PAGE;
use lockstep_exact::state::row_bytes;
use lockstep_verify::sign::NodeId;

use crate::announcement::{State, Status, Tag};
use crate::model::Model;
use crate::version::VERSION;

/// The needs of a client: a model, room, and whom it trusts with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The digest of the manifest of the model.
    pub manifest: Digest,
    /// The number of layers of the model.
    pub layers: u32,
    /// The bytes of one state, which each hop carries for each position.
    pub state_bytes: u64,
    /// The positions for which a session needs KV room.
    pub positions: u32,
    /// The adapters that every server of the ring must hold.
    pub adapters: BTreeSet<Digest>,
    /// The only nodes that may serve; `None` if any may.
    pub allowed: Option<BTreeSet<NodeId>>,
    /// The only nodes that have shown that they serve; `None` if claims are enough. See
    /// [`trust`](super::trust).
    pub proven: Option<BTreeSet<NodeId>>,
    /// The nodes that may not serve.
    pub banned: BTreeSet<NodeId>,
    /// The only nodes that may hold the first span, and so see prompt and answer; `None` if any
    /// may.
    pub first_on: Option<BTreeSet<NodeId>>,
    /// The only nodes that may hold the last span; `None` if any may.
    pub last_on: Option<BTreeSet<NodeId>>,
    /// The tags that every server must announce.
    pub tags: BTreeSet<Tag>,
}

impl Demand {
    /// Returns the demand for sessions of `positions` positions of a model, on any servers.
    #[must_use]
    pub fn of(model: &Model, positions: u32) -> Self {
        Self {
            manifest: model.manifest,
            layers: model.layers,
            state_bytes: row_bytes(model.hidden as usize) as u64,
            positions,
            adapters: BTreeSet::new(),
            allowed: None,
            proven: None,
            banned: BTreeSet::new(),
            first_on: None,
            last_on: None,
            tags: BTreeSet::new(),
        }
    }
}

/// Why a server of the model is left out of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The client has banned it.
    Banned,
    /// It is not among the nodes that the client allows.
    NotAllowed,
    /// It lacks a tag that the client demands.
    NoTag,
    /// It speaks another version of the frames.
    OtherVersion,
    /// Its span is empty, or has layers that the model has not.
    BadSpan,
    /// It is not to be used yet.
    Joining,
    /// The server is about to leave the swarm.
    Draining,
    /// The server has left the swarm.
    Left,
    /// It has shown nothing yet: canaries go over it, and no request of a user.
    Unproven,
    /// It lacks an adapter that the client demands.
    NoAdapter,
    /// It has as many sessions as it takes.
    Busy,
    /// It has no KV pages for a session of this length over all of its layers.
    NoRoom,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Banned => "banned",
            Self::NotAllowed => "not allowed",
            Self::Unproven => "without anything shown yet",
            Self::NoTag => "without a tag that is demanded",
            Self::OtherVersion => "of another version",
            Self::BadSpan => "with an impossible span",
            Self::Joining => "still joining",
            Self::Draining => "draining",
            Self::Left => "gone",
            Self::NoAdapter => "without an adapter",
            Self::Busy => "busy",
            Self::NoRoom => "without room for the session",
        })
    }
}

/// The servers of a model that were left out of a plan: how many, by the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut(pub BTreeMap<Why, usize>);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (why, count)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {why}")?;
        }
        Ok(())
    }
}

/// Whether servers that have no room at the moment count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// They are left out: a session is to begin now.
    Needed,
    /// They count: it is about what the swarm can do over time.
    Ignored,
}

/// The servers that a plan may use, in the order of their node ids, and those that it may not.
pub(super) struct Usable<'a> {
    pub(super) servers: Vec<&'a Status>,
    pub(super) left_out: LeftOut,
}

/// Sorts out which of `peers` may serve the demand. Of two statuses of one node one is taken,
/// whichever comes first.
pub(super) fn usable<'a>(peers: &'a [Status], demand: &Demand, room: Room) -> Usable<'a> {
    let mut sorted: Vec<&Status> =
        peers.iter().filter(|peer| peer.manifest == demand.manifest).collect();
    // Whoever names a node twice gets the same plan in whatever order it does.
    sorted.sort_by(|one, other| {
        let ids = one.node.cmp(&other.node);
        ids.then_with(|| one.to_bytes().cmp(&other.to_bytes()))
    });
    sorted.dedup_by_key(|peer| peer.node);
    let mut left_out = LeftOut::default();
    sorted.retain(|peer| match why_not(peer, demand, room) {
        None => true,
        Some(why) => {
            let count = left_out.0.entry(why).or_default();
            *count = count.saturating_add(1);
            false
        }
    });
    Usable { servers: sorted, left_out }
}

/// Returns why a server of the demanded model may not serve, if it may not.
pub(super) fn why_not(peer: &Status, demand: &Demand, room: Room) -> Option<Why> {
    let is_allowed = |nodes: &BTreeSet<NodeId>| nodes.contains(&peer.node);
    let is_spanned = peer.first < peer.end && peer.end <= demand.layers;
    let pages = u64::from(demand.positions).div_ceil(PAGE as u64).max(1);
    let needed = pages.saturating_mul(u64::from(peer.end.saturating_sub(peer.first)));
    let checks = [
        (Why::Banned, demand.banned.contains(&peer.node)),
        (Why::NotAllowed, !demand.allowed.as_ref().is_none_or(is_allowed)),
        (Why::NoTag, !demand.tags.iter().all(|tag| peer.tags.contains(tag))),
        (Why::OtherVersion, peer.version != VERSION),
        (Why::BadSpan, !is_spanned),
        (Why::Joining, peer.state == State::Joining),
        (Why::Draining, peer.state == State::Draining),
        (Why::Left, peer.state == State::Left),
        (Why::Unproven, !demand.proven.as_ref().is_none_or(is_allowed)),
        (Why::NoAdapter, !demand.adapters.iter().all(|one| peer.adapters.contains(one))),
        (Why::Busy, room == Room::Needed && peer.sessions >= peer.sessions_limit),
        (Why::NoRoom, room == Room::Needed && u64::from(peer.kv_pages_free) < needed),
    ];
    checks.into_iter().find_map(|(why, is_so)| is_so.then_some(why))
}
