//! Challenges after the answer: signed openings in time, typed refusals otherwise, and an end to
//! retention.

mod support;

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical;
use lockstep_proto::client::{ClientError, Conduct, Exchange, NoAnswer, SegmentFault};
use lockstep_proto::failure::Refusal;
use lockstep_proto::frame::{Frame, ToClient, ToServer};
use lockstep_proto::limits;
use lockstep_proto::server::Capacity;
use lockstep_testing::hash_model::{HashModel, LAYERS};
use lockstep_testing::ring::{Meddle, Point, Ring};
use lockstep_verify::challenge::{Challenge, Side, Target};
use lockstep_verify::opening::Opening;
use lockstep_verify::sign::{Signature, Statement};
use lockstep_verify::statement::RunId;
use support::{
    SECOND, all_layers, answered, ask, exchanges, head, layer, nothing_is_left, receipt_of, ring,
    ring_with,
};

fn edge(layer: u32, side: Side, first: u32, count: u32) -> Target {
    Target::Edge { layer, side, first, count }
}

#[test]
fn every_stage_opens_its_own_cells_signed_and_in_the_order_asked() {
    for stages in 1..=4 {
        let mut ring = answered(stages);
        let mut targets: Vec<Target> =
            (0..LAYERS).rev().map(|number| layer(number, &[0, 7, 19, 21])).collect();
        targets.push(head(&[19, 20]));
        let route = ring.route();
        for hop in &route {
            targets.push(edge(hop.first, Side::Received, 0, 25));
            targets.push(edge(hop.end - 1, Side::Sent, 19, 6));
        }
        for exchange in exchanges(&mut ring, targets.clone(), SECOND) {
            assert_eq!(exchange.challenge.target, targets.remove(0));
            let opening = exchange.answer.unwrap();
            let hop = route[exchange.stage as usize];
            assert_eq!(opening.verify(hop.node), Ok(()));
            assert_eq!(opening.challenge, exchange.challenge.statement());
            match exchange.challenge.target {
                Target::Edge { layer, .. } | Target::Layer { layer, .. } => {
                    assert!((hop.first..hop.end).contains(&layer));
                }
                Target::Head { .. } => assert_eq!(exchange.stage, 0),
                Target::Mark { .. } => panic!("not asked"),
            }
        }
        assert!(targets.is_empty());
        nothing_is_left(&mut ring, 0..stages);
    }
}

#[test]
fn cells_that_no_stage_computed_are_refused() {
    let mut ring = answered(2);
    let targets = vec![
        layer(0, &[25]),
        layer(5, &[0, 40]),
        head(&[18]),
        edge(3, Side::Received, 20, 6),
        edge(4, Side::Received, 0, 1),
        edge(3, Side::Sent, 0, 1),
        layer(LAYERS, &[0]),
    ];
    let answers: Vec<_> = exchanges(&mut ring, targets, SECOND)
        .into_iter()
        .map(|exchange| exchange.answer.unwrap_err())
        .collect();
    let out_of_range = NoAnswer::Refused(Refusal::CellOutOfRange);
    assert_eq!(answers[..6], [out_of_range; 6]);
    assert_eq!(answers[6..], [NoAnswer::NoStage]);
}

#[test]
fn every_stage_shows_the_marks_that_it_got_and_no_others() {
    for stages in 1..=4 {
        let mut ring = answered(stages);
        let receipt = ring.outcome(0).unwrap().as_ref().unwrap().clone();
        let route = ring.route();
        for (from, hop) in route.iter().enumerate() {
            // The head reads the last stage's states from the prompt's last position on.
            let is_last = from + 1 == stages;
            let to = if is_last { 0 } else { from + 1 };
            for step in &receipt.steps {
                let read = !is_last || step.position + step.count >= 20;
                let target = Target::Mark { layer: hop.end, position: step.position };
                let exchange = exchanges(&mut ring, vec![target], SECOND).remove(0);
                let refused = Err(NoAnswer::Refused(Refusal::CellOutOfRange));
                if !read {
                    assert_eq!(exchange.answer, refused);
                    continue;
                }
                let opening = exchange.answer.unwrap();
                assert_eq!(opening.verify(route[to].node), Ok(()));
                let mark = Opening::Mark(Box::new(step.marks[from]));
                assert_eq!(Opening::from_bytes(&opening.body), Ok(mark));
                let nowhere = Target::Mark { layer: hop.end, position: step.position + 100 };
                let exchange = exchanges(&mut ring, vec![nowhere], SECOND).remove(0);
                assert_eq!(exchange.answer, refused);
            }
        }
        let first = Target::Mark { layer: 0, position: 0 };
        let exchange = exchanges(&mut ring, vec![first], SECOND).remove(0);
        assert_eq!(exchange.answer, Err(NoAnswer::Refused(Refusal::CellOutOfRange)));
    }
}

