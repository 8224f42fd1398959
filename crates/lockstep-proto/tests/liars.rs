//! Servers that sign what is not true: the client notices as far as it can without opening cells,
//! and names nobody who did nothing.

mod support;

use lockstep_exact::bytes::Canonical;
use lockstep_exact::digest::Digest;
use lockstep_exact::sample::Finish;
use lockstep_exact::state::row_bytes;
use lockstep_proto::client::{ClientError, MarkFault, SegmentFault};
use lockstep_proto::failure::{Failure, Reason};
use lockstep_proto::frame::{Frame, RingFrame, Step, ToClient};
use lockstep_proto::limits;
use lockstep_proto::server::Capacity;
use lockstep_testing::hash_model::HashModel;
use lockstep_testing::ring::{Meddle, Point, Ring};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::Lease;
use lockstep_verify::sign::{Keypair, Signature};
use lockstep_verify::statement::{RunId, Segment, token_digest};
use support::{SECOND, ask_long, error_of, nothing_is_left, prompt, ring, ring_with};

fn key(server: usize) -> Keypair {
    Ring::<HashModel>::server_key(server)
}

/// Who signs for which run, as a client is told.
#[derive(Clone, Default)]
struct Runs {
    stages: Vec<RunId>,
    head: Option<RunId>,
}

/// What comes of an answer of three stages and 5 tokens when stage 0 changes its frames so.
fn outcome_with(
    mut change: impl FnMut(ToClient, &Runs) -> Vec<ToClient> + 'static,
) -> Result<Receipt, ClientError> {
    let mut ring = ring(3);
    let mut known = Runs::default();
    ring.meddle(move |packet| match (packet.to, ToClient::from_body(&packet.body)) {
        (Point::Client(_), Ok(frame)) => {
            if let ToClient::Runs { runs, head, .. } = &frame {
                known = Runs { stages: runs.clone(), head: Some(*head) };
            }
            Meddle::Replace(change(frame, &known).iter().map(Canonical::to_bytes).collect())
        }
        _ => Meddle::Pass,
    });
    ask_long(&mut ring, 0, 200, 5);
    assert!(ring.run_to_the_end(2 * limits::CLIENT_PROGRESS_US));
    let outcome = ring.outcome(0).unwrap().clone();
    nothing_is_left(&mut ring, 0..3);
    outcome.map(|receipt| *receipt)
}

/// The error in it.
fn error_with(change: impl FnMut(ToClient, &Runs) -> Vec<ToClient> + 'static) -> ClientError {
    outcome_with(change).unwrap_err()
}

