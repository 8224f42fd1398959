//! What stage 0 does beyond what every stage does, because it holds the head: the prompt goes out
//! in chunks, states come back, a token is sampled and goes out again.
//!
//! The next step starts before anything is signed. A token is told to the client only when the
//! marks of its step have come round, are checked, and the head has signed its own. Where the head
//! gives no token, because the state or the logits overflowed, the answer ends with its mark alone.

use std::collections::VecDeque;
use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::invariant::count;
use lockstep_exact::limits::CONTEXT as TOKENS;
use lockstep_exact::sample::{Finish, StopTracker};
use lockstep_exact::state::State;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_verify::request::Request;
use lockstep_verify::sign::Signature;
use lockstep_verify::statement::{
    HeadStatement, Mark, RunId, Segment, Step, token_digest, tokens_digest,
};

use super::LinkId;
use super::effect::{Effect, Turn};
use super::flight::Trail;
use super::seat::Seat;
use crate::chain::{Chain, Positions};
use crate::failure::{Failure, Reason};
use crate::frame::ToClient;
use crate::job::Work;
use crate::limits;

/// The number of prompt positions of one step.
const CHUNK: usize = limits::CHUNK_POSITIONS as usize;

/// The state of stage 0 in a session, beyond that of every stage.
#[derive(Debug)]
pub(super) struct Head {
    /// The link of the client that opened the session.
    pub(super) client: LinkId,
    request: Arc<Request>,
    vocabulary: Arc<Vocabulary>,
    tracker: StopTracker,
    /// Steps that have begun and whose marks have not been checked, oldest first.
    sent: VecDeque<Positions>,
    /// Marks that have come round and are not checked, oldest first.
    returned: VecDeque<Trail>,
    /// The chains to check marks against, known once the lease has come round.
    chains: Option<Chains>,
    /// The marks of the last stage for what the head read, oldest first: this server may be asked
    /// to show them.
    received: Vec<Mark>,
    /// The position and output digest of the last step whose marks were checked, if it feeds the
    /// head.
    checked: Option<(u32, Digest)>,
    /// Whether the executor works on a head cell.
    sampling: bool,
    /// The samples that have not been told to the client, oldest first.
    samples: VecDeque<Sample>,
    /// The token that goes out when the window has room.
    pending: Option<u32>,
    /// The tokens that the client was told.
    answer: Vec<u32>,
    finish: Option<Finish>,
}

/// The chains that start once the runs of all stages are known.
#[derive(Debug)]
struct Chains {
    /// The last stage's; `None` if that is this stage.
    last: Option<Chain>,
    /// The chain of the head itself.
    head: Chain,
    /// The run of the head itself.
    run: RunId,
    /// The last stage's run, which the head's names.
    before: RunId,
}

/// The choice of the head from one state.
#[derive(Debug)]
struct Sample {
    /// The position of the state that the head read.
    position: u32,
    /// The digest of the state that the head read.
    input: Digest,
    /// The token; `None` if the head gives none.
    token: Option<u32>,
}

impl Chains {
    fn new(seat: &Seat, last: RunId) -> Self {
        let run = seat.run.of_head(last, seat.layers()).id();
        let head = Chain::start_of_head(run, &seat.hop, seat.layers());
        let before = last;
        let last = (!seat.is_last()).then(|| Chain::start(before, seat.prev));
        Self { last, head, run, before }
    }
}

impl Head {
    /// Creates the head of a session in which no step has begun. `tracker` applies the request's
    /// stop rules.
    pub(super) fn new(
        seat: &Seat,
        client: LinkId,
        request: Arc<Request>,
        tracker: StopTracker,
        vocabulary: Arc<Vocabulary>,
    ) -> Self {
        // A ring of one stage knows all runs at once.
        let chains = seat.is_last().then(|| Chains::new(seat, seat.run.id()));
        Self {
            client,
            request,
            vocabulary,
            tracker,
            sent: VecDeque::new(),
            returned: VecDeque::new(),
            chains,
            received: Vec::new(),
            checked: None,
            sampling: false,
            samples: VecDeque::new(),
            pending: None,
            answer: Vec::new(),
            finish: None,
        }
    }

