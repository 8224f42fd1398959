//! The ring for one stream.

use std::collections::BTreeSet;
use std::iter::once;

use lockstep_exact::digest::Digest;
use lockstep_proto::announcement::{Neighbour, State, Status, Tag};
use lockstep_proto::limits;
use lockstep_proto::swarm::demand::{Demand, LeftOut, Why};
use lockstep_proto::swarm::route::{Route, RouteError, fastest, in_order};
use lockstep_testing::numbers::Numbers;
use lockstep_verify::request::Hop;
use lockstep_verify::sign::NodeId;

use crate::support::{Costs, between, check_ring, demand, node, peer, shuffled, speed, swarm};

fn spans(route: &Route) -> Vec<(u8, u32, u32)> {
    route.hops.iter().map(|hop| (hop.node.0[3], hop.first, hop.end)).collect()
}

fn left_out(counts: &[(Why, usize)]) -> LeftOut {
    LeftOut(counts.iter().copied().collect())
}

fn set(numbers: &[u32]) -> BTreeSet<NodeId> {
    numbers.iter().map(|number| node(*number)).collect()
}

#[test]
fn the_fastest_ring_is_the_cheapest_of_all_rings() {
    let (mut found, mut none, mut partial, mut returning) = (0, 0, 0, 0);
    for seed in 0..1_500 {
        let mut numbers = Numbers::new(seed);
        let (count, layers) = (between(&mut numbers, 1, 6), between(&mut numbers, 1, 6));
        let peers = swarm(&mut numbers, count, layers);
        let demand = demand(layers);
        let costs = Costs::of(&peers, &demand);
        let cheapest = costs.cheapest(layers);
        match fastest(&peers, &demand) {
            Ok(route) => {
                check_ring(&route.hops, &peers, layers);
                assert_eq!(route.token_ns, costs.ring(&route.hops), "seed {seed}");
                assert_eq!(Some(route.token_ns), cheapest, "seed {seed}: {:?}", route.hops);
                found += 1;
                let cut = |hop: &Hop| {
                    let peer = peers.iter().find(|peer| peer.node == hop.node).unwrap();
                    hop.end < peer.end
                };
                partial += u32::from(route.hops.iter().any(cut));
                returning += u32::from(route.hops.len() > 2);
            }
            Err(error) => {
                assert_eq!(cheapest, None, "seed {seed}: {error}");
                none += 1;
            }
        }
    }
    let rare = [found, none, partial, returning];
    assert!(rare.iter().all(|count| *count > 50), "a rare case was not there: {rare:?}");
}

#[test]
fn the_same_peers_give_the_same_route_in_any_order() {
    for seed in 0..200 {
        let mut numbers = Numbers::new(seed);
        let mut peers = swarm(&mut numbers, 12, 8);
        // Two statuses of one node, too.
        let mut again = peers[3].clone();
        again.end = again.first + 1;
        peers.push(again);
        let route = fastest(&peers, &demand(8));
        let other = shuffled(&mut numbers, &peers);
        assert_eq!(fastest(&other, &demand(8)), route, "seed {seed}");
    }
}

#[test]
fn a_faster_server_or_one_more_never_makes_the_ring_slower() {
    for seed in 0..300 {
        let mut numbers = Numbers::new(seed);
        let mut peers = swarm(&mut numbers, 8, 6);
        let Ok(before) = fastest(&peers, &demand(6)) else { continue };
        let at = numbers.below(8) as usize;
        peers[at].speed = speed(50_000);
        let faster = fastest(&peers, &demand(6)).unwrap();
        assert!(faster.token_ns <= before.token_ns, "seed {seed}");
        let mut more = peer(99, 0, 6);
        more.speed = speed(between(&mut numbers, 50_000, 9_000_000));
        peers.push(more);
        let more = fastest(&peers, &demand(6)).unwrap();
        assert!(more.token_ns <= faster.token_ns, "seed {seed}");
    }
}

