//! Peers that send what they must not send: refused, the sender named, nobody else harmed.

mod support;

use lockstep_exact::bytes::Canonical;
use lockstep_proto::client::ClientError;
use lockstep_proto::failure::{Failure, Reason, Refusal};
use lockstep_proto::frame::{Frame, RingFrame, ToClient, ToServer};
use lockstep_proto::limits;
use lockstep_proto::server::Event;
use lockstep_testing::hash_model::HashModel;
use lockstep_testing::numbers::Numbers;
use lockstep_testing::ring::{Meddle, Packet, Point, Ring};
use lockstep_verify::request::{Lease, Request, Reuse};
use lockstep_verify::sign::{Keypair, Signature};
use lockstep_verify::statement::RunId;
use support::{SECOND, ask, ask_long, error_of, nothing_is_left, prompt, receipt_of, ring};

fn server(point: Point) -> Option<usize> {
    match point {
        Point::Client(_) => None,
        Point::Server(server) => Some(server),
    }
}

fn ring_frame(packet: &Packet) -> Option<RingFrame> {
    let (Some(_), Some(_)) = (server(packet.from), server(packet.to)) else {
        return None;
    };
    RingFrame::from_body(&packet.body).ok()
}

/// Lets the `nth` frame of server 1 that `pick` takes become what `forge` makes of it.
fn forge(
    ring: &mut Ring<HashModel>,
    nth: usize,
    pick: impl Fn(&RingFrame) -> bool + 'static,
    forge: impl Fn(RingFrame) -> Vec<Vec<u8>> + 'static,
) {
    let mut seen = 0;
    ring.meddle(move |packet| match ring_frame(packet) {
        Some(frame) if packet.from == Point::Server(1) && pick(&frame) => {
            seen += 1;
            if seen == nth { Meddle::Replace(forge(frame)) } else { Meddle::Pass }
        }
        _ => Meddle::Pass,
    });
}

