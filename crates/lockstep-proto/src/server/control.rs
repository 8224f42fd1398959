//! How sessions end: answers that closed, failures, lost links, silence and deadlines.

use std::collections::VecDeque;

use lockstep_exact::digest::Digest;
use lockstep_verify::sign::NodeId;
use lockstep_verify::statement::Mark;

use super::links::End;
use super::quota::{Held, Owner};
use super::retained::Asked;
use super::session::Session;
use super::{Event, LinkId, Output, Server};
use crate::failure::{Failure, Reason, Refusal};
use crate::frame::{RingFrame, ToClient};

impl Server {
    pub(super) fn on_client_lost(&mut self, link: LinkId) {
        self.guests.lost(link);
        self.forget_waiting(link);
        self.end_sessions_of(End::Client(link), Reason::ClientLost);
    }

    pub(super) fn on_peer_lost(&mut self, node: NodeId) {
        self.end_sessions_of(End::Stage(node), Reason::LinkLost);
    }

    /// Ends every session that uses a link; a stage at its other end is named.
    pub(super) fn end_sessions_of(&mut self, end: End, reason: Reason) {
        let uses = |session: &&Session| session.ends().contains(&end);
        let failure = |session: &Session| {
            let place = match end {
                End::Client(_) => None,
                End::Stage(node) => session.place_of(node),
            };
            (session.seat.session(), session.seat.failure(place, reason))
        };
        let over: Vec<(Digest, Failure)> =
            self.sessions.values().filter(uses).map(failure).collect();
        for (session, failure) in over {
            self.end(session, failure, None);
        }
    }

    /// Ends a session before its answer did, and tells everybody but the one who knows.
    pub(super) fn end(&mut self, id: Digest, failure: Failure, knows: Option<NodeId>) {
        let Some(session) = self.remove(id) else {
            return;
        };
        self.scheduler.drop_session(id);
        let owner = Owner::of(session.holder, &session.seat);
        self.dropping.insert(id, (owner, Held::of_dropped(&session.seat)));
        self.ended.insert(id);
        for end in session.ends() {
            match end {
                End::Client(link) => self.tell(link, &ToClient::Failed { session: id, failure }),
                End::Stage(node) if Some(node) != knows => {
                    self.send(node, &RingFrame::Abort { session: id, failure });
                }
                End::Stage(_) => {}
            }
        }
        self.close_silent(&session, failure);
        self.out.push_back(Output::Event(Event::Ended { session: id, failure }));
    }

    /// Closes the connections to a neighbour that was silent, unless other sessions use them: when
    /// it comes back it may have forgotten them, and the next session would be lost with them. That
    /// another stage's link to it closed says nothing about this server's.
    fn close_silent(&mut self, session: &Session, failure: Failure) {
        let is_own = failure.by == Some(session.seat.place);
        let was_lost =
            failure.reason == Reason::StageSilent || (failure.reason == Reason::LinkLost && is_own);
        for end in session.ends() {
            if let End::Stage(node) = end
                && was_lost
                && failure.stage == session.place_of(node)
                && failure.stage.is_some()
                && !self.links.is_used(end)
            {
                self.out.push_back(Output::ClosePeer { node, why: failure.reason });
            }
        }
    }

    /// Keeps a session that has closed, so that it can be challenged.
    pub(super) fn retire(&mut self, id: Digest, positions: u32, received: Vec<Mark>) {
        let Some(session) = self.remove(id) else {
            return;
        };
        self.last_proof = self.now;
        if self.announcer.is_joining {
            // Tokens have crossed a ring with this server.
            self.announcer.is_joining = false;
            let now = self.now;
            self.announce_at = self.announce_at.map(|_| now);
        }
        let Session { seat, holder, retain_until, .. } = session;
        let prices = &self.holding.model.prices;
        self.retained.keep(seat, (holder, prices), (positions, received), retain_until);
        self.out.push_back(Output::Event(Event::Finished { session: id }));
    }

    fn remove(&mut self, id: Digest) -> Option<Session> {
        let session = self.sessions.remove(&id)?;
        for end in session.ends() {
            self.links.detach(end);
        }
        self.pace.ended(self.now.since(session.opened()));
        if let Some(link) = session.client() {
            self.guests.used(link, self.now);
        }
        Some(session)
    }

    /// Forgets a session that was kept, whatever is asked of it.
    fn forget(&mut self, id: Digest, asked: VecDeque<Asked>) {
        for asked in asked {
            self.refuse_challenge(&asked, Refusal::UnknownSession);
        }
        self.scheduler.drop_session(id);
        self.ended.insert(id);
    }

    /// Does everything that is due because of the time alone.
    pub(super) fn on_time(&mut self) {
        for (session, asked) in self.retained.expire(self.now) {
            self.forget(session, asked);
        }
        for end in self.links.silent(self.now) {
            match end {
                End::Client(link) => {
                    self.forget_waiting(link);
                    self.end_sessions_of(end, Reason::ClientLost);
                }
                End::Stage(_) => self.end_sessions_of(end, Reason::StageSilent),
            }
        }
        let (links, retained) = (&self.links, &self.retained);
        let runs = |link| links.is_used(End::Client(link)) || retained.waits_for(link);
        let idle = self.guests.take_idle(self.now, runs);
        self.out.extend(idle.into_iter().map(Output::CloseClient));
        self.end_overdue();
        self.end_late();
        self.refuse_overdue();
        for end in self.links.waiting(self.now) {
            match end {
                End::Client(link) => self.tell(link, &ToClient::Heartbeat),
                End::Stage(node) => self.send(node, &RingFrame::Heartbeat),
            }
        }
    }

    /// Ends the sessions of a server that leaves, when their time is up.
    fn end_late(&mut self) {
        if self.leaving.is_some_and(|until| until <= self.now) {
            let failure = |session: &Session| {
                (session.seat.session(), session.seat.own_failure(Reason::Leaving))
            };
            let over: Vec<(Digest, Failure)> = self.sessions.values().map(failure).collect();
            for (session, failure) in over {
                self.end(session, failure, None);
            }
        }
    }

    /// Ends sessions in which nothing moves, and all of them when the executor is stuck.
    fn end_overdue(&mut self) {
        self.stuck |= self.job_deadline.take_if(|deadline| *deadline <= self.now).is_some();
        let (now, stuck) = (self.now, self.stuck);
        let failure = |session: &Session| {
            let failure = if stuck {
                session.seat.own_failure(Reason::JobOverdue)
            } else {
                session.overdue()
            };
            (session.seat.session(), failure)
        };
        let is_over = |session: &&Session| stuck || session.deadline() <= now;
        let over: Vec<(Digest, Failure)> =
            self.sessions.values().filter(is_over).map(failure).collect();
        for (session, failure) in over {
            self.end(session, failure, None);
        }
    }
}
