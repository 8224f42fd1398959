//! The links of a receipt: everything that can be checked of every token without opening a cell.
//!
//! Signatures, leases and runs, chains of marks, tiling of layers and positions, the tokens that
//! server 1 marked, and the stop rules. It needs the manifest and the bytes of the tokens; weights
//! and a verifier's key it does not need. Where two neighbours' statements differ about what went
//! between them, [`Unsettled`] says what both have to show: that is no fault yet.
//!
//! What the last stage sent to the head is bound to its column only where cells are opened: the
//! head signs no root of what it read.
//!
//! # Soundness
//! The order of checks is what makes blame safe. Whatever the maker of a receipt, or a server that
//! handed something over, could have mixed up is found first and blames nobody: wrong signatures,
//! statements about another lease or run, statements that are missing. Only then are the
//! statements of one run of one node held against each other: in a run an honest node signs one
//! mark per frame, in one chain from the first position on, and one segment. A contradiction
//! between two of them stays one whatever is left out or put beside them.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

mod marks;
mod tiles;

use core::ops::Range;
use std::collections::BTreeSet;

use lockstep_exact::Digest;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::sample::{Finish, StopTracker};
use lockstep_exact::vocabulary::Vocabulary;

use crate::fault::{Blame, Fault, Reason};
use crate::receipt::Receipt;
use crate::sign::NodeId;
use crate::statement::{Mark, RunId, Segment, Step, tokens_digest};
use tiles::{Source, Tile};

/// The rules that the links of a receipt are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The manifest of the model.
    pub manifest: &'a Manifest,
    /// The bytes of every token.
    pub vocabulary: &'a Vocabulary,
}

/// A receipt whose links hold, as far as its statements say.
#[derive(Clone, Debug)]
pub struct Linked<'a> {
    receipt: &'a Receipt,
    session: Digest,
    layers: u32,
    /// Tokens of the prompt.
    prompt_len: u32,
    /// Tokens of the answer.
    answer_len: u32,
    positions: u32,
    /// The tiles, one per segment.
    tiles: Vec<Tile>,
    head_run: RunId,
    /// The sources of the states that the head read.
    head_sources: Vec<Source>,
    unsettled: Unsettled,
}

/// The places where neighbours signed different things for what went between them. Which of two
/// lies is seen once they have shown what they got and what they sent; until then neither is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// The frames for which they signed different marks.
    pub marks: Vec<Meeting>,
    /// The borders with the same marks, but different roots.
    pub roots: Vec<Border>,
    /// The borders with the same marks, and roots of columns of different lengths, which say
    /// nothing about each other: both stages open the border, and all is well if both open what
    /// they marked.
    pub seams: Vec<Border>,
    /// A stage that took over marked other outputs than the one before it had: which cells of the
    /// two are wrong decides.
    pub disputes: Vec<Dispute>,
}

/// A frame that two neighbours marked differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// The index of the segment of the stage that received; 0 for the head.
    pub to: u32,
    /// Its first layer; the number of layers for the head.
    pub layer: u32,
    /// The first position of the frame.
    pub position: u32,
}

/// A border where two neighbours meet, over the frames that one got from the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Border {
    /// The index of the segment of the stage that sent.
    pub from: u32,
    /// The segment of the stage that received; 0 for the head.
    pub to: u32,
    /// Its first layer; the number of layers for the head.
    pub layer: u32,
    /// The positions of the frames.
    pub positions: Range<u32>,
}

/// Two segments of one place whose stages marked different outputs for one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dispute {
    /// The index of the segment of the stage that took over; the other one is before it.
    pub taken: u32,
    /// The position after the frame.
    pub end: u32,
}

