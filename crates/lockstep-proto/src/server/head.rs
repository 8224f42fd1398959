//! A session at stage 0, which holds the head: the prompt goes out in chunks, states come back, a
//! token is sampled and goes out again.
//!
//! The next step starts before anything is signed. A token is told to the client only when the
//! marks of its step have come round, are checked, and the head has signed its own. Where the head
//! gives no token, because the state or the logits overflowed, the answer ends with its mark alone.

use std::collections::VecDeque;
use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::sample::{Finish, StopTracker};
use lockstep_exact::state::State;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_verify::request::Request;
use lockstep_verify::sign::{Keypair, Signature};
use lockstep_verify::statement::{
    HeadStatement, Mark, RunId, Segment, Step, token_digest, tokens_digest,
};

use super::LinkId;
use super::flight::{Flight, Trail};
use super::seat::{Effect, Roots, Seat};
use super::stage::{leaving_step, marks_frame};
use crate::chain::{Chain, Positions};
use crate::failure::{Failure, Reason};
use crate::frame::{self, RingFrame, ToClient};
use crate::job::{Forwarded, Outcome, Work};
use crate::limits;

/// A session at stage 0.
#[derive(Debug)]
pub(super) struct Head {
    /// Who opened it.
    pub(super) client: LinkId,
    request: Arc<Request>,
    vocabulary: Arc<Vocabulary>,
    tracker: StopTracker,
    flight: Flight,
    /// Positions that have gone out.
    gone: u32,
    /// Steps that have gone out and whose marks have not come round, oldest first.
    sent: VecDeque<Positions>,
    /// Marks that have come round and are not checked, oldest first.
    returned: VecDeque<Trail>,
    /// What is known once the lease has come round.
    round: Option<Round>,
    /// The marks of the last stage for what the head read, oldest first: this server may be asked
    /// to show them.
    received: Vec<Mark>,
    /// The output digest of the last step whose marks were checked, if it feeds the head.
    checked: Option<(u32, Digest)>,
    /// The executor works on a head cell.
    sampling: bool,
    /// What was sampled and not told, oldest first.
    samples: VecDeque<Sample>,
    /// The token that goes out when the window has room.
    pending: Option<u32>,
    /// Tokens told to the client.
    answer: Vec<u32>,
    finish: Option<Finish>,
    end: End,
}

/// The chains that start once the runs of all stages are known.
#[derive(Debug)]
struct Round {
    /// The last stage's; `None` if that is this stage.
    last: Option<Chain>,
    /// The head's own.
    head: Chain,
    /// The head's run.
    run: RunId,
    /// The last stage's run, which the head's names.
    before: RunId,
}

#[derive(Debug)]
struct Sample {
    /// The position of the state.
    position: u32,
    input: Digest,
    /// `None`: the head gives none.
    token: Option<u32>,
}

/// How far the end of a session has come at stage 0.
#[derive(Debug)]
enum End {
    /// Steps are under way.
    Open,
    /// The executor computes the roots.
    Rooting,
    /// The segments are going round.
    Closing,
}

impl Round {
    fn new(seat: &Seat, last: RunId) -> Self {
        let run = seat.run.of_head(last, seat.layers()).id();
        let head = Chain::start_of_head(run, &seat.hop, seat.layers());
        let before = last;
        let last = (!seat.is_last()).then(|| Chain::start(before, seat.prev));
        Self { last, head, run, before }
    }
}

impl Head {
    /// A session in which nothing has gone out.
    pub(super) fn new(
        seat: &Seat,
        client: LinkId,
        request: Arc<Request>,
        tracker: StopTracker,
        vocabulary: Arc<Vocabulary>,
    ) -> Self {
        // A ring of one stage is round at once.
        let round = seat.is_last().then(|| Round::new(seat, seat.run.id()));
        Self {
            client,
            request,
            vocabulary,
            tracker,
            flight: Flight::new(seat),
            gone: 0,
            sent: VecDeque::new(),
            returned: VecDeque::new(),
            round,
            received: Vec::new(),
            checked: None,
            sampling: false,
            samples: VecDeque::new(),
            pending: None,
            answer: Vec::new(),
            finish: None,
            end: End::Open,
        }
    }

    /// The runs of all stages, as the client is to know them before the first marks.
    pub(super) fn tell_runs(&self, seat: &Seat, runs: Vec<RunId>, out: &mut Vec<Effect>) {
        let told = |round: &Round| {
            Effect::Tell(ToClient::Runs { session: seat.session(), runs, head: round.run })
        };
        out.extend(self.round.as_ref().map(told));
    }

