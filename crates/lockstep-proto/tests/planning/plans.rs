//! How layers are split over machines, and what is expected of it.

use lockstep_proto::announcement::Neighbour;
use lockstep_proto::limits;
use lockstep_proto::swarm::cost::{hop_ns, unknown_hop_ns};
use lockstep_proto::swarm::place::{Machine, Sizes};
use lockstep_proto::swarm::plan::{Plan, grown, plan, predict, with_more};
use lockstep_proto::swarm::split::{Goal, NoRing, ring};
use lockstep_testing::numbers::Numbers;
use lockstep_verify::request::Hop;

use crate::places::{machine, sizes};
use crate::support::{between, demand, node, peer, speed};

fn machines(numbers: &mut Numbers, count: u32) -> Vec<Machine> {
    (0..count)
        .map(|number| {
            let mut own = machine(number, numbers.below(9), between(numbers, 100_000, 9_000_000));
            let link = |other| Neighbour {
                node: node(other),
                rtt_us: between(numbers, 100, 20_000),
                bytes_per_s: 1 << 30,
            };
            own.neighbours = (0..count).filter(|other| *other != number).map(link).collect();
            own
        })
        .collect()
}

/// What a ring costs by the definitions: the time per token, and sixteen times that of the slowest
/// stage in a batch of sixteen.
fn costs(hops: &[Hop], machines: &[Machine]) -> (u64, u64) {
    let of = |hop: &Hop| machines.iter().find(|machine| machine.node == hop.node).unwrap();
    let (mut token, mut slowest) = (0, 0);
    for (at, hop) in hops.iter().enumerate() {
        let speed = of(hop).speed;
        let layers = u64::from(hop.end - hop.first);
        let head = |batch: usize| if at == 0 { u64::from(speed.head_ns[batch]) } else { 0 };
        token += layers * u64::from(speed.decode_ns[0]) + head(0);
        slowest = slowest.max(layers * u64::from(speed.decode_ns[2]) + head(2));
        let next = &hops[(at + 1) % hops.len()];
        if next.node != hop.node {
            let said = |one: &Hop, other: &Hop| {
                of(one).neighbours.iter().find(|link| link.node == other.node).copied()
            };
            let both = said(hop, next).zip(said(next, hop));
            token += both.map_or_else(
                || unknown_hop_ns(4_224),
                |(there, back)| hop_ns(there.rtt_us.max(back.rtt_us), there.bytes_per_s, 4_224),
            );
        }
    }
    (token, slowest)
}

/// Calls `try_ring` with every ring: every order of every set, with every way to cut the layers.
fn every_ring(
    machines: &[Machine],
    sizes: &Sizes,
    ring: &mut Vec<Hop>,
    try_ring: &mut dyn FnMut(&[Hop]),
) {
    let first = ring.last().map_or(0, |hop| hop.end);
    if first == sizes.layers {
        return try_ring(ring);
    }
    for machine in machines {
        if ring.iter().any(|hop| hop.node == machine.node) {
            continue;
        }
        let most = machine.most_layers(sizes, ring.is_empty());
        for end in first + 1..=sizes.layers.min(first + most) {
            ring.push(Hop { node: machine.node, first, end });
            every_ring(machines, sizes, ring, try_ring);
            ring.pop();
        }
    }
}

#[test]
fn a_split_is_the_best_of_all_orders_and_cuts() {
    let (mut none, mut left_out) = (0, 0);
    for seed in 0..250 {
        let mut numbers = Numbers::new(seed);
        let count = between(&mut numbers, 1, 5);
        let machines = machines(&mut numbers, count);
        let sizes = sizes(between(&mut numbers, 1, 7));
        let (mut token, mut slowest) = (None, None);
        every_ring(&machines, &sizes, &mut Vec::new(), &mut |hops| {
            let of = costs(hops, &machines);
            token = Some(token.map_or(of.0, |best: u64| best.min(of.0)));
            slowest = Some(slowest.map_or(of.1, |best: u64| best.min(of.1)));
        });
        let latency = ring(&machines, &sizes, Goal::Latency);
        let throughput = ring(&machines, &sizes, Goal::Throughput);
        if token.is_none() {
            assert!(latency.is_err() && throughput.is_err(), "seed {seed}");
            none += 1;
            continue;
        }
        let (latency, throughput) = (latency.unwrap(), throughput.unwrap());
        for hops in [&latency, &throughput] {
            let mut next = 0;
            for (at, hop) in hops.iter().enumerate() {
                let own = machines.iter().find(|machine| machine.node == hop.node).unwrap();
                assert!(hop.first == next && hop.end - next <= own.most_layers(&sizes, at == 0));
                next = hop.end;
            }
            assert_eq!(next, sizes.layers);
        }
        assert_eq!(Some(costs(&latency, &machines).0), token, "seed {seed}: {latency:?}");
        assert_eq!(Some(costs(&throughput, &machines).1), slowest, "seed {seed}: {throughput:?}");
        let plan = predict(&latency, &machines, &sizes);
        assert_eq!(Some(plan.token_ns), token, "seed {seed}");
        left_out += u32::from(latency.len() < machines.len());
        let mut reversed = machines.clone();
        reversed.reverse();
        assert_eq!(ring(&reversed, &sizes, Goal::Latency).unwrap(), latency, "seed {seed}");
        assert_eq!(ring(&reversed, &sizes, Goal::Throughput).unwrap(), throughput, "seed {seed}");
    }
    assert!(none > 20 && left_out > 50, "{none} without a ring, {left_out} with machines to spare");
}

