//! An answer as it grows: every mark, token and stop rule is checked as it comes.
//!
//! Everything comes through stage 0's hands, so a stage is named only for what its own statements
//! of one run contradict. Where the marks of two neighbours say different things of what went
//! between them, or their roots do, the answer goes on: the audit asks both, and finds out which.

use std::cmp::Ordering;
use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::sample::{Finish, StopTracker};
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{Hop, Lease, Request};
use lockstep_verify::statement::{
    HeadStatement, Mark, Run, RunId, Segment, Step, token_digest, tokens_digest,
};

use super::error::{ClientError, SegmentFault};
use crate::chain::{Chain, MarkFault, Positions};
use crate::limits;
use crate::model::Model;

/// An answer that has come so far, all of it checked.
#[derive(Debug)]
pub(super) struct Stream {
    session: Digest,
    route: Vec<Hop>,
    layers: u32,
    vocabulary: Arc<Vocabulary>,
    tracker: StopTracker,
    /// The runs of the stages and their chains, once the lease has come round.
    running: Option<Running>,
    /// The tokens of prompt and answer.
    tokens: Vec<u32>,
    /// The tokens of the answer alone.
    answer: Vec<u32>,
    prompt_len: usize,
    /// Positions that steps have covered.
    covered: u32,
    steps: Vec<Step>,
    head_marks: Vec<Mark>,
    finish: Option<Finish>,
}

/// The runs of all stages and of the head, as stage 0 has told them.
#[derive(Debug)]
struct Running {
    /// For each stage its run and its chain, in the order of the route.
    stages: Vec<(RunId, Chain)>,
    head_run: RunId,
    head: Chain,
}

impl Stream {
    /// Creates the stream of an answer of which nothing has come yet; `None` if the route is empty.
    pub(super) fn new(
        request: &Request,
        lease: &Lease,
        model: &Model,
        vocabulary: Arc<Vocabulary>,
    ) -> Option<Self> {
        lease.route.first()?;
        let tracker = StopTracker::new(
            request.stops.clone(),
            &model.end_tokens,
            model.context as usize,
            request.prompt.len(),
        );
        Some(Self {
            session: lease.session,
            route: lease.route.clone(),
            layers: model.layers,
            vocabulary,
            tracker,
            running: None,
            tokens: request.prompt.clone(),
            answer: Vec::new(),
            prompt_len: request.prompt.len(),
            covered: 0,
            steps: Vec::new(),
            head_marks: Vec::new(),
            finish: None,
        })
    }

    /// Returns the tokens of the answer so far.
    pub(super) fn answer(&self) -> &[u32] {
        &self.answer
    }

    /// Takes the runs of all stages and that of the head, which come before any mark.
    ///
    /// # Errors
    /// They came before, or are not one a stage.
    pub(super) fn on_runs(&mut self, runs: Vec<RunId>, head_run: RunId) -> Result<(), ClientError> {
        let first = self.route.first().filter(|_| self.running.is_none());
        let first = first.filter(|_| runs.len() == self.route.len());
        let first = first.ok_or(ClientError::Order("told the runs twice, or not one a stage"))?;
        let starts = runs.into_iter().zip(&self.route);
        let stages = starts.map(|(run, &hop)| (run, Chain::start(run, hop))).collect();
        let head = Chain::start_of_head(head_run, first, self.layers);
        self.running = Some(Running { stages, head_run, head });
        Ok(())
    }

