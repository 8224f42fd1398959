//! Marks: the chain of each stage, what they say of the tokens, and what neighbours' marks say of
//! each other.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use core::ops::Range;

use lockstep_exact::Digest;

use super::{Linked, Unsettled, receipt_fault};
use crate::fault::{Fault, Reason};
use crate::sign::NodeId;
use crate::statement::{Mark, RunId, Segment, Step, token_digest, tokens_digest};

/// Who should have signed a mark, and about which layers.
#[derive(Clone, Copy)]
struct Signer {
    node: NodeId,
    run: RunId,
    first: u32,
    end: u32,
}

/// Where two neighbours meet.
struct Border {
    /// The stage that sends.
    from: u32,
    /// The stage that receives; 0 for the head.
    to: u32,
    /// Its first layer; the number of layers for the head.
    layer: u32,
}

impl Linked<'_> {
    /// Frames tile the positions, and each has one signed mark per stage. Returns the number of
    /// positions.
    pub(super) fn check_frames(&self) -> Result<u32, Fault> {
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
            let stages = self.receipt.segments.iter().zip(&self.runs);
            for (mark, (segment, &run)) in step.marks.iter().zip(stages) {
                let Segment { node, first, end, .. } = *segment;
                let signer = Signer { node, run, first, end };
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

    /// The head has one signed mark for each state that it read.
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

    /// Each stage's marks form one chain, and its segment is about them.
    pub(super) fn check_own_statements(&self) -> Result<(), Fault> {
        for (stage, (segment, &run)) in (0..).zip(self.receipt.segments.iter().zip(&self.runs)) {
            let fault = |reason| Err(self.stage_fault(stage, reason));
            if u32::try_from(segment.layers.len()) != Ok(segment.end.saturating_sub(segment.first))
            {
                return fault(Reason::Segment("number of layers"));
            }
            let mut chain = Mark::chain_start(run);
            for step in &self.receipt.steps {
                let mark = step.marks.get(stage as usize);
                match mark.filter(|mark| mark.chain_before == chain) {
                    Some(mark) => chain = mark.chain_after(),
                    None => return fault(Reason::Chain),
                }
            }
            if segment.positions > self.positions {
                // Whoever made the receipt may have left frames out.
                return Err(receipt_fault(Reason::Positions { stage }));
            }
            if segment.positions < self.positions {
                return fault(Reason::Segment("number of positions"));
            }
            if chain != segment.chain {
                return fault(Reason::Chain);
            }
        }
        Ok(())
    }

    /// Server 1 marked the tokens of prompt and answer.
    pub(super) fn check_tokens(&self) -> Result<(), Fault> {
        let receipt = self.receipt;
        let tokens: Vec<u32> =
            receipt.request.prompt.iter().chain(&receipt.answer).copied().collect();
        let prompt = self.prompt_len();
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

    /// The last stage marked an output where, and only where, a state leaves it.
    pub(super) fn check_outputs(&self) -> Result<(), Fault> {
        for step in &self.receipt.steps {
            let position = step.position;
            let feeds_head = position.saturating_add(step.count) > self.first_head();
            let output = step.marks.last().map(|mark| mark.output);
            if feeds_head == (output == Some(Digest::ZERO)) {
                return Err(self.stage_fault(self.last_stage(), Reason::OutputMark { position }));
            }
        }
        Ok(())
    }

    /// The head's marks form the chain that it signed, and name the tokens of the answer.
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

    /// What neighbours' marks and roots say differently of what went between them. Of a ring of one
    /// stage both marks are its own, and it is convicted by them.
    pub(super) fn differences(&self) -> Result<Unsettled, Fault> {
        let mut unsettled = Unsettled::default();
        for border in self.borders() {
            let differs = |step: &&Step| {
                let (sent, received) = self.meeting(&border, step);
                received.is_some() && sent.map(|mark| mark.output) != received
            };
            if let Some(step) = self.receipt.steps.iter().find(differs) {
                let position = step.position;
                if self.receipt.segments.len() == 1 {
                    return Err(self.stage_fault(0, Reason::TwoMarks { position }));
                }
                unsettled.marks.push((border.layer, position));
            } else if border.to > 0 && self.roots_differ(&border) {
                unsettled.roots.push(border.layer);
            }
        }
        Ok(unsettled)
    }

    /// Who lies, once the receiver of a frame that neighbours marked differently has shown the mark
    /// that it got.
    ///
    /// # Soundness
    /// An honest receiver has checked that mark, in the run that its own statements name, before it
    /// signed its own. So what it shows is signed by its neighbour, about this frame, and says what
    /// the receiver marked as its input; and then its neighbour has signed two marks for one frame.
    pub(crate) fn settle(&self, layer: u32, position: u32, shown: &Mark) -> Fault {
        let border = self.borders().find(|border| border.layer == layer);
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

    /// The borders between neighbours, that between the last stage and the head as the last.
    fn borders(&self) -> impl Iterator<Item = Border> {
        let between = (0..).zip(self.receipt.segments.iter().skip(1)).map(|(from, segment)| {
            Border { from, to: from.saturating_add(1), layer: segment.first }
        });
        let head = Border { from: self.last_stage(), to: 0, layer: self.layers };
        between.chain(core::iter::once(head))
    }

    /// The sender's mark for a frame, and what the receiver marked as its input; `None` where
    /// nothing goes to the head.
    fn meeting<'s>(&self, border: &Border, step: &'s Step) -> (Option<&'s Mark>, Option<Digest>) {
        let sent = step.marks.get(border.from as usize);
        if border.to > 0 {
            return (sent, step.marks.get(border.to as usize).map(|mark| mark.input));
        }
        let last = step.position.saturating_add(step.count).checked_sub(1);
        let index = last.and_then(|last| last.checked_sub(self.first_head()));
        let read = index.and_then(|index| self.receipt.head_marks.get(index as usize));
        (sent, read.map(|mark| mark.input))
    }

    fn roots_differ(&self, border: &Border) -> bool {
        let segment = |stage: u32| self.receipt.segments.get(stage as usize);
        let sent = segment(border.from).and_then(Segment::output_root);
        sent != segment(border.to).map(|segment| segment.input_root)
    }
}

/// A mark is about this frame and signed in this run.
fn check_mark(mark: &Mark, signer: Signer, frame: Range<u32>) -> Result<(), Fault> {
    let count = frame.end.saturating_sub(frame.start);
    let place = (mark.first, mark.end, mark.epoch, mark.position, mark.count);
    if place != (signer.first, signer.end, 0, frame.start, count) {
        return Err(receipt_fault(Reason::Tiling("marks")));
    }
    mark.verify(signer.run, signer.node).map_err(|_| receipt_fault(Reason::Signature("mark")))
}
