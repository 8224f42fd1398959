//! Bounds the bytes of frames that are held for peers: those of frames that have begun and not
//! ended, and those of frames that nobody has taken up yet.
//!
//! Memory is counted as bytes come, not as lengths announce it. One peer may hold
//! [`limits::FLIGHT_PEER_BYTES`] over all its links. When all together hold
//! [`limits::FLIGHT_BYTES`], the link with the most bytes in an unfinished frame is given up:
//! whoever sends little, and sends it whole, is never the one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::NodeId;
use super::held::Held;
use crate::limits;

/// The bytes of all links of an endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Flight(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    held: Held,
    links: BTreeMap<u64, Load>,
    next_link: u64,
}

#[derive(Debug)]
struct Load {
    peer: NodeId,
    /// Bytes of the frame that has begun and not ended.
    unfinished: usize,
    given_up: bool,
    alarm: Arc<Notify>,
}

/// The error that there is no room for more bytes of unfinished frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Flight {
    /// Begins to count the bytes of a new link.
    pub(super) fn link(&self, peer: NodeId) -> Cargo {
        let mut state = self.lock();
        let link = state.next_link;
        state.next_link += 1;
        let alarm = Arc::new(Notify::new());
        let load = Load { peer, unfinished: 0, given_up: false, alarm: Arc::clone(&alarm) };
        state.links.insert(link, load);
        Cargo { flight: self.clone(), link, peer, alarm }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of bytes held for all peers.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.lock().held.all()
    }
}

impl State {
    /// Gives up the link with the largest unfinished frame; what it held counts no more.
    fn give_up_largest(&mut self) -> bool {
        let largest = self.links.values_mut().max_by_key(|load| load.unfinished);
        let Some(load) = largest.filter(|load| load.unfinished > 0) else { return false };
        let (peer, bytes) = (load.peer, std::mem::take(&mut load.unfinished));
        load.given_up = true;
        load.alarm.notify_one();
        self.held.give(peer, bytes);
        true
    }
}

/// The count of the bytes that one link holds.
#[derive(Debug)]
pub(super) struct Cargo {
    flight: Flight,
    link: u64,
    peer: NodeId,
    alarm: Arc<Notify>,
}

impl Cargo {
    /// Counts `bytes` more bytes of the frame that is being received, or fails if there is no room.
    pub(super) fn add(&self, bytes: usize) -> Result<(), Full> {
        let mut state = self.flight.lock();
        let of_peer = state.held.of(&self.peer);
        if of_peer + bytes > limits::FLIGHT_PEER_BYTES || self.is_given_up(&state) {
            return Err(Full);
        }
        while state.held.all() + bytes > limits::FLIGHT_BYTES {
            if !state.give_up_largest() || self.is_given_up(&state) {
                return Err(Full);
            }
        }
        state.held.take(self.peer, bytes);
        if let Some(load) = state.links.get_mut(&self.link) {
            load.unfinished += bytes;
        }
        Ok(())
    }

    fn is_given_up(&self, state: &State) -> bool {
        state.links.get(&self.link).is_none_or(|load| load.given_up)
    }

    /// Ends the frame that is being received; its bytes count until the returned value is dropped.
    pub(super) fn whole(&self, frame: Bytes) -> Bytes {
        let mut state = self.flight.lock();
        let unfinished = state.links.get_mut(&self.link).map(|load| &mut load.unfinished);
        let bytes = unfinished.map_or(0, std::mem::take);
        if bytes == 0 {
            return frame;
        }
        let flight = self.flight.clone();
        Bytes::from_owner(Whole { frame, flight, peer: self.peer, bytes })
    }

    /// Waits until this link is given up for others.
    pub(super) async fn given_up(&self) {
        self.alarm.notified().await;
    }
}

impl Drop for Cargo {
    fn drop(&mut self) {
        let mut state = self.flight.lock();
        if let Some(load) = state.links.remove(&self.link) {
            state.held.give(self.peer, load.unfinished);
        }
    }
}

/// A frame that nobody has taken up yet.
struct Whole {
    frame: Bytes,
    flight: Flight,
    peer: NodeId,
    bytes: usize,
}

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.flight.lock().held.give(self.peer, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn node(number: usize) -> NodeId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        NodeId(id)
    }

    #[test]
    fn a_peer_holds_no_more_than_its_part_however_many_links_it_has() {
        let flight = Flight::default();
        let links: Vec<Cargo> = (0..100).map(|_| flight.link(node(1))).collect();
        let taken = links.iter().filter(|link| link.add(MIB).is_ok()).count();
        assert_eq!(taken * MIB, limits::FLIGHT_PEER_BYTES);
        let other = flight.link(node(2));
        assert_eq!(other.add(MIB), Ok(()));
        drop(links);
        assert_eq!(flight.held(), MIB);
    }

    #[test]
    fn when_all_is_taken_the_largest_unfinished_frame_goes_and_small_ones_come_through() {
        let flight = Flight::default();
        let most = limits::FLIGHT_BYTES / (8 * MIB);
        let hoard: Vec<Cargo> = (0..2 * most).map(|number| flight.link(node(number))).collect();
        for link in &hoard {
            // The last ones give up the first ones.
            link.add(8 * MIB).expect("others go");
            assert!(flight.held() <= limits::FLIGHT_BYTES);
        }
        let honest = flight.link(node(9999));
        for _ in 0..100 {
            honest.add(4096).expect("there is room for small frames");
            let frame = honest.whole(Bytes::from(vec![1; 4096]));
            assert_eq!(frame.len(), 4096);
        }
        let lost = hoard.iter().filter(|link| link.add(0).is_err()).count();
        assert_eq!(lost, most + 1);
    }

    #[test]
    fn bytes_count_until_their_frame_is_dropped() {
        let flight = Flight::default();
        let link = flight.link(node(1));
        link.add(1000).expect("room");
        let frame = link.whole(Bytes::from(vec![7; 1000]));
        drop(link);
        assert_eq!(flight.held(), 1000);
        let body: Vec<u8> = frame.into();
        assert_eq!((body.len(), flight.held()), (1000, 0));
    }

    #[tokio::test]
    async fn a_link_that_is_given_up_hears_of_it() {
        let flight = Flight::default();
        let hoard: Vec<Cargo> = (0..limits::FLIGHT_BYTES / MIB)
            .map(|number| flight.link(node(number)))
            .inspect(|link| link.add(MIB).expect("room"))
            .collect();
        let honest = flight.link(node(9999));
        honest.add(1).expect("one of the others goes");
        let gone = hoard.iter().position(|link| link.add(0).is_err()).expect("one is gone");
        hoard[gone].given_up().await;
    }
}
