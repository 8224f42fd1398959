//! A session at stage 0, which holds the head: the prompt goes out in chunks, states come back, a
//! token is sampled and goes out again.
//!
//! The next step starts before anything is signed. A token is told to the client only when the
//! marks of its step have come round, are checked, and the head has signed its own; a step in
//! which a number overflowed ends the answer before that token.

use std::collections::VecDeque;
use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::sample::{Finish, StopTracker};
use lockstep_exact::state::State;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_verify::request::Request;
use lockstep_verify::sign::{Keypair, Signature};
use lockstep_verify::statement::{HeadStatement, Segment, Step, token_digest, tokens_digest};

use super::LinkId;
use super::flight::{Flight, Trail, first_cell};
use super::seat::{Effect, Roots, Seat};
use super::stage::{leaving_step, marks_frame};
use crate::chain::{Chain, Positions};
use crate::failure::{Failure, Reason};
use crate::frame::{self, RingFrame, ToClient};
use crate::job::{Cell, Forwarded, Outcome, Work};
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
    /// The last stage's chain; `None` if that is this stage.
    last: Option<Chain>,
    /// The output digest of the last step whose marks were checked, if it feeds the head.
    checked: Option<(u32, Digest)>,
    /// The executor works on a head cell.
    sampling: bool,
    /// Tokens that were sampled and not told, oldest first.
    samples: VecDeque<Sample>,
    /// The token that goes out when the window has room.
    pending: Option<u32>,
    chain: Chain,
    /// Tokens told to the client.
    answer: Vec<u32>,
    finish: Option<Finish>,
    overflow: Option<Cell>,
    end: End,
}

#[derive(Debug)]
struct Sample {
    /// The position of the state.
    position: u32,
    input: Digest,
    token: u32,
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

impl Head {
    /// A session in which nothing has gone out.
    pub(super) fn new(
        seat: &Seat,
        client: LinkId,
        request: Arc<Request>,
        tracker: StopTracker,
        vocabulary: Arc<Vocabulary>,
    ) -> Self {
        let session = seat.session();
        Self {
            client,
            request,
            vocabulary,
            tracker,
            flight: Flight::new(seat),
            gone: 0,
            sent: VecDeque::new(),
            returned: VecDeque::new(),
            last: (!seat.is_last()).then(|| Chain::start(session, seat.prev)),
            checked: None,
            sampling: false,
            samples: VecDeque::new(),
            pending: None,
            chain: Chain::start_of_head(session, &seat.hop, seat.layers()),
            answer: Vec::new(),
            finish: None,
            overflow: None,
            end: End::Open,
        }
    }

    /// Whether the segments are going round.
    pub(super) const fn is_closing(&self) -> bool {
        matches!(self.end, End::Closing)
    }

    /// Sends chunks of the prompt, and then the last token, while the window has room.
    pub(super) fn feed(&mut self, seat: &Seat, out: &mut Vec<Effect>) {
        while self.sent.len() < limits::window(seat.stages()) && self.overflow.is_none() {
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
            && trail.marks.len() == seat.stages()
            && trail.overflow.is_none_or(|cell| {
                expected.is_some_and(|at| at.contains(cell.position)) && cell.layer < seat.layers()
            });
        if !fits {
            return Err(seat.blame_prev(Reason::BadFrame));
        }
        self.returned.push_back(trail);
        out.push(Effect::Due);
        Ok(())
    }

    /// The segments of all stages came from the last stage.
    pub(super) fn on_close(
        &self,
        seat: &Seat,
        segments: Vec<Segment>,
        key: &Keypair,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if !matches!(self.end, End::Closing) || segments.len() != seat.stages() {
            return Err(seat.blame_prev(Reason::BadFrame));
        }
        self.finished(seat, segments, key, out);
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
                if !matches!(self.end, End::Rooting) || !seat.fits(&layers) {
                    return Err(seat.executor_failure());
                }
                let (positions, chain) = (self.gone, self.flight.chain());
                let roots = Roots { positions, input_root, layers, chain, deadline_unix_ms };
                self.on_segment(seat, seat.segment(roots, key), key, out);
                Ok(())
            }
            Outcome::Sampled { input, token } => self.on_sampled(seat, input, token, out),
            Outcome::Answered(_) | Outcome::Dropped => Err(seat.executor_failure()),
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
        out.push(Effect::Due);
        let Some(token) = token else {
            self.note_overflow(Some(Cell { position, layer: seat.layers() }));
            return Ok(());
        };
        if token as usize >= self.vocabulary.len() {
            return Err(seat.executor_failure());
        }
        self.samples.push_back(Sample { position, input, token });
        self.finish = self.tracker.push(token, &self.vocabulary);
        self.pending = self.finish.is_none().then_some(token);
        self.feed(seat, out);
        Ok(())
    }

