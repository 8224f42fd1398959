//! The wire: golden bytes of every frame, and laws that hold for any bytes.

#[path = "support/drive.rs"]
mod drive;

use lockstep_exact::bytes::Canonical;
use lockstep_exact::digest::Digest;
use lockstep_exact::sample::{Finish, Sampling, Stops};
use lockstep_proto::announcement::{Announcement, Neighbour, Speed, State, Status, Tag};
use lockstep_proto::failure::{Busy, Failure, Reason, Refusal};
use lockstep_proto::fair::Weight;
use lockstep_proto::frame::{Frame, FrameError, RingFrame, Step, Tenant, ToClient, ToServer};
use lockstep_proto::limits;
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::opening::SignedOpening;
use lockstep_verify::request::{Hop, Lease, Request};
use lockstep_verify::sign::{NodeId, Signature};
use lockstep_verify::statement::{HeadStatement, LayerRoots, Mark, RunId, Segment, Step as Marks};
use proptest::prelude::*;

const SESSION: Digest = Digest([0x11; 32]);
const RUN: RunId = RunId(Digest([0xcc; 32]));
const NODE: NodeId = NodeId([0x22; 32]);
const SIGNATURE: Signature = Signature([0x33; 64]);

fn lease() -> Lease {
    Lease {
        session: SESSION,
        epoch: 0,
        manifest: Digest([0x44; 32]),
        adapters: Vec::new(),
        reuse: None,
        session_key: NODE,
        prompt_len: 3,
        max_positions: 9,
        route: vec![Hop { node: NODE, first: 0, end: 6 }],
        addresses: vec!["a".to_owned()],
        signature: SIGNATURE,
    }
}

fn request() -> Request {
    Request {
        manifest: Digest([0x44; 32]),
        adapters: Vec::new(),
        prompt: vec![1, 2, 3],
        sampling: Sampling::default(),
        stops: Stops { max_tokens: 7, ignore_end: true, strings: vec![b"x".to_vec()] },
        nonce: [0x55; 32],
        session_key: NODE,
        audit_commitment: Digest([0x66; 32]),
    }
}

fn mark() -> Mark {
    Mark {
        first: 0,
        end: 6,
        epoch: 0,
        position: 2,
        count: 1,
        chain_before: Digest([0x77; 32]),
        input: Digest([0x88; 32]),
        output: Digest::ZERO,
        signature: SIGNATURE,
    }
}

fn segment() -> Segment {
    Segment {
        session: SESSION,
        lease: Digest([0xdd; 32]),
        before: RUN,
        takeovers: Vec::new(),
        run_value: Digest([0xee; 32]),
        node: NODE,
        first: 0,
        end: 1,
        first_position: 0,
        positions: 5,
        input_root: Digest([0x99; 32]),
        layers: vec![LayerRoots { states: Digest([0xaa; 32]), kv: Digest([0xbb; 32]) }],
        chain: Digest([0x77; 32]),
        deadline_unix_ms: 1,
        signature: SIGNATURE,
    }
}

fn tenant() -> Tenant {
    Tenant { label: 0x0102_0304_0506_0708, weight: Weight::new(3).unwrap() }
}

fn failure() -> Failure {
    Failure { stage: Some(1), by: None, reason: Reason::Refused(Refusal::Busy) }
}

fn to_server() -> Vec<ToServer> {
    let target = Target::Layer { layer: 1, first: 0, end: 5, positions: vec![2, 4] };
    let receipt = Digest::ZERO;
    let challenge = Challenge { session: SESSION, run: RUN, receipt, target, signature: SIGNATURE };
    vec![
        ToServer::Cancel(SESSION),
        ToServer::Challenge(Box::new(challenge)),
        ToServer::Heartbeat,
        ToServer::Open { request: Box::new(request()), lease: Box::new(lease()) },
        ToServer::Status,
    ]
}

fn announcement() -> Announcement {
    let (sequence, expires_unix_ms, address) = (0x0102, 0x0304, "a:1".to_owned());
    Announcement { sequence, expires_unix_ms, address, status: status(), signature: SIGNATURE }
}

