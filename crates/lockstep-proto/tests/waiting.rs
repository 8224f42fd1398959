//! Requests that find no place: who waits, for how long, who is next, and what the others are told.

mod support;

use core::ops::RangeInclusive;

use lockstep_proto::client::ClientError;
use lockstep_proto::failure::{Busy, Failure, Reason, Refusal};
use lockstep_proto::limits;
use lockstep_proto::server::{Capacity, Event};
use lockstep_testing::hash_model::HashModel;
use lockstep_testing::ring::{Meddle, Point, Ring};
use support::{
    SECOND, ask, ask_long, error_of, nothing_is_left, receipt_of, refusal_of, ring_with, under_way,
};

/// A server with so many places, of which client 0 has one for as long as 400 tokens take.
fn taken(sessions: usize, item_us: u64) -> Ring<HashModel> {
    let mut ring = ring_with(1, 1, Capacity { sessions, ..Capacity::default() });
    ring.weather.item_us = item_us;
    ask_long(&mut ring, 0, 5, 400);
    assert!(ring.run_until(60 * SECOND, |ring| !ring.tokens(0).is_empty()));
    ring
}

/// These clients connect under one node id.
fn one_peer(ring: &mut Ring<HashModel>, clients: RangeInclusive<usize>) {
    let first = *clients.start();
    clients.for_each(|client| ring.connect_as(client, first));
}

fn waiting(ring: &Ring<HashModel>) -> usize {
    ring.server(0).unwrap().waiting()
}

