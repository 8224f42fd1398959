//! The tamper table: each field of each thing that is signed or committed, changed, and the fault
//! that must result. A field without a row does not compile, or fails the first test.
//!
//! *Forged* rows change the field and leave the signature as it is; *signed* rows have the signer
//! sign again what it changed, and then answer challenges to it.

use std::sync::OnceLock;

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::reference::Reference;
use lockstep_exact::sample::Finish;
use lockstep_verify::audit::{Unverified, audit};
use lockstep_verify::bundle::{Bundle, Exchange};
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::draw::Extent;
use lockstep_verify::fault::Fault;
use lockstep_verify::opening::{HeadOpening, Inputs, LayerOpening, Opening, SignedOpening};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{AuditSeed, Hop, Lease, Request, Reuse};
use lockstep_verify::secret::Secret;
use lockstep_verify::sign::{NodeId, Signature, Statement as _};
use lockstep_verify::slice::Slice;
use lockstep_verify::statement::{
    HeadStatement, LayerRoots, Mark, RunId, Segment, Step, Takeover, token_digest, tokens_digest,
};

use lockstep_testing::proofs::{Ask, Ring, Session, client, key, model, node};

/// Names of a struct's fields. A field that is not listed does not compile.
macro_rules! fields {
    ($name:ident { $($field:ident),* $(,)? }) => {{
        fn _complete(value: &$name) {
            let $name { $($field: _),* } = value;
        }
        [$(concat!(stringify!($name), ".", stringify!($field))),*].to_vec()
    }};
}

/// The fields of receipts and of what answers challenges.
fn fields_of_receipts() -> Vec<&'static str> {
    [
        fields!(Receipt {
            request,
            lease,
            placements,
            answer,
            finish,
            segments,
            head,
            steps,
            head_marks
        }),
        fields!(Challenge { session, run, receipt, target, signature }),
        fields!(SignedOpening { challenge, body, signature }),
        fields!(Exchange { challenge, opening }),
        fields!(Bundle { receipt, extent, seed, exchanges }),
        fields!(LayerOpening { kv, inputs, outputs, sums }),
        fields!(HeadOpening { states, sums }),
        fields!(Slice { bytes, siblings }),
    ]
    .concat()
}

/// Everything that the table must have a row for.
fn all_fields() -> Vec<&'static str> {
    [
        fields!(Request {
            manifest,
            adapters,
            prompt,
            sampling,
            stops,
            nonce,
            session_key,
            audit_commitment
        }),
        fields!(Mark {
            first,
            end,
            epoch,
            position,
            count,
            chain_before,
            input,
            output,
            signature
        }),
        fields!(Step { position, count, marks }),
        fields!(LayerRoots { states, kv }),
        fields!(Reuse { session, length }),
        fields!(Lease {
            session,
            epoch,
            manifest,
            adapters,
            reuse,
            session_key,
            prompt_len,
            max_positions,
            route,
            addresses,
            signature
        }),
        fields!(Segment {
            session,
            lease,
            before,
            takeovers,
            run_value,
            node,
            first,
            end,
            first_position,
            positions,
            input_root,
            layers,
            chain,
            deadline_unix_ms,
            signature
        }),
        fields!(HeadStatement { session, before, takeovers, tokens, finish, chain, signature }),
        fields!(Takeover { position, run }),
        fields_of_receipts(),
    ]
    .concat()
}

/// Who must be blamed.
type Blamed = Option<u32>;

enum How {
    /// Changed by whoever holds the bundle.
    Forged(fn(&mut Bundle)),
    /// Changed and signed again by the one who signed it.
    Signed(fn(&mut Receipt)),
    /// An opening changed and signed by its stage.
    Opened(fn(&mut Opening)),
}
use How::{Forged, Opened, Signed};

struct Row(&'static str, How, Blamed, &'static str);

fn shorten<T>(list: &mut Vec<T>) {
    list.truncate(list.len() - 1);
}

fn flip(digest: &mut Digest) {
    digest.0[5] ^= 1;
}

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

fn head(receipt: &mut Receipt, change: impl FnOnce(&mut HeadStatement)) {
    change(&mut receipt.head);
    receipt.head = receipt.head.clone().signed(head_run(receipt), &node(0));
}

