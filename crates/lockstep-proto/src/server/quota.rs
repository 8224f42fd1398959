//! What one peer and one client may hold of a server, so that nobody can take all of it.
//!
//! Places, pages, half-open sessions and what is kept for audits are counted twice: for the client,
//! and behind stage 0 also for the stage before, which brings the sessions of many clients. Whoever
//! holds nothing may take what is free; who holds something may hold at most its part of what the
//! others leave, so there is always something left for the next.
//!
//! Sessions that clients open here and those that stages before bring have places of their own:
//! rings of several servers 1 meet in a stage, and each of them has its places full at times.

use lockstep_verify::sign::NodeId;

use super::session::Session;
use crate::failure::Refusal;
use crate::limits;
use crate::server::Capacity;
use crate::server::seat::Seat;

/// The share of a server that a peer holds or asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Sessions that a client opened here, under way or not freed by the executor yet.
    pub(super) places: u64,
    /// The same of sessions that a stage before brought.
    pub(super) brought: u64,
    /// Sessions in which no step has come yet.
    pub(super) half_open: u64,
    /// The number of pages of keys and values.
    pub(super) pages: u64,
    /// Sessions that are kept for challenges, or will have to be.
    pub(super) kept: u64,
    /// The number of bytes of what is kept of them.
    pub(super) kept_bytes: u64,
}

impl Held {
    /// Returns what a new session asks for.
    pub(super) fn of_new(seat: &Seat) -> Self {
        Self {
            half_open: u64::from(seat.place > 0),
            ..Self::of_dropped(seat).plus(Self::of_kept(seat, seat.lease.max_positions))
        }
    }

    /// Returns what a session under way holds.
    pub(super) fn of_session(session: &Session) -> Self {
        let half_open = u64::from(session.is_half_open());
        Self { half_open, ..Self::of_new(&session.seat) }
    }

    /// Returns what a session holds that is over and that the executor has not freed yet.
    pub(super) fn of_dropped(seat: &Seat) -> Self {
        let is_brought = seat.place > 0;
        Self {
            places: u64::from(!is_brought),
            brought: u64::from(is_brought),
            pages: seat.kv_pages(),
            ..Self::default()
        }
    }

    /// Returns what a finished session with `positions` computed positions holds.
    pub(super) fn of_kept(seat: &Seat, positions: u32) -> Self {
        Self { kept: 1, kept_bytes: seat.kept_bytes(positions), ..Self::default() }
    }

    /// Returns the sum of both.
    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            places: self.places.saturating_add(other.places),
            brought: self.brought.saturating_add(other.brought),
            half_open: self.half_open.saturating_add(other.half_open),
            pages: self.pages.saturating_add(other.pages),
            kept: self.kept.saturating_add(other.kept),
            kept_bytes: self.kept_bytes.saturating_add(other.kept_bytes),
        }
    }
}

/// On whose account a session is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// The node that the transport authenticated: the client at stage 0, the stage before at any
    /// other.
    pub(super) peer: NodeId,
    /// The client, as that node tells it: stage 0 of the ring, and its label of the client. It
    /// counts together with the node alone, so nobody can hold anything in the name of another
    /// stage's client.
    client: (NodeId, u64),
}

impl Owner {
    /// Returns the owner of a session that `peer` brought.
    pub(super) fn of(peer: NodeId, seat: &Seat) -> Self {
        // default: a lease without stages has no seat
        let first = seat.lease.route.first().map_or(peer, |hop| hop.node);
        Self { peer, client: (first, seat.tenant.label) }
    }
}

/// What all hold of a server, and of that the peer and the client who ask for more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holdings {
    pub(super) all: Held,
    pub(super) of_peer: Held,
    pub(super) of_client: Held,
}

impl Holdings {
    /// Returns the sum of what is held, for one who asks.
    pub(super) fn of(owner: Owner, held: impl Iterator<Item = (Owner, Held)>) -> Self {
        held.fold(Self::default(), |sum, (other, held)| {
            let of_peer = if other.peer == owner.peer { held } else { Held::default() };
            let of_client = if other == owner { held } else { Held::default() };
            Self {
                all: sum.all.plus(held),
                of_peer: sum.of_peer.plus(of_peer),
                of_client: sum.of_client.plus(of_client),
            }
        })
    }
}

/// The part of what others leave that one peer may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The part of a client: a quarter of what others leave.
    Client,
    /// The stage before, which brings sessions of many clients and may be the only one that does:
    /// all but a quarter. Two that take what they can get come to three sevenths each.
    Stage,
}

impl Part {
    const fn of(self, left: u64) -> u64 {
        match self {
            Self::Client => left >> 2,
            Self::Stage => left.saturating_sub(left.div_ceil(4)),
        }
    }
}

/// A kind of what is held: its count, how many there are, what is said when none is left, and what
/// frees some.
type Kind = (fn(&Held) -> u64, u64, Refusal, Frees);