impl<'a> Linked<'a> {
    /// Checks the links between all statements of a receipt.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub fn check(receipt: &'a Receipt, rules: Rules<'_>) -> Result<Self, Fault> {
        let (prompt, answer) = (receipt.request.prompt.len(), receipt.answer.len());
        let too_long = |what| receipt_fault(Reason::Tiling(what));
        let mut linked = Self {
            receipt,
            session: receipt.request.session(),
            layers: rules.manifest.layer_count(),
            prompt_len: u32::try_from(prompt).map_err(|_| too_long("tokens of the prompt"))?,
            answer_len: u32::try_from(answer).map_err(|_| too_long("tokens of the answer"))?,
            positions: 0,
            tiles: Vec::new(),
            head_run: RunId::NONE,
            head_sources: Vec::new(),
            unsettled: Unsettled::default(),
        };
        linked.check_request(rules)?;
        linked.check_lease()?;
        linked.check_placements()?;
        linked.check_segments()?;
        linked.positions = linked.check_frames()?;
        linked.check_head()?;
        linked.check_head_frames()?;
        linked.check_own_statements()?;
        linked.check_tokens()?;
        linked.check_outputs()?;
        linked.check_own_head_marks()?;
        linked.check_finish(rules)?;
        linked.unsettled = linked.differences()?;
        Ok(linked)
    }

    /// Returns the receipt whose links these are.
    #[must_use]
    pub const fn receipt(&self) -> &'a Receipt {
        self.receipt
    }

    /// Returns the name of the session.
    #[must_use]
    pub const fn session(&self) -> Digest {
        self.session
    }

    /// Returns the number of positions of the session.
    #[must_use]
    pub const fn positions(&self) -> u32 {
        self.positions
    }

    /// Returns the number of layers of the model.
    #[must_use]
    pub const fn layers(&self) -> u32 {
        self.layers
    }

    /// Returns the first position whose state the head reads.
    #[must_use]
    pub const fn first_head(&self) -> u32 {
        self.prompt_len.saturating_sub(1)
    }

    /// Returns the positions of the states that the head read: one for each token of the answer,
    /// and one more where the head gave no token.
    #[must_use]
    pub fn head_positions(&self) -> Range<u32> {
        let first = self.first_head();
        let overflow = u32::from(self.receipt.finish == Finish::Overflow);
        first..first.saturating_add(self.answer_len).saturating_add(overflow)
    }

    /// Returns the token at a position of the prompt or the answer; `None` beyond both.
    #[must_use]
    pub fn token(&self, position: u32) -> Option<u32> {
        let Receipt { request, answer, .. } = self.receipt;
        match position.checked_sub(self.prompt_len) {
            None => request.prompt.get(position as usize).copied(),
            Some(index) => answer.get(index as usize).copied(),
        }
    }

    /// Returns the frames, edges and takeovers about which neighbours signed different things.
    #[must_use]
    pub const fn unsettled(&self) -> &Unsettled {
        &self.unsettled
    }

    /// Returns the run of a segment, by its index in the receipt; [`RunId::NONE`] if there is no
    /// such segment.
    #[must_use]
    pub fn run(&self, index: u32) -> RunId {
        self.tiles.get(index as usize).map_or(RunId::NONE, |tile| tile.run)
    }

    /// Returns the segment that ends a run, with its index in the receipt; `None` if no segment
    /// does.
    #[must_use]
    pub fn segment_of(&self, run: RunId) -> Option<(u32, &'a Segment)> {
        let mut segments = (0..).zip(&self.receipt.segments);
        segments.find(|(index, _)| self.run(*index) == run)
    }

    /// Returns the last frame that begins at or before a position: the one that holds it, if the
    /// session has computed the position.
    #[must_use]
    pub fn frame(&self, position: u32) -> Option<&'a Step> {
        let steps = &self.receipt.steps;
        let after = steps.partition_point(|step| step.position <= position);
        steps.get(after.checked_sub(1)?)
    }

    /// Returns the mark of a segment's stage for a frame; `None` if the segment ends before it.
    #[must_use]
    pub fn mark_in<'s>(&self, index: u32, step: &'s Step) -> Option<&'s Mark> {
        if !self.marked(index, step.position) {
            return None;
        }
        let before = (0..index).filter(|other| self.marked(*other, step.position)).count();
        step.marks.get(before)
    }

    /// Returns the blame of the stage of a segment, or [`Blame::Receipt`] for an index that no
    /// segment has.
    #[must_use]
    pub fn blame(&self, index: u32) -> Blame {
        match self.receipt.segments.get(index as usize) {
            Some(segment) => Blame::Stage { stage: self.place(index), node: segment.node },
            None => Blame::Receipt,
        }
    }

    fn head_node(&self) -> Result<NodeId, Fault> {
        let first = self.receipt.segments.first();
        first.map(|segment| segment.node).ok_or_else(|| receipt_fault(Reason::Tiling("segments")))
    }

    fn stage_fault(&self, index: u32, reason: Reason) -> Fault {
        Fault { blame: self.blame(index), cell: None, reason }
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

    /// Checks that the lease is the session key's, for this request and for a ring of different
    /// nodes.
    fn check_lease(&self) -> Result<(), Fault> {
        let (request, lease) = (&self.receipt.request, &self.receipt.lease);
        let nodes = lease.route.iter().map(|hop| hop.node).collect::<BTreeSet<NodeId>>();
        let differs = [
            (lease.session != self.session, "session"),
            (lease.manifest != request.manifest, "model"),
            (lease.epoch != 0, "epoch"),
            (lease.adapters != request.adapters, "adapters"),
            (lease.session_key != request.session_key, "session key"),
            (lease.prompt_len != self.prompt_len, "prompt length"),
            (nodes.len() != lease.route.len(), "route"),
        ];
        if let Some((_, what)) = differs.into_iter().find(|(differs, _)| *differs) {
            return Err(receipt_fault(Reason::Lease(what)));
        }
        lease.verify().map_err(|_| receipt_fault(Reason::Signature("lease")))
    }

    /// Checks that the head signed this answer and this end.
    fn check_head(&mut self) -> Result<(), Fault> {
        let (receipt, head) = (self.receipt, &self.receipt.head);
        let node = self.head_node()?;
        head.verify(self.head_run, node).map_err(|_| receipt_fault(Reason::Signature("head")))?;
        let fits = head.session == self.session
            && head.tokens == tokens_digest(&receipt.answer)
            && head.finish == receipt.finish;
        if !fits {
            return Err(receipt_fault(Reason::Tiling("tokens of the answer")));
        }
        // Segments have been checked: the last is of the route's last place.
        let places = self.tiles.last().map_or(0, |tile| tile.place.saturating_add(1));
        let sources = self.sources(places, head.before, &head.takeovers, self.positions);
        self.head_sources = sources.ok_or_else(|| receipt_fault(Reason::OtherRun { stage: 0 }))?;
        Ok(())
    }

    /// Checks that the stop rules end this answer here and in this way.
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
        // Where the rules don't end the answer, only a head that gives no token does.
        let is_right = match ended {
            Some(ended) => got == ended,
            None => got == Finish::Overflow,
        };
        if is_right { Ok(()) } else { fault(ended) }
    }
}

const fn receipt_fault(reason: Reason) -> Fault {
    Fault { blame: Blame::Receipt, cell: None, reason }
}
