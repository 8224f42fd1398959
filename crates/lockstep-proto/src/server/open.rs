//! What clients and neighbours begin: sessions, challenges, questions.

use std::sync::Arc;

use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::digest::Digest;
use lockstep_exact::sample::StopTracker;
use lockstep_verify::challenge::Challenge;
use lockstep_verify::opening::{Opening, SignedOpening};
use lockstep_verify::request::{Lease, Request};
use lockstep_verify::sign::{NodeId, Statement as _};
use lockstep_verify::statement::RunId;

use super::effect::Effect;
use super::head::Head;
use super::links::End;
use super::retained::{Answer, Asked};
use super::seat::Seat;
use super::session::Session;
use super::waiting::Candidate;
use super::{Due, Event, LinkId, Output, Refused, Server};
use crate::announcement::{Speed, State, Status};
use crate::failure::{Failure, Reason, Refusal};
use crate::frame::{self, Frame as _, RingFrame, Tenant, ToClient, ToServer};
use crate::job::Work;
use crate::limits;

impl Server {
    /// Returns the status that this server announces.
    #[must_use]
    pub fn status(&self) -> Status {
        // default: the largest number of a status stands for that many or more
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let state = if self.leaving.is_some() || self.stuck {
            State::Draining
        } else if self.announcer.is_joining {
            State::Joining
        } else {
            State::Ready
        };
        self.announcer.completed(Status {
            version: frame::VERSION,
            node: self.key.id(),
            manifest: self.holding.model.manifest,
            first: self.holding.span.start,
            end: self.holding.span.end,
            head: self.holding.head.is_some(),
            state,
            sessions: count(self.sessions.len()),
            sessions_limit: count(match self.holding.head {
                // Clients open them here.
                Some(_) => self.capacity.sessions,
                None => self.capacity.brought(),
            }),
            queue: count(self.scheduler.queue_depth()),
            // default: as above
            kv_pages_free: u32::try_from(self.kv_pages_free()).unwrap_or(u32::MAX),
            speed: Speed::UNKNOWN,
            neighbours: Vec::new(),
            adapters: Vec::new(),
            tags: Vec::new(),
            software: String::new(),
        })
    }

    pub(super) fn on_client_frame(&mut self, link: LinkId, peer: NodeId, body: &[u8]) {
        self.links.heard(End::Client(link), self.now);
        self.guests.heard(link, self.now);
        let frame = ToServer::from_body(body);
        if matches!(frame, Ok(ToServer::Open { .. } | ToServer::Challenge(_))) {
            self.guests.used(link, self.now);
        }
        match frame {
            Ok(ToServer::Cancel(session)) => self.on_cancel(link, session),
            Ok(ToServer::Challenge(challenge)) => self.on_challenge((link, peer), challenge),
            Ok(ToServer::Heartbeat) => {}
            Ok(ToServer::Open { request, lease }) => self.on_open((link, peer), *request, *lease),
            Ok(ToServer::Status) => {
                let status = self.status();
                let announcement = self.announcer.announce(status, self.now, &self.key);
                self.tell(link, &ToClient::Status(Box::new(announcement)));
            }
            Err(_) => {
                self.on_client_lost(link);
                self.out.push_back(Output::CloseClient(link));
            }
        }
    }

    fn on_open(&mut self, from: (LinkId, NodeId), request: Request, lease: Lease) {
        let session = lease.session;
        match self.checked(from, request, lease) {
            Ok(candidate) => self.admit(candidate),
            Err(refusal) => {
                self.tell(from.0, &ToClient::Refused { session, refusal });
                self.refused(Refused::Session, session, from.1, refusal);
            }
        }
    }

