//! Servers that leave: what they have begun they finish, and nobody waits for them for ever.

mod support;

use lockstep_proto::announcement::{Neighbour, Speed, State, Status, Tag};
use lockstep_proto::client::ClientError;
use lockstep_proto::failure::{Reason, Refusal};
use lockstep_proto::limits;
use lockstep_proto::now::Now;
use lockstep_proto::server::{Capacity, Holding, RunValues, Server};
use lockstep_testing::hash_model::model;
use lockstep_verify::challenge::Target;
use lockstep_verify::secret::Secret;
use lockstep_verify::sign::{Keypair, NodeId};
use support::{SECOND, ask, ask_long, error_of, nothing_is_left, receipt_of, ring, under_way};

#[test]
fn a_server_that_leaves_finishes_its_sessions_takes_no_others_and_waits_for_the_audit() {
    for leaving in 0..3 {
        let mut ring = ring(3);
        let request = ask_long(&mut ring, 0, 10, 60);
        assert!(ring.run_until(SECOND, |ring| ring.tokens(0).len() >= 3));
        ring.drain(leaving);
        assert_eq!(ring.server(leaving).unwrap().status().state, State::Draining);
        ask(&mut ring, 1, 10, 5);
        assert!(ring.run_to_the_end(10 * SECOND));
        let error = error_of(&ring, 1);
        // Server 0 says it on the client's own link; of the others it is a report.
        assert_eq!(error.stage().or_else(|| error.reported()), Some(leaving as u32), "{error}");
        assert!(error.to_string().contains(&Refusal::Draining.to_string()), "{error}");

        receipt_of(&ring, 0, &request);
        ring.run_for(limits::LAST_CHALLENGE_US / 2);
        assert!(!ring.server(leaving).unwrap().is_drained(), "the client may want to challenge");
        let layer = 2 * leaving as u32;
        ring.challenge(0, vec![Target::Layer { layer, first: 0, end: 8, positions: vec![3, 7] }]);
        ring.run_for(limits::LAST_CHALLENGE_US / 2 + 1_000);
        assert!(ring.exchanges(0).unwrap().iter().all(|exchange| exchange.answer.is_ok()));
        assert!(!ring.server(leaving).unwrap().is_drained(), "and go on challenging");
        ring.run_for(limits::LAST_CHALLENGE_US);
        assert!(ring.server(leaving).unwrap().is_drained());
        assert!((0..3).all(|other| ring.server(other).unwrap().is_drained() == (other == leaving)));
    }
}

#[test]
fn a_server_that_has_nothing_to_do_leaves_at_once() {
    let mut ring = ring(2);
    assert!(!ring.server(1).unwrap().is_drained());
    ring.drain(1);
    assert!(ring.server(1).unwrap().is_drained());
}

#[test]
fn sessions_that_do_not_finish_in_time_end_with_the_stage_that_leaves() {
    for leaving in 0..3 {
        let mut ring = ring(3);
        ring.weather.item_us = SECOND / 4;
        ask_long(&mut ring, 0, 10, 1_000);
        assert!(ring.run_until(20 * SECOND, |ring| ring.tokens(0).len() >= 2));
        ring.drain(leaving);
        let start = ring.now();
        assert!(ring.run_to_the_end(2 * limits::DRAIN_US));
        match error_of(&ring, 0) {
            ClientError::Failed(failure) => {
                assert_eq!(
                    (failure.stage, failure.reason),
                    (Some(leaving as u32), Reason::Leaving)
                );
            }
            other => panic!("{other:?}"),
        }
        let after = ring.ended(0).unwrap().since(start);
        assert!((limits::DRAIN_US..limits::DRAIN_US + 10_000).contains(&after), "{after} us");
        assert!(ring.server(leaving).unwrap().is_drained());
        ring.run_for(SECOND);
        assert_eq!(under_way(&ring, 0..3), 0);
        nothing_is_left(&mut ring, 0..3);
    }
}

#[test]
fn a_server_announces_what_its_driver_has_told_and_that_it_is_joining() {
    let holding = Holding { model: model(), span: 1..3, head: None };
    let runs = RunValues::new(Secret::of(&[1; 32]));
    let mut server =
        Server::new(Keypair::from_secret(&[1; 32]), holding, Capacity::default(), runs);
    let before = server.status();
    assert_eq!((before.state, before.speed), (State::Ready, Speed::UNKNOWN));
    let speed = Speed { decode_ns: [1, 2, 3], head_ns: [0; 3], prefill_ns: 4 };
    let link = Neighbour { node: NodeId([9; 32]), rtt_us: 5, bytes_per_s: 6 };
    let tag = Tag::new("eu").unwrap();
    server.measured(speed);
    server.linked_to(vec![link]);
    server.tagged(vec![tag.clone()]);
    server.runs("lockstep 1");
    server.joining(true);
    let software = "lockstep 1".to_owned();
    let told = Status { state: State::Joining, speed, software, ..before };
    let told = Status { neighbours: vec![link], tags: vec![tag], ..told };
    assert_eq!(server.status(), told);
    assert!(!told.takes_sessions());
    server.joining(false);
    assert_eq!(server.status().state, State::Ready);
    assert!(server.status().takes_sessions());
    server.drain(Now(1));
    server.joining(true);
    assert_eq!(server.status().state, State::Draining, "it leaves, whatever else");
}
