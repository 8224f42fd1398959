//! The links of a receipt: everything that can be checked of every token without opening a cell.
//!
//! Signatures, chains of marks, equality of what one stage sent and the next received, tiling of
//! layers and positions, the tokens that server 1 marked, and the stop rules. It needs the manifest
//! and the bytes of the tokens; weights and a verifier's key it does not need.
//!
//! What the last stage sent to the head is bound to its column only where cells are opened: the
//! head signs no root of what it read.
//!
//! # Soundness
//! The order of checks is what makes blame safe. Whatever the maker of a receipt could have mixed
//! up (wrong signatures, foreign or missing statements) is found first and blames nobody. Only then
//! are the statements of one node held against each other: an honest node signs one mark per frame,
//! in one chain, and one segment.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use lockstep_exact::Digest;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::sample::{Finish, StopTracker};
use lockstep_exact::vocabulary::Vocabulary;

use crate::fault::{Blame, Fault, Reason};
use crate::receipt::Receipt;
use crate::sign::NodeId;
use crate::statement::{Mark, Segment, Step, token_digest, tokens_digest};

/// What the links of a receipt are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The model.
    pub manifest: &'a Manifest,
    /// The bytes of every token.
    pub vocabulary: &'a Vocabulary,
}

/// A receipt whose links hold.
#[derive(Clone, Debug)]
pub struct Linked<'a> {
    receipt: &'a Receipt,
    session: Digest,
    layers: u32,
    positions: u32,
    unsettled: Vec<u32>,
}

