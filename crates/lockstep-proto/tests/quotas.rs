//! One peer against everybody else: what it may take of a server, and that the rest stays usable.

mod support;

use std::sync::Arc;

use lockstep_exact::bytes::Canonical;
use lockstep_proto::failure::{Reason, Refusal};
use lockstep_proto::frame::{Frame, RingFrame, Tenant, ToClient, ToServer};
use lockstep_proto::limits;
use lockstep_proto::server::{Capacity, Event};
use lockstep_testing::hash_model::{HashModel, LAYERS, model, vocabulary};
use lockstep_testing::ring::{Meddle, Point, Ring};
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::price::{LayerPrice, Prices};
use lockstep_verify::request::{Hop, Lease};
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
    lease_of(ring, number, ring.route())
}

/// A lease of a session of the whole context.
fn lease_of(ring: &Ring<HashModel>, number: usize, route: Vec<Hop>) -> Lease {
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
        route,
        addresses: Vec::new(),
        signature: Signature::NONE,
    };
    lease.signed(&key)
}

/// A lease as stage 0 hands it on, for a client that it tells by this label.
fn lease_frame(lease: Lease, label: u64) -> RingFrame {
    let runs = vec![RunId(lease.digest())];
    let tenant = Tenant { label, ..support::TENANT };
    RingFrame::Lease { lease: Box::new(lease), tenant, runs }
}

/// Lets server 0 do nothing but keep its link to another stage alive.
fn run_with_heartbeats(ring: &mut Ring<HashModel>, to: Point, us: u64) {
    let end = ring.now().after(us);
    while ring.now() < end {
        ring.inject(Point::Server(0), to, RingFrame::Heartbeat.to_bytes());
        ring.run_for(limits::HEARTBEAT_US);
    }
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
    let places = limits::BROUGHT_PER_PLACE * limits::SESSIONS;
    for number in 0..places {
        let frame = lease_frame(lease(&ring, number), number as u64);
        ring.inject(Point::Server(0), here, frame.to_bytes());
    }
    let held = ring.server(1).unwrap().sessions();
    assert_eq!(held, places / 2 * 3 / 4, "of {places}");
    run_with_heartbeats(&mut ring, here, limits::FIRST_STEP_US);
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
fn a_stage_before_takes_all_but_a_quarter_and_one_client_of_it_a_quarter() {
    for (is_one_client, most) in [(true, 2), (false, 6)] {
        let mut ring = ring_with(1, 2, Capacity { sessions: 4, ..Capacity::default() });
        for number in 0..16 {
            let label = if is_one_client { 0 } else { number as u64 };
            let frame = lease_frame(lease(&ring, number), label);
            ring.inject(Point::Server(0), Point::Server(1), frame.to_bytes());
        }
        assert_eq!(ring.server(1).unwrap().sessions(), most, "of eight half-open ones");
    }
}

#[test]
fn all_sessions_of_a_full_server_1_find_their_places_at_every_stage_behind_it() {
    let mut ring = ring(3);
    ring.weather.item_us = 20_000;
    let ask_all = |ring: &mut Ring<HashModel>| -> Vec<_> {
        (0..limits::SESSIONS).map(|client| ask(ring, client, 5, 3)).collect()
    };
    let requests = ask_all(&mut ring);
    let is_full = |ring: &Ring<HashModel>| {
        (0..3).all(|server| ring.server(server).unwrap().sessions() == limits::SESSIONS)
    };
    assert!(ring.run_until(10 * SECOND, is_full), "all of them at once");
    assert!(ring.run_to_the_end(100 * SECOND));
    for (client, request) in requests.iter().enumerate() {
        receipt_of(&ring, client, request);
    }
    nothing_is_left(&mut ring, 0..3);
}

/// Two servers 1 of two layers, and one stage behind both with this capacity.
fn two_before_one(capacity: Capacity) -> Ring<HashModel> {
    let before = (0..2, Capacity::default());
    let spans = vec![before.clone(), before, (2..LAYERS, capacity)];
    Ring::of_spans(1, (model(), vocabulary()), spans, |_| HashModel::default())
}

#[test]
fn a_hostile_stage_before_keeps_nobody_out_who_comes_over_another() {
    // A session of the whole context takes 32 pages, one of the others 4.
    let mut ring = two_before_one(Capacity { kv_pages: 128, ..Capacity::default() });
    let hops = ring.route();
    ring.meddle(|packet| match (packet.from, packet.to) {
        (Point::Server(2), Point::Server(0)) => Meddle::Replace(Vec::new()),
        _ => Meddle::Pass,
    });
    let attack = |ring: &mut Ring<HashModel>, first: usize| {
        for number in first..first + 8 {
            let route = vec![hops[0], hops[2]];
            let lease = lease_of(ring, number, route);
            let frame = lease_frame(lease, number as u64).to_bytes();
            ring.inject(Point::Server(0), Point::Server(2), frame);
        }
    };
    attack(&mut ring, 0);
    assert_eq!(ring.server(2).unwrap().sessions(), 3, "three quarters of the pages");
    ring.weather.item_us = 2 * SECOND;
    let asked = (0..7).map(|client| {
        let mut request = ring.request(client, prompt(5), 8);
        request.stops.ignore_end = true;
        assert_eq!(ring.ask(request.clone(), vec![hops[1], hops[2]]), Ok(client));
        request
    });
    let asked: Vec<_> = asked.collect();
    run_with_heartbeats(&mut ring, Point::Server(2), SECOND);
    assert_eq!(refusal_of(&error_of(&ring, 6)), Some(Refusal::PeerShare));
    assert_eq!(ring.server(2).unwrap().sessions(), 3 + 6, "three quarters of what is left");
    // Once the attacker's sessions have ended, it gets less than it had, as long as others ask.
    while ring.server(2).unwrap().status().kv_pages_free < 128 - 6 * 4 {
        run_with_heartbeats(&mut ring, Point::Server(2), SECOND);
    }
    assert_eq!(ring.server(2).unwrap().sessions(), 6);
    attack(&mut ring, 8);
    assert_eq!(ring.server(2).unwrap().sessions(), 2 + 6);
    ring.weather.item_us = 10_000;
    assert!(ring.run_until(60 * SECOND, |ring| (0..6).all(|one| ring.outcome(one).is_some())));
    (0..6).for_each(|client| drop(receipt_of(&ring, client, &asked[client])));
}

#[test]
fn a_client_that_fills_its_share_of_server_1_does_not_fill_a_smaller_stage_behind_it() {
    // A session takes 4 pages there: a quarter of what client 0 leaves is 3 sessions.
    let mut ring = two_before_one(Capacity { kv_pages: 64, ..Capacity::default() });
    ring.weather.item_us = SECOND / 2;
    let hops = ring.route();
    one_peer(&mut ring, 1..=8);
    for client in 0..12 {
        let request = ring.request(client, prompt(5), 3);
        assert_eq!(ring.ask(request, vec![hops[0], hops[2]]), Ok(client));
    }
    ring.run_for(SECOND / 4);
    let refused = |client: usize| matches!(ring.outcome(client), Some(Err(_)));
    let greedy: Vec<usize> = (1..=8).filter(|client| refused(*client)).collect();
    assert_eq!(greedy, [4, 5, 6, 7, 8]);
    for client in greedy {
        assert_eq!(refusal_of(&error_of(&ring, client)), Some(Refusal::PeerShare));
    }
    assert!([0, 9, 10, 11].into_iter().all(|client| !refused(client)), "the others have room");
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