/// What server 1 answers to a challenge frame of client 0.
fn answer_to(ring: &mut Ring<HashModel>, challenge: Challenge) -> Option<Result<(), Refusal>> {
    use std::cell::Cell;
    use std::rc::Rc;
    let answer = Rc::new(Cell::new(None));
    let heard = Rc::clone(&answer);
    ring.meddle(move |packet| {
        match ToClient::from_body(&packet.body) {
            Ok(ToClient::ChallengeRefused { refusal, .. }) => heard.set(Some(Err(refusal))),
            Ok(ToClient::Opening(_)) => heard.set(Some(Ok(()))),
            _ => {}
        }
        Meddle::Pass
    });
    let frame = ToServer::Challenge(Box::new(challenge));
    ring.inject(Point::Client(0), Point::Server(1), frame.to_bytes());
    ring.run_for(50_000);
    answer.get()
}

fn challenge(ring: &Ring<HashModel>) -> Challenge {
    let receipt = ring.outcome(0).unwrap().as_ref().unwrap();
    let target = layer(4, &[1]);
    let session = receipt.request.session();
    let (run, signature) = (receipt.segments[1].run().id(), Signature::NONE);
    let unsigned = Challenge { session, run, receipt: receipt.digest(), target, signature };
    unsigned.signed(&Ring::<HashModel>::client_key(0))
}

#[test]
fn a_challenge_counts_only_with_the_session_keys_signature() {
    let mut ring = answered(2);
    let good = challenge(&ring);
    assert_eq!(answer_to(&mut ring, good.clone()), Some(Ok(())));
    let mut unsigned = good.clone();
    unsigned.signature = Signature::NONE;
    assert_eq!(answer_to(&mut ring, unsigned), Some(Err(Refusal::BadSignature)));
    let others = good.clone().signed(&Ring::<HashModel>::client_key(1));
    assert_eq!(answer_to(&mut ring, others), Some(Err(Refusal::BadSignature)));
    let mut moved = good.clone();
    moved.target = layer(4, &[2]);
    assert_eq!(answer_to(&mut ring, moved), Some(Err(Refusal::BadSignature)));
    let mut other = good.clone();
    other.run.0.0[0] ^= 1;
    let other = other.signed(&Ring::<HashModel>::client_key(0));
    assert_eq!(answer_to(&mut ring, other), Some(Err(Refusal::OtherRun)));
    let mut unknown = good;
    unknown.session.0[0] ^= 1;
    let unknown = unknown.signed(&Ring::<HashModel>::client_key(0));
    assert_eq!(answer_to(&mut ring, unknown), Some(Err(Refusal::UnknownSession)));
}

#[test]
fn a_session_can_be_challenged_until_its_deadline_and_no_longer() {
    let mut ring = answered(2);
    ring.run_for(limits::RETENTION_US - SECOND);
    let good = challenge(&ring);
    // Each answer moves the deadline, by 2 s.
    for _ in 0..3 {
        assert_eq!(answer_to(&mut ring, good.clone()), Some(Ok(())));
        ring.run_for(limits::CHALLENGE_PACE_US - SECOND / 10);
    }
    ring.run_for(limits::CHALLENGE_PACE_US);
    assert_eq!(answer_to(&mut ring, good), Some(Err(Refusal::UnknownSession)));
    nothing_is_left(&mut ring, 0..2);
}

#[test]
fn a_session_that_is_under_way_cannot_be_challenged() {
    let mut ring = ring(2);
    let request = ask(&mut ring, 0, 20, 6);
    ring.run_for(5_000);
    let unsigned = Challenge {
        session: request.session(),
        run: RunId::NONE,
        receipt: Digest::ZERO,
        target: layer(4, &[1]),
        signature: Signature::NONE,
    };
    let early = unsigned.signed(&Ring::<HashModel>::client_key(0));
    assert_eq!(answer_to(&mut ring, early), Some(Err(Refusal::UnknownSession)));
}

