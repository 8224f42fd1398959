//! One peer against everybody else: what it may take of a server, and that the rest stays usable.

mod support;

use std::sync::Arc;

use lockstep_exact::bytes::Canonical;
use lockstep_proto::failure::{Reason, Refusal};
use lockstep_proto::frame::{Frame, RingFrame, ToClient, ToServer};
use lockstep_proto::limits;
use lockstep_proto::server::{Capacity, Event};
use lockstep_testing::hash_model::{HashModel, LAYERS, model, vocabulary};
use lockstep_testing::ring::{Meddle, Point, Ring};
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::price::{LayerPrice, Prices};
use lockstep_verify::request::Lease;
use lockstep_verify::sign::Signature;
use lockstep_verify::statement::RunId;
use support::{
    SECOND, ask, error_of, nothing_is_left, prompt, receipt_of, refusal_of, ring, ring_with,
};

/// Clients 1 and later connect under one node id.
fn one_peer(ring: &mut Ring<HashModel>, clients: core::ops::RangeInclusive<usize>) {
    let first = *clients.start();
    clients.for_each(|client| ring.connect_as(client, first));
}

#[test]
fn many_short_sessions_of_one_peer_push_nobody_out_and_shut_nobody_out() {
    let capacity = Capacity { retained: 64, ..Capacity::default() };
    let mut ring = ring_with(1, 2, capacity);
    let victim = ask(&mut ring, 0, 20, 6);
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 0, &victim);
    one_peer(&mut ring, 1..=64);
    let mut refused = 0;
    for client in 1..=64 {
        ask(&mut ring, client, 3, 1);
        assert!(ring.run_to_the_end(10 * SECOND));
        match ring.outcome(client).unwrap() {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(refusal_of(error), Some(Refusal::PeerShare));
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 64 - 15, "a quarter of what the victim leaves is the peer's");
    let last = ask(&mut ring, 65, 20, 6);
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 65, &last);
    ring.challenge(
        0,
        (0..LAYERS)
            .map(|layer| Target::Layer { layer, first: 0, end: 4, positions: vec![3] })
            .collect(),
    );
    assert!(ring.run_until(SECOND, |ring| ring.exchanges(0).is_some()));
    assert!(ring.exchanges(0).unwrap().iter().all(|exchange| exchange.answer.is_ok()));
    nothing_is_left(&mut ring, 0..2);
}

#[test]
fn one_peer_takes_a_quarter_of_the_places_and_pages_at_most() {
    for capacity in [
        Capacity { sessions: 8, ..Capacity::default() },
        // Six pages for each session: one for each layer.
        Capacity { kv_pages: 48, ..Capacity::default() },
    ] {
        let mut ring = ring_with(1, 1, capacity);
        ring.weather.item_us = SECOND;
        one_peer(&mut ring, 1..=8);
        (0..9).for_each(|client| drop(ask(&mut ring, client, 5, 3)));
        ring.run_for(SECOND / 2);
        let refused = |client: usize| matches!(ring.outcome(client), Some(Err(_)));
        assert!((0..2).all(|client| !refused(client)), "one and a quarter of seven");
        for client in 2..9 {
            assert_eq!(refusal_of(&error_of(&ring, client)), Some(Refusal::PeerShare));
        }
        assert_eq!(ring.server(0).unwrap().sessions(), 2);
    }
}

/// A lease of a session whose stage 0 is server 0 of the ring and whose next stage is server 1.
fn lease(ring: &Ring<HashModel>, number: usize) -> Lease {
    let request = ring.request(1000 + number, prompt(9), 2000);
    let key = Ring::<HashModel>::client_key(1000 + number);
    let lease = Lease {
        session: request.session(),
        epoch: 0,
        manifest: request.manifest,
        adapters: Vec::new(),
        reuse: None,
        session_key: key.id(),
        prompt_len: 9,
        max_positions: 2000,
        route: ring.route(),
        addresses: Vec::new(),
        signature: Signature::NONE,
    };
    lease.signed(&key)
}

/// A lease as stage 0 hands it on.
fn lease_frame(lease: Lease) -> RingFrame {
    let runs = vec![RunId(lease.digest())];
    RingFrame::Lease { lease: Box::new(lease), tenant: support::TENANT, runs }
}

