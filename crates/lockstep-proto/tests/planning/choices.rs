//! Which ring a request takes, and what it does when it is refused, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_proto::announcement::Status;
use lockstep_proto::limits;
use lockstep_proto::now::Now;
use lockstep_proto::swarm::chooser::{Attempts, Chooser, Next, Source};
use lockstep_proto::swarm::route::fastest;
use lockstep_proto::swarm::trust::{Experience, Standing};
use lockstep_testing::numbers::Numbers;
use lockstep_verify::request::Hop;

use super::support::{demand, node, peer, speed};

/// Two replicas of a ring of two servers, of which the second is half as fast.
fn replicas() -> Vec<Status> {
    let server = |number, first, end, ns| Status { speed: speed(ns), ..peer(number, first, end) };
    vec![
        server(0, 0, 4, 1_000_000),
        server(1, 4, 8, 1_000_000),
        server(2, 0, 4, 2_000_000),
        server(3, 4, 8, 2_000_000),
    ]
}

/// A client of servers that a person has named.
fn chooser(statuses: Vec<Status>) -> Chooser {
    let mut own = Experience::new(1);
    statuses.iter().for_each(|status| own.named(status.node));
    Chooser::new(demand(8), statuses, own)
}

fn nodes(hops: &[Hop]) -> BTreeSet<lockstep_verify::sign::NodeId> {
    hops.iter().map(|hop| hop.node).collect()
}

#[test]
fn a_request_that_is_alone_takes_the_fastest_ring_every_time() {
    let statuses = replicas();
    let best = fastest(&statuses, &demand(8)).unwrap().hops;
    let mut chooser = chooser(statuses);
    for _ in 0..20 {
        assert_eq!(chooser.begin(Now(1)).unwrap(), best);
        chooser.ended();
    }
}

#[test]
fn requests_side_by_side_are_spread_by_what_servers_can_give() {
    for is_busy_swarm in [false, true] {
        let mut statuses = replicas();
        // Others use the swarm, or this client itself does.
        statuses[3].sessions = u32::from(is_busy_swarm);
        let mut chooser = chooser(statuses);
        let mut rings: BTreeMap<_, usize> = BTreeMap::new();
        for _ in 0..300 {
            for hop in chooser.begin(Now(1)).unwrap() {
                *rings.entry(hop.node).or_default() += (hop.end - hop.first) as usize;
            }
            if is_busy_swarm {
                chooser.ended();
            }
        }
        let (fast, slow) = (rings[&node(0)] + rings[&node(1)], rings[&node(2)] + rings[&node(3)]);
        assert!(fast.abs_diff(2 * slow) < fast / 5, "{fast} and {slow} layers");
    }
}

#[test]
fn a_server_without_room_is_left_out_for_as_long_as_it_said_and_no_longer() {
    let mut chooser = chooser(replicas());
    let now = Now(1_000_000);
    chooser.refused(now, node(0), 500, Source::Own);
    for at in [now, now.after(499_999)] {
        assert!(!nodes(&chooser.begin(at).unwrap()).contains(&node(0)));
        chooser.ended();
    }
    assert!(nodes(&chooser.begin(now.after(500_000)).unwrap()).contains(&node(0)));
}

#[test]
fn a_server_that_says_it_is_full_gets_no_request_of_many() {
    let mut statuses = replicas();
    statuses[0].sessions = statuses[0].sessions_limit;
    let mut chooser = chooser(statuses);
    for _ in 0..50 {
        assert!(!nodes(&chooser.begin(Now(1)).unwrap()).contains(&node(0)));
    }
}

#[test]
fn a_refused_request_takes_the_next_ring_at_once_and_waits_only_if_there_is_none() {
    let mut chooser = chooser(replicas());
    let now = Now(1_000_000);
    let mut attempts = Attempts::new(now);
    chooser.refused(now, node(0), 3_000, Source::Own);
    assert_eq!(attempts.refused(now, &mut chooser, Source::Own, 7), Next::Again(now));
    assert!(nodes(&chooser.begin(now).unwrap()).contains(&node(2)));
    chooser.ended();
    chooser.refused(now, node(2), 5_000, Source::Own);
    // The first of them may have room in three seconds; a part is drawn.
    let next = attempts.refused(now, &mut chooser, Source::Own, 7);
    assert_eq!(next, Next::Again(now.after(3_000_007)));
    // Who names a time that is too short is not believed again and again.
    for refusals in 3..12 {
        chooser.refused(now, node(0), 1, Source::Own);
        chooser.refused(now, node(2), 1, Source::Own);
        let Next::Again(at) = attempts.refused(now, &mut chooser, Source::Own, 0) else {
            panic!("given up")
        };
        let backoff = limits::RETRY_US << limits::RETRY_DOUBLINGS.min(refusals);
        assert_eq!(at, now.after(backoff), "refusal {refusals}");
    }
}

