//! The machine of one request, from opening the session to the receipt.

use std::collections::VecDeque;
use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::invariant::Broken;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_verify::limits as proof;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{Hop, Lease, Request};
use lockstep_verify::sign::{Keypair, Signature};
use lockstep_verify::statement::Segment;

use super::error::{ClientError, SegmentFault};
use super::stream::Stream;
use crate::failure::{Failure, Reason, Refusal};
use crate::frame::{Frame as _, ToClient, ToServer};
use crate::life::{Life, Watch};
use crate::limits;
use crate::model::Model;
use crate::now::Now;

/// A request, and the route of servers that it is for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The request; it names the session's key.
    pub request: Request,
    /// The route of the ring, stage 0 at the beginning.
    pub route: Vec<Hop>,
    /// For each server of the route the address at which it can be reached, in the transport's text
    /// form; or no address at all.
    pub addresses: Vec<String>,
}

/// An input of the machine: what its driver tells it.
#[derive(Debug)]
pub enum Input {
    /// The user cancels the request.
    Cancel,
    /// A frame's body came from stage 0.
    Frame(Vec<u8>),
    /// The connection to stage 0 closed or could not be opened.
    Lost,
    /// The time of the deadline has come.
    Tick,
}

/// An output of the machine: what its driver has to do.
#[derive(Debug)]
pub enum Output {
    /// Tells the caller an event. [`Event::Finished`] or [`Event::Failed`] is the last one.
    Event(Event),
    /// Send bytes to stage 0, connecting first if need be.
    Send(Vec<u8>),
}

/// An event of a request under way.
#[derive(Debug)]
pub enum Event {
    /// Stage 0 has opened the session.
    Accepted,
    /// The request failed; tokens that came before are no answer.
    Failed(ClientError),
    /// The answer is complete and everything about it but its cells is checked.
    Finished(Box<Receipt>),
    /// A token came, and the signatures for it are checked.
    Token {
        /// The index of the token in the answer, from 0.
        index: u32,
        /// The id of the token.
        token: u32,
    },
}

/// The protocol state machine of one request. The driver calls [`handle`](Self::handle) with each
/// input, then [`poll`](Self::poll) until it returns `None`, and hands in [`Input::Tick`] when
/// [`deadline`](Self::deadline) comes; until [`is_over`](Self::is_over).
#[derive(Debug)]
pub struct Client {
    request: Request,
    lease: Lease,
    phase: Phase,
    life: Life,
    watch: Watch,
    now: Now,
    /// When the session began: before any stage can have signed anything in it.
    began: Now,
    /// When something last came that is not a heartbeat.
    moved: Now,
    out: VecDeque<Output>,
}

#[derive(Debug)]
enum Phase {
    Opening(Box<Stream>),
    Over,
    Streaming(Box<Stream>),
}

impl Client {
    /// Opens a session on a route. `session` is the key pair whose public half the request names,
    /// `vocabulary` the bytes of the model's tokens.
    ///
    /// # Errors
    /// [`ClientError::Request`] when no server could serve it, [`ClientError::TooLong`] when no
    /// frame holds it.
    pub fn new(
        now: Now,
        ask: Ask,
        session: &Keypair,
        model: &Model,
        vocabulary: Arc<Vocabulary>,
    ) -> Result<Self, ClientError> {
        let Ask { request, route, addresses } = ask;
        let lease =
            lease(&request, route, addresses, session, model).map_err(ClientError::Request)?;
        let stream = Stream::new(&request, &lease, model, vocabulary);
        let stream = stream.ok_or(ClientError::Request(Refusal::RouteInvalid))?;
        let mut watch = Watch::default();
        watch.pause(now);
        let mut client = Self {
            request,
            lease,
            phase: Phase::Opening(Box::new(stream)),
            life: Life::new(now, limits::HANDSHAKE_US),
            watch,
            now,
            began: now,
            moved: now,
            out: VecDeque::new(),
        };
        let (request, lease) = (client.request.clone(), client.lease.clone());
        let open = ToServer::Open { request: Box::new(request), lease: Box::new(lease) };
        let wire = open.to_wire().map_err(ClientError::TooLong)?;
        client.life.spoken(now);
        client.out.push_back(Output::Send(wire));
        Ok(client)
    }