fn status() -> Status {
    Status {
        version: 1,
        node: NODE,
        manifest: Digest([0x44; 32]),
        first: 10,
        end: 20,
        head: false,
        state: State::Draining,
        sessions: 1,
        sessions_limit: 64,
        queue: 3,
        kv_pages_free: 500,
        speed: Speed { decode_ns: [1, 2, 3], head_ns: [4, 5, 6], prefill_ns: 7 },
        neighbours: vec![Neighbour { node: NodeId([0x66; 32]), rtt_us: 8, bytes_per_s: 9 }],
        adapters: vec![Digest([0x55; 32])],
        tags: vec![Tag::new("eu").unwrap()],
        software: "l 1".to_owned(),
    }
}

fn to_client() -> Vec<ToClient> {
    let finish = Finish::Overflow;
    let head = HeadStatement {
        session: SESSION,
        before: RUN,
        takeovers: Vec::new(),
        tokens: Digest([0x12; 32]),
        finish,
        chain: Digest([0x77; 32]),
        signature: SIGNATURE,
    };
    let opening =
        SignedOpening { challenge: Digest([0x13; 32]), body: vec![1, 2], signature: SIGNATURE };
    let step = Marks { position: 2, count: 1, marks: vec![mark()] };
    vec![
        ToClient::Accepted(SESSION),
        ToClient::ChallengeRefused { challenge: Digest::ZERO, refusal: Refusal::NoRoom },
        ToClient::Failed { session: SESSION, failure: failure() },
        ToClient::Finished { head: Box::new(head), segments: vec![segment()] },
        ToClient::Heartbeat,
        ToClient::Opening(Box::new(opening)),
        ToClient::Overflow { session: SESSION, mark: Box::new(mark()) },
        ToClient::Refused { session: SESSION, refusal: Refusal::Duplicate },
        ToClient::Runs { session: SESSION, runs: vec![RUN], head: RUN },
        ToClient::Status(Box::new(announcement())),
        ToClient::Step { session: SESSION, step },
        ToClient::Token { session: SESSION, index: 4, token: 5, mark: Box::new(mark()) },
        ToClient::Busy { session: SESSION, busy: Busy { refusal: Refusal::Busy, retry_ms: 3200 } },
    ]
}

fn ring() -> Vec<RingFrame> {
    let step = Step { session: SESSION, epoch: 0, position: 2, state: vec![1, 2, 3] };
    vec![
        RingFrame::Abort { session: SESSION, failure: failure() },
        RingFrame::Close { session: SESSION, segments: vec![segment()] },
        RingFrame::Heartbeat,
        RingFrame::Lease { lease: Box::new(lease()), tenant: tenant(), runs: vec![RUN] },
        RingFrame::Marks { session: SESSION, position: 2, trail: vec![mark()] },
        RingFrame::Step(step),
    ]
}

