//! The nodes that may hold what is wanted: which of them a fetch considers, and whom it dials next.
//!
//! Anybody can make node ids and announce whatever he likes, so neither a low id nor coming early
//! wins a place. Of all that are known a bounded number is considered. A place goes, where there
//! are more, to who has failed least, then to who announces what is missing, then to hosts with few
//! places; chance decides among equals. What is known of a node stays when it loses its place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::pieces::Outline;
use lockstep_verify::sign::NodeId;

use super::super::draws::Draws;
use super::{Fault, Holder};
use crate::announcement::addresses::Host;
use crate::frame::ToHolder;
use crate::limits;
use crate::now::Now;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Closed,
    Dialling,
    Open,
    /// It is never asked again.
    Banned,
}

/// The blob that a holder sends.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) blob: Digest,
    /// The outline that it claims the blob to have, until it has sent the last piece of it, which
    /// proves that.
    pub(super) claim: Option<Arc<Outline>>,
}

/// A node that may hold what is wanted.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: String,
    host: Option<Host>,
    pub(super) likely: Arc<BTreeSet<Digest>>,
    /// The blobs that it has refused for good.
    pub(super) lacks: BTreeSet<Digest>,
    pub(super) link: Link,
    pub(super) task: Option<Task>,
    /// What it was asked and has not answered, in order; also for what nobody cares any more.
    pub(super) questions: VecDeque<ToHolder>,
    /// The last time that it answered, or was dialled or asked with nothing due before.
    pub(super) since: Now,
    /// Failures since its last right piece.
    pub(super) failures: u32,
    pub(super) not_before: Now,
    pub(super) fault: Option<Fault>,
    bytes: u64,
    busy_us: u64,
}

impl Peer {
    fn new(holder: Holder, now: Now) -> Self {
        let Holder { node: _, address, likely } = holder;
        Self {
            host: Host::of(&address),
            address,
            likely,
            lacks: BTreeSet::new(),
            link: Link::Closed,
            task: None,
            questions: VecDeque::new(),
            since: now,
            failures: 0,
            not_before: Now::default(),
            fault: None,
            bytes: 0,
            busy_us: 0,
        }
    }

    /// Returns the bytes per second that it has given lately while something was due, with the time
    /// for which it has been waited for by `now`; none as long as it has given nothing.
    pub(super) fn bytes_per_s(&self, now: Now) -> Option<u64> {
        let per_s = u128::from(self.bytes).saturating_mul(1_000_000);
        let rate = per_s / u128::from(self.busy_us.saturating_add(self.waited_us(now)).max(1));
        // default: more than a u64 counts is as fast as can be
        (self.bytes > 0).then_some(u64::try_from(rate).unwrap_or(u64::MAX).max(1))
    }

    /// Returns the microseconds for which an answer has been due.
    pub(super) fn waited_us(&self, now: Now) -> u64 {
        if self.questions.is_empty() { 0 } else { now.since(self.since) }
    }

    /// Returns the time at which it has been waited for so long that one that has nothing to do may
    /// relieve it.
    pub(super) fn relief(&self) -> Option<Now> {
        let is_due = self.task.is_some() && !self.questions.is_empty();
        is_due.then(|| self.since.after(limits::BLOB_TAKEOVER_US))
    }

    /// Returns whether it gives less than a holder has to where another one could give more.
    pub(super) fn is_slow(&self, now: Now) -> bool {
        self.bytes_per_s(now).is_some_and(|rate| rate < limits::BLOB_LEAST_BYTES_PER_S)
    }

    /// Takes note that it has answered after some time. That counts for its rate if it was asked
    /// for a piece: for an outline an honest holder may have to read and hash all of the file.
    pub(super) fn answered(&mut self, question: &ToHolder, now: Now) {
        if matches!(question, ToHolder::Piece { .. }) {
            self.busy_us = self.busy_us.saturating_add(now.since(self.since));
        }
        self.since = now;
    }

    /// Returns whether more is known of it than what it announces.
    fn is_tried(&self) -> bool {
        self.link == Link::Banned || self.fault.is_some() || self.failures > 0 || self.bytes > 0
    }

