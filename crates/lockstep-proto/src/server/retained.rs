//! Finished sessions, kept so that they can be challenged until the deadline that was signed.
//!
//! A challenge counts only with the session key's signature, inside what the stage computed, and
//! within the session's limits.

use std::collections::{BTreeMap, VecDeque};

use lockstep_exact::digest::Digest;
use lockstep_verify::challenge::{Challenge, Side, Target};
use lockstep_verify::sign::Statement as _;

use super::LinkId;
use super::seat::Seat;
use crate::failure::Refusal;
use crate::limits;
use crate::now::Now;

/// A challenge that waits for the executor.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) link: LinkId,
    /// What the challenge's signature is over.
    pub(super) digest: Digest,
}

#[derive(Debug)]
struct Kept {
    seat: Seat,
    positions: u32,
    deadline: Now,
    challenges: u32,
    asked: VecDeque<Asked>,
}

/// Finished sessions.
#[derive(Debug, Default)]
pub(super) struct Retained {
    sessions: BTreeMap<Digest, Kept>,
}

impl Retained {
    /// Keeps a session of so many positions; gives the one that has to go for it, and the
    /// challenges that wait there, if there are more than `most`.
    pub(super) fn keep(
        &mut self,
        seat: Seat,
        positions: u32,
        deadline: Now,
        most: usize,
    ) -> Option<(Digest, VecDeque<Asked>)> {
        let session = seat.session();
        let kept = Kept { seat, positions, deadline, challenges: 0, asked: VecDeque::new() };
        self.sessions.insert(session, kept);
        if self.sessions.len() <= most {
            return None;
        }
        let oldest = self.sessions.iter().min_by_key(|(_, kept)| kept.deadline);
        let oldest = oldest.map(|(&session, _)| session)?;
        self.sessions.remove(&oldest).map(|kept| (oldest, kept.asked))
    }

    /// Whether a session is kept.
    pub(super) fn holds(&self, session: &Digest) -> bool {
        self.sessions.contains_key(session)
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The sessions whose deadline has come, and the challenges that wait there; they are kept no
    /// longer.
    pub(super) fn expire(&mut self, now: Now) -> Vec<(Digest, VecDeque<Asked>)> {
        let over = self.sessions.extract_if(.., |_, kept| kept.deadline <= now);
        over.map(|(session, kept)| (session, kept.asked)).collect()
    }

    /// When the first deadline comes.
    pub(super) fn deadline(&self) -> Option<Now> {
        self.sessions.values().map(|kept| kept.deadline).min()
    }

    /// Whether a challenge is to be answered; then it waits for [`Retained::answered`].
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub(super) fn ask(
        &mut self,
        link: LinkId,
        challenge: &Challenge,
        now: Now,
    ) -> Result<(), Refusal> {
        let kept = self.sessions.get_mut(&challenge.session);
        let kept = kept.filter(|kept| now < kept.deadline).ok_or(Refusal::UnknownSession)?;
        if kept.asked.len() >= limits::CHALLENGES_WAITING {
            return Err(Refusal::TooManyWaiting);
        }
        if kept.challenges >= limits::CHALLENGES_PER_SESSION {
            return Err(Refusal::ChallengeLimit);
        }
        if !kept.holds(&challenge.target) {
            return Err(Refusal::CellOutOfRange);
        }
        let key = kept.seat.lease.session_key;
        challenge.verify(key).map_err(|_| Refusal::BadSignature)?;
        kept.challenges = kept.challenges.saturating_add(1);
        kept.asked.push_back(Asked { link, digest: challenge.statement() });
        Ok(())
    }

    /// The executor is through with the session's oldest challenge.
    pub(super) fn answered(&mut self, session: &Digest) -> Option<Asked> {
        self.sessions.get_mut(session)?.asked.pop_front()
    }
}

impl Kept {
    /// Whether all cells were computed here.
    fn holds(&self, target: &Target) -> bool {
        let hop = self.seat.hop;
        let (positions, first, is_here) = match target {
            Target::Layer { layer, positions } => {
                (positions, 0, (hop.first..hop.end).contains(layer))
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
        };
        let in_session = |position: &u32| (first..self.positions).contains(position);
        is_here && positions.iter().all(in_session)
    }
}