/// The event with which something is free again that there is none of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frees {
    /// The end of anybody's session.
    End,
    /// The end of one of the peer's own sessions.
    OwnEnd,
    /// The end of the time for which a finished session is kept.
    Expiry,
    /// The end of that time for one of the peer's own.
    OwnExpiry,
    /// Nothing: the session is larger than the server.
    Nothing,
    /// The end of the time for which room is kept for a request whose turn it is: for this one
    /// there would be room.
    Reserve,
}

/// What a server has no room for, and what will make some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) refusal: Refusal,
    pub(super) frees: Frees,
}

/// Returns everything of which a server has so much.
fn kinds(capacity: &Capacity) -> [Kind; 6] {
    [
        (|held| held.places, capacity.sessions as u64, Refusal::Busy, Frees::End),
        (|held| held.brought, capacity.brought() as u64, Refusal::Busy, Frees::End),
        (|held| held.half_open, capacity.half_open() as u64, Refusal::Busy, Frees::End),
        (|held| held.pages, u64::from(capacity.kv_pages), Refusal::NoRoom, Frees::End),
        (|held| held.kept, capacity.retained as u64, Refusal::CannotKeep, Frees::Expiry),
        (|held| held.kept_bytes, capacity.kept_bytes, Refusal::CannotKeep, Frees::Expiry),
    ]
}

/// Checks that a server has room for a session, beside what is held already, and that whoever asks
/// may have it.
///
/// # Errors
/// What there is no room for.
pub(super) fn admit(capacity: &Capacity, held: &Holdings, asked: Held) -> Result<(), Full> {
    room(capacity, held.all, asked)?;
    share(capacity, held, asked)
}

/// Checks that a server of which all together hold `all` has room for a session, whosever it is.
///
/// # Errors
/// What there is no room for.
pub(super) fn room(capacity: &Capacity, all: Held, asked: Held) -> Result<(), Full> {
    for (count, total, refusal, frees) in kinds(capacity) {
        let (all, asked) = (count(&all), count(&asked));
        if asked > 0 && all.saturating_add(asked) > total {
            let frees = if asked > total { Frees::Nothing } else { frees };
            return Err(Full { refusal, frees });
        }
    }
    Ok(())
}

/// Checks that the peer and the client that ask may hold a session more.
///
/// # Errors
/// Of what they would hold too much.
pub(super) fn share(capacity: &Capacity, held: &Holdings, asked: Held) -> Result<(), Full> {
    let of_client = (Part::Client, held.of_client);
    let of_stage = (asked.brought > 0).then_some((Part::Stage, held.of_peer));
    for (part, own) in [of_client].into_iter().chain(of_stage) {
        for (count, total, _, frees) in kinds(capacity) {
            let (all, own, asked) = (count(&held.all), count(&own), count(&asked));
            let left = total.saturating_sub(all.saturating_sub(own));
            if asked > 0 && own > 0 && own.saturating_add(asked) > part.of(left) {
                let is_kept = matches!(frees, Frees::Expiry);
                let frees = if is_kept { Frees::OwnExpiry } else { Frees::OwnEnd };
                return Err(Full { refusal: Refusal::PeerShare, frees });
            }
        }
    }
    Ok(())
}

impl Capacity {
    /// Returns the most sessions at once that stages before bring.
    #[must_use]
    pub const fn brought(&self) -> usize {
        self.sessions.saturating_mul(limits::BROUGHT_PER_PLACE)
    }

    /// Sessions in which no step has come yet, at most: half of the places for those that are
    /// brought.
    const fn half_open(&self) -> usize {
        self.brought().div_ceil(2)
    }
}