fn busy(ring: &Ring<HashModel>, client: usize) -> Busy {
    match error_of(ring, client) {
        ClientError::Busy(busy) => busy,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_without_a_place_waits_for_one_and_is_answered() {
    let mut ring = taken(1, 5_000);
    let requests: Vec<_> = (1..4).map(|client| (client, ask(&mut ring, client, 20, 6))).collect();
    ring.run_for(SECOND);
    assert_eq!((waiting(&ring), under_way(&ring, 0..1)), (3, 1));
    assert!(ring.run_to_the_end(60 * SECOND));
    for (client, request) in &requests {
        receipt_of(&ring, *client, request);
    }
    assert_eq!(waiting(&ring), 0);
    nothing_is_left(&mut ring, 0..1);
}

#[test]
fn clients_get_places_in_turn_however_many_requests_each_has() {
    let mut ring = taken(1, 5_000);
    one_peer(&mut ring, 1..=6);
    for client in 1..=8 {
        ask(&mut ring, client, 5, 3);
        ring.run_for(1_000);
    }
    assert_eq!(waiting(&ring), 8);
    assert!(ring.run_to_the_end(60 * SECOND));
    let mut order: Vec<usize> = (1..=8).collect();
    order.sort_by_key(|client| ring.ended(*client));
    assert_eq!(order, [1, 7, 8, 2, 3, 4, 5, 6]);
}

#[test]
fn who_waits_is_refused_in_time_and_told_when_to_ask_again() {
    let mut ring = taken(1, 200_000);
    let began = ring.now();
    ask(&mut ring, 1, 5, 3);
    assert!(ring.run_until(2 * limits::WAIT_US, |ring| ring.outcome(1).is_some()));
    let waited = ring.ended(1).unwrap().since(began);
    assert!((limits::WAIT_US..limits::WAIT_US + SECOND).contains(&waited), "{waited} us");
    let Busy { refusal, retry_ms } = busy(&ring, 1);
    assert_eq!(refusal, Refusal::Busy);
    // No session has ended yet: as long as the one under way has lasted.
    let waited_ms = u32::try_from(limits::WAIT_US / 1000).unwrap();
    assert!((waited_ms..waited_ms + 2_000).contains(&retry_ms), "{retry_ms} ms");
    assert_eq!((waiting(&ring), under_way(&ring, 0..1)), (0, 1));
}

#[test]
fn who_cannot_have_a_place_in_time_is_refused_at_once_by_the_queue_and_the_measured_pace() {
    let mut ring = ring_with(1, 1, Capacity { sessions: 1, ..Capacity::default() });
    ring.weather.item_us = 5_000;
    let began = ring.now();
    ask_long(&mut ring, 0, 5, 400);
    assert!(ring.run_to_the_end(60 * SECOND));
    let pace_us = ring.ended(0).unwrap().since(began);
    assert!((3 * SECOND..5 * SECOND).contains(&pace_us), "{pace_us} us");
    for client in 1..=5 {
        ask_long(&mut ring, client, 5, 400);
        ring.run_for(10_000);
    }
    // One has the place, and two of the others are to have theirs within ten seconds.
    assert_eq!(waiting(&ring), 2);
    for client in [4, 5] {
        let Busy { refusal, retry_ms } = busy(&ring, client);
        assert_eq!(refusal, Refusal::Busy);
        let expected = u32::try_from(3 * pace_us / 1000).unwrap();
        assert!(retry_ms.abs_diff(expected) < 200, "{retry_ms} ms, not {expected} ms");
    }
}

#[test]
fn what_waits_is_bounded_for_each_client_and_in_all() {
    let mut ring = taken(1, 2_000);
    let own = limits::WAITING_OF_CLIENT;
    one_peer(&mut ring, 1..=own + 1);
    (1..=own + 1).for_each(|client| drop(ask(&mut ring, client, 5, 3)));
    ring.run_for(1_000);
    assert_eq!(waiting(&ring), own);
    assert_eq!(busy(&ring, own + 1).refusal, Refusal::TooManyWaiting);
    let most = limits::WAITING - own + 2;
    (0..most).for_each(|more| drop(ask(&mut ring, own + 2 + more, 5, 3)));
    ring.run_for(1_000);
    assert_eq!(waiting(&ring), limits::WAITING);
    assert_eq!(busy(&ring, own + 1 + most).refusal, Refusal::TooManyWaiting);
}

#[test]
fn who_holds_its_share_is_told_at_once_and_one_that_fits_no_server_is_not_told_to_come_back() {
    let mut ring = ring_with(1, 1, Capacity { sessions: 8, kv_pages: 47, ..Capacity::default() });
    ring.weather.item_us = 200_000;
    one_peer(&mut ring, 0..=2);
    (0..3).for_each(|client| drop(ask_long(&mut ring, client, 5, 100)));
    ring.run_for(SECOND);
    assert_eq!(busy(&ring, 2).refusal, Refusal::PeerShare);
    // It has the whole context: eight pages for each of six layers.
    ask_long(&mut ring, 3, 1_000, 1_600);
    ring.run_for(SECOND);
    assert_eq!(error_of(&ring, 3), ClientError::Refused(Refusal::NoRoom));
}

#[test]
fn a_request_that_is_cancelled_or_lost_while_it_waits_leaves_nothing_behind() {
    for is_killed in [false, true] {
        let mut ring = taken(1, 5_000);
        ask(&mut ring, 1, 20, 6);
        let last = ask(&mut ring, 2, 20, 6);
        ring.run_for(SECOND);
        assert_eq!(waiting(&ring), 2);
        match is_killed {
            true => ring.kill(Point::Client(1)),
            false => ring.cancel(1),
        }
        ring.run_for(10_000);
        assert_eq!(waiting(&ring), 1);
        assert!(ring.run_until(60 * SECOND, |ring| ring.outcome(2).is_some()));
        receipt_of(&ring, 2, &last);
        let begun = ring.events(0).iter();
        let begun = begun.filter(|event| matches!(event, Event::Opened { .. }));
        assert_eq!(begun.count(), 2, "it was never begun");
        nothing_is_left(&mut ring, 0..1);
    }
}

#[test]
fn a_client_that_is_silent_while_it_waits_is_forgotten_in_two_seconds() {
    let mut ring = taken(1, 100_000);
    ask(&mut ring, 1, 20, 6);
    ring.run_for(SECOND);
    ring.meddle(|packet| match packet.from {
        Point::Client(1) => Meddle::Replace(Vec::new()),
        _ => Meddle::Pass,
    });
    ring.run_for(limits::SILENCE_US + limits::HEARTBEAT_US);
    assert_eq!((waiting(&ring), under_way(&ring, 0..1)), (0, 1));
}

#[test]
fn a_server_that_leaves_or_is_stuck_keeps_nobody_waiting() {
    let mut ring = taken(1, 100_000);
    ask(&mut ring, 1, 20, 6);
    ring.run_for(SECOND);
    ring.drain(0);
    ring.run_for(10_000);
    assert_eq!(error_of(&ring, 1), ClientError::Refused(Refusal::Draining));
    assert_eq!((waiting(&ring), under_way(&ring, 0..1)), (0, 1));

    // The job that runs is overdue while somebody waits.
    let mut ring = ring_with(1, 1, Capacity { sessions: 8, kv_pages: 48, ..Capacity::default() });
    (0..7).for_each(|client| drop(ask(&mut ring, client, 5, 3)));
    ring.weather.item_us = 2 * limits::JOB_US;
    ring.run_for(50_000_000);
    ask(&mut ring, 7, 5, 3);
    ring.run_for(1_000);
    ask(&mut ring, 8, 5, 3);
    ring.run_for(1_000);
    assert_eq!(waiting(&ring), 1);
    ring.run_for(limits::JOB_US - 50_000_000);
    assert_eq!(error_of(&ring, 8), ClientError::Refused(Refusal::ExecutorFailed));
    assert_eq!(waiting(&ring), 0);
}

#[test]
fn a_long_request_is_not_passed_over_for_short_ones() {
    // The first sessions take a page of each of six layers, the long one three, the others two.
    let mut ring = ring_with(1, 1, Capacity { kv_pages: 24, ..Capacity::default() });
    ring.weather.item_us = 5_000;
    [60, 90, 120].into_iter().enumerate().for_each(|(client, tokens)| {
        ask_long(&mut ring, client, 5, tokens);
    });
    ring.run_for(SECOND / 2);
    let long = ask_long(&mut ring, 3, 700, 3);
    ring.run_for(1_000);
    let short: Vec<_> = (4..8).map(|client| (client, ask(&mut ring, client, 300, 3))).collect();
    // When the first one has ended there are pages for a short one, and not for the long one.
    assert!(ring.run_until(60 * SECOND, |ring| ring.outcome(0).is_some()));
    ring.run_for(1_000);
    assert_eq!((waiting(&ring), under_way(&ring, 0..1)), (5, 2));
    assert!(ring.run_to_the_end(60 * SECOND));
    receipt_of(&ring, 3, &long);
    short.iter().for_each(|(client, request)| drop(receipt_of(&ring, *client, request)));
    let begun = ring.events(0).iter().filter_map(|event| match event {
        Event::Opened { session, .. } => Some(*session),
        _ => None,
    });
    assert_eq!(begun.collect::<Vec<_>>().get(3).copied(), Some(long.session()));
}

#[test]
fn a_later_stage_without_room_is_named_and_says_when_to_ask_again() {
    // A session takes three pages there.
    let few = Capacity { kv_pages: 8, ..Capacity::default() };
    let spans = vec![(0..3, Capacity::default()), (3..6, few)];
    let model = (lockstep_testing::hash_model::model(), lockstep_testing::hash_model::vocabulary());
    let mut ring = Ring::of_spans(1, model, spans, |_| HashModel::default());
    ring.weather.item_us = 50_000;
    ask_long(&mut ring, 0, 5, 100);
    ring.run_for(SECOND);
    ask_long(&mut ring, 1, 5, 100);
    ring.run_for(SECOND);
    ask_long(&mut ring, 2, 5, 100);
    ring.run_for(SECOND);
    let error = error_of(&ring, 2);
    let ClientError::Failed(Failure { stage: Some(1), by: Some(1), reason: Reason::Busy(_) }) =
        error
    else {
        panic!("{error:?}");
    };
    assert!(refusal_of(&error).is_some() && error.retry_ms().is_some_and(|ms| ms > 100));
    assert_eq!(ring.server(0).unwrap().sessions(), ring.server(1).unwrap().sessions());
    assert!(ring.run_to_the_end(120 * SECOND));
    nothing_is_left(&mut ring, 0..2);
}

/// Has a client ask for the whole context: eight pages for each of six layers.
fn ask_for_all(ring: &mut Ring<HashModel>, client: usize) {
    ask_long(ring, client, 1_000, 1_000);
}

#[test]
fn no_number_of_large_requests_of_new_clients_keeps_small_ones_out() {
    let mut ring = ring_with(1, 1, Capacity { kv_pages: 48, ..Capacity::default() });
    ring.weather.item_us = 50_000;
    // One session is there all the time, so that none of the large ones ever fits.
    ask_long(&mut ring, 0, 5, 600);
    ring.run_for(SECOND);
    let (mut small, mut large) = (Vec::new(), Vec::new());
    for client in 1..=30 {
        if client % 3 == 2 {
            small.push((client, ring.now(), ask(&mut ring, client, 5, 2)));
        } else {
            ask_for_all(&mut ring, client);
            large.push(client);
        }
        ring.run_for(SECOND / 2);
    }
    ring.run_for(limits::WAIT_US);
    assert!(ring.outcome(0).is_none(), "the long one runs still");
    for (client, asked, request) in &small {
        receipt_of(&ring, *client, request);
        let waited = ring.ended(*client).unwrap().since(*asked);
        assert!(waited < limits::RESERVE_US + 3 * SECOND, "client {client} took {waited} us");
    }
    for client in large {
        busy(&ring, client);
    }
}

#[test]
fn no_number_of_small_requests_of_new_clients_keeps_a_large_one_out() {
    let mut ring = ring_with(1, 1, Capacity { kv_pages: 48, ..Capacity::default() });
    ring.weather.item_us = 10_000;
    let mut large = None;
    // There is a small one every tenth of a second, and each takes longer than that.
    for client in 0..140 {
        if client == 20 {
            assert!(under_way(&ring, 0..1) > 2);
            large = Some(ask_long(&mut ring, client, 1_900, 3));
        } else {
            ask_long(&mut ring, client, 5, 20);
        }
        ring.run_for(SECOND / 10);
    }
    assert!(ring.run_to_the_end(60 * SECOND));
    receipt_of(&ring, 20, &large.unwrap());
}

#[test]
fn small_requests_begin_beside_a_large_one_for_which_room_is_kept() {
    let mut ring = ring_with(1, 1, Capacity { kv_pages: 48, ..Capacity::default() });
    ring.weather.item_us = 50_000;
    (0..5).for_each(|client| drop(ask_long(&mut ring, client, 5, 100)));
    ring.run_for(SECOND / 10);
    // 30 pages are taken; it needs 24.
    ask_long(&mut ring, 5, 900, 100);
    ring.run_for(SECOND / 10);
    let small = |ring: &mut Ring<HashModel>, client| {
        ask_long(ring, client, 5, 100);
        ring.run_for(1_000);
        under_way(ring, 0..1)
    };
    assert_eq!((waiting(&ring), under_way(&ring, 0..1)), (1, 5));
    // Once the five have ended, three small ones and the large one are 42 pages.
    assert_eq!([6, 7, 8].map(|client| small(&mut ring, client)), [6, 7, 8]);
    assert_eq!(waiting(&ring), 1);
}

#[test]
fn a_client_is_charged_for_the_pages_of_its_requests() {
    let mut ring = taken(1, 5_000);
    one_peer(&mut ring, 1..=3);
    // Those of one client take four times as much as those of the other.
    (1..=3).for_each(|client| drop(ask_long(&mut ring, client, 1_000, 2)));
    let others = 4..=10;
    let first = *others.start();
    others.clone().for_each(|client| ring.connect_as(client, first));
    others.clone().for_each(|client| drop(ask(&mut ring, client, 5, 2)));
    ring.run_for(1_000);
    assert_eq!(waiting(&ring), 10);
    assert!(ring.run_to_the_end(60 * SECOND));
    let mut order: Vec<usize> = (1..=10).collect();
    order.sort_by_key(|client| ring.ended(*client));
    assert_eq!(order, [1, 4, 5, 6, 7, 2, 8, 9, 10, 3]);
}
