//! A session at this server: steps come in, run through the span, are signed and go on, until the
//! session closes.
//!
//! Every stage does this in the same way. Stage 0 has the [`Head`] beside it, where steps begin and
//! where they come back to; what a stage does differently because of that are the `match`es on it.
//!
//! Calls come in this order: [`Session::new`] and [`Session::start`] once; then
//! [`Session::on_frame`], [`Session::on_outcome`] and [`Session::settle`] in any order; none after
//! an error or an [`Effect::Retire`]. What a call wants of the server stands in its [`Turn`].
//!
//! Invariant: a state goes on before anything is signed, and a mark is signed only when the step
//! has run and the marks of the stages before have come and are checked.

use std::collections::BTreeSet;

use lockstep_exact::digest::Digest;
use lockstep_exact::state::State;
use lockstep_verify::sign::NodeId;
use lockstep_verify::statement::{LayerRoots, RunId, Segment};

use super::LinkId;
use super::effect::{Effect, Turn};
use super::flight::{Flight, Trail};
use super::head::Head;
use super::links::End;
use super::seat::{Roots, Seat};
use crate::chain::Positions;
use crate::failure::{Failure, Reason, Refusal};
use crate::frame::{RingFrame, Step};
use crate::job::{Forwarded, Outcome, Work};
use crate::limits;
use crate::now::Now;

/// The part of a session under way that concerns this stage.
#[derive(Debug)]
pub(super) struct Session {
    /// This stage's place in the route.
    pub(super) seat: Seat,
    /// The node that brought the session: the client at stage 0, the stage before at any other.
    pub(super) holder: NodeId,
    /// The state of stage 0 beyond that of every stage; `None` at every other stage.
    head: Option<Box<Head>>,
    /// The steps that have begun here and whose marks are not signed yet.
    flight: Flight,
    /// The positions of all steps that have begun here.
    positions: u32,
    phase: Phase,
    opened: Now,
    /// The time at which something last happened in the session.
    touched: Now,
    /// The time at which the client was last told a token.
    told: Option<Now>,
    /// The deadline that the segment names.
    pub(super) retain_until: Now,
}

/// The phase of a session at this stage, from its lease to its signed segment.
#[derive(Debug)]
enum Phase {
    /// The session is open: steps may come.
    Open,
    /// The stage before has closed the session and sent the segments of the stages so far; the
    /// steps under way are still to be signed. Stage 0 closes by itself and is never here.
    Closing(Vec<Segment>),
    /// Every step is signed and the executor computes the roots; the segments of the stages before.
    Rooting(Vec<Segment>),
    /// Stage 0 has signed its segment, and the segments go round the ring.
    Collecting,
}

impl Session {
    /// Creates a session that was admitted and in which nothing has happened; `head` is there at
    /// stage 0.
    pub(super) fn new(seat: Seat, holder: NodeId, head: Option<Box<Head>>, now: Now) -> Self {
        Self {
            head,
            flight: Flight::new(&seat),
            positions: 0,
            phase: Phase::Open,
            opened: now,
            touched: now,
            told: None,
            retain_until: now,
            seat,
            holder,
        }
    }

    /// Starts what this stage starts by itself: stage 0 sends the first chunks of the prompt.
    ///
    /// # Errors
    /// How the session ends: an invariant of this server's own does not hold.
    pub(super) fn start(&mut self, out: &mut Vec<Effect>) -> Result<(), Failure> {
        if let Some(head) = &self.head
            && self.seat.is_last()
        {
            head.tell_runs(&self.seat, vec![self.seat.run.id()], out);
        }
        self.feed(out)
    }

    /// Takes a frame that came from the stage before; at stage 0 that is the last one.
    ///
    /// # Errors
    /// How the session ends: the frame does not belong where it came.
    pub(super) fn on_frame(
        &mut self,
        frame: RingFrame,
        turn: &mut Turn<'_>,
    ) -> Result<(), Failure> {
        self.touched = turn.now;
        match frame {
            RingFrame::Lease { lease, runs, .. } if self.awaits_lease() => {
                if *lease != *self.seat.lease {
                    // Any stage of the ring may have changed it.
                    let changed = Reason::Refused(Refusal::LeaseMismatch);
                    return Err(self.seat.failure(None, changed));
                }
                self.on_lease(runs, &mut turn.out)
            }
            RingFrame::Lease { .. } => Err(self.seat.blame_prev(Reason::BadFrame)),
            RingFrame::Step(step) => self.on_step(&step, &mut turn.out),
            RingFrame::Marks { position, trail, .. } => {
                self.on_marks(position, trail, &mut turn.out)
            }
            RingFrame::Close { segments, .. } => self.on_close(segments, turn),
            RingFrame::Abort { .. } | RingFrame::Heartbeat => Ok(()),
        }
    }

