//! Bounds the bytes of frames that wait for peers to take them: those in send queues, and those
//! that the socket keeps until they have arrived.
//!
//! For one peer there may be [`limits::UNREAD_PEER_BYTES`], over all its links: a frame beyond that
//! is refused. When there are [`limits::UNREAD_BYTES`] for all together, the link for which most
//! bytes wait is given up: whoever reads what it is sent is never the one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::held::Held;
use super::{LinkFailure, NodeId};
use crate::limits;

/// The bytes that wait on all links of an endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Unread(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    held: Held,
    links: BTreeMap<u64, Load>,
    next_link: u64,
}

type GiveUp = Box<dyn FnOnce() + Send>;

struct Load {
    peer: NodeId,
    held: usize,
    /// The function that ends the link; `None` once it has been called, or when all senders are
    /// gone.
    give_up: Option<GiveUp>,
    is_given_up: bool,
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { peer, held, .. } = self;
        f.debug_struct("Load").field("peer", peer).field("held", held).finish_non_exhaustive()
    }
}

impl Unread {
    /// Counts a new link, which `give_up` ends.
    pub(super) fn link(&self, peer: NodeId, give_up: impl FnOnce() + Send + 'static) -> Outbox {
        let mut state = self.lock();
        let link = state.next_link;
        state.next_link += 1;
        let give_up: Option<GiveUp> = Some(Box::new(give_up));
        state.links.insert(link, Load { peer, held: 0, give_up, is_given_up: false });
        Outbox(Arc::new(Counted { unread: self.clone(), link, peer }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of bytes that wait for all peers.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.lock().held.all()
    }
}

impl State {
    /// Gives up the link for which most bytes wait; they count no more. Says what ends it.
    fn give_up_largest(&mut self) -> Option<GiveUp> {
        let largest = self.links.values_mut().max_by_key(|load| load.held);
        let load = largest.filter(|load| load.held > 0)?;
        let (peer, bytes) = (load.peer, std::mem::take(&mut load.held));
        load.is_given_up = true;
        let give_up = load.give_up.take();
        self.held.give(peer, bytes);
        Some(give_up.unwrap_or_else(|| Box::new(|| ())))
    }

    /// Counts a frame, if there is room; collects what ends the links that go for it.
    fn load(
        &mut self,
        (link, peer): (u64, NodeId),
        cost: usize,
        ends: &mut Vec<GiveUp>,
    ) -> Result<(), LinkFailure> {
        let is_given_up = |state: &Self| state.links.get(&link).is_none_or(|load| load.is_given_up);
        let of_peer = self.held.of(&peer);
        if is_given_up(self) {
            return Err(LinkFailure::Crowded);
        }
        if of_peer + cost > limits::UNREAD_PEER_BYTES {
            return Err(LinkFailure::Unread { cap: limits::UNREAD_PEER_BYTES });
        }
        while self.held.all() + cost > limits::UNREAD_BYTES {
            ends.push(self.give_up_largest().ok_or(LinkFailure::Crowded)?);
            if is_given_up(self) {
                return Err(LinkFailure::Crowded);
            }
        }
        self.held.take(peer, cost);
        if let Some(load) = self.links.get_mut(&link) {
            load.held += cost;
        }
        Ok(())
    }

    /// Forgets a link that has no sender any more and for which nothing waits.
    fn forget(&mut self, link: u64) {
        let over = |load: &Load| load.held == 0 && load.give_up.is_none();
        if self.links.get(&link).is_some_and(over) {
            self.links.remove(&link);
        }
    }
}

/// The count of the bytes that wait on one link. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Outbox(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    unread: Unread,
    link: u64,
    peer: NodeId,
}

impl Outbox {
    /// Counts a frame at this cost, until it is dropped: when the peer has it.
    ///
    /// # Errors
    /// [`LinkFailure::Unread`] leaves the link as it was; [`LinkFailure::Crowded`] says that it has
    /// been given up.
    pub(super) fn load(&self, frame: Bytes, cost: usize) -> Result<Bytes, LinkFailure> {
        let Counted { unread, link, peer } = &*self.0;
        let mut ends = Vec::new();
        let loaded = unread.lock().load((*link, *peer), cost, &mut ends);
        // Whoever ends a link may come back here, so the lock is free by now.
        ends.into_iter().for_each(|end| end());
        loaded?;
        let (unread, link, peer) = (unread.clone(), *link, *peer);
        Ok(Bytes::from_owner(Parcel { frame, unread, link, peer, cost }))
    }
}

impl Drop for Counted {
    /// Notes that the link has no sender any more; the bytes that wait still count.
    fn drop(&mut self) {
        let mut state = self.unread.lock();
        let give_up = state.links.get_mut(&self.link).and_then(|load| load.give_up.take());
        state.forget(self.link);
        drop(state);
        drop(give_up);
    }
}

/// A frame that the peer has not got yet.
struct Parcel {
    frame: Bytes,
    unread: Unread,
    link: u64,
    peer: NodeId,
    cost: usize,
}

impl AsRef<[u8]> for Parcel {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        let mut state = self.unread.lock();
        let load = state.links.get_mut(&self.link).filter(|load| !load.is_given_up);
        // What waits on a link that was given up counts no more.
        if let Some(load) = load {
            load.held = load.held.saturating_sub(self.cost);
            state.held.give(self.peer, self.cost);
        }
        state.forget(self.link);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const MIB: usize = 1 << 20;