#[test]
fn challenges_in_haste_and_beyond_the_limit_are_refused() {
    let mut ring = answered(2);
    let good = challenge(&ring);
    let frame = ToServer::Challenge(Box::new(good.clone())).to_bytes();
    for _ in 0..limits::CHALLENGES_WAITING {
        ring.inject(Point::Client(0), Point::Server(1), frame.clone());
    }
    assert_eq!(answer_to(&mut ring, good.clone()), Some(Ok(())), "the earlier ones are answered");
    ring.weather.item_us = SECOND;
    for _ in 0..limits::CHALLENGES_WAITING {
        ring.inject(Point::Client(0), Point::Server(1), frame.clone());
    }
    let hasty = answer_to(&mut ring, good.clone());
    assert_eq!(hasty, Some(Err(Refusal::TooManyWaiting)));
    ring.weather.item_us = 10;
    ring.run_for(20 * SECOND);
    for _ in 0..limits::CHALLENGES_PER_SESSION {
        ring.inject(Point::Client(0), Point::Server(1), frame.clone());
        ring.run_for(20);
    }
    assert_eq!(answer_to(&mut ring, good), Some(Err(Refusal::ChallengeLimit)));
}

#[test]
fn a_stage_that_is_gone_or_silent_withholds_and_does_not_hold_up_the_others() {
    let mut dead = answered(3);
    dead.kill(Point::Server(1));
    let mut silent = answered(3);
    silent.pause(1);
    for (mut ring, why) in [(dead, NoAnswer::LinkLost), (silent, NoAnswer::Timeout)] {
        ring.challenge(0, all_layers());
        let start = ring.now();
        assert!(ring.run_until(60 * SECOND, |ring| ring.exchanges(0).is_some()));
        assert!(ring.now().since(start) <= limits::CHALLENGE_US);
        let exchanges = ring.exchanges(0).unwrap();
        for exchange in exchanges {
            match exchange.stage {
                1 => assert_eq!((&exchange.answer, exchange.is_withheld), (&Err(why), true)),
                _ => assert!(exchange.answer.is_ok() && !exchange.is_withheld),
            }
        }
        let receipt = ring.outcome(0).unwrap().as_ref().unwrap();
        let mut conduct = Conduct::before_challenges(receipt);
        exchanges.iter().for_each(|exchange| Conduct::count(&mut conduct, exchange));
        let counts: Vec<_> =
            conduct.iter().map(|it| (it.asked, it.answered, it.withheld)).collect();
        assert_eq!(counts, [(2, 2, 0), (2, 0, 2), (2, 2, 0)]);
        assert_eq!(conduct[1].unanswered, [(why, 2)].into());
    }
}

#[test]
fn a_refusal_within_the_promised_time_is_withheld_and_after_it_nothing_is_owed() {
    for (later, withheld) in [(0, true), (limits::RETENTION_US, false)] {
        let mut ring = answered(2);
        ring.run_for(later);
        ring.meddle(|packet| match ToServer::from_body(&packet.body) {
            Ok(ToServer::Challenge(mut challenge)) if packet.to == Point::Server(1) => {
                challenge.signature = Signature::NONE;
                Meddle::Replace(vec![ToServer::Challenge(challenge).to_bytes()])
            }
            _ => Meddle::Pass,
        });
        let targets = vec![layer(5, &[1]), layer(5, &[2])];
        let found = exchanges(&mut ring, targets, SECOND);
        for exchange in &found {
            assert_eq!(exchange.is_withheld, withheld);
            let is_over = exchange.answer == Err(NoAnswer::DeadlineOver);
            assert_eq!(is_over, !withheld, "{:?}", exchange.answer);
        }
    }
}

/// What comes of so many challenges to the second of two stages, which promises 301 s and takes so
/// long for each two answers.
fn exchanges_with_a_slow_stage(challenges: u32, slow_us: u64) -> Vec<Exchange> {
    let capacity = Capacity { retention_us: 301 * SECOND, ..Capacity::default() };
    let mut ring = ring_with(1, 2, capacity);
    ask(&mut ring, 0, 20, 6);
    assert!(ring.run_to_the_end(10 * SECOND));
    ring.meddle(move |packet| match ToClient::from_body(&packet.body) {
        Ok(ToClient::Opening(_)) if packet.from == Point::Server(1) => Meddle::Delay(slow_us),
        _ => Meddle::Pass,
    });
    let positions = 0..challenges / 2;
    let both = positions.flat_map(|at| [0, LAYERS - 1].map(|of| layer(of, &[at % 20])));
    let targets = both.chain((0..challenges / 2).map(|at| layer(LAYERS - 2, &[at % 20])));
    let found = exchanges(&mut ring, targets.collect(), 1_200 * SECOND);
    let (first, second): (Vec<_>, Vec<_>) = found.into_iter().partition(|it| it.stage == 0);
    assert!(first.iter().all(|exchange| exchange.answer.is_ok()));
    assert_eq!(second.len(), challenges as usize);
    second
}

