//! Rows for what the client signs: its request and its lease.

use lockstep_exact::Digest;
use lockstep_testing::proofs::client;
use lockstep_verify::bundle::Bundle;
use lockstep_verify::request::{Lease, Reuse};

use super::How::Forged;
use super::{Row, flip, shorten};

pub(super) fn requests() -> Vec<Row> {
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

/// Changes the lease and signs it again with the session's key.
fn lease(bundle: &mut Bundle, change: impl FnOnce(&mut Lease)) {
    let lease = &mut bundle.receipt.lease;
    change(lease);
    *lease = lease.clone().signed(&client());
}

const REUSE: Reuse = Reuse { session: Digest([4; 32]), length: 3 };

/// Whatever a lease takes over, it is not audited.
fn of_reuse(bundle: &mut Bundle, change: impl FnOnce(&mut Reuse)) {
    let mut reuse = REUSE;
    change(&mut reuse);
    lease(bundle, |lease| lease.reuse = Some(reuse));
}

pub(super) fn leases() -> Vec<Row> {
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
