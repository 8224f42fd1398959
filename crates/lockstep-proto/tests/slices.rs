//! Openings that take long, and openings that are too long: neither holds anybody else up.

mod support;

use lockstep_exact::bytes::Canonical;
use lockstep_proto::client::NoAnswer;
use lockstep_proto::frame::{Frame, ToClient};
use lockstep_proto::limits;
use lockstep_proto::server::Capacity;
use lockstep_testing::hash_model::{HashModel, LAYERS, model};
use lockstep_testing::ring::{Meddle, Point, Ring};
use lockstep_verify::opening::SignedOpening;
use support::{SECOND, answered, ask, exchanges, head, layer, ring_with};

/// A ring of one stage with one finished answer, which takes so many slices to open a cell, and a
/// second client that keeps the executor busy.
fn slow_to_open(slices: u32, item_us: u64) -> Ring<HashModel> {
    let mut ring = answered(1);
    ring.executor(0).unwrap().slices = slices;
    ring.weather.item_us = item_us;
    support::ask_long(&mut ring, 1, 5, 1_500);
    ring.run_for(10 * item_us);
    ring
}

#[test]
fn sessions_go_on_while_an_opening_takes_many_slices_and_it_arrives_all_the_same() {
    let targets = vec![layer(LAYERS - 1, &[1]), head(&[20])];
    let whole = exchanges(&mut answered(1), targets.clone(), SECOND);
    let item_us = 10_000;
    let mut ring = slow_to_open(200, item_us);
    let (start, before) = (ring.now(), ring.tokens(1).len() as u64);
    assert_eq!(exchanges(&mut ring, targets, 60 * SECOND), whole);
    let (took, tokens) = (ring.now().since(start), ring.tokens(1).len() as u64 - before);
    // One job in four is a slice, of the busy executor; a token takes two jobs, and it never waits
    // for more than a slice.
    assert!(took < (402 * 4 + 10) * item_us, "{took} us");
    assert!(tokens * 8 * item_us > 3 * took - 40 * item_us, "{tokens} tokens in {took} us");
    assert!(ring.outcome(1).is_none());
    assert!(support::failures(&ring, 0).is_empty());
    assert_eq!(ring.executor(0).unwrap().unfinished(), 0);
}

#[test]
fn a_rebuild_that_takes_longer_than_a_job_may_ends_nobodys_session() {
    let mut ring = slow_to_open(200, SECOND);
    ring.challenge(0, vec![layer(LAYERS - 1, &[1])]);
    ring.run_for(3 * limits::JOB_US);
    assert!(support::failures(&ring, 0).is_empty());
    assert!(ring.tokens(1).len() > 50, "{}", ring.tokens(1).len());
    // And a new one begins.
    support::ask_long(&mut ring, 2, 5, 10);
    ring.run_for(20 * SECOND);
    assert!(!ring.tokens(2).is_empty());
}

#[test]
fn an_unfinished_opening_is_freed_when_its_link_is_lost_or_its_session_expires() {
    let mut ring = slow_to_open(u32::MAX, 10_000);
    ring.challenge(0, vec![layer(1, &[1]), layer(0, &[1])]);
    ring.run_for(SECOND);
    assert_eq!(ring.executor(0).unwrap().unfinished(), 1);
    ring.cut(Point::Client(0), Point::Server(0));
    ring.run_for(SECOND);
    assert_eq!(ring.executor(0).unwrap().unfinished(), 0);
    assert_eq!(ring.server(0).unwrap().retained(), 1);

    let capacity = Capacity { retention_us: 301 * SECOND, ..Capacity::default() };
    let mut ring = ring_with(1, 1, capacity);
    ask(&mut ring, 0, 20, 6);
    assert!(ring.run_to_the_end(10 * SECOND));
    ring.executor(0).unwrap().slices = u32::MAX;
    ring.run_for(295 * SECOND);
    ring.challenge(0, vec![layer(1, &[1]), layer(0, &[1])]);
    ring.run_for(SECOND);
    assert_eq!(ring.executor(0).unwrap().unfinished(), 1);
    ring.run_for(10 * SECOND);
    let executor = ring.executor(0).unwrap();
    assert_eq!((executor.unfinished(), executor.live()), (0, 0));
    assert!(ring.server(0).unwrap().is_clear());
}

#[test]
fn an_opening_that_is_longer_than_its_cells_can_make_it_is_no_answer() {
    let target = layer(LAYERS - 1, &[1, 7]);
    let most = model().prices.longest_opening(&target) as usize;
    for (bytes, is_taken) in [(most, true), (most + 1, false)] {
        let mut ring = answered(2);
        let key = Ring::<HashModel>::server_key(1);
        ring.meddle(move |packet| match ToClient::from_body(&packet.body) {
            Ok(ToClient::Opening(opening)) if packet.from == Point::Server(1) => {
                let long = SignedOpening::new(opening.challenge, vec![7; bytes], &key);
                Meddle::Replace(vec![ToClient::Opening(Box::new(long)).to_bytes()])
            }
            _ => Meddle::Pass,
        });
        let exchange = exchanges(&mut ring, vec![target.clone()], SECOND).remove(0);
        let answer = exchange.answer.map(|opening| opening.body.len());
        assert_eq!(answer, if is_taken { Ok(bytes) } else { Err(NoAnswer::BadFrame) });
        assert_eq!(exchange.is_withheld, !is_taken);
    }
}
