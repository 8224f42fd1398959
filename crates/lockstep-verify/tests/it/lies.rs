//! Lying servers: each lie is caught, and the stage that told it is blamed and no other.

use lockstep_exact::names::ProductName;
use lockstep_exact::reference::Reference;
use lockstep_verify::audit::{Missing, Unverified, audit};
use lockstep_verify::challenge::Target;
use lockstep_verify::draw::Extent;
use lockstep_verify::fault::{Blame, Fault, Part, Reason};

use lockstep_testing::lie::Lie;
use lockstep_testing::proofs::{Ask, Misdeed, Ring, Slip, key, model, node, slip, told};

const CUTS: [u32; 2] = [2, 4];

fn ask() -> Ask {
    Ask::new(21, 11, 5)
}

/// A full audit's fault, which must be of that stage.
fn caught(stage: usize, lie: Misdeed) -> Fault {
    let fault = Ring::new(model(), &CUTS).lying(stage, lie).run(&ask()).fault(Extent::Full);
    let node = node(stage).id();
    let stage = u32::try_from(stage).unwrap();
    assert_eq!(fault.blame, Blame::Stage { stage, node }, "{lie:?}: {fault}");
    fault
}

fn cell(fault: &Fault) -> (u32, u32) {
    let cell = fault.cell.unwrap_or_else(|| panic!("{fault}"));
    (cell.position, cell.layer)
}

#[test]
fn a_skipped_layer_is_caught_in_every_stage() {
    for (stage, layer) in [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)] {
        let fault = caught(stage, told(Lie::SkippedLayer, layer, 0));
        assert_eq!(fault.reason, Reason::Output);
        let first = if layer == 5 { 10 } else { 0 };
        assert_eq!(cell(&fault), (first, layer));
    }
}

#[test]
fn weights_that_differ_in_one_code_are_caught_by_the_product() {
    for (stage, layer) in [(0, 0), (1, 3), (2, 5)] {
        let fault = caught(stage, slip(Slip::Code(layer)));
        assert_eq!(fault.reason, Reason::Product(ProductName::Down));
    }
}

#[test]
fn weights_scaled_in_their_row_scales_only_are_caught_between_the_products() {
    for (stage, layer) in [(0, 1), (1, 2), (2, 4)] {
        let fault = caught(stage, told(Lie::ScaledRowScales, layer, 0));
        assert_eq!(fault.reason, Reason::Kv);
        assert_eq!(cell(&fault), (0, layer));
    }
}

#[test]
fn one_flipped_bit_of_one_state_is_caught_at_its_cell() {
    for (stage, layer, position) in [(0, 0, 3), (0, 1, 14), (1, 3, 0), (2, 5, 12), (2, 5, 10)] {
        let fault = caught(stage, told(Lie::FlippedBit, layer, position));
        assert_eq!(fault.reason, Reason::Output);
        assert_eq!(cell(&fault), (position, layer));
    }
}

#[test]
fn a_wrong_kv_row_is_caught_whether_attention_reads_it_or_not() {
    for (stage, layer, position) in [(0, 0, 0), (1, 2, 7), (2, 5, 13)] {
        for lie in
            [told(Lie::WrongKv, layer, position), slip(Slip::KvRowCommitted(layer, position))]
        {
            let fault = caught(stage, lie);
            assert_eq!(fault.reason, Reason::Kv, "{lie:?}");
            assert_eq!(cell(&fault), (position, layer));
        }
    }
}

#[test]
fn a_wrong_embedding_row_is_caught_hidden_or_open() {
    for position in [0, 5, 13] {
        assert_eq!(caught(0, told(Lie::WrongEmbedding, 0, position)).reason, Reason::EmbeddingRoot);
        assert_eq!(caught(0, slip(Slip::EmbeddingDigest(position))).reason, Reason::EmbeddingRoot);
        let fault = caught(0, told(Lie::HiddenEmbedding, 0, position));
        assert_eq!(cell(&fault), (position, 0));
    }
}

#[test]
fn another_token_than_the_samplers_is_caught() {
    for index in [0, 2, 4] {
        let fault = caught(0, told(Lie::SecondBest, 0, 10 + index));
        assert_eq!(fault.reason, Reason::Token { index });
    }
}

#[test]
fn a_sampler_that_ignores_the_seed_is_caught() {
    let mut ask = ask();
    ask.sampling.temperature = 1.5;
    let session = Ring::new(model(), &CUTS).lying(0, told(Lie::IgnoredSeed, 0, 0)).run(&ask);
    let fault = session.fault(Extent::Full);
    assert_eq!(fault.stage(), Some(0));
    assert!(matches!(fault.reason, Reason::Token { .. }), "{fault}");
}