    /// Takes note of a right piece of this many bytes. What was long ago counts less and less.
    pub(super) fn gave(&mut self, bytes: u64) {
        if self.busy_us > limits::BLOB_RATE_US {
            (self.bytes, self.busy_us) = (self.bytes / 2, self.busy_us / 2);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        (self.failures, self.fault) = (0, None);
    }

    /// Returns whether it may be asked for a blob, now or later.
    pub(super) fn may_have(&self, blob: &Digest) -> bool {
        self.link != Link::Banned && !self.lacks.contains(blob)
    }

    /// Returns whether a blob waits for it rather than for somebody who does not announce the blob.
    pub(super) fn is_expected_to_give(&self, blob: &Digest, now: Now) -> bool {
        let is_good = self.failures == 0 && self.not_before <= now && !self.is_slow(now);
        is_good && self.may_have(blob) && self.likely.contains(blob)
    }

    /// Returns whether it can be given a blob.
    pub(super) fn is_idle(&self) -> bool {
        self.link == Link::Open && self.task.is_none() && self.questions.is_empty()
    }

    /// Returns whether it is the one that sends a blob.
    pub(super) fn is_at(&self, blob: &Digest) -> bool {
        self.task.as_ref().is_some_and(|task| task.blob == *blob)
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.link, Link::Dialling | Link::Open)
    }

    /// Returns when it must have answered or been reached, if that is due.
    pub(super) fn deadline(&self) -> Option<Now> {
        match self.link {
            Link::Dialling => Some(self.since.after(limits::BLOB_DIAL_US)),
            Link::Open if !self.questions.is_empty() => {
                Some(self.since.after(limits::BLOB_STALL_US))
            }
            Link::Open | Link::Closed | Link::Banned => None,
        }
    }

    /// Returns whether it is given one of these blobs if it has nothing to do: one that it
    /// announces, or that nobody announces who is expected to give it.
    pub(super) fn is_for(&self, (blob, is_announced): &Needed) -> bool {
        self.may_have(blob) && (self.likely.contains(blob) || !is_announced)
    }
}

/// A blob for which a holder is to be found, and whether one that announces it is expected to give
/// it.
pub(super) type Needed = (Digest, bool);

/// How little a node deserves a place by itself: whether it is of no use, its failures, and whether
/// it announces nothing that is missing.
type Demerit = (bool, u32, bool);

/// How little a node deserves a place: by itself, and by the places of its host above those that
/// one host may have where others want them.
type OfHost = (Demerit, usize);

/// A node that is not considered and may be of use.
struct Candidate {
    node: NodeId,
    host: Option<Host>,
    demerit: Demerit,
    /// A number that was drawn for it.
    chance: u64,
}

/// All nodes that may hold what is wanted.
#[derive(Debug)]
pub(super) struct Holders {
    considered: BTreeMap<NodeId, Peer>,
    others: BTreeMap<NodeId, Peer>,
    /// Whether places may have to change.
    is_stale: bool,
    draws: Draws,
}

impl Holders {
    pub(super) const fn new(random: u64) -> Self {
        Self {
            considered: BTreeMap::new(),
            others: BTreeMap::new(),
            is_stale: false,
            draws: Draws::new(random),
        }
    }

    /// Returns a holder that is considered.
    pub(super) fn get(&self, node: &NodeId) -> Option<&Peer> {
        self.considered.get(node)
    }

    /// Returns a holder that is considered, to be changed.
    pub(super) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Peer> {
        self.considered.get_mut(node)
    }

