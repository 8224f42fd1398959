//! Requests that wait for a place, because all are taken: who is next, and for how long.
//!
//! Clients take turns by their weights, however many requests each has here, and are charged for
//! the pages of keys and values that each takes ([`crate::fair`]). A request waits for
//! [`limits::WAIT_US`] at most, and only if by the pace at which sessions have ended its turn is to
//! be expected until then; otherwise it is refused at once, with the time after which it is worth
//! asking again. What waits is bounded for each client, in all, and in bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_verify::request::Request;
use lockstep_verify::sign::NodeId;

use super::LinkId;
use super::seat::Seat;
use crate::fair::{Account, Fair, Place};
use crate::limits;
use crate::now::Now;

/// A request that was checked and has no place yet.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) link: LinkId,
    /// The node id of the client.
    pub(super) client: NodeId,
    pub(super) request: Arc<Request>,
    pub(super) seat: Seat,
    /// When it is refused, if it has no place until then.
    pub(super) deadline: Now,
}

impl Candidate {
    /// Returns about how many bytes of memory it takes.
    fn bytes(&self) -> u64 {
        (self.request.prompt.len() as u64)
            .saturating_mul(4)
            .saturating_add(limits::WAITING_OWN_BYTES)
    }
}

/// The requests that wait for a place.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: Fair<Candidate>,
    places: BTreeMap<Digest, Place>,
    bytes: u64,
    reserve: Reserve,
}

/// The room that is kept for the request whose turn it is and that does not fit yet: since when,
/// and for how long others that would fit have been held back by that.
#[derive(Clone, Copy, Debug, Default)]
struct Reserve {
    /// That request, and since when it is its turn.
    head: Option<(Digest, Now)>,
    /// Since when somebody is held back.
    holding: Option<Now>,
    /// Until when no room is kept, because somebody was held back for as long before.
    open_until: Now,
}

impl Reserve {
    /// Returns until when somebody is held back at most, if anybody is.
    fn until(self) -> Option<Now> {
        self.holding.map(|since| since.after(limits::RESERVE_US))
    }

    /// Notes at the time `now` which request does not fit, and returns since when room is kept for
    /// it.
    fn head(&mut self, head: Option<Digest>, now: Now) -> Option<Now> {
        if self.head.map(|(session, _)| session) != head {
            self.head = head.map(|session| (session, now));
        }
        let is_open = now < self.open_until;
        self.head.filter(|_| !is_open).map(|(_, since)| since)
    }

    /// Notes at the time `now` whether somebody is held back, and returns whether that is over now.
    fn note(&mut self, holds_back: bool, now: Now) -> bool {
        if holds_back {
            self.holding.get_or_insert(now);
        }
        let is_over = !holds_back || self.until().is_some_and(|until| until <= now);
        let since = self.holding.take_if(|_| is_over);
        if let Some(since) = since {
            self.open_until = now.after(now.since(since));
        }
        holds_back && since.is_some()
    }
}

impl Waiting {
    /// Returns whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Returns how many requests wait.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Returns whether a request with this name waits.
    pub(super) fn holds(&self, session: &Digest) -> bool {
        self.places.contains_key(session)
    }

    /// Puts a request behind all others of its client, on whose account it waits.
    pub(super) fn push(&mut self, candidate: Candidate) {
        self.bytes = self.bytes.saturating_add(candidate.bytes());
        let (session, account) = (candidate.seat.session(), candidate.seat.account());
        let pages = candidate.seat.kv_pages().max(1);
        let place = self.queue.push(account, pages, candidate);
        self.places.insert(session, place);
    }

    /// Returns a request that waits.
    pub(super) fn get(&self, session: &Digest) -> Option<&Candidate> {
        self.queue.get(*self.places.get(session)?)
    }

    /// Notes at the time `now` which request is the first that does not fit, and returns since when
    /// room is kept for it; `None` while none is kept.
    pub(super) fn head(&mut self, head: Option<Digest>, now: Now) -> Option<Now> {
        self.reserve.head(head, now)
    }

    /// Notes at the time `now` whether a request that would fit is held back by that, and returns
    /// whether it is not any more: then no room is kept for a while.
    pub(super) fn note(&mut self, holds_back: bool, now: Now) -> bool {
        self.reserve.note(holds_back, now)
    }