    /// The lease came round, with the runs of all stages.
    pub(super) fn on_round(
        &mut self,
        seat: &Seat,
        runs: Vec<RunId>,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let last = runs.last().copied().filter(|_| runs.len() == seat.stages());
        let last = last.ok_or_else(|| seat.blame_prev(Reason::BadFrame))?;
        self.round = Some(Round::new(seat, last));
        self.tell_runs(seat, runs, out);
        Ok(())
    }

    /// Whether the segments are going round.
    pub(super) const fn is_closing(&self) -> bool {
        matches!(self.end, End::Closing)
    }

    /// Sends chunks of the prompt, and then the last token, while the window has room.
    pub(super) fn feed(&mut self, seat: &Seat, out: &mut Vec<Effect>) {
        while self.sent.len() < limits::window(seat.stages()) {
            let rest = self.request.prompt.get(self.gone as usize..).unwrap_or_default();
            let chunk = rest.iter().take(limits::CHUNK_POSITIONS as usize).copied();
            let ids: Vec<u32> = if rest.is_empty() {
                self.pending.take().into_iter().collect()
            } else {
                chunk.collect()
            };
            if ids.is_empty() {
                return;
            }
            self.send(ids, out);
        }
    }

    fn send(&mut self, ids: Vec<u32>, out: &mut Vec<Effect>) {
        let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let at = Positions { first: self.gone, count };
        self.gone = at.end();
        self.flight.begin(at);
        self.sent.push_back(at);
        out.push(Effect::Run(Work::Tokens { position: at.first, ids }));
    }

    /// The state for the head came from the last stage.
    pub(super) fn on_step(
        &mut self,
        seat: &Seat,
        step: &frame::Step,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let sampled = self.answer.len().saturating_add(self.samples.len());
        let sampled = u32::try_from(sampled).unwrap_or(u32::MAX);
        let expected = seat.first_head_position().saturating_add(sampled);
        let fits = matches!(self.end, End::Open)
            && !seat.is_last()
            && step.epoch == 0
            && !self.sampling
            && self.finish.is_none()
            && step.position == expected
            && self.gone == expected.saturating_add(1)
            && step.state.len() == seat.row_bytes();
        if !fits {
            return Err(seat.blame_prev(Reason::BadFrame));
        }
        let state = State::parse(seat.hidden, &step.state)
            .map_err(|_| seat.blame_prev(Reason::BadState))?;
        self.run_head(step.position, state, out);
        Ok(())
    }

    fn run_head(&mut self, position: u32, state: State, out: &mut Vec<Effect>) {
        self.sampling = true;
        out.push(Effect::Run(Work::Head { position, state }));
    }

    /// The marks of all stages for the oldest step came from the last stage.
    pub(super) fn on_marks(
        &mut self,
        seat: &Seat,
        position: u32,
        trail: Trail,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let expected = self.sent.get(self.returned.len());
        let fits = expected.is_some_and(|at| at.first == position)
            && !seat.is_last()
            && trail.len() == seat.stages();
        if !fits {
            return Err(seat.blame_prev(Reason::BadFrame));
        }
        self.returned.push_back(trail);
        out.push(Effect::Due);
        Ok(())
    }

