//! Which holder is asked for what, and whose link makes room for another's.

use lockstep_exact::digest::Digest;
use lockstep_verify::sign::NodeId;

use super::holders::{Link, Needed, Task};
use super::want::Want;
use super::{Fault, Fetch, Output};
use crate::frame::ToHolder;
use crate::limits;

impl Fetch {
    /// Gives each holder something to do, as far as there is something, and dials others for what
    /// is left.
    pub(super) fn schedule(&mut self) {
        let idle = self.holders.iter().filter(|(_, peer)| peer.is_idle()).map(|(node, _)| node);
        for node in idle.collect::<Vec<_>>() {
            self.give(node);
        }
        for node in self.holders.iter().map(|(node, _)| node).collect::<Vec<_>>() {
            self.ask(node);
        }
        // One that brings too little is relieved as soon as there is somebody.
        let needed = self.blobs(|fetch, want| want.needs_holder() || fetch.is_slow(want));
        while let Some(node) = self.holders.next_to_dial(&needed, self.now) {
            if !self.make_room(node, needed.len()) {
                return;
            }
            self.dial(node);
        }
    }

    /// Returns whether a blob's holder brings less than a holder has to.
    fn is_slow(&self, want: &Want) -> bool {
        let from = want.from.and_then(|node| self.holders.get(&node));
        from.is_some_and(|peer| peer.is_slow(self.now))
    }

    /// Returns the blobs of which `is_needed` says that a holder is to be found for them.
    fn blobs(&self, is_needed: fn(&Self, &Want) -> bool) -> Vec<Needed> {
        let needed = self.wants.iter().filter(|(_, want)| is_needed(self, want));
        let is_expected = |blob: &Digest| {
            self.holders.iter().any(|(_, peer)| peer.is_expected_to_give(blob, self.now))
        };
        needed.map(|(blob, _)| (*blob, is_expected(blob))).collect()
    }

    /// Returns whether there is room for a link to `node`, which may have some of the `needed`
    /// blobs. If all links are taken, one on which nothing is to be had makes room; or, for a
    /// holder that has not failed, one that brings less than a holder has to.
    fn make_room(&mut self, node: NodeId, needed: usize) -> bool {
        let count = |link| self.holders.iter().filter(|(_, peer)| peer.link == link).count();
        let (dialling, open) = (count(Link::Dialling), count(Link::Open));
        if dialling.saturating_add(open) < limits::BLOB_HOLDERS {
            return true;
        }
        if dialling >= needed {
            return false;
        }
        // It was given nothing of what is needed, so it has nothing of that.
        let idle = self.holders.iter().find(|(_, peer)| peer.is_idle()).map(|(node, _)| node);
        if let Some(idle) = idle {
            self.rest(idle, true);
            return true;
        }
        let now = self.now;
        let slow = self.holders.iter().filter(|(_, peer)| peer.is_slow(now) && peer.is_up());
        let slowest = slow.min_by_key(|(_, peer)| peer.bytes_per_s(now)).map(|(node, _)| node);
        let is_fresh = self.holders.get(&node).is_some_and(|peer| peer.failures == 0);
        let Some(slowest) = slowest.filter(|_| is_fresh) else { return false };
        self.fail(slowest, Fault::Slow, true);
        true
    }

    fn dial(&mut self, node: NodeId) {
        let Some(peer) = self.holders.get_mut(&node) else { return };
        (peer.link, peer.since) = (Link::Dialling, self.now);
        let address = peer.address.clone();
        self.out.push_back(Output::Dial { node, address });
    }

    /// Chooses a blob for a holder that has nothing to do.
    fn give(&mut self, node: NodeId) {
        let Some(peer) = self.holders.get(&node) else { return };
        let needed = self.blobs(|_, want| want.needs_holder());
        let free = needed.iter().find(|one| peer.is_for(one)).map(|(blob, _)| *blob);
        let Some(blob) = free.or_else(|| self.relieve(node)) else { return };
        let Some(want) = self.wants.get_mut(&blob) else { return };
        want.from = Some(node);
        let has_outline = want.outline.is_some();
        if let Some(peer) = self.holders.get_mut(&node) {
            (peer.task, peer.since) = (Some(Task { blob, claim: None }), self.now);
        }
        if !has_outline {
            self.send(node, ToHolder::Outline { blob });
        }
    }

    /// Takes a blob from a holder that is much slower than this one, which has nothing to do. One
    /// that has not given anything yet is relieved by one that has; and one that brings less than a
    /// holder has to, by one of which it is not known how fast it is.
    fn relieve(&mut self, node: NodeId) -> Option<Digest> {
        let (peer, now) = (self.holders.get(&node)?, self.now);
        let own = peer.bytes_per_s(now);
        let slow = self.wants.iter().filter_map(|(blob, want)| {
            let from = want.from.filter(|from| *from != node)?;
            let other = self.holders.get(&from)?;
            let is_slow = match (own, other.bytes_per_s(now)) {
                (Some(own), Some(rate)) => own >= rate.saturating_mul(limits::BLOB_TAKEOVER_FACTOR),
                (Some(_), None) => other.waited_us(now) >= limits::BLOB_TAKEOVER_US,
                (None, _) => other.is_slow(now) && peer.failures == 0,
            };
            // default: one that has not given anything needs for ever
            let rate = other.bytes_per_s(now).unwrap_or(1);
            let left_us = want.left_bytes().saturating_mul(1_000_000).checked_div(rate)?;
            // While this machine looks what is on the disk, nobody is slow.
            let is_asked = want.is_resumed || !other.questions.is_empty();
            let is_worth_it = left_us >= limits::BLOB_TAKEOVER_US && is_asked;
            (is_slow && is_worth_it && peer.may_have(blob)).then_some((left_us, *blob, from))
        });
        let (_, blob, from) = slow.max()?;
        self.fail(from, Fault::Slow, true);
        Some(blob)
    }

    /// Asks a holder for as many pieces as may be under way.
    fn ask(&mut self, node: NodeId) {
        while let Some((blob, index)) = self.next_piece(node) {
            self.send(node, ToHolder::Piece { blob, index });
        }
    }

    /// Returns the piece for which a holder is to be asked now, if there is one.
    fn next_piece(&self, node: NodeId) -> Option<(Digest, u32)> {
        let peer = self.holders.get(&node).filter(|peer| peer.link == Link::Open)?;
        let blob = peer.task.as_ref()?.blob;
        let want = self.wants.get(&blob).filter(|want| want.is_resumed)?;
        // A task begins when nothing is asked any more, so all questions are of this one.
        let next = want.received.saturating_add(peer.questions.len() as u64);
        let own = next.saturating_sub(want.written);
        let most = limits::BLOB_PIECES_ASKED as u64;
        if next >= want.asked_count()? || own >= most {
            return None;
        }
        // Pieces that a slow disk has not taken are bounded over all blobs.
        let unwritten = self.wants.values().map(|want| want.received.saturating_sub(want.written));
        let asked = self.holders.iter().filter(|(_, peer)| peer.task.is_some());
        let asked = asked.map(|(_, peer)| peer.questions.len() as u64);
        let all = unwritten.chain(asked).fold(0, u64::saturating_add);
        let fits = all < most.saturating_mul(limits::BLOB_HOLDERS as u64);
        // default: a blob has no more pieces than a u32 counts: its outline would be no frame
        Some((blob, u32::try_from(next).ok().filter(|_| fits)?))
    }
}