/// Runs a session through three stages, of which stage 1 is a forger, and gives the failure.
fn failure_with(
    nth: usize,
    pick: impl Fn(&RingFrame) -> bool + 'static,
    forger: impl Fn(RingFrame) -> Vec<Vec<u8>> + 'static,
) -> Failure {
    let mut ring = ring(3);
    forge(&mut ring, nth, pick, forger);
    ask_long(&mut ring, 0, 700, 20);
    assert!(ring.run_to_the_end(2 * limits::PROGRESS_US));
    let error = error_of(&ring, 0);
    nothing_is_left(&mut ring, 0..3);
    match error {
        ClientError::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn is_step(frame: &RingFrame) -> bool {
    matches!(frame, RingFrame::Step(_))
}

fn is_marks(frame: &RingFrame) -> bool {
    matches!(frame, RingFrame::Marks { .. })
}

fn blamed(reason: Reason) -> Failure {
    Failure { stage: Some(1), by: Some(2), reason }
}

#[test]
fn a_frame_that_is_sent_twice_is_refused() {
    let twice = |frame: RingFrame| vec![frame.to_bytes(), frame.to_bytes()];
    for nth in [1, 3, 10] {
        assert_eq!(failure_with(nth, is_step, twice), blamed(Reason::BadFrame));
        assert_eq!(failure_with(nth, is_marks, twice), blamed(Reason::BadFrame));
    }
    let is_lease = |frame: &RingFrame| matches!(frame, RingFrame::Lease { .. });
    assert_eq!(failure_with(1, is_lease, twice), blamed(Reason::BadFrame));
}

#[test]
fn a_close_before_its_time_is_refused() {
    let close = |frame: RingFrame| {
        let session = frame.session().unwrap();
        vec![RingFrame::Close { session, segments: Vec::new() }.to_bytes()]
    };
    assert_eq!(failure_with(1, is_step, close), blamed(Reason::BadFrame));
}

#[test]
fn a_stage_that_signs_more_roots_than_it_has_layers_is_refused_by_the_next() {
    for (stages, next) in [(3, 2), (2, 0)] {
        let mut ring = ring(stages);
        let is_close = |frame: &RingFrame| matches!(frame, RingFrame::Close { .. });
        forge(&mut ring, 1, is_close, |frame| {
            let RingFrame::Close { session, mut segments } = frame else { panic!("{frame:?}") };
            let own = segments.last_mut().unwrap();
            own.layers.resize(lockstep_exact::limits::LAYERS, own.layers[0]);
            *own = own.clone().signed(&Ring::<HashModel>::server_key(1));
            vec![RingFrame::Close { session, segments }.to_bytes()]
        });
        ask(&mut ring, 0, 20, 6);
        assert!(ring.run_to_the_end(2 * limits::PROGRESS_US));
        let failure = Failure { stage: Some(1), by: Some(next), reason: Reason::BadFrame };
        assert_eq!(error_of(&ring, 0), ClientError::Failed(failure));
        nothing_is_left(&mut ring, 0..stages);
    }
}

#[test]
fn a_step_that_skips_another_is_refused() {
    let nothing = |_| Vec::new();
    assert_eq!(failure_with(2, is_step, nothing), blamed(Reason::BadFrame));
    assert_eq!(failure_with(2, is_marks, nothing), blamed(Reason::BadFrame));
}

#[test]
fn states_that_are_cut_off_too_long_or_of_another_epoch_are_refused() {
    type Forger = fn(&mut lockstep_proto::frame::Step);
    let forgers: [Forger; 5] = [
        |step| step.state.truncate(step.state.len() - 1),
        |step| step.state.clear(),
        |step| step.state = step.state.repeat(2),
        |step| step.epoch = 1,
        |step| step.position += 1,
    ];
    for (index, forger) in forgers.into_iter().enumerate() {
        let forge = move |frame: RingFrame| match frame {
            RingFrame::Step(mut step) => {
                forger(&mut step);
                vec![RingFrame::Step(step).to_bytes()]
            }
            other => vec![other.to_bytes()],
        };
        for nth in [1, 8] {
            let failure = failure_with(nth, is_step, forge);
            assert_eq!(failure, blamed(Reason::BadFrame), "forger {index}, step {nth}");
        }
    }
}

#[test]
fn a_state_that_is_not_canonical_is_refused() {
    let forge = |frame: RingFrame| match frame {
        RingFrame::Step(mut step) => {
            *step.state.last_mut().unwrap() = 1;
            vec![RingFrame::Step(step).to_bytes()]
        }
        other => vec![other.to_bytes()],
    };
    assert_eq!(failure_with(4, is_step, forge), blamed(Reason::BadState));
}

#[test]
fn a_state_that_is_not_the_marked_one_is_refused() {
    let forge = |frame: RingFrame| match frame {
        RingFrame::Step(mut step) => {
            step.state[3] ^= 1;
            vec![RingFrame::Step(step).to_bytes()]
        }
        other => vec![other.to_bytes()],
    };
    for nth in [1, 8] {
        assert_eq!(failure_with(nth, is_step, forge), blamed(Reason::BadMark));
    }
}

#[test]
fn marks_that_are_forged_missing_or_not_linked_are_refused() {
    type Forger = fn(&mut Vec<lockstep_verify::statement::Mark>);
    let forgers: [Forger; 6] = [
        |trail| trail.last_mut().unwrap().signature.0[5] ^= 1,
        |trail| trail.last_mut().unwrap().output.0[0] ^= 1,
        |trail| trail.last_mut().unwrap().chain_before.0[0] ^= 1,
        |trail| trail.last_mut().unwrap().count += 1,
        |trail| trail.truncate(1),
        |trail| trail.swap(0, 1),
    ];
    for (index, forger) in forgers.into_iter().enumerate() {
        let forge = move |frame: RingFrame| match frame {
            RingFrame::Marks { session, position, mut trail } => {
                forger(&mut trail);
                vec![RingFrame::Marks { session, position, trail }.to_bytes()]
            }
            other => vec![other.to_bytes()],
        };
        for nth in [1, 8] {
            let failure = failure_with(nth, is_marks, forge);
            assert_eq!(failure, blamed(Reason::BadMark), "forger {index}, marks {nth}");
        }
    }
}

#[test]
fn garbage_closes_the_link_and_ends_its_sessions() {
    type Forger = fn(RingFrame) -> Vec<Vec<u8>>;
    let garbage: [Forger; 4] = [
        |_| vec![Vec::new()],
        |_| vec![vec![0xff; 40]],
        |frame| vec![[frame.to_bytes(), vec![0]].concat()],
        |frame| vec![frame.to_bytes()[..20].to_vec()],
    ];
    for forge in garbage {
        let failure = failure_with(3, is_step, forge);
        assert_eq!(failure.stage.map(|stage| stage == 1 || stage == 2), Some(true));
        assert!(matches!(failure.reason, Reason::BadFrame | Reason::LinkLost));
    }
}

#[test]
fn a_lease_that_does_not_come_round_is_told_within_five_seconds() {
    let is_lease = |frame: &RingFrame| matches!(frame, RingFrame::Lease { .. });
    let failure = failure_with(1, is_lease, |_| Vec::new());
    // Stage 2 answers the first step: it knows no such session. Nobody is named for that.
    assert_eq!(failure.stage, None);
}

#[test]
fn frames_of_strangers_and_in_the_wrong_direction_change_nothing() {
    let mut ring = ring(4);
    let mut route = ring.route();
    // Server 3 has no part in this session; server 2 comes behind server 1.
    route.truncate(3);
    route[2].end = 6;
    let request = ring.request(0, prompt(300), 20);
    let refused = ring.ask(request, route);
    assert!(refused.is_ok());
    assert!(ring.run_to_the_end(SECOND));
    assert_eq!(error_of(&ring, 0).reported(), Some(2), "server 2 does not hold the last layers");

    let request = ask_long(&mut ring, 1, 300, 20);
    let session = request.session();
    assert!(ring.run_until(SECOND, |ring| ring.tokens(1).len() > 3));
    let failure = Failure { stage: Some(0), by: Some(3), reason: Reason::StageSilent };
    let frames = [
        RingFrame::Abort { session, failure },
        RingFrame::Close { session, segments: Vec::new() },
        RingFrame::Marks { session, position: 0, trail: Vec::new() },
        RingFrame::Step(lockstep_proto::frame::Step {
            session,
            epoch: 0,
            position: 303,
            state: vec![0; 65],
        }),
    ];
    // Server 3 is no neighbour of server 1, and server 2 is behind it.
    ring.inject(Point::Server(3), Point::Server(1), frames[0].to_bytes());
    for frame in &frames[1..] {
        ring.inject(Point::Server(3), Point::Server(1), frame.to_bytes());
        ring.inject(Point::Server(2), Point::Server(1), frame.to_bytes());
    }
    let strangers = |event: &&Event| matches!(event, Event::Stranger { .. });
    assert_eq!(ring.events(1).iter().filter(strangers).count(), 7);
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 1, &request);
    nothing_is_left(&mut ring, 0..4);
}

#[test]
fn frames_of_an_unknown_session_are_answered_and_change_nothing() {
    let mut ring = ring(2);
    let request = ask(&mut ring, 0, 300, 20);
    let session = lockstep_exact::Digest([9; 32]);
    let frame = RingFrame::Close { session, segments: Vec::new() };
    ring.inject(Point::Server(0), Point::Server(1), frame.to_bytes());
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 0, &request);
}

