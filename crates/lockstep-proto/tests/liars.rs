//! Servers that sign what is not true: the client notices as far as it can without opening cells,
//! and names nobody who did nothing.

mod support;

use lockstep_exact::bytes::Canonical;
use lockstep_exact::digest::Digest;
use lockstep_exact::sample::Finish;
use lockstep_exact::state::row_bytes;
use lockstep_proto::client::{ClientError, SegmentFault};
use lockstep_proto::fixture::{HashModel, Meddle, Point, Ring};
use lockstep_proto::frame::{Frame, RingFrame, Step, ToClient};
use lockstep_proto::limits;
use lockstep_verify::request::Lease;
use lockstep_verify::sign::{Keypair, Signature};
use lockstep_verify::statement::{Segment, token_digest};
use support::{SECOND, ask_long, error_of, nothing_is_left, prompt, ring};

fn key(server: usize) -> Keypair {
    Ring::<HashModel>::server_key(server)
}

/// What a client says about stage 0 when it changes its frames so, three stages and 5 tokens.
fn error_with(mut change: impl FnMut(ToClient) -> Vec<ToClient> + 'static) -> ClientError {
    let mut ring = ring(3);
    ring.meddle(move |packet| match (packet.to, ToClient::from_body(&packet.body)) {
        (Point::Client(_), Ok(frame)) => {
            Meddle::Replace(change(frame).iter().map(Canonical::to_bytes).collect())
        }
        _ => Meddle::Pass,
    });
    ask_long(&mut ring, 0, 200, 5);
    assert!(ring.run_to_the_end(2 * limits::CLIENT_PROGRESS_US));
    let error = error_of(&ring, 0);
    nothing_is_left(&mut ring, 0..3);
    error
}

#[test]
fn an_end_that_the_stop_rules_do_not_give_is_refused() {
    let ends = [
        Finish::EndToken,
        Finish::StopString,
        Finish::Context,
        Finish::Overflow { position: 200, layer: 2 },
    ];
    for end in ends {
        let error = error_with(move |frame| match frame {
            ToClient::Finished { mut head, segments } => {
                head.finish = end;
                let head = Box::new(head.signed(&key(0)));
                vec![ToClient::Finished { head, segments }]
            }
            other => vec![other],
        });
        let stops = ClientError::Stops { expected: Some(Finish::Length), got: Some(end) };
        assert_eq!(error, stops);
        assert_eq!(error.stage(), Some(0));
    }
}

#[test]
fn an_answer_that_is_cut_short_is_no_answer() {
    let mut told = 0;
    let error = error_with(move |frame| match frame {
        ToClient::Token { .. } => {
            told += 1;
            if told == 5 { Vec::new() } else { vec![frame] }
        }
        other => vec![other],
    });
    let stops = ClientError::Stops { expected: None, got: Some(Finish::Length) };
    assert_eq!(error, stops);
}

#[test]
fn another_token_than_the_one_the_ring_was_fed_is_noticed() {
    // The head signs the token that it tells, but went on with another.
    let mut done = false;
    let error = error_with(move |frame| match frame {
        ToClient::Token { session, index, token, mut mark } if !done => {
            done = true;
            let token = (token + 1) % 90;
            mark.output = token_digest(token);
            let mark = Box::new(mark.signed(&session, &key(0)));
            vec![ToClient::Token { session, index, token, mark }]
        }
        other => vec![other],
    });
    assert_eq!(error, ClientError::BrokenLink { before: None, after: 0, position: 200 });
}

#[test]
fn a_token_that_its_mark_does_not_name_is_refused() {
    let error = error_with(|frame| match frame {
        ToClient::Token { session, index, token, mark } => {
            vec![ToClient::Token { session, index, token: token + 1, mark }]
        }
        other => vec![other],
    });
    assert_eq!(error, ClientError::Token { index: 0 });
}

