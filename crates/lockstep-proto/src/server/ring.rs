//! What comes from neighbours and from the executor, and what sessions make of it.

use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_verify::challenge::Challenge;
use lockstep_verify::sign::NodeId;

use super::effect::{Effect, Turn};
use super::links::End;
use super::retained::Unfinished;
use super::session::Session;
use super::{Due, Event, Output, Server};
use crate::failure::{Failure, Reason, Refusal};
use crate::frame::{Frame as _, RingFrame, ToClient};
use crate::job::{Done, Job, Outcome, Work};
use crate::limits;

impl Server {
    pub(super) fn on_peer_frame(&mut self, node: NodeId, body: &[u8]) {
        self.links.heard(End::Stage(node), self.now);
        match RingFrame::from_body(body) {
            Ok(RingFrame::Heartbeat) => {}
            Ok(RingFrame::Lease { lease, tenant, runs })
                if !self.sessions.contains_key(&lease.session) =>
            {
                self.on_lease(node, *lease, tenant, runs);
            }
            Ok(RingFrame::Abort { session, failure }) => self.on_abort(node, session, failure),
            Ok(frame @ RingFrame::Lease { .. }) => self.on_session_frame(node, frame),
            Ok(frame @ RingFrame::Step(_)) => self.on_session_frame(node, frame),
            Ok(frame @ RingFrame::Marks { .. }) => self.on_session_frame(node, frame),
            Ok(frame @ RingFrame::Close { .. }) => self.on_session_frame(node, frame),
            Err(_) => {
                self.end_sessions_of(End::Stage(node), Reason::BadFrame);
                self.out.push_back(Output::ClosePeer { node, why: Reason::BadFrame });
            }
        }
    }

    /// Takes a frame of a session, of a kind that goes from each stage to the next.
    fn on_session_frame(&mut self, node: NodeId, frame: RingFrame) {
        let Some(id) = frame.session() else {
            return;
        };
        let Some(session) = self.sessions.get(&id) else {
            self.on_frame_of_unknown(node, id);
            return;
        };
        if session.seat.prev.node != node || session.seat.stages() == 1 {
            self.out.push_back(Output::Event(Event::Stranger { session: id, node }));
            return;
        }
        self.with_session(id, |session, turn| session.on_frame(frame, turn));
    }

    /// Takes a frame of a session that is not under way, and tells its sender, unless the session
    /// ended just now.
    fn on_frame_of_unknown(&mut self, node: NodeId, session: Digest) {
        if self.ended.contains(&session) || self.retained.holds(&session) {
            return;
        }
        let reason = Reason::Refused(Refusal::UnknownSession);
        let failure = Failure { stage: None, by: None, reason };
        self.send(node, &RingFrame::Abort { session, failure });
    }

    fn on_abort(&mut self, node: NodeId, session: Digest, failure: Failure) {
        let Some(found) = self.sessions.get(&session) else {
            return;
        };
        if found.is_neighbour(node) {
            self.end(session, failure, Some(node));
        } else {
            self.out.push_back(Output::Event(Event::Stranger { session, node }));
        }
    }

    /// Returns the next job, if the executor takes one. An executor that is stuck takes none.
    pub(super) fn next_job(&mut self) -> Option<Job> {
        if self.stuck {
            return None;
        }
        let job = self.scheduler.next_job()?;
        let now = self.now;
        self.job_deadline.get_or_insert_with(|| now.after(limits::JOB_US));
        Some(job)
    }

    pub(super) fn on_ran(&mut self, job: u64, done: Vec<Done>) {
        let Some(sessions) = self.scheduler.ran(job) else {
            return;
        };
        // The time of the job behind it begins.
        let is_busy = self.scheduler.running() > 0;
        self.job_deadline = is_busy.then(|| self.now.after(limits::JOB_US));
        self.stuck = false;
        let mut done = done.into_iter();
        for session in sessions {
            let answer = done.next().filter(|done| done.session == session);
            let missing = Outcome::Refused(Refusal::ExecutorFailed);
            self.on_outcome(session, answer.map_or(missing, |done| done.outcome));
        }
        self.dropping.retain(|session, _| !self.scheduler.is_clear(session));
    }