#[test]
fn a_machine_without_which_the_ring_is_faster_is_left_out_and_the_plan_says_so() {
    let (one, two) = (machine(1, 99, 1_000_000), machine(2, 99, 900_000));
    let best = plan(&[one.clone(), two.clone()], &sizes(20), Goal::Latency).unwrap();
    assert_eq!(best.hops, [Hop { node: node(2), first: 0, end: 20 }]);
    assert_eq!(best.alone, Some((node(2), best.token_ns)));
    assert_eq!(best.faster_alone(), None, "it is alone already");
    // The same machines in a ring, as one that was given would be.
    let hops = [(2, 0, 10), (1, 10, 20)].map(|(number, first, end)| Hop {
        node: node(number),
        first,
        end,
    });
    let slow = predict(&hops, &[one, two], &sizes(20));
    assert!(slow.token_ns > best.token_ns);
    assert_eq!(slow.faster_alone(), Some(node(2)));
    assert!(slow.batched_rate > best.batched_rate, "but it serves more clients");
    assert_eq!(slow.stream_rate, 1_000_000_000_000_000 / slow.token_ns);
}

#[test]
fn memories_that_are_not_enough_are_an_error_with_figures() {
    let machines = [machine(1, 5, 1_000), machine(2, 5, 1_000)];
    for goal in [Goal::Latency, Goal::Throughput] {
        let error = ring(&machines, &sizes(20), goal).unwrap_err();
        assert_eq!(error, NoRing { room: 7, layers: 20 }, "the head takes the room of three");
        assert!(error.to_string().contains("7 of 20 layers and the head"));
        assert!(ring(&machines, &sizes(7), goal).is_ok());
        assert!(ring(&[], &sizes(1), goal).is_err());
    }
}

#[test]
fn more_machines_never_make_a_plan_slower_and_show_what_they_give() {
    let machines = [machine(1, 13, 2_000_000), machine(2, 13, 2_000_000)];
    let like = machine(3, 13, 2_000_000);
    let rates = |goal, of: fn(&Plan) -> u64| -> Vec<u64> {
        let more = (0..4).map(|count| with_more(&machines, &like, count, &sizes(20), goal));
        more.map(|plan| of(&plan.unwrap())).collect()
    };
    let batched = rates(Goal::Throughput, |plan| plan.batched_rate);
    assert!(batched.is_sorted() && batched[3] > batched[0], "{batched:?}");
    let stream = rates(Goal::Latency, |plan| plan.stream_rate);
    assert!(stream.is_sorted(), "{stream:?}");
}

#[test]
fn a_swarm_grows_with_every_machine_that_places_itself() {
    let mut head = peer(1, 0, 8);
    head.speed = speed(1_000_000);
    let like = machine(2, 12, 1_000_000);
    let bounds = grown(&[head], &demand(20), &sizes(20), &like, 5);
    assert_eq!(bounds[0], 0, "there is no ring yet");
    assert!(bounds[1] > 0 && bounds.len() == 6);
    assert!(bounds.is_sorted() && bounds[5] > bounds[1], "{bounds:?}");
    let many = grown(&[], &demand(20), &sizes(20), &like, u32::MAX);
    assert_eq!(many.len(), limits::MACHINES_PLANNED as usize + 1);
}

#[test]
fn many_machines_are_split_over_too() {
    let mut numbers = Numbers::new(3);
    for count in [16, 17, 60] {
        let mut machines = machines(&mut numbers, count);
        machines.iter_mut().for_each(|machine| machine.memory_bytes += 300);
        for goal in [Goal::Latency, Goal::Throughput] {
            let hops = ring(&machines, &sizes(30), goal).unwrap();
            assert_eq!(hops.iter().map(|hop| hop.end - hop.first).sum::<u32>(), 30);
        }
    }
}
