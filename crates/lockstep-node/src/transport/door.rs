//! Admission of connections: handshakes and links, counted by source and by peer, so that nobody
//! keeps others out.
//!
//! A *source* is what can be told of somebody before it has proved a name: its IP address (of IPv6
//! the first 64 bits). When there are too many handshakes, the oldest one of the source with the
//! most goes, because an honest one takes a moment; when half the places are taken, sources must
//! first show that they are where they say. When there are too many links, one goes on which
//! nothing was said for some time, if there is one; otherwise the newcomer is told that this node
//! is busy.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::NodeId;
use crate::limits;

/// The source of a connection: an IPv4 address, or the first 64 bits of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source(IpAddr);

impl Source {
    /// Returns the source of an address; addresses that are none have one source together.
    pub(crate) fn of(addr: Option<SocketAddr>) -> Self {
        Self(match addr.map(|addr| addr.ip().to_canonical()) {
            Some(IpAddr::V6(ip)) => {
                let prefix = ip.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(prefix.into())
            }
            Some(ip @ IpAddr::V4(_)) => ip,
            None => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        })
    }
}

/// Everybody who is coming in or is in.
#[derive(Clone, Debug)]
pub(super) struct Door {
    started: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    knocks: BTreeMap<u64, Knock>,
    guests: BTreeMap<u64, Guest>,
}

/// A handshake under way. Numbers count up, so the lowest is the oldest.
#[derive(Debug)]
struct Knock {
    source: Source,
    task: Option<AbortHandle>,
}

/// A link that another node has opened to this one.
struct Guest {
    peer: NodeId,
    source: Source,
    /// When something was last said on it, in milliseconds since the door was made.
    said_ms: Arc<AtomicU64>,
    close: Box<dyn Fn() + Send>,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("source", &self.source).finish_non_exhaustive()
    }
}

/// A place among the handshakes, until it is dropped.
#[derive(Debug)]
pub(super) struct KnockPlace {
    door: Door,
    number: u64,
}

/// A link's place among those that came in, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    door: Door,
    number: u64,
    pulse: Pulse,
}

/// Tells the door that something was said on a link.
#[derive(Clone, Debug)]
pub(super) struct Pulse {
    started: Instant,
    said_ms: Arc<AtomicU64>,
}

impl Pulse {
    /// Notes that a frame has come or gone, so that the link is not quiet. A frame of a single byte
    /// is a heartbeat and does not count.
    pub(super) fn frame(&self, len: usize) {
        if len > 1 {
            self.said_ms.store(millis(self.started), Ordering::Relaxed);
        }
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Which links count, and how many of them there may be.
type Bound<'a> = (&'a dyn Fn(&Guest) -> bool, usize);

impl Door {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), state: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether so many handshakes are under way that a source must first show that it
    /// receives what is sent to it.
    pub(super) fn is_crowded(&self) -> bool {
        2 * self.lock().knocks.len() >= limits::HANDSHAKES
    }

    /// Returns a place for a new handshake; the oldest of those that take too many goes for it.
    pub(super) fn knock(&self, source: Source) -> KnockPlace {
        let mut state = self.lock();
        let is_his = |knock: &&Knock| knock.source == source;
        if state.knocks.values().filter(is_his).count() >= limits::HANDSHAKES_OF_SOURCE {
            state.turn_away_oldest(source);
        }
        if state.knocks.len() >= limits::HANDSHAKES {
            let most = state.most_frequent();
            state.turn_away_oldest(most.unwrap_or(source));
        }
        let number = state.next;
        state.next += 1;
        state.knocks.insert(number, Knock { source, task: None });
        KnockPlace { door: self.clone(), number }
    }

    /// Names the task that does a handshake: it is ended when the place is needed.
    pub(super) fn is_done_by(&self, number: u64, task: AbortHandle) {
        match self.lock().knocks.get_mut(&number) {
            Some(knock) => knock.task = Some(task),
            // It was turned away before its task was known, or is done.
            None => task.abort(),
        }
    }

    /// Returns a place for a link that has been greeted. `close` ends the link when it has to go.
    pub(super) fn enter(
        &self,
        peer: NodeId,
        source: Source,
        close: impl Fn() + Send + 'static,
    ) -> Option<Place> {
        let mut state = self.lock();
        let now = millis(self.started);
        let of_peer = |guest: &Guest| guest.peer == peer;
        let of_source = |guest: &Guest| guest.source == source;
        let all = |_: &Guest| true;
        let bounds: [Bound<'_>; 3] = [
            (&of_peer, limits::LINKS_OF_PEER),
            (&of_source, limits::LINKS_OF_SOURCE),
            (&all, limits::INCOMING_LINKS),
        ];
        for (counts, most) in bounds {
            if state.guests.values().filter(|guest| counts(guest)).count() >= most {
                state.show_out(now, counts)?;
            }
        }
        let number = state.next;
        state.next += 1;
        let said_ms = Arc::new(AtomicU64::new(now));
        let pulse = Pulse { started: self.started, said_ms: Arc::clone(&said_ms) };
        let guest = Guest { peer, source, said_ms, close: Box::new(close) };
        state.guests.insert(number, guest);
        Some(Place { door: self.clone(), number, pulse })
    }
}