/// The lease that a client would sign.
fn lease(ring: &Ring<HashModel>, request: &Request, key: &Keypair) -> Lease {
    let lease = Lease {
        session: request.session(),
        epoch: 0,
        manifest: request.manifest,
        adapters: Vec::new(),
        reuse: None,
        session_key: key.id(),
        prompt_len: request.prompt.len() as u32,
        max_positions: request.prompt.len() as u32 + request.stops.max_tokens,
        route: ring.route(),
        addresses: Vec::new(),
        signature: Signature::NONE,
    };
    lease.signed(key)
}

/// The lease as stage 0 hands it on.
fn lease_frame(lease: &Lease) -> RingFrame {
    RingFrame::Lease {
        lease: Box::new(lease.clone()),
        tenant: support::TENANT,
        runs: vec![RunId(lease.digest())],
    }
}

#[test]
fn a_neighbour_that_gives_a_client_no_weight_or_too_much_is_closed() {
    let most = limits::CLIENT_WEIGHT_MOST;
    for weight in [most, 0, most + 1, u8::MAX] {
        let mut ring = ring(2);
        let request = ring.request(0, prompt(20), 6);
        let key = Ring::<HashModel>::client_key(0);
        let mut bytes = lease_frame(&lease(&ring, &request, &key)).to_bytes();
        // The tenant stands before the one run, its weight behind its label.
        let tenant = support::TENANT.to_bytes();
        let before_runs = [&tenant[..], &1_u32.to_le_bytes()].concat();
        let at = bytes.windows(before_runs.len()).rposition(|part| part == before_runs);
        bytes[at.unwrap() + tenant.len() - 1] = weight;
        ring.inject(Point::Server(0), Point::Server(1), bytes);
        let is_taken = weight == most;
        assert_eq!(ring.server(1).unwrap().sessions(), usize::from(is_taken), "weight {weight}");
        let closed = [(Ring::<HashModel>::server_key(0).id(), Reason::BadFrame)];
        assert_eq!(ring.closed(1), &closed[usize::from(is_taken)..], "weight {weight}");
    }
}

