//! Which layers a server takes, and when it moves.

use std::collections::BTreeSet;
use std::ops::Range;

use lockstep_proto::announcement::{Speed, State, Status};
use lockstep_proto::limits;
use lockstep_proto::swarm::flow::flow;
use lockstep_proto::swarm::place::{
    Claim, Machine, Sizes, Toll, gives_way, place, should_move, turn_us,
};
use lockstep_testing::numbers::Numbers;

use crate::support::{MODEL, between, demand, node, peer, shuffled, speed};

pub(crate) fn sizes(layers: u32) -> Sizes {
    Sizes {
        manifest: MODEL,
        layers,
        layer_bytes: 80,
        kv_bytes: 20,
        head_bytes: 250,
        state_bytes: 4_224,
    }
}

/// A machine with memory for `layers` layers without the head.
pub(crate) fn machine(number: u32, layers: u64, ns: u32) -> Machine {
    let memory_bytes = layers * 100;
    Machine { node: node(number), speed: speed(ns), memory_bytes, neighbours: Vec::new() }
}

fn serving(machine: &Machine, span: &Range<u32>) -> Status {
    let mut status = peer(0, span.start, span.end);
    (status.node, status.speed) = (machine.node, machine.speed);
    status
}

#[test]
fn memory_says_how_many_layers_a_machine_can_hold() {
    let most =
        |layers: u64, with_head| machine(1, layers, 1_000).most_layers(&sizes(30), with_head);
    assert_eq!([most(0, false), most(5, false), most(99, false)], [0, 5, 30]);
    assert_eq!([most(2, true), most(3, true), most(4, true), most(99, true)], [0, 0, 1, 30]);
    let free = Sizes { layer_bytes: 0, kv_bytes: 0, head_bytes: u64::MAX, ..sizes(30) };
    assert_eq!(machine(1, 1, 1).most_layers(&free, false), 30);
    assert_eq!(machine(1, 1, 1).most_layers(&free, true), 0);
}

#[test]
fn whoever_comes_takes_what_is_missing() {
    let mut holders = Vec::new();
    let mut spans = Vec::new();
    for number in 0..5 {
        let own = machine(number, 10, 1_000_000);
        let span = place(&holders, &own, &sizes(22)).unwrap();
        holders.push(serving(&own, &span));
        spans.push(span);
    }
    // The head comes first: beside it there is room for seven layers.
    assert_eq!(spans[..3], [0..7, 7..17, 12..22]);
    let covered: BTreeSet<u32> = spans.iter().cloned().flatten().collect();
    assert_eq!(covered, (0..22).collect());
    assert!(place(&holders, &machine(9, 0, 1_000), &sizes(22)).is_none());
    // One that can hold all takes all.
    assert_eq!(place(&[], &machine(9, 99, 1_000), &sizes(22)), Some(0..22));
}

/// The best window by trying every one that fits, by the definition.
fn plain_place(holders: &[Status], own: &Machine, sizes: &Sizes) -> Option<Range<u32>> {
    let rate = |status: &Status| {
        let batch = |(ns, batch): (u32, u64)| batch * 1_000_000_000_000 / u64::from(ns);
        let work = status.speed.decode_ns.into_iter().zip([1, 4, 16]).map(batch).max().unwrap();
        work / u64::from(status.end - status.first)
    };
    let strength = |place: u32| -> u64 {
        let holds = |status: &&Status| {
            let has_head = status.head && status.first == 0;
            let counts = matches!(status.state, State::Ready | State::Joining);
            let layer = place.saturating_sub(1);
            let has =
                if layer == 0 { has_head } else { (status.first..status.end).contains(&layer) };
            counts && status.node != own.node && has
        };
        holders.iter().filter(holds).map(rate).sum()
    };
    let most = [own.most_layers(sizes, true), own.most_layers(sizes, false)];
    if most[0] > 0 && strength(0) == 0 {
        return Some(0..most[0]);
    }
    let mut all = Vec::new();
    for start in 0..sizes.layers {
        let most = most[usize::from(start > 0)];
        if most > 0 && (start == 0 || start + most.min(sizes.layers - 1) <= sizes.layers) {
            let end = start + most.min(if start == 0 { sizes.layers } else { sizes.layers - 1 });
            let first = if start == 0 { 0 } else { start + 1 };
            let mut strengths: Vec<u64> = (first..=end).map(strength).collect();
            strengths.sort_unstable();
            strengths.resize(sizes.layers as usize + 1, u64::MAX);
            all.push((strengths, start, end));
        }
    }
    all.into_iter().min().map(|(_, start, end)| start..end)
}