    /// Checks whether this server would serve a request, if it had room for it.
    fn checked(
        &mut self,
        (link, client): (LinkId, NodeId),
        request: Request,
        lease: Lease,
    ) -> Result<Candidate, Refusal> {
        if self.holding.head.is_none() {
            return Err(Refusal::NotHead);
        }
        self.admit_session(&lease.session)?;
        self.holding.admit_request(&request, &lease)?;
        let tenant = self.tenant_of(client);
        let seat = self.admit_lease(lease, RunId::NONE, tenant)?;
        if seat.place != 0 {
            return Err(Refusal::NotInRoute);
        }
        let deadline = self.now.after(limits::WAIT_US);
        Ok(Candidate { link, client, request: Arc::new(request), seat, deadline })
    }

    /// Begins the session of a request that has its place.
    pub(super) fn open(&mut self, candidate: Candidate) {
        let Candidate { link, client, request, seat, .. } = candidate;
        let Some(vocabulary) = self.holding.head.clone() else {
            return;
        };
        let tracker = StopTracker::new(
            request.stops.clone(),
            &self.holding.model.end_tokens,
            self.holding.model.context as usize,
            request.prompt.len(),
        );
        self.tell(link, &ToClient::Accepted(seat.session()));
        let head = Head::new(&seat, link, Arc::clone(&request), tracker, vocabulary);
        self.begin(seat, client, Some((Box::new(head), request)), Vec::new());
    }

    /// Takes a lease that came from a neighbour.
    pub(super) fn on_lease(
        &mut self,
        node: NodeId,
        lease: Lease,
        tenant: Tenant,
        runs: Vec<RunId>,
    ) {
        let session = lease.session;
        let place = lease.place_of(self.key.id());
        let opened = self.open_stage(node, (lease, tenant), runs);
        if let Err(reason) = opened {
            let failure = Failure { stage: place, by: place, reason };
            self.send(node, &RingFrame::Abort { session, failure });
            if let Some(refusal) = reason.refusal() {
                self.refused(Refused::Session, session, node, refusal);
            }
        }
    }

    /// Notes that something was refused.
    pub(super) fn refused(&mut self, what: Refused, about: Digest, node: NodeId, refusal: Refusal) {
        self.out.push_back(Output::Event(Event::Refused { what, about, node, refusal }));
    }

    fn open_stage(
        &mut self,
        node: NodeId,
        (lease, tenant): (Lease, Tenant),
        runs: Vec<RunId>,
    ) -> Result<(), Reason> {
        let seat = self.seat_of(node, (lease, tenant), &runs).map_err(Reason::Refused)?;
        let share = self.admit_share(node, &seat);
        share.map_err(|full| self.reason_of(full, node))?;
        self.begin(seat, node, None, runs);
        Ok(())
    }

    /// Checks whether this server would have a place in a session that the stage before brings, if
    /// it had room for it.
    fn seat_of(
        &mut self,
        node: NodeId,
        (lease, tenant): (Lease, Tenant),
        runs: &[RunId],
    ) -> Result<Seat, Refusal> {
        self.admit_session(&lease.session)?;
        let before = *runs.last().ok_or(Refusal::NotInRoute)?;
        let seat = self.admit_lease(lease, before, tenant)?;
        if seat.place == 0 || seat.prev.node != node || seat.place as usize != runs.len() {
            return Err(Refusal::NotInRoute);
        }
        Ok(seat)
    }

    fn admit_session(&self, session: &Digest) -> Result<(), Refusal> {
        let known = self.sessions.contains_key(session)
            || self.waiting.holds(session)
            || self.retained.holds(session)
            || self.ended.contains(session)
            || !self.scheduler.is_clear(session);
        if known {
            return Err(Refusal::Duplicate);
        }
        if self.leaving.is_some() {
            return Err(Refusal::Draining);
        }
        if self.stuck {
            return Err(Refusal::ExecutorFailed);
        }
        Ok(())
    }

    /// Returns on whose behalf a client's session is, as this stage 0 tells the others.
    fn tenant_of(&self, client: NodeId) -> Tenant {
        // default: the weight of everybody of whom nothing else was said
        let weight = self.weights.get(&client).copied().unwrap_or_default();
        Tenant { label: self.runs.label(client), weight }
    }

