//! Honest rings are verified, whatever the split, and never blamed.

use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::reference::Reference;
use lockstep_exact::sample::Finish;
use lockstep_testing::numbers::Numbers;
use lockstep_verify::audit::{Missing, Unverified, audit};
use lockstep_verify::bundle::Bundle;
use lockstep_verify::challenge::Target;
use lockstep_verify::draw::Extent;
use lockstep_verify::fault::Reason;
use lockstep_verify::key::Key;
use lockstep_verify::price::Prices;
use lockstep_verify::rates::{Cheat, Detects};

use lockstep_testing::lie::Lie;
use lockstep_testing::overflow::{overflowing_embedding, overflowing_model};
use lockstep_testing::proofs::{Ask, Ring, key, key_of, model, told};

const SPLITS: [&[u32]; 4] = [&[], &[3], &[2, 3], &[1, 2, 3, 4, 5]];

#[test]
fn every_split_is_verified_in_full_and_gives_the_same_answer() {
    let ask = Ask::new(1, 12, 5);
    let mut answers = Vec::new();
    for cuts in SPLITS {
        let session = Ring::new(model(), cuts).run(&ask);
        let verified = session.verdict(Extent::Full).unwrap();
        let coverage = verified.coverage();
        assert!(coverage.is_full(), "{coverage}");
        assert_eq!(coverage.cells_total(), 16 * 6);
        assert!(coverage.error_bound_log2() < -50);
        assert!(coverage.detects().iter().all(|d| d.probability > 0.99), "{coverage}");
        let columns: Vec<_> =
            session.receipt.segments.iter().flat_map(|s| s.layers.clone()).collect();
        answers.push((session.receipt.answer.clone(), columns));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "splits differ");
}

#[test]
fn two_hundred_honest_requests_give_no_fault() {
    let mut numbers = Numbers::new(11);
    for seed in 0..200 {
        let mut ask = Ask::new(seed, 1 + numbers.below(14) as u32, 1 + numbers.below(5) as u32);
        if numbers.below(2) == 1 {
            ask.sampling.temperature = 0.8;
            ask.sampling.top_p = 0.9;
            ask.sampling.repetition_penalty = 1.1;
            ask.sampling.seed = numbers.next_u64();
        }
        let mut ring = Ring::new(model(), SPLITS[numbers.below(4) as usize]);
        ring.chunk = 1 + numbers.below(7) as usize;
        let verdict = ring.run(&ask).verdict(Extent::Sampled);
        assert!(verdict.is_ok(), "seed {seed}: {}", verdict.unwrap_err());
    }
}

#[test]
fn a_sampled_audit_opens_every_stage_and_the_last_token() {
    let session = Ring::new(model(), &[2, 3]).run(&Ask::new(3, 20, 8));
    let verified = session.verdict(Extent::Sampled).unwrap();
    let coverage = verified.coverage();
    for stage in &coverage.stages {
        assert!(stage.cells_checked >= 16, "{stage:?}");
        assert_eq!(stage.layers_checked, stage.layers);
        assert!(stage.is_complete);
    }
    assert!(coverage.stages[0].cells_checked >= 20, "layer 0 is opened all through the prompt");
    assert_eq!((coverage.head_checked, coverage.head_total), (4, 8));
    assert!(coverage.last_checked && !coverage.is_full());
    assert_eq!(coverage.embeddings_checked, 27);
    let text = coverage.to_string();
    assert!(text.contains("of 162 cells, 4 of 8 tokens"), "{text}");
}

#[test]
fn a_prover_that_rebuilds_from_its_archive_has_the_signed_roots_and_openings() {
    // One layer at a time, each from the one before it or from the start.
    let session = Ring::new(model(), &[2, 5]).run(&Ask::new(4, 9, 4));
    let mut before = None;
    for (stage, challenge) in session.challenges(Extent::Full).unwrap() {
        let at = stage as usize;
        let layer = match challenge.target {
            Target::Layer { layer, .. } => layer,
            _ => session.receipt.segments[at].first,
        };
        let fresh = session.rebuilt(at, layer, None);
        let opening = fresh.open(&challenge.target).unwrap();
        assert_eq!(opening.to_bytes(), session.answer(stage, &challenge).body);
        let next = session.rebuilt(at, layer, before.take());
        assert_eq!(next.open(&challenge.target), Ok(opening), "{:?}", challenge.target);
        assert_eq!(next.columns().span(), layer..layer + 1);
        before = Some(next.into_columns());
    }
}

#[test]
fn no_honest_opening_is_longer_than_its_price_and_proofs_say() {
    let prices = Prices::of(&model().manifest);
    for prompt in [9, 140] {
        let session = Ring::new(model(), &[2, 5]).run(&Ask::new(4, prompt, 4));
        for extent in [Extent::Full, Extent::Sampled] {
            for (stage, challenge) in session.challenges(extent).unwrap() {
                let body = session.answer(stage, &challenge).body.len() as u64;
                let most = prices.longest_opening(&challenge.target);
                assert!(body <= most, "{body} of {most}: {:?}", challenge.target);
                // A run of cells has its proofs once, so a part is not much longer than its price.
                let price = prices.opening(&challenge.target);
                assert!(extent != Extent::Full || most < price + 16 * 1024, "{most}, {price}");
            }
        }
    }
}

