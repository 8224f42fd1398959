//! Checks that no honest ring and no single lie comes to: each by a receipt or an opening in which
//! all statements hang together, and are signed by whom they must be, but for one thing.

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::kv::KvRowError;
use lockstep_exact::reference::Reference;
use lockstep_exact::sample::Finish;
use lockstep_exact::state::GROUP;
use lockstep_verify::audit::{Unverified, audit, plan};
use lockstep_verify::bundle::{Bundle, Exchange};
use lockstep_verify::challenge::Target;
use lockstep_verify::draw::Extent;
use lockstep_verify::fault::{Blame, Cell, Fault, Reason};
use lockstep_verify::opening::{Inputs, Opening, SignedOpening};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{AuditSeed, Hop, Lease};
use lockstep_verify::secret::Secret;
use lockstep_verify::sign::{NodeId, Signature, Statement as _, verify};
use lockstep_verify::slice;
use lockstep_verify::statement::{RunId, token_digest, tokens_digest};

use lockstep_testing::proofs::{
    Ask, OtherLease, Ring, SEED, Session, client, key, model, node, sign_again,
};

fn ring() -> Ring<'static> {
    Ring::new(model(), &[2, 4])
}

/// 15 positions: frames of 5, 5 and 1 of the prompt, and of 1 of the answer.
fn ask() -> Ask {
    Ask::new(24, 11, 5)
}

/// A receipt that has been changed and signed again by everybody.
fn changed(change: impl FnOnce(&mut Receipt)) -> Receipt {
    let mut receipt = ring().run(&ask()).receipt;
    change(&mut receipt);
    sign_again(&mut receipt);
    receipt
}

/// The fault in the links of a receipt: the stage that is convicted, and why.
fn fault(receipt: &Receipt) -> (Option<u32>, Reason) {
    let fault = plan(key(), receipt, &SEED, Extent::Full).unwrap_err();
    (fault.stage(), fault.reason)
}

