//! Finished sessions, kept so that they can be challenged until the deadline that was signed, which
//! each challenge moves ([`crate::promise`]).
//!
//! A challenge counts only with the session key's signature, inside what the stage computed, and
//! within the session's limits. What it costs is known before anything is computed for it.

use std::collections::{BTreeMap, VecDeque};

use lockstep_exact::digest::Digest;
use lockstep_verify::challenge::{Challenge, Side, Target};
use lockstep_verify::limits as proof;
use lockstep_verify::price::Prices;
use lockstep_verify::sign::{NodeId, Statement as _};
use lockstep_verify::statement::Mark;

use super::LinkId;
use super::quota::{self, Held, Owner};
use super::seat::Seat;
use crate::failure::Refusal;
use crate::limits;
use crate::now::Now;
use crate::promise::Promise;

/// A challenge that waits for the executor.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) link: LinkId,
    /// The node that sent the challenge.
    pub(super) peer: NodeId,
    /// The digest that the challenge's signature is over.
    pub(super) digest: Digest,
}

/// The way in which a challenge is answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// The executor opens the cells.
    Cells,
    /// With the mark that was got for the frame.
    Mark(Box<Mark>),
}

/// The way to go on with a challenge of which a slice is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// The client still waits for the answer.
    Wanted,
    /// Nobody waits for any answer from this session.
    Unwanted,
    /// Its client is gone, and the session's next challenge goes on from there.
    Replaced,
    /// The session is not kept any more.
    Gone,
}

#[derive(Debug)]
struct Kept {
    seat: Seat,
    /// The node that brought the session.
    holder: NodeId,
    /// The marks that were got from the stage before, oldest first.
    received: Vec<Mark>,
    positions: u32,
    promise: Promise,
    /// The number of challenges that may still come.
    challenges: u64,
    /// The work that may still be asked for, in the draw's prices.
    budget: u64,
    asked: VecDeque<Asked>,
}

/// The finished sessions that can be challenged.
#[derive(Debug, Default)]
pub(super) struct Retained {
    sessions: BTreeMap<Digest, Kept>,
}

impl Retained {
    /// Keeps a finished session with `positions` computed positions and the marks `received` from
    /// the stage before, at least until `deadline`, which this server has signed. Its room was
    /// there before it began, so no other session has to go for it.
    pub(super) fn keep(
        &mut self,
        seat: Seat,
        (holder, prices): (NodeId, &Prices),
        (positions, received): (u32, Vec<Mark>),
        deadline: Now,
    ) {
        let heads = match seat.place {
            0 => positions.saturating_sub(seat.first_head_position()),
            _ => 0,
        };
        let span = seat.hop.first..seat.hop.end;
        let full = prices.full_audit(span.clone(), positions, heads);
        let budget = full.saturating_mul(limits::AUDITS_PER_SESSION);
        let budget = budget.saturating_add(limits::AUDIT_FLOOR_BYTES);
        let promise = Promise::new(deadline, prices, span.clone(), positions, heads);
        let full = prices.full_audit_challenges(span, positions, heads);
        let challenges = full.saturating_mul(limits::AUDITS_PER_SESSION);
        let challenges = challenges.max(limits::CHALLENGES_PER_SESSION);
        let (session, asked) = (seat.session(), VecDeque::new());
        let kept = Kept { seat, holder, received, positions, promise, challenges, budget, asked };
        self.sessions.insert(session, kept);
    }

    /// Returns what each session holds here, and on whose account.
    pub(super) fn held(&self) -> impl Iterator<Item = (Owner, Held)> {
        let kept = self.sessions.values();
        kept.map(|kept| {
            (Owner::of(kept.holder, &kept.seat), Held::of_kept(&kept.seat, kept.positions))
        })
    }

    /// Returns whether a challenge that came on this connection waits.
    pub(super) fn waits_for(&self, link: LinkId) -> bool {
        self.waiting().any(|asked| asked.link == link)
    }

    fn waiting(&self) -> impl Iterator<Item = &Asked> {
        self.sessions.values().flat_map(|kept| &kept.asked)
    }

    /// Returns whether a session is kept.
    pub(super) fn holds(&self, session: &Digest) -> bool {
        self.sessions.contains_key(session)
    }

    /// Returns how many sessions are kept.
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Removes the sessions whose deadline has come, and returns them with the challenges that wait
    /// there.
    pub(super) fn expire(&mut self, now: Now) -> Vec<(Digest, VecDeque<Asked>)> {
        let over = self.sessions.extract_if(.., |_, kept| kept.promise.until() <= now);
        over.map(|(session, kept)| (session, kept.asked)).collect()
    }