    /// Returns until when room is kept for a request that does not fit, if it is.
    pub(super) fn reserved_until(&self) -> Option<Now> {
        self.reserve.until()
    }

    /// Returns whether one more request of a client's account may wait beside those that do.
    pub(super) fn has_room(&self, account: &Account) -> bool {
        self.places.len() <= limits::WAITING
            && self.queue.of_client(account).count() <= limits::WAITING_OF_CLIENT
            && self.bytes <= limits::WAITING_BYTES
    }

    /// Returns the requests in the order in which it is their turn.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Candidate> {
        self.queue.in_order().map(|(_, candidate, _)| candidate)
    }

    /// Takes out a request that gets its place, for which its client is charged.
    pub(super) fn take(&mut self, session: &Digest) -> Option<Candidate> {
        let place = self.places.remove(session)?;
        let candidate = self.queue.take(place);
        self.forget(candidate)
    }

    /// Takes out a request that gets no place.
    pub(super) fn remove(&mut self, session: &Digest) -> Option<Candidate> {
        let place = self.places.remove(session)?;
        let candidate = self.queue.remove(place);
        self.forget(candidate)
    }

    fn forget(&mut self, candidate: Option<Candidate>) -> Option<Candidate> {
        let bytes = candidate.as_ref().map_or(0, Candidate::bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        candidate
    }

    /// Returns the names of the requests for which something is true.
    pub(super) fn which(&self, is_so: impl Fn(&Candidate) -> bool) -> Vec<Digest> {
        self.in_order().filter(|one| is_so(one)).map(|one| one.seat.session()).collect()
    }

    /// Returns the time at which the first request is refused, or one may begin because no room is
    /// kept any more.
    pub(super) fn deadline(&self) -> Option<Now> {
        let refused = self.in_order().map(|candidate| candidate.deadline).min()?;
        Some(self.reserve.until().map_or(refused, |until| until.min(refused)))
    }
}

/// How long sessions take at this server, from their beginning to their end: a mean in which the
/// last ones count most.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    mean_us: Option<u64>,
}

impl Pace {
    /// Notes that a session has ended which took so long.
    pub(super) fn ended(&mut self, took_us: u64) {
        // default: the first one is the mean of itself
        let mean = self.mean_us.unwrap_or(took_us);
        let seven_eighths = mean.saturating_sub(mean >> 3);
        self.mean_us = Some(seven_eighths.saturating_add(took_us >> 3));
    }

