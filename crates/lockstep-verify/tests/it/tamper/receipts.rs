//! Rows for what a receipt holds besides.

use lockstep_exact::Digest;
use lockstep_exact::sample::Finish;
use lockstep_verify::statement::{token_digest, tokens_digest};

use super::How::{Forged, Signed};
use super::signed::{head, head_mark};
use super::{Row, flip, shorten};

pub(super) fn receipts() -> Vec<Row> {
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

pub(super) fn parts() -> Vec<Row> {
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
