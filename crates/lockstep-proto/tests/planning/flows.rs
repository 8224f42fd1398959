//! The flow for many clients, and rings along it.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_proto::announcement::{BATCHES, Status};
use lockstep_proto::limits;
use lockstep_proto::swarm::demand::Demand;
use lockstep_proto::swarm::flow::flow;
use lockstep_proto::swarm::route::RouteError;
use lockstep_testing::numbers::Numbers;
use lockstep_verify::sign::NodeId;

use crate::support::{between, check_ring, demand, node, peer, shuffled, speed, swarm};

/// A transport network by the definitions: the work of each server, its layers, and the sizes.
struct Network {
    servers: Vec<(NodeId, u128, Vec<usize>)>,
    sizes: Vec<u128>,
}

impl Network {
    fn of(peers: &[Status], demand: &Demand) -> Self {
        let is_head = |peer: &Status| peer.head && peer.first == 0;
        let times = |peer: &Status| {
            let is_known = peer.speed.is_known();
            let unknown = limits::UNKNOWN_DECODE_NS;
            let layer = if is_known { peer.speed.decode_ns } else { [unknown; 3] };
            let head = layer.map(|ns| ns * limits::UNKNOWN_HEAD_LAYERS);
            (layer, if is_known { peer.speed.head_ns } else { head })
        };
        let work = |peer: &Status| {
            let (layer, _) = times(peer);
            let of =
                |(ns, batch): (u32, u32)| u128::from(batch) * 1_000_000_000_000 / u128::from(ns);
            let own = layer.into_iter().zip(BATCHES).map(of).max().unwrap();
            let line = peer.neighbours.iter().map(|link| u128::from(link.bytes_per_s)).max();
            let span = u128::from(peer.end - peer.first);
            let line = line.filter(|line| *line > 0 && peer.end - peer.first < demand.layers);
            line.map_or(own, |line| own.min(line * span * 1_000 / u128::from(demand.state_bytes)))
        };
        let layers = |peer: &Status| {
            let from = if is_head(peer) { 0 } else { peer.first.max(1) };
            (from as usize..peer.end as usize).collect()
        };
        let servers = peers.iter().map(|peer| (peer.node, work(peer), layers(peer)));
        let head = peers.iter().filter(|peer| is_head(peer)).map(|peer| {
            let (layer, head) = times(peer);
            u128::from(head[2]) * 1_000 / u128::from(layer[2])
        });
        let mut sizes = vec![1_000; demand.layers as usize];
        sizes[0] += head.min().unwrap_or(0);
        Self { servers: servers.collect(), sizes }
    }

    /// The tightest of all cuts, by trying every set of layers.
    fn tightest_cut(&self) -> u128 {
        let cut = |set: u32| {
            let has = |layer: &usize| set >> layer & 1 == 1;
            let holders = self.servers.iter().filter(|(_, _, layers)| layers.iter().any(has));
            let work: u128 = holders.map(|(_, work, _)| work).sum();
            let size: u128 = (0..self.sizes.len()).filter(has).map(|layer| self.sizes[layer]).sum();
            work * 1_000_000 / size
        };
        (1..1_u32 << self.sizes.len()).map(cut).min().unwrap()
    }

    /// The most that flows when every layer takes `rate`, by augmenting paths.
    fn max_flow(&self, rate: u128) -> u128 {
        let servers = self.servers.len();
        let mut left: Vec<u128> =
            self.servers.iter().map(|(_, work, _)| work * 1_000_000).collect();
        let mut needed: Vec<u128> = self.sizes.iter().map(|size| size * rate).collect();
        let mut flows = vec![vec![0_u128; self.sizes.len()]; servers];
        loop {
            // From servers that have work left, over layers, back over flows that can be undone.
            let mut from: Vec<Option<Option<usize>>> = vec![None; servers];
            let mut over: Vec<Option<usize>> = vec![None; self.sizes.len()];
            let mut queue: Vec<usize> = (0..servers).filter(|server| left[*server] > 0).collect();
            queue.iter().for_each(|server| from[*server] = Some(None));
            let mut last = None;
            let mut at = 0;
            while last.is_none() && at < queue.len() {
                let server = queue[at];
                at += 1;
                for &layer in &self.servers[server].2 {
                    if over[layer].is_some() {
                        continue;
                    }
                    over[layer] = Some(server);
                    if needed[layer] > 0 {
                        last = Some(layer);
                        break;
                    }
                    for other in 0..servers {
                        if from[other].is_none() && flows[other][layer] > 0 {
                            from[other] = Some(Some(layer));
                            queue.push(other);
                        }
                    }
                }
            }
            let Some(last) = last else {
                return flows.iter().flatten().sum();
            };
            let mut path = vec![];
            let (mut layer, mut most) = (last, needed[last]);
            let first = loop {
                let server = over[layer].unwrap();
                path.push((server, layer));
                match from[server].unwrap() {
                    None => break server,
                    Some(before) => {
                        most = most.min(flows[server][before]);
                        layer = before;
                    }
                }
            };
            most = most.min(left[first]);
            left[first] -= most;
            needed[last] -= most;
            for (at, &(server, layer)) in path.iter().enumerate() {
                flows[server][layer] += most;
                if let Some((_, before)) = path.get(at + 1) {
                    flows[server][*before] -= most;
                }
            }
        }
    }
}

