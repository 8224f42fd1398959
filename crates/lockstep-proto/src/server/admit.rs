//! Which requests get a place, which wait for one, and what those are told that get none.
//!
//! The first request in its turn that does not fit has what becomes free kept for it: those behind
//! it begin only if they fit beside it. When that has held somebody back for
//! [`limits::RESERVE_US`], nothing is kept for as long, and whoever fits begins. So a large request
//! is served as soon as the server can be emptied for it in that time, and no number of large
//! requests keeps small ones out for longer.

use lockstep_exact::digest::Digest;
use lockstep_verify::sign::NodeId;

use super::links::End;
use super::quota::{self, Frees, Full, Held, Holdings, Owner};
use super::seat::Seat;
use super::session::Session;
use super::waiting::Candidate;
use super::{LinkId, Refused, Server};
use crate::failure::{Busy, Failure, Reason, Refusal};
use crate::frame::ToClient;
use crate::limits;

impl Server {
    /// Checks whether there is room for a session, and for this peer to have it.
    pub(super) fn admit_share(&self, peer: NodeId, seat: &Seat) -> Result<(), Full> {
        let held = Holdings::of(Owner::of(peer, seat), self.held());
        quota::admit(&self.capacity, &held, Held::of_new(seat))
    }

    /// Begins the session of a request that was checked, has it wait for a place, or refuses it.
    pub(super) fn admit(&mut self, candidate: Candidate) {
        let account = candidate.seat.account();
        let (session, link) = (candidate.seat.session(), candidate.link);
        self.links.attach(End::Client(link), self.now);
        self.waiting.push(candidate);
        self.admit_waiting();
        let Some(full) = self.shortage(session) else {
            return;
        };
        let waits = matches!(full.frees, Frees::End | Frees::Reserve) && !self.stuck;
        let has_room = self.waiting.has_room(&account);
        let expected_us = self.expected_us(full, None);
        if waits && has_room && expected_us <= limits::WAIT_US {
            return;
        }
        let refusal = if waits && !has_room { Refusal::TooManyWaiting } else { full.refusal };
        self.refuse(session, Full { refusal, ..full });
    }

    /// Begins the sessions of those whose turn it is, as long as there is room. One whose client
    /// holds its share already keeps nobody waiting.
    pub(super) fn admit_waiting(&mut self) {
        while let Some(session) = self.next_admitted() {
            if let Some(candidate) = self.waiting.take(&session) {
                self.links.detach(End::Client(candidate.link));
                self.open(candidate);
            }
        }
    }

    /// Returns the request that gets its place next, if there is one for it.
    fn next_admitted(&mut self) -> Option<Digest> {
        let (next, holds_back) = self.look_for_next();
        if next.is_some() || !self.waiting.note(holds_back, self.now) {
            return next;
        }
        // Room is kept for nobody from now on.
        self.look_for_next().0
    }

    /// Returns the request that gets its place next, or else whether one that would fit is held
    /// back because room is kept for another.
    fn look_for_next(&mut self) -> (Option<Digest>, bool) {
        if self.waiting.is_empty() {
            return (None, false);
        }
        let all = self.held().fold(Held::default(), |sum, (_, held)| sum.plus(held));
        let capacity = self.capacity;
        let is_short = |asked: Held| {
            let room = quota::room(&capacity, all, asked);
            matches!(room, Err(Full { frees: Frees::End, .. }))
        };
        let of = |one: &Candidate| (one.seat.session(), Held::of_new(&one.seat));
        let large = self.waiting.in_order().map(of).find(|(_, asked)| is_short(*asked));
        let since = self.waiting.head(large.map(|(session, _)| session), self.now);
        // What is kept for it: all but what those have who began before it was its turn.
        let kept = large.zip(since).map(|((_, large), since)| {
            let new = self.sessions.values().filter(|session| since <= session.opened());
            new.map(Held::of_session).fold(large, Held::plus)
        });
        let (mut is_behind, mut holds_back) = (false, false);
        for candidate in self.waiting.in_order() {
            let (session, asked) = of(candidate);
            is_behind |= is_short(asked);
            let fits_beside = |kept| quota::room(&capacity, kept, asked).is_ok();
            let is_held = is_behind && !kept.is_none_or(fits_beside);
            if quota::room(&capacity, all, asked).is_err() || (is_held && holds_back) {
                continue;
            }
            let owner = Owner::of(candidate.client, &candidate.seat);
            match quota::share(&capacity, &Holdings::of(owner, self.held()), asked) {
                Ok(()) if is_held => holds_back = true,
                Ok(()) => return (Some(session), false),
                Err(_) => {}
            }
        }
        (None, holds_back)
    }

