//! What one peer may hold of a server, so that no peer can take all of it.
//!
//! Places, pages, half-open sessions and what is kept for audits are counted for whoever the
//! transport authenticated: the client at stage 0, the stage before at any other. A peer that
//! holds nothing may take what is free; one that holds something may hold at most its part of
//! what the others leave, so there is always something left for the next.

use super::session::Session;
use crate::failure::Refusal;
use crate::limits;
use crate::server::Capacity;
use crate::server::seat::Seat;

/// The share of a server that a peer holds or asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Sessions under way, and those that the executor has not freed yet.
    pub(super) places: u64,
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
            places: 1,
            half_open: u64::from(seat.place > 0),
            pages: seat.kv_pages(),
            ..Self::of_kept(seat, seat.lease.max_positions)
        }
    }

    /// Returns what a session under way holds.
    pub(super) fn of_session(session: &Session) -> Self {
        let half_open = u64::from(session.is_half_open());
        Self { half_open, ..Self::of_new(&session.seat) }
    }

    /// Returns what a session holds whose pages the executor has not freed yet.
    pub(super) const fn of_dropped(pages: u64) -> Self {
        Self { places: 1, half_open: 0, pages, kept: 0, kept_bytes: 0 }
    }

    /// Returns what a finished session with `positions` computed positions holds.
    pub(super) fn of_kept(seat: &Seat, positions: u32) -> Self {
        let kept_bytes = seat.kept_bytes(positions);
        Self { places: 0, half_open: 0, pages: 0, kept: 1, kept_bytes }
    }

    /// Returns the sum of both.
    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            places: self.places.saturating_add(other.places),
            half_open: self.half_open.saturating_add(other.half_open),
            pages: self.pages.saturating_add(other.pages),
            kept: self.kept.saturating_add(other.kept),
            kept_bytes: self.kept_bytes.saturating_add(other.kept_bytes),
        }
    }
}

/// The part of what others leave that one peer may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The part of a client: a quarter of what others leave.
    Client,
    /// The stage before, which brings sessions of many clients: a half. So a client that holds all
    /// it may at that stage does not keep the others of that stage out of this one.
    Stage,
}

impl Part {
    const fn of(self, left: u64) -> u64 {
        match self {
            Self::Client => left >> 2,
            Self::Stage => left >> 1,
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
}

/// What a server has no room for, and what will make some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) refusal: Refusal,
    pub(super) frees: Frees,
}

/// Checks that a server has room for a session of a peer.
///
/// # Errors
/// What there is no room for.
pub(super) fn admit(
    capacity: &Capacity,
    part: Part,
    (all, own): (Held, Held),
    asked: Held,
) -> Result<(), Full> {
    let kinds: [Kind; 5] = [
        (|held| held.places, capacity.sessions as u64, Refusal::Busy, Frees::End),
        (|held| held.half_open, capacity.half_open() as u64, Refusal::Busy, Frees::End),
        (|held| held.pages, u64::from(capacity.kv_pages), Refusal::NoRoom, Frees::End),
        (|held| held.kept, capacity.retained as u64, Refusal::CannotKeep, Frees::Expiry),
        (|held| held.kept_bytes, capacity.kept_bytes, Refusal::CannotKeep, Frees::Expiry),
    ];
    for (count, total, refusal, frees) in kinds {
        let (all, asked) = (count(&all), count(&asked));
        if asked > 0 && all.saturating_add(asked) > total {
            let frees = if asked > total { Frees::Nothing } else { frees };
            return Err(Full { refusal, frees });
        }
    }
    for (count, total, _, frees) in kinds {
        let (all, own, asked) = (count(&all), count(&own), count(&asked));
        let left = total.saturating_sub(all.saturating_sub(own));
        if asked > 0 && own > 0 && own.saturating_add(asked) > part.of(left) {
            let is_kept = matches!(frees, Frees::Expiry);
            let frees = if is_kept { Frees::OwnExpiry } else { Frees::OwnEnd };
            return Err(Full { refusal: Refusal::PeerShare, frees });
        }
    }
    Ok(())
}

impl Capacity {
    /// Sessions in which no step has come yet, at most: half of all places.
    const fn half_open(&self) -> usize {
        self.sessions.div_ceil(2)
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

    const ONE: Held = Held { places: 1, half_open: 0, pages: 1, kept: 1, kept_bytes: 100 };

    /// How many sessions of a peer fit beside those of others.
    fn most(part: Part, others: u64, asked: Held) -> u64 {
        let times = |count: u64| (0..count).fold(Held::default(), |held, _| held.plus(ONE));
        let others = times(others);
        let mut own = Held::default();
        let mut count = 0;
        while admit(&CAPACITY, part, (others.plus(own), own), asked).is_ok() {
            own = own.plus(asked);
            count += 1;
        }
        count
    }

    #[test]
    fn a_client_holds_a_quarter_of_what_others_leave_and_a_stage_half() {
        assert_eq!([0, 4, 7, 8].map(|others| most(Part::Client, others, ONE)), [2, 1, 1, 0]);
        assert_eq!([0, 4, 7, 8].map(|others| most(Part::Stage, others, ONE)), [4, 2, 1, 0]);
    }

    #[test]
    fn each_kind_is_bounded_for_itself_and_a_first_session_may_take_what_is_free() {
        let all_pages = Held { pages: 8, ..ONE };
        assert_eq!(most(Part::Client, 0, all_pages), 1);
        let all_bytes = Held { kept_bytes: 800, ..ONE };
        assert_eq!(most(Part::Client, 0, all_bytes), 1);
        assert_eq!(most(Part::Client, 1, all_bytes), 0);
        let half_open = Held { half_open: 1, pages: 0, kept_bytes: 1, ..ONE };
        assert_eq!(most(Part::Stage, 0, half_open), 2, "of 4 half-open ones");
    }

    #[test]
    fn a_refusal_says_what_there_is_no_room_for() {
        let refusal = |all: Held, own: Held| {
            admit(&CAPACITY, Part::Client, (all, own), ONE).map_err(|full| full.refusal)
        };
        let full = Held { places: 8, ..Held::default() };
        assert_eq!(refusal(full, full), Err(Refusal::Busy));
        let full = Held { pages: 8, ..Held::default() };
        assert_eq!(refusal(full, Held::default()), Err(Refusal::NoRoom));
        for full in
            [Held { kept: 8, ..Held::default() }, Held { kept_bytes: 701, ..Held::default() }]
        {
            assert_eq!(refusal(full, Held::default()), Err(Refusal::CannotKeep));
        }
        let own = Held { kept: 2, ..Held::default() };
        assert_eq!(refusal(own, own), Err(Refusal::PeerShare));
    }

    #[test]
    fn a_refusal_says_what_will_make_room() {
        let frees = |all: Held, own: Held, asked: Held| {
            admit(&CAPACITY, Part::Client, (all, own), asked).map_err(|full| full.frees)
        };
        let none = Held::default();
        let full = Held { places: 8, ..none };
        assert_eq!(frees(full, none, ONE), Err(Frees::End));
        assert_eq!(frees(Held { kept: 8, ..none }, none, ONE), Err(Frees::Expiry));
        let own = Held { places: 2, ..none };
        assert_eq!(frees(own, own, ONE), Err(Frees::OwnEnd));
        let own = Held { kept_bytes: 200, ..none };
        assert_eq!(frees(own, own, ONE), Err(Frees::OwnExpiry));
        for asked in [Held { pages: 9, ..ONE }, Held { kept_bytes: 801, ..ONE }] {
            assert_eq!(frees(none, none, asked), Err(Frees::Nothing));
        }
    }
}