#[test]
fn the_bound_is_the_tightest_cut_and_the_maximum_flow() {
    let mut tight = 0;
    for seed in 0..400 {
        let mut numbers = Numbers::new(seed);
        let (count, layers) = (between(&mut numbers, 1, 9), between(&mut numbers, 1, 8));
        let peers = swarm(&mut numbers, count, layers);
        let demand = demand(layers);
        let Ok(flow) = flow(&peers, &demand) else { continue };
        let network = Network::of(&peers, &demand);
        let bound = u128::from(flow.bound);
        assert_eq!(bound, network.tightest_cut(), "seed {seed}");
        let all: u128 = network.sizes.iter().sum();
        assert_eq!(network.max_flow(bound), bound * all, "seed {seed}: that much flows");
        assert!(network.max_flow(bound + 1) < (bound + 1) * all, "seed {seed}: and no more");
        let work: u128 = network.servers.iter().map(|(_, work, _)| work).sum();
        tight += u32::from(bound < work * 1_000_000 / all);
    }
    assert!(tight > 50, "cuts inside the model were rare: {tight}");
}

#[test]
fn the_shares_come_close_to_the_bound_and_never_above() {
    for seed in 0..60 {
        let mut numbers = Numbers::new(seed);
        let (count, layers) = (between(&mut numbers, 6, 120), between(&mut numbers, 4, 40));
        let peers = swarm(&mut numbers, count, layers);
        let Ok(flow) = flow(&peers, &demand(layers)) else { continue };
        assert!(flow.steady <= flow.bound, "seed {seed}");
        let share = u128::from(flow.steady) * 1_000 / u128::from(flow.bound);
        assert!(share >= 970, "seed {seed}: {share} thousandths");
    }
}

/// The rate, in thousandths of the bound, at which the servers could work off so many rings.
fn share_of_bound(peers: &[Status], demand: &Demand, rings: u32) -> (u128, usize) {
    let network = Network::of(peers, demand);
    let mut flow = flow(peers, demand).unwrap();
    let mut work: BTreeMap<NodeId, u128> = BTreeMap::new();
    let mut stages = 0;
    for _ in 0..rings {
        let ring = flow.rings.next_ring(|_| true).unwrap();
        check_ring(&ring, peers, demand.layers);
        stages += ring.len();
        for hop in &ring {
            let layers = hop.first as usize..hop.end as usize;
            *work.entry(hop.node).or_default() += network.sizes[layers].iter().sum::<u128>();
        }
    }
    // Microseconds until the last server has done its part.
    let of = |(node, work): (&NodeId, &u128)| {
        let (_, rate, _) = network.servers.iter().find(|(other, _, _)| other == node).unwrap();
        work * 1_000_000 / rate
    };
    let time = work.iter().map(of).max().unwrap();
    let rate = u128::from(rings) * 1_000_000 * 1_000_000 / time;
    (rate * 1_000 / u128::from(flow.bound), stages / rings as usize)
}

#[test]
fn rings_along_the_flow_come_close_to_the_bound() {
    // Spans at random, of one layer to all: harder than any that places itself.
    let mut shares = Vec::new();
    for seed in 0..40 {
        let mut numbers = Numbers::new(seed);
        let (count, layers) = (between(&mut numbers, 8, 60), between(&mut numbers, 4, 32));
        let peers = swarm(&mut numbers, count, layers);
        if flow(&peers, &demand(layers)).is_err() {
            continue;
        }
        let (share, _) = share_of_bound(&peers, &demand(layers), 3_000);
        assert!(share >= 850, "seed {seed}: {share} thousandths of the bound");
        shares.push(share);
    }
    let mean = shares.iter().sum::<u128>() / shares.len() as u128;
    assert!(shares.len() > 20 && mean >= 960, "{mean} thousandths on average");
}

