//! Rows for what stages and head sign: marks, segments, the statement of the head.

use lockstep_exact::Digest;
use lockstep_exact::sample::Finish;
use lockstep_testing::proofs::node;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::statement::{HeadStatement, Mark, RunId, Segment, Takeover};

use super::How::{Forged, Signed};
use super::{Row, flip, shorten};

fn mark(receipt: &mut Receipt, change: impl FnOnce(&mut Mark)) {
    let run = receipt.segments[1].run().id();
    let mark = &mut receipt.steps[1].marks[1];
    change(mark);
    *mark = mark.signed(run, &node(1));
}

fn segment(receipt: &mut Receipt, change: impl FnOnce(&mut Segment)) {
    let segment = &mut receipt.segments[1];
    change(segment);
    *segment = segment.clone().signed(&node(1));
}

/// Has the second stage say that another one took over from the first.
fn takeover(receipt: &mut Receipt, change: impl FnOnce(&mut Takeover)) {
    let mut takeover = Takeover { position: 1, run: receipt.segments[0].run().id() };
    change(&mut takeover);
    segment(receipt, |segment| segment.takeovers.push(takeover));
}

/// The run of the second stage.
fn own_run(receipt: &Receipt) -> RunId {
    receipt.segments[1].run().id()
}

pub(super) fn head(receipt: &mut Receipt, change: impl FnOnce(&mut HeadStatement)) {
    change(&mut receipt.head);
    receipt.head = receipt.head.clone().signed(head_run(receipt), &node(0));
}

pub(super) fn head_mark(receipt: &mut Receipt, change: impl FnOnce(&mut Mark)) {
    let run = head_run(receipt);
    let mark = &mut receipt.head_marks[0];
    change(mark);
    *mark = mark.signed(run, &node(0));
}

fn head_run(receipt: &Receipt) -> RunId {
    let (first, last) = (&receipt.segments[0], &receipt.segments[2]);
    first.run().of_head(receipt.head.before, last.end).id()
}

pub(super) fn marks() -> Vec<Row> {
    let (tiling, forged) = ("Tiling(\"marks\")", "Signature(\"mark\")");
    vec![
        Row("Mark.first", Signed(|r| mark(r, |m| m.first += 1)), None, tiling),
        Row("Mark.end", Signed(|r| mark(r, |m| m.end += 1)), None, tiling),
        Row("Mark.epoch", Signed(|r| mark(r, |m| m.epoch += 1)), None, tiling),
        Row("Mark.position", Signed(|r| mark(r, |m| m.position += 1)), None, tiling),
        Row("Mark.count", Signed(|r| mark(r, |m| m.count += 1)), None, tiling),
        Row(
            "Mark.chain_before",
            Signed(|r| mark(r, |m| flip(&mut m.chain_before))),
            Some(1),
            "Chain",
        ),
        Row("Mark.input", Signed(|r| mark(r, |m| flip(&mut m.input))), Some(1), "Chain"),
        Row("Mark.output", Signed(|r| mark(r, |m| flip(&mut m.output))), Some(1), "Chain"),
        Row(
            "Mark.chain_before",
            Forged(|b| flip(&mut b.receipt.steps[0].marks[0].chain_before)),
            None,
            forged,
        ),
        Row("Mark.input", Forged(|b| flip(&mut b.receipt.steps[0].marks[0].input)), None, forged),
        Row("Mark.output", Forged(|b| flip(&mut b.receipt.steps[0].marks[0].output)), None, forged),
        Row(
            "Mark.signature",
            Forged(|b| b.receipt.steps[0].marks[0].signature.0[0] ^= 1),
            None,
            forged,
        ),
        Row(
            "Step.position",
            Forged(|b| b.receipt.steps[1].position += 1),
            None,
            "Tiling(\"frames\")",
        ),
        Row("Step.count", Forged(|b| b.receipt.steps[1].count += 1), None, tiling),
        Row("Step.count", Forged(|b| b.receipt.steps[1].count = 0), None, "Tiling(\"frames\")"),
        Row(
            "Step.count",
            Forged(|b| b.receipt.steps[1].count = u32::MAX),
            None,
            "Tiling(\"frames\")",
        ),
        Row("Step.marks", Forged(|b| b.receipt.steps[1].marks.swap(0, 1)), None, tiling),
        Row("Step.marks", Forged(|b| shorten(&mut b.receipt.steps[1].marks)), None, tiling),
    ]
}

