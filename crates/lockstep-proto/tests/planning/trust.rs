//! Whom users' requests go over, whom canaries, and what is believed of speeds: claims win nothing.

use std::collections::BTreeSet;

use lockstep_proto::announcement::{Neighbour, Speed, Status};
use lockstep_proto::limits;
use lockstep_proto::now::Now;
use lockstep_proto::swarm::demand::Why;
use lockstep_proto::swarm::route::{RouteError, fastest, longest_ns};
use lockstep_proto::swarm::trust::{Experience, Standing};
use lockstep_testing::numbers::Numbers;
use lockstep_verify::request::Hop;
use lockstep_verify::sign::NodeId;

use crate::support::{between, demand, node, peer, speed};

const LAYERS: u32 = 12;
const MS: u32 = 1_000_000;

/// A server of these layers that says how fast it is.
fn fast(number: u32, first: u32, end: u32, ns: u32) -> Status {
    Status { speed: speed(ns), ..peer(number, first, end) }
}

/// A node that announces wonders: every layer in no time, next door to everybody.
fn sybil(number: u32, others: &[Status]) -> Status {
    let near = |other: &Status| Neighbour { node: other.node, rtt_us: 0, bytes_per_s: u64::MAX };
    let neighbours = others.iter().take(limits::NEIGHBOURS).map(near).collect();
    Status { neighbours, ..fast(number, 0, LAYERS, 1) }
}

fn nodes(ring: &[Hop]) -> Vec<NodeId> {
    ring.iter().map(|hop| hop.node).collect()
}

#[test]
fn a_node_that_announces_wonders_gets_canaries_and_no_user_until_one_is_verified() {
    let honest = [fast(1, 0, 6, 5 * MS), fast(2, 6, LAYERS, 5 * MS)];
    let peers = [&honest[..], &[sybil(9, &honest)]].concat();
    let mut own = Experience::new(1);
    own.named(node(1));
    own.named(node(2));
    let users = |own: &Experience| {
        let route = fastest(&own.believed(&peers), &own.of_users(&demand(LAYERS)));
        nodes(&route.expect("proven servers hold all layers").hops)
    };
    let canary =
        |own: &Experience| own.canary(&peers, &demand(LAYERS), Now(0)).map(|ring| nodes(&ring));
    assert_eq!(users(&own), [node(1), node(2)]);
    assert_eq!(canary(&own), Some(vec![node(9)]));
    let mut proven = own.clone();
    proven.verified(node(9));
    assert_eq!(users(&proven), [node(1), node(2)], "its word for its speed is worth nothing yet");
    assert_eq!(canary(&proven), None, "there is nobody left to try");
    let whole = [Hop { node: node(9), first: 0, end: LAYERS }];
    proven.timed(&peers, &demand(LAYERS), &whole, 20_000_000);
    assert_eq!(users(&proven), [node(9)], "it was measured, and is fast");
    let mut caught = proven.clone();
    caught.convicted(node(9));
    assert_eq!(caught.standing(node(9)), Standing::Banned);
    caught.verified(node(9));
    caught.named(node(9));
    assert_eq!(caught.standing(node(9)), Standing::Banned, "nothing makes up for it");
    assert_eq!((users(&caught), canary(&caught)), (vec![node(1), node(2)], None));
}

#[test]
fn nothing_that_an_unproven_node_says_of_its_speed_and_links_is_believed() {
    let honest = [fast(1, 0, LAYERS, MS)];
    let own = Experience::new(1);
    let believed = own.believed(&[sybil(9, &honest)]);
    assert_eq!((believed[0].speed, believed[0].neighbours.len()), (Speed::UNKNOWN, 0));
    let mut named = Experience::new(1);
    named.named(node(1));
    assert_eq!(named.believed(&honest), honest, "whom a person named is believed until measured");
}