    /// Returns whether the runs of all stages are known, because the lease has come round.
    pub(super) const fn knows_runs(&self) -> bool {
        self.chains.is_some()
    }

    /// Tells the client the runs of all stages, which it has to know before the first marks.
    pub(super) fn tell_runs(&self, seat: &Seat, runs: Vec<RunId>, out: &mut Vec<Effect>) {
        let told = |chains: &Chains| {
            Effect::Tell(ToClient::Runs { session: seat.session(), runs, head: chains.run })
        };
        out.extend(self.chains.as_ref().map(told));
    }

    /// Takes the runs of all stages, which came with the lease when it had gone round.
    ///
    /// # Errors
    /// The last stage is blamed if they are not as many as the stages.
    pub(super) fn on_runs(
        &mut self,
        seat: &Seat,
        runs: Vec<RunId>,
        out: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let last = runs.last().copied().filter(|_| runs.len() == seat.stages());
        let last = last.ok_or_else(|| seat.blame_prev(Reason::BadFrame))?;
        self.chains = Some(Chains::new(seat, last));
        self.tell_runs(seat, runs, out);
        Ok(())
    }

    /// Returns the tokens of the step that begins now at position `first`: a chunk of the prompt,
    /// and after the prompt the last token. `None` while the window is full or there is no token
    /// yet.
    ///
    /// # Errors
    /// How the session ends: an invariant of this server's own does not hold.
    pub(super) fn next_step(
        &mut self,
        seat: &Seat,
        first: u32,
    ) -> Result<Option<(Positions, Vec<u32>)>, Failure> {
        if self.sent.len() >= limits::window(seat.stages()) {
            return Ok(None);
        }
        let ids: Vec<u32> = match self.request.prompt.get(first as usize..) {
            Some(rest @ [_, ..]) => rest.iter().take(CHUNK).copied().collect(),
            Some([]) | None => self.pending.take().into_iter().collect(),
        };
        if ids.is_empty() {
            return Ok(None);
        }
        let count = count::<CHUNK>(ids.len()).map_err(|broken| seat.internal(broken))?;
        let at = Positions { first, count };
        self.sent.push_back(at);
        Ok(Some((at, ids)))
    }

    /// Returns whether the head waits for the state at these positions, where `positions` have gone
    /// out.
    pub(super) fn awaits(&self, seat: &Seat, at: Positions, positions: u32) -> bool {
        let sampled = self.answer.len().saturating_add(self.samples.len());
        let is_next = at.first.checked_sub(seat.first_head_position());
        let is_next = is_next.is_some_and(|token| token as usize == sampled);
        !seat.is_last()
            && !self.sampling
            && self.finish.is_none()
            && is_next
            && at.count == 1
            && positions == at.end()
    }

    /// Has the executor choose a token from a state.
    pub(super) fn read(&mut self, position: u32, state: State, out: &mut Vec<Effect>) {
        self.sampling = true;
        out.push(Effect::Run(Work::Head { position, state }));
    }

    /// Takes the marks of all stages for a step, which came round. `false` if they are not those of
    /// the oldest step whose marks have not come.
    pub(super) fn on_marks(&mut self, seat: &Seat, position: u32, trail: Trail) -> bool {
        let expected = self.sent.get(self.returned.len());
        let fits = expected.is_some_and(|at| at.first == position)
            && !seat.is_last()
            && trail.len() == seat.stages();
        if fits {
            self.returned(trail);
        }
        fits
    }

    /// Takes the marks of all stages for the oldest step that was without.
    pub(super) fn returned(&mut self, trail: Trail) {
        self.returned.push_back(trail);
    }

    /// Takes the token that the executor chose from the state at `position`, and applies the stop
    /// rules. `false` if no token was asked for or there is no such token.
    pub(super) fn on_sampled(&mut self, position: u32, input: Digest, token: Option<u32>) -> bool {
        let was_asked = std::mem::take(&mut self.sampling);
        if !was_asked || token.is_some_and(|token| token as usize >= self.vocabulary.len()) {
            return false;
        }
        self.samples.push_back(Sample { position, input, token });
        self.finish = match token {
            Some(token) => self.tracker.push(token, &self.vocabulary),
            None => Some(Finish::Overflow),
        };
        self.pending = token.filter(|_| self.finish.is_none());
        true
    }

