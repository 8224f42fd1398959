//! Marks: the chain of each stage, what they say of the tokens, and what neighbours' marks say of
//! each other.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use core::ops::Range;

use lockstep_exact::Digest;

use super::tiles::Source;
use super::{Border, Dispute, Linked, Meeting, Unsettled, receipt_fault};
use crate::fault::{Fault, Reason};
use crate::sign::NodeId;
use crate::statement::{Mark, RunId, Segment, Step, token_digest, tokens_digest};

/// The stage that should have signed a mark, and its layers.
#[derive(Clone, Copy)]
struct Signer {
    node: NodeId,
    run: RunId,
    first: u32,
    end: u32,
}

impl Linked<'_> {
    /// Checks that frames tile the positions, that none crosses the end of a segment, and that each
    /// has one signed mark for each segment that goes beyond it. Returns the number of positions.
    pub(super) fn check_frames(&self) -> Result<u32, Fault> {
        let tiling = |what| receipt_fault(Reason::Tiling(what));
        let mut next = 0_u32;
        for step in &self.receipt.steps {
            if step.position != next || step.count == 0 {
                return Err(tiling("frames"));
            }
            next = next.checked_add(step.count).ok_or_else(|| tiling("frames"))?;
            let marked = (0..).zip(&self.receipt.segments);
            let marked = marked.filter(|(index, _)| self.marked(*index, step.position));
            let marked = marked.collect::<Vec<(u32, &Segment)>>();
            if step.marks.len() != marked.len() {
                return Err(tiling("marks"));
            }
            for (mark, &(index, segment)) in step.marks.iter().zip(&marked) {
                if (segment.positions < next, self.ends_place(index)) == (true, false) {
                    return Err(tiling("frames"));
                }
                let Segment { node, first, end, .. } = *segment;
                let signer = Signer { node, run: self.run(index), first, end };
                check_mark(mark, signer, step.position..next)?;
            }
        }
        // Every position is there whose state the head reads, and none after the last of them.
        let read = self.head_positions();
        if read.is_empty() || read.end != next {
            return Err(tiling("frames"));
        }
        if next > self.receipt.lease.max_positions {
            return Err(receipt_fault(Reason::Lease("most positions")));
        }
        Ok(next)
    }

    /// Checks that the head has one signed mark for each state that it read.
    pub(super) fn check_head_frames(&self) -> Result<(), Fault> {
        let (marks, layers) = (&self.receipt.head_marks, self.layers);
        if marks.len() != self.head_positions().len() {
            return Err(receipt_fault(Reason::Tiling("head marks")));
        }
        let (node, run) = (self.head_node()?, self.head_run);
        let signer = Signer { node, run, first: layers, end: layers };
        for (position, mark) in self.head_positions().zip(marks) {
            check_mark(mark, signer, position..position.saturating_add(1))?;
        }
        Ok(())
    }

    /// Checks that each stage's marks form one chain, and that its segment is about them.
    pub(super) fn check_own_statements(&self) -> Result<(), Fault> {
        for (index, segment) in (0..).zip(&self.receipt.segments) {
            let fault = |reason| Err(self.stage_fault(index, reason));
            if u32::try_from(segment.layers.len()) != Ok(segment.end.saturating_sub(segment.first))
            {
                return fault(Reason::Segment("number of layers"));
            }
            let mut chain = Mark::chain_start(self.run(index));
            let steps = self.receipt.steps.iter();
            for step in steps.filter(|step| self.marked(index, step.position)) {
                let mark = self.mark_in(index, step);
                match mark.filter(|mark| mark.chain_before == chain) {
                    Some(mark) => chain = mark.chain_after(),
                    None => return fault(Reason::Chain),
                }
            }
            if segment.positions > self.positions {
                // Whoever made the receipt may have left frames out.
                return Err(receipt_fault(Reason::Positions { stage: self.place(index) }));
            }
            if (segment.positions < self.positions, self.ends_place(index)) == (true, true) {
                return fault(Reason::Segment("number of positions"));
            }
            if chain != segment.chain {
                return fault(Reason::Chain);
            }
        }
        Ok(())
    }

    /// Checks that server 1 marked the tokens of prompt and answer.
    pub(super) fn check_tokens(&self) -> Result<(), Fault> {
        let receipt = self.receipt;
        let tokens: Vec<u32> =
            receipt.request.prompt.iter().chain(&receipt.answer).copied().collect();
        let prompt = self.prompt_len;
        for step in &receipt.steps {
            let position = step.position;
            let end = position.saturating_add(step.count);
            // One that crosses from the prompt into the answer has two positions at least.
            if end > prompt && step.count != 1 {
                return Err(self.stage_fault(0, Reason::Frame { position }));
            }
            let fed = tokens.get(position as usize..end as usize).map(tokens_digest);
            let marked = step.marks.first().map(|mark| mark.input);
            if marked != fed {
                return Err(self.stage_fault(0, Reason::Tokens { position }));
            }
        }
        Ok(())
    }

    /// Checks that each last stage marked an output where, and only where, a state leaves it.
    pub(super) fn check_outputs(&self) -> Result<(), Fault> {
        let last = (0..).zip(&self.receipt.segments);
        for (index, _) in last.filter(|(_, segment)| segment.end == self.layers) {
            for step in &self.receipt.steps {
                let Some(mark) = self.mark_in(index, step) else { continue };
                let position = step.position;
                let feeds_head = position.saturating_add(step.count) > self.first_head();
                if feeds_head == (mark.output == Digest::ZERO) {
                    return Err(self.stage_fault(index, Reason::OutputMark { position }));
                }
            }
        }
        Ok(())
    }

    /// Checks that the head's marks form the chain that it signed, and name the tokens of the
    /// answer.
    pub(super) fn check_own_head_marks(&self) -> Result<(), Fault> {
        let receipt = self.receipt;
        let mut chain = Mark::chain_start(self.head_run);
        for (index, (position, mark)) in self.head_positions().zip(&receipt.head_marks).enumerate()
        {
            if mark.chain_before != chain {
                return Err(self.stage_fault(0, Reason::Chain));
            }
            let token = receipt.answer.get(index);
            if mark.output != token.map_or(Digest::ZERO, |token| token_digest(*token)) {
                return Err(self.stage_fault(0, Reason::Tokens { position }));
            }
            chain = mark.chain_after();
        }
        if chain == receipt.head.chain { Ok(()) } else { Err(self.stage_fault(0, Reason::Chain)) }
    }

    /// Returns what neighbours' marks and roots say differently of what went between them, and a
    /// stage that took over of what the one before it had sent. Of a ring of one stage both marks
    /// are its own, and it is convicted by them.
    pub(super) fn differences(&self) -> Result<Unsettled, Fault> {
        let mut unsettled = Unsettled { disputes: self.disputes(), ..Unsettled::default() };
        for border in self.borders() {
            let differs = |step: &&Step| {
                let (sent, received) = self.meeting(&border, step);
                received.is_some() && sent.map(|mark| mark.output) != received
            };
            if let Some(step) = self.frames_of(&border.positions).find(differs) {
                let position = step.position;
                if self.receipt.segments.len() == 1 {
                    return Err(self.stage_fault(0, Reason::TwoMarks { position }));
                }
                let Border { to, layer, .. } = border;
                unsettled.marks.push(Meeting { to, layer, position });
            } else if border.to > 0 {
                match self.roots_differ(&border) {
                    Some(true) => unsettled.roots.push(border),
                    Some(false) => {}
                    None => unsettled.seams.push(border),
                }
            }
        }
        Ok(unsettled)
    }

    /// Returns the index of the segment whose stage gave the head a state.
    pub(crate) fn sender_to_head(&self, position: u32) -> Option<u32> {
        let source = self.head_sources.iter().find(|one| one.positions.contains(&position))?;
        Some(source.from)
    }

    /// Returns where a stage that took over marked another output than the stage that it follows.
    fn disputes(&self) -> Vec<Dispute> {
        let mut disputes = Vec::new();
        for (taken, _) in (0_u32..).zip(&self.receipt.segments).skip(1) {
            let before = taken.saturating_sub(1);
            if self.place(taken) != self.place(before) {
                continue;
            }
            let output = |index, step: &Step| self.mark_in(index, step).map(|mark| mark.output);
            let differs = |step: &&Step| {
                output(before, step).is_some_and(|sent| output(taken, step) != Some(sent))
            };
            if let Some(step) = self.receipt.steps.iter().find(differs) {
                disputes.push(Dispute { taken, end: step.position.saturating_add(step.count) });
            }
        }
        disputes
    }

    /// Returns the frames of some positions; none crosses their ends.
    pub(crate) fn frames_of(&self, positions: &Range<u32>) -> impl Iterator<Item = &Step> {
        let steps = self.receipt.steps.iter();
        steps.filter(|step| positions.contains(&step.position))
    }

    /// Decides who lies, once the receiver of a frame that neighbours marked differently has shown
    /// the mark that it got.
    ///
    /// # Soundness
    /// An honest receiver has checked that mark, in the run that its own statements name, before it
    /// signed its own. So what it shows is signed by its neighbour, about this frame, and says what
    /// the receiver marked as its input; and then its neighbour has signed two marks for one frame.
    pub(crate) fn settle(&self, meeting: Meeting, shown: &Mark) -> Fault {
        let Meeting { to, layer, position } = meeting;
        let is_it = |border: &Border| {
            let is_there = border.positions.contains(&position);
            (border.to, border.layer, is_there) == (to, layer, true)
        };
        let border = self.borders().find(is_it);
        let step = self.frame(position).filter(|step| step.position == position);
        let (Some(border), Some(step)) = (border, step) else {
            return receipt_fault(Reason::NotDrawn);
        };
        let (sent, received) = self.meeting(&border, step);
        let sender = self.receipt.segments.get(border.from as usize);
        let (Some(sent), Some(sender)) = (sent, sender) else {
            return receipt_fault(Reason::NotDrawn);
        };
        let lies = |what| self.stage_fault(border.to, Reason::Shown(what));
        let place = |mark: &Mark| (mark.first, mark.end, mark.epoch, mark.position, mark.count);
        if shown.verify(self.run(border.from), sender.node).is_err() {
            return lies("is not signed by the stage before");
        }
        if place(shown) != place(sent) {
            return lies("is about another frame");
        }
        if Some(shown.output) != received {
            return lies("does not say what the stage marked as its input");
        }
        if shown.output == sent.output {
            // Both marks agree: there was nothing to settle.
            return receipt_fault(Reason::NotDrawn);
        }
        self.stage_fault(border.from, Reason::TwoMarks { position })
    }

    /// Returns the borders between neighbours, those between last stages and the head at the end.
    fn borders(&self) -> impl Iterator<Item = Border> {
        let segments = (0..).zip(self.tiles.iter().zip(&self.receipt.segments));
        let between = segments.map(|(to, (tile, segment))| (to, segment.first, &tile.sources));
        let head = (0, self.layers, &self.head_sources);
        between.chain(core::iter::once(head)).flat_map(|(to, layer, sources)| {
            let border = move |source: &Source| Border {
                from: source.from,
                to,
                layer,
                positions: source.positions.clone(),
            };
            sources.iter().map(border)
        })
    }

    /// Returns the sender's mark for a frame, and what the receiver marked as its input; `None`
    /// where nothing goes to the head.
    fn meeting<'s>(&self, border: &Border, step: &'s Step) -> (Option<&'s Mark>, Option<Digest>) {
        let sent = self.mark_in(border.from, step);
        if border.to > 0 {
            return (sent, self.mark_in(border.to, step).map(|mark| mark.input));
        }
        let last = step.position.saturating_add(step.count).checked_sub(1);
        let index = last.and_then(|last| last.checked_sub(self.first_head()));
        let read = index.and_then(|index| self.receipt.head_marks.get(index as usize));
        (sent, read.map(|mark| mark.input))
    }

    /// Returns whether the roots of the two columns at a border differ; `None` if these are not
    /// about the same positions.
    fn roots_differ(&self, border: &Border) -> Option<bool> {
        let segment = |index: u32| self.receipt.segments.get(index as usize);
        let (sender, receiver) = (segment(border.from)?, segment(border.to)?);
        let whole = 0..sender.positions;
        let is_whole = (&border.positions, sender.positions) == (&whole, receiver.positions);
        is_whole.then(|| sender.output_root() != Some(receiver.input_root))
    }
}

/// Checks that a mark is about this frame and signed in this run.
fn check_mark(mark: &Mark, signer: Signer, frame: Range<u32>) -> Result<(), Fault> {
    let count = frame.end.saturating_sub(frame.start);
    let place = (mark.first, mark.end, mark.epoch, mark.position, mark.count);
    if place != (signer.first, signer.end, 0, frame.start, count) {
        return Err(receipt_fault(Reason::Tiling("marks")));
    }
    mark.verify(signer.run, signer.node).map_err(|_| receipt_fault(Reason::Signature("mark")))
}
