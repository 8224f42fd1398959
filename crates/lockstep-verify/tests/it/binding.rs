//! What binds statements together: a stage is held to what it signed of its own cells, in one run,
//! for the client's lease; whatever was handed to it, left out or mixed is nobody's fault.

use lockstep_exact::Digest;
use lockstep_exact::reference::Reference;
use lockstep_verify::audit::{Missing, Unverified, audit};
use lockstep_verify::bundle::Bundle;
use lockstep_verify::challenge::Target;
use lockstep_verify::draw::Extent;
use lockstep_verify::fault::{Blame, Fault, Reason};
use lockstep_verify::receipt::Receipt;

use lockstep_testing::lie::Lie;
use lockstep_testing::proofs::{
    Ask, OtherLease, Ring, SEED, Session, Slip, client, key, model, node, slip, told,
};

const CUTS: [u32; 2] = [2, 4];

fn ring() -> Ring<'static> {
    Ring::new(model(), &CUTS)
}

fn ask() -> Ask {
    Ask::new(24, 11, 5)
}

/// The fault in the links of a receipt.
fn fault(receipt: &Receipt) -> Fault {
    lockstep_verify::audit::plan(key(), receipt, &SEED, Extent::Full).unwrap_err()
}

/// What an audit says that sees only the marks that were asked for.
fn verdict_of_marks(session: &Session) -> Unverified {
    let bundle = session.bundle(Extent::Full).unwrap();
    let is_mark = |target: &Target| matches!(target, Target::Mark { .. });
    let exchanges = bundle.exchanges.into_iter();
    let exchanges = exchanges.filter(|exchange| is_mark(&exchange.challenge.target)).collect();
    audit(&Reference, key(), &Bundle { exchanges, ..bundle }).unwrap_err()
}

#[test]
fn a_stage_that_was_given_another_lease_is_cleared_by_its_own_signature() {
    let others: [(&str, OtherLease); 5] = [
        ("model", OtherLease { change: |l| l.manifest.0[0] ^= 1, key: client }),
        ("prompt length", OtherLease { change: |l| l.prompt_len -= 1, key: client }),
        ("most positions", OtherLease { change: |l| l.max_positions += 1, key: client }),
        ("addresses", OtherLease { change: |l| l.addresses.push("x".to_owned()), key: client }),
        ("session key", OtherLease { change: |_| (), key: || node(0) }),
    ];
    for (what, other) in others {
        for stage in [1_u32, 2] {
            let mut ring = ring();
            ring.leases.push((stage as usize, other));
            if stage == 2 && what == "prompt length" {
                // The last stage would send other states than the head reads.
                continue;
            }
            let receipt = ring.run(&ask()).receipt;
            let fault = fault(&receipt);
            assert_eq!(fault.blame, Blame::Receipt, "{what}: {fault}");
            assert_eq!(fault.reason, Reason::OtherLease { stage }, "{what}");
            assert!(fault.to_string().contains("clears it"), "{fault}");
        }
    }
}

#[test]
fn a_lease_that_is_not_the_requests_is_the_receipts_fault() {
    type Change = fn(&mut Receipt);
    let changes: [(&str, Change); 9] = [
        ("session", |r| r.lease.session.0[0] ^= 1),
        ("epoch", |r| r.lease.epoch += 1),
        ("adapters", |r| r.lease.adapters.push(Digest::ZERO)),
        ("model", |r| r.lease.manifest.0[0] ^= 1),
        ("session key", |r| r.lease.session_key = node(5).id()),
        ("prompt length", |r| r.lease.prompt_len += 1),
        ("route", |r| r.lease.route[1].node = r.lease.route[0].node),
        ("signature", |r| r.lease.signature.0[0] ^= 1),
        ("most positions", |r| r.lease.max_positions += 1),
    ];
    for (what, change) in changes {
        let mut receipt = ring().run(&ask()).receipt;
        change(&mut receipt);
        let fault = fault(&receipt);
        assert_eq!(fault.blame, Blame::Receipt, "{what}: {fault}");
        let expected = match what {
            "signature" | "most positions" => Reason::Signature("lease"),
            what => Reason::Lease(what),
        };
        assert_eq!(fault.reason, expected);
    }
    // Also where the session's key has signed it: the client may be the one who lies.
    let mut receipt = ring().run(&ask()).receipt;
    receipt.lease.max_positions = 14;
    receipt.lease = receipt.lease.signed(&client());
    assert_eq!(fault(&receipt).reason, Reason::OtherLease { stage: 0 });
}

#[test]
fn one_session_run_twice_convicts_nobody_whatever_is_taken_from_which_run() {
    let one = ring().run(&ask()).receipt;
    let mut again = ring();
    (again.run, again.chunk) = (2, 3);
    let two = again.run(&ask()).receipt;
    assert_eq!(one.request.session(), two.request.session());
    assert_eq!(one.answer, two.answer, "the runs are equal but for their values and frames");
    for stage in 0..3 {
        let mut mixed = one.clone();
        mixed.segments[stage] = two.segments[stage].clone();
        assert_eq!(fault(&mixed).blame, Blame::Receipt, "{}", fault(&mixed));
        let mut mixed = one.clone();
        for step in &mut mixed.steps {
            let position = step.position;
            if let Some(other) = two.steps.iter().find(|other| other.position == position) {
                step.marks[stage] = other.marks[stage];
            }
        }
        assert_eq!(fault(&mixed).blame, Blame::Receipt, "{}", fault(&mixed));
    }
    let mut mixed = one.clone();
    mixed.head = two.head;
    assert_eq!(fault(&mixed).reason, Reason::Signature("head"));
    let mut mixed = one;
    mixed.head_marks[1] = two.head_marks[1];
    assert_eq!(fault(&mixed).reason, Reason::Signature("mark"));
}