#[test]
fn without_proven_servers_there_is_no_ring_for_users_and_a_canary_over_unproven_ones() {
    let peers = [fast(1, 0, 6, MS), fast(2, 6, LAYERS, MS)];
    let mut own = Experience::new(1);
    let refused = fastest(&own.believed(&peers), &own.of_users(&demand(LAYERS)));
    let Err(RouteError::Uncovered { left_out, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(left_out.0.get(&Why::Unproven), Some(&2));
    let ring = own.canary(&peers, &demand(LAYERS), Now(0)).expect("both hold all layers");
    assert_eq!(nodes(&ring), [node(1), node(2)]);
    // With half of the ring proven, only the other half is tried.
    own.verified(node(1));
    let ring = own.canary(&peers, &demand(LAYERS), Now(0)).expect("both hold all layers");
    assert_eq!(nodes(&ring), [node(1), node(2)]);
    own.verified(node(2));
    assert_eq!(own.canary(&peers, &demand(LAYERS), Now(0)), None);
}

#[test]
fn a_node_whose_canary_failed_waits_longer_each_time() {
    let peers = [fast(1, 0, LAYERS, MS), fast(2, 0, LAYERS, MS)];
    let mut own = Experience::new(1);
    own.verified(node(1));
    let is_tried = |own: &Experience, now| own.canary(&peers, &demand(LAYERS), now).is_some();
    let mut now = Now(0);
    for failures in 0..20 {
        assert!(is_tried(&own, now), "after {failures} failures");
        own.failed(node(2), now);
        let wait = limits::CANARY_AGAIN_US << failures.min(limits::CANARY_DOUBLINGS);
        now = now.after(wait);
        assert!(!is_tried(&own, Now(now.0 - 1)), "after {failures} failures");
    }
    own.verified(node(2));
    assert_eq!(own.standing(node(2)), Standing::Proven);
}

#[test]
fn an_honest_newcomer_is_tried_before_any_sybil_is_tried_twice() {
    let honest = [fast(1, 0, LAYERS, MS), fast(2, 0, LAYERS, MS)];
    for secret in 0..20 {
        let sybils = (100..300).map(|number| sybil(number, &honest));
        let peers: Vec<Status> = honest.iter().cloned().chain(sybils).collect();
        let mut own = Experience::new(secret);
        own.named(node(1));
        let mut tried = BTreeSet::new();
        let now = Now(0);
        while own.standing(node(2)) != Standing::Proven {
            let ring = own.canary(&peers, &demand(LAYERS), now).expect("somebody is due");
            let [hop] = ring.as_slice() else { panic!("{ring:?}") };
            assert!(tried.insert(hop.node), "a second canary");
            if hop.node == node(2) { own.verified(hop.node) } else { own.failed(hop.node, now) }
        }
        let route = fastest(&own.believed(&peers), &own.of_users(&demand(LAYERS)));
        assert!(nodes(&route.expect("two").hops).iter().all(|node| node.0[3] < 100));
    }
}

#[test]
fn a_first_ring_is_found_after_each_sybil_was_tried_once() {
    let honest = [fast(1, 0, 6, MS), fast(2, 6, LAYERS, MS)];
    let sybils = (100..130).map(|number| sybil(number, &honest));
    let peers: Vec<Status> = honest.iter().cloned().chain(sybils).collect();
    let mut own = Experience::new(1);
    let mut now = Now(0);
    for tries in 0.. {
        assert!(tries <= 30, "a sybil was tried again");
        let ring = own.canary(&peers, &demand(LAYERS), now).expect("somebody is due");
        if nodes(&ring) == [node(1), node(2)] {
            break;
        }
        ring.iter().for_each(|hop| own.failed(hop.node, now));
        // By then all that failed are due again.
        now = now.after(limits::CANARY_AGAIN_US);
    }
}

/// Draws a ring over servers of three spans, one server each.
fn draw_ring(numbers: &mut Numbers, peers: &[Status]) -> Vec<Hop> {
    let spans = [0..4, 4..8, 8..LAYERS];
    let hop = |span: std::ops::Range<u32>| {
        let holders: Vec<_> = peers.iter().filter(|peer| peer.first == span.start).collect();
        let at = numbers.below(holders.len() as u64) as usize;
        Hop { node: holders[at].node, first: span.start, end: span.end }
    };
    spans.map(hop).to_vec()
}

#[test]
fn a_speed_that_was_measured_beats_the_one_that_is_claimed() {
    for seed in 0..50 {
        let mut numbers = Numbers::new(seed);
        let truth: Vec<Status> = (0..12)
            .map(|number| {
                let first = number % 3 * 4;
                fast(number, first, first + 4, between(&mut numbers, 500_000, 20_000_000))
            })
            .collect();
        // Three of them claim to be many times faster than they are.
        let lies = |peer: &Status| peer.node.0[3] < 3;
        let mut claimed = truth.clone();
        for peer in claimed.iter_mut().filter(|peer| lies(peer)) {
            peer.speed = speed(1 + between(&mut numbers, 0, 100_000));
        }
        let mut own = Experience::new(seed);
        let mut cleared = BTreeSet::new();
        for _ in 0..limits::RINGS_TIMED {
            let ring = draw_ring(&mut numbers, &claimed);
            ring.iter().for_each(|hop| own.verified(hop.node));
            let real = longest_ns(&truth, &demand(LAYERS), &ring).expect("all serve");
            own.timed(&claimed, &demand(LAYERS), &ring, real);
            let is_lie = |hop: &Hop| claimed.iter().any(|it| it.node == hop.node && lies(it));
            if !ring.iter().any(is_lie) {
                cleared.extend(ring.iter().map(|hop| hop.node));
            }
        }
        for ((believed, truth), claimed) in own.believed(&claimed).iter().zip(&truth).zip(&claimed)
        {
            let layer = |status: &Status| status.speed.decode_ns[0];
            let is_met = own.standing(truth.node) == Standing::Proven;
            if is_met && lies(truth) {
                assert!(layer(believed) >= layer(truth), "seed {seed}: {believed:?}");
            } else if cleared.contains(&truth.node) {
                assert_eq!(believed.speed, claimed.speed, "seed {seed}");
            }
        }
    }
}

#[test]
fn a_new_claim_does_not_undo_what_was_measured() {
    let slow = fast(1, 0, LAYERS, 10 * MS);
    let claim = |ns| Status { speed: speed(ns), ..slow.clone() };
    let mut own = Experience::new(1);
    own.verified(node(1));
    let ring = [Hop { node: node(1), first: 0, end: LAYERS }];
    let real = longest_ns(std::slice::from_ref(&slow), &demand(LAYERS), &ring).expect("serves");
    own.timed(&[claim(5 * MS)], &demand(LAYERS), &ring, real);
    for ns in [1, MS, 5 * MS] {
        assert!(own.believed(&[claim(ns)])[0].speed.decode_ns[0] >= 10 * MS, "{ns}");
    }
    assert_eq!(
        own.believed(&[claim(50 * MS)]),
        [claim(50 * MS)],
        "who says it is slow is believed"
    );
    // What is absurd breaks nothing.
    own.timed(&[claim(1)], &demand(LAYERS), &ring, u64::MAX);
    own.timed(&[], &demand(LAYERS), &ring, 1);
    for _ in 0..2 * limits::RINGS_TIMED {
        own.timed(&[claim(u32::MAX / 16)], &demand(LAYERS), &ring, u64::MAX);
    }
    assert_eq!(own.believed(&[claim(1)])[0].speed.decode_ns, [u32::MAX; 3]);
}

#[test]
fn a_server_with_many_sessions_is_not_slow_for_it_unless_its_claims_are_false() {
    let ring = [Hop { node: node(1), first: 0, end: LAYERS }];
    let busy = |ns| Status { sessions: 16, ..fast(1, 0, LAYERS, ns) };
    // Behind a batch of all, and then in one: twice four times as long as alone.
    let real = 2 * 4 * u64::from(MS) * u64::from(LAYERS + 3);
    for (claim, believed) in [(MS, MS), (2 * MS, 2 * MS)] {
        let mut own = Experience::new(1);
        own.verified(node(1));
        own.timed(&[busy(claim)], &demand(LAYERS), &ring, real);
        assert_eq!(own.believed(&[busy(claim)])[0].speed.decode_ns[0], believed);
    }
    let mut own = Experience::new(1);
    own.verified(node(1));
    own.timed(&[busy(1)], &demand(LAYERS), &ring, real);
    assert!(own.believed(&[busy(1)])[0].speed.decode_ns[0] > MS);
}

#[test]
fn what_is_remembered_is_bounded_and_the_banned_stay() {
    let mut own = Experience::new(1);
    own.convicted(node(1));
    own.verified(node(2));
    for number in 0..limits::SWARM_NODES as u32 + 100 {
        own.failed(node(1_000 + number), Now(0));
    }
    assert_eq!(own.standing(node(1)), Standing::Banned);
    assert_eq!(own.standing(node(2)), Standing::Proven);
    let banned = own.of_users(&demand(LAYERS));
    assert_eq!(banned.proven, Some([node(2)].into()));
    assert_eq!(banned.banned, [node(1)].into());
}