#[test]
fn a_route_tiles_all_layers_from_the_head_on() {
    let peers = [peer(3, 20, 30), peer(1, 0, 10), peer(2, 10, 20)];
    let route = fastest(&peers, &demand(30)).unwrap();
    assert_eq!(spans(&route), [(1, 0, 10), (2, 10, 20), (3, 20, 30)]);
}

#[test]
fn where_nothing_is_measured_the_fewest_stages_win_and_overlaps_are_cut() {
    let peers = [peer(1, 0, 10), peer(2, 5, 15), peer(3, 10, 12), peer(4, 12, 30)];
    let route = fastest(&peers, &demand(30)).unwrap();
    assert_eq!(route.hops.len(), 3);
    assert_eq!(spans(&route)[0].0, 1);
    assert_eq!(spans(&route)[2].0, 4);
    check_ring(&route.hops, &peers, 30);
    let mut all = peers.to_vec();
    all.push(peer(5, 0, 30));
    assert_eq!(spans(&fastest(&all, &demand(30)).unwrap()), [(5, 0, 30)]);
}

#[test]
fn ties_go_to_the_less_busy_and_then_to_the_smaller_id_in_any_order_of_peers() {
    let mut busy = peer(2, 10, 30);
    busy.sessions = 3;
    let mut peers = vec![busy, peer(4, 10, 30), peer(3, 10, 30), peer(1, 0, 10)];
    let route = fastest(&peers, &demand(30)).unwrap();
    assert_eq!(spans(&route), [(1, 0, 10), (3, 10, 30)]);
    assert_eq!(route.standbys, [vec![], vec![node(4), node(2)]]);
    peers.reverse();
    assert_eq!(fastest(&peers, &demand(30)).unwrap(), route);
}

#[test]
fn a_slow_server_gives_up_the_layers_that_a_fast_one_holds_too() {
    let link = |number| Neighbour { node: node(number), rtt_us: 200, bytes_per_s: 100_000_000 };
    let (mut slow, mut fast) = (peer(1, 0, 20), peer(2, 5, 20));
    (slow.speed, fast.speed) = (speed(10_000_000), speed(100_000));
    (slow.neighbours, fast.neighbours) = (vec![link(2)], vec![link(1)]);
    let route = fastest(&[slow.clone(), fast.clone()], &demand(20)).unwrap();
    assert_eq!(spans(&route), [(1, 0, 5), (2, 5, 20)]);
    // Behind a slow line it stays alone.
    slow.neighbours[0].rtt_us = 2_000_000;
    assert_eq!(spans(&fastest(&[slow, fast], &demand(20)).unwrap()), [(1, 0, 20)]);
}

#[test]
fn no_server_comes_twice_even_where_that_would_be_faster() {
    let link = |number| Neighbour { node: node(number), rtt_us: 100, bytes_per_s: 1 << 30 };
    let (mut slow, mut fast) = (peer(1, 0, 20), peer(2, 5, 15));
    (slow.speed, fast.speed) = (speed(10_000_000), speed(100_000));
    (slow.neighbours, fast.neighbours) = (vec![link(2)], vec![link(1)]);
    let route = fastest(&[slow, fast], &demand(20)).unwrap();
    assert_eq!(spans(&route), [(1, 0, 20)]);
}

#[test]
fn the_closing_hop_counts() {
    // Two heads, the nearer to the tail is a little slower.
    let (mut far, mut near, mut tail) = (peer(1, 0, 10), peer(2, 0, 10), peer(3, 10, 20));
    (far.speed, near.speed, tail.speed) = (speed(900_000), speed(1_000_000), speed(1_000_000));
    let link = |number, rtt_us| Neighbour { node: node(number), rtt_us, bytes_per_s: 1 << 30 };
    tail.neighbours = vec![link(1, 80_000), link(2, 1_000)];
    let route = fastest(&[far, near, tail], &demand(20)).unwrap();
    assert_eq!(spans(&route), [(2, 0, 10), (3, 10, 20)]);
}