    fn node(number: usize) -> NodeId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        NodeId(id)
    }

    fn frame() -> Bytes {
        Bytes::from_static(b"a frame")
    }

    #[test]
    fn for_a_peer_no_more_waits_than_its_part_however_many_links_it_has() {
        let unread = Unread::default();
        let links: Vec<Outbox> = (0..200).map(|_| unread.link(node(1), || ())).collect();
        let mut waiting: Vec<Bytes> =
            links.iter().filter_map(|link| link.load(frame(), MIB).ok()).collect();
        assert_eq!(waiting.len() * MIB, limits::UNREAD_PEER_BYTES);
        let refused = links[0].load(frame(), 1).expect_err("full");
        assert_eq!(refused, LinkFailure::Unread { cap: limits::UNREAD_PEER_BYTES });
        let other = unread.link(node(2), || ());
        waiting.push(other.load(frame(), MIB).expect("room for others"));
        // It reads: there is room again.
        drop(waiting.remove(0));
        waiting.push(links[0].load(frame(), MIB).expect("room again"));
        drop((links, other));
        assert_eq!(unread.held(), limits::UNREAD_PEER_BYTES + MIB, "it waits all the same");
        drop(waiting);
        assert_eq!(unread.held(), 0);
        assert!(unread.lock().links.is_empty() && unread.lock().held.is_empty());
    }

    #[test]
    fn when_all_is_taken_the_link_for_which_most_waits_is_given_up() {
        let unread = Unread::default();
        let ended = Arc::new(AtomicUsize::new(0));
        let count = || {
            let ended = Arc::clone(&ended);
            move || {
                ended.fetch_add(1, Ordering::Relaxed);
            }
        };
        let most = limits::UNREAD_BYTES / (8 * MIB);
        let mut waiting = Vec::new();
        let hoard: Vec<Outbox> =
            (0..2 * most).map(|number| unread.link(node(number), count())).collect();
        for link in &hoard {
            waiting.push(link.load(frame(), 8 * MIB).expect("others go"));
            assert!(unread.held() <= limits::UNREAD_BYTES);
        }
        assert_eq!(ended.load(Ordering::Relaxed), most);
        let honest = unread.link(node(9999), || panic!("it reads"));
        for _ in 0..100 {
            // Gone as soon as it is sent.
            honest.load(frame(), MIB).expect("there is room for whoever reads");
        }
        let lost = hoard.iter().filter(|link| link.load(frame(), 0).is_err()).count();
        assert_eq!(lost, most + 1);
        drop((waiting, hoard, honest));
        assert_eq!((unread.held(), unread.lock().links.len()), (0, 0));
    }

    #[test]
    fn a_link_that_is_given_up_after_its_senders_are_gone_is_forgotten() {
        let unread = Unread::default();
        let gone = unread.link(node(0), || ());
        let mut waiting = vec![gone.load(frame(), 16 * MIB).expect("room")];
        drop(gone);
        let others: Vec<Outbox> = (1..64).map(|number| unread.link(node(number), || ())).collect();
        for link in &others {
            waiting.push(link.load(frame(), 8 * MIB).expect("the largest goes"));
        }
        drop((waiting, others));
        assert_eq!((unread.held(), unread.lock().links.len()), (0, 0));
    }

    #[test]
    fn a_link_that_has_most_itself_goes_for_its_own_next_frame() {
        let unread = Unread::default();
        let hoard: Vec<Outbox> = (0..8).map(|number| unread.link(node(number), || ())).collect();
        let each = limits::UNREAD_BYTES / 8;
        let _waiting: Vec<Bytes> =
            hoard.iter().map(|link| link.load(frame(), each - 1).expect("room")).collect();
        let _more = hoard[2].load(frame(), 4).expect("room");
        assert_eq!(hoard[2].load(frame(), 5), Err(LinkFailure::Crowded));
        assert!(hoard[1].load(frame(), 1).is_ok(), "there is room for the others now");
    }
}