    /// Returns the holders that are considered, in the order of their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.considered.iter().map(|(node, peer)| (*node, peer))
    }

    /// Returns whether anybody may have a blob, considered or not.
    pub(super) fn may_have(&self, blob: &Digest) -> bool {
        self.considered.values().chain(self.others.values()).any(|peer| peer.may_have(blob))
    }

    /// Returns the last fault of each that had one, of those that are considered first.
    pub(super) fn faults(&self) -> Vec<(NodeId, Fault)> {
        let all = self.considered.iter().chain(&self.others);
        let faults = all.filter_map(|(node, peer)| Some((*node, peer.fault?)));
        faults.take(limits::BLOB_HOLDERS_KNOWN).collect()
    }

    /// Takes what is announced of nodes, new ones and those that are known.
    pub(super) fn announced(&mut self, holders: Vec<Holder>, now: Now) {
        self.is_stale = true;
        if self.others.len().saturating_add(holders.len()) > limits::BLOB_HOLDERS_OFFERED {
            // Nodes that are gone make room for those that are there.
            let there: BTreeSet<NodeId> = holders.iter().map(|holder| holder.node).collect();
            self.others.retain(|node, peer| peer.is_tried() || there.contains(node));
        }
        for holder in holders {
            let node = holder.node;
            let known = self.considered.get_mut(&node).or_else(|| self.others.get_mut(&node));
            if let Some(peer) = known {
                peer.host = Host::of(&holder.address);
                (peer.address, peer.likely) = (holder.address, holder.likely);
            } else if self.others.len() < limits::BLOB_HOLDERS_OFFERED {
                self.others.insert(node, Peer::new(holder, now));
            }
        }
    }

    /// Takes note that somebody may have lost the right to its place.
    pub(super) const fn judge_again(&mut self) {
        self.is_stale = true;
    }

    /// Gives free places, and those of nodes that deserve them less, to others. `missing` are the
    /// blobs that are not here.
    pub(super) fn fill(&mut self, missing: impl FnOnce() -> Vec<Digest>) {
        if !core::mem::take(&mut self.is_stale) || self.others.is_empty() {
            return;
        }
        let missing = missing();
        let mut candidates = self.candidates(&missing);
        for _ in 0..limits::BLOB_HOLDERS_KNOWN {
            let rank = |one: &Candidate| {
                let of_host = self.places_of(one.host);
                (with_host(one.demerit, of_host.saturating_add(1)), of_host, one.chance)
            };
            let best = candidates.iter().enumerate().min_by_key(|(_, one)| rank(one));
            let Some((at, (own, ..))) = best.map(|(at, one)| (at, rank(one))) else { return };
            if self.considered.len() >= limits::BLOB_HOLDERS_KNOWN {
                let Some((worst, out)) = self.worst_considered(&missing) else { return };
                if worst <= own {
                    return;
                }
                if let Some(peer) = self.considered.remove(&out) {
                    self.others.insert(out, peer);
                }
            }
            let node = candidates.swap_remove(at).node;
            if let Some(peer) = self.others.remove(&node) {
                self.considered.insert(node, peer);
            }
        }
    }

    /// Returns those of the others that may be of use, each with a number drawn for it.
    fn candidates(&mut self, missing: &[Digest]) -> Vec<Candidate> {
        let (others, draws) = (&self.others, &mut self.draws);
        let candidate = |(node, peer): (&NodeId, &Peer)| {
            let (demerit, chance) = (demerit(peer, missing), draws.below(u64::MAX));
            (!demerit.0).then_some(Candidate { node: *node, host: peer.host, demerit, chance })
        };
        others.iter().filter_map(candidate).collect()
    }

    /// Returns the number of places that nodes of a host have. What is no host is one, too.
    fn places_of(&self, host: Option<Host>) -> usize {
        self.considered.values().filter(|peer| peer.host == host).count()
    }

    /// Returns the holder without a link that deserves its place least.
    fn worst_considered(&mut self, missing: &[Digest]) -> Option<(OfHost, NodeId)> {
        let mut worst = None;
        for (node, peer) in self.considered.iter().filter(|(_, peer)| !peer.is_up()) {
            let of_host = self.places_of(peer.host);
            let rank = (with_host(demerit(peer, missing), of_host), self.draws.below(u64::MAX));
            if worst.as_ref().is_none_or(|(most, _)| rank > *most) {
                worst = Some((rank, *node));
            }
        }
        worst.map(|((demerit, _), node)| (demerit, node))
    }

    /// Returns the holder to be dialled next, if one may have something that is needed: who has
    /// failed least first, then who announces it, then who was not busy, then one of a host with
    /// few links.
    pub(super) fn next_to_dial(&mut self, needed: &[Needed], now: Now) -> Option<NodeId> {
        let mut best = None;
        for (node, peer) in &self.considered {
            let can_be = peer.link == Link::Closed && peer.not_before <= now;
            if !can_be || !needed.iter().any(|one| peer.is_for(one)) {
                continue;
            }
            let has_it = |(blob, _): &Needed| peer.may_have(blob) && peer.likely.contains(blob);
            let of_host = self.considered.values().filter(|one| one.host == peer.host);
            let of_host = of_host.filter(|one| one.is_up()).count();
            let is_unlikely = !needed.iter().any(has_it);
            let known = (peer.failures, is_unlikely, peer.fault.is_some());
            let rank = (known, of_host, self.draws.below(u64::MAX));
            if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                best = Some((rank, *node));
            }
        }
        best.map(|(_, node)| node)
    }

    /// Returns a time to wait beyond the least, drawn anew, below `bound` microseconds.
    pub(super) fn spread_us(&mut self, bound: u64) -> u64 {
        self.draws.below(bound)
    }
}

/// Returns how little a node deserves a place by itself.
fn demerit(peer: &Peer, missing: &[Digest]) -> Demerit {
    let is_of_use = missing.iter().any(|blob| peer.may_have(blob));
    let has_it = |blob: &Digest| peer.may_have(blob) && peer.likely.contains(blob);
    (!is_of_use, peer.failures, !missing.iter().any(has_it))
}

/// Returns how little a node deserves a place if its host has `of_host` places with it.
const fn with_host(demerit: Demerit, of_host: usize) -> OfHost {
    (demerit, of_host.saturating_sub(limits::BLOB_HOLDERS_OF_HOST))
}