#[test]
fn a_request_is_given_up_for_its_patience_alone() {
    for retry_ms in [1, 400, 30_000, limits::RETRY_MS] {
        let mut numbers = Numbers::new(u64::from(retry_ms));
        let mut chooser = chooser(replicas());
        let began = Now(1_000_000);
        let (mut now, mut refusals) = (began, 0);
        let mut attempts = Attempts::new(began);
        loop {
            chooser.refused(now, node(0), retry_ms, Source::Own);
            chooser.refused(now, node(2), retry_ms, Source::Own);
            refusals += 1;
            match attempts.refused(now, &mut chooser, Source::Own, numbers.next_u64()) {
                Next::Again(at) => {
                    assert!(at > now && at.since(began) <= limits::PATIENCE_US);
                    now = at;
                }
                Next::GiveUp => break,
            }
        }
        // The next time to ask would have been beyond its patience, or it has asked often enough.
        let wait = (u64::from(retry_ms) * 1000).max(limits::RETRY_US << limits::RETRY_DOUBLINGS);
        let was_patient = now.since(began) + 2 * wait >= limits::PATIENCE_US;
        assert!(was_patient || refusals == limits::ATTEMPTS, "{retry_ms} ms: {refusals}");
    }
}

#[test]
fn no_request_goes_over_servers_that_are_unproven_banned_or_avoided_and_each_is_learned_at_once() {
    // Both of the second replica say that they take no time, and that others are busy.
    let mut statuses = replicas();
    for wonder in &mut statuses[2..] {
        wonder.speed = speed(1);
    }
    statuses[0].sessions = 3;
    let mut own = Experience::new(1);
    own.named(node(0));
    own.named(node(1));
    let mut chooser = Chooser::new(demand(8), statuses.clone(), own);
    let named: BTreeSet<_> = [node(0), node(1)].into();
    for _ in 0..20 {
        assert_eq!(nodes(&chooser.begin(Now(1)).unwrap()), named, "along the flow, too");
    }
    (0..20).for_each(|_| chooser.ended());
    assert_eq!(nodes(&chooser.fastest().unwrap()), named);
    let canary = chooser.canary(Now(1)).expect("two are to be tried");
    assert_eq!(canary.iter().filter(|hop| !named.contains(&hop.node)).count(), 1, "{canary:?}");
    let tried = *nodes(&canary).difference(&named).next().unwrap();
    assert!(!chooser.allows(&canary));
    chooser.learn(|own| own.verified(tried));
    assert!(chooser.allows(&canary) && chooser.standing(tried) == Standing::Proven);
    assert!(!nodes(&chooser.fastest().unwrap()).contains(&tried), "no word of its speed counts");
    chooser.timed(&canary, 1);
    assert!(nodes(&chooser.fastest().unwrap()).contains(&tried), "but what was measured does");
    chooser.learn(|own| own.convicted(tried));
    assert_eq!(nodes(&chooser.fastest().unwrap()), named);
    assert!(!chooser.allows(&canary));
    chooser.avoid(node(0));
    assert!(chooser.fastest().is_err() && chooser.begin(Now(2)).is_err());
    chooser.see(statuses);
    assert!(chooser.fastest().is_err(), "newer words change nothing");
}

#[test]
fn what_a_server_says_of_another_leaves_it_out_for_seconds_and_is_believed_once() {
    let now = Now(1_000_000);
    let mut chooser = chooser(replicas());
    let liar = Source::Reported(node(0));
    chooser.refused(now, node(1), limits::RETRY_MS, liar);
    let begun = |chooser: &mut Chooser, at: Now| {
        let ring = nodes(&chooser.begin(at).unwrap());
        chooser.ended();
        ring
    };
    let over = now.after(u64::from(limits::REPORTED_MS) * 1000);
    assert!(!begun(&mut chooser, Now(over.0 - 1)).contains(&node(1)));
    assert!(begun(&mut chooser, over).contains(&node(1)));
    // What it says itself holds for as long as it says, whoever says otherwise.
    chooser.refused(now, node(1), 60_000, Source::Own);
    chooser.refused(now, node(1), 1, liar);
    assert!(!begun(&mut chooser, now.after(59_000_000)).contains(&node(1)));
    // A server 1 that says of one server after the other that it is full is left out itself, and
    // those are not.
    let mut chooser = self::chooser(replicas());
    let mut attempts = Attempts::new(now);
    for other in [node(1), node(3)] {
        let ring = nodes(&attempts.begin(now, &mut chooser).unwrap());
        assert!(ring.contains(&node(0)) && ring.contains(&other), "{ring:?}");
        chooser.ended();
        chooser.refused(now, other, limits::RETRY_MS, liar);
        assert_eq!(attempts.refused(now, &mut chooser, liar, 7), Next::Again(now));
    }
    let ring = nodes(&attempts.begin(now, &mut chooser).unwrap());
    assert_eq!(ring, BTreeSet::from([node(2), node(1)]));
}