    /// Returns in which time one of the sessions under way, which have lasted for `ages` so far, is
    /// to be expected to end, `turns` times one after another. They are taken to last as long as
    /// those that have ended, or as long again as they have on average, if that is longer or none
    /// has ended.
    pub(super) fn wait_us(&self, ages: &[u64], turns: usize) -> u64 {
        let sessions = ages.len().max(1) as u128;
        let lasted: u128 = ages.iter().copied().map(u128::from).sum();
        // default: as the comment says
        let average = lasted.checked_div(sessions).unwrap_or(0);
        let one = average.max(self.mean_us.map_or(0, u128::from));
        let all = one.saturating_mul(turns as u128);
        // default: nobody waits longer than that
        let wait = all.checked_div(sessions).unwrap_or(all);
        // default: as above
        u64::try_from(wait).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use lockstep_exact::sample::{Sampling, Stops};
    use lockstep_verify::request::{Hop, Lease};
    use lockstep_verify::sign::Signature;
    use lockstep_verify::statement::RunId;

    use super::*;
    use crate::fair::Weight;
    use crate::frame::Tenant;

    const NODE: NodeId = NodeId([7; 32]);

    fn request(tokens: usize) -> Arc<Request> {
        Arc::new(Request {
            manifest: Digest::ZERO,
            adapters: Vec::new(),
            prompt: vec![0; tokens],
            sampling: Sampling::default(),
            stops: Stops::default(),
            nonce: [0; 32],
            session_key: NODE,
            audit_commitment: Digest::ZERO,
        })
    }

    fn candidate(number: u8, request: &Arc<Request>) -> Candidate {
        let lease = Lease {
            session: Digest([number; 32]),
            epoch: 0,
            manifest: Digest::ZERO,
            adapters: Vec::new(),
            reuse: None,
            session_key: NODE,
            prompt_len: 1,
            max_positions: 2,
            route: vec![Hop { node: NODE, first: 0, end: 1 }],
            addresses: Vec::new(),
            signature: Signature::NONE,
        };
        let tenant = Tenant { label: number.into(), weight: Weight::ONE };
        let seat = Seat::find(Arc::new(lease), NODE, 32, (Digest::ZERO, RunId::NONE), tenant);
        let (seat, request) = (seat.unwrap(), Arc::clone(request));
        Candidate { link: LinkId(0), client: NODE, request, seat, deadline: Now(0) }
    }

    #[test]
    fn the_bytes_of_what_waits_are_bounded() {
        let mut waiting = Waiting::default();
        let request = request(1 << 20);
        let fit = u8::try_from(limits::WAITING_BYTES >> 22).unwrap() - 1;
        let other = candidate(255, &request).seat.account();
        for number in 0..=fit {
            assert!(waiting.has_room(&other), "{number}");
            waiting.push(candidate(number, &request));
        }
        assert!(!waiting.has_room(&other));
        assert!(waiting.remove(&Digest([0; 32])).is_some());
        assert!(waiting.has_room(&other));
        (1..=fit).for_each(|number| assert!(waiting.take(&Digest([number; 32])).is_some()));
        assert!(waiting.is_empty() && waiting.bytes == 0);
    }

    #[test]
    fn requests_are_held_back_half_of_the_time_whatever_comes_and_goes() {
        let mut reserve = Reserve::default();
        let (mut held_us, step) = (0, limits::RESERVE_US / 50);
        // One after the other does not fit, and now and then nobody is held back by it.
        for turn in 0..10_000_u64 {
            let now = Now(turn * step);
            let head = Digest([u8::try_from(turn % 251).unwrap(); 32]);
            let is_kept = reserve.head(Some(head), now).is_some();
            let holds_back = is_kept && turn % 7 != 3 && turn % 11 != 5;
            let is_over = reserve.note(holds_back, now);
            assert!(!is_over || reserve.head(Some(head), now).is_none());
            held_us += if holds_back && !is_over { step } else { 0 };
            assert!(held_us <= turn * step / 2 + limits::RESERVE_US, "turn {turn}");
        }
        assert!(held_us > 10_000 * step / 4, "next to nobody is held back");
        let (mut reserve, head) = (Reserve::default(), Some(Digest::ZERO));
        let at = |us| Now(1_000_000 + us);
        assert_eq!(reserve.head(head, at(0)), Some(at(0)));
        assert!(!reserve.note(true, at(5)) && !reserve.note(true, at(4 + limits::RESERVE_US)));
        assert!(reserve.note(true, at(5 + limits::RESERVE_US)));
        assert_eq!(reserve.head(head, at(4 + 2 * limits::RESERVE_US)), None);
        assert_eq!(reserve.head(head, at(5 + 2 * limits::RESERVE_US)), Some(at(0)));
    }

    #[test]
    fn the_wait_follows_from_the_queue_and_the_pace_of_sessions() {
        let mut pace = Pace::default();
        assert_eq!(pace.wait_us(&[6_000, 6_000, 8_000, 4_000], 2), 3_000, "as long as so far");
        pace.ended(8_000);
        assert_eq!(pace.wait_us(&[0; 4], 1), 2_000);
        assert_eq!(pace.wait_us(&[4_000; 4], 6), 12_000);
        assert_eq!(pace.wait_us(&[16_000; 4], 6), 24_000, "they have lasted longer than others");
        for _ in 0..100 {
            pace.ended(800_000);
        }
        let wait = pace.wait_us(&[0], 1);
        assert!((799_000..=800_000).contains(&wait), "{wait}: the last ones count");
        assert_eq!(pace.wait_us(&[], 1), wait, "without sessions: as one");
        pace.ended(u64::MAX);
        assert_eq!(pace.wait_us(&[0], usize::MAX), u64::MAX);
    }
}