#[test]
fn a_stage_that_lets_the_promised_time_run_out_withholds_what_it_has_not_answered() {
    let counts = |found: &[Exchange], why| {
        let answered = found.iter().filter(|exchange| exchange.answer.is_ok()).count();
        let because = found.iter().filter(|exchange| exchange.answer == Err(why)).count();
        assert_eq!(answered + because, found.len());
        let withheld = found.iter().filter(|exchange| exchange.is_withheld).count();
        (answered, withheld)
    };
    // Each answer comes within the 30 s that any has, and most do not come at all.
    let slow = exchanges_with_a_slow_stage(60, 25 * SECOND);
    assert_eq!(counts(&slow, NoAnswer::RanOut), (30, 30));
    // So many that the signed time is too short for them, which is no excuse for being slow.
    let many = exchanges_with_a_slow_stage(300, 25 * SECOND);
    assert_eq!(counts(&many, NoAnswer::RanOut), (30, 270));
    // As many, at just the pace (two are under way at a time): each prolongs the promise.
    let paced = exchanges_with_a_slow_stage(300, 4 * SECOND - 10_000);
    assert_eq!(counts(&paced, NoAnswer::RanOut), (300, 0));
    // A little slower than the pace, until the time is over.
    let slower = exchanges_with_a_slow_stage(600, 6 * SECOND);
    assert_eq!(counts(&slower, NoAnswer::RanOut), (210, 390));
    // Slow, but fast enough.
    let fast = exchanges_with_a_slow_stage(60, 9 * SECOND);
    assert_eq!(counts(&fast, NoAnswer::RanOut), (60, 0));
}

#[test]
fn refusals_for_haste_are_waited_out_and_withheld_only_if_they_last_as_long_as_a_promise() {
    let refuse = |most: usize| {
        let mut ring = answered(1);
        let mut seen = 0;
        ring.meddle(move |packet| match ToClient::from_body(&packet.body) {
            Ok(ToClient::Opening(opening)) if seen < most => {
                seen += 1;
                let (challenge, refusal) = (opening.challenge, Refusal::TooManyWaiting);
                Meddle::Replace(vec![ToClient::ChallengeRefused { challenge, refusal }.to_bytes()])
            }
            _ => Meddle::Pass,
        });
        let begin = ring.now();
        let found = exchanges(&mut ring, all_layers(), limits::RETENTION_US);
        (found, ring.now().since(begin))
    };
    let (found, _) = refuse(100);
    let indexes: Vec<usize> = found.iter().map(|exchange| exchange.index).collect();
    assert_eq!(indexes, (0..LAYERS as usize).collect::<Vec<_>>());
    assert!(found.iter().all(|exchange| exchange.answer.is_ok()), "{found:?}");
    let (found, took) = refuse(usize::MAX);
    let refused = Err(NoAnswer::Refused(Refusal::TooManyWaiting));
    assert!(found.iter().all(|it| it.answer == refused && it.is_withheld), "{found:?}");
    let waits = u64::from(limits::HASTE_WAITS) * limits::CHALLENGE_AGAIN_US;
    assert!((waits..waits + SECOND * 5).contains(&took), "{took}");
}

#[test]
fn a_client_whose_own_network_is_dead_holds_nothing_against_anybody() {
    for stages in [1, 3] {
        let mut ring = answered(stages);
        (0..stages).for_each(|server| ring.kill(Point::Server(server)));
        ring.challenge(0, all_layers());
        assert!(ring.run_until(60 * SECOND, |ring| ring.exchanges(0).is_some()));
        for exchange in ring.exchanges(0).unwrap() {
            assert_eq!((&exchange.answer, exchange.is_withheld), (&Err(NoAnswer::LinkLost), false));
        }
    }
}

#[test]
fn a_stage_has_as_long_to_open_cells_as_the_answer_took() {
    let mut ring = answered(2);
    ring.weather.item_us = 3 * SECOND;
    // A slow ring: its answer takes longer than a challenge has at least.
    let request = ask(&mut ring, 1, 20, 30);
    let asked = ring.now();
    assert!(ring.run_to_the_end(1_000 * SECOND));
    receipt_of(&ring, 1, &request);
    let took = ring.ended(1).unwrap().since(asked);
    assert!(took > 2 * limits::CHALLENGE_US, "{took}");
    for (item_us, in_time) in [(took - SECOND, true), (took + SECOND, false)] {
        ring.weather.item_us = item_us;
        ring.challenge(1, vec![layer(0, &[1])]);
        assert!(ring.run_until(2 * took, |ring| ring.exchanges(1).is_some()));
        let expected = if in_time { None } else { Some(NoAnswer::Timeout) };
        assert_eq!(ring.exchanges(1).unwrap()[0].answer.clone().err(), expected);
    }
}

