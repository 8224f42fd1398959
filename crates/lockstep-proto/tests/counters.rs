//! What servers count of what they do: it fits what clients saw, and what the other end counted.

mod support;

use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::digest::Digest;
use lockstep_proto::counters::Traffic;
use lockstep_proto::failure::{Reason, Refusal};
use lockstep_proto::frame::ToServer;
use lockstep_proto::limits;
use lockstep_proto::server::{Counters, Figures, Refused};
use lockstep_testing::hash_model::{HashModel, LAYERS};
use lockstep_testing::ring::{Point, Ring};
use lockstep_verify::challenge::Challenge;
use lockstep_verify::sign::Signature;
use lockstep_verify::statement::RunId;
use support::{SECOND, all_layers, ask, ask_long, exchanges, head, receipt_of, ring};

fn figures(ring: &Ring<HashModel>, server: usize) -> Figures {
    ring.server(server).unwrap().figures()
}

fn counters(ring: &Ring<HashModel>, server: usize) -> Counters {
    figures(ring, server).counters
}

#[test]
fn a_session_is_counted_at_every_stage_and_its_tokens_at_the_first() {
    let mut ring = ring(3);
    let request = ask_long(&mut ring, 0, 200, 9);
    assert!(ring.run_to_the_end(10 * SECOND));
    let receipt = receipt_of(&ring, 0, &request);
    for server in 0..3 {
        let told = counters(&ring, server);
        let is_first = u64::from(server == 0);
        assert_eq!((told.opened_first, told.opened_other), (is_first, 1 - is_first));
        assert_eq!((told.finished, told.ended.len(), told.refused.len()), (1, 0, 0));
        assert_eq!(told.prompt_positions, 200, "server {server}");
        let steps = receipt.answer.len() as u64 - 1;
        // The head reads one state for each token.
        let heads = is_first * receipt.answer.len() as u64;
        assert_eq!(told.decode_positions, steps + heads, "server {server}");
        assert_eq!(told.tokens, is_first * receipt.answer.len() as u64);
        assert_eq!(told.first_token.count(), is_first);
        assert_eq!(told.next_token.count(), is_first * steps);
        let jobs: u64 = told.jobs.values().map(lockstep_proto::counters::Times::count).sum();
        assert!(jobs > 0 && told.items >= jobs, "{told:?}");
    }
}

#[test]
fn what_one_end_of_a_hop_has_sent_the_other_end_has_received() {
    let mut ring = ring(3);
    ask_long(&mut ring, 0, 40, 12);
    assert!(ring.run_to_the_end(10 * SECOND));
    let nodes: Vec<_> = (0..3).map(|server| figures(&ring, server).status.node).collect();
    for server in 0..3 {
        let next = (server + 1) % 3;
        let sent = counters(&ring, server).hops[&nodes[next]];
        let received = counters(&ring, next).hops[&nodes[server]];
        let got = (received.received_frames, received.received_bytes);
        assert_eq!((sent.sent_frames, sent.sent_bytes), got, "{server} to {next}");
        assert!(sent.sent_frames > 12 && sent.sent_bytes > 12 * 32, "{sent:?}");
        assert_eq!(counters(&ring, server).other_hops, Traffic::default());
    }
    let clients = counters(&ring, 0).clients;
    assert!(clients.sent_frames > 12 && clients.received_frames > 0, "{clients:?}");
    assert_eq!(counters(&ring, 1).clients, Traffic::default());
}

#[test]
fn refusals_failures_and_audits_are_counted_by_their_reasons() {
    let mut ring = ring(2);
    ask_long(&mut ring, 0, 40, 60);
    assert!(ring.run_until(SECOND, |ring| ring.tokens(0).len() > 2));
    ring.drain(0);
    ask(&mut ring, 1, 4, 2);
    assert!(ring.run_until(SECOND, |ring| ring.outcome(1).is_some()));
    ring.cancel(0);
    assert!(ring.run_until(SECOND, |ring| ring.outcome(0).is_some()));
    ring.run_for(SECOND);
    let told = counters(&ring, 0);
    assert_eq!(told.refused[&(Refused::Session, Refusal::Draining)], 1);
    assert_eq!(told.ended[&Reason::Cancelled], 1);
    assert_eq!(counters(&ring, 1).ended.values().sum::<u64>(), 1, "the other stage's session too");
    assert_eq!(told.finished, 0);

    let mut ring = support::answered(2);
    let before = figures(&ring, 0);
    assert_eq!((before.retained, before.counters.answered), (1, 0));
    assert!(before.kept_bytes > 0);
    exchanges(&mut ring, all_layers(), 10 * SECOND);
    let answered: u64 = (0..2).map(|server| counters(&ring, server).answered).sum();
    assert_eq!(answered, u64::from(LAYERS));
    let told = counters(&ring, 0);
    assert!(told.opening_bytes > 0 && told.opening_bytes <= told.clients.sent_bytes);
    let (session, run) = (Digest::ZERO, RunId::NONE);
    let (receipt, target) = (Digest::ZERO, head(&[1]));
    let challenge = Challenge { session, run, receipt, target, signature: Signature::NONE };
    let frame = ToServer::Challenge(Box::new(challenge)).to_bytes();
    ring.inject(Point::Client(0), Point::Server(0), frame);
    ring.run_for(SECOND);
    let told = counters(&ring, 0);
    assert_eq!(told.refused[&(Refused::Challenge, Refusal::UnknownSession)], 1);
    ring.run_for(2 * limits::RETENTION_US);
    assert_eq!(figures(&ring, 0).retained, 0);
}