#[test]
fn nobody_comes_near_by_saying_so_alone() {
    let link = |number, rtt_us| Neighbour { node: node(number), rtt_us, bytes_per_s: 1 << 30 };
    let (mut head, mut liar, mut honest) = (peer(1, 0, 10), peer(2, 10, 20), peer(3, 10, 20));
    head.neighbours = vec![link(2, 150_000), link(3, 40_000)];
    liar.neighbours = vec![link(1, 0)];
    honest.neighbours = vec![link(1, 40_000)];
    let route = fastest(&[head, liar, honest], &demand(20)).unwrap();
    assert_eq!(spans(&route), [(1, 0, 10), (3, 10, 20)]);
}

#[test]
fn a_prompt_goes_at_the_pace_of_the_slowest_stage_or_line() {
    let (mut one, mut two) = (peer(1, 0, 10), peer(2, 10, 20));
    (one.speed, two.speed) = (speed(400_000), speed(800_000));
    one.neighbours = vec![Neighbour { node: node(2), rtt_us: 9, bytes_per_s: 1 << 30 }];
    let route = fastest(&[one.clone(), two.clone()], &demand(20)).unwrap();
    assert_eq!(route.prompt_ns, 10 * 200_000);
    one.neighbours[0].bytes_per_s = 1_000_000;
    let route = fastest(&[one, two], &demand(20)).unwrap();
    assert_eq!(route.prompt_ns, 4_224_000);
}

#[test]
fn the_error_says_which_layers_nobody_holds() {
    let peers = [peer(1, 0, 10), peer(2, 12, 20)];
    let error = fastest(&peers, &demand(30)).unwrap_err();
    let missing = vec![10..12, 20..30];
    assert_eq!(error, RouteError::Uncovered { missing, left_out: LeftOut::default() });
    assert_eq!(error.to_string(), "nobody holds layers 10..12, 20..30");
    let none = fastest(&[], &demand(3)).unwrap_err();
    let missing = once(0..3).collect();
    assert_eq!(none, RouteError::Uncovered { missing, left_out: LeftOut::default() });
    assert!(matches!(fastest(&peers, &demand(0)), Err(RouteError::Uncovered { .. })));
}

/// How a server of all layers or a demand is changed so that the server is left out.
type Exclusion = (Why, fn(&mut Status, &mut Demand));

const EXCLUSIONS: [Exclusion; 14] = [
    (Why::Banned, |peer, demand| demand.banned = [peer.node].into()),
    (Why::NotAllowed, |_, demand| demand.allowed = Some(set(&[8]))),
    (Why::NotAllowed, |_, demand| demand.allowed = Some(BTreeSet::new())),
    (Why::Unproven, |_, demand| demand.proven = Some(set(&[8]))),
    (Why::NoTag, |_, demand| demand.tags = [Tag::new("eu").unwrap()].into()),
    (Why::OtherVersion, |peer, _| peer.version += 1),
    (Why::BadSpan, |peer, _| peer.end = 31),
    (Why::BadSpan, |peer, _| peer.first = peer.end),
    (Why::Joining, |peer, _| peer.state = State::Joining),
    (Why::Draining, |peer, _| peer.state = State::Draining),
    (Why::Left, |peer, _| peer.state = State::Left),
    (Why::NoAdapter, |_, demand| demand.adapters = [Digest([1; 32])].into()),
    (Why::Busy, |peer, _| peer.sessions = peer.sessions_limit),
    (Why::NoRoom, |_, demand| demand.positions = 1_000),
];

