//! Rings that break: every session ends in time, names the stage, and leaves nothing behind.

mod support;

use lockstep_proto::client::ClientError;
use lockstep_proto::failure::{Failure, Reason};
use lockstep_proto::limits;
use lockstep_testing::hash_model::HashModel;
use lockstep_testing::ring::{Point, Ring};
use support::{SECOND, ask, ask_long, error_of, nothing_is_left, receipt_of, ring, under_way};

/// How far a session has come.
#[derive(Clone, Copy, Debug)]
enum When {
    Prefill,
    FirstToken,
    Middle,
}

const ALL: [When; 3] = [When::Prefill, When::FirstToken, When::Middle];

fn run_to(ring: &mut Ring<HashModel>, when: When) {
    let tokens = match when {
        When::Prefill => {
            ring.run_for(8_000);
            assert_eq!(ring.tokens(0).len(), 0);
            return;
        }
        When::FirstToken => 1,
        When::Middle => 20,
    };
    assert!(ring.run_until(20 * SECOND, |ring| ring.tokens(0).len() >= tokens));
    assert!(ring.outcome(0).is_none());
}

fn failure_of(ring: &Ring<HashModel>) -> Failure {
    match error_of(ring, 0) {
        ClientError::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cancel_at_any_moment_frees_every_stage() {
    for stages in [1, 2, 3] {
        let mut moment = 0;
        loop {
            let mut ring = ring(stages);
            ask(&mut ring, 0, 300, 6);
            for _ in 0..moment {
                ring.step();
            }
            if ring.outcome(0).is_some() {
                break;
            }
            ring.cancel(0);
            assert_eq!(failure_of(&ring).reason, Reason::Cancelled);
            ring.run_for(SECOND);
            assert_eq!(under_way(&ring, 0..stages), 0, "{stages} stages, moment {moment}");
            nothing_is_left(&mut ring, 0..stages);
            moment += 1;
        }
        assert!(moment > 20);
    }
}

#[test]
fn a_client_that_is_gone_at_any_moment_frees_every_stage() {
    for moment in 0..60 {
        let mut ring = ring(3);
        ask(&mut ring, 0, 300, 6);
        for _ in 0..moment {
            ring.step();
        }
        ring.kill(Point::Client(0));
        ring.run_for(SECOND);
        assert_eq!(under_way(&ring, 0..3), 0, "moment {moment}");
        nothing_is_left(&mut ring, 0..3);
    }
}

#[test]
fn a_silent_client_is_gone_after_two_seconds() {
    let mut ring = ring(2);
    ask_long(&mut ring, 0, 10, 2_000);
    run_to(&mut ring, When::FirstToken);
    ring.meddle(|packet| match packet.from {
        Point::Client(_) => lockstep_testing::ring::Meddle::Replace(Vec::new()),
        Point::Server(_) => lockstep_testing::ring::Meddle::Pass,
    });
    ring.run_for(limits::SILENCE_US + limits::HEARTBEAT_US);
    assert_eq!(under_way(&ring, 0..2), 0);
    assert_eq!(failure_of(&ring).reason, Reason::ClientLost);
    nothing_is_left(&mut ring, 0..2);
}

#[test]
fn a_stage_that_falls_silent_is_named_within_two_seconds() {
    for stages in 1..=4 {
        for silent in 0..stages {
            for when in ALL {
                let mut ring = ring(stages);
                ask_long(&mut ring, 0, 1_500, 400);
                run_to(&mut ring, when);
                ring.pause(silent);
                let paused = ring.now();
                let what = format!("stage {silent} of {stages}, {when:?}");
                assert!(ring.run_to_the_end(10 * SECOND), "{what}");
                let failure = failure_of(&ring);
                assert_eq!(failure.reason, Reason::StageSilent, "{what}");
                assert_eq!(failure.stage, Some(silent as u32), "{what}");
                let after = ring.ended(0).unwrap().since(paused);
                assert!(after <= limits::SILENCE_US + 10_000, "{what}: {after} us");
                ring.run_for(SECOND);
                let others = || (0..stages).filter(move |&stage| stage != silent);
                assert_eq!(under_way(&ring, others()), 0, "{what}");
                nothing_is_left(&mut ring, others());
                ring.resume(silent);
                ring.run_for(SECOND);
                nothing_is_left(&mut ring, silent..silent + 1);
            }
        }
    }
}

#[test]
fn a_stage_that_never_answers_the_lease_is_named_within_five_seconds() {
    for silent in [0, 1, 2] {
        let mut ring = ring(3);
        ring.pause(silent);
        ask(&mut ring, 0, 5, 5);
        let start = ring.now();
        assert!(ring.run_to_the_end(10 * SECOND));
        assert_eq!(failure_of(&ring).stage, Some(silent as u32));
        let after = ring.ended(0).unwrap().since(start);
        assert!(after <= limits::HANDSHAKE_US + SECOND, "{after} us");
        ring.resume(silent);
        nothing_is_left(&mut ring, 0..3);
    }
}

#[test]
fn a_pause_shorter_than_two_seconds_is_no_failure() {
    for stages in [2, 3] {
        for paused in 0..stages {
            let mut ring = ring(stages);
            let request = ask(&mut ring, 0, 700, 30);
            ring.run_for(20_000);
            ring.pause(paused);
            ring.run_for(limits::SILENCE_US - limits::HEARTBEAT_US - 100_000);
            ring.resume(paused);
            assert!(ring.run_to_the_end(10 * SECOND));
            receipt_of(&ring, 0, &request);
        }
    }
}

#[test]
fn a_dead_stage_is_named_at_once() {
    for stages in 1..=4 {
        for dead in 0..stages {
            for when in ALL {
                let mut ring = ring(stages);
                ask_long(&mut ring, 0, 1_500, 400);
                run_to(&mut ring, when);
                ring.kill(Point::Server(dead));
                let killed = ring.now();
                assert!(ring.run_to_the_end(10 * SECOND));
                let failure = failure_of(&ring);
                assert_eq!(failure.reason, Reason::LinkLost);
                assert_eq!(failure.stage, Some(dead as u32));
                assert!(ring.ended(0).unwrap().since(killed) < 10_000);
                nothing_is_left(&mut ring, (0..stages).filter(|&stage| stage != dead));
            }
        }
    }
}

#[test]
fn a_broken_link_ends_the_sessions_that_use_it_and_no_others() {
    let mut ring = ring(3);
    ask_long(&mut ring, 0, 300, 400);
    run_to(&mut ring, When::Middle);
    ring.cut(Point::Server(1), Point::Server(2));
    assert!(ring.run_to_the_end(SECOND));
    let failure = failure_of(&ring);
    assert_eq!(failure.reason, Reason::LinkLost);
    assert!(failure.stage == Some(1) || failure.stage == Some(2));
    nothing_is_left(&mut ring, 0..3);

    let mut ring = support::ring(1);
    ask(&mut ring, 0, 5, 30);
    let other = ask(&mut ring, 1, 5, 30);
    ring.run_for(3_000);
    ring.cut(Point::Client(0), Point::Server(0));
    assert!(ring.run_to_the_end(SECOND));
    assert_eq!(failure_of(&ring).stage, Some(0));
    receipt_of(&ring, 1, &other);
    nothing_is_left(&mut ring, 0..1);
}

#[test]
fn a_job_that_takes_too_long_ends_the_sessions_and_names_the_stage() {
    let mut ring = ring(3);
    ask_long(&mut ring, 0, 5, 10);
    run_to(&mut ring, When::FirstToken);
    ring.weather.item_us = 2 * limits::JOB_US;
    assert!(ring.run_to_the_end(2 * limits::JOB_US));
    let failure = failure_of(&ring);
    assert_eq!(failure.reason, Reason::JobOverdue);
    assert!(failure.stage.is_some());
    assert_eq!(under_way(&ring, 0..3), 0);
    ring.weather.item_us = 1_000;
    ring.run_for(2 * limits::JOB_US);
    nothing_is_left(&mut ring, 0..3);
}

#[test]
fn a_stage_that_lives_but_does_nothing_ends_the_session() {
    use lockstep_proto::frame::{Frame, RingFrame};
    use lockstep_testing::ring::Meddle;
    let mut ring = ring(3);
    ask_long(&mut ring, 0, 300, 400);
    run_to(&mut ring, When::FirstToken);
    ring.meddle(|packet| match (packet.from, RingFrame::from_body(&packet.body)) {
        (Point::Server(1), Ok(RingFrame::Step(_) | RingFrame::Marks { .. })) => {
            Meddle::Replace(Vec::new())
        }
        _ => Meddle::Pass,
    });
    let start = ring.now();
    assert!(ring.run_to_the_end(2 * limits::PROGRESS_US));
    assert_eq!(failure_of(&ring).reason, Reason::Stalled);
    assert!(ring.ended(0).unwrap().since(start) <= limits::PROGRESS_US + SECOND);
    nothing_is_left(&mut ring, 0..3);
}

#[test]
fn a_stage_that_holds_up_the_close_is_named_and_no_stage_that_passed_it_on() {
    for held in 1..4 {
        let mut ring = ring(4);
        ask_long(&mut ring, 0, 20, 3);
        assert!(ring.run_until(SECOND, |ring| ring.tokens(0).len() == 3));
        let closed = |ring: &Ring<HashModel>, server: usize| {
            ring.server(server).is_some_and(|server| server.retained() == 1)
        };
        assert!(ring.run_until(SECOND, |ring| held == 1 || closed(ring, held - 1)));
        ring.pause(held);
        assert!(ring.run_to_the_end(10 * SECOND));
        let failure = failure_of(&ring);
        assert_eq!((failure.stage, failure.reason), (Some(held as u32), Reason::StageSilent));
        ring.resume(held);
        nothing_is_left(&mut ring, 0..4);
    }
}

#[test]
fn roots_that_take_long_are_no_silence() {
    let mut ring = ring(4);
    let request = ask_long(&mut ring, 0, 20, 3);
    assert!(ring.run_until(SECOND, |ring| ring.tokens(0).len() == 3));
    ring.weather.item_us = 5 * SECOND;
    assert!(ring.run_to_the_end(60 * SECOND));
    receipt_of(&ring, 0, &request);
    ring.weather.item_us = 1_000;
    nothing_is_left(&mut ring, 0..4);
}