#[test]
fn replicas_of_one_span_are_used_side_by_side_and_not_one_behind_the_other() {
    let mut peers = Vec::new();
    for (at, ns) in
        [1_000_000, 2_000_000, 1_000_000, 4_000_000, 3_000_000, 3_000_000].iter().enumerate()
    {
        let first = at as u32 / 2 * 10;
        let mut peer = peer(at as u32, first, first + 10);
        peer.speed = speed(*ns);
        peers.push(peer);
    }
    let (share, stages) = share_of_bound(&peers, &demand(30), 3_000);
    assert!(share >= 990, "{share}");
    assert_eq!(stages, 3);
}

#[test]
fn the_same_peers_give_the_same_rings_in_any_order() {
    for seed in 0..30 {
        let mut numbers = Numbers::new(seed);
        let peers = swarm(&mut numbers, 20, 8);
        let other = shuffled(&mut numbers, &peers);
        let (Ok(mut one), Ok(mut two)) = (flow(&peers, &demand(8)), flow(&other, &demand(8)))
        else {
            continue;
        };
        for _ in 0..50 {
            assert_eq!(one.rings.next_ring(|_| true), two.rings.next_ring(|_| true));
        }
        assert_eq!((one.bound, one.steady), (two.bound, two.steady));
    }
}

#[test]
fn servers_without_room_are_passed_over_and_do_not_make_up_for_it_for_ever() {
    let mut peers = vec![peer(1, 0, 10), peer(2, 0, 10), peer(3, 10, 20)];
    peers[0].speed = speed(1_000_000);
    peers[1].speed = speed(1_000_000);
    peers[2].speed = speed(500_000);
    let mut rings = flow(&peers, &demand(20)).unwrap().rings;
    for _ in 0..100 {
        let ring = rings.next_ring(|other| other != node(1)).unwrap();
        assert_eq!(ring[0].node, node(2));
    }
    let later = (0..100).map(|_| rings.next_ring(|_| true).unwrap()[0].node);
    let caught_up = later.filter(|first| *first == node(1)).count();
    assert!((50..=60).contains(&caught_up), "{caught_up}");
    assert_eq!(rings.next_ring(|other| other != node(3)), None, "nobody else holds the end");
    assert!(rings.next_ring(|_| true).is_some(), "and then it goes on");
}

#[test]
fn a_bound_grows_with_every_server_and_never_falls_with_speed() {
    for seed in 0..100 {
        let mut numbers = Numbers::new(seed);
        let mut peers = swarm(&mut numbers, 10, 6);
        // The head's size is that of the cheapest, so all have the same.
        peers.iter_mut().for_each(|peer| peer.neighbours.clear());
        let known = |peer: &mut Status, ns| peer.speed = speed(ns);
        peers.iter_mut().for_each(|peer| known(peer, between(&mut numbers, 1_000, 1_000_000)));
        let Ok(before) = flow(&peers, &demand(6)) else { continue };
        known(&mut peers[4], 500);
        let faster = flow(&peers, &demand(6)).unwrap();
        assert!(faster.bound >= before.bound, "seed {seed}");
        let mut more = peer(99, 2, 5);
        known(&mut more, 5_000);
        peers.push(more);
        assert!(flow(&peers, &demand(6)).unwrap().bound >= faster.bound, "seed {seed}");
    }
}

#[test]
fn full_servers_count_for_the_flow_and_banned_ones_do_not() {
    let mut full = peer(1, 0, 10);
    full.sessions = full.sessions_limit;
    assert!(flow(&[full.clone()], &demand(10)).is_ok());
    let banned = Demand { banned: BTreeSet::from([node(1)]), ..demand(10) };
    assert!(matches!(flow(&[full], &banned), Err(RouteError::Uncovered { .. })));
    // Layer 0 at a server without the head is of no use.
    let (head, mut other) = (peer(1, 0, 1), peer(2, 0, 10));
    other.head = false;
    let rings = flow(&[head, other], &demand(10)).unwrap().rings.next_ring(|_| true).unwrap();
    assert_eq!(rings.iter().map(|hop| hop.end).collect::<Vec<_>>(), [1, 10]);
}

#[test]
fn the_last_layer_is_only_for_those_whom_the_client_wants_there() {
    let peers = [peer(1, 0, 10), peer(2, 5, 10)];
    let last = Demand { last_on: Some(BTreeSet::from([node(2)])), ..demand(10) };
    let mut rings = flow(&peers, &last).unwrap().rings;
    for _ in 0..20 {
        let ring = rings.next_ring(|_| true).unwrap();
        check_ring(&ring, &peers, 10);
        assert_eq!(ring.last().unwrap().node, node(2));
    }
}
