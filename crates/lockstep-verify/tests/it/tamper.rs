//! The tamper table: each field of each thing that is signed or committed, changed, and the fault
//! that must result. A field without a row does not compile, or fails the first test.
//!
//! *Forged* rows change the field and leave the signature as it is; *signed* rows have the signer
//! sign again what it changed, and then answer challenges to it.

mod asked;
mod fields;
mod opened;
mod receipts;
mod signed;

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::reference::Reference;
use lockstep_testing::proofs::{Ask, Ring, Session, client, key, model, node};
use lockstep_verify::audit::{Unverified, audit};
use lockstep_verify::bundle::Bundle;
use lockstep_verify::draw::Extent;
use lockstep_verify::fault::Fault;
use lockstep_verify::opening::{Opening, SignedOpening};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{Hop, Lease, Reuse};
use lockstep_verify::sign::{NodeId, Signature, Statement as _};
use std::sync::OnceLock;

use asked::{leases, requests};
use fields::{all_fields, fields};
use opened::{exchanges, head_openings, opened_sums, openings};
use receipts::{parts, receipts};
use signed::{heads, marks, segments, takeovers};

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