    /// Returns what there is no room for, if a request waits.
    fn shortage(&self, session: Digest) -> Option<Full> {
        let candidate = self.waiting.get(&session)?;
        let full = self.admit_share(candidate.client, &candidate.seat).err();
        let kept = Full { refusal: Refusal::Busy, frees: Frees::Reserve };
        // default: where there is room, it is kept for another
        Some(full.unwrap_or(kept))
    }

    /// Refuses a request that waits, and tells its client when to ask again, if that is of use.
    fn refuse(&mut self, session: Digest, full: Full) {
        let Some(candidate) = self.waiting.get(&session) else {
            return;
        };
        // Its own turn counts among those that wait.
        let frame = if let Reason::Busy(busy) = self.reason_of(full, candidate.client) {
            ToClient::Busy { session, busy }
        } else {
            ToClient::Refused { session, refusal: full.refusal }
        };
        if let Some(candidate) = self.withdraw(session) {
            self.tell(candidate.link, &frame);
            self.refused(Refused::Session, session, candidate.client, full.refusal);
        }
    }

    /// Refuses all that waits, since there will be no place here.
    pub(super) fn refuse_waiting(&mut self, refusal: Refusal) {
        for session in self.waiting.which(|_| true) {
            if let Some(candidate) = self.withdraw(session) {
                self.tell(candidate.link, &ToClient::Refused { session, refusal });
                self.refused(Refused::Session, session, candidate.client, refusal);
            }
        }
    }

    /// Refuses what has waited for too long.
    pub(super) fn refuse_overdue(&mut self) {
        if self.stuck {
            self.refuse_waiting(Refusal::ExecutorFailed);
        }
        let now = self.now;
        for session in self.waiting.which(|candidate| candidate.deadline <= now) {
            if let Some(full) = self.shortage(session) {
                self.refuse(session, full);
            }
        }
    }

    /// Forgets what waits for a client whose link is gone.
    pub(super) fn forget_waiting(&mut self, link: LinkId) {
        for session in self.waiting.which(|candidate| candidate.link == link) {
            self.withdraw(session);
        }
    }

    /// Forgets a request that waits, because its client has cancelled it.
    pub(super) fn cancel_waiting(&mut self, link: LinkId, session: Digest) {
        if self.waiting.get(&session).is_some_and(|candidate| candidate.link == link) {
            self.withdraw(session);
            let failure = Failure { stage: None, by: Some(0), reason: Reason::Cancelled };
            self.tell(link, &ToClient::Failed { session, failure });
        }
    }

    /// Takes out a request that gets no place.
    fn withdraw(&mut self, session: Digest) -> Option<Candidate> {
        let candidate = self.waiting.remove(&session)?;
        self.links.detach(End::Client(candidate.link));
        self.guests.used(candidate.link, self.now);
        Some(candidate)
    }

    /// Returns the reason for which a peer's session has no room: it is worth asking again, unless
    /// the session is larger than the server.
    pub(super) fn reason_of(&self, full: Full, peer: NodeId) -> Reason {
        match full.frees {
            Frees::Nothing => Reason::Refused(full.refusal),
            Frees::End | Frees::Expiry | Frees::OwnEnd | Frees::OwnExpiry | Frees::Reserve => {
                let retry_us = self.expected_us(full, Some(peer));
                Reason::Busy(Busy::new(full.refusal, retry_us))
            }
        }
    }

    /// Returns in how many microseconds there may be room: by what waits here, and by the pace at
    /// which sessions have ended, or by when the first one is not kept any more.
    fn expected_us(&self, full: Full, peer: Option<NodeId>) -> u64 {
        let is_his = |session: &&Session| peer.is_none_or(|peer| peer == session.holder);
        let under_way = self.sessions.values().filter(|session| match full.frees {
            Frees::OwnEnd | Frees::OwnExpiry => is_his(session),
            Frees::End | Frees::Expiry | Frees::Nothing | Frees::Reserve => true,
        });
        let ages: Vec<u64> = under_way.map(|one| self.now.since(one.opened())).collect();
        let wait_us = |turns| self.pace.wait_us(&ages, turns);
        let of = match full.frees {
            Frees::End | Frees::Nothing => return wait_us(self.waiting.len().max(1)),
            Frees::OwnEnd => return wait_us(1),
            Frees::Reserve => {
                let until = self.waiting.reserved_until();
                // default: it is the next one
                return until.map_or(0, |until| until.since(self.now));
            }
            Frees::Expiry => None,
            Frees::OwnExpiry => peer,
        };
        match self.retained.deadline(of) {
            Some(until) => until.since(self.now),
            None => wait_us(1).saturating_add(self.capacity.retention_us),
        }
    }
}