/// Checks that one more challenge of a peer may wait when `waiting` challenges of it wait already.
///
/// # Errors
/// [`Refusal::TooManyWaiting`].
pub(super) const fn admit_challenge(waiting: usize) -> Result<(), Refusal> {
    if waiting >= limits::CHALLENGES_WAITING_OF_PEER {
        return Err(Refusal::TooManyWaiting);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity = Capacity {
        sessions: 8,
        retained: 8,
        retention_us: 1,
        kv_pages: 8,
        kept_bytes: 800,
        batch_positions: limits::BATCH_POSITIONS,
    };

    const ONE: Held =
        Held { places: 1, brought: 0, half_open: 0, pages: 1, kept: 1, kept_bytes: 100 };

    /// A session that a stage before brings, of which eight fit, too.
    const BROUGHT: Held =
        Held { places: 0, brought: limits::BROUGHT_PER_PLACE as u64, half_open: 0, ..ONE };

    fn times(count: u64, one: Held) -> Held {
        (0..count).fold(Held::default(), |held, _| held.plus(one))
    }

    /// How many sessions of one peer fit beside those of others, if they are of one client, or each
    /// of another one.
    fn most(asked: Held, others: u64, is_one_client: bool) -> u64 {
        let others = times(others, Held { half_open: 0, ..asked });
        let mut own = Held::default();
        let mut count = 0;
        loop {
            let of_client = if is_one_client { own } else { Held::default() };
            let held = Holdings { all: others.plus(own), of_peer: own, of_client };
            if admit(&CAPACITY, &held, asked).is_err() {
                return count;
            }
            own = own.plus(asked);
            count += 1;
        }
    }

    #[test]
    fn a_client_holds_a_quarter_of_what_others_leave_and_a_stage_all_but_a_quarter() {
        assert_eq!([0, 4, 7, 8].map(|others| most(ONE, others, true)), [2, 1, 1, 0]);
        assert_eq!([0, 4, 7, 8].map(|others| most(BROUGHT, others, true)), [2, 1, 1, 0]);
        assert_eq!([0, 4, 7, 8].map(|others| most(BROUGHT, others, false)), [6, 3, 1, 0]);
    }

    #[test]
    fn each_kind_is_bounded_for_itself_and_a_first_session_may_take_what_is_free() {
        for one in [ONE, BROUGHT] {
            let all_pages = Held { pages: 8, ..one };
            assert_eq!(most(all_pages, 0, true), 1);
            let all_bytes = Held { kept_bytes: 800, ..one };
            assert_eq!(most(all_bytes, 0, true), 1);
            assert_eq!(most(all_bytes, 1, true), 0);
        }
        let half_open = Held { brought: 1, half_open: 4, pages: 0, kept_bytes: 1, ..BROUGHT };
        assert_eq!(most(half_open, 0, false), 3, "of 4 times 4 half-open ones");
    }

    #[test]
    fn places_of_clients_and_of_stages_do_not_take_each_others() {
        let (places, brought) = (Held { places: 8, ..NONE }, Held { brought: 32, ..NONE });
        for (all, asked) in [(places, BROUGHT), (brought, ONE)] {
            assert_eq!(admit(&CAPACITY, &Holdings { all, ..NOTHING }, asked), Ok(()));
        }
        for (all, asked) in [(places, ONE), (brought, BROUGHT)] {
            let full = Full { refusal: Refusal::Busy, frees: Frees::End };
            assert_eq!(admit(&CAPACITY, &Holdings { all, ..NOTHING }, asked), Err(full));
        }
    }

    const NONE: Held =
        Held { places: 0, brought: 0, half_open: 0, pages: 0, kept: 0, kept_bytes: 0 };
    const NOTHING: Holdings = Holdings { all: NONE, of_peer: NONE, of_client: NONE };

    fn refused(all: Held, own: Held, asked: Held) -> Option<Full> {
        admit(&CAPACITY, &Holdings { all, of_peer: own, of_client: own }, asked).err()
    }

    #[test]
    fn a_refusal_says_what_there_is_no_room_for() {
        let refusal =
            |all: Held, own: Held, asked| refused(all, own, asked).map(|full| full.refusal);
        let full = Held { places: 8, ..NONE };
        assert_eq!(refusal(full, full, ONE), Some(Refusal::Busy));
        let full = Held { pages: 8, ..NONE };
        assert_eq!(refusal(full, NONE, ONE), Some(Refusal::NoRoom));
        for full in [Held { kept: 8, ..NONE }, Held { kept_bytes: 701, ..NONE }] {
            assert_eq!(refusal(full, NONE, ONE), Some(Refusal::CannotKeep));
        }
        let own = Held { kept: 2, ..NONE };
        assert_eq!(refusal(own, own, ONE), Some(Refusal::PeerShare));
        let stage =
            Holdings { all: own.plus(own).plus(own), of_peer: own.plus(own).plus(own), ..NOTHING };
        let full = Full { refusal: Refusal::PeerShare, frees: Frees::OwnExpiry };
        assert_eq!(admit(&CAPACITY, &stage, BROUGHT), Err(full));
        assert_eq!(admit(&CAPACITY, &stage, ONE), Ok(()), "whoever it was that held them");
    }

    #[test]
    fn a_refusal_says_what_will_make_room() {
        let frees = |all: Held, own: Held, asked| refused(all, own, asked).map(|full| full.frees);
        let full = Held { places: 8, ..NONE };
        assert_eq!(frees(full, NONE, ONE), Some(Frees::End));
        assert_eq!(frees(Held { kept: 8, ..NONE }, NONE, ONE), Some(Frees::Expiry));
        let own = Held { places: 2, ..NONE };
        assert_eq!(frees(own, own, ONE), Some(Frees::OwnEnd));
        let own = Held { kept_bytes: 200, ..NONE };
        assert_eq!(frees(own, own, ONE), Some(Frees::OwnExpiry));
        for asked in [Held { pages: 9, ..ONE }, Held { kept_bytes: 801, ..ONE }] {
            assert_eq!(frees(NONE, NONE, asked), Some(Frees::Nothing));
        }
    }
}
