//! Announcements that no honest server makes, and swarms that are larger than any.

use lockstep_proto::announcement::{Neighbour, Speed, State, Status};
use lockstep_proto::limits;
use lockstep_proto::swarm::demand::Demand;
use lockstep_proto::swarm::flow::flow;
use lockstep_proto::swarm::route::fastest;
use lockstep_testing::numbers::Numbers;

use crate::support::{between, check_ring, demand, node, peer, speed};

/// Numbers that are likely to overflow something.
fn absurd(numbers: &mut Numbers) -> u32 {
    let all = [0, 1, 2, 255, 1 << 16, u32::MAX / 2, u32::MAX - 1, u32::MAX];
    all[numbers.below(all.len() as u64) as usize]
}

fn absurd_peer(numbers: &mut Numbers, number: u32, layers: u32) -> Status {
    let mut next = || {
        if numbers.below(2) == 0 { absurd(numbers) } else { between(numbers, 0, u64::from(layers)) }
    };
    let mut peer = peer(number, next(), next());
    peer.sessions = next();
    peer.sessions_limit = next();
    peer.queue = next();
    peer.kv_pages_free = next();
    peer.speed = Speed {
        decode_ns: [next(), next(), next()],
        head_ns: [next(), next(), next()],
        prefill_ns: next(),
    };
    peer.head = numbers.below(2) == 0;
    peer.state = [State::Ready, State::Joining, State::Draining][numbers.below(10).min(2) as usize];
    if numbers.below(4) > 0 {
        (peer.state, peer.sessions_limit, peer.kv_pages_free) = (State::Ready, u32::MAX, u32::MAX);
        peer.first %= layers;
        peer.end = peer.first + 1 + peer.end % (layers - peer.first);
    }
    let link = |numbers: &mut Numbers| Neighbour {
        node: node(numbers.below(40) as u32),
        rtt_us: absurd(numbers),
        bytes_per_s: [0, 1, u64::MAX / 2, u64::MAX][numbers.below(4) as usize],
    };
    // More than may be announced, of nodes that are not there, of itself, and unsorted.
    peer.neighbours = (0..numbers.below(40)).map(|_| link(numbers)).collect();
    peer
}

#[test]
fn no_claim_however_absurd_makes_a_plan_panic_or_a_ring_that_is_none() {
    let (mut rings, mut flows) = (0, 0);
    for seed in 0..600 {
        let mut numbers = Numbers::new(seed);
        let layers = [1, 2, 7, 32, 512][numbers.below(5) as usize];
        let count = between(&mut numbers, 0, 40);
        let peers: Vec<Status> =
            (0..count).map(|number| absurd_peer(&mut numbers, number, layers)).collect();
        let state_bytes = [0, 1, 67_584, u64::MAX][numbers.below(4) as usize];
        let positions = absurd(&mut numbers);
        let demand = Demand { state_bytes, positions, ..demand(layers) };
        if let Ok(route) = fastest(&peers, &demand) {
            check_ring(&route.hops, &peers, layers);
            assert!(route.token_ns < u64::MAX, "seed {seed}");
            rings += 1;
        }
        if let Ok(mut flow) = flow(&peers, &demand) {
            assert!(flow.steady <= flow.bound, "seed {seed}");
            if let Some(ring) = flow.rings.next_ring(|_| true) {
                check_ring(&ring, &peers, layers);
            }
            flows += 1;
        }
    }
    assert!(rings > 50 && flows > 50, "{rings} rings, {flows} flows");
}

/// A swarm as placement makes it: spans of a few lengths, a quarter with the head, links to others.
fn large(numbers: &mut Numbers, count: u32, layers: u32) -> Vec<Status> {
    let peers = (0..count).map(|number| {
        let length = between(numbers, u64::from(layers) / 8, u64::from(layers) / 2);
        let first =
            if number % 4 == 0 { 0 } else { between(numbers, 0, u64::from(layers - length)) };
        let mut peer = peer(number, first, first + length);
        peer.speed = speed(between(numbers, 200_000, 20_000_000));
        peer.queue = between(numbers, 0, 10);
        let mut near: Vec<u32> = (0..limits::NEIGHBOURS as u32)
            .map(|_| numbers.below(u64::from(count)) as u32)
            .filter(|other| *other != number)
            .collect();
        near.sort_unstable();
        near.dedup();
        let link = |other| Neighbour {
            node: node(other),
            rtt_us: between(numbers, 200, 80_000),
            bytes_per_s: u64::from(between(numbers, 1_000_000, 100_000_000)),
        };
        peer.neighbours = near.into_iter().map(link).collect();
        peer
    });
    peers.collect()
}

#[test]
fn ten_thousand_servers_are_planned_for() {
    let peers = large(&mut Numbers::new(1), 10_000, 32);
    let route = fastest(&peers, &demand(32)).unwrap();
    check_ring(&route.hops, &peers, 32);
    let mut flow = flow(&peers, &demand(32)).unwrap();
    check_ring(&flow.rings.next_ring(|_| true).unwrap(), &peers, 32);
}

/// `cargo test --release -p lockstep-proto --test planning -- --ignored --nocapture cost`
#[test]
#[ignore = "measures"]
#[expect(clippy::disallowed_types, reason = "it measures, and asserts nothing about time")]
fn cost_of_planning() {
    for count in [10, 100, 1_000, 10_000] {
        let peers = large(&mut Numbers::new(u64::from(count)), count, 32);
        let time = |run: &mut dyn FnMut()| {
            let start = std::time::Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1_000.0
        };
        let route = time(&mut || drop(fastest(&peers, &demand(32))));
        let flows = time(&mut || drop(flow(&peers, &demand(32))));
        let mut rings = flow(&peers, &demand(32)).map(|flow| flow.rings);
        let ring = time(&mut || {
            for _ in 0..100 {
                drop(rings.as_mut().map(|rings| rings.next_ring(|_| true)));
            }
        });
        println!(
            "{count} servers: fastest {route:.2} ms, flow {flows:.2} ms, a ring {:.3} ms",
            ring / 100.0
        );
    }
}