/// The fault of an audit of a bundle.
fn failed(bundle: &Bundle) -> Fault {
    match audit(&Reference, key(), bundle) {
        Err(Unverified::Failed(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

/// A stage's answer in place of its own.
fn answer(exchange: &mut Exchange, opening: &Opening, stage: usize) {
    let challenge = exchange.challenge.statement();
    exchange.opening = SignedOpening::new(challenge, opening.to_bytes(), &node(stage));
}

/// A receipt of a ring that was given this lease, and whose client says so.
fn with_lease(change: fn(&mut Lease)) -> Receipt {
    let mut ring = ring();
    ring.leases = (0..3).map(|stage| (stage, OtherLease { change, key: client })).collect();
    let mut receipt = ring.run(&ask()).receipt;
    change(&mut receipt.lease);
    receipt.lease = receipt.lease.clone().signed(&client());
    receipt
}

#[test]
fn a_stage_without_layers_is_refused() {
    let receipt = Ring::new(model(), &[2, 2]).run(&ask()).receipt;
    assert_eq!(fault(&receipt), (None, Reason::Tiling("segments")));
}

#[test]
fn the_layers_of_stages_follow_each_other_without_gap_or_overlap() {
    for first in [3, 1] {
        let mut receipt = ring().run(&ask()).receipt;
        receipt.lease.route[1].first = first;
        receipt.lease = receipt.lease.clone().signed(&client());
        receipt.steps.iter_mut().for_each(|step| step.marks[1].first = first);
        let segment = &mut receipt.segments[1];
        segment.first = first;
        segment.layers.resize((4 - first) as usize, segment.layers[0]);
        // Every stage has got that lease, and follows the run before it.
        let (lease, mut before) = (receipt.lease.digest(), RunId::NONE);
        for segment in &mut receipt.segments {
            (segment.lease, segment.before) = (lease, before);
            before = segment.run().id();
        }
        sign_again(&mut receipt);
        assert_eq!(fault(&receipt), (None, Reason::Tiling("segments")), "from {first}");
    }
}

#[test]
fn every_hop_of_the_route_signs_and_the_last_one_ends_with_the_model() {
    let tiling = (None, Reason::Tiling("segments"));
    // A hop that has no layers and signed nothing.
    let hop = |lease: &mut Lease| lease.route.push(Hop { node: node(5).id(), first: 6, end: 6 });
    assert_eq!(fault(&with_lease(hop)), tiling);
    let mut short = with_lease(|lease| lease.route.truncate(2));
    short.segments.truncate(2);
    assert_eq!(fault(&short), tiling);
}

#[test]
fn a_session_has_no_more_positions_than_its_lease_allows() {
    assert_eq!(
        fault(&with_lease(|lease| lease.max_positions = 14)),
        (None, Reason::Lease("most positions"))
    );
    let just = with_lease(|lease| lease.max_positions = 15);
    assert!(plan(key(), &just, &SEED, Extent::Full).is_ok());
}

#[test]
fn an_answer_has_a_token_or_says_that_there_is_none() {
    let ring = Ring { chunk: 4, ..ring() };
    let mut receipt = ring.run(&Ask::new(24, 9, 4)).receipt;
    // All but the position whose state the head would read.
    receipt.steps.truncate(2);
    receipt.segments.iter_mut().for_each(|segment| segment.positions = 8);
    receipt.answer.clear();
    receipt.head_marks.clear();
    sign_again(&mut receipt);
    assert_eq!(fault(&receipt), (None, Reason::Tiling("frames")));
}

#[test]
fn a_frame_of_two_tokens_of_the_answer_is_refused() {
    let receipt = changed(|r| {
        let (last, before) = (r.steps.pop().unwrap(), r.steps.last_mut().unwrap());
        before.count = 2;
        for (mark, last) in before.marks.iter_mut().zip(&last.marks) {
            (mark.count, mark.input, mark.output) = (2, last.input, last.output);
        }
        before.marks[0].input = tokens_digest(&r.answer[2..4]);
    });
    assert_eq!(fault(&receipt), (Some(0), Reason::Frame { position: 13 }));
}

#[test]
fn server_1_marks_the_tokens_that_were_asked_and_answered() {
    for step in [0, 4] {
        let receipt = changed(|r| r.steps[step].marks[0].input = tokens_digest(&[1, 2]));
        let position = receipt.steps[step].position;
        assert_eq!(fault(&receipt), (Some(0), Reason::Tokens { position }));
    }
}

#[test]
fn the_last_stage_marks_an_output_where_and_only_where_a_state_leaves_it() {
    for (step, output) in [(0, Digest([1; 32])), (2, Digest::ZERO), (5, Digest::ZERO)] {
        let receipt = changed(|r| r.steps[step].marks[2].output = output);
        let position = receipt.steps[step].position;
        assert_eq!(fault(&receipt), (Some(2), Reason::OutputMark { position }));
    }
}

#[test]
fn an_answer_has_only_tokens_of_the_model() {
    let token = model().manifest.vocabulary;
    let receipt = changed(|r| {
        *r.answer.last_mut().unwrap() = token;
        r.head_marks.last_mut().unwrap().output = token_digest(token);
    });
    let (expected, got) = (None, Finish::Length);
    assert_eq!(fault(&receipt), (Some(0), Reason::Finish { expected, got }));
}

#[test]
fn a_true_mark_of_another_frame_convicts_the_one_that_shows_it_and_not_its_signer() {
    let mut session = ring().run(&ask());
    // Stage 1 says that it got for one frame what it got for the next one.
    let receipt = &mut session.receipt;
    let next = receipt.steps[4].marks[0];
    receipt.steps[3].marks[1].input = next.output;
    sign_again(receipt);
    let mut bundle = session.bundle(Extent::Full).unwrap();
    let is_mark =
        |exchange: &Exchange| matches!(exchange.challenge.target, Target::Mark { layer: 2, .. });
    bundle.exchanges.retain(is_mark);
    assert_eq!(bundle.exchanges.len(), 1);
    answer(&mut bundle.exchanges[0], &Opening::Mark(Box::new(next)), 1);
    let fault = failed(&bundle);
    assert_eq!(fault.blame, Blame::Stage { stage: 1, node: node(1).id() }, "{fault}");
    assert_eq!(fault.reason, Reason::Shown("is about another frame"));
}

#[test]
fn an_opening_of_another_kind_is_refused() {
    let honest = ring().run(&ask()).bundle(Extent::Full).unwrap();
    let is_head = |exchange: &&Exchange| matches!(exchange.challenge.target, Target::Head { .. });
    let head = honest.exchanges.iter().position(|exchange| is_head(&exchange)).unwrap();
    let opening = |at: usize| Opening::from_bytes(&honest.exchanges[at].opening.body).unwrap();
    for (at, other) in [(0, opening(head)), (head, opening(0))] {
        let mut bundle = honest.clone();
        answer(&mut bundle.exchanges[at], &other, 0);
        let fault = failed(&bundle);
        assert_eq!((fault.stage(), fault.reason), (Some(0), Reason::Shape("the kind of cells")));
    }
}

/// Overwrites a state row with one whose first group is zero, but has an exponent.
fn spoil(row: &mut [u8]) {
    row[..2 * GROUP].fill(0);
}

#[test]
fn a_state_that_is_not_canonical_convicts_the_stage_that_committed_to_it() {
    let mut session = ring().run(&ask());
    let honest = session.bundle(Extent::Full).unwrap();
    let of_layer_2 =
        |exchange: &Exchange| matches!(exchange.challenge.target, Target::Layer { layer: 2, .. });
    let at = honest.exchanges.iter().position(of_layer_2).unwrap();
    let Ok(Opening::Layer(mut opening)) = Opening::from_bytes(&honest.exchanges[at].opening.body)
    else {
        panic!("a layer");
    };
    // What stage 1 got, all 15 rows in one slice; in its first frame it says another thing.
    let Inputs::Slices(slices) = &mut opening.inputs else { panic!("committed states") };
    let column = &mut slices[0].bytes;
    let row = column.len() / 15;
    spoil(&mut column[..row]);
    let receipt = &mut session.receipt;
    receipt.segments[1].input_root = Digest::of(column);
    receipt.steps[0].marks[1].input = Digest::of(&column[..5 * row]);
    sign_again(receipt);
    let mut bundle = session.bundle(Extent::Full).unwrap();
    answer(&mut bundle.exchanges[at], &Opening::Layer(opening), 1);
    let fault = failed(&bundle);
    assert_eq!((fault.stage(), fault.reason), (Some(1), Reason::State));
}

#[test]
fn a_state_of_the_head_that_is_not_canonical_convicts_server_1() {
    let mut session = ring().run(&ask());
    let honest = session.bundle(Extent::Full).unwrap();
    let of_head = |exchange: &Exchange| matches!(exchange.challenge.target, Target::Head { .. });
    let at = honest.exchanges.iter().position(of_head).unwrap();
    let Ok(Opening::Head(mut opening)) = Opening::from_bytes(&honest.exchanges[at].opening.body)
    else {
        panic!("the head");
    };
    let row = opening.states.len() / 5;
    spoil(&mut opening.states[..row]);
    session.receipt.head_marks[0].input = Digest::of(&opening.states[..row]);
    sign_again(&mut session.receipt);
    let mut bundle = session.bundle(Extent::Full).unwrap();
    answer(&mut bundle.exchanges[at], &Opening::Head(opening), 0);
    let fault = failed(&bundle);
    assert_eq!((fault.stage(), fault.reason), (Some(0), Reason::State));
}

/// The part of layer 2 in a sampled audit.
fn part(receipt: &Receipt) -> (u32, Vec<u32>) {
    let targets = plan(key(), receipt, &SEED, Extent::Sampled).unwrap();
    let part = targets.into_iter().find_map(|(_, target)| match target {
        Target::Layer { layer: 2, first: 0, end, positions } => Some((end, positions)),
        _ => None,
    });
    part.unwrap()
}

#[test]
fn a_kv_row_that_is_not_canonical_convicts_its_stage_although_its_cell_is_not_drawn() {
    let mut session = ring().run(&Ask::new(26, 60, 2));
    let full = session.bundle(Extent::Full).unwrap();
    let of_layer_2 =
        |exchange: &&Exchange| matches!(exchange.challenge.target, Target::Layer { layer: 2, .. });
    let body = &full.exchanges.iter().find(of_layer_2).unwrap().opening.body;
    let Ok(Opening::Layer(opening)) = Opening::from_bytes(body) else { panic!("a layer") };
    let honest = opening.kv.bytes;
    let row = honest.len() / 61;
    // Another root is another receipt, and another draw: one that does not look at the row.
    let (position, column, end) = (0..40)
        .find_map(|position| {
            let mut column = honest.clone();
            column[position * row] = 0x80;
            session.receipt.segments[1].layers[0].kv = Digest::of(&column);
            sign_again(&mut session.receipt);
            let (end, positions) = part(&session.receipt);
            let position = u32::try_from(position).unwrap();
            (position < end && !positions.contains(&position)).then_some((position, column, end))
        })
        .unwrap();
    let mut bundle = session.bundle(Extent::Sampled).unwrap();
    let mut exchanges = bundle.exchanges.iter_mut();
    let exchange = exchanges.find(|exchange| of_layer_2(&&**exchange)).unwrap();
    let Ok(Opening::Layer(mut opening)) = Opening::from_bytes(&exchange.opening.body) else {
        panic!("a layer");
    };
    opening.kv = slice::prove(&column, 0..u64::from(end) * row as u64).unwrap();
    answer(exchange, &Opening::Layer(opening), 1);
    let fault = failed(&bundle);
    assert_eq!((fault.stage(), fault.cell), (Some(1), Some(Cell { position, layer: 2 })));
    assert_eq!(fault.reason, Reason::KvRow(KvRowError::Code));
}

#[test]
fn the_draw_depends_on_the_audit_seed_and_on_the_receipt() {
    let session: Session = ring().run(&Ask::new(3, 60, 6));
    let drawn =
        |receipt: &Receipt, seed: &AuditSeed| plan(key(), receipt, seed, Extent::Sampled).unwrap();
    let once = drawn(&session.receipt, &SEED);
    assert_eq!(once, drawn(&session.receipt, &SEED));
    let other = AuditSeed::new(Secret::of(&[1; 32]));
    assert_ne!(once, drawn(&session.receipt, &other));
    let mut receipt = session.receipt.clone();
    receipt.segments[1].deadline_unix_ms += 1;
    sign_again(&mut receipt);
    assert_ne!(once, drawn(&receipt, &SEED));
}

/// With the neutral element as key and as the signature's point, any message has a signature.
#[test]
fn a_key_of_small_order_signs_nothing() {
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    for statement in [Digest([1; 32]), Digest([2; 32])] {
        assert!(verify(NodeId(neutral), &statement, &Signature(signature)).is_err());
    }
}