#[test]
fn a_place_is_the_weakest_window_of_all_in_any_order_of_holders() {
    for seed in 0..500 {
        let mut numbers = Numbers::new(seed);
        let layers = between(&mut numbers, 1, 12);
        let holders: Vec<Status> = (0..between(&mut numbers, 0, 8))
            .map(|number| {
                let first = between(&mut numbers, 0, u64::from(layers) - 1);
                let mut peer = peer(
                    number,
                    first,
                    between(&mut numbers, u64::from(first) + 1, u64::from(layers)),
                );
                peer.speed = speed(between(&mut numbers, 1_000, 1_000_000));
                peer.head = numbers.below(3) > 0;
                peer.state = [State::Ready, State::Joining, State::Draining, State::Left]
                    [numbers.below(4) as usize];
                peer
            })
            .collect();
        let own = machine(between(&mut numbers, 0, 10), numbers.below(15), 5_000);
        let sizes = sizes(layers);
        let span = place(&holders, &own, &sizes);
        assert_eq!(span, plain_place(&holders, &own, &sizes), "seed {seed}");
        let other = shuffled(&mut numbers, &holders);
        assert_eq!(place(&other, &own, &sizes), span, "seed {seed}");
    }
}

#[test]
fn the_head_is_taken_first_by_whoever_can_hold_it() {
    // A window without the head would be longer.
    let own = machine(1, 10, 1_000_000);
    assert_eq!(place(&[], &own, &sizes(22)), Some(0..7));
    // Layers 0 to 7 without the head are no help.
    let mut headless = serving(&machine(2, 10, 1_000_000), &(0..7));
    headless.head = false;
    assert_eq!(place(&[headless], &own, &sizes(22)), Some(0..7));
    // A machine that cannot hold it takes other layers.
    let small = place(&[], &machine(3, 2, 1_000_000), &sizes(22)).unwrap();
    assert_eq!((small.start > 0, small.len()), (true, 2));
    // Whoever joins with the head counts, and whoever leaves with it does not.
    let mut head = serving(&own, &(0..7));
    head.state = State::Joining;
    let next = |head: &Status| {
        place(std::slice::from_ref(head), &machine(4, 10, 1_000_000), &sizes(22)).unwrap()
    };
    assert_eq!(next(&head), 7..17);
    head.state = State::Draining;
    assert_eq!(next(&head), 0..7);
}

#[test]
fn whoever_joins_counts_so_that_two_do_not_repair_the_same_hole() {
    let head = serving(&machine(1, 99, 1_000_000), &(0..10));
    let (two, three) = (machine(2, 10, 1_000_000), machine(3, 10, 1_000_000));
    let first = place(std::slice::from_ref(&head), &two, &sizes(30)).unwrap();
    let mut joining = serving(&two, &first);
    joining.state = State::Joining;
    let second = place(&[head, joining], &three, &sizes(30)).unwrap();
    assert_eq!((first, second), (10..20, 20..30));
}

#[test]
fn nodes_wait_for_turns_that_differ_from_each_other_and_from_round_to_round() {
    let turns: BTreeSet<u64> = (0..100).map(|number| turn_us(node(number), 7)).collect();
    assert!(turns.len() > 95 && turns.iter().all(|turn| *turn < limits::PLACE_TURNS_US));
    let half = turns.iter().filter(|turn| **turn < limits::PLACE_TURNS_US / 2).count();
    assert!((30..70).contains(&half), "{half} in the first half");
    assert_eq!(turn_us(node(1), 7), turn_us(node(1), 7));
    assert_ne!(turn_us(node(1), 7), turn_us(node(1), 8));
}

const NO_TOLL: Toll = Toll { bytes_per_s: 1 << 40, sessions: 0 };

/// Three servers of `0..10` and one of `10..20`, all alike.
fn lopsided() -> (Vec<Status>, Machine) {
    let machines: Vec<Machine> = (0..4).map(|number| machine(number, 13, 1_000_000)).collect();
    let spans = [0..10, 0..10, 0..10, 10..20];
    let holders = machines.iter().zip(&spans).map(|(machine, span)| serving(machine, span));
    (holders.collect(), machines[1].clone())
}

#[test]
fn a_server_moves_to_where_the_swarm_is_weakest() {
    let (holders, own) = lopsided();
    let target = should_move(&holders, &own, &(0..10), &sizes(20), NO_TOLL);
    // It has memory for thirteen layers without the head.
    assert_eq!(target, Some(7..20));
    let demand = demand(20);
    let before = flow(&holders, &demand).unwrap().bound;
    let mut after = holders.clone();
    (after[1].first, after[1].end, after[1].head) = (7, 20, false);
    assert!(flow(&after, &demand).unwrap().bound > before);
    // Then everybody stays.
    for (number, span) in [(0, 0..10), (1, 7..20), (2, 0..10), (3, 10..20)] {
        let own = machine(number, 13, 1_000_000);
        assert_eq!(should_move(&after, &own, &span, &sizes(20), NO_TOLL), None, "{number}");
    }
}