#[test]
fn an_end_that_the_stop_rules_do_not_give_is_refused() {
    let ends = [Finish::EndToken, Finish::StopString, Finish::Context, Finish::Overflow];
    for end in ends {
        let error = error_with(move |frame, runs| match frame {
            ToClient::Finished { mut head, segments } => {
                head.finish = end;
                let head = Box::new(head.signed(runs.head.unwrap(), &key(0)));
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
    let error = error_with(move |frame, _| match frame {
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
    let error = error_with(move |frame, runs| match frame {
        ToClient::Token { session, index, token, mut mark } if !done => {
            done = true;
            let token = (token + 1) % 90;
            mark.output = token_digest(token);
            let mark = Box::new(mark.signed(runs.head.unwrap(), &key(0)));
            vec![ToClient::Token { session, index, token, mark }]
        }
        other => vec![other],
    });
    assert_eq!(error, ClientError::Fed { position: 200 });
    assert_eq!(error.stage(), Some(0));
}

#[test]
fn a_token_that_its_mark_does_not_name_is_refused() {
    let error = error_with(|frame, _| match frame {
        ToClient::Token { session, index, token, mark } => {
            vec![ToClient::Token { session, index, token: token + 1, mark }]
        }
        other => vec![other],
    });
    assert_eq!(error, ClientError::Token { index: 0 });
}

/// What the marks of neighbours in a receipt say differently.
fn marks_differ(receipt: &Receipt) -> Vec<(usize, u32)> {
    let mut differ = Vec::new();
    for step in &receipt.steps {
        for (from, pair) in step.marks.windows(2).enumerate() {
            if pair[0].output != pair[1].input {
                differ.push((from, step.position));
            }
        }
        let last = step.position + step.count - 1;
        let read = receipt.head_marks.iter().find(|mark| mark.position == last);
        if read.is_some_and(|mark| mark.input != step.marks.last().unwrap().output) {
            differ.push((step.marks.len() - 1, step.position));
        }
    }
    differ
}

#[test]
fn marks_of_neighbours_that_differ_are_kept_for_the_audit_and_nobody_is_named() {
    // Server 1 says that it read another state than the last stage marked.
    let mut head_chain = None;
    let receipt = outcome_with(move |frame, runs| match frame {
        ToClient::Token { session, index, token, mut mark } => {
            if index == 0 {
                mark.input = Digest([1; 32]);
            }
            mark.chain_before = head_chain.unwrap_or(mark.chain_before);
            let mark = Box::new(mark.signed(runs.head.unwrap(), &key(0)));
            head_chain = Some(mark.chain_after());
            vec![ToClient::Token { session, index, token, mark }]
        }
        ToClient::Finished { mut head, segments } => {
            head.chain = head_chain.unwrap();
            let head = Box::new(head.signed(runs.head.unwrap(), &key(0)));
            vec![ToClient::Finished { head, segments }]
        }
        other => vec![other],
    });
    assert_eq!(marks_differ(&receipt.unwrap()), [(2, 128)]);
    // A stage signs one mark for the next stage and another for the client.
    for stage in 0..3_usize {
        let mut chain = None;
        let receipt = outcome_with(move |frame, runs| match frame {
            ToClient::Step { session, mut step } => {
                let mark = &mut step.marks[stage];
                if step.position == 200 {
                    mark.output = Digest([1; 32]);
                }
                mark.chain_before = chain.unwrap_or(mark.chain_before);
                *mark = mark.signed(runs.stages[stage], &key(stage));
                chain = Some(mark.chain_after());
                vec![ToClient::Step { session, step }]
            }
            ToClient::Finished { head, mut segments } => {
                segments[stage].chain = chain.unwrap();
                segments[stage] = segments[stage].clone().signed(&key(stage));
                vec![ToClient::Finished { head, segments }]
            }
            other => vec![other],
        });
        assert_eq!(marks_differ(&receipt.unwrap()), [(stage, 200)]);
    }
}

#[test]
fn marks_for_another_run_than_the_segments_are_held_against_nobody() {
    // Stage 0 tells other runs than the stages': nothing is signed for those.
    let error = error_with(|frame, _| match frame {
        ToClient::Runs { session, mut runs, head } => {
            runs[1].0.0[0] ^= 1;
            vec![ToClient::Runs { session, runs, head }]
        }
        other => vec![other],
    });
    let fault = MarkFault::Signature;
    assert_eq!(error, ClientError::Mark { stage: 1, position: 0, fault });
    assert_eq!(error.stage(), None);
    // A segment of another run of the stage, or one that followed another run of the stage before.
    type Change = fn(&mut Segment);
    let changes: [Change; 2] =
        [|segment| segment.run_value.0[0] ^= 1, |segment| segment.before.0.0[0] ^= 1];
    for change in changes {
        let error = error_with_segment(1, change);
        assert_eq!(error, ClientError::Segment { stage: 1, fault: SegmentFault::Run });
        assert_eq!(error.stage(), None);
    }
}

#[test]
fn a_stage_that_was_given_another_lease_is_not_named() {
    for stage in 0..3 {
        let error = error_with_segment(stage, |segment| segment.lease.0[0] ^= 1);
        let stage = stage as u32;
        assert_eq!(error, ClientError::Segment { stage, fault: SegmentFault::Lease });
        assert_eq!(error.stage(), None);
    }
}

/// What comes of an answer when server 0 gives the next stage a lease that it changed, signed by
/// whatever key it says is the session's.
fn outcome_with_lease(change: fn(&mut Lease)) -> ClientError {
    let mut ring = ring(3);
    let mut good = None;
    ring.meddle(move |packet| match RingFrame::from_body(&packet.body) {
        Ok(RingFrame::Lease { mut lease, tenant, runs }) if packet.from == Point::Server(0) => {
            good = Some(lease.clone());
            change(&mut lease);
            Meddle::Replace(vec![RingFrame::Lease { lease, tenant, runs }.to_bytes()])
        }
        // And takes back what comes round as the one it sent.
        Ok(RingFrame::Lease { tenant, runs, .. }) if packet.to == Point::Server(0) => {
            let lease = good.clone().unwrap();
            Meddle::Replace(vec![RingFrame::Lease { lease, tenant, runs }.to_bytes()])
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
fn a_lease_that_was_changed_on_its_way_names_nobody() {
    let changes: [fn(&mut Lease); 3] = [
        |lease| {
            lease.max_positions += 1;
            *lease = lease.clone().signed(&key(0));
        },
        |lease| {
            lease.prompt_len -= 1;
            *lease = lease.clone().signed(&key(0));
        },
        |lease| *lease = lease.clone().signed(&key(0)),
    ];
    for change in changes {
        let error = outcome_with_lease(change);
        assert_eq!(error.stage(), None, "{error}");
    }
}

#[test]
fn a_step_that_is_held_back_names_nobody() {
    // Server 1 runs a position more than it tells.
    let error = error_with(|frame, _| match frame {
        ToClient::Finished { head, mut segments } => {
            for (stage, segment) in segments.iter_mut().enumerate() {
                (segment.positions, segment.chain) = (segment.positions + 1, Digest::ZERO);
                *segment = segment.clone().signed(&key(stage));
            }
            vec![ToClient::Finished { head, segments }]
        }
        other => vec![other],
    });
    let fault = SegmentFault::MorePositions;
    assert_eq!(error, ClientError::Segment { stage: 0, fault });
    assert_eq!(error.stage(), None);
}

#[test]
fn steps_that_are_left_out_doubled_or_late_are_refused() {
    for (copies, first) in [(0, true), (2, true), (0, false), (2, false)] {
        let mut seen = 0;
        let error = error_with(move |frame, _| match frame {
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
    error_with(move |frame, _| match frame {
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
        let error = error_with_segment(stage, |segment| segment.positions -= 1);
        assert_eq!(error, fault(SegmentFault::FewPositions));
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
    let error = error_with(|frame, _| match frame {
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
        epoch: 0,
        manifest: request.manifest,
        adapters: Vec::new(),
        reuse: None,
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
    let runs = vec![RunId(lease.digest()); 2];
    assert_eq!(
        from(&mut ring, RingFrame::Lease { lease: Box::new(lease), tenant: support::TENANT, runs }),
        1
    );
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

#[test]
fn what_stage_0_says_of_another_stage_is_a_report_whoever_it_names_as_its_source() {
    for by in [None, Some(0), Some(1), Some(2)] {
        let error = error_with(move |frame, _| match frame {
            ToClient::Token { session, .. } => {
                let failure = Failure { stage: Some(2), by, reason: Reason::BadState };
                vec![ToClient::Failed { session, failure }]
            }
            other => vec![other],
        });
        assert_eq!((error.stage(), error.reported()), (None, Some(2)), "{by:?}: {error}");
        assert!(error.to_string().starts_with("stage 0 reports"), "{error}");
    }
}

#[test]
fn a_promise_that_was_held_up_on_its_way_names_nobody() {
    // The stages promise 305 s, and stage 0 takes 9 s to tell the answer that it has.
    let capacity = Capacity { retention_us: 305 * SECOND, ..Capacity::default() };
    let mut ring = ring_with(1, 3, capacity);
    let mut late = 0;
    ring.meddle(move |packet| match ToClient::from_body(&packet.body) {
        Ok(ToClient::Token { .. }) => {
            late += 3 * SECOND / 2;
            Meddle::Delay(late)
        }
        _ => Meddle::Pass,
    });
    ask_long(&mut ring, 0, 20, 6);
    assert!(ring.run_to_the_end(60 * SECOND));
    let error = error_of(&ring, 0);
    assert_eq!(error, ClientError::Segment { stage: 0, fault: SegmentFault::Late });
    assert_eq!(error.stage(), None);
}