#[test]
fn a_request_that_fails_takes_a_ring_without_the_server_for_which_it_failed() {
    let now = Now(1_000_000);
    for (failed, source) in [(node(0), Source::Own), (node(1), Source::Reported(node(0)))] {
        let mut chooser = chooser(replicas());
        let mut attempts = Attempts::new(now);
        let ring = attempts.begin(now, &mut chooser).unwrap();
        assert_eq!(nodes(&ring), BTreeSet::from([node(0), node(1)]));
        let next = attempts.failed(now, &mut chooser, &ring, Some((failed, source)));
        assert_eq!(next, Next::Again(now));
        chooser.ended();
        // For this request it is left out for good, for others for seconds.
        let later = now.after(60_000_000);
        for at in [now, later] {
            let ring = attempts.begin(at, &mut chooser).unwrap();
            assert!(!nodes(&ring).contains(&failed), "at {at:?}");
            chooser.ended();
        }
        assert!(nodes(&chooser.begin(later).unwrap()).contains(&failed));
    }
}

#[test]
fn a_request_that_fails_without_a_name_leaves_as_much_of_its_ring_as_it_can() {
    let now = Now(1_000_000);
    let mut chooser = chooser(replicas());
    let mut attempts = Attempts::new(now);
    let ring = attempts.begin(now, &mut chooser).unwrap();
    assert_eq!(attempts.failed(now, &mut chooser, &ring, None), Next::Again(now));
    let other = attempts.begin(now, &mut chooser).unwrap();
    assert_eq!(nodes(&other), BTreeSet::from([node(2), node(3)]));
    // There is no third one, and none is asked twice.
    assert_eq!(attempts.failed(now, &mut chooser, &other, None), Next::GiveUp);
    // With one server of layers 4 to 8 only the first part can change.
    let mut chooser = self::chooser(replicas()[..3].to_vec());
    let mut attempts = Attempts::new(now);
    let ring = attempts.begin(now, &mut chooser).unwrap();
    assert_eq!(attempts.failed(now, &mut chooser, &ring, None), Next::Again(now));
    let other = attempts.begin(now, &mut chooser).unwrap();
    assert_eq!(nodes(&other), BTreeSet::from([node(2), node(1)]));
    assert_eq!(attempts.failed(now, &mut chooser, &other, None), Next::GiveUp);
}

#[test]
fn failures_move_a_request_a_few_times_and_not_for_ever() {
    let began = Now(1_000_000);
    // Twenty replicas of everything.
    let statuses: Vec<Status> = (0..20).map(|number| peer(number, 0, 8)).collect();
    let fail = |step_us: u64| {
        let mut chooser = chooser(statuses.clone());
        let (mut attempts, mut now, mut moves) = (Attempts::new(began), began, 0);
        loop {
            let ring = attempts.begin(now, &mut chooser).unwrap();
            now = now.after(step_us);
            let named = Some((ring[0].node, Source::Own));
            match attempts.failed(now, &mut chooser, &ring, named) {
                Next::Again(at) => assert_eq!(at, now),
                Next::GiveUp => return moves,
            }
            moves += 1;
        }
    };
    assert_eq!(fail(1_000), limits::MOVES);
    assert_eq!(fail(limits::PATIENCE_US / 2 + 1), 1);
    // One that has no other ring fails with what happened.
    let mut chooser = chooser(statuses[..1].to_vec());
    let mut attempts = Attempts::new(began);
    let ring = attempts.begin(began, &mut chooser).unwrap();
    let named = Some((ring[0].node, Source::Own));
    assert_eq!(attempts.failed(began, &mut chooser, &ring, named), Next::GiveUp);
}