#[test]
fn a_server_never_moves_off_a_layer_that_nobody_else_is_ready_to_serve() {
    let (mut holders, own) = lopsided();
    for holder in &mut holders[0..3] {
        if holder.node != own.node {
            holder.state = State::Joining;
        }
    }
    assert_eq!(should_move(&holders, &own, &(0..10), &sizes(20), NO_TOLL), None);
    holders[0].state = State::Ready;
    assert!(should_move(&holders, &own, &(0..10), &sizes(20), NO_TOLL).is_some());
    holders[0].head = false;
    assert_eq!(should_move(&holders, &own, &(0..10), &sizes(20), NO_TOLL), None, "the head, too");
    // Even to repair a hole: somebody else has to.
    let (mut alone, own) = lopsided();
    alone.truncate(2);
    alone.remove(0);
    assert_eq!(should_move(&alone, &own, &(0..10), &sizes(20), NO_TOLL), None);
}

#[test]
fn a_move_has_to_be_worth_its_margin_its_bytes_and_its_sessions() {
    let (mut holders, own) = lopsided();
    let with = |toll, holders: &[Status]| should_move(holders, &own, &(0..10), &sizes(20), toll);
    assert!(with(NO_TOLL, &holders).is_some());
    // 13 layers of 80 bytes; a move must pay within ten minutes.
    assert!(with(Toll { bytes_per_s: 80, ..NO_TOLL }, &holders).is_some());
    assert_eq!(with(Toll { bytes_per_s: 1, ..NO_TOLL }, &holders), None, "too slow a line");
    let sessions = |sessions| with(Toll { sessions, ..NO_TOLL }, &holders).is_some();
    let most = (0..100_000).rev().find(|count| sessions(*count)).unwrap();
    assert!(most > 10 && !sessions(most + 1) && (0..=most).step_by(97).all(sessions), "{most}");
    // The weakest layer would become stronger by less than the margin.
    let weak = machine(3, 13, 300_000);
    holders[3] = serving(&weak, &(10..20));
    assert_eq!(with(NO_TOLL, &holders), None);
}

#[test]
fn servers_that_move_one_after_another_come_to_rest() {
    for seed in 0..40 {
        let mut numbers = Numbers::new(seed);
        let sizes = sizes(between(&mut numbers, 4, 24));
        let machines: Vec<Machine> = (0..12)
            .map(|number| {
                let memory = u64::from(between(&mut numbers, 4, 12));
                machine(number, memory, between(&mut numbers, 100_000, 2_000_000))
            })
            .collect();
        let mut holders: Vec<Status> = Vec::new();
        for machine in &machines {
            let span = place(&holders, machine, &sizes).unwrap();
            holders.push(serving(machine, &span));
        }
        let mut moves = 0;
        let mut moved = true;
        for _ in 0..20 {
            moved = false;
            for (at, machine) in machines.iter().enumerate() {
                let current = holders[at].first..holders[at].end;
                if let Some(target) = should_move(&holders, machine, &current, &sizes, NO_TOLL) {
                    holders[at] = serving(machine, &target);
                    (moved, moves) = (true, moves + 1);
                    let bound = flow(&holders, &demand(sizes.layers)).unwrap().bound;
                    assert!(bound > 0, "seed {seed}: nothing is uncovered");
                }
            }
            if !moved {
                break;
            }
        }
        assert!(!moved && moves < 60, "seed {seed}: {moves} moves");
        assert!(flow(&holders, &demand(sizes.layers)).is_ok(), "seed {seed}");
    }
}

#[test]
fn absurd_holders_and_machines_make_no_panic() {
    let absurd = [0, 1, 30, u32::MAX / 2, u32::MAX];
    let mut numbers = Numbers::new(5);
    let mut next = || absurd[numbers.below(5) as usize];
    for _ in 0..500 {
        let holders: Vec<Status> = (0..10)
            .map(|number| {
                let mut peer = peer(number, next(), next());
                peer.speed = Speed { decode_ns: [next(), next(), next()], ..Speed::UNKNOWN };
                peer
            })
            .collect();
        let own = Machine { memory_bytes: u64::from(next()) << 32, ..machine(next() % 12, 5, 1) };
        let sizes = Sizes {
            layer_bytes: u64::from(next()) << 31,
            head_bytes: u64::from(next()),
            ..sizes(30)
        };
        let toll = Toll { bytes_per_s: u64::from(next()), sessions: next() };
        let current = next()..next();
        if let Some(span) = place(&holders, &own, &sizes) {
            assert!(span.start < span.end && span.end <= 30);
        }
        if let Some(span) = should_move(&holders, &own, &current, &sizes, toll) {
            assert!(span.start < span.end && span.end <= 30);
        }
    }
}

