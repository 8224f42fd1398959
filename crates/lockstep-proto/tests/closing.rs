//! When a server closes its connections to another: it was silent and no session needs them, or it
//! sent what no stage sends. Never otherwise.

mod support;

use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::digest::Digest;
use lockstep_proto::failure::{Failure, Reason};
use lockstep_proto::frame::RingFrame;
use lockstep_proto::limits;
use lockstep_testing::hash_model::HashModel;
use lockstep_testing::ring::{Point, Ring};
use lockstep_verify::sign::NodeId;
use support::{SECOND, ask, ask_long, nothing_is_left, receipt_of, ring};

fn node(server: usize) -> NodeId {
    Ring::<HashModel>::server_key(server).id()
}

/// A ring of three with sessions of so many clients, all of which have a token.
fn busy(clients: usize) -> (Ring<HashModel>, Vec<Digest>) {
    let mut ring = ring(3);
    let sessions = (0..clients).map(|client| ask_long(&mut ring, client, 10, 400).session());
    let sessions = sessions.collect();
    let streams = |ring: &Ring<HashModel>| (0..clients).all(|it| !ring.tokens(it).is_empty());
    assert!(ring.run_until(SECOND, streams));
    (ring, sessions)
}

#[test]
fn both_neighbours_close_their_connections_to_a_silent_stage_once() {
    for clients in [1, 3] {
        for silent in 0..3 {
            let (mut ring, _) = busy(clients);
            ring.pause(silent);
            ring.run_for(limits::SILENCE_US + SECOND);
            for other in (0..3).filter(|&other| other != silent) {
                let expected = [(node(silent), Reason::StageSilent)];
                assert_eq!(ring.closed(other), expected, "{other} of {silent}, {clients} clients");
            }
            ring.resume(silent);
            ring.run_for(SECOND);
            assert_eq!(ring.closed(silent), [], "the others were not silent");
            nothing_is_left(&mut ring, 0..3);
        }
    }
}

/// Server 3 tells server 1 that server 2 has ended a session so.
fn told(ring: &mut Ring<HashModel>, session: Digest, reason: Reason) {
    let failure = Failure { stage: Some(1), by: Some(2), reason };
    let abort = RingFrame::Abort { session, failure };
    ring.inject(Point::Server(2), Point::Server(0), abort.to_bytes());
}

#[test]
fn connections_that_another_session_uses_stay_open() {
    let (mut ring, sessions) = busy(2);
    told(&mut ring, sessions[0], Reason::StageSilent);
    assert_eq!(ring.closed(0), []);
    assert!(ring.outcome(1).is_none(), "the other session goes on");
    told(&mut ring, sessions[1], Reason::StageSilent);
    assert_eq!(ring.closed(0), [(node(1), Reason::StageSilent)], "the last one closes");
    ring.run_for(SECOND);
    nothing_is_left(&mut ring, 0..3);
}

#[test]
fn sessions_that_end_for_another_reason_close_nothing() {
    for reason in [Reason::BadMark, Reason::Cancelled, Reason::JobOverdue, Reason::Leaving] {
        let (mut ring, sessions) = busy(1);
        told(&mut ring, sessions[0], reason);
        ring.run_for(SECOND);
        assert!((0..3).all(|server| ring.closed(server).is_empty()), "{reason:?}");
    }
    let mut ring = ring(3);
    let request = ask(&mut ring, 0, 10, 5);
    assert!(ring.run_to_the_end(SECOND));
    receipt_of(&ring, 0, &request);
    ring.run_for(SECOND);
    assert!((0..3).all(|server| ring.closed(server).is_empty()), "an answer");
}

#[test]
fn a_neighbour_that_sends_what_no_stage_sends_is_cut_off_whatever_uses_it() {
    let (mut ring, _) = busy(2);
    ring.inject(Point::Server(0), Point::Server(1), vec![0xff; 9]);
    assert_eq!(ring.closed(1), [(node(0), Reason::BadFrame)]);
    ring.run_for(SECOND);
    nothing_is_left(&mut ring, 0..3);
}