/// The beginning of another session.
const REUSE: Reuse = Reuse { session: lockstep_exact::Digest([1; 32]), length: 3 };

#[test]
fn a_stage_refuses_by_name_what_a_lease_asks_for_and_it_does_not_do() {
    use std::cell::Cell;
    use std::rc::Rc;
    type Change = fn(&mut Lease);
    let cases: [(Change, Refusal); 3] = [
        (
            |lease| lease.adapters.push(lockstep_exact::Digest([1; 32])),
            Refusal::AdaptersUnsupported,
        ),
        (|lease| lease.reuse = Some(REUSE), Refusal::ReuseUnsupported),
        (|lease| lease.epoch = 1, Refusal::TakeoverUnsupported),
    ];
    for (change, expected) in cases {
        let mut ring = ring(2);
        let request = ring.request(0, prompt(20), 5);
        let key = Ring::<HashModel>::client_key(0);
        let mut lease = lease(&ring, &request, &key);
        change(&mut lease);
        let lease = lease.signed(&key);
        let told = Rc::new(Cell::new(None));
        let heard = Rc::clone(&told);
        ring.meddle(move |packet| {
            if let Ok(RingFrame::Abort { failure, .. }) = RingFrame::from_body(&packet.body) {
                heard.set(Some(failure));
            }
            Meddle::Pass
        });
        ring.inject(Point::Server(0), Point::Server(1), lease_frame(&lease).to_bytes());
        ring.run_for(1_000);
        let reason = Reason::Refused(expected);
        assert_eq!(told.get(), Some(Failure { stage: Some(1), by: Some(1), reason }));
        assert_eq!(ring.server(1).unwrap().sessions(), 0);
    }
}

/// What stage 0 answers to an open frame.
fn refusal_of(request: Request, forge: impl FnOnce(&mut Lease, &Keypair)) -> Option<Refusal> {
    use std::cell::Cell;
    use std::rc::Rc;
    let mut ring = ring(2);
    // A client that has ended: only its link is used.
    ask(&mut ring, 0, 3, 1);
    assert!(ring.run_to_the_end(SECOND));
    let key = Ring::<HashModel>::client_key(0);
    let mut lease = lease(&ring, &request, &key);
    forge(&mut lease, &key);
    let answer = Rc::new(Cell::new(None));
    let heard = Rc::clone(&answer);
    ring.meddle(move |packet| {
        if let Ok(ToClient::Refused { refusal, .. }) = ToClient::from_body(&packet.body) {
            heard.set(Some(refusal));
        }
        Meddle::Pass
    });
    let open = ToServer::Open { request: Box::new(request), lease: Box::new(lease) };
    ring.inject(Point::Client(0), Point::Server(0), open.to_bytes());
    ring.run_for(1_000);
    answer.get()
}