fn head_mark(receipt: &mut Receipt, change: impl FnOnce(&mut Mark)) {
    let run = head_run(receipt);
    let mark = &mut receipt.head_marks[0];
    change(mark);
    *mark = mark.signed(run, &node(0));
}

fn head_run(receipt: &Receipt) -> RunId {
    let (first, last) = (&receipt.segments[0], &receipt.segments[2]);
    first.run().of_head(receipt.head.before, last.end).id()
}

/// Changes the lease and signs it again with the session's key.
fn lease(bundle: &mut Bundle, change: impl FnOnce(&mut Lease)) {
    let lease = &mut bundle.receipt.lease;
    change(lease);
    *lease = lease.clone().signed(&client());
}

fn challenge(bundle: &mut Bundle, change: impl FnOnce(&mut Challenge)) {
    let challenge = &mut bundle.exchanges[0].challenge;
    change(challenge);
    *challenge = challenge.clone().signed(&client());
}

fn layer(opening: &mut Opening, change: impl FnOnce(&mut LayerOpening)) {
    if let Opening::Layer(opening) = opening {
        change(opening);
    }
}

fn head_opening(opening: &mut Opening, change: impl FnOnce(&mut HeadOpening)) {
    if let Opening::Head(opening) = opening {
        change(opening);
    }
}

fn requests() -> Vec<Row> {
    let foreign = "Lease(\"session\")";
    vec![
        Row("Request.manifest", Forged(|b| flip(&mut b.receipt.request.manifest)), None, "Key"),
        Row(
            "Request.adapters",
            Forged(|b| b.receipt.request.adapters.push(Digest::ZERO)),
            None,
            "Adapters",
        ),
        Row("Request.prompt", Forged(|b| b.receipt.request.prompt[0] ^= 1), None, foreign),
        Row("Request.prompt", Forged(|b| b.receipt.request.prompt.clear()), None, "Request"),
        Row("Request.prompt", Forged(|b| b.receipt.request.prompt[0] = 999), None, "Request"),
        Row(
            "Request.prompt",
            Forged(|b| b.receipt.request.prompt.resize(4000, 1)),
            None,
            "Request(\"a prompt of 4000 tokens\")",
        ),
        Row("Request.sampling", Forged(|b| b.receipt.request.sampling.seed ^= 1), None, foreign),
        Row(
            "Request.sampling",
            Forged(|b| b.receipt.request.sampling.top_p = 2.0),
            None,
            "Request",
        ),
        Row("Request.stops", Forged(|b| b.receipt.request.stops.max_tokens += 1), None, foreign),
        Row("Request.nonce", Forged(|b| b.receipt.request.nonce[0] ^= 1), None, foreign),
        Row(
            "Request.session_key",
            Forged(|b| b.receipt.request.session_key.0[0] ^= 1),
            None,
            foreign,
        ),
        Row(
            "Request.audit_commitment",
            Forged(|b| flip(&mut b.receipt.request.audit_commitment)),
            None,
            "Seed",
        ),
    ]
}