/// Writes a list of fields in hexadecimal, each with a comment, as one byte string.
fn golden(fields: &[(&str, &str)]) -> Vec<u8> {
    let digits: String = fields.iter().map(|(hex, _)| hex.replace(' ', "")).collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn repeat(byte: &str, count: usize) -> String {
    byte.repeat(count)
}

#[test]
fn a_step_has_these_bytes() {
    let session = repeat("11", 32);
    let frame = golden(&[
        ("30000000", "length of what follows: 48"),
        ("01", "tag: step"),
        (&session, "session"),
        ("00000000", "epoch"),
        ("02000000", "position"),
        ("03000000", "bytes of states"),
        ("010203", "states"),
    ]);
    assert_eq!(ring()[5].to_wire().unwrap(), frame);
}

#[test]
fn a_refusal_for_want_of_room_has_these_bytes() {
    let frame = golden(&[
        ("0c", "tag: busy"),
        (&repeat("11", 32), "session"),
        ("03", "all sessions are taken"),
        ("800c0000", "milliseconds until it is worth asking again: 3200"),
    ]);
    assert_eq!(to_client().last().unwrap().to_bytes(), frame);
    for retry_ms in [0, limits::RETRY_MS + 1] {
        let mut other = frame.clone();
        other[34..].copy_from_slice(&retry_ms.to_le_bytes());
        assert!(ToClient::from_body(&other).is_err(), "{retry_ms} ms");
    }
}

#[test]
fn marks_have_these_bytes() {
    let (session, before) = (repeat("11", 32), repeat("77", 32));
    let (input, output, signature) = (repeat("88", 32), repeat("00", 32), repeat("33", 64));
    let mark = [
        ("00000000", "first layer"),
        ("06000000", "layer after the last"),
        ("00000000", "epoch"),
        ("02000000", "position"),
        ("01000000", "count"),
        (&before, "chain before"),
        (&input, "input digest"),
        (&output, "output digest"),
        (&signature, "signature"),
    ];
    let start = [("02", "tag: marks"), (&session, "session"), ("02000000", "position")];
    let count = [("01000000", "marks in the trail")];
    assert_eq!(ring()[4].to_bytes(), golden(&[&start[..], &count, &mark].concat()));
}

#[test]
fn a_lease_has_these_bytes() {
    let (session, manifest) = (repeat("11", 32), repeat("44", 32));
    let (node, signature, run) = (repeat("22", 32), repeat("33", 64), repeat("cc", 32));
    let frame = golden(&[
        ("00", "tag: lease"),
        (&session, "session"),
        ("00000000", "epoch"),
        (&manifest, "manifest"),
        ("00000000", "adapters"),
        ("00", "nothing taken over"),
        (&node, "session key"),
        ("03000000", "tokens of the prompt"),
        ("09000000", "most positions"),
        ("01000000", "stages"),
        (&node, "node of stage 0"),
        ("00000000", "its first layer"),
        ("06000000", "layer after its last"),
        ("01000000", "addresses"),
        ("01000000", "bytes of the address of stage 0"),
        ("61", "address"),
        (&signature, "signature"),
        ("0807060504030201", "label of the client"),
        ("03", "its weight"),
        ("01000000", "runs so far"),
        (&run, "run of stage 0"),
    ]);
    let RingFrame::Lease { lease, tenant, runs } = &ring()[3] else { panic!("a lease") };
    let mut unreachable = lease.clone();
    unreachable.addresses = Vec::new();
    let unreachable = RingFrame::Lease { lease: unreachable, tenant: *tenant, runs: runs.clone() };
    assert!(unreachable.to_bytes().len() < frame.len());
    // One address of a stage is paid for with so many bytes.
    let padded = ring()[3].to_bytes();
    assert_eq!(padded.len(), limits::DIAL_BYTES);
    assert_eq!(padded[..frame.len()], frame);
    assert!(padded[frame.len()..].iter().all(|byte| *byte == 0));
    // Every frame has one encoding: none shorter, none longer, no other padding.
    for change in [-1, 1] {
        let mut other = padded.clone();
        other.resize(padded.len().checked_add_signed(change).unwrap(), 0);
        assert!(RingFrame::from_body(&other).is_err());
    }
    let mut other = padded;
    *other.last_mut().unwrap() = 1;
    assert!(RingFrame::from_body(&other).is_err());
}

#[test]
fn addresses_are_paid_for_by_the_number_that_the_stage_with_the_most_has() {
    let RingFrame::Lease { lease, tenant, runs } = &ring()[3] else { panic!("a lease") };
    let len = |addresses: &[&str]| {
        let addresses = addresses.iter().map(ToString::to_string).collect();
        let lease = Lease { addresses, ..Lease::clone(lease) };
        let frame =
            RingFrame::Lease { lease: Box::new(lease), tenant: *tenant, runs: runs.clone() };
        frame.to_bytes().len()
    };
    let one = limits::DIAL_BYTES;
    assert_eq!(len(&["a:1,b:2"]), 2 * one);
    assert_eq!(len(&["a:1", "b:2,c:3,d:4", ""]), 3 * one);
    assert_eq!(len(&["a,b,c,d,e,f,g,h,i"]), limits::DIALLED_ADDRESSES * one);
    assert!(len(&["", ""]) < one && len(&[]) < one);
}

#[test]
fn no_frame_to_a_server_is_longer_than_its_kind_needs() {
    for (frame, most) in [
        (ToServer::Status, limits::SMALL_FRAME_BYTES),
        (ToServer::Heartbeat, limits::SMALL_FRAME_BYTES),
        (ToServer::Cancel(Digest::ZERO), limits::SMALL_FRAME_BYTES),
    ] {
        let mut body = frame.to_bytes();
        assert_eq!(ToServer::from_body(&body), Ok(frame));
        body.resize(most + 1, 0);
        let too_long = FrameError::TooLong { got: most + 1, limit: most };
        assert_eq!(ToServer::from_body(&body), Err(too_long));
    }
    assert_eq!(ToServer::limit_of(4), limits::CHALLENGE_BYTES);
    assert_eq!(RingFrame::limit_of(5), limits::SMALL_FRAME_BYTES);
}

#[test]
fn aborts_closes_and_heartbeats_have_these_bytes() {
    let session = repeat("11", 32);
    let abort = golden(&[
        ("04", "tag: abort"),
        (&session, "session"),
        ("01", "about a stage"),
        ("01000000", "stage"),
        ("00", "said by the client"),
        ("09", "reason: refused"),
        ("03", "refusal: busy"),
    ]);
    assert_eq!(ring()[0].to_bytes(), abort);
    let (node, input) = (repeat("22", 32), repeat("99", 32));
    let (states, kv) = (repeat("aa", 32), repeat("bb", 32));
    let (chain, signature) = (repeat("77", 32), repeat("33", 64));
    let (lease, before, value) = (repeat("dd", 32), repeat("cc", 32), repeat("ee", 32));
    let close = golden(&[
        ("03", "tag: close"),
        (&session, "session"),
        ("01000000", "segments"),
        (&session, "session"),
        (&lease, "lease"),
        (&before, "run of the stage before"),
        ("00000000", "takeovers before it"),
        (&value, "run value"),
        (&node, "node"),
        ("00000000", "first layer"),
        ("01000000", "layer after the last"),
        ("00000000", "first position"),
        ("05000000", "positions"),
        (&input, "input root"),
        ("01000000", "layers"),
        (&states, "root of states"),
        (&kv, "root of KV rows"),
        (&chain, "chain"),
        ("0100000000000000", "deadline in Unix milliseconds"),
        (&signature, "signature"),
    ]);
    assert_eq!(ring()[1].to_bytes(), close);
    assert_eq!(ring()[2].to_wire().unwrap(), [1, 0, 0, 0, 5]);
}

#[test]
fn a_status_has_these_bytes() {
    let (node, manifest, signature) = (repeat("22", 32), repeat("44", 32), repeat("33", 64));
    let (neighbour, adapter) = (repeat("66", 32), repeat("55", 32));
    let frame = golden(&[
        ("00", "tag: status"),
        ("0201000000000000", "sequence"),
        ("0403000000000000", "when it expires, in Unix milliseconds"),
        ("03000000 613a31", "address"),
        ("0100", "version"),
        (&node, "node"),
        (&manifest, "manifest"),
        ("0a000000", "first layer"),
        ("14000000", "layer after the last"),
        ("00", "no head"),
        ("02", "draining"),
        ("01000000", "sessions"),
        ("40000000", "most sessions"),
        ("03000000", "items waiting"),
        ("f4010000", "free KV pages"),
        ("010000000200000003000000", "ns per layer and decode step of 1, 4, 16 sessions"),
        ("040000000500000006000000", "ns of the head, the same"),
        ("07000000", "ns per layer and position of a prompt"),
        ("01000000", "links"),
        (&neighbour, "node at the other end"),
        ("08000000", "round trip in microseconds"),
        ("0900000000000000", "bytes per second"),
        ("01000000", "adapters"),
        (&adapter, "adapter"),
        ("01000000 02000000 6575", "tags"),
        ("03000000 6c2031", "software"),
        (&signature, "signature"),
    ]);
    assert_eq!(to_client()[9].to_bytes(), frame);
}

#[test]
fn frames_of_the_control_channel_start_with_these_bytes() {
    let tags = |bytes: Vec<Vec<u8>>| bytes.iter().map(|body| body[0]).collect::<Vec<_>>();
    let all = |frames: Vec<ToServer>| frames.iter().map(Canonical::to_bytes).collect();
    assert_eq!(tags(all(to_server())), [2, 4, 3, 1, 0]);
    let all = |frames: Vec<ToClient>| frames.iter().map(Canonical::to_bytes).collect();
    assert_eq!(tags(all(to_client())), [1, 9, 6, 5, 7, 8, 10, 2, 11, 0, 4, 3, 12]);
    let token = to_client()[11].to_bytes();
    let session = repeat("11", 32);
    let start = golden(&[
        ("03", "tag: token"),
        (&session, "session"),
        ("04000000", "index"),
        ("05000000", "token"),
    ]);
    assert_eq!(token[..start.len()], start);
    assert_eq!(token[start.len()..], mark().to_bytes());
    let (one, run) = (("01000000", "runs"), repeat("cc", 32));
    let runs = [("0b", "tag: runs"), (&session, "session"), one, (&run, "run"), (&run, "head's")];
    assert_eq!(to_client()[8].to_bytes(), golden(&runs));
    let overflow = golden(&[("0a", "tag: overflow"), (&session, "session")]);
    assert_eq!(to_client()[6].to_bytes(), [overflow, mark().to_bytes()].concat());
}

fn reads_back<F: Frame + PartialEq + core::fmt::Debug>(frames: Vec<F>) {
    for frame in frames {
        let body = frame.to_bytes();
        assert_eq!(F::from_body(&body).as_ref(), Ok(&frame));
        for end in 0..body.len() {
            assert!(F::from_body(&body[..end]).is_err(), "cut off at {end}: {frame:?}");
        }
        let longer = [body.as_slice(), &[0]].concat();
        assert!(F::from_body(&longer).is_err(), "one byte too many: {frame:?}");
    }
}

#[test]
fn every_frame_reads_back_and_no_part_or_extension_of_it_does() {
    reads_back(to_server());
    reads_back(to_client());
    reads_back(ring());
}

fn holds_the_limit<F: Frame>() {
    let length = u32::try_from(F::LIMIT).unwrap();
    assert_eq!(F::body_len(length.to_le_bytes()), Ok(F::LIMIT));
    let (got, limit) = (F::LIMIT + 1, F::LIMIT);
    assert_eq!(F::body_len((length + 1).to_le_bytes()), Err(FrameError::TooLong { got, limit }));
    assert!(F::body_len([0xff; 4]).is_err());
}

#[test]
fn a_length_above_the_limit_is_refused_before_anything_is_read() {
    holds_the_limit::<ToServer>();
    holds_the_limit::<ToClient>();
    holds_the_limit::<RingFrame>();
    let state = vec![0; limits::RING_BYTES];
    let step = Step { session: SESSION, epoch: 0, position: 0, state };
    assert!(matches!(RingFrame::Step(step).to_wire(), Err(FrameError::TooLong { .. })));
}

fn bodies() -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = to_server().iter().map(Canonical::to_bytes).collect();
    bodies.extend(to_client().iter().map(Canonical::to_bytes));
    bodies.extend(ring().iter().map(Canonical::to_bytes));
    bodies
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn fuzz_frame_any_bytes(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        drive::frame(&body);
    }

    #[test]
    fn fuzz_frame_changed_frames(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let bodies = bodies();
        let mut body = bodies[which.index(bodies.len())].clone();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Some(cut) = cut {
            body.truncate(cut.index(body.len()));
        }
        drive::frame(&body);
    }
}