    fn on_outcome(&mut self, id: Digest, outcome: Outcome) {
        if self.sessions.contains_key(&id) {
            self.with_session(id, |session, turn| session.on_outcome(outcome, turn));
        } else if let Outcome::Unfinished(challenge) = outcome {
            self.on_unfinished(id, challenge);
        } else if let Outcome::Forgotten = outcome {
            // It was nobody's answer.
        } else if let Some(asked) = self.retained.answered(&id) {
            self.guests.used(asked.link, self.now);
            match outcome {
                Outcome::Answered(body) => self.due.push_back(Due::Answer { asked, body }),
                Outcome::Refused(refusal) => self.refuse_challenge(&asked, refusal),
                Outcome::Begun
                | Outcome::Dropped
                | Outcome::Forgotten
                | Outcome::Forwarded(_)
                | Outcome::Rooted { .. }
                | Outcome::Sampled { .. }
                | Outcome::Unfinished(_) => {
                    self.refuse_challenge(&asked, Refusal::ExecutorFailed);
                }
            }
        }
    }

    /// Takes a slice of a challenge that is done: the next one follows, unless the session is not
    /// kept any more, which frees everything, or nobody waits for an answer from it.
    fn on_unfinished(&mut self, id: Digest, challenge: Arc<Challenge>) {
        let guests = &self.guests;
        match self.retained.unfinished(&id, |link| guests.knows(link)) {
            Unfinished::Wanted => self.scheduler.put_back(id, Work::Answer { challenge }),
            Unfinished::Unwanted => self.scheduler.put_back(id, Work::Forget),
            Unfinished::Replaced | Unfinished::Gone => {}
        }
    }

    /// Lets a session do one thing that is due.
    pub(super) fn settle(&mut self, id: Digest) {
        self.with_session(id, Session::settle);
    }

    /// Lets a session do something, and does what it wants then.
    fn with_session(
        &mut self,
        id: Digest,
        act: impl FnOnce(&mut Session, &mut Turn<'_>) -> Result<(), Failure>,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let (now, key, retention_us) = (self.now, &self.key, self.capacity.retention_us);
        let mut turn = Turn { now, key, retention_us, out: Vec::new() };
        let before = session.ends();
        let result = act(session, &mut turn);
        let (after, effects) = (session.ends(), turn.out);
        after.difference(&before).for_each(|end| self.links.attach(*end, self.now));
        before.difference(&after).for_each(|end| self.links.detach(*end));
        self.apply(id, effects);
        if let Err(failure) = result {
            self.end(id, failure, None);
        }
    }

    /// Counts a token that the client of a session is told now.
    fn count_token(&mut self, id: &Digest) {
        if let Some(session) = self.sessions.get_mut(id) {
            self.tally.token(session.token_told(self.now), self.now);
        }
    }

    /// Does what a session wants of the server.
    pub(super) fn apply(&mut self, id: Digest, effects: Vec<Effect>) {
        for effect in effects {
            let Some(session) = self.sessions.get(&id) else {
                return;
            };
            match effect {
                Effect::Due => self.due.push_back(Due::Session(id)),
                Effect::Next(frame) => self.send(session.seat.next.node, &frame),
                Effect::Retire { positions, received } => self.retire(id, positions, received),
                Effect::Run(work) => {
                    let full = session.seat.own_failure(Reason::Refused(Refusal::TooManyWaiting));
                    if self.scheduler.push(id, work).is_err() {
                        self.end(id, full, None);
                    }
                }
                Effect::Tell(frame) => {
                    let link = session.client();
                    if matches!(frame, ToClient::Token { .. }) {
                        self.count_token(&id);
                    }
                    if let Some(link) = link {
                        self.tell(link, &frame);
                    }
                }
            }
        }
    }
}