    /// Returns the name of the session.
    #[must_use]
    pub const fn session(&self) -> Digest {
        self.lease.session
    }

    /// Returns the route of the ring, stage 0 at the beginning.
    #[must_use]
    pub fn route(&self) -> &[Hop] {
        &self.lease.route
    }

    /// Returns whether the request has ended, so that no output follows.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Takes an input at the time `now`; outputs are then taken by [`poll`](Self::poll).
    pub fn handle(&mut self, now: Now, input: Input) {
        self.now = self.now.max(now);
        let pause = self.watch.pause(self.now);
        self.life.excuse(pause, self.now);
        if self.is_over() {
            return;
        }
        let result = match input {
            Input::Cancel => Err(self.seen(None, Reason::Cancelled)),
            Input::Frame(body) => self.on_frame(&body),
            Input::Lost => Err(self.seen(Some(0), Reason::LinkLost)),
            Input::Tick => Ok(()),
        };
        if let Err(error) = result.and_then(|()| self.on_time()) {
            self.fail(error);
        }
    }

    /// Returns the next output, if there is one.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Returns the time at which [`Input::Tick`] must come, if nothing else does.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        let progress = self.moved.after(limits::CLIENT_PROGRESS_US);
        (!self.is_over()).then(|| self.life.deadline().min(progress))
    }

    fn on_frame(&mut self, body: &[u8]) -> Result<(), ClientError> {
        self.life.heard(self.now);
        let frame = ToClient::from_body(body).map_err(ClientError::Frame)?;
        let about = match &frame {
            ToClient::Failed { session, .. }
            | ToClient::Busy { session, .. }
            | ToClient::Overflow { session, .. }
            | ToClient::Refused { session, .. }
            | ToClient::Runs { session, .. }
            | ToClient::Step { session, .. }
            | ToClient::Token { session, .. }
            | ToClient::Accepted(session) => *session,
            ToClient::Finished { head, .. } => head.session,
            ToClient::Heartbeat | ToClient::Status(_) => return Ok(()),
            ToClient::ChallengeRefused { .. } | ToClient::Opening(_) => {
                return Err(ClientError::Order("answered a challenge that was not posed"));
            }
        };
        if about != self.lease.session {
            return Err(ClientError::Order("sent a frame of another session"));
        }
        self.moved = self.now;
        match (std::mem::replace(&mut self.phase, Phase::Over), frame) {
            (_, ToClient::Failed { failure, .. }) => {
                // It came from stage 0: it is a report, also where it names nobody as its source.
                let by = failure.by.or(Some(0));
                Err(ClientError::Failed(Failure { by, ..failure }))
            }
            (Phase::Opening(_), ToClient::Refused { refusal, .. }) => {
                Err(ClientError::Refused(refusal))
            }
            (Phase::Opening(_), ToClient::Busy { busy, .. }) => Err(ClientError::Busy(busy)),
            (Phase::Opening(stream), ToClient::Accepted(_)) => {
                self.phase = Phase::Streaming(stream);
                self.out.push_back(Output::Event(Event::Accepted));
                Ok(())
            }
            (Phase::Streaming(stream), frame) => self.on_answer(stream, frame),
            (Phase::Opening(_) | Phase::Over, _) => {
                Err(ClientError::Order("sent an answer before it opened the session"))
            }
        }
    }

    /// Takes a frame of the answer. The stream is put back unless it is at its end.
    fn on_answer(&mut self, mut stream: Box<Stream>, frame: ToClient) -> Result<(), ClientError> {
        let event = match frame {
            ToClient::Runs { runs, head, .. } => {
                stream.on_runs(runs, head)?;
                None
            }
            ToClient::Step { step, .. } => {
                stream.on_step(step)?;
                None
            }
            ToClient::Token { index, token, mark, .. } => {
                stream.on_token(index, token, *mark)?;
                Some(Event::Token { index, token })
            }
            ToClient::Overflow { mark, .. } => {
                stream.on_overflow(*mark)?;
                None
            }
            ToClient::Finished { head, segments } => {
                let receipt = stream.on_finished(&self.request, &self.lease, *head, segments)?;
                self.check_promises(&receipt)?;
                self.out.push_back(Output::Event(Event::Finished(Box::new(receipt))));
                return Ok(());
            }
            ToClient::Accepted(_)
            | ToClient::Busy { .. }
            | ToClient::ChallengeRefused { .. }
            | ToClient::Failed { .. }
            | ToClient::Heartbeat
            | ToClient::Opening(_)
            | ToClient::Refused { .. }
            | ToClient::Status(_) => {
                return Err(ClientError::Order("opened the session twice"));
            }
        };
        self.out.extend(event.map(Output::Event));
        self.phase = Phase::Streaming(stream);
        Ok(())
    }

    /// Checks that every stage has promised to answer challenges for long enough. A promise that
    /// was long enough when the session began names nobody: any stage after it may have held it up.
    fn check_promises(&self, receipt: &Receipt) -> Result<(), ClientError> {
        let least = |from: Now| from.after(limits::LEAST_RETENTION_US).unix_ms();
        let is_short = |segment: &Segment| segment.deadline_unix_ms < least(self.now);
        let short = (0..).zip(&receipt.segments).find(|(_, segment)| is_short(segment));
        let Some((stage, segment)) = short else { return Ok(()) };
        let was_short = segment.deadline_unix_ms < least(self.began);
        let fault = if was_short { SegmentFault::Promise } else { SegmentFault::Late };
        Err(ClientError::Segment { stage, fault })
    }

    fn on_time(&mut self) -> Result<(), ClientError> {
        if self.is_over() {
            return Ok(());
        }
        if self.life.is_silent(self.now) {
            return Err(self.seen(Some(0), Reason::StageSilent));
        }
        if self.now.since(self.moved) >= limits::CLIENT_PROGRESS_US {
            return Err(self.seen(Some(0), Reason::Stalled));
        }
        if self.life.wants_heartbeat(self.now) {
            self.send(&ToServer::Heartbeat);
        }
        Ok(())
    }

    /// Ends the session without an answer, and tells stage 0.
    fn fail(&mut self, error: ClientError) {
        self.phase = Phase::Over;
        self.send(&ToServer::Cancel(self.lease.session));
        self.out.push_back(Output::Event(Event::Failed(error)));
    }

    /// Returns the error of a failure that the client saw itself.
    const fn seen(&self, stage: Option<u32>, reason: Reason) -> ClientError {
        ClientError::Failed(Failure { stage, by: None, reason })
    }

    fn send(&mut self, frame: &ToServer) {
        self.life.spoken(self.now);
        match frame.to_wire() {
            Ok(wire) => self.out.push_back(Output::Send(wire)),
            // It is lost, and what waits for its effect ends at its deadline.
            Err(_) => drop(Broken::new("a frame without variable parts is too long")),
        }
    }
}

/// Makes and signs the lease that the client sends round the ring.
fn lease(
    request: &Request,
    route: Vec<Hop>,
    addresses: Vec<String>,
    session: &Keypair,
    model: &Model,
) -> Result<Lease, Refusal> {
    let max_positions = model.positions_needed(request).ok_or(Refusal::PromptLength)?;
    let prompt_len = u32::try_from(request.prompt.len()).map_err(|_| Refusal::PromptLength)?;
    if request.session_key != session.id() {
        return Err(Refusal::BadSignature);
    }
    // No server could read the frame, and the client would blame the one that closed its link.
    if addresses.iter().any(|address| address.len() > proof::ADDRESS_BYTES) {
        return Err(Refusal::RouteInvalid);
    }
    let lease = Lease {
        session: request.session(),
        epoch: 0,
        manifest: request.manifest,
        adapters: request.adapters.clone(),
        reuse: None,
        session_key: session.id(),
        prompt_len,
        max_positions,
        route,
        addresses,
        signature: Signature::NONE,
    };
    Ok(lease.signed(session))
}