fn marks() -> Vec<Row> {
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

fn segments() -> Vec<Row> {
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

fn takeovers() -> Vec<Row> {
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

fn heads() -> Vec<Row> {
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

fn receipts() -> Vec<Row> {
    let answer = "Tiling(\"tokens of the answer\")";
    vec![
        Row("Receipt.answer", Forged(|b| b.receipt.answer[0] ^= 1), None, answer),
        Row(
            "Receipt.answer",
            // The head signs another token than it marked.
            Signed(|r| {
                *r.answer.last_mut().unwrap() ^= 1;
                let tokens = tokens_digest(&r.answer);
                head(r, |h| h.tokens = tokens);
            }),
            Some(0),
            "Tokens",
        ),
        Row("Receipt.finish", Forged(|b| b.receipt.finish = Finish::Context), None, answer),
        Row(
            "Receipt.head_marks",
            Forged(|b| shorten(&mut b.receipt.head_marks)),
            None,
            "Tiling(\"head marks\")",
        ),
        Row(
            "Receipt.head_marks",
            Forged(|b| b.receipt.head_marks.swap(0, 1)),
            None,
            "Tiling(\"marks\")",
        ),
        Row(
            "Receipt.head_marks",
            Signed(|r| head_mark(r, |m| m.output = token_digest(1))),
            Some(0),
            "Tokens",
        ),
        Row(
            "Receipt.head_marks",
            Signed(|r| head_mark(r, |m| flip(&mut m.chain_before))),
            Some(0),
            "Chain",
        ),
        Row(
            "Receipt.head_marks",
            Signed(|r| head_mark(r, |m| flip(&mut m.input))),
            Some(0),
            "Chain",
        ),
    ]
}

fn parts() -> Vec<Row> {
    vec![
        Row(
            "Receipt.segments",
            Forged(|b| b.receipt.segments.swap(0, 1)),
            None,
            "Tiling(\"segments\")",
        ),
        Row(
            "Receipt.segments",
            Forged(|b| shorten(&mut b.receipt.segments)),
            None,
            "Tiling(\"segments\")",
        ),
        Row("Receipt.steps", Forged(|b| b.receipt.steps.swap(0, 1)), None, "Tiling(\"frames\")"),
        Row("Receipt.steps", Forged(|b| shorten(&mut b.receipt.steps)), None, "Tiling(\"frames\")"),
        Row(
            "Receipt.head",
            Forged(|b| b.receipt.head.tokens = Digest::ZERO),
            None,
            "Signature(\"head\")",
        ),
        Row(
            "Receipt.request",
            Forged(|b| b.receipt.request.stops.ignore_end ^= true),
            None,
            "Lease(\"session\")",
        ),
    ]
}

fn exchanges() -> Vec<Row> {
    vec![
        Row(
            "Challenge.session",
            Forged(|b| challenge(b, |c| flip(&mut c.session))),
            None,
            "NotDrawn",
        ),
        Row("Challenge.run", Forged(|b| challenge(b, |c| flip(&mut c.run.0))), None, "NotDrawn"),
        Row(
            "Challenge.receipt",
            Forged(|b| challenge(b, |c| flip(&mut c.receipt))),
            None,
            "NotDrawn",
        ),
        Row(
            "Challenge.target",
            Forged(|b| challenge(b, |c| c.target = Target::Head { positions: vec![1] })),
            None,
            "NotDrawn",
        ),
        Row(
            "Challenge.signature",
            Forged(|b| b.exchanges[0].challenge.signature.0[3] ^= 1),
            None,
            "Signature(\"challenge\")",
        ),
        Row(
            "SignedOpening.challenge",
            Forged(|b| flip(&mut b.exchanges[0].opening.challenge)),
            None,
            "Signature(\"opening\")",
        ),
        Row(
            "SignedOpening.body",
            Forged(|b| b.exchanges[0].opening.body[9] ^= 1),
            None,
            "Signature(\"opening\")",
        ),
        Row(
            "SignedOpening.signature",
            Forged(|b| b.exchanges[0].opening.signature.0[3] ^= 1),
            None,
            "Signature(\"opening\")",
        ),
        Row(
            "Exchange.challenge",
            Forged(|b| b.exchanges[0].challenge = b.exchanges[1].challenge.clone()),
            None,
            "NotDrawn",
        ),
        Row(
            "Exchange.opening",
            Forged(|b| b.exchanges[0].opening = b.exchanges[1].opening.clone()),
            None,
            "Signature(\"opening\")",
        ),
        Row("Bundle.seed", Forged(|b| b.seed = AuditSeed::new(Secret::of(&[1; 32]))), None, "Seed"),
        Row("Bundle.extent", Forged(|b| b.extent = Extent::Sampled), None, "NotDrawn"),
        Row(
            "Bundle.exchanges",
            Forged(|b| b.exchanges.push(b.exchanges[0].clone())),
            None,
            "NotDrawn",
        ),
        Row("Bundle.exchanges", Forged(|b| shorten(&mut b.exchanges)), None, "Openings"),
        Row("Bundle.receipt", Forged(|b| b.receipt.answer.push(0)), None, "Tiling"),
    ]
}

fn openings() -> Vec<Row> {
    let first_byte = |o: &mut Opening| layer(o, |l| l.kv.bytes[0] ^= 1);
    let sibling = |o: &mut Opening| layer(o, |l| l.kv.siblings.push([0; 32]));
    vec![
        Row("Slice.bytes", Opened(first_byte), Some(0), "Slice"),
        Row("Slice.siblings", Opened(sibling), Some(0), "Slice"),
        Row("LayerOpening.kv", Opened(|o| layer(o, |l| l.kv.bytes.push(0))), Some(0), "Slice"),
        Row(
            "LayerOpening.inputs",
            Opened(|o| {
                layer(o, |l| match &mut l.inputs {
                    Inputs::Embeddings(rows) => rows[0] ^= 1,
                    Inputs::Slices(slices) => slices[0].bytes[0] ^= 1,
                });
            }),
            Some(0),
            "Embedding",
        ),
        Row(
            "LayerOpening.inputs",
            Opened(|o| layer(o, |l| l.inputs = Inputs::Slices(l.outputs.clone()))),
            Some(0),
            "Shape(\"input rows\")",
        ),
        Row(
            "LayerOpening.inputs",
            Opened(|o| {
                layer(o, |l| {
                    if let Inputs::Slices(slices) = &l.inputs {
                        l.inputs = Inputs::Embeddings(slices[0].bytes.clone());
                    }
                });
            }),
            Some(0),
            "Shape(\"input rows\")",
        ),
        Row(
            "LayerOpening.inputs",
            Opened(|o| {
                layer(o, |l| {
                    if let Inputs::Embeddings(rows) = &mut l.inputs {
                        rows.extend_from_within(..model().manifest.state_row_bytes());
                    }
                });
            }),
            Some(0),
            "Shape(\"embedding rows\")",
        ),
        Row("LayerOpening.outputs", Opened(|o| layer(o, |l| l.outputs.clear())), Some(0), "Shape"),
        Row(
            "LayerOpening.outputs",
            Opened(|o| layer(o, |l| l.outputs[0].bytes[7] ^= 1)),
            Some(0),
            "Slice",
        ),
    ]
}

fn opened_sums() -> Vec<Row> {
    vec![
        Row(
            "LayerOpening.sums",
            Opened(|o| layer(o, |l| l.sums[1][1] ^= 1)),
            Some(0),
            "Product(Output)",
        ),
        Row(
            "LayerOpening.sums",
            Opened(|o| layer(o, |l| l.sums[2][1] ^= 1)),
            Some(0),
            "Product(GateUp)",
        ),
        Row(
            "LayerOpening.sums",
            Opened(|o| layer(o, |l| l.sums[3][1] ^= 1)),
            Some(0),
            "Product(Down)",
        ),
        Row(
            "LayerOpening.sums",
            Opened(|o| layer(o, |l| shorten(&mut l.sums[0]))),
            Some(0),
            "Sums",
        ),
        Row("LayerOpening.sums", Opened(|o| layer(o, |l| shorten(&mut l.sums))), Some(0), "Shape"),
        Row(
            "LayerOpening.sums",
            Opened(|o| layer(o, |l| l.sums.push(Vec::new()))),
            Some(0),
            "Shape",
        ),
    ]
}

fn head_openings() -> Vec<Row> {
    vec![
        Row(
            "HeadOpening.states",
            Opened(|o| head_opening(o, |h| h.states[0] ^= 1)),
            Some(0),
            "MarkContradicted",
        ),
        Row(
            "HeadOpening.states",
            Opened(|o| head_opening(o, |h| shorten(&mut h.states))),
            Some(0),
            "Shape",
        ),
        Row(
            "HeadOpening.sums",
            Opened(|o| head_opening(o, |h| h.sums[1] ^= 1)),
            Some(0),
            "Product(Logits)",
        ),
        Row("HeadOpening.sums", Opened(|o| head_opening(o, |h| h.sums.push(0))), Some(0), "Sums"),
    ]
}

const REUSE: Reuse = Reuse { session: Digest([4; 32]), length: 3 };

/// Whatever a lease takes over, it is not audited.
fn of_reuse(bundle: &mut Bundle, change: impl FnOnce(&mut Reuse)) {
    let mut reuse = REUSE;
    change(&mut reuse);
    lease(bundle, |lease| lease.reuse = Some(reuse));
}

fn leases() -> Vec<Row> {
    let signature = "Signature(\"lease\")";
    let other = "OtherLease { stage: 0 }";
    vec![
        Row("Lease.session", Forged(|b| lease(b, |l| flip(&mut l.session))), None, "Lease"),
        Row("Lease.epoch", Forged(|b| lease(b, |l| l.epoch += 1)), None, "Lease(\"epoch\")"),
        Row("Lease.manifest", Forged(|b| lease(b, |l| flip(&mut l.manifest))), None, "Lease"),
        Row(
            "Lease.adapters",
            Forged(|b| lease(b, |l| l.adapters.push(Digest::ZERO))),
            None,
            "Lease(\"adapters\")",
        ),
        Row("Lease.reuse", Forged(|b| lease(b, |l| l.reuse = Some(REUSE))), None, "Reuse"),
        Row("Reuse.session", Forged(|b| of_reuse(b, |r| flip(&mut r.session))), None, "Reuse"),
        Row("Reuse.length", Forged(|b| of_reuse(b, |r| r.length = 0)), None, "Reuse"),
        Row("Lease.session_key", Forged(|b| b.receipt.lease.session_key.0[0] ^= 1), None, "Lease"),
        Row("Lease.prompt_len", Forged(|b| lease(b, |l| l.prompt_len += 1)), None, "Lease"),
        Row("Lease.max_positions", Forged(|b| lease(b, |l| l.max_positions += 1)), None, other),
        Row("Lease.max_positions", Forged(|b| b.receipt.lease.max_positions += 1), None, signature),
        Row(
            "Lease.route",
            Forged(|b| lease(b, |l| l.route[1].node = l.route[0].node)),
            None,
            "Lease",
        ),
        Row("Lease.route", Forged(|b| lease(b, |l| l.route[0].end += 1)), None, "Tiling"),
        Row("Lease.route", Forged(|b| lease(b, |l| shorten(&mut l.route))), None, other),
        Row(
            "Lease.addresses",
            Forged(|b| lease(b, |l| l.addresses.push(String::new()))),
            None,
            other,
        ),
        Row("Lease.signature", Forged(|b| b.receipt.lease.signature.0[0] ^= 1), None, signature),
        Row(
            "Receipt.placements",
            Forged(|b| b.receipt.placements.push(b.receipt.lease.clone())),
            None,
            "Lease(\"placement\")",
        ),
        Row("Receipt.lease", Forged(|b| lease(b, |l| l.max_positions = 11)), None, other),
    ]
}

fn table() -> Vec<Row> {
    let of_receipts = [requests(), leases(), marks(), segments(), takeovers(), heads(), receipts()];
    let of_openings = [parts(), exchanges(), openings(), opened_sums(), head_openings()];
    of_receipts.into_iter().chain(of_openings).flatten().collect()
}

fn session() -> Session {
    Ring::new(model(), &[2, 4]).run(&Ask::new(31, 9, 4))
}

/// The verdict's words for who and what.
fn outcome(verdict: Result<(), Unverified>) -> (Blamed, String) {
    match verdict {
        Ok(()) => (None, "Verified".to_owned()),
        Err(Unverified::Failed(fault)) => (fault.stage(), format!("{:?}", fault.reason)),
        Err(Unverified::NotChecked { why, .. }) => (None, format!("{why:?}")),
    }
}

fn verdict(bundle: Result<Bundle, Fault>) -> Result<(), Unverified> {
    audit(&Reference, key(), &bundle?).map(|_| ())
}

fn apply(how: &How, honest: &Bundle) -> Result<(), Unverified> {
    let mut bundle = honest.clone();
    match how {
        Forged(change) => change(&mut bundle),
        Signed(change) => {
            let mut session = session();
            change(&mut session.receipt);
            return verdict(session.bundle(Extent::Full));
        }
        Opened(change) => {
            for exchange in &mut bundle.exchanges {
                let body = &exchange.opening.body;
                let mut opening = Opening::from_bytes(body).unwrap();
                let before = opening.clone();
                change(&mut opening);
                if opening != before {
                    let challenge = exchange.challenge.statement();
                    let body = opening.to_bytes();
                    // Server 1's are the first of each kind.
                    exchange.opening = SignedOpening::new(challenge, body, &node(0));
                    break;
                }
            }
        }
    }
    verdict(Ok(bundle))
}

#[test]
fn every_field_of_everything_signed_or_committed_has_a_row() {
    let rows: Vec<&str> = table().iter().map(|row| row.0).collect();
    let missing: Vec<&str> =
        all_fields().into_iter().filter(|field| !rows.contains(field)).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
}

/// An honest session with everything opened.
fn honest() -> &'static Bundle {
    static HONEST: OnceLock<Bundle> = OnceLock::new();
    HONEST.get_or_init(|| {
        let honest = session().bundle(Extent::Full).unwrap();
        assert_eq!(outcome(verdict(Ok(honest.clone()))).1, "Verified");
        honest
    })
}

/// Every row gives the fault that it says.
fn check(rows: Vec<Row>) {
    for Row(field, how, blamed, reason) in rows {
        let kind = match how {
            Forged(_) => "forged",
            Signed(_) => "signed",
            Opened(_) => "opened",
        };
        let (stage, got) = outcome(apply(&how, honest()));
        assert!(got.starts_with(reason), "{field} {kind}: expected {reason}, got {got}");
        assert_eq!(stage, blamed, "{field} {kind}: {got}");
    }
}

#[test]
fn a_changed_request_gives_its_fault() {
    check(requests());
}

#[test]
fn a_changed_lease_gives_its_fault() {
    check(leases());
}

#[test]
fn a_changed_mark_or_frame_gives_its_fault() {
    check(marks());
}

#[test]
fn a_changed_segment_gives_its_fault() {
    check(segments());
    check(takeovers());
}

#[test]
fn a_changed_statement_of_the_head_gives_its_fault() {
    check(heads());
}

#[test]
fn a_changed_answer_or_mark_of_the_head_gives_its_fault() {
    check(receipts());
}

#[test]
fn a_changed_part_of_a_receipt_gives_its_fault() {
    check(parts());
}

#[test]
fn a_changed_exchange_gives_its_fault() {
    check(exchanges());
}

#[test]
fn a_changed_opening_gives_its_fault() {
    check(openings());
}

#[test]
fn changed_sums_of_an_opening_give_their_fault() {
    check(opened_sums());
}

#[test]
fn a_changed_opening_of_the_head_gives_its_fault() {
    check(head_openings());
}

#[test]
fn every_field_of_a_lease_is_signed() {
    type Change = (&'static str, fn(&mut Lease));
    let changes: [Change; 11] = [
        ("Lease.session", |l| flip(&mut l.session)),
        ("Lease.epoch", |l| l.epoch += 1),
        ("Lease.manifest", |l| flip(&mut l.manifest)),
        ("Lease.adapters", |l| l.adapters.push(Digest::ZERO)),
        ("Lease.reuse", |l| l.reuse = Some(Reuse { session: Digest::ZERO, length: 0 })),
        ("Lease.session_key", |l| l.session_key = node(3).id()),
        ("Lease.prompt_len", |l| l.prompt_len += 1),
        ("Lease.max_positions", |l| l.max_positions += 1),
        ("Lease.route", |l| l.route[0].end += 1),
        ("Lease.addresses", |l| l.addresses[0].push('1')),
        ("Lease.signature", |l| l.signature.0[0] ^= 1),
    ];
    let named: Vec<&str> = changes.iter().map(|(field, _)| *field).collect();
    let all = fields!(Lease {
        session,
        epoch,
        manifest,
        adapters,
        reuse,
        session_key,
        prompt_len,
        max_positions,
        route,
        addresses,
        signature
    });
    assert_eq!(named, all);
    let lease = Lease {
        session: Digest([1; 32]),
        epoch: 0,
        manifest: Digest([2; 32]),
        adapters: Vec::new(),
        reuse: None,
        session_key: NodeId([0; 32]),
        prompt_len: 3,
        max_positions: 9,
        route: vec![Hop { node: node(0).id(), first: 0, end: 6 }],
        addresses: vec!["here".to_owned()],
        signature: Signature::NONE,
    }
    .signed(&client());
    assert_eq!(lease.verify(), Ok(()));
    for (field, change) in changes {
        let mut changed = lease.clone();
        change(&mut changed);
        assert!(changed.verify().is_err(), "{field}");
    }
}