#[test]
fn an_answer_that_stops_early_or_goes_on_is_caught_without_a_cell() {
    let fault = caught(0, told(Lie::StopsEarly, 0, 11));
    assert!(matches!(fault.reason, Reason::Finish { expected: None, .. }), "{fault}");
    let fault = caught(0, told(Lie::GoesOn, 0, 0));
    assert!(matches!(fault.reason, Reason::Finish { expected: Some(_), .. }), "{fault}");
}

#[test]
fn an_overflow_that_did_not_happen_is_caught() {
    assert_eq!(caught(0, told(Lie::FalseOverflow, 0, 12)).reason, Reason::NoOverflow);
}

#[test]
fn a_truncated_context_is_caught() {
    for (stage, layer) in [(0, 1), (1, 3), (2, 5)] {
        let fault = caught(stage, told(Lie::TruncatedContext, layer, 0));
        assert!(matches!(fault.reason, Reason::Product(ProductName::Output)), "{fault}");
    }
}

#[test]
fn constant_and_old_states_are_caught() {
    for (stage, layer) in [(0, 0), (1, 3), (2, 5)] {
        assert_eq!(caught(stage, told(Lie::ZeroState, layer, 0)).reason, Reason::Output);
        let fault = caught(stage, told(Lie::OldState, layer, 13));
        assert_eq!(cell(&fault), (13, layer));
    }
}

#[test]
fn wrong_sums_in_an_opening_are_caught() {
    for stage in 0..3 {
        let fault = caught(stage, told(Lie::SumOffByOne, 0, 0));
        let qkv = Reason::Product(ProductName::Qkv);
        assert_eq!(fault.reason, qkv);
    }
}

#[test]
fn a_sum_shifted_out_of_range_is_refused_before_the_field_sees_it() {
    for stage in 0..3 {
        let fault = caught(stage, told(Lie::SumOutOfRange, 0, 0));
        assert!(matches!(fault.reason, Reason::Sums { .. }), "{fault}");
    }
}

#[test]
fn an_opening_of_another_session_is_caught() {
    for stage in 0..3 {
        let fault = caught(stage, told(Lie::OtherSession, 0, 0));
        let foreign = matches!(fault.reason, Reason::Slice { .. } | Reason::Embedding);
        assert!(foreign, "{fault}");
    }
}

#[test]
fn an_opening_of_another_position_is_caught() {
    for stage in 0..3 {
        let ring = Ring::new(model(), &CUTS).lying(stage, told(Lie::OtherPosition, 0, 0));
        // One position a layer, so that another can be given in its place.
        let session = ring.run(&Ask::new(22, 200, 2));
        let fault = session.fault(Extent::Sampled);
        assert_eq!(fault.stage(), u32::try_from(stage).ok(), "{fault}");
    }
}

#[test]
fn signing_one_root_and_opening_another_is_caught() {
    for (stage, layer) in [(0, 0), (1, 2), (2, 4), (2, 5)] {
        let fault = caught(stage, told(Lie::OtherStatesRoot, layer, 0));
        assert!(matches!(fault.reason, Reason::Slice { .. }), "{fault}");
        let fault = caught(stage, told(Lie::OtherKvRoot, layer, 0));
        assert!(matches!(fault.reason, Reason::Slice { part: Part::Kv, .. }), "{fault}");
    }
}

#[test]
fn different_roots_at_an_edge_convict_the_one_that_cannot_open_its_own() {
    for stage in [1, 2] {
        let fault = caught(stage, told(Lie::OtherInputRoot, 0, 0));
        assert!(matches!(fault.reason, Reason::Slice { .. }), "{fault}");
    }
    for stage in [0, 1] {
        let fault = caught(stage, slip(Slip::OutputRoot));
        assert!(matches!(fault.reason, Reason::Slice { .. }), "{fault}");
    }
}

#[test]
fn a_stage_that_contradicts_its_own_statements_is_caught_without_a_cell() {
    for stage in 0..3 {
        assert_eq!(caught(stage, slip(Slip::Chain)).reason, Reason::Chain);
        let fault = caught(stage, slip(Slip::Positions));
        assert_eq!(fault.reason, Reason::Segment("number of positions"));
    }
}

#[test]
fn any_changed_byte_of_a_signed_opening_convicts_its_signer() {
    for stage in 0..3 {
        for at in (0..12_000).step_by(131) {
            let ring = Ring::new(model(), &CUTS).lying(stage, slip(Slip::OpeningByte(at)));
            let fault = ring.run(&Ask::new(23, 5, 2)).fault(Extent::Sampled);
            assert_eq!(fault.stage(), u32::try_from(stage).ok(), "byte {at}: {fault}");
        }
    }
}

#[test]
fn of_two_colluding_neighbours_one_is_caught_and_the_honest_one_never() {
    let ring = Ring::new(model(), &CUTS)
        .lying(0, told(Lie::FlippedBit, 1, 6))
        .lying(1, told(Lie::FlippedBit, 3, 6));
    let fault = ring.run(&ask()).fault(Extent::Full);
    assert!(matches!(fault.stage(), Some(0 | 1)), "{fault}");
}