impl<'a> Linked<'a> {
    /// Checks the links.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub fn check(receipt: &'a Receipt, rules: Rules<'_>) -> Result<Self, Fault> {
        let layers = u32::try_from(rules.manifest.layers.len()).unwrap_or(u32::MAX);
        let session = receipt.request.session();
        let mut linked = Self { receipt, session, layers, positions: 0, unsettled: Vec::new() };
        linked.check_request(rules)?;
        linked.check_segments()?;
        linked.positions = linked.check_frames()?;
        linked.check_head()?;
        linked.check_own_statements()?;
        linked.check_tokens()?;
        linked.check_neighbours()?;
        linked.check_head_marks()?;
        linked.check_finish(rules)?;
        linked.unsettled = linked.differing_roots();
        Ok(linked)
    }

    /// The receipt.
    #[must_use]
    pub const fn receipt(&self) -> &'a Receipt {
        self.receipt
    }

    /// The session.
    #[must_use]
    pub const fn session(&self) -> Digest {
        self.session
    }

    /// Positions that every stage computed.
    #[must_use]
    pub const fn positions(&self) -> u32 {
        self.positions
    }

    /// Layers of the model.
    #[must_use]
    pub const fn layers(&self) -> u32 {
        self.layers
    }

    /// The first position whose state the head reads.
    #[must_use]
    pub fn first_head(&self) -> u32 {
        self.prompt_len().saturating_sub(1)
    }

    /// Positions that were computed and whose tokens the receipt names. After an overflow a token
    /// may have gone out that is in no answer.
    #[must_use]
    pub fn known(&self) -> u32 {
        self.positions.min(self.prompt_len().saturating_add(self.answer_len()))
    }

    /// The token of a position.
    #[must_use]
    pub fn token(&self, position: u32) -> Option<u32> {
        let Receipt { request, answer, .. } = self.receipt;
        match position.checked_sub(self.prompt_len()) {
            None => request.prompt.get(position as usize).copied(),
            Some(index) => answer.get(index as usize).copied(),
        }
    }

    /// The first layers of stages whose input root is not the output root of the stage before:
    /// until both open the edge, it is not known which of the two signed a wrong one.
    #[must_use]
    pub fn unsettled(&self) -> &[u32] {
        &self.unsettled
    }

    /// The stage that serves a layer, with its place.
    #[must_use]
    pub fn stage_of(&self, layer: u32) -> Option<(u32, &'a Segment)> {
        let mut stages = (0..).zip(&self.receipt.segments);
        stages.find(|(_, segment)| (segment.first..segment.end).contains(&layer))
    }

    /// The frame that holds a position.
    #[must_use]
    pub fn frame(&self, position: u32) -> Option<&'a Step> {
        let steps = &self.receipt.steps;
        let after = steps.partition_point(|step| step.position <= position);
        steps.get(after.checked_sub(1)?)
    }

    /// A stage's mark for a frame.
    #[must_use]
    pub fn mark(&self, stage: u32, position: u32) -> Option<&'a Mark> {
        self.frame(position)?.marks.get(stage as usize)
    }

    /// Blames a stage.
    #[must_use]
    pub fn blame(&self, stage: u32) -> Blame {
        match self.receipt.segments.get(stage as usize) {
            Some(segment) => Blame::Stage { stage, node: segment.node },
            None => Blame::Receipt,
        }
    }

    /// Blames one of two neighbours: the stage, if they are the same node.
    #[must_use]
    pub fn blame_link(&self, from: u32, to: u32) -> Blame {
        let node = |stage: u32| self.receipt.segments.get(stage as usize).map(|s| s.node);
        if node(from) == node(to) { self.blame(to) } else { Blame::Link { from, to } }
    }

    fn prompt_len(&self) -> u32 {
        u32::try_from(self.receipt.request.prompt.len()).unwrap_or(u32::MAX)
    }

    fn answer_len(&self) -> u32 {
        u32::try_from(self.receipt.answer.len()).unwrap_or(u32::MAX)
    }

    fn last_stage(&self) -> u32 {
        u32::try_from(self.receipt.segments.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    fn head_node(&self) -> Result<NodeId, Fault> {
        let first = self.receipt.segments.first();
        first.map(|segment| segment.node).ok_or_else(|| receipt_fault(Reason::Tiling("segments")))
    }

    fn stage_fault(&self, stage: u32, reason: Reason) -> Fault {
        Fault { blame: self.blame(stage), cell: None, reason }
    }

    fn check_request(&self, rules: Rules<'_>) -> Result<(), Fault> {
        let (request, manifest) = (&self.receipt.request, rules.manifest);
        let refuse = |why: String| Err(receipt_fault(Reason::Request(why)));
        if let Err(error) = request.sampling.check(manifest.vocabulary) {
            return refuse(error.to_string());
        }
        if request.prompt.is_empty() || request.prompt.len() > manifest.context as usize {
            return refuse(format!("a prompt of {} tokens", request.prompt.len()));
        }
        if request.prompt.iter().any(|&token| token >= manifest.vocabulary) {
            return refuse("a token that the model does not have".to_owned());
        }
        Ok(())
    }

    /// Segments tile the layers and are signed for this session.
    fn check_segments(&self) -> Result<(), Fault> {
        let tiling = || receipt_fault(Reason::Tiling("segments"));
        let mut next = 0;
        for segment in &self.receipt.segments {
            let fits = segment.session == self.session
                && segment.first == next
                && segment.end > segment.first;
            if !fits {
                return Err(tiling());
            }
            segment.verify().map_err(|_| receipt_fault(Reason::Signature("segment")))?;
            next = segment.end;
        }
        if next == self.layers { Ok(()) } else { Err(tiling()) }
    }

    /// Frames tile the positions, and each has one signed mark per stage. Returns the number of
    /// positions.
    fn check_frames(&self) -> Result<u32, Fault> {
        let tiling = |what| receipt_fault(Reason::Tiling(what));
        let mut next = 0_u32;
        for step in &self.receipt.steps {
            if step.position != next || step.count == 0 {
                return Err(tiling("frames"));
            }
            next = next.checked_add(step.count).ok_or_else(|| tiling("frames"))?;
            if step.marks.len() != self.receipt.segments.len() {
                return Err(tiling("marks"));
            }
            for (mark, segment) in step.marks.iter().zip(&self.receipt.segments) {
                self.check_mark(mark, segment.first..segment.end, step, segment.node)?;
            }
        }
        let (prompt, answer) = (self.prompt_len(), self.answer_len());
        let complete = match self.receipt.finish {
            Finish::Overflow { position, .. } => position < next,
            Finish::EndToken | Finish::StopString | Finish::Length | Finish::Context => {
                answer > 0 && Some(next) == prompt.saturating_add(answer).checked_sub(1)
            }
        };
        if complete { Ok(next) } else { Err(tiling("frames")) }
    }

    fn check_mark(
        &self,
        mark: &Mark,
        span: core::ops::Range<u32>,
        step: &Step,
        node: NodeId,
    ) -> Result<(), Fault> {
        let fits = mark.first == span.start
            && mark.end == span.end
            && mark.epoch == 0
            && mark.position == step.position
            && mark.count == step.count;
        if !fits {
            return Err(receipt_fault(Reason::Tiling("marks")));
        }
        mark.verify(&self.session, node).map_err(|_| receipt_fault(Reason::Signature("mark")))
    }

    /// The head signed this answer and this end.
    fn check_head(&self) -> Result<(), Fault> {
        let (receipt, head) = (self.receipt, &self.receipt.head);
        let node = self.head_node()?;
        head.verify(node).map_err(|_| receipt_fault(Reason::Signature("head")))?;
        let fits = head.session == self.session
            && head.tokens == tokens_digest(&receipt.answer)
            && head.finish == receipt.finish;
        if fits { Ok(()) } else { Err(receipt_fault(Reason::Tiling("tokens of the answer"))) }
    }

    /// Each stage's marks form the chain that its segment ends with, over all positions.
    fn check_own_statements(&self) -> Result<(), Fault> {
        for (stage, segment) in (0..).zip(&self.receipt.segments) {
            let fault = |reason| Err(self.stage_fault(stage, reason));
            if u32::try_from(segment.layers.len()) != Ok(segment.end.saturating_sub(segment.first))
            {
                return fault(Reason::Segment("number of layers"));
            }
            if segment.positions != self.positions {
                return fault(Reason::Segment("number of positions"));
            }
            let mut chain = Mark::chain_start(&self.session, segment.first, segment.end);
            for step in &self.receipt.steps {
                let mark = step.marks.get(stage as usize);
                match mark.filter(|mark| mark.chain_before == chain) {
                    Some(mark) => chain = mark.chain_after(),
                    None => return fault(Reason::Chain),
                }
            }
            if chain != segment.chain {
                return fault(Reason::Chain);
            }
        }
        Ok(())
    }

    /// Server 1 marked the tokens of prompt and answer.
    fn check_tokens(&self) -> Result<(), Fault> {
        let receipt = self.receipt;
        let tokens: Vec<u32> =
            receipt.request.prompt.iter().chain(&receipt.answer).copied().collect();
        let prompt = self.prompt_len();
        for step in &receipt.steps {
            let position = step.position;
            let end = position.saturating_add(step.count);
            if end > prompt && (position < prompt || step.count != 1) {
                return Err(self.stage_fault(0, Reason::Frame { position }));
            }
            let Some(tokens) = tokens.get(position as usize..end as usize) else { continue };
            let marked = step.marks.first().map(|mark| mark.input);
            if marked != Some(tokens_digest(tokens)) {
                return Err(self.stage_fault(0, Reason::Tokens { position }));
            }
        }
        Ok(())
    }

    /// What one stage sent is what the next received, frame by frame.
    fn check_neighbours(&self) -> Result<(), Fault> {
        for step in &self.receipt.steps {
            let position = step.position;
            let next = step.marks.iter().skip(1);
            for ((from, to), (sent, received)) in (0..).zip(1..).zip(step.marks.iter().zip(next)) {
                if sent.output != received.input {
                    let blame = self.blame_link(from, to);
                    let reason = Reason::MarksDiffer { position };
                    return Err(Fault { blame, cell: None, reason });
                }
            }
            let feeds_head = position.saturating_add(step.count) > self.first_head();
            let output = step.marks.last().map(|mark| mark.output);
            if feeds_head == (output == Some(Digest::ZERO)) {
                return Err(self.stage_fault(self.last_stage(), Reason::OutputMark { position }));
            }
        }
        Ok(())
    }

    /// The head marked every token of the answer, from the state that the last stage sent.
    fn check_head_marks(&self) -> Result<(), Fault> {
        let (receipt, node) = (self.receipt, self.head_node()?);
        if receipt.head_marks.len() != receipt.answer.len() {
            return Err(receipt_fault(Reason::Tiling("head marks")));
        }
        let mut chain = Mark::chain_start(&self.session, self.layers, self.layers);
        let marks = receipt.head_marks.iter().zip(&receipt.answer);
        for (position, (mark, &token)) in (self.first_head()..).zip(marks) {
            let step = Step { position, count: 1, marks: Vec::new() };
            self.check_mark(mark, self.layers..self.layers, &step, node)?;
            if mark.chain_before != chain {
                return Err(self.stage_fault(0, Reason::Chain));
            }
            if mark.output != token_digest(token) {
                return Err(self.stage_fault(0, Reason::Tokens { position }));
            }
            let sent = self.mark(self.last_stage(), position).map(|mark| mark.output);
            if sent != Some(mark.input) {
                let blame = self.blame_link(self.last_stage(), 0);
                return Err(Fault { blame, cell: None, reason: Reason::MarksDiffer { position } });
            }
            chain = mark.chain_after();
        }
        if chain == receipt.head.chain { Ok(()) } else { Err(self.stage_fault(0, Reason::Chain)) }
    }

    /// The stop rules end this answer here and so.
    fn check_finish(&self, rules: Rules<'_>) -> Result<(), Fault> {
        let (receipt, manifest) = (self.receipt, rules.manifest);
        let request = &receipt.request;
        let mut tracker = StopTracker::new(
            request.stops.clone(),
            &manifest.end_tokens,
            manifest.context as usize,
            request.prompt.len(),
        );
        let got = receipt.finish;
        let fault = |expected| Err(self.stage_fault(0, Reason::Finish { expected, got }));
        let mut ended = None;
        for &token in &receipt.answer {
            if ended.is_some() || token >= manifest.vocabulary {
                return fault(ended);
            }
            ended = tracker.push(token, rules.vocabulary);
        }
        match got {
            Finish::Overflow { position, layer } => {
                // The head ends the answer before the token that would have followed.
                let next = self.first_head().saturating_add(self.answer_len());
                let in_time = position <= next && layer <= self.layers;
                let at_head = layer != self.layers || position == next;
                if ended.is_none() && in_time && at_head { Ok(()) } else { fault(ended) }
            }
            Finish::EndToken | Finish::StopString | Finish::Length | Finish::Context => {
                if ended == Some(got) { Ok(()) } else { fault(ended) }
            }
        }
    }

    fn differing_roots(&self) -> Vec<u32> {
        let segments = &self.receipt.segments;
        let pairs = segments.iter().zip(segments.iter().skip(1));
        let differ = pairs.filter(|(from, to)| from.output_root() != Some(to.input_root));
        differ.map(|(_, to)| to.first).collect()
    }
}

const fn receipt_fault(reason: Reason) -> Fault {
    Fault { blame: Blame::Receipt, cell: None, reason }
}