#[test]
fn a_missing_opening_is_not_checked_and_names_the_stage() {
    let session = Ring::new(model(), &[2, 3]).run(&Ask::new(5, 6, 3));
    let mut bundle = session.bundle(Extent::Sampled).unwrap();
    let from_stage_1 =
        |target: &Target| matches!(target, Target::Layer { layer, .. } if *layer == 2);
    bundle.exchanges.retain(|exchange| !from_stage_1(&exchange.challenge.target));
    match audit(&Reference, key(), &bundle) {
        Err(Unverified::NotChecked { why, coverage }) => {
            assert_eq!(why, Missing::Openings { stages: vec![1] });
            assert_eq!(coverage.stages[1].cells_checked, 0);
            assert!(coverage.stages[0].cells_checked > 0);
            // One opening that is kept back is enough that nothing is claimed.
            let claimed = |stage: usize| coverage.stages[stage].detects(Cheat::OneLayer);
            assert_eq!((claimed(0), claimed(1), claimed(2)), (1.0, 0.0, 1.0));
            let one_layer = |d: &&Detects| d.cheat == Cheat::OneLayer;
            assert_eq!(coverage.detects().iter().find(one_layer).unwrap().probability, 0.0);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_key_of_another_model_checks_nothing() {
    let session = Ring::new(model(), &[3]).run(&Ask::new(6, 5, 2));
    let other = key_of(&lockstep_testing::tiny_model::TinyModel::new(2));
    let verdict = audit(&Reference, &other, &session.bundle(Extent::Sampled).unwrap());
    assert!(matches!(verdict, Err(Unverified::NotChecked { why: Missing::Key { .. }, .. })));
}

#[test]
fn a_bundle_and_a_key_read_back_from_files_give_the_same_verdict() {
    let session = Ring::new(model(), &[3]).run(&Ask::new(7, 7, 4));
    let bundle = session.bundle(Extent::Full).unwrap();
    let read = Bundle::from_bytes(&bundle.to_bytes()).unwrap();
    assert_eq!(read, bundle);
    let key = Key::from_file(&key().to_file()).unwrap();
    assert!(audit(&Reference, &key, &read).is_ok());
}

#[test]
fn stop_strings_end_tokens_and_context_are_applied_again() {
    let plain = Ring::new(model(), &[3]).run(&Ask::new(8, 6, 6));
    let answer = &plain.receipt.answer;
    let stop = answer.iter().copied().find(|token| *token < 256).unwrap();
    let mut ask = Ask::new(8, 6, 6);
    ask.stops.strings = vec![vec![u8::try_from(stop).unwrap()]];
    let session = Ring::new(model(), &[3]).run(&ask);
    assert_eq!(session.receipt.finish, Finish::StopString);
    session.verdict(Extent::Full).unwrap();
}

#[test]
fn an_answer_that_overflows_is_audited_like_any_other() {
    let model = overflowing_model(3);
    let key = key_of(&model);
    let session = Ring::new(&model, &[2, 4]).run(&Ask::new(9, 6, 4));
    assert_eq!(session.receipt.finish, Finish::Overflow);
    assert!(session.receipt.answer.is_empty());
    for extent in [Extent::Full, Extent::Sampled] {
        let bundle = session.bundle_with(&key, extent).unwrap();
        let verdict = audit(&Reference, &key, &bundle);
        assert!(verdict.is_ok(), "{extent:?}: {}", verdict.unwrap_err());
    }
}

/// The verdict of a full audit of a ring that may lie.
fn full(ring: &Ring<'_>, key: &Key, ask: &Ask) -> (Vec<u32>, Finish, Result<(), Unverified>) {
    let session = ring.run(ask);
    let verdict = session.bundle_with(key, Extent::Full).map_err(Unverified::from);
    let verdict = verdict.and_then(|bundle| audit(&Reference, key, &bundle)).map(|_| ());
    (session.receipt.answer, session.receipt.finish, verdict)
}

#[test]
fn a_request_whose_prompt_overflows_has_one_answer_that_verifies() {
    let token = 17;
    let model = overflowing_embedding(token as usize);
    let key = key_of(&model);
    let mut ask = Ask::new(9, 6, 3);
    ask.prompt[2] = token;
    let ring = || Ring::new(&model, &[2, 4]);
    // A marker in the prompt is data: the answer goes on.
    let (answer, finish, verdict) = full(&ring(), &key, &ask);
    assert_eq!((answer.len(), finish), (3, Finish::Length));
    assert!(verdict.is_ok(), "{}", verdict.unwrap_err());
    // To end with it, at the first token or later, is another answer, and a lie of server 1.
    for index in 0..3 {
        let (answer, finish, verdict) =
            full(&ring().lying(0, told(Lie::FalseOverflow, 0, 5 + index)), &key, &ask);
        assert_eq!((answer.len() as u32, finish), (index, Finish::Overflow));
        let Err(Unverified::Failed(fault)) = verdict else { panic!("a second answer: {index}") };
        assert_eq!((fault.stage(), fault.reason), (Some(0), Reason::NoOverflow));
    }
    // Where the head reads the marker there is no token, and to give one is a lie.
    ask.prompt[5] = token;
    let (answer, finish, verdict) = full(&ring(), &key, &ask);
    assert_eq!((answer.len(), finish), (0, Finish::Overflow));
    assert!(verdict.is_ok(), "{}", verdict.unwrap_err());
    let (_, _, verdict) = full(&ring().lying(0, told(Lie::IgnoredOverflow, 0, 0)), &key, &ask);
    let Err(Unverified::Failed(fault)) = verdict else { panic!("a second answer") };
    assert_eq!((fault.stage(), fault.reason), (Some(0), Reason::Token { index: 0 }));
}