#[test]
fn a_sampled_audit_catches_what_is_wrong_everywhere() {
    for (stage, layer) in [(0, 1), (1, 2), (2, 4)] {
        for lie in [
            told(Lie::SkippedLayer, layer, 0),
            told(Lie::ScaledRowScales, layer, 0),
            slip(Slip::Code(layer)),
        ] {
            // Stages of two layers: both are opened.
            let session = Ring::new(model(), &CUTS).lying(stage, lie).run(&ask());
            let fault = session.fault(Extent::Sampled);
            assert_eq!(fault.stage(), u32::try_from(stage).ok(), "{lie:?}: {fault}");
        }
    }
}

#[test]
fn a_sampled_audit_always_finds_one_layer_of_six() {
    for seed in 0..6 {
        for layer in 0..6 {
            let ring = Ring::new(model(), &[]).lying(0, told(Lie::ScaledRowScales, layer, 0));
            let fault = ring.run(&Ask::new(seed, 6, 3)).fault(Extent::Sampled);
            assert_eq!(fault.cell.map(|cell| cell.layer), Some(layer), "{fault}");
        }
    }
}

#[test]
fn a_sampled_audit_always_finds_another_prompt_and_a_single_other_token_in_it() {
    for position in (0..40).step_by(3) {
        let ring = Ring::new(model(), &CUTS).lying(0, told(Lie::HiddenEmbedding, 0, position));
        let fault = ring.run(&Ask::new(position, 40, 2)).fault(Extent::Sampled);
        assert_eq!((fault.stage(), cell(&fault)), (Some(0), (position, 0)), "{fault}");
    }
    let all = (0..39).map(|position| told(Lie::HiddenEmbedding, 0, position));
    let ring = all.fold(Ring::new(model(), &CUTS), |ring, lie| ring.lying(0, lie));
    let fault = ring.run(&Ask::new(4, 40, 2)).fault(Extent::Sampled);
    assert_eq!((fault.stage(), cell(&fault)), (Some(0), (0, 0)), "{fault}");
}

#[test]
fn a_column_that_is_not_what_was_marked_convicts_its_own_stage() {
    for (stage, position) in [(1, 0), (1, 7), (2, 12)] {
        let fault = caught(stage, slip(Slip::ReceivedColumn(position)));
        assert_eq!(fault.reason, Reason::MarkContradicted, "{fault}");
    }
    for (stage, layer, position) in [(0, 1, 2), (1, 3, 14), (2, 5, 11)] {
        let fault = caught(stage, slip(Slip::SentColumn(layer, position)));
        assert_eq!(fault.reason, Reason::MarkContradicted, "{fault}");
    }
}

#[test]
fn a_sampled_audit_always_sees_that_the_last_state_sent_is_not_the_one_committed() {
    for seed in 0..12 {
        let ask = Ask::new(seed, 60, 6);
        let last = 60 + 6 - 2;
        let fault = Ring::new(model(), &CUTS)
            .lying(2, slip(Slip::SentColumn(5, last)))
            .run(&ask)
            .fault(Extent::Sampled);
        assert_eq!(fault.stage(), Some(2), "seed {seed}: {fault}");
        assert_eq!(fault.reason, Reason::MarkContradicted);
    }
}

#[test]
fn a_sampled_audit_always_sees_that_neighbours_signed_different_roots_and_which_of_them_lies() {
    for seed in 0..6 {
        let ask = Ask::new(seed, 60, 3);
        for (stage, lie) in
            [(1, slip(Slip::ReceivedColumn(17))), (0, slip(Slip::SentColumn(1, 17)))]
        {
            let session = Ring::new(model(), &CUTS).lying(stage, lie).run(&ask);
            let fault = session.fault(Extent::Sampled);
            assert_eq!(fault.stage(), u32::try_from(stage).ok(), "seed {seed}: {fault}");
            // The edge shows it, if no random cell has shown it before.
            let at_edge = fault.reason == Reason::MarkContradicted;
            assert!(at_edge || fault.cell.is_some(), "seed {seed}: {fault}");
        }
    }
}

#[test]
fn different_roots_convict_nobody_while_the_edge_is_not_opened() {
    let lie = slip(Slip::ReceivedColumn(17));
    let session = Ring::new(model(), &CUTS).lying(1, lie).run(&Ask::new(3, 60, 3));
    let mut bundle = session.bundle(Extent::Sampled).unwrap();
    bundle.exchanges.retain(|exchange| matches!(exchange.challenge.target, Target::Head { .. }));
    match audit(&Reference, key(), &bundle) {
        Err(Unverified::NotChecked { why: Missing::Openings { .. }, .. }) => {}
        other => panic!("different roots went unnoticed: {other:?}"),
    }
}