    fn admit_lease(
        &mut self,
        lease: Lease,
        before: RunId,
        tenant: Tenant,
    ) -> Result<Seat, Refusal> {
        let node = self.key.id();
        self.holding.admit_lease(&lease, node)?;
        let hidden = self.holding.model.hidden as usize;
        let run = (self.runs.next(&lease.session), before);
        Seat::find(Arc::new(lease), node, hidden, run, tenant).ok_or(Refusal::NotInRoute)
    }

    /// Begins a session that was admitted: makes room for it, and passes the lease on. `head` is
    /// there at stage 0.
    fn begin(
        &mut self,
        seat: Seat,
        holder: NodeId,
        head: Option<(Box<Head>, Arc<Request>)>,
        mut runs: Vec<RunId>,
    ) {
        let (id, place, next) = (seat.session(), seat.place as usize, seat.next.node);
        let lease = Arc::clone(&seat.lease);
        let (head, request) = head.unzip();
        let mut session = Session::new(seat, holder, head, self.now);
        for end in session.ends() {
            self.links.attach(end, self.now);
        }
        if session.seat.stages() > 1 {
            runs.push(session.seat.run.id());
            let (lease, tenant) = (Box::new(Lease::clone(&lease)), session.seat.tenant);
            let frame = RingFrame::Lease { lease, tenant, runs };
            self.send_to(next, session.seat.address_of_next(), &frame);
        }
        let mut effects = vec![Effect::Run(Work::Begin { lease, stage: place, request })];
        let started = session.start(&mut effects);
        self.scheduler.enter(id, session.seat.account());
        self.sessions.insert(id, session);
        self.out.push_back(Output::Event(Event::Opened { session: id, place }));
        self.apply(id, effects);
        if let Err(failure) = started {
            self.end(id, failure, None);
        }
    }

    fn on_cancel(&mut self, link: LinkId, session: Digest) {
        let Some(found) = self.sessions.get(&session) else {
            self.cancel_waiting(link, session);
            return;
        };
        if found.client() == Some(link) {
            let failure = found.seat.failure(None, Reason::Cancelled);
            self.end(session, failure, None);
        }
    }

    fn on_challenge(&mut self, from: (LinkId, NodeId), challenge: Box<Challenge>) {
        let (session, digest) = (challenge.session, challenge.statement());
        self.last_proof = self.now;
        let prices = &self.holding.model.prices;
        let pushed = match self.retained.ask(from, &challenge, prices, self.now) {
            Ok(Answer::Mark(mark)) => {
                let body = Opening::Mark(mark).to_bytes();
                let (link, peer) = from;
                self.due.push_back(Due::Answer { asked: Asked { link, peer, digest }, body });
                Ok(())
            }
            Ok(Answer::Cells) => {
                let work = Work::Answer { challenge: Arc::from(challenge) };
                self.scheduler.push(session, work).map_err(|_| Refusal::TooManyWaiting)
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = pushed {
            let (link, peer) = from;
            self.refuse_challenge(&Asked { link, peer, digest }, refusal);
        }
    }

    /// Signs an opening, and sends it to the client.
    pub(super) fn sign_opening(&mut self, asked: &Asked, body: Vec<u8>) {
        let opening = SignedOpening::new(asked.digest, body, &self.key);
        let frame = ToClient::Opening(Box::new(opening));
        match frame.to_wire() {
            Ok(wire) => {
                self.tally.answered(wire.len());
                self.out.push_back(Output::ToClient { link: asked.link, wire });
            }
            Err(_) => self.refuse_challenge(asked, Refusal::ExecutorFailed),
        }
    }

    pub(super) fn refuse_challenge(&mut self, asked: &Asked, refusal: Refusal) {
        let frame = ToClient::ChallengeRefused { challenge: asked.digest, refusal };
        self.tell(asked.link, &frame);
        self.refused(Refused::Challenge, asked.digest, asked.peer, refusal);
    }
}
