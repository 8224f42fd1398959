//! An answer as it grows: every mark, link, token and stop rule is checked as it comes.

use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::sample::{Finish, StopTracker};
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{Hop, Lease, Request};
use lockstep_verify::statement::{HeadStatement, Mark, Segment, Step, token_digest, tokens_digest};

use super::error::{ClientError, SegmentFault};
use crate::chain::{Chain, Positions};
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
    chains: Vec<Chain>,
    head_chain: Chain,
    /// Prompt and answer.
    tokens: Vec<u32>,
    prompt_len: usize,
    /// Positions that steps have covered.
    covered: u32,
    /// What the last step gave to the head.
    last_output: Digest,
    steps: Vec<Step>,
    head_marks: Vec<Mark>,
    finish: Option<Finish>,
}

impl Stream {
    /// Nothing has come yet. `None`: the route is empty.
    pub(super) fn new(
        request: &Request,
        lease: &Lease,
        model: &Model,
        vocabulary: Arc<Vocabulary>,
    ) -> Option<Self> {
        let session = lease.session;
        let head = lease.route.first()?;
        let tracker = StopTracker::new(
            request.stops.clone(),
            &model.end_tokens,
            model.context as usize,
            request.prompt.len(),
        );
        Some(Self {
            session,
            route: lease.route.clone(),
            layers: model.layers,
            vocabulary,
            tracker,
            chains: lease.route.iter().map(|&hop| Chain::start(session, hop)).collect(),
            head_chain: Chain::start_of_head(session, head, model.layers),
            tokens: request.prompt.clone(),
            prompt_len: request.prompt.len(),
            covered: 0,
            last_output: Digest::ZERO,
            steps: Vec::new(),
            head_marks: Vec::new(),
            finish: None,
        })
    }

    /// Tokens of the answer so far.
    pub(super) fn answer(&self) -> &[u32] {
        self.tokens.get(self.prompt_len..).unwrap_or_default()
    }

    /// The marks of the next step.
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
            && step.marks.len() == self.chains.len();
        let fed = fed.filter(|_| fits).ok_or(ClientError::Order("sent a step out of order"))?;
        let mut given = tokens_digest(fed);
        let mut before = None;
        for ((stage, chain), mark) in (0..).zip(&mut self.chains).zip(&step.marks) {
            let position = at.first;
            chain.check(at, mark).map_err(|fault| ClientError::Mark { stage, position, fault })?;
            if mark.input != given {
                return Err(ClientError::BrokenLink { before, after: stage, position });
            }
            given = mark.output;
            before = Some(stage);
        }
        let feeds_head = at.end() as usize >= self.prompt_len;
        if feeds_head == (given == Digest::ZERO) {
            let after = before.unwrap_or_default();
            let position = at.first;
            return Err(ClientError::BrokenLink { before: None, after, position });
        }
        self.covered = at.end();
        self.last_output = given;
        self.steps.push(step);
        Ok(())
    }

    /// The next token.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub(super) fn on_token(
        &mut self,
        index: u32,
        token: u32,
        mark: Mark,
    ) -> Result<(), ClientError> {
        let in_order =
            index as usize == self.answer().len() && self.covered as usize == self.tokens.len();
        if !in_order {
            return Err(ClientError::Order("sent a token out of order"));
        }
        if self.finish.is_some() {
            return Err(ClientError::Stops { expected: self.finish, got: None });
        }
        let at = Positions { first: self.covered.saturating_sub(1), count: 1 };
        let position = at.first;
        self.head_chain
            .check(at, &mark)
            .map_err(|fault| ClientError::HeadMark { position, fault })?;
        if mark.input != self.last_output {
            return Err(ClientError::BrokenLink { before: None, after: 0, position });
        }
        if mark.output != token_digest(token) || token as usize >= self.vocabulary.len() {
            return Err(ClientError::Token { index });
        }
        self.tokens.push(token);
        self.head_marks.push(mark);
        self.finish = self.tracker.push(token, &self.vocabulary);
        Ok(())
    }

    /// The end: gives the receipt. Whether the roots of neighbours agree is for the audit to say:
    /// it can ask both to open what they signed.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub(super) fn on_finished(
        &mut self,
        request: &Request,
        head: HeadStatement,
        segments: Vec<Segment>,
    ) -> Result<Receipt, ClientError> {
        self.check_finish(head.finish)?;
        self.check_head(&head)?;
        if segments.len() != self.route.len() {
            return Err(ClientError::Order("sent not one segment a stage"));
        }
        let places = self.route.iter().zip(&self.chains);
        for ((stage, segment), (hop, chain)) in (0..).zip(&segments).zip(places) {
            check_segment(segment, &self.session, hop, self.covered, chain.value())
                .map_err(|fault| ClientError::Segment { stage, fault })?;
        }
        Ok(Receipt {
            request: request.clone(),
            answer: self.answer().to_vec(),
            finish: head.finish,
            segments,
            head,
            steps: std::mem::take(&mut self.steps),
            head_marks: std::mem::take(&mut self.head_marks),
        })
    }

    /// The answer must end exactly where the stop rules end it, or at a cell that overflowed.
    fn check_finish(&self, got: Finish) -> Result<(), ClientError> {
        let fits = match got {
            Finish::Overflow { position, layer } => {
                self.finish.is_none() && position < self.covered && layer <= self.layers
            }
            Finish::Context | Finish::EndToken | Finish::Length | Finish::StopString => {
                let fed = self.tokens.len().saturating_sub(1);
                self.finish == Some(got) && self.covered as usize == fed
            }
        };
        if fits {
            return Ok(());
        }
        Err(ClientError::Stops { expected: self.finish, got: Some(got) })
    }

    fn check_head(&self, head: &HeadStatement) -> Result<(), ClientError> {
        let node = self.route.first().ok_or(ClientError::Head(SegmentFault::Place))?.node;
        let fault = if head.session != self.session {
            SegmentFault::Place
        } else if head.tokens != tokens_digest(self.answer()) {
            SegmentFault::Tokens
        } else if head.chain != self.head_chain.value() {
            SegmentFault::Chain
        } else if head.verify(node).is_err() {
            SegmentFault::Signature
        } else {
            return Ok(());
        };
        Err(ClientError::Head(fault))
    }
}

fn check_segment(
    segment: &Segment,
    session: &Digest,
    hop: &Hop,
    positions: u32,
    chain: Digest,
) -> Result<(), SegmentFault> {
    let place = (segment.session, segment.node, segment.first, segment.end);
    if place != (*session, hop.node, hop.first, hop.end) {
        return Err(SegmentFault::Place);
    }
    segment.verify().map_err(|_| SegmentFault::Signature)?;
    if u32::try_from(segment.layers.len()) != Ok(hop.end.saturating_sub(hop.first)) {
        return Err(SegmentFault::Layers);
    }
    if segment.positions != positions {
        return Err(SegmentFault::Positions);
    }
    if segment.chain != chain {
        return Err(SegmentFault::Chain);
    }
    Ok(())
}