#[test]
fn an_open_frame_is_refused_for_each_thing_that_can_be_wrong_with_it() {
    let ring = ring(2);
    let good = || {
        let mut request = ring.request(0, prompt(20), 5);
        request.nonce = [5; 32];
        request
    };
    let with = |change: fn(&mut Request)| {
        let mut request = good();
        change(&mut request);
        refusal_of(request, |_, _| {})
    };
    let leased = |forge: fn(&mut Lease)| {
        refusal_of(good(), |lease, key| {
            forge(lease);
            *lease = lease.clone().signed(key);
        })
    };
    assert_eq!(with(|_| {}), None);
    let digest = lockstep_exact::Digest([1; 32]);
    assert_eq!(
        with(|r| r.adapters.push(lockstep_exact::Digest::ZERO)),
        Some(Refusal::AdaptersUnsupported)
    );
    assert_eq!(with(|r| r.prompt.clear()), Some(Refusal::PromptLength));
    assert_eq!(with(|r| r.prompt = vec![1; 2048]), Some(Refusal::PromptLength));
    assert_eq!(with(|r| r.prompt[3] = 97), Some(Refusal::BadParameter));
    assert_eq!(with(|r| r.stops.max_tokens = 0), Some(Refusal::BadParameter));
    assert_eq!(with(|r| r.sampling.top_p = 2.0), Some(Refusal::BadParameter));
    assert_eq!(leased(|l| l.manifest = lockstep_exact::Digest::ZERO), Some(Refusal::LeaseMismatch));
    assert_eq!(with(|r| r.manifest = lockstep_exact::Digest::ZERO), Some(Refusal::WrongModel));
    assert_eq!(
        leased(|l| l.session = lockstep_exact::Digest([1; 32])),
        Some(Refusal::LeaseMismatch)
    );
    assert_eq!(leased(|l| l.prompt_len += 1), Some(Refusal::LeaseMismatch));
    let adapter = |l: &mut Lease| l.adapters.push(lockstep_exact::Digest([1; 32]));
    assert_eq!(leased(adapter), Some(Refusal::LeaseMismatch));
    assert_eq!(leased(|l| l.reuse = Some(REUSE)), Some(Refusal::ReuseUnsupported));
    assert_eq!(leased(|l| l.epoch = 1), Some(Refusal::TakeoverUnsupported));
    assert_eq!(leased(|l| l.max_positions = 21), Some(Refusal::LeaseMismatch));
    assert_eq!(leased(|l| l.max_positions = 2049), Some(Refusal::PromptLength));
    assert_eq!(leased(|l| l.route[1].first = 4), Some(Refusal::RouteInvalid));
    assert_eq!(leased(|l| l.route[1].end = 7), Some(Refusal::RouteInvalid));
    assert_eq!(leased(|l| l.route.truncate(1)), Some(Refusal::RouteInvalid));
    assert_eq!(leased(|l| l.route[1].node = l.route[0].node), Some(Refusal::RouteInvalid));
    assert_eq!(leased(|l| l.addresses.push(String::new())), Some(Refusal::RouteInvalid));
    assert_eq!(leased(|l| (l.route[0].end, l.route[1].first) = (4, 4)), Some(Refusal::SpanNotHeld));
    assert_eq!(
        leased(|l| (l.route[0].node, l.route[1].node) = (l.route[1].node, l.route[0].node)),
        Some(Refusal::SpanNotHeld)
    );
    let other = Keypair::from_secret(&digest.0);
    let forged = refusal_of(good(), |lease, _| *lease = lease.clone().signed(&other));
    assert_eq!(forged, Some(Refusal::LeaseMismatch), "the lease names another session key");
    let forged = refusal_of(good(), |lease, _| lease.signature.0[9] ^= 1);
    assert_eq!(forged, Some(Refusal::BadSignature));
}

#[test]
fn a_session_that_is_known_cannot_be_opened_again() {
    let mut ring = ring(2);
    let request = ask_long(&mut ring, 0, 20, 30);
    let lease = lease(&ring, &request, &Ring::<HashModel>::client_key(0));
    let open =
        ToServer::Open { request: Box::new(request.clone()), lease: Box::new(lease.clone()) };
    ring.run_for(10_000);
    // By another client's link, while it runs; and to a stage, by a stage that is not before it.
    ask_long(&mut ring, 1, 5, 2_000);
    ring.inject(Point::Client(1), Point::Server(0), open.to_bytes());
    ring.inject(Point::Server(1), Point::Server(0), lease_frame(&lease).to_bytes());
    assert!(ring.run_until(10 * SECOND, |ring| ring.outcome(0).is_some()));
    let failed = error_or_receipt(&ring, 0);
    assert_eq!(
        failed,
        "stage 0 reports: stage 1: sent a frame that does not belong there (says stage 0)"
    );
    // Ended or retained, its name stays taken.
    ring.inject(Point::Client(1), Point::Server(0), open.to_bytes());
    assert_eq!(ring.server(0).unwrap().sessions(), 1);
    ring.cancel(1);
    nothing_is_left(&mut ring, 0..2);
}

fn error_or_receipt(ring: &Ring<HashModel>, client: usize) -> String {
    match ring.outcome(client) {
        Some(Err(error)) => error.to_string(),
        Some(Ok(_)) => "a receipt".to_owned(),
        None => "nothing".to_owned(),
    }
}

#[test]
fn a_stage_refuses_a_lease_that_is_forged_or_comes_from_elsewhere() {
    let mut ring = ring(3);
    let request = ring.request(0, prompt(20), 5);
    let key = Ring::<HashModel>::client_key(0);
    let good = lease(&ring, &request, &key);
    let mut forged = good.clone();
    forged.signature.0[0] ^= 1;
    let mut longer = good.clone();
    longer.max_positions += 1;
    for (from, lease) in [(0, forged), (0, longer), (2, good.clone()), (0, good)] {
        let is_good = from == 0 && lease.verify().is_ok();
        let frame = lease_frame(&lease);
        ring.inject(Point::Server(from), Point::Server(1), frame.to_bytes());
        assert_eq!(ring.server(1).unwrap().sessions(), usize::from(is_good));
    }
    // Server 0 knows no such session, so it ends.
    ring.run_for(10 * SECOND);
    nothing_is_left(&mut ring, 0..3);
}