pub(super) fn segments() -> Vec<Row> {
    let tiling = "Tiling(\"segments\")";
    vec![
        Row("Segment.session", Signed(|r| segment(r, |s| flip(&mut s.session))), None, tiling),
        Row("Segment.node", Forged(|b| b.receipt.segments[1].node = node(7).id()), None, tiling),
        Row("Segment.lease", Signed(|r| segment(r, |s| flip(&mut s.lease))), None, "OtherLease"),
        Row("Segment.before", Signed(|r| segment(r, |s| flip(&mut s.before.0))), None, "OtherRun"),
        // Its own marks are of another run then, and so is what the next stage followed.
        Row(
            "Segment.run_value",
            Signed(|r| segment(r, |s| flip(&mut s.run_value))),
            None,
            "OtherRun",
        ),
        Row("Segment.first", Signed(|r| segment(r, |s| s.first += 1)), None, tiling),
        Row("Segment.end", Signed(|r| segment(r, |s| s.end += 1)), None, tiling),
        // Frames may have been left out; but nobody signs for fewer than it marks.
        Row("Segment.positions", Signed(|r| segment(r, |s| s.positions += 1)), None, "Positions"),
        Row("Segment.positions", Signed(|r| segment(r, |s| s.positions -= 1)), Some(1), "Segment"),
        Row(
            "Segment.input_root",
            Signed(|r| segment(r, |s| flip(&mut s.input_root))),
            Some(1),
            "Slice",
        ),
        Row(
            "Segment.layers",
            Signed(|r| segment(r, |s| shorten(&mut s.layers))),
            Some(1),
            "Segment",
        ),
        Row("Segment.layers", Signed(|r| segment(r, |s| s.layers.swap(0, 1))), Some(1), "Slice"),
        Row(
            "LayerRoots.states",
            Signed(|r| segment(r, |s| flip(&mut s.layers[0].states))),
            Some(1),
            "Slice",
        ),
        Row(
            "LayerRoots.kv",
            Signed(|r| segment(r, |s| flip(&mut s.layers[0].kv))),
            Some(1),
            "Slice",
        ),
        Row("Segment.chain", Signed(|r| segment(r, |s| flip(&mut s.chain))), Some(1), "Chain"),
        Row(
            "Segment.deadline_unix_ms",
            Forged(|b| b.receipt.segments[1].deadline_unix_ms += 1),
            None,
            "Signature(\"segment\")",
        ),
        Row(
            "Segment.signature",
            Forged(|b| b.receipt.segments[2].signature.0[9] ^= 1),
            None,
            "Signature(\"segment\")",
        ),
        Row(
            "LayerRoots.kv",
            Forged(|b| flip(&mut b.receipt.segments[0].layers[1].kv)),
            None,
            "Signature(\"segment\")",
        ),
    ]
}

pub(super) fn takeovers() -> Vec<Row> {
    vec![
        // Its marks are of another run then, and the layers have a gap.
        Row(
            "Segment.first_position",
            Signed(|r| segment(r, |s| s.first_position += 1)),
            None,
            "Tiling(\"segments\")",
        ),
        // A run that nobody had, and one that is there, but not before this stage.
        Row(
            "Segment.takeovers",
            Signed(|r| takeover(r, |t| t.run = RunId(Digest([7; 32])))),
            None,
            "OtherRun",
        ),
        Row(
            "Takeover.run",
            Signed(|r| {
                let run = own_run(r);
                takeover(r, |t| t.run = run);
            }),
            None,
            "OtherRun",
        ),
        Row("Takeover.position", Signed(|r| takeover(r, |t| t.position = 99)), None, "OtherRun"),
    ]
}

pub(super) fn heads() -> Vec<Row> {
    let answer = "Tiling(\"tokens of the answer\")";
    vec![
        Row("HeadStatement.session", Signed(|r| head(r, |h| flip(&mut h.session))), None, answer),
        Row(
            "HeadStatement.before",
            Signed(|r| head(r, |h| flip(&mut h.before.0))),
            None,
            "OtherRun { stage: 0 }",
        ),
        Row(
            "HeadStatement.takeovers",
            Signed(|r| {
                let run = own_run(r);
                head(r, |h| h.takeovers.push(Takeover { position: 1, run }));
            }),
            None,
            "OtherRun { stage: 0 }",
        ),
        Row("HeadStatement.tokens", Signed(|r| head(r, |h| flip(&mut h.tokens))), None, answer),
        Row(
            "HeadStatement.finish",
            Signed(|r| head(r, |h| h.finish = Finish::EndToken)),
            None,
            answer,
        ),
        Row(
            "HeadStatement.finish",
            Signed(|r| {
                r.finish = Finish::EndToken;
                head(r, |h| h.finish = Finish::EndToken);
            }),
            Some(0),
            "Finish",
        ),
        Row("HeadStatement.chain", Signed(|r| head(r, |h| flip(&mut h.chain))), Some(0), "Chain"),
        Row(
            "HeadStatement.signature",
            Forged(|b| b.receipt.head.signature.0[0] ^= 1),
            None,
            "Signature(\"head\")",
        ),
    ]
}