#[test]
fn an_opening_of_another_run_answers_no_challenge_of_this_one() {
    let session = ring().run(&ask());
    let mut again = ring();
    again.run = 2;
    let again = again.run(&ask());
    // A client that asks about one run and puts the answer beside the receipt of the other.
    let mut bundle = session.bundle(Extent::Full).unwrap();
    for (exchange, other) in
        bundle.exchanges.iter_mut().zip(again.bundle(Extent::Full).unwrap().exchanges)
    {
        let mut challenge = exchange.challenge.clone();
        challenge.run = other.challenge.run;
        exchange.challenge = challenge.signed(&client());
        let stage = again.receipt.segments.iter().position(|s| s.run().id() == other.challenge.run);
        let stage = u32::try_from(stage.unwrap()).unwrap();
        exchange.opening = again.answer(stage, &exchange.challenge);
    }
    match audit(&Reference, key(), &bundle) {
        Err(Unverified::Failed(fault)) => {
            assert_eq!((fault.blame, fault.reason), (Blame::Receipt, Reason::NotDrawn));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tail_that_was_left_out_is_the_receipts_fault() {
    for tail in 1..4 {
        let receipt = Ring { tail, ..ring() }.run(&ask()).receipt;
        let fault = fault(&receipt);
        assert_eq!((fault.blame, fault.reason), (Blame::Receipt, Reason::Positions { stage: 1 }));
    }
    // But nobody signs for fewer positions than it has marked.
    let mut receipt = ring().run(&ask()).receipt;
    receipt.segments[2].positions -= 1;
    receipt.segments[2] = receipt.segments[2].clone().signed(&node(2));
    let fault = fault(&receipt);
    assert_eq!((fault.stage(), fault.reason), (Some(2), Reason::Segment("number of positions")));
}

#[test]
fn whoever_signs_two_marks_for_one_frame_is_convicted_by_the_one_that_its_neighbour_shows() {
    for stage in 0..3 {
        for position in [10, 12, 14] {
            let session = ring().lying(stage, told(Lie::TwoMarks, 0, position)).run(&ask());
            let node = node(stage).id();
            let blame = Blame::Stage { stage: u32::try_from(stage).unwrap(), node };
            match verdict_of_marks(&session) {
                Unverified::Failed(fault) => {
                    assert_eq!(fault.blame, blame, "{fault}");
                    assert!(matches!(fault.reason, Reason::TwoMarks { .. }), "{fault}");
                }
                other => panic!("{other}"),
            }
            // Together with all that is opened as well.
            assert_eq!(session.fault(Extent::Full).blame, blame);
        }
    }
}

#[test]
fn in_a_ring_of_one_stage_the_two_marks_are_its_own() {
    let session = Ring::new(model(), &[]).lying(0, told(Lie::TwoMarks, 0, 12)).run(&ask());
    let fault = fault(&session.receipt);
    assert_eq!(fault.stage(), Some(0));
    assert_eq!(fault.reason, Reason::TwoMarks { position: 12 });
}

#[test]
fn a_stage_that_says_it_got_something_else_is_convicted_by_the_mark_that_it_shows() {
    let says = |what: &'static str| Reason::Shown(what);
    let marked = says("does not say what the stage marked as its input");
    let signed = says("is not signed by the stage before");
    for stage in [1_usize, 2] {
        for (lie, reason) in
            [(told(Lie::OtherMarkInput, 0, 0), &marked), (slip(Slip::MarkInputShown), &signed)]
        {
            let session = ring().lying(stage, lie).run(&ask());
            match verdict_of_marks(&session) {
                Unverified::Failed(fault) => {
                    assert_eq!(fault.stage(), u32::try_from(stage).ok(), "{fault}");
                    assert_eq!(&fault.reason, reason);
                }
                other => panic!("{other}"),
            }
        }
    }
}

#[test]
fn while_the_mark_is_not_shown_nobody_is_convicted() {
    for (stage, lie) in [(0, told(Lie::TwoMarks, 0, 12)), (1, told(Lie::OtherMarkInput, 0, 0))] {
        let session = ring().lying(stage, lie).run(&ask());
        let mut bundle = session.bundle(Extent::Full).unwrap();
        bundle.exchanges.clear();
        match audit(&Reference, key(), &bundle) {
            Err(Unverified::NotChecked { why: Missing::Openings { .. }, .. }) => {}
            other => panic!("{lie:?}: {other:?}"),
        }
    }
}

#[test]
fn a_segment_of_the_stage_before_that_is_of_another_run_clears_the_one_after() {
    let mut receipt = ring().run(&ask()).receipt;
    receipt.segments[0].run_value = Digest::ZERO;
    receipt.segments[0] = receipt.segments[0].clone().signed(&node(0));
    let fault = fault(&receipt);
    assert_eq!((fault.blame, fault.reason), (Blame::Receipt, Reason::OtherRun { stage: 1 }));
}