impl State {
    fn most_frequent(&self) -> Option<Source> {
        let mut counts: BTreeMap<Source, usize> = BTreeMap::new();
        for knock in self.knocks.values() {
            *counts.entry(knock.source).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(source, _)| source)
    }

    fn turn_away_oldest(&mut self, source: Source) {
        let mut his = self.knocks.iter().filter(|(_, knock)| knock.source == source);
        if let Some((&oldest, _)) = his.next()
            && let Some(Knock { task: Some(task), .. }) = self.knocks.remove(&oldest)
        {
            task.abort();
        }
    }

    /// Closes the link of those that count on which nothing was said for longest, if that is long.
    fn show_out(&mut self, now: u64, counts: &dyn Fn(&Guest) -> bool) -> Option<()> {
        let said = |guest: &Guest| guest.said_ms.load(Ordering::Relaxed);
        let theirs = self.guests.iter().filter(|(_, guest)| counts(guest));
        let (&quietest, _) = theirs.min_by_key(|(number, guest)| (said(guest), **number))?;
        let patience = u64::try_from(limits::QUIET_LINK.as_millis()).unwrap_or(u64::MAX);
        let is_quiet = self.guests.get(&quietest).map(|guest| now.saturating_sub(said(guest)));
        if is_quiet.is_none_or(|quiet| quiet < patience) {
            return None;
        }
        let guest = self.guests.remove(&quietest)?;
        (guest.close)();
        Some(())
    }
}

impl KnockPlace {
    /// Returns the number of the handshake.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for KnockPlace {
    fn drop(&mut self) {
        self.door.lock().knocks.remove(&self.number);
    }
}

impl Place {
    /// Returns the handle through which the frames of the link are noted.
    pub(super) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.lock().guests.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn source(last: u8) -> Source {
        Source::of(Some(SocketAddr::from(([10, 0, 0, last], 1))))
    }

    fn node(number: usize) -> NodeId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        NodeId(id)
    }

    #[test]
    fn sources_are_addresses_without_ports_and_networks_of_ipv6() {
        let of = |text: &str| Source::of(Some(text.parse().unwrap()));
        assert_eq!(of("10.0.0.1:1"), of("10.0.0.1:2"));
        assert_ne!(of("10.0.0.1:1"), of("10.0.0.2:1"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:2]:1"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_eq!(of("[::ffff:10.0.0.1]:1"), of("10.0.0.1:1"));
    }

    /// Knocks whose tasks never end by themselves.
    fn knock(door: &Door, source: Source) -> (KnockPlace, tokio::task::JoinHandle<()>) {
        let place = door.knock(source);
        let task = tokio::spawn(std::future::pending());
        door.is_done_by(place.number(), task.abort_handle());
        (place, task)
    }

    #[tokio::test]
    async fn the_oldest_handshake_of_the_source_with_the_most_goes_for_a_newcomer() {
        let door = Door::new();
        let silent: Vec<_> = (0..200).map(|_| knock(&door, source(1))).collect();
        assert_eq!(door.lock().knocks.len(), limits::HANDSHAKES_OF_SOURCE);
        let mut others: Vec<_> = (0..200).map(|n| knock(&door, source(2 + n % 100))).collect();
        assert!(door.lock().knocks.len() <= limits::HANDSHAKES);
        assert!(door.is_crowded());
        let (_newest, task) = others.pop().unwrap();
        tokio::task::yield_now().await;
        assert!(!task.is_finished(), "the newest is let in");
        assert!(silent[0].1.is_finished(), "the oldest is gone");
        drop((silent, others, _newest));
        assert_eq!(door.lock().knocks.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_peer_and_one_source_cannot_take_all_links() {
        let door = Door::new();
        let enter = |peer, source| door.enter(node(peer), source, || ());
        let his: Vec<_> =
            (0..limits::LINKS_OF_PEER).map(|_| enter(0, source(1)).unwrap()).collect();
        assert!(enter(0, source(1)).is_none(), "its share is taken, and all of it is fresh");
        let more = limits::LINKS_OF_SOURCE - limits::LINKS_OF_PEER;
        let same: Vec<_> = (1..=more).map(|peer| enter(peer, source(1)).unwrap()).collect();
        assert!(enter(9999, source(1)).is_none());
        assert!(enter(9999, source(2)).is_some());
        drop((his, same));
        assert!(enter(9999, source(1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_on_which_nothing_is_said_goes_for_a_newcomer_and_heartbeats_say_nothing() {
        let door = Door::new();
        let closed = Arc::new(AtomicU64::new(0));
        let enter = |peer: usize| {
            let closed = Arc::clone(&closed);
            let close = move || closed.store(peer as u64, Ordering::Relaxed);
            door.enter(node(peer), source(1), close)
        };
        let places: Vec<_> =
            (1..=limits::LINKS_OF_SOURCE).map(|peer| enter(peer).unwrap()).collect();
        tokio::time::advance(limits::QUIET_LINK - Duration::from_millis(1)).await;
        for (number, place) in places.iter().enumerate() {
            place.pulse().frame(if number == 7 { 1 } else { 100 });
        }
        assert!(enter(9999).is_none());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(enter(9999).is_some());
        assert_eq!(closed.load(Ordering::Relaxed), 8, "the one with heartbeats alone");
    }
}