    /// Takes the marks of the next step, and checks them.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub(super) fn on_step(&mut self, step: Step) -> Result<(), ClientError> {
        let at = Positions { first: step.position, count: step.count };
        let fed = self.tokens.get(at.first as usize..at.end() as usize);
        let in_prompt = at.end() as usize <= self.prompt_len;
        let fits = at.first == self.covered
            && (in_prompt || (at.first as usize >= self.prompt_len && at.count == 1))
            && (1..=limits::CHUNK_POSITIONS).contains(&at.count)
            && step.marks.len() == self.route.len();
        let fed = fed.filter(|_| fits).ok_or(ClientError::Order("sent a step out of order"))?;
        let running = self.running.as_mut();
        let running = running.ok_or(ClientError::Order("sent a step before the runs"))?;
        let position = at.first;
        let mut last = None;
        for ((stage, (_, chain)), mark) in (0..).zip(&mut running.stages).zip(&step.marks) {
            chain.check(at, mark).map_err(|fault| ClientError::Mark { stage, position, fault })?;
            if stage == 0 && mark.input != tokens_digest(fed) {
                return Err(ClientError::Fed { position });
            }
            last = Some((stage, mark.output));
        }
        let feeds_head = at.end() as usize >= self.prompt_len;
        let (stage, output) = last.ok_or(ClientError::Order("sent a step without marks"))?;
        if feeds_head == (output == Digest::ZERO) {
            return Err(ClientError::Mark { stage, position, fault: MarkFault::Output });
        }
        self.covered = at.end();
        self.steps.push(step);
        Ok(())
    }

    /// Takes the next token, and checks the head's mark for it.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub(super) fn on_token(
        &mut self,
        index: u32,
        token: u32,
        mark: Mark,
    ) -> Result<(), ClientError> {
        if index as usize != self.answer().len() {
            return Err(ClientError::Order("sent a token out of order"));
        }
        self.check_head_mark(&mark)?;
        if mark.output != token_digest(token) || token as usize >= self.vocabulary.len() {
            return Err(ClientError::Token { index });
        }
        self.tokens.push(token);
        self.answer.push(token);
        self.head_marks.push(mark);
        self.finish = self.tracker.push(token, &self.vocabulary);
        Ok(())
    }

    /// Takes the end for want of a token: the state that the head read, or its logits, overflowed.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub(super) fn on_overflow(&mut self, mark: Mark) -> Result<(), ClientError> {
        self.check_head_mark(&mark)?;
        if mark.output != Digest::ZERO {
            return Err(ClientError::Order("marked a token that it does not tell"));
        }
        self.head_marks.push(mark);
        self.finish = Some(Finish::Overflow);
        Ok(())
    }

    /// Checks the head's mark for the state of the last position, of which it has said nothing yet.
    fn check_head_mark(&mut self, mark: &Mark) -> Result<(), ClientError> {
        if self.covered as usize != self.tokens.len() {
            return Err(ClientError::Order("marked a token out of order"));
        }
        if self.finish.is_some() {
            return Err(ClientError::Stops { expected: self.finish, got: None });
        }
        let at = Positions { first: self.covered.saturating_sub(1), count: 1 };
        let position = at.first;
        let running = self.running.as_mut();
        let running = running.ok_or(ClientError::Order("sent a token before the runs"))?;
        running.head.check(at, mark).map_err(|fault| ClientError::HeadMark { position, fault })
    }

    /// The end: gives the receipt. Whether the marks and roots of neighbours agree is for the audit
    /// to say: it can ask them for what they got and sent.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub(super) fn on_finished(
        &mut self,
        request: &Request,
        lease: &Lease,
        head: HeadStatement,
        segments: Vec<Segment>,
    ) -> Result<Receipt, ClientError> {
        self.check_finish(head.finish)?;
        let running = self.running.take();
        let running = running.ok_or(ClientError::Order("ended before the runs"))?;
        self.check_head(&running, &head)?;
        if segments.len() != self.route.len() {
            return Err(ClientError::Order("sent not one segment a stage"));
        }
        let digest = lease.digest();
        let (mut before, mut head_run) = (RunId::NONE, None);
        for ((stage, segment), (hop, &(run, ref chain))) in
            (0..).zip(&segments).zip(self.route.iter().zip(&running.stages))
        {
            let expected = Run {
                session: self.session,
                lease: digest,
                before,
                first_position: 0,
                ..segment.run()
            };
            check_segment(segment, expected, run, hop)
                .and_then(|()| self.check_contents(segment, chain))
                .map_err(|fault| ClientError::Segment { stage, fault })?;
            head_run = head_run.or(Some(expected));
            before = run;
        }
        let head_run = head_run.map(|first| first.of_head(before, self.layers).id());
        let is_it = head_run == Some(running.head_run) && head.before == before;
        // Nobody has taken over: no lease of this client says so.
        if !is_it || !head.takeovers.is_empty() {
            return Err(ClientError::Head(SegmentFault::Run));
        }
        Ok(Receipt {
            request: request.clone(),
            lease: lease.clone(),
            placements: Vec::new(),
            answer: self.answer().to_vec(),
            finish: head.finish,
            segments,
            head,
            steps: std::mem::take(&mut self.steps),
            head_marks: std::mem::take(&mut self.head_marks),
        })
    }

    /// Checks that what a stage signed at the end is about what it has marked.
    fn check_contents(&self, segment: &Segment, chain: &Chain) -> Result<(), SegmentFault> {
        if u32::try_from(segment.layers.len()) != Ok(segment.end.saturating_sub(segment.first)) {
            return Err(SegmentFault::Layers);
        }
        match segment.positions.cmp(&self.covered) {
            Ordering::Less => return Err(SegmentFault::FewPositions),
            Ordering::Greater => return Err(SegmentFault::MorePositions),
            Ordering::Equal => {}
        }
        if segment.chain == chain.value() { Ok(()) } else { Err(SegmentFault::Chain) }
    }

    /// Checks that the answer ends exactly where the stop rules end it, or where the head marked
    /// that it gives no token, and that no step was fed beyond that.
    fn check_finish(&self, got: Finish) -> Result<(), ClientError> {
        let fed = match got {
            Finish::Overflow => self.tokens.len(),
            Finish::Context | Finish::EndToken | Finish::Length | Finish::StopString => {
                self.tokens.len().saturating_sub(1)
            }
        };
        if self.finish == Some(got) && self.covered as usize == fed {
            return Ok(());
        }
        Err(ClientError::Stops { expected: self.finish, got: Some(got) })
    }

    fn check_head(&self, running: &Running, head: &HeadStatement) -> Result<(), ClientError> {
        let node = self.route.first().ok_or(ClientError::Head(SegmentFault::Place))?.node;
        let fault = if head.session != self.session {
            SegmentFault::Place
        } else if head.tokens != tokens_digest(self.answer()) {
            SegmentFault::Tokens
        } else if head.chain != running.head.value() {
            SegmentFault::Chain
        } else if head.verify(running.head_run, node).is_err() {
            SegmentFault::Signature
        } else {
            return Ok(());
        };
        Err(ClientError::Head(fault))
    }
}

/// Checks that a segment is the stage's, for the client's lease, and for the run of its marks.
fn check_segment(
    segment: &Segment,
    expected: Run,
    run: RunId,
    hop: &Hop,
) -> Result<(), SegmentFault> {
    let place = (segment.session, segment.node, segment.first, segment.end);
    if place != (expected.session, hop.node, hop.first, hop.end) {
        return Err(SegmentFault::Place);
    }
    segment.verify().map_err(|_| SegmentFault::Signature)?;
    if segment.lease != expected.lease {
        return Err(SegmentFault::Lease);
    }
    let is_it = segment.run() == expected && expected.id() == run && segment.takeovers.is_empty();
    if is_it { Ok(()) } else { Err(SegmentFault::Run) }
}