/// What a machine that joins knows and has claimed, in a run of virtual time.
struct Joiner {
    machine: Machine,
    before: BTreeSet<Claim>,
    /// What it has claimed, and when.
    claims: Vec<(u64, Range<u32>)>,
    next_look: u64,
    is_settled: bool,
}

/// Lets machines join within two seconds, whose claims take up to half of [`limits::CLAIM_US`] to
/// be seen. Returns their spans, or nothing if they do not come to rest.
fn joined_at_once(seed: u64, count: u32, in_turn: bool) -> Option<Vec<Range<u32>>> {
    let numbers = &mut Numbers::new(seed);
    let head = serving(&machine(100, 0, 1_000_000), &(0..10));
    let joiner = |number: u32, numbers: &mut Numbers| Joiner {
        machine: machine(number + 1, 10, 1_000_000),
        before: BTreeSet::new(),
        claims: Vec::new(),
        next_look: numbers.below(2_000_000),
        is_settled: false,
    };
    let mut joiners: Vec<Joiner> = (0..count).map(|number| joiner(number, numbers)).collect();
    let delay: Vec<u64> = (0..count * count).map(|_| numbers.below(limits::CLAIM_US / 2)).collect();
    for _ in 0..count * limits::CLAIMS {
        let open = joiners.iter().enumerate().filter(|(_, one)| !one.is_settled);
        let Some((at, now)) = open.map(|(at, one)| (at, one.next_look)).min_by_key(|one| one.1)
        else {
            return Some(
                joiners.into_iter().map(|one| one.claims.last().unwrap().1.clone()).collect(),
            );
        };
        let mut seen = vec![head.clone()];
        for (other, joiner) in joiners.iter().enumerate().filter(|(other, _)| *other != at) {
            let since = delay[at * count as usize + other];
            let known = joiner.claims.iter().rev().find(|(told, _)| told + since <= now);
            if let Some((_, span)) = known {
                let mut status = serving(&joiner.machine, span);
                (status.state, status.speed) = (State::Joining, Speed::UNKNOWN);
                seen.push(status);
            }
        }
        let one = &mut joiners[at];
        let last = one.claims.last().map(|(_, last)| last.clone());
        let own = (one.machine.node, MODEL);
        let must_choose = match &last {
            Some(last) if in_turn => gives_way(&seen, &one.before, own, last, 0),
            Some(_) | None => true,
        };
        let chosen = place(&seen, &one.machine, &sizes(60)).expect("there is memory");
        one.is_settled = !must_choose || last.as_ref() == Some(&chosen);
        if !one.is_settled {
            one.before = seen.iter().map(|one| (one.node, one.first, one.end)).collect();
            one.claims.push((now, chosen));
        }
        one.next_look = now + limits::CLAIM_US;
    }
    None
}

#[test]
fn machines_that_join_at_the_same_moment_take_different_holes() {
    let mut without = 0;
    for seed in 0..200 {
        let count = 2 + (seed % 4) as u32;
        let spans = joined_at_once(seed, count, true).expect("they come to rest");
        let layers: BTreeSet<u32> = spans.iter().cloned().flatten().collect();
        assert_eq!(layers.len(), 10 * count as usize, "seed {seed}: {spans:?}");
        // Without turns they would give way to each other at the same moment, or not at all.
        let plain = joined_at_once(seed, count, false);
        let layers = plain.map(|spans| spans.into_iter().flatten().collect::<BTreeSet<u32>>());
        without += usize::from(layers.is_none_or(|layers| layers.len() < 10 * count as usize));
    }
    assert!(without > 20, "{without} of 200");
}

#[test]
fn only_a_new_claim_of_the_same_layers_whose_turn_is_first_makes_a_server_give_way() {
    let own = node(1);
    let claim = |number: u32| {
        let mut status = serving(&machine(number, 10, 1_000_000), &(10..20));
        (status.state, status.speed) = (State::Joining, Speed::UNKNOWN);
        status
    };
    let is_first = |number: &u32| turn_us(node(*number), 0) < turn_us(own, 0);
    let first = (2..100).find(is_first).unwrap();
    let later = (2..100).find(|number| !is_first(number)).unwrap();
    let gives = |status: Status, before: &[Claim], span: Range<u32>| {
        let before = before.iter().copied().collect();
        gives_way(&[status], &before, (own, MODEL), &span, 0)
    };
    assert!(gives(claim(first), &[], 19..29));
    assert!(!gives(claim(later), &[], 19..29));
    assert!(!gives(claim(first), &[], 20..30));
    assert!(!gives(claim(first), &[(node(first), 10, 20)], 19..29));
    assert!(gives(claim(first), &[(node(first), 20, 30)], 19..29), "it has claimed anew");
    let loaded = Status { speed: speed(1_000), ..claim(first) };
    assert!(!gives(loaded, &[], 19..29) && !gives(Status { node: own, ..claim(1) }, &[], 10..20));
}