#[test]
fn a_token_from_a_state_that_no_stage_sent_is_noticed() {
    let error = error_with(|frame| match frame {
        ToClient::Token { session, index, token, mut mark } => {
            mark.input = Digest([1; 32]);
            let mark = Box::new(mark.signed(&session, &key(0)));
            vec![ToClient::Token { session, index, token, mark }]
        }
        other => vec![other],
    });
    assert_eq!(error, ClientError::BrokenLink { before: None, after: 0, position: 199 });
}

#[test]
fn steps_that_are_left_out_doubled_or_late_are_refused() {
    for (copies, first) in [(0, true), (2, true), (0, false), (2, false)] {
        let mut seen = 0;
        let error = error_with(move |frame| match frame {
            ToClient::Step { .. } => {
                seen += 1;
                if first == (seen == 1) { vec![frame; copies] } else { vec![frame] }
            }
            other => vec![other],
        });
        assert!(matches!(error, ClientError::Order(_)), "{error:?}");
        assert_eq!(error.stage(), Some(0));
    }
}

/// What the client says when a stage signs a changed segment.
fn error_with_segment(stage: usize, change: fn(&mut Segment)) -> ClientError {
    error_with(move |frame| match frame {
        ToClient::Finished { head, mut segments } => {
            change(&mut segments[stage]);
            segments[stage] = segments[stage].clone().signed(&key(stage));
            vec![ToClient::Finished { head, segments }]
        }
        other => vec![other],
    })
}

#[test]
fn a_segment_that_contradicts_its_signers_own_marks_is_held_against_the_signer() {
    for stage in 0..3 {
        let fault = |fault| ClientError::Segment { stage: stage as u32, fault };
        let error = error_with_segment(stage, |segment| segment.positions += 1);
        assert_eq!(error, fault(SegmentFault::Positions));
        assert_eq!(error.stage(), Some(stage as u32));
        let error = error_with_segment(stage, |segment| segment.chain = Digest::ZERO);
        assert_eq!(error, fault(SegmentFault::Chain));
        let error = error_with_segment(stage, |segment| segment.layers.clear());
        assert_eq!(error, fault(SegmentFault::Layers));
        let error = error_with_segment(stage, |segment| segment.session = Digest::ZERO);
        assert_eq!(error, fault(SegmentFault::Place));
        assert_eq!(error.stage(), None, "anybody can bring a segment of another session");
    }
}

#[test]
fn a_segment_that_somebody_else_changed_is_held_against_nobody() {
    let error = error_with(|frame| match frame {
        ToClient::Finished { head, mut segments } => {
            segments[1].positions += 1;
            vec![ToClient::Finished { head, segments }]
        }
        other => vec![other],
    });
    assert_eq!(error, ClientError::Segment { stage: 1, fault: SegmentFault::Signature });
    assert_eq!(error.stage(), None);
}

#[test]
fn a_stage_that_sends_more_steps_than_may_be_under_way_is_refused() {
    let mut ring = ring(3);
    let request = ring.request(0, prompt(1_900), 5);
    let lease = Lease {
        session: request.session(),
        manifest: request.manifest,
        session_key: request.session_key,
        prompt_len: 1_900,
        max_positions: 2_000,
        route: ring.route(),
        addresses: Vec::new(),
        signature: Signature::NONE,
    };
    let lease = lease.signed(&Ring::<HashModel>::client_key(0));
    let session = lease.session;
    let from = |ring: &mut Ring<HashModel>, frame: RingFrame| {
        ring.inject(Point::Server(1), Point::Server(2), frame.to_bytes());
        ring.server(2).unwrap().sessions()
    };
    assert_eq!(from(&mut ring, RingFrame::Lease(Box::new(lease))), 1);
    for chunk in 0..=limits::window(3) as u32 {
        let state = vec![0; limits::CHUNK_POSITIONS as usize * row_bytes(32)];
        let position = chunk * limits::CHUNK_POSITIONS;
        let step = RingFrame::Step(Step { session, epoch: 0, position, state });
        let fits = chunk < limits::window(3) as u32;
        assert_eq!(from(&mut ring, step), usize::from(fits), "chunk {chunk}");
    }
    ring.run_for(10 * SECOND);
    nothing_is_left(&mut ring, 0..3);
}