/// The number of frames from server 0 to the client in an undisturbed run.
fn frames_to_client(ring: &mut Ring<HashModel>) -> usize {
    use std::cell::Cell;
    use std::rc::Rc;
    let count = Rc::new(Cell::new(0));
    let counter = Rc::clone(&count);
    ring.meddle(move |packet| {
        counter.set(counter.get() + usize::from(matches!(packet.to, Point::Client(_))));
        Meddle::Pass
    });
    ask(ring, 0, 200, 4);
    assert!(ring.run_to_the_end(SECOND));
    count.get()
}

#[test]
fn one_flipped_bit_on_the_way_to_the_client_never_gives_an_answer() {
    let frames = frames_to_client(&mut ring(2));
    assert!(frames > 8);
    let mut numbers = Numbers::new(3);
    for frame in 0..frames {
        for _ in 0..12 {
            let (byte, bit) = (numbers.next_u64(), numbers.below(8));
            let mut ring = ring(2);
            let mut seen = 0;
            ring.meddle(move |packet| {
                if !matches!(packet.to, Point::Client(_)) {
                    return Meddle::Pass;
                }
                seen += 1;
                if seen != frame + 1 {
                    return Meddle::Pass;
                }
                let mut body = packet.body.clone();
                let at = (byte % body.len() as u64) as usize;
                body[at] ^= 1 << bit;
                Meddle::Replace(vec![body])
            });
            ask(&mut ring, 0, 200, 4);
            assert!(ring.run_to_the_end(2 * limits::CLIENT_PROGRESS_US));
            let error = error_of(&ring, 0);
            assert!(matches!(error.stage(), None | Some(0)), "{frame}, {byte}, {bit}: {error}");
            nothing_is_left(&mut ring, 0..2);
        }
    }
}

#[test]
fn one_flipped_bit_on_the_ring_never_gives_another_answer_and_blames_no_bystander() {
    let mut numbers = Numbers::new(4);
    let (mut failed, mut went_on) = (0, 0);
    for run in 0..400 {
        let (nth, byte, bit) = (numbers.below(24), numbers.next_u64(), numbers.below(8));
        let mut ring = ring(4);
        let mut seen = 0;
        ring.meddle(move |packet| {
            if packet.from != Point::Server(1) || server(packet.to).is_none() {
                return Meddle::Pass;
            }
            seen += 1;
            if seen != nth + 1 {
                return Meddle::Pass;
            }
            let mut body = packet.body.clone();
            let at = (byte % body.len() as u64) as usize;
            body[at] ^= 1 << bit;
            Meddle::Replace(vec![body])
        });
        let request = ask_long(&mut ring, 0, 300, 6);
        assert!(ring.run_to_the_end(2 * limits::PROGRESS_US));
        if let Some(Ok(_)) = ring.outcome(0) {
            receipt_of(&ring, 0, &request);
            went_on += 1;
        } else {
            let error = error_of(&ring, 0);
            // Server 1's frames go to servers 0 and 2: those two ends of a bad link may be named.
            assert!(matches!(error.stage(), None | Some(0)), "run {run}: {error}");
            assert_ne!(error.reported(), Some(3), "run {run}: {error}");
            failed += 1;
        }
        nothing_is_left(&mut ring, 0..4);
    }
    assert!(failed > 200, "{failed} failed, {went_on} went on");
}

#[test]
fn a_client_that_sends_garbage_loses_its_sessions_only() {
    let mut ring = ring(2);
    ask_long(&mut ring, 0, 20, 100);
    let other = ask(&mut ring, 1, 20, 10);
    ring.run_for(5_000);
    ring.inject(Point::Client(0), Point::Server(0), vec![77]);
    assert!(ring.run_to_the_end(10 * SECOND));
    assert_eq!(error_of(&ring, 0).stage(), None);
    receipt_of(&ring, 1, &other);
    nothing_is_left(&mut ring, 0..2);
}

#[test]
fn a_client_cannot_cancel_another_clients_session() {
    let mut ring = ring(2);
    let request = ask(&mut ring, 0, 20, 30);
    ask(&mut ring, 1, 20, 30);
    ring.run_for(5_000);
    let cancel = ToServer::Cancel(request.session());
    ring.inject(Point::Client(1), Point::Server(0), cancel.to_bytes());
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 0, &request);
}