#[test]
fn whoever_is_left_out_is_counted_by_the_reason() {
    for (row, (why, change)) in EXCLUSIONS.into_iter().enumerate() {
        let (mut peer, mut demand) = (peer(1, 0, 30), demand(30));
        assert!(fastest(&[peer.clone()], &demand).is_ok());
        change(&mut peer, &mut demand);
        let error = fastest(&[peer.clone()], &demand).unwrap_err();
        let missing = once(0..30).collect();
        let left_out = left_out(&[(why, 1)]);
        assert_eq!(error, RouteError::Uncovered { missing, left_out }, "row {row}");
        let text = error.to_string();
        assert_eq!(text, format!("nobody holds layers 0..30 (left out: 1 {why})"));
        // In a given order, it is said of the node.
        let ordered = in_order(&[peer.clone()], &demand, &[peer.node]).unwrap_err();
        assert_eq!(ordered, RouteError::OrderLeftOut { node: peer.node, why }, "row {row}");
    }
}

#[test]
fn several_reasons_are_counted_and_other_models_are_not() {
    let mut busy = peer(1, 0, 10);
    busy.sessions = busy.sessions_limit;
    let mut other = peer(2, 0, 10);
    other.manifest = Digest::ZERO;
    let mut leaving = peer(5, 0, 10);
    leaving.state = State::Draining;
    let peers = [busy, other, peer(3, 10, 5), peer(4, 0, 31), leaving];
    let error = fastest(&peers, &demand(10)).unwrap_err();
    let counts = [(Why::BadSpan, 2), (Why::Busy, 1), (Why::Draining, 1)];
    let missing = once(0..10).collect();
    assert_eq!(error, RouteError::Uncovered { missing, left_out: left_out(&counts) });
    assert!(
        error.to_string().ends_with("(left out: 2 with an impossible span, 1 draining, 1 busy)")
    );
}

#[test]
fn a_session_needs_pages_for_all_its_positions_in_every_layer() {
    let mut peer = peer(1, 0, 30);
    peer.kv_pages_free = 60;
    for (positions, fits) in [(0, true), (1, true), (512, true), (513, false), (u32::MAX, false)] {
        let demand = Demand { positions, ..demand(30) };
        assert_eq!(fastest(&[peer.clone()], &demand).is_ok(), fits, "{positions}");
    }
}

#[test]
fn adapters_and_tags_are_demanded_of_every_stage() {
    let (mut one, mut two, three) = (peer(1, 0, 10), peer(2, 10, 20), peer(3, 10, 20));
    let (adapter, eu) = (Digest([5; 32]), Tag::new("eu").unwrap());
    (one.adapters, one.tags) = (vec![adapter], vec![eu.clone()]);
    (two.adapters, two.tags) = (vec![Digest([4; 32]), adapter], vec![eu.clone()]);
    let peers = [one.clone(), two.clone(), three.clone()];
    let demand = Demand { adapters: [adapter].into(), tags: [eu].into(), ..demand(20) };
    let route = fastest(&peers, &demand).unwrap();
    assert_eq!(spans(&route), [(1, 0, 10), (2, 10, 20)]);
    assert_eq!(route.standbys, [vec![], vec![]], "standbys need them, too");
    let error = fastest(&[one, three], &demand).unwrap_err();
    let left_out = left_out(&[(Why::NoTag, 1)]);
    assert_eq!(error, RouteError::Uncovered { missing: once(10..20).collect(), left_out });
}

#[test]
fn the_first_and_the_last_span_stay_on_nodes_that_the_client_trusts() {
    let peers = [peer(1, 0, 20), peer(2, 0, 10), peer(3, 10, 20), peer(4, 10, 20)];
    assert_eq!(spans(&fastest(&peers, &demand(20)).unwrap()), [(1, 0, 20)]);
    let first = Demand { first_on: Some(set(&[2])), ..demand(20) };
    let route = fastest(&peers, &first).unwrap();
    assert_eq!(route.hops[0].node, node(2));
    let last = Demand { last_on: Some(set(&[4])), ..demand(20) };
    let route = fastest(&peers, &last).unwrap();
    assert_eq!(route.hops.last().unwrap().node, node(4));
    assert!(route.standbys.last().unwrap().is_empty(), "standbys are pinned, too");
    let both = Demand { first_on: Some(set(&[1])), last_on: Some(set(&[1])), ..demand(20) };
    assert_eq!(spans(&fastest(&peers, &both).unwrap()), [(1, 0, 20)]);
    let nobody = Demand { first_on: Some(set(&[3])), ..demand(20) };
    assert!(matches!(fastest(&peers, &nobody), Err(RouteError::NoHead { .. })));
    let nobody = Demand { last_on: Some(set(&[2])), ..demand(20) };
    assert!(matches!(fastest(&peers, &nobody), Err(RouteError::NoLast { .. })));
    let order = [node(2), node(3)];
    assert!(in_order(&peers, &demand(20), &order).is_ok());
    let error = in_order(&peers, &last, &order).unwrap_err();
    assert!(matches!(error, RouteError::NoLast { .. }), "{error}");
}

