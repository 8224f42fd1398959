//! The steps of one session that are in flight at a stage: begun, and not signed yet.
//!
//! Per step two things come, in any order: what the executor made of it, and the marks of the
//! stages before. Only with both, and with the predecessor's mark checked against what really came
//! in, does this stage sign its own. Steps are signed in order, because marks are chained.

use std::collections::VecDeque;

use lockstep_exact::digest::Digest;
use lockstep_verify::sign::Keypair;
use lockstep_verify::statement::Mark;

use super::seat::Seat;
use crate::chain::{Chain, Positions};
use crate::failure::{Failure, Reason};
use crate::job::Forwarded;

/// The marks of one step, of the stages so far in order.
pub(super) type Trail = Vec<Mark>;

#[derive(Debug)]
struct Step {
    at: Positions,
    ran: Option<Ran>,
    trail: Option<Trail>,
}

#[derive(Debug)]
struct Ran {
    input: Digest,
    output: Digest,
}

/// The steps on their way through one stage.
#[derive(Debug)]
pub(super) struct Flight {
    steps: VecDeque<Step>,
    own: Chain,
    /// `None` at stage 0, whose input is tokens.
    before: Option<Chain>,
    /// The marks of the stage before that were checked, oldest first: this stage may be asked to
    /// show them.
    received: Vec<Mark>,
}

impl Flight {
    /// Creates the flight of a session in which no step has begun.
    pub(super) fn new(seat: &Seat) -> Self {
        Self {
            steps: VecDeque::new(),
            own: Chain::start(seat.run.id(), seat.hop),
            before: (seat.place > 0).then(|| Chain::start(seat.run.before, seat.prev)),
            received: Vec::new(),
        }
    }

    /// Notes that a step goes to the executor. At stage 0, where no stage is before, its marks are
    /// there at once.
    pub(super) fn begin(&mut self, at: Positions) {
        let trail = self.before.is_none().then(Trail::default);
        self.steps.push_back(Step { at, ran: None, trail });
    }

    /// Notes what the executor made of the oldest step that it had not run, and returns the step's
    /// positions; `None` if there is no such step.
    pub(super) fn ran(&mut self, done: &Forwarded) -> Option<Positions> {
        let step = self.steps.iter_mut().find(|step| step.ran.is_none())?;
        step.ran = Some(Ran { input: done.input, output: done.output });
        Some(step.at)
    }

    /// Notes the marks of the stages before for the oldest step that has none yet. `false` if they
    /// are about another step.
    pub(super) fn arrived(&mut self, position: u32, trail: Trail) -> bool {
        match self.steps.iter_mut().find(|step| step.trail.is_none()) {
            Some(step) if step.at.first == position => {
                step.trail = Some(trail);
                true
            }
            _ => false,
        }
    }

    /// Signs the mark of the oldest step if it has run and its marks have come; returns its
    /// positions and the marks of all stages so far. `None` while something is missing.
    ///
    /// # Errors
    /// The predecessor's mark is not signed, not linked, or not about what it sent.
    pub(super) fn sign(
        &mut self,
        seat: &Seat,
        key: &Keypair,
    ) -> Result<Option<(Positions, Trail)>, Failure> {
        let ready = |step: &mut Step| step.ran.is_some() && step.trail.is_some();
        let Some(step) = self.steps.pop_front_if(ready) else {
            return Ok(None);
        };
        let (Some(ran), Some(mut trail)) = (step.ran, step.trail) else {
            return Ok(None);
        };
        if let Some(before) = &mut self.before {
            let bad = || seat.blame_prev(Reason::BadMark);
            let last = trail.last().ok_or_else(bad)?;
            if trail.len() != seat.place as usize || last.output != ran.input {
                return Err(bad());
            }
            before.check(step.at, last).map_err(|_| bad())?;
            self.received.push(*last);
        }
        trail.push(self.own.sign(step.at, ran.input, ran.output, key));
        Ok(Some((step.at, trail)))
    }

    /// Takes the marks of the stage before that were checked, oldest first.
    pub(super) fn take_received(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.received)
    }

    /// Returns the number of steps in flight.
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Returns whether no step is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Returns the value of this stage's chain after its last mark.
    pub(super) const fn chain(&self) -> Digest {
        self.own.value()
    }
}