#[test]
fn leases_that_never_begin_end_in_seconds_and_leave_places_for_others() {
    let mut ring = ring(2);
    let here = Point::Server(1);
    // Stage 0 is the attacker: it makes nothing of what comes round.
    ring.meddle(|packet| match packet.from {
        Point::Server(1) if packet.to == Point::Server(0) => Meddle::Replace(Vec::new()),
        _ => Meddle::Pass,
    });
    for number in 0..2 * limits::SESSIONS {
        let frame = lease_frame(lease(&ring, number));
        ring.inject(Point::Server(0), here, frame.to_bytes());
    }
    let held = ring.server(1).unwrap().sessions();
    assert!(held <= limits::SESSIONS / 4, "{held} of {}", limits::SESSIONS);
    // Heartbeats keep the link alive.
    let end = ring.now().after(limits::FIRST_STEP_US);
    while ring.now() < end {
        ring.inject(Point::Server(0), here, RingFrame::Heartbeat.to_bytes());
        ring.run_for(limits::HEARTBEAT_US);
    }
    ring.run_for(SECOND);
    assert_eq!(ring.server(1).unwrap().sessions(), 0);
    let idle = ring.events(1).iter().filter(
        |event| matches!(event, Event::Ended { failure, .. } if failure.reason == Reason::Idle),
    );
    assert_eq!(idle.count(), held);
    ring.meddle(|_| Meddle::Pass);
    let request = ask(&mut ring, 0, 20, 6);
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 0, &request);
    nothing_is_left(&mut ring, 0..2);
}

#[test]
fn a_stage_before_takes_half_at_most() {
    let mut ring = ring_with(1, 2, Capacity { sessions: 16, ..Capacity::default() });
    for number in 0..16 {
        let frame = lease_frame(lease(&ring, number));
        ring.inject(Point::Server(0), Point::Server(1), frame.to_bytes());
    }
    assert_eq!(ring.server(1).unwrap().sessions(), 4, "half of eight half-open ones");
}

#[test]
fn a_client_that_asks_nothing_loses_its_place_however_many_heartbeats_it_sends() {
    let mut ring = ring(1);
    let request = ask(&mut ring, 0, 5, 3);
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 0, &request);
    let closed = std::rc::Rc::new(std::cell::Cell::new(0));
    let heartbeat = ToServer::Heartbeat.to_bytes();
    for _ in 0..2 * limits::GUEST_US / SECOND {
        ring.inject(Point::Client(0), Point::Server(0), heartbeat.clone());
        let status = ToServer::Status.to_bytes();
        ring.inject(Point::Client(0), Point::Server(0), status);
        ring.run_for(SECOND);
        closed.set(ring.hung_up(0).len());
        if closed.get() > 0 {
            break;
        }
    }
    assert_eq!(closed.get(), 1);
    // One whose session runs is left alone for as long as it runs.
    let mut ring = support::ring(1);
    ring.weather.item_us = SECOND;
    let long = support::ask_long(&mut ring, 0, 5, 100);
    assert!(ring.run_to_the_end(400 * SECOND));
    receipt_of(&ring, 0, &long);
    assert_eq!(ring.hung_up(0), []);
}

#[test]
fn one_peers_challenges_wait_within_its_share_whatever_sessions_they_are_about() {
    let mut ring = ring(1);
    one_peer(&mut ring, 1..=6);
    let requests: Vec<_> = (0..7).map(|client| ask(&mut ring, client, 10, 3)).collect();
    assert!(ring.run_to_the_end(10 * SECOND));
    ring.weather.item_us = SECOND;
    let pose = |ring: &mut Ring<HashModel>, client: usize, position| {
        let receipt = ring.outcome(client).unwrap().as_ref().unwrap();
        let (run, receipt) = (receipt.segments[0].run().id(), receipt.digest());
        let end = position + 1;
        let target = Target::Layer { layer: 0, first: 0, end, positions: vec![position] };
        let session = requests[client].session();
        let challenge = Challenge { session, run, receipt, target, signature: Signature::NONE };
        let challenge = challenge.signed(&Ring::<HashModel>::client_key(client));
        let frame = ToServer::Challenge(Box::new(challenge)).to_bytes();
        ring.inject(Point::Client(client), Point::Server(0), frame);
    };
    let refused = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let heard = std::rc::Rc::clone(&refused);
    ring.meddle(move |packet| {
        if let Ok(ToClient::ChallengeRefused { refusal, .. }) = ToClient::from_body(&packet.body) {
            heard.borrow_mut().push((packet.to, refusal));
        }
        Meddle::Pass
    });
    for client in 1..=6 {
        (0..6).for_each(|position| pose(&mut ring, client, position));
    }
    pose(&mut ring, 0, 1);
    ring.run_for(1_000);
    let too_many = 36 - limits::CHALLENGES_WAITING_OF_PEER;
    assert_eq!(refused.borrow().len(), too_many);
    let of_others = |(to, refusal): &(Point, Refusal)| {
        *to == Point::Client(6) && *refusal == Refusal::TooManyWaiting
    };
    assert!(refused.borrow().iter().all(of_others), "{refused:?}");
}