#[test]
fn without_a_head_there_is_no_route() {
    let mut first = peer(1, 0, 10);
    first.head = false;
    let error = fastest(&[first], &demand(10)).unwrap_err();
    assert_eq!(error, RouteError::NoHead { left_out: LeftOut::default() });
}

#[test]
fn a_given_order_is_followed_or_refused() {
    let peers = [peer(1, 0, 10), peer(2, 5, 15), peer(3, 10, 20)];
    let of = |order: &[u32]| {
        let order: Vec<NodeId> = order.iter().map(|number| node(*number)).collect();
        in_order(&peers, &demand(20), &order)
    };
    let route = of(&[1, 2, 3]).unwrap();
    assert_eq!(spans(&route), [(1, 0, 10), (2, 10, 15), (3, 15, 20)]);
    assert_eq!(route.token_ns, Costs::of(&peers, &demand(20)).ring(&route.hops));
    let gap = |after, layer| Err(RouteError::OrderGap { after, layer });
    assert_eq!(of(&[1, 2]), gap(Some(node(2)), 15));
    assert_eq!(of(&[2, 3]), gap(None, 0));
    assert_eq!(of(&[]), gap(None, 0));
    assert_eq!(of(&[1, 3, 3]), gap(Some(node(3)), 20));
    assert_eq!(of(&[9]), Err(RouteError::OrderUnknown(node(9))));
}

#[test]
fn a_ring_of_more_stages_than_may_be_is_avoided_or_refused() {
    // One layer each, on links that cost nothing, and two wide servers that are slow.
    let most = limits::STAGES as u32;
    let layers = most + 10;
    let all: Vec<u32> = (0..layers).collect();
    let mut peers: Vec<Status> = all.iter().map(|&layer| peer(layer, layer, layer + 1)).collect();
    for (at, peer) in peers.iter_mut().enumerate() {
        peer.speed = speed(1_000);
        let next = node((at as u32 + 1) % layers);
        peer.neighbours = vec![Neighbour { node: next, rtt_us: 0, bytes_per_s: u64::MAX }];
    }
    let error = fastest(&peers, &demand(layers)).unwrap_err();
    assert_eq!(error, RouteError::TooManyStages(layers as usize));
    let mut wide = peer(999, 20, 40);
    wide.speed = speed(100_000_000);
    peers.push(wide);
    let route = fastest(&peers, &demand(layers)).unwrap();
    check_ring(&route.hops, &peers, layers);
    assert!(route.hops.iter().any(|hop| hop.node == node(999)));
}

#[test]
fn standbys_hold_all_layers_of_their_stage_the_fastest_first() {
    let mut peers = vec![peer(1, 0, 10), peer(2, 10, 20), peer(3, 10, 19)];
    peers[0].speed = speed(100_000);
    peers[1].speed = speed(1_000_000);
    for number in 0..6 {
        let mut more = peer(10 + number, 8, 20);
        more.speed = speed(9_000_000 - number * 1_000_000);
        peers.push(more);
    }
    let route = fastest(&peers, &demand(20)).unwrap();
    assert_eq!(spans(&route), [(1, 0, 10), (2, 10, 20)]);
    assert_eq!(route.standbys, [vec![], [15, 14, 13, 12].map(node).to_vec()]);
}
