//! Short ways to build rings of hash models and to check how they end.

#![allow(dead_code, reason = "every test file uses its own part")]

use lockstep_proto::client::{ClientError, Exchange};
use lockstep_proto::failure::{Failure, Reason, Refusal};
use lockstep_proto::fair::Weight;
use lockstep_proto::frame::Tenant;
use lockstep_proto::limits;
use lockstep_proto::server::{Capacity, Event};
use lockstep_testing::hash_model::{HashModel, LAYERS, model, vocabulary};
use lockstep_testing::ring::{Point, Ring};
use lockstep_verify::challenge::Target;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::Request;

pub(crate) const SECOND: u64 = 1_000_000;

/// A client, as a stage 0 that is played by a test tells the others.
pub(crate) const TENANT: Tenant = Tenant { label: 0, weight: Weight::ONE };

/// A ring of so many stages, all layers spread evenly.
pub(crate) fn ring(stages: usize) -> Ring<HashModel> {
    ring_with(1, stages, Capacity::default())
}

pub(crate) fn ring_with(seed: u64, stages: usize, capacity: Capacity) -> Ring<HashModel> {
    let stages = stages as u32;
    let ends: Vec<u32> = (1..=stages).map(|stage| LAYERS * stage / stages).collect();
    Ring::new(seed, (model(), vocabulary()), &ends, capacity, |_| HashModel::default())
}

/// What there was no room for, if that is why a request failed.
pub(crate) fn refusal_of(error: &ClientError) -> Option<Refusal> {
    match error {
        ClientError::Busy(busy) => Some(busy.refusal),
        ClientError::Failed(Failure { reason: Reason::Busy(busy), .. }) => Some(busy.refusal),
        _ => None,
    }
}

/// A prompt of so many tokens.
pub(crate) fn prompt(len: u32) -> Vec<u32> {
    (0..len).map(|index| (index * 7 + len) % 90).collect()
}

/// Asks for an answer on the route through all servers.
pub(crate) fn ask(
    ring: &mut Ring<HashModel>,
    client: usize,
    prompt_len: u32,
    tokens: u32,
) -> Request {
    let request = ring.request(client, prompt(prompt_len), tokens);
    let route = ring.route();
    assert_eq!(ring.ask(request.clone(), route), Ok(client));
    request
}

/// Asks for exactly so many tokens, whatever they are.
pub(crate) fn ask_long(
    ring: &mut Ring<HashModel>,
    client: usize,
    prompt_len: u32,
    tokens: u32,
) -> Request {
    let mut request = ring.request(client, prompt(prompt_len), tokens);
    request.stops.ignore_end = true;
    let route = ring.route();
    assert_eq!(ring.ask(request.clone(), route), Ok(client));
    request
}

/// The receipt of a request that must have ended well, equal to the single process's answer.
pub(crate) fn receipt_of(ring: &Ring<HashModel>, client: usize, request: &Request) -> Receipt {
    let receipt = match ring.outcome(client) {
        Some(Ok(receipt)) => (**receipt).clone(),
        other => panic!("client {client} has no answer: {other:?}"),
    };
    let (answer, finish) = HashModel::whole_answer(request);
    assert_eq!(receipt.answer, answer);
    assert_eq!(receipt.finish, finish);
    assert_eq!(ring.tokens(client), answer);
    receipt
}

pub(crate) fn layer(layer: u32, positions: &[u32]) -> Target {
    let end = positions.last().unwrap() + 1;
    Target::Layer { layer, first: 0, end, positions: positions.to_vec() }
}

pub(crate) fn head(positions: &[u32]) -> Target {
    Target::Head { positions: positions.to_vec() }
}

/// A ring with one finished answer to a prompt of 20 tokens.
pub(crate) fn answered(stages: usize) -> Ring<HashModel> {
    let mut ring = ring(stages);
    let request = ask(&mut ring, 0, 20, 6);
    assert!(ring.run_to_the_end(10 * SECOND));
    receipt_of(&ring, 0, &request);
    ring
}

pub(crate) fn exchanges(
    ring: &mut Ring<HashModel>,
    targets: Vec<Target>,
    within: u64,
) -> Vec<Exchange> {
    ring.challenge(0, targets);
    assert!(ring.run_until(within, |ring| ring.exchanges(0).is_some()), "all are answered");
    ring.exchanges(0).unwrap().to_vec()
}

pub(crate) fn error_of(ring: &Ring<HashModel>, client: usize) -> ClientError {
    match ring.outcome(client) {
        Some(Err(error)) => error.clone(),
        other => panic!("client {client} has no error: {other:?}"),
    }
}

/// After all retention, by whatever challenges it was prolonged, no server and no executor holds
/// anything.
pub(crate) fn nothing_is_left(ring: &mut Ring<HashModel>, servers: impl Iterator<Item = usize>) {
    let prolonged = 2 * limits::CHALLENGES_BEYOND_AUDIT * limits::CHALLENGE_PACE_US;
    ring.run_for(limits::RETENTION_US + prolonged + SECOND);
    for server in servers {
        assert!(ring.server(server).unwrap().is_clear(), "server {server} holds a session");
        assert_eq!(ring.executor(server).unwrap().live(), 0, "executor {server} holds a session");
    }
}

/// Sessions that are under way, on all servers.
pub(crate) fn under_way(ring: &Ring<HashModel>, servers: impl Iterator<Item = usize>) -> usize {
    servers.map(|server| ring.server(server).unwrap().sessions()).sum()
}

pub(crate) fn failures(ring: &Ring<HashModel>, server: usize) -> Vec<Event> {
    let ended = |event: &&Event| matches!(event, Event::Ended { .. });
    ring.events(server).iter().filter(ended).cloned().collect()
}

pub(crate) const CLIENT: Point = Point::Client(0);

/// One challenge for every layer.
pub(crate) fn all_layers() -> Vec<Target> {
    (0..LAYERS).map(|number| layer(number, &[3])).collect()
}