    /// The segments of all stages came from the last stage.
    pub(super) fn on_close(
        &mut self,
        seat: &Seat,
        segments: Vec<Segment>,
        key: &Keypair,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if !matches!(self.end, End::Closing) || !seat.fit(seat.stages(), &segments) {
            return Err(seat.blame_prev(Reason::BadFrame));
        }
        self.finished(seat, segments, key, out)
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
                if !matches!(self.end, End::Rooting) || !seat.fits(&layers) {
                    return Err(seat.executor_failure());
                }
                let (positions, chain) = (self.gone, self.flight.chain());
                let roots = Roots { positions, input_root, layers, chain, deadline_unix_ms };
                self.on_segment(seat, seat.segment(roots, key), key, out)
            }
            Outcome::Sampled { input, token } => self.on_sampled(seat, input, token, out),
            Outcome::Answered(_)
            | Outcome::Dropped
            | Outcome::Forgotten
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
        out.push(Effect::Due);
        let Some(step) = leaving_step(seat, at, done)? else {
            return Ok(());
        };
        if seat.is_last() {
            let state =
                State::parse(seat.hidden, &step.state).map_err(|_| seat.executor_failure())?;
            self.run_head(step.position, state, out);
        } else {
            out.push(Effect::Next(RingFrame::Step(step)));
        }
        Ok(())
    }

    /// Starts the next step, unless the answer is at its end.
    fn on_sampled(
        &mut self,
        seat: &Seat,
        input: Digest,
        token: Option<u32>,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let position = self.gone.saturating_sub(1);
        if !std::mem::take(&mut self.sampling) {
            return Err(seat.executor_failure());
        }
        if token.is_some_and(|token| token as usize >= self.vocabulary.len()) {
            return Err(seat.executor_failure());
        }
        out.push(Effect::Due);
        self.samples.push_back(Sample { position, input, token });
        self.finish = match token {
            Some(token) => self.tracker.push(token, &self.vocabulary),
            None => Some(Finish::Overflow),
        };
        self.pending = token.filter(|_| self.finish.is_none());
        self.feed(seat, out);
        Ok(())
    }

    /// Does one thing that is due: sign a mark, check a step that came round, tell a token, or end.
    pub(super) fn settle(
        &mut self,
        seat: &Seat,
        key: &Keypair,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if let Some((at, trail)) = self.flight.sign(seat, key)? {
            if seat.is_last() {
                self.returned.push_back(trail);
            } else {
                out.push(Effect::Next(marks_frame(seat, at, trail)));
            }
            out.push(Effect::Due);
        } else if let Some(sample) = self.sample_to_tell() {
            self.tell(seat, &sample, key, out)?;
        } else if let Some(trail) = self.returned.pop_front() {
            self.check_returned(seat, trail, out)?;
        } else if self.is_drained() {
            self.end = End::Rooting;
            out.push(Effect::Run(Work::Finish));
        }
        Ok(())
    }

    /// Checks the last stage's mark of the oldest step and passes all marks to the client.
    fn check_returned(
        &mut self,
        seat: &Seat,
        trail: Trail,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let bad = || seat.blame_prev(Reason::BadMark);
        let (Some(at), Some(mark)) = (self.sent.pop_front(), trail.last()) else {
            return Err(bad());
        };
        let round = self.round.as_mut().ok_or_else(bad)?;
        if let Some(last) = &mut round.last {
            last.check(at, mark).map_err(|_| bad())?;
        }
        let feeds_head = at.end() > seat.first_head_position();
        self.received.extend(feeds_head.then_some(*mark));
        self.checked = feeds_head.then_some((at.end().saturating_sub(1), mark.output));
        let step = Step { position: at.first, count: at.count, marks: trail };
        out.push(Effect::Tell(ToClient::Step { session: seat.session(), step }));
        self.feed(seat, out);
        out.push(Effect::Due);
        Ok(())
    }

    /// What was sampled from the step that has come round.
    fn sample_to_tell(&mut self) -> Option<Sample> {
        let checked = self.checked.map(|(position, _)| position);
        self.samples.pop_front_if(|sample| checked == Some(sample.position))
    }

    fn tell(
        &mut self,
        seat: &Seat,
        sample: &Sample,
        key: &Keypair,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        out.push(Effect::Due);
        if self.checked != Some((sample.position, sample.input)) {
            return Err(seat.blame_prev(Reason::BadMark));
        }
        let at = Positions { first: sample.position, count: 1 };
        let output = sample.token.map_or(Digest::ZERO, token_digest);
        let round = self.round.as_mut().ok_or_else(|| seat.blame_prev(Reason::BadMark))?;
        let mark = Box::new(round.head.sign(at, sample.input, output, key));
        let (session, index) = (seat.session(), self.answer.len());
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        self.answer.extend(sample.token);
        out.push(Effect::Tell(match sample.token {
            Some(token) => ToClient::Token { session, index, token, mark },
            None => ToClient::Overflow { session, mark },
        }));
        Ok(())
    }

    /// Whether the answer is at its end and nothing is under way.
    fn is_drained(&self) -> bool {
        matches!(self.end, End::Open)
            && self.finish.is_some()
            && self.sent.is_empty()
            && self.flight.is_empty()
            && self.samples.is_empty()
            && !self.sampling
    }

    fn on_segment(
        &mut self,
        seat: &Seat,
        segment: Segment,
        key: &Keypair,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let segments = vec![segment];
        if seat.is_last() {
            return self.finished(seat, segments, key, out);
        }
        self.end = End::Closing;
        out.push(Effect::Next(RingFrame::Close { session: seat.session(), segments }));
        Ok(())
    }

    fn finished(
        &mut self,
        seat: &Seat,
        segments: Vec<Segment>,
        key: &Keypair,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let round = self.round.as_ref().ok_or_else(|| seat.executor_failure())?;
        let statement = HeadStatement {
            session: seat.session(),
            before: round.before,
            takeovers: Vec::new(),
            tokens: tokens_digest(&self.answer),
            finish: self.finish.ok_or_else(|| seat.executor_failure())?,
            chain: round.head.value(),
            signature: Signature::NONE,
        };
        let head = Box::new(statement.signed(round.run, key));
        out.push(Effect::Tell(ToClient::Finished { head, segments }));
        let received = std::mem::take(&mut self.received);
        out.push(Effect::Retire { positions: self.gone, received });
        Ok(())
    }
}
