//! Rows for challenges and their openings.

use lockstep_testing::proofs::{client, model};
use lockstep_verify::bundle::Bundle;
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::draw::Extent;
use lockstep_verify::opening::{HeadOpening, Inputs, LayerOpening, Opening};
use lockstep_verify::request::AuditSeed;
use lockstep_verify::secret::Secret;

use super::How::{Forged, Opened};
use super::{Row, flip, shorten};

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

pub(super) fn exchanges() -> Vec<Row> {
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

pub(super) fn openings() -> Vec<Row> {
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

pub(super) fn opened_sums() -> Vec<Row> {
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

pub(super) fn head_openings() -> Vec<Row> {
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