#[test]
fn a_peer_with_more_audits_under_way_than_may_wait_gets_all_of_its_openings() {
    let mut ring = ring(1);
    let clients = 1..=20;
    assert!(
        clients.clone().count() * limits::CHALLENGES_ASKED > limits::CHALLENGES_WAITING_OF_PEER
    );
    one_peer(&mut ring, clients.clone());
    for client in 0..=20 {
        ask(&mut ring, client, 10, 3);
        assert!(ring.run_to_the_end(10 * SECOND));
    }
    let refused = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = std::rc::Rc::clone(&refused);
    ring.meddle(move |packet| {
        if let Ok(ToClient::ChallengeRefused { refusal, .. }) = ToClient::from_body(&packet.body) {
            assert_eq!(refusal, Refusal::TooManyWaiting);
            count.set(count.get() + 1);
        }
        Meddle::Pass
    });
    ring.weather.item_us = SECOND / 4;
    let layer = |layer| Target::Layer { layer, first: 0, end: 2, positions: vec![1] };
    for client in clients.clone() {
        ring.challenge(client, (0..LAYERS).map(layer).collect());
    }
    let is_done = |ring: &Ring<HashModel>| clients.clone().all(|at| ring.exchanges(at).is_some());
    assert!(ring.run_until(limits::RETENTION_US / 2, is_done));
    assert!(refused.get() > 0, "more were posed than may wait");
    for exchange in clients.clone().flat_map(|client| ring.exchanges(client).unwrap()) {
        assert!(exchange.answer.is_ok() && !exchange.is_withheld, "{exchange:?}");
    }
}

#[test]
fn a_long_session_takes_the_challenges_of_four_full_audits_and_no_more() {
    // A cell and its KV row fill more than half a part: every cell is a challenge.
    let mut model = model();
    let layers = vec![LayerPrice { cell: 600_000, kv_row: 16 }; LAYERS as usize];
    model.prices = Arc::new(Prices { layers, ..(*model.prices).clone() });
    let capacity = Capacity::default();
    let mut ring =
        Ring::new(1, (model, vocabulary()), &[LAYERS], capacity, |_| HashModel::default());
    ring.weather.item_us = 10;
    let request = ask(&mut ring, 0, 200, 2);
    assert!(ring.run_to_the_end(10 * SECOND));
    let positions = 200 + receipt_of(&ring, 0, &request).answer.len() as u32 - 1;
    let cell = |layer, position| Target::Layer {
        layer,
        first: position,
        end: position + 1,
        positions: vec![position],
    };
    let all: Vec<Target> =
        (0..LAYERS).flat_map(|layer| (0..positions).map(move |at| cell(layer, at))).collect();
    let mut posed = 0;
    for _ in 0..limits::AUDITS_PER_SESSION {
        posed += all.len() as u64;
        ring.challenge(0, all.clone());
        assert!(ring.run_until(60 * SECOND, |ring| ring.exchanges(0).is_some()));
        assert!(ring.exchanges(0).unwrap().iter().all(|exchange| exchange.answer.is_ok()));
    }
    assert!(posed > limits::CHALLENGES_PER_SESSION, "{posed}");
    // The head's cells have a challenge each time, too.
    ring.challenge(0, all[..8].to_vec());
    assert!(ring.run_until(60 * SECOND, |ring| ring.exchanges(0).is_some()));
    let answers: Vec<_> = ring.exchanges(0).unwrap().iter().map(|it| it.answer.is_ok()).collect();
    assert_eq!(answers, [true, true, true, true, false, false, false, false]);
}

#[test]
fn a_full_audit_fits_the_budget_and_a_flood_of_openings_ends() {
    let mut ring = ring(1);
    let request = ask(&mut ring, 0, 600, 5);
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 0, &request);
    let all: Vec<u32> = (0..600).collect();
    let layers = |times: usize| -> Vec<Target> {
        let one = |layer| Target::Layer { layer, first: 0, end: 600, positions: all.clone() };
        (0..times).flat_map(|_| (0..LAYERS).map(one)).collect()
    };
    ring.challenge(0, layers(4));
    assert!(ring.run_until(60 * SECOND, |ring| ring.exchanges(0).is_some()));
    assert!(ring.exchanges(0).unwrap().iter().all(|exchange| exchange.answer.is_ok()));
    // Beyond the floor of 64 MiB at 0.6 MB each nothing is opened any more.
    ring.challenge(0, layers(20));
    assert!(ring.run_until(60 * SECOND, |ring| ring.exchanges(0).is_some()));
    let last = ring.exchanges(0).unwrap().last().unwrap();
    let limit = lockstep_proto::client::NoAnswer::Refused(Refusal::ChallengeLimit);
    assert_eq!(last.answer, Err(limit));
}