    fn note_overflow(&mut self, cell: Option<Cell>) {
        self.overflow = first_cell(self.overflow, cell);
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
        let (Some(at), Some(mark)) = (self.sent.pop_front(), trail.marks.last()) else {
            return Err(bad());
        };
        if let Some(last) = &mut self.last {
            last.check(at, mark).map_err(|_| bad())?;
        }
        let feeds_head = at.end() > seat.first_head_position();
        self.checked = feeds_head.then_some((at.end().saturating_sub(1), mark.output));
        self.note_overflow(trail.overflow);
        let step = Step { position: at.first, count: at.count, marks: trail.marks };
        out.push(Effect::Tell(ToClient::Step { session: seat.session(), step }));
        self.feed(seat, out);
        out.push(Effect::Due);
        Ok(())
    }

    /// The token whose step has come round; a token after an overflow is forgotten.
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
        if self.overflow.is_some_and(|cell| cell.position <= sample.position) {
            return Ok(());
        }
        if self.checked != Some((sample.position, sample.input)) {
            return Err(seat.blame_prev(Reason::BadMark));
        }
        let at = Positions { first: sample.position, count: 1 };
        let mark = self.chain.sign(at, sample.input, token_digest(sample.token), key);
        let index = u32::try_from(self.answer.len()).unwrap_or(u32::MAX);
        self.answer.push(sample.token);
        out.push(Effect::Tell(ToClient::Token {
            session: seat.session(),
            index,
            token: sample.token,
            mark: Box::new(mark),
        }));
        Ok(())
    }

    /// Whether the answer is at its end and nothing is under way.
    fn is_drained(&self) -> bool {
        matches!(self.end, End::Open)
            && (self.finish.is_some() || self.overflow.is_some())
            && self.sent.is_empty()
            && self.flight.is_empty()
            && self.samples.is_empty()
            && !self.sampling
    }

    fn on_segment(&mut self, seat: &Seat, segment: Segment, key: &Keypair, out: &mut Vec<Effect>) {
        if seat.is_last() {
            self.finished(seat, vec![segment], key, out);
        } else {
            self.end = End::Closing;
            let segments = vec![segment];
            out.push(Effect::Next(RingFrame::Close { session: seat.session(), segments }));
        }
    }

    fn finished(&self, seat: &Seat, segments: Vec<Segment>, key: &Keypair, out: &mut Vec<Effect>) {
        let overflow = |cell: Cell| Finish::Overflow { position: cell.position, layer: cell.layer };
        let statement = HeadStatement {
            session: seat.session(),
            tokens: tokens_digest(&self.answer),
            finish: self.overflow.map(overflow).or(self.finish).unwrap_or(Finish::Length),
            chain: self.chain.value(),
            signature: Signature::NONE,
        };
        let head = Box::new(statement.signed(key));
        out.push(Effect::Tell(ToClient::Finished { head, segments }));
        out.push(Effect::Retire { positions: self.gone });
    }
}
