//! A session at a stage after the first: states come in, run through the span and go on.

use lockstep_exact::state::State;
use lockstep_verify::sign::Keypair;
use lockstep_verify::statement::Segment;

use super::flight::{Flight, Trail};
use super::seat::{Effect, Roots, Seat};
use crate::chain::Positions;
use crate::failure::{Failure, Reason};
use crate::frame::{RingFrame, Step};
use crate::job::{Forwarded, Outcome, Work};
use crate::limits;

/// A session at a stage after the first.
#[derive(Debug)]
pub(super) struct Stage {
    flight: Flight,
    /// Positions that have come.
    come: u32,
    end: End,
}

/// How far the end of a session has come at this stage.
#[derive(Debug)]
enum End {
    /// Steps may come.
    Open,
    /// No step comes any more; the segments of the stages before.
    Closing(Vec<Segment>),
    /// The executor computes the roots.
    Rooting(Vec<Segment>),
}

impl Stage {
    /// A session in which nothing has come.
    pub(super) fn new(seat: &Seat) -> Self {
        Self { flight: Flight::new(seat), come: 0, end: End::Open }
    }

    /// Whether a step has come.
    pub(super) const fn has_begun(&self) -> bool {
        self.come > 0
    }

    /// Whether the stage before has closed the session.
    pub(super) const fn is_closing(&self) -> bool {
        !matches!(self.end, End::Open)
    }

    /// States came from the stage before.
    pub(super) fn on_step(
        &mut self,
        seat: &Seat,
        step: &Step,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let bad = || seat.blame_prev(Reason::BadFrame);
        let at = self.place_of(seat, step).ok_or_else(bad)?;
        let state = State::parse(seat.hidden, &step.state)
            .map_err(|_| seat.blame_prev(Reason::BadState))?;
        self.come = at.end();
        self.flight.begin(at);
        out.push(Effect::Run(Work::States { position: at.first, state }));
        Ok(())
    }

    /// The positions of a step, if it is the one that comes next.
    fn place_of(&self, seat: &Seat, step: &Step) -> Option<Positions> {
        let rows = step.state.len().checked_div(seat.row_bytes())?;
        let at = Positions { first: step.position, count: u32::try_from(rows).ok()? };
        let in_prompt = at.end() <= seat.lease.prompt_len;
        let fits = matches!(self.end, End::Open)
            && step.state.len().is_multiple_of(seat.row_bytes())
            && step.epoch == 0
            && at.first == self.come
            && (1..=limits::CHUNK_POSITIONS).contains(&at.count)
            && (in_prompt || (at.count == 1 && at.first >= seat.lease.prompt_len))
            && at.end() <= seat.lease.max_positions
            && self.flight.len() < limits::window(seat.stages());
        fits.then_some(at)
    }

    /// The marks of a step came from the stage before.
    pub(super) fn on_marks(
        &mut self,
        seat: &Seat,
        position: u32,
        trail: Trail,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if !self.flight.arrived(position, trail) {
            return Err(seat.blame_prev(Reason::BadFrame));
        }
        out.push(Effect::Due);
        Ok(())
    }

    /// No step comes any more.
    pub(super) fn on_close(
        &mut self,
        seat: &Seat,
        segments: Vec<Segment>,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let fits = seat.fit(seat.place, &segments);
        if !matches!(self.end, End::Open) || !fits || self.come == 0 {
            return Err(seat.blame_prev(Reason::BadFrame));
        }
        self.end = End::Closing(segments);
        out.push(Effect::Due);
        Ok(())
    }

    /// The executor answered.
    pub(super) fn on_outcome(
        &mut self,
        seat: &Seat,
        outcome: Outcome,
        deadline_unix_ms: u64,
        key: &Keypair,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        match outcome {
            Outcome::Begun => Ok(()),
            Outcome::Forwarded(done) => self.on_forwarded(seat, done, out),
            Outcome::Refused(refusal) => Err(seat.own_failure(Reason::Refused(refusal))),
            Outcome::Rooted { input_root, layers } => {
                let End::Rooting(mut segments) = std::mem::replace(&mut self.end, End::Open) else {
                    return Err(seat.executor_failure());
                };
                if !seat.fits(&layers) {
                    return Err(seat.executor_failure());
                }
                let (positions, chain) = (self.come, self.flight.chain());
                let roots = Roots { positions, input_root, layers, chain, deadline_unix_ms };
                segments.push(seat.segment(roots, key));
                out.push(Effect::Next(RingFrame::Close { session: seat.session(), segments }));
                out.push(Effect::Retire { positions, received: self.flight.take_received() });
                Ok(())
            }
            Outcome::Answered(_)
            | Outcome::Dropped
            | Outcome::Forgotten
            | Outcome::Sampled { .. }
            | Outcome::Unfinished(_) => Err(seat.executor_failure()),
        }
    }

    fn on_forwarded(
        &mut self,
        seat: &Seat,
        done: Forwarded,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let at = self.flight.ran(&done).ok_or_else(|| seat.executor_failure())?;
        if let Some(step) = leaving_step(seat, at, done)? {
            out.push(Effect::Next(RingFrame::Step(step)));
        }
        out.push(Effect::Due);
        Ok(())
    }

    /// Signs one mark, or asks for the roots when all are signed and the session closes.
    pub(super) fn settle(
        &mut self,
        seat: &Seat,
        key: &Keypair,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if let Some((at, trail)) = self.flight.sign(seat, key)? {
            out.push(Effect::Next(marks_frame(seat, at, trail)));
            out.push(Effect::Due);
            return Ok(());
        }
        if self.flight.is_empty() {
            match std::mem::replace(&mut self.end, End::Open) {
                End::Closing(segments) => {
                    self.end = End::Rooting(segments);
                    out.push(Effect::Run(Work::Finish));
                }
                end @ (End::Open | End::Rooting(_)) => self.end = end,
            }
        }
        Ok(())
    }
}

/// A step's states for the next stage or the head, if any leave this stage.
pub(super) fn leaving_step(
    seat: &Seat,
    at: Positions,
    done: Forwarded,
) -> Result<Option<Step>, Failure> {
    let leaving = seat.leaving(at);
    let bytes = seat.row_bytes().checked_mul(leaving.count as usize);
    if bytes != Some(done.state.len()) {
        return Err(seat.executor_failure());
    }
    if leaving.count == 0 {
        return Ok(None);
    }
    let position = leaving.first;
    Ok(Some(Step { session: seat.session(), epoch: 0, position, state: done.state }))
}

/// The frame that takes a step's marks on.
pub(super) fn marks_frame(seat: &Seat, at: Positions, trail: Trail) -> RingFrame {
    RingFrame::Marks { session: seat.session(), position: at.first, trail }
}