    /// Takes what the executor made of the oldest work that it was given for this session.
    ///
    /// # Errors
    /// How the session ends: the executor refused, or answered something that was not asked.
    pub(super) fn on_outcome(
        &mut self,
        outcome: Outcome,
        turn: &mut Turn<'_>,
    ) -> Result<(), Failure> {
        self.touched = turn.now;
        self.retain_until = turn.now.after(turn.retention_us);
        match outcome {
            Outcome::Begun => Ok(()),
            Outcome::Forwarded(done) => self.on_forwarded(done, &mut turn.out),
            Outcome::Refused(refusal) => Err(self.seat.own_failure(Reason::Refused(refusal))),
            Outcome::Rooted { input_root, layers } => self.on_rooted(input_root, layers, turn),
            Outcome::Sampled { input, token } => self.on_sampled(input, token, &mut turn.out),
            Outcome::Answered(_)
            | Outcome::Dropped
            | Outcome::Forgotten
            | Outcome::Unfinished(_) => Err(self.seat.executor_failure()),
        }
    }

    /// Does one thing that is due, if anything is: signs a mark; at stage 0 checks what came round
    /// or tells a token; has the roots computed when everything else is done.
    ///
    /// # Errors
    /// How the session ends: a mark of the stage before does not hold.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>) -> Result<(), Failure> {
        if let Some((at, trail)) = self.flight.sign(&self.seat, turn.key)? {
            match &mut self.head {
                Some(head) if self.seat.is_last() => head.returned(trail),
                Some(_) | None => {
                    let (session, position) = (self.seat.session(), at.first);
                    turn.out.push(Effect::Next(RingFrame::Marks { session, position, trail }));
                }
            }
            turn.out.push(Effect::Due);
            return Ok(());
        }
        if let Some(head) = &mut self.head
            && head.settle(&self.seat, turn)?
        {
            self.feed(&mut turn.out)?;
        } else if let Some(segments) = self.segments_before_roots() {
            self.phase = Phase::Rooting(segments);
            turn.out.push(Effect::Run(Work::Finish));
        }
        Ok(())
    }

    /// Returns the time at which the session began here.
    pub(super) const fn opened(&self) -> Now {
        self.opened
    }

    /// Returns the time at which the session ends if nothing happens until then.
    pub(super) fn deadline(&self) -> Now {
        match &self.head {
            Some(_) if self.awaits_lease() => self.opened.after(limits::ROUND_US),
            Some(_) => self.touched.after(limits::PROGRESS_US),
            None if self.is_half_open() => self.opened.after(limits::FIRST_STEP_US),
            None => self.touched.after(limits::IDLE_US),
        }
    }

    /// Notes that the client is told a token, and returns when the session was opened, and when the
    /// client was told a token before, if it was.
    pub(super) const fn token_told(&mut self, now: Now) -> (Now, Option<Now>) {
        (self.opened, self.told.replace(now))
    }

    /// Returns the failure with which the session ends at that deadline.
    pub(super) fn overdue(&self) -> Failure {
        let reason = match &self.head {
            Some(_) if self.awaits_lease() => Reason::HandshakeTimeout,
            Some(_) => Reason::Stalled,
            None => Reason::Idle,
        };
        self.seat.failure(None, reason)
    }

    /// Returns whether no step has come yet, at a stage other than stage 0.
    pub(super) const fn is_half_open(&self) -> bool {
        self.head.is_none() && self.positions == 0
    }

    /// Returns the link of the client, at stage 0.
    pub(super) fn client(&self) -> Option<LinkId> {
        self.head.as_ref().map(|head| head.client)
    }

    /// Returns the ends of the links that the session uses now. Only a stage that has something to
    /// do for the session can be heard of: not the last one, at stage 0, before the lease has come
    /// round; and no stage that has passed on the close. Whoever holds those up must not be
    /// mistaken for them.
    pub(super) fn ends(&self) -> BTreeSet<End> {
        let (uses_prev, uses_next) = match &self.head {
            Some(_) => (!self.awaits_lease(), !matches!(self.phase, Phase::Collecting)),
            None => (matches!(self.phase, Phase::Open), true),
        };
        let is_ring = self.seat.stages() > 1;
        let prev = (is_ring && uses_prev).then_some(End::Stage(self.seat.prev.node));
        let next = (is_ring && uses_next).then_some(End::Stage(self.seat.next.node));
        let client = self.client().map(End::Client);
        client.into_iter().chain(prev).chain(next).collect()
    }

    /// Returns whether frames of a node may end this session.
    pub(super) fn is_neighbour(&self, node: NodeId) -> bool {
        self.ends().contains(&End::Stage(node))
    }

    /// Returns the place of a node in the route.
    pub(super) fn place_of(&self, node: NodeId) -> Option<u32> {
        self.seat.lease.place_of(node)
    }

    /// Returns whether the lease is still to come round, at stage 0.
    fn awaits_lease(&self) -> bool {
        self.head.as_ref().is_some_and(|head| !head.knows_runs())
    }

    /// Takes the runs of all stages, with which the lease came round.
    fn on_lease(&mut self, runs: Vec<RunId>, out: &mut Vec<Effect>) -> Result<(), Failure> {
        match &mut self.head {
            Some(head) => head.on_runs(&self.seat, runs, out),
            None => Err(self.seat.blame_prev(Reason::BadFrame)),
        }
    }

    /// States came: for the span, or at stage 0 for the head.
    fn on_step(&mut self, step: &Step, out: &mut Vec<Effect>) -> Result<(), Failure> {
        let at = self.positions_of(step);
        let at = at.ok_or_else(|| self.seat.blame_prev(Reason::BadFrame))?;
        let state = State::parse(self.seat.hidden, &step.state)
            .map_err(|_| self.seat.blame_prev(Reason::BadState))?;
        match &mut self.head {
            Some(head) => head.read(at.first, state, out),
            None => {
                self.begin(at);
                out.push(Effect::Run(Work::States { position: at.first, state }));
            }
        }
        Ok(())
    }

    /// Returns the positions of a step, if it is the one that comes next.
    fn positions_of(&self, step: &Step) -> Option<Positions> {
        let rows = step.state.len().checked_div(self.seat.row_bytes())?;
        let Ok(count) = u32::try_from(rows) else { return None };
        let at = Positions { first: step.position, count };
        let is_next = match &self.head {
            Some(head) => head.awaits(&self.seat, at, self.positions),
            None => self.is_next(at),
        };
        let fits = matches!(self.phase, Phase::Open)
            && step.state.len().is_multiple_of(self.seat.row_bytes())
            && step.epoch == 0
            && is_next;
        fits.then_some(at)
    }

    /// Returns whether a step with these positions may begin, at a stage other than stage 0.
    fn is_next(&self, at: Positions) -> bool {
        let lease = &self.seat.lease;
        let in_prompt = at.end() <= lease.prompt_len;
        at.first == self.positions
            && (1..=limits::CHUNK_POSITIONS).contains(&at.count)
            && (in_prompt || (at.count == 1 && at.first >= lease.prompt_len))
            && at.end() <= lease.max_positions
            && self.flight.len() < limits::window(self.seat.stages())
    }

    /// Takes the marks of a step, of all stages before.
    fn on_marks(
        &mut self,
        position: u32,
        trail: Trail,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let fits = match &mut self.head {
            Some(head) => head.on_marks(&self.seat, position, trail),
            None => self.flight.arrived(position, trail),
        };
        if !fits {
            return Err(self.seat.blame_prev(Reason::BadFrame));
        }
        out.push(Effect::Due);
        Ok(())
    }

    /// Takes the segments of the stages before, after which no step comes any more. At stage 0 they
    /// are those of all stages, and the session is over.
    fn on_close(&mut self, segments: Vec<Segment>, turn: &mut Turn<'_>) -> Result<(), Failure> {
        let seat = &self.seat;
        let fits = match (&self.head, &self.phase) {
            (Some(_), Phase::Collecting) => seat.fit(seat.stages(), &segments),
            (None, Phase::Open) => self.positions > 0 && seat.fit(seat.place as usize, &segments),
            (Some(_) | None, _) => false,
        };
        if !fits {
            return Err(seat.blame_prev(Reason::BadFrame));
        }
        if self.head.is_some() {
            return self.finish(segments, turn);
        }
        self.phase = Phase::Closing(segments);
        turn.out.push(Effect::Due);
        Ok(())
    }

    /// Takes the states of the oldest step that the executor had not run: they go on, or to the
    /// head.
    fn on_forwarded(&mut self, done: Forwarded, out: &mut Vec<Effect>) -> Result<(), Failure> {
        let at = self.flight.ran(&done).ok_or_else(|| self.seat.executor_failure())?;
        out.push(Effect::Due);
        let Some(step) = self.seat.leaving_step(at, done)? else {
            return Ok(());
        };
        match &mut self.head {
            Some(head) if self.seat.is_last() => {
                let state = State::parse(self.seat.hidden, &step.state)
                    .map_err(|_| self.seat.executor_failure())?;
                head.read(step.position, state, out);
            }
            Some(_) | None => out.push(Effect::Next(RingFrame::Step(step))),
        }
        Ok(())
    }

    /// Takes the head's choice of a token: the next step starts, unless the answer is at its end.
    fn on_sampled(
        &mut self,
        input: Digest,
        token: Option<u32>,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let position = self.positions.saturating_sub(1);
        let head = self.head.as_mut();
        if !head.is_some_and(|head| head.on_sampled(position, input, token)) {
            return Err(self.seat.executor_failure());
        }
        out.push(Effect::Due);
        self.feed(out)
    }

    /// Takes the roots that the executor computed: this stage signs its segment, and the close goes
    /// on.
    fn on_rooted(
        &mut self,
        input_root: Digest,
        layers: Vec<LayerRoots>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Failure> {
        let mut segments = match &mut self.phase {
            Phase::Rooting(segments) if self.seat.fits(&layers) => std::mem::take(segments),
            Phase::Closing(_) | Phase::Collecting | Phase::Open | Phase::Rooting(_) => {
                return Err(self.seat.executor_failure());
            }
        };
        let (positions, chain) = (self.positions, self.flight.chain());
        let deadline_unix_ms = self.retain_until.unix_ms();
        let roots = Roots { positions, input_root, layers, chain, deadline_unix_ms };
        segments.push(self.seat.segment(roots, turn.key));
        if self.head.is_some() && self.seat.is_last() {
            return self.finish(segments, turn);
        }
        turn.out.push(Effect::Next(RingFrame::Close { session: self.seat.session(), segments }));
        if self.head.is_some() {
            self.phase = Phase::Collecting;
        } else {
            turn.out.push(Effect::Retire { positions, received: self.flight.take_received() });
        }
        Ok(())
    }

    /// Sends all segments to the client, from stage 0, and ends the session.
    fn finish(&mut self, segments: Vec<Segment>, turn: &mut Turn<'_>) -> Result<(), Failure> {
        let head = self.head.as_mut().ok_or_else(|| self.seat.executor_failure())?;
        let received = head.finish(&self.seat, segments, turn)?;
        turn.out.push(Effect::Retire { positions: self.positions, received });
        Ok(())
    }

    /// Returns the segments of the stages before, when all steps are signed and the roots are due.
    fn segments_before_roots(&mut self) -> Option<Vec<Segment>> {
        if !self.flight.is_empty() {
            return None;
        }
        match (&self.head, &mut self.phase) {
            (Some(head), Phase::Open) => head.is_done().then(Vec::new),
            (None, Phase::Closing(segments)) => Some(std::mem::take(segments)),
            (Some(_) | None, _) => None,
        }
    }

    /// Begins steps at stage 0 while the window has room: the chunks of the prompt, then tokens.
    fn feed(&mut self, out: &mut Vec<Effect>) -> Result<(), Failure> {
        while let Some(head) = &mut self.head
            && let Some((at, ids)) = head.next_step(&self.seat, self.positions)?
        {
            self.begin(at);
            out.push(Effect::Run(Work::Tokens { position: at.first, ids }));
        }
        Ok(())
    }

    /// Notes that a step has begun, which the executor runs.
    fn begin(&mut self, at: Positions) {
        self.flight.begin(at);
        self.positions = at.end();
    }
}