    /// Returns the time at which the first promise of a kept session is over, of all or of those
    /// that a peer brought; `None` if none is kept.
    pub(super) fn deadline(&self, of: Option<NodeId>) -> Option<Now> {
        let is_his = |kept: &&Kept| of.is_none_or(|of| of == kept.holder);
        self.sessions.values().filter(is_his).map(|kept| kept.promise.until()).min()
    }

    /// Decides whether and how a challenge is answered; one for cells then waits for
    /// [`Retained::answered`].
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub(super) fn ask(
        &mut self,
        (link, peer): (LinkId, NodeId),
        challenge: &Challenge,
        prices: &Prices,
        now: Now,
    ) -> Result<Answer, Refusal> {
        let of_peer = self.waiting().filter(|asked| asked.peer == peer).count();
        let kept = self.sessions.get_mut(&challenge.session);
        let kept = kept.filter(|kept| now < kept.promise.until()).ok_or(Refusal::UnknownSession)?;
        if challenge.run != kept.seat.run.id() {
            return Err(Refusal::OtherRun);
        }
        if kept.asked.len() >= limits::CHALLENGES_WAITING {
            return Err(Refusal::TooManyWaiting);
        }
        quota::admit_challenge(of_peer)?;
        let challenges = kept.challenges.checked_sub(1).ok_or(Refusal::ChallengeLimit)?;
        let price = prices.opening(&challenge.target);
        if price > proof::OPENING_BYTES as u64 {
            return Err(Refusal::TooExpensive);
        }
        let work = prices.work(&challenge.target);
        let budget = kept.budget.checked_sub(work).ok_or(Refusal::ChallengeLimit)?;
        if !kept.holds(&challenge.target) {
            return Err(Refusal::CellOutOfRange);
        }
        let key = kept.seat.lease.session_key;
        challenge.verify(key).map_err(|_| Refusal::BadSignature)?;
        kept.challenges = challenges;
        kept.budget = budget;
        kept.promise.prolong(prices, &challenge.target);
        if let Some(mark) = kept.mark(&challenge.target) {
            return Ok(Answer::Mark(Box::new(mark)));
        }
        kept.asked.push_back(Asked { link, peer, digest: challenge.statement() });
        Ok(Answer::Cells)
    }

    /// Notes that a slice of the session's oldest challenge is done. The challenge is given up if
    /// its connection is gone.
    pub(super) fn unfinished(
        &mut self,
        session: &Digest,
        is_there: impl Fn(LinkId) -> bool,
    ) -> Unfinished {
        let Some(asked) = self.sessions.get_mut(session).map(|kept| &mut kept.asked) else {
            return Unfinished::Gone;
        };
        if asked.front().is_some_and(|oldest| is_there(oldest.link)) {
            return Unfinished::Wanted;
        }
        asked.pop_front();
        let is_replaced = asked.iter().any(|asked| is_there(asked.link));
        if is_replaced { Unfinished::Replaced } else { Unfinished::Unwanted }
    }

    /// Removes the session's oldest challenge, with which the executor is done, and returns it.
    pub(super) fn answered(&mut self, session: &Digest) -> Option<Asked> {
        self.sessions.get_mut(session)?.asked.pop_front()
    }
}

impl Kept {
    /// Returns the mark, as this stage or its head got it, that a challenge asks for; `None` for
    /// other challenges and marks that it did not get.
    fn mark(&self, target: &Target) -> Option<Mark> {
        let Target::Mark { layer, position } = target else { return None };
        let place = self.seat.place;
        let receiver = if place == 0 { self.seat.layers() } else { self.seat.hop.first };
        let found = self.received.binary_search_by_key(position, |mark| mark.position);
        let (true, Ok(at)) = (*layer == receiver, found) else { return None };
        self.received.get(at).copied()
    }

    /// Returns whether all that a challenge asks for was computed here, or got here as a mark.
    fn holds(&self, target: &Target) -> bool {
        let hop = self.seat.hop;
        let (positions, first, is_here) = match target {
            Target::Layer { layer, end, positions, .. } => {
                let is_here = (hop.first..hop.end).contains(layer) && *end <= self.positions;
                (positions, 0, is_here)
            }
            Target::Head { positions } => {
                (positions, self.seat.first_head_position(), self.seat.place == 0)
            }
            Target::Edge { layer, side, first, count } => {
                let edge = match side {
                    Side::Received => hop.first,
                    Side::Sent => hop.end.saturating_sub(1),
                };
                let end = first.checked_add(*count);
                return *layer == edge && end.is_some_and(|end| end <= self.positions);
            }
            Target::Mark { .. } => return self.mark(target).is_some(),
        };
        let in_session = |position: &u32| (first..self.positions).contains(position);
        is_here && positions.iter().all(in_session)
    }
}