    /// Does one thing that is due: tells a token, or checks a step that came round. `false` if
    /// nothing was.
    ///
    /// # Errors
    /// The last stage's mark does not hold.
    pub(super) fn settle(&mut self, seat: &Seat, turn: &mut Turn<'_>) -> Result<bool, Failure> {
        if let Some(sample) = self.sample_to_tell() {
            self.tell(seat, &sample, turn)?;
        } else if let Some(trail) = self.returned.pop_front() {
            self.check_returned(seat, trail, &mut turn.out)?;
        } else {
            return Ok(false);
        }
        turn.out.push(Effect::Due);
        Ok(true)
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
        let chains = self.chains.as_mut().ok_or_else(bad)?;
        if let Some(last) = &mut chains.last {
            last.check(at, mark).map_err(|_| bad())?;
        }
        let feeds_head = at.end() > seat.first_head_position();
        self.received.extend(feeds_head.then_some(*mark));
        self.checked = feeds_head.then_some((at.end().saturating_sub(1), mark.output));
        let step = Step { position: at.first, count: at.count, marks: trail };
        out.push(Effect::Tell(ToClient::Step { session: seat.session(), step }));
        Ok(())
    }

    /// Returns the sample of the step that was checked last, if it has not been told.
    fn sample_to_tell(&mut self) -> Option<Sample> {
        let checked = self.checked.map(|(position, _)| position);
        self.samples.pop_front_if(|sample| checked == Some(sample.position))
    }

    /// Signs the head's mark and tells the client the token.
    fn tell(&mut self, seat: &Seat, sample: &Sample, turn: &mut Turn<'_>) -> Result<(), Failure> {
        if self.checked != Some((sample.position, sample.input)) {
            return Err(seat.blame_prev(Reason::BadMark));
        }
        let at = Positions { first: sample.position, count: 1 };
        let output = sample.token.map_or(Digest::ZERO, token_digest);
        let chains = self.chains.as_mut().ok_or_else(|| seat.blame_prev(Reason::BadMark))?;
        let mark = Box::new(chains.head.sign(at, sample.input, output, turn.key));
        let index = count::<TOKENS>(self.answer.len()).map_err(|broken| seat.internal(broken))?;
        let session = seat.session();
        self.answer.extend(sample.token);
        turn.out.push(Effect::Tell(match sample.token {
            Some(token) => ToClient::Token { session, index, token, mark },
            None => ToClient::Overflow { session, mark },
        }));
        Ok(())
    }

    /// Returns whether the answer is at its end and the client was told everything.
    pub(super) fn is_done(&self) -> bool {
        self.finish.is_some() && self.sent.is_empty() && self.samples.is_empty() && !self.sampling
    }

    /// Signs the head's statement and sends it to the client with the segments of all stages. Gives
    /// the marks that this stage has got from the last one.
    ///
    /// # Errors
    /// The answer is not at its end: a fault of this program.
    pub(super) fn finish(
        &mut self,
        seat: &Seat,
        segments: Vec<Segment>,
        turn: &mut Turn<'_>,
    ) -> Result<Vec<Mark>, Failure> {
        let chains = self.chains.as_ref().ok_or_else(|| seat.executor_failure())?;
        let statement = HeadStatement {
            session: seat.session(),
            before: chains.before,
            takeovers: Vec::new(),
            tokens: tokens_digest(&self.answer),
            finish: self.finish.ok_or_else(|| seat.executor_failure())?,
            chain: chains.head.value(),
            signature: Signature::NONE,
        };
        let head = Box::new(statement.signed(chains.run, turn.key));
        turn.out.push(Effect::Tell(ToClient::Finished { head, segments }));
        Ok(std::mem::take(&mut self.received))
    }
}