#[test]
fn a_stage_that_promises_too_little_time_for_audits_gives_no_answer() {
    for (retention_us, fails) in [(0, true), (299 * SECOND, true), (301 * SECOND, false)] {
        let mut ring = ring_with(1, 2, Capacity { retention_us, ..Capacity::default() });
        ask(&mut ring, 0, 20, 6);
        assert!(ring.run_to_the_end(10 * SECOND));
        let promise = ClientError::Segment { stage: 0, fault: SegmentFault::Promise };
        let error = ring.outcome(0).unwrap().as_ref().err();
        assert_eq!(error, fails.then_some(&promise), "{retention_us}");
    }
}

#[test]
fn an_opening_that_is_not_signed_by_the_stage_is_no_answer() {
    let mut ring = answered(2);
    ring.meddle(|packet| match ToClient::from_body(&packet.body) {
        Ok(ToClient::Opening(mut opening)) if packet.from == Point::Server(1) => {
            opening.body.push(0);
            Meddle::Replace(vec![ToClient::Opening(opening).to_bytes()])
        }
        _ => Meddle::Pass,
    });
    let targets = vec![layer(0, &[1]), layer(3, &[1])];
    let exchanges = exchanges(&mut ring, targets, SECOND);
    assert!(exchanges[0].answer.is_ok());
    assert_eq!(exchanges[1].answer, Err(NoAnswer::BadSignature));
}

#[test]
fn what_was_promised_is_kept_and_the_new_session_is_refused() {
    // Two fit in, and no third one.
    let kept_bytes = limits::KEPT_SESSION_BYTES * 14 / 5;
    for capacity in [
        Capacity { retained: 2, ..Capacity::default() },
        Capacity { kept_bytes, ..Capacity::default() },
    ] {
        let mut ring = ring_with(1, 1, capacity);
        for client in 0..3 {
            let request = ask(&mut ring, client, 10, 3);
            assert!(ring.run_to_the_end(10 * SECOND));
            if client < 2 {
                receipt_of(&ring, client, &request);
            }
            ring.run_for(SECOND);
        }
        let error = support::error_of(&ring, 2);
        assert_eq!(support::refusal_of(&error), Some(Refusal::CannotKeep));
        // Until the first one is not kept any more.
        let kept_ms = u32::try_from(limits::RETENTION_US / 1000).unwrap();
        let retry_ms = error.retry_ms().unwrap();
        assert!((kept_ms - 5_000..kept_ms).contains(&retry_ms), "{retry_ms} ms");
        assert_eq!(ring.server(0).unwrap().retained(), 2);
        let answers = exchanges(&mut ring, vec![layer(3, &[1])], SECOND);
        assert!(answers[0].answer.is_ok(), "the oldest is still there");
        ring.run_for(limits::RETENTION_US);
        let request = ask(&mut ring, 3, 10, 3);
        assert!(ring.run_to_the_end(10 * SECOND));
        receipt_of(&ring, 3, &request);
        nothing_is_left(&mut ring, 0..1);
    }
}

#[test]
fn a_challenge_that_no_draw_poses_is_refused_before_it_is_computed() {
    let mut ring = answered(2);
    ring.weather.item_us = 40 * SECOND;
    let receipt = ring.outcome(0).unwrap().as_ref().unwrap();
    let head = Target::Edge { layer: 3, side: Side::Received, first: 0, count: u32::MAX };
    let unsigned = Challenge {
        session: receipt.request.session(),
        run: receipt.segments[1].run().id(),
        receipt: receipt.digest(),
        target: head,
        signature: Signature::NONE,
    };
    let huge = unsigned.signed(&Ring::<HashModel>::client_key(0));
    assert_eq!(answer_to(&mut ring, huge), Some(Err(Refusal::TooExpensive)));
    assert_eq!(ring.server(1).unwrap().status().queue, 0, "nothing waits for the executor");
}

#[test]
fn openings_wait_for_steps_but_not_for_ever() {
    let mut ring = answered(1);
    ring.weather.item_us = 1_000;
    // A second client keeps the executor busy with one token after the other.
    support::ask_long(&mut ring, 1, 5, 1_500);
    ring.run_for(10_000);
    let start = ring.now();
    let targets = vec![layer(0, &[1]), layer(1, &[1])];
    exchanges(&mut ring, targets, SECOND);
    let most = 3 * u64::from(limits::JOBS_PER_OPENING) * 2_000;
    assert!(ring.now().since(start) < most, "{} us", ring.now().since(start));
    assert!(ring.outcome(1).is_none(), "the executor was busy all the time");
}
