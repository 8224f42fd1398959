//! Gossip between many nodes in virtual time: everybody learns of everybody, nobody stays who is
//! gone, and whoever floods, forges or stalls gains nothing.

use std::sync::Arc;

use lockstep_proto::announcement::addresses::AddressFault;
use lockstep_proto::announcement::{Announcement, AnnouncementFault, State};
use lockstep_proto::frame::{Frame as _, Known, ShortId, SwarmFrame};
use lockstep_proto::limits;
use lockstep_proto::now::Now;
use lockstep_proto::swarm::gossip::{
    Event, ExchangeId, Gossip, Input, Output, Seed, lease_ms, round_us,
};
use lockstep_proto::swarm::members::{MemberFault, Members, Taken};
use lockstep_testing::gossip::{START, World, announcement, key};
use lockstep_verify::sign::{Keypair, NodeId};

#[test]
fn everybody_learns_of_everybody_in_a_few_rounds() {
    for (nodes, most_rounds) in [(2, 4), (10, 12), (100, 18)] {
        let mut world = World::new(7, nodes);
        let rounds = world.rounds_until_all_know(nodes - 1);
        assert!(rounds <= most_rounds, "{nodes} nodes took {rounds} rounds");
        println!("{nodes} nodes: {rounds} rounds, {} bytes/s a node", world.bytes_per_second());
    }
}

#[test]
fn a_node_that_falls_silent_is_gone_everywhere_within_its_lease() {
    let mut world = World::new(8, 20);
    world.rounds_until_all_know(19);
    world.kill(3);
    world.run(limits::ANNOUNCEMENT_MS * 1000);
    let dead = key(3).id();
    for (at, node) in world.living() {
        assert!(node.members().get(dead).is_none(), "node {at} keeps a ghost");
        assert_eq!(node.members().len(), 18);
    }
}

#[test]
fn a_node_that_leaves_is_gone_everywhere_in_a_few_rounds_and_can_come_back() {
    let mut world = World::new(8, 20);
    world.rounds_until_all_know(19);
    world.leave(3);
    let rounds = world.rounds_until_all_know(18);
    assert!(rounds <= 8, "{rounds}");
    // Older announcements of it are still on their way: none brings it back.
    world.run(limits::ANNOUNCEMENT_MS * 500);
    let gone = key(3).id();
    assert!(world.living().all(|(_, node)| node.members().get(gone).is_none()));
    world.revive(3);
    let rounds = world.rounds_until_all_know(19);
    assert!(rounds <= 14, "{rounds}");
}

#[test]
fn a_node_that_comes_back_is_known_again() {
    let mut world = World::new(9, 12);
    world.rounds_until_all_know(11);
    world.kill(5);
    world.run(limits::ANNOUNCEMENT_MS * 1000);
    world.revive(5);
    let rounds = world.rounds_until_all_know(11);
    assert!(rounds <= 14, "{rounds}");
}

#[test]
fn two_halves_that_lost_each_other_for_longer_than_a_lease_find_together_again() {
    let mut world = World::new(10, 16);
    world.rounds_until_all_know(15);
    world.part_at(8);
    world.run(3 * limits::ANNOUNCEMENT_MS * 1000);
    assert!(world.living().all(|(_, node)| node.members().len() == 7), "each knows its half");
    world.join();
    // Former members are tried once in a few rounds, and left alone for a while in between.
    let rounds = world.rounds_until_all_know(15);
    assert!(rounds <= 120, "{rounds}");
}

#[test]
fn lost_frames_are_made_up_for_by_the_next_exchange() {
    let mut world = World::new(11, 30);
    world.loss_percent = 15;
    let rounds = world.rounds_until_all_know(29);
    assert!(rounds <= 100, "{rounds}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let mut world = World::new(seed, 15);
        world.run(20_000_000);
        (world.bytes, world.living().map(|(_, node)| node.members().len()).collect::<Vec<_>>())
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1).0, trace(2).0);
}

#[test]
fn a_reader_learns_of_everybody_and_nobody_of_it() {
    let mut world = World::new(12, 10);
    world.rounds_until_all_know(9);
    let reader = world.add_reader();
    world.run(12 * limits::GOSSIP_ROUND_US);
    let known = world.nodes[reader].members().len();
    assert_eq!(known, 10);
    assert!(world.living().all(|(at, node)| at == reader || node.members().len() == 9));
}

#[test]
fn what_a_swarm_costs_each_node_does_not_grow_with_the_swarm() {
    assert_eq!(
        (round_us(0), round_us(1_000), round_us(10_000)),
        (1_000_000, 1_000_000, 10_000_000)
    );
    assert_eq!((lease_ms(0), lease_ms(1_000), lease_ms(10_000)), (30_000, 30_000, 300_000));
    assert_eq!(lease_ms(usize::MAX), limits::ANNOUNCEMENT_MOST_MS);
}

/// The announcement of node 1 with another address.
fn at_address(one: Announcement, address: &str) -> Announcement {
    Announcement { address: address.to_owned(), ..one }.signed(&key(1))
}

/// `cargo test --release -p lockstep-proto --test gossip -- --ignored --nocapture cost`; the
/// variable `NODES` takes other numbers. Every node checks the signature of every announcement, all
/// in this one thread: a thousand nodes take minutes.
#[test]
#[ignore = "minutes, for its figures"]
fn the_cost_of_gossip_in_swarms_of_many_sizes() {
    // default: what takes no longer than a few minutes
    let sizes = std::env::var("NODES").unwrap_or_else(|_| "10,30,100,300,1000".to_owned());
    for nodes in sizes.split(',').map(|text| text.parse::<usize>().expect("a number")) {
        let mut world = World::new(1, nodes);
        let rounds = world.rounds_until_all_know(nodes - 1);
        let learning = world.bytes / nodes as u64;
        let before = world.bytes;
        // All announcements are renewed once.
        let lease_us = lease_ms(nodes) * 1000;
        world.run(lease_us / 3);
        let steady = (world.bytes - before) as f64 / nodes as f64 / (lease_us as f64 / 3e6);
        println!(
            "{nodes} nodes: everybody knew everybody after {rounds} s and {learning} bytes a node; \
             then {steady:.0} bytes/s a node, a lease of {} s, a round of {:.1} s",
            lease_us / 1_000_000,
            round_us(nodes) as f64 / 1e6,
        );
        assert!(world.living().all(|(_, node)| node.members().len() == nodes - 1));
    }
}

fn taken(members: &mut Members, one: &Announcement, now: Now) -> Result<Taken, MemberFault> {
    let node = one.status.node;
    members.take(Arc::new(one.clone()), node, now)
}

#[test]
fn every_kind_of_wrong_announcement_is_refused_with_its_reason() {
    type Change = fn(Announcement) -> Announcement;
    let at = |fault| MemberFault::Announcement(AnnouncementFault::Address(fault));
    let rows: [(&str, Change, MemberFault); 12] = [
        ("nowhere in particular", |one| at_address(one, "0.0.0.0:1"), at(AddressFault::Nobody)),
        ("everybody", |one| at_address(one, "255.255.255.255:1"), at(AddressFault::Nobody)),
        ("a group", |one| at_address(one, "192.0.2.1:1,[ff02::1]:1"), at(AddressFault::Nobody)),
        (
            "a relay at port 0",
            |one| {
                let relay = format!("{}@192.0.2.1:0", "a".repeat(64));
                at_address(one, &relay)
            },
            at(AddressFault::Nobody),
        ),
        ("a name", |one| at_address(one, "example.org:443"), at(AddressFault::Unreadable)),
        ("a gap", |one| at_address(one, "192.0.2.1:1,,192.0.2.2:1"), at(AddressFault::Unreadable)),
        (
            "nine addresses",
            |one| at_address(one, &["192.0.2.1:1"; 9].join(",")),
            at(AddressFault::TooMany),
        ),
        (
            "forged",
            |mut one| {
                one.address.push('1');
                one
            },
            MemberFault::Announcement(AnnouncementFault::Signature(
                lockstep_verify::sign::BadSignature { by: key(1).id() },
            )),
        ),
        (
            "expired",
            |one| Announcement { expires_unix_ms: START.unix_ms(), ..one }.signed(&key(1)),
            MemberFault::Announcement(AnnouncementFault::Expired),
        ),
        (
            "true for ever",
            |one| Announcement { expires_unix_ms: u64::MAX, ..one }.signed(&key(1)),
            MemberFault::Announcement(AnnouncementFault::TooLong),
        ),
        (
            "from the future",
            |one| Announcement { sequence: u64::MAX, ..one }.signed(&key(1)),
            MemberFault::Announcement(AnnouncementFault::TooLong),
        ),
        ("an old one again", |one| one, MemberFault::Announcement(AnnouncementFault::Old)),
    ];
    for (what, change, fault) in rows {
        let mut members = Members::default();
        let one = announcement(&key(1), START, 30_000, "192.0.2.1:1");
        if what == "an old one again" {
            assert_eq!(taken(&mut members, &one, START), Ok(Taken::Joined));
        }
        let before = members.summary();
        assert_eq!(taken(&mut members, &change(one), START), Err(fault), "{what}");
        assert_eq!(members.summary(), before, "{what}");
    }
}

#[test]
fn a_node_that_announces_too_often_is_not_followed() {
    let mut members = Members::default();
    let at = |ms: u64| START.after(ms * 1000);
    let one = |ms: u64| announcement(&key(1), at(ms), 30_000, "192.0.2.1:1");
    let results: Vec<_> = (0..8).map(|ms| taken(&mut members, &one(ms), at(ms)).is_ok()).collect();
    assert_eq!(results, [true, true, true, true, false, false, false, false]);
    assert_eq!(taken(&mut members, &one(8), at(8)), Err(MemberFault::TooOften));
    let later = limits::SWARM_RENEWAL_US / 1000 + 10;
    assert_eq!(taken(&mut members, &one(later), at(later)), Ok(Taken::Renewed));
}

/// Keys are drawn once for all tests that need thousands.
fn many_keys(count: u32) -> Vec<Keypair> {
    let key = |number: u32| {
        let mut secret = [9; 32];
        secret.iter_mut().zip(number.to_le_bytes()).for_each(|(to, from)| *to = from);
        Keypair::from_secret(&secret)
    };
    (0..count).map(key).collect()
}

#[test]
fn nodes_of_one_host_are_bounded_and_those_of_others_come_in() {
    let mut members = Members::default();
    let keys = many_keys(limits::SWARM_NODES_OF_HOST as u32 + 2);
    for (at, key) in keys.iter().enumerate() {
        let one = announcement(key, START, 30_000, &format!("192.0.2.1:{}", at + 1));
        let result = taken(&mut members, &one, START);
        if at < limits::SWARM_NODES_OF_HOST {
            assert_eq!(result, Ok(Taken::Joined), "{at}");
        } else {
            assert_eq!(result, Err(MemberFault::HostFull), "{at}");
        }
    }
    let elsewhere = announcement(&key(1), START, 30_000, "192.0.2.2:1");
    assert_eq!(taken(&mut members, &elsewhere, START), Ok(Taken::Joined));
    // A member renews itself on the full host, and can't move another there.
    let now = START.after(5_000_000);
    let renewed = announcement(&keys[0], now, 30_000, "192.0.2.1:1");
    assert_eq!(taken(&mut members, &renewed, now), Ok(Taken::Renewed));
    let moved = announcement(&key(1), now, 30_000, "192.0.2.1:7");
    assert_eq!(taken(&mut members, &moved, now), Err(MemberFault::HostFull));
    // When they have expired there is room again.
    let later = START.after(60_000_000);
    let again = announcement(&key(1), later, 30_000, "192.0.2.1:7");
    assert_eq!(taken(&mut members, &again, later), Ok(Taken::Joined));
    assert_eq!(members.len(), 1);
}

#[test]
fn one_peer_fills_only_its_share_of_the_table() {
    let mut members = Members::default();
    let flooder = key(250).id();
    let mut last = Ok(Taken::Joined);
    for (at, key) in many_keys(limits::SWARM_NODES_OF_PEER as u32 + 1).iter().enumerate() {
        let address = format!("10.{}.{}.1:1", at / 200, at % 200);
        let one = announcement(key, START, 30_000, &address);
        last = members.take(Arc::new(one), flooder, START);
    }
    assert_eq!(last, Err(MemberFault::PeerFull));
    let honest = announcement(&key(1), START, 30_000, "192.0.2.2:1");
    assert_eq!(taken(&mut members, &honest, START), Ok(Taken::Joined));
    assert_eq!(members.len(), limits::SWARM_NODES_OF_PEER + 1);
}

#[test]
fn a_banned_node_does_not_come_back() {
    let mut members = Members::default();
    let one = announcement(&key(1), START, 30_000, "192.0.2.2:1");
    assert_eq!(taken(&mut members, &one, START), Ok(Taken::Joined));
    members.ban(key(1).id());
    assert!(members.is_empty());
    let now = START.after(9_000_000);
    let again = announcement(&key(1), now, 30_000, "192.0.2.2:1");
    assert_eq!(taken(&mut members, &again, now), Err(MemberFault::Banned));
}

fn node_with_own() -> Gossip {
    let mut node = Gossip::new(key(1).id(), Vec::new(), 3);
    let own = announcement(&key(1), START, 30_000, "192.0.2.1:1");
    node.handle(START, Input::Announce(Arc::new(own)));
    node
}

fn outputs(node: &mut Gossip) -> Vec<Output> {
    std::iter::from_fn(|| node.poll()).collect()
}

fn body(frame: &SwarmFrame) -> Vec<u8> {
    frame.to_wire().expect("it fits")[limits::LENGTH_BYTES..].to_vec()
}

fn news(announcements: Vec<Arc<Announcement>>) -> SwarmFrame {
    SwarmFrame::News { announcements, wanted: Vec::new(), has_more: false }
}

#[test]
fn frames_that_no_node_sends_close_the_exchange() {
    let peer = key(2).id();
    let summary = || body(&SwarmFrame::Summary(Vec::new()));
    let rows: [(&str, Vec<Vec<u8>>); 5] = [
        ("not a frame", vec![vec![9, 9, 9]]),
        ("nothing", vec![Vec::new()]),
        ("two summaries", vec![summary(), summary()]),
        (
            "a summary out of order",
            vec![{
                let known = |node| Known { node: ShortId(node), sequence: 1 };
                let mut wire = body(&SwarmFrame::Summary(vec![known(1), known(2)]));
                wire[5..13].copy_from_slice(&9_u64.to_le_bytes());
                wire
            }],
        ),
        ("bytes behind the frame", vec![[summary(), vec![0]].concat()]),
    ];
    for (what, bodies) in rows {
        let mut node = node_with_own();
        let exchange = ExchangeId::Accepted(1);
        for body in bodies {
            node.handle(START, Input::Frame { exchange, peer, body });
        }
        let closed = Output::Close { exchange, is_fault: true };
        assert!(outputs(&mut node).contains(&closed), "{what}");
    }
}

#[test]
fn news_that_nobody_asked_for_are_not_read() {
    let mut node = node_with_own();
    let one = Arc::new(announcement(&key(3), START, 30_000, "192.0.2.3:1"));
    let exchange = ExchangeId::Accepted(1);
    let body = body(&news(vec![one]));
    node.handle(START, Input::Frame { exchange, peer: key(2).id(), body });
    assert!(node.members().is_empty());
    assert_eq!(outputs(&mut node), [Output::Close { exchange, is_fault: false }]);
}

#[test]
fn a_peer_that_begins_too_many_exchanges_is_not_answered_and_others_are() {
    let mut node = node_with_own();
    let ask = |node: &mut Gossip, number: u64, peer: NodeId| {
        let exchange = ExchangeId::Accepted(number);
        let body = body(&SwarmFrame::Summary(Vec::new()));
        node.handle(START, Input::Frame { exchange, peer, body });
        let answered = outputs(node).iter().any(|output| matches!(output, Output::Send { .. }));
        node.handle(START, Input::Lost(exchange));
        answered
    };
    let most = limits::EXCHANGES_OF_PEER_AT_ONCE;
    let answered = (0..most + 5).filter(|number| ask(&mut node, *number, key(2).id())).count();
    assert_eq!(answered as u64, most);
    assert!(ask(&mut node, 1_000, key(3).id()));
}

#[test]
fn exchanges_that_stall_end_at_their_deadline() {
    let mut node = node_with_own();
    let exchange = ExchangeId::Accepted(1);
    let known = vec![Known { node: key(9).id().into(), sequence: 5 }];
    let body = body(&SwarmFrame::Summary(known));
    node.handle(START, Input::Frame { exchange, peer: key(2).id(), body });
    outputs(&mut node);
    let end = START.after(limits::EXCHANGE_US);
    node.handle(Now(end.0 - 1), Input::Tick);
    assert!(outputs(&mut node).is_empty());
    node.handle(end, Input::Tick);
    assert_eq!(outputs(&mut node), [Output::Close { exchange, is_fault: false }]);
}

#[test]
fn another_process_with_the_same_key_is_noticed() {
    let mut node = node_with_own();
    let exchange = ExchangeId::Accepted(1);
    let now = START.after(1_000_000);
    let twin = Arc::new(announcement(&key(1), now, 30_000, "192.0.2.9:1"));
    let known = vec![Known { node: key(9).id().into(), sequence: 5 }];
    let peer = key(2).id();
    let body_of = |frame: SwarmFrame| Input::Frame { exchange, peer, body: body(&frame) };
    node.handle(now, body_of(SwarmFrame::Summary(known)));
    node.handle(now, body_of(news(vec![twin])));
    assert!(outputs(&mut node).contains(&Output::Event(Event::Twin)));
    assert!(node.members().is_empty());
}

#[test]
fn a_node_that_was_found_is_dialled_and_no_more_than_a_few_are() {
    let own = key(1).id();
    let seed =
        |number: usize| Seed { node: key(number).id(), address: format!("192.0.2.{number}:1") };
    let mut node = Gossip::new(own, Vec::new(), 3);
    node.handle(START, Input::Found(Seed { node: own, ..seed(1) }));
    let dialled = |node: &mut Gossip| {
        let outputs = std::iter::from_fn(|| node.poll()).collect::<Vec<_>>();
        let dials = outputs.into_iter().filter_map(|output| match output {
            Output::Dial { node, address, .. } => Some((node, address)),
            _ => None,
        });
        dials.collect::<Vec<_>>()
    };
    let round = |node: &mut Gossip| {
        let at = node.deadline().expect("a round");
        node.handle(at, Input::Tick);
        at
    };
    round(&mut node);
    assert_eq!(dialled(&mut node), [], "nobody is known, and no node dials itself");
    // Where it was found last is where it is.
    let at = round(&mut node);
    node.handle(at, Input::Found(Seed { address: "192.0.2.9:1".to_owned(), ..seed(2) }));
    node.handle(at, Input::Found(seed(2)));
    round(&mut node);
    assert_eq!(dialled(&mut node), [(key(2).id(), seed(2).address)]);
    // A ticket says where a node is, whoever says otherwise.
    let mut ticket = Gossip::new(own, vec![seed(3)], 3);
    ticket.handle(START, Input::Found(Seed { address: "192.0.2.9:1".to_owned(), ..seed(3) }));
    let mut to = Vec::new();
    while to.is_empty() {
        round(&mut ticket);
        to = dialled(&mut ticket);
    }
    assert_eq!(to, [(key(3).id(), seed(3).address)]);
    // Anybody on a local network can be found under as many names as it likes.
    for number in 0..256 {
        node.handle(at, Input::Found(seed(number)));
    }
    let mut all = std::collections::BTreeSet::new();
    for _ in 0..2_000 {
        round(&mut node);
        all.extend(dialled(&mut node).into_iter().map(|(node, _)| node));
    }
    assert!(all.len() > 1 && all.len() <= limits::GOSSIP_SEEDS, "{} were dialled", all.len());
    assert!(!all.contains(&key(2).id()), "what was found long ago is dialled still");
}

#[test]
fn every_host_that_an_announcement_names_counts() {
    type Row = (&'static str, usize, fn(usize) -> String);
    let rows: [Row; 5] = [
        ("the second", 256, |at| format!("10.0.{}.{}:1,192.0.2.1:1", at >> 8, at & 255)),
        ("behind a space", 256, |at| format!(" 192.0.2.1:{}", at + 1)),
        ("in IPv6", 256, |at| format!("[::ffff:192.0.2.1]:{}", at + 1)),
        ("none", 256, |_| String::new()),
        ("a relay", 4096, |at| format!("{}@192.0.2.1:{}", "a".repeat(64), at + 1)),
    ];
    let keys = many_keys(limits::SWARM_NODES_OF_RELAY as u32 + 1);
    for (what, most, address) in rows {
        let mut members = Members::default();
        for (at, key) in keys.iter().take(most + 1).enumerate() {
            let one = announcement(key, START, 30_000, &address(at));
            let expected = if at < most { Ok(Taken::Joined) } else { Err(MemberFault::HostFull) };
            assert_eq!(taken(&mut members, &one, START), expected, "{what}: {at}");
        }
        // Whoever leaves makes room on all of its hosts.
        members.ban(keys[0].id());
        let one = announcement(&keys[most], START, 30_000, &address(most));
        assert_eq!(taken(&mut members, &one, START), Ok(Taken::Joined), "{what}");
    }
}

/// Gives a node the summary of a peer that knows something newer, in an exchange of this number;
/// returns whether it was answered.
fn stall(node: &mut Gossip, now: Now, number: u64, peer: NodeId) -> bool {
    let exchange = ExchangeId::Accepted(number);
    let known = vec![Known { node: key(900).id().into(), sequence: 5 }];
    let body = body(&SwarmFrame::Summary(known));
    node.handle(now, Input::Frame { exchange, peer, body });
    outputs(node).iter().any(|output| matches!(output, Output::Send { .. }))
}

#[test]
fn peers_that_stall_keep_a_node_neither_from_asking_nor_from_answering_others() {
    let seed = Seed { node: key(2).id(), address: "192.0.2.2:1".to_owned() };
    let mut node = Gossip::new(key(1).id(), vec![seed.clone()], 3);
    node.handle(START, Input::Tick);
    outputs(&mut node);
    node.handle(START, Input::Lost(ExchangeId::Dialled(1)));
    // Four with sixteen links each, which never send what they were asked for.
    let mut number = 0;
    let mut stalled = |node: &mut Gossip, now, peer: usize| {
        number += 1;
        stall(node, now, number, key(peer).id())
    };
    let answered: Vec<usize> =
        (10..14).map(|peer| (0..16).filter(|_| stalled(&mut node, START, peer)).count()).collect();
    assert_eq!(answered, [limits::EXCHANGES_ACCEPTED_OF_PEER; 4]);
    assert!(stalled(&mut node, START, 14), "others are answered");
    // However many they are, the places for what this node begins are not theirs.
    let more = (20..200).filter(|peer| stalled(&mut node, START, *peer)).count();
    assert_eq!(more, limits::EXCHANGES_ACCEPTED - 4 * limits::EXCHANGES_ACCEPTED_OF_PEER - 1);
    let mut now = START;
    let mut has_asked = false;
    while !has_asked && now < START.after(limits::EXCHANGE_US - 1) {
        now = node.deadline().expect("a round");
        node.handle(now, Input::Tick);
        let is_dial = |one: &Output| matches!(one, Output::Dial { node, .. } if *node == seed.node);
        has_asked = outputs(&mut node).iter().any(is_dial);
    }
    assert!(has_asked, "it has fallen silent");
    // When their time is over they are left alone, each time for longer, and others are answered.
    let late = START.after(limits::EXCHANGE_US);
    node.handle(late, Input::Tick);
    let closed = outputs(&mut node);
    let closed = closed.iter().filter(|one| matches!(one, Output::Close { .. })).count();
    assert!(closed >= limits::EXCHANGES_ACCEPTED, "{closed}");
    // It had two of them.
    let again = late.after(4 * limits::GOSSIP_BACKOFF_US);
    assert!(!stalled(&mut node, Now(again.0 - 1), 10), "it is left alone");
    assert!(stalled(&mut node, Now(again.0 - 1), 300), "nobody else is");
    assert!(stalled(&mut node, again, 10));
    node.handle(again.after(limits::EXCHANGE_US), Input::Tick);
    let twice = again.after(limits::EXCHANGE_US + 8 * limits::GOSSIP_BACKOFF_US);
    assert!(!stalled(&mut node, Now(twice.0 - 1), 10), "for twice as long");
    assert!(stalled(&mut node, twice, 10));
}

#[test]
fn a_peer_that_takes_news_and_never_closes_has_not_been_told() {
    let mut node = node_with_own();
    let exchange = ExchangeId::Accepted(1);
    let body = body(&SwarmFrame::Summary(Vec::new()));
    node.handle(START, Input::Frame { exchange, peer: key(2).id(), body });
    assert!(matches!(outputs(&mut node)[..], [.., Output::Send { .. }]));
    node.handle(START.after(limits::EXCHANGE_US), Input::Tick);
    assert_eq!(outputs(&mut node), [Output::Close { exchange, is_fault: false }]);
    assert!(!stall(&mut node, START.after(limits::EXCHANGE_US), 2, key(2).id()));
}

/// An announcement whose signature was changed.
fn forged(number: usize, ms: u64) -> Arc<Announcement> {
    let address = format!("10.1.{}.{}:1", number >> 8, number & 255);
    let mut one = announcement(&key(number), START.after(ms * 1000), 30_000, &address);
    one.signature.0[7] ^= 1;
    Arc::new(one)
}

#[test]
fn after_one_forged_announcement_nothing_of_the_peer_is_looked_at() {
    let peer = key(2).id();
    let honest = Arc::new(announcement(&key(3), START, 30_000, "192.0.2.3:1"));
    let of_oneself = |ms: u64| {
        let mut one = announcement(&key(1), START.after(ms * 1000), 30_000, "192.0.2.1:1");
        one.signature.0[7] ^= 1;
        Arc::new(one)
    };
    let rows: [(&str, Vec<Arc<Announcement>>); 4] = [
        ("of a thousand nodes", (10..1010).map(|number| forged(number, 0)).collect()),
        ("one, again and again", vec![forged(10, 0); 1000]),
        ("one, newer and newer", (0..1000).map(|ms| forged(10, ms)).collect()),
        ("of the node itself", (1..1000).map(of_oneself).collect()),
    ];
    for (what, mut brought) in rows {
        brought.push(Arc::clone(&honest));
        for is_asked in [false, true] {
            let seed = Seed { node: peer, address: "192.0.2.2:1".to_owned() };
            let mut node = Gossip::new(key(1).id(), vec![seed], 3);
            let own = announcement(&key(1), START, 30_000, "192.0.2.1:1");
            node.handle(START, Input::Announce(Arc::new(own)));
            let exchange = match is_asked {
                false => ExchangeId::Accepted(1),
                true => ExchangeId::Dialled(1),
            };
            if !is_asked {
                node.handle(START, Input::Lost(ExchangeId::Dialled(1)));
                assert!(stall(&mut node, START, 1, peer), "{what}");
            }
            outputs(&mut node);
            let body = body(&news(brought.clone()));
            node.handle(START, Input::Frame { exchange, peer, body });
            let outputs = outputs(&mut node);
            let is_refused = |one: &&Output| matches!(one, Output::Event(Event::Refused { .. }));
            assert_eq!(outputs.iter().filter(is_refused).count(), 1, "{what}: {outputs:?}");
            assert!(outputs.contains(&Output::Close { exchange, is_fault: true }), "{what}");
            assert!(node.members().is_empty(), "{what}");
            assert!(!stall(&mut node, START, 2, peer), "{what}: it is answered still");
        }
    }
}

#[test]
fn of_what_one_peer_brings_so_many_signatures_are_checked_in_a_time() {
    let (peer, nodes) = (key(2).id(), 2600);
    let keys = many_keys(nodes);
    let mut node = node_with_own();
    let mut number = 0;
    let mut bring = |node: &mut Gossip, now: Now| {
        let mut changed = 0;
        for keys in keys.chunks(650) {
            number += 1;
            assert!(stall(node, now, number, peer), "{number} at {now:?}");
            let one = |(at, key): (usize, &Keypair)| {
                let address = format!("10.{}.{}.1:1", number, at % 200);
                Arc::new(announcement(key, now, 30_000, &address))
            };
            let brought = keys.iter().enumerate().map(one).collect();
            let exchange = ExchangeId::Accepted(number);
            node.handle(now, Input::Frame { exchange, peer, body: body(&news(brought)) });
            let is_news =
                |one: &Output| matches!(one, Output::Event(Event::Joined(_) | Event::Renewed(_)));
            changed += outputs(node).iter().filter(|one| is_news(one)).count() as u64;
        }
        changed
    };
    assert_eq!(bring(&mut node, START), u64::from(nodes));
    let wait_us = 3_000_000;
    let left = limits::SWARM_CHECKS_OF_PEER - u64::from(nodes);
    let grown = wait_us / limits::SWARM_CHECK_OF_PEER_US;
    assert_eq!(bring(&mut node, START.after(wait_us)), left + grown);
    // Another peer brings the rest.
    assert_eq!(node.members().len() as u64, u64::from(nodes));
}

/// Gives a node the announcements of all these keys, brought by a peer.
fn teach(node: &mut Gossip, now: Now, announcements: Vec<Arc<Announcement>>) {
    let (exchange, peer) = (ExchangeId::Accepted(1), key(800).id());
    assert!(stall(node, now, 1, peer));
    node.handle(now, Input::Frame { exchange, peer, body: body(&news(announcements)) });
    outputs(node);
}

/// Lets a node go on until a time, with nobody at the places that it dials, and returns them.
fn dialled_in_vain(node: &mut Gossip, until: Now) -> Vec<String> {
    let mut dialled = Vec::new();
    while let Some(now) = node.deadline().filter(|now| *now <= until) {
        node.handle(now, Input::Tick);
        for output in outputs(node) {
            if let Output::Dial { exchange, address, .. } = output {
                dialled.push(address);
                node.handle(now, Input::Lost(exchange));
            }
        }
    }
    dialled
}

const MINUTES: u64 = 60_000_000;

#[test]
fn addresses_that_nobody_proved_are_dialled_at_a_pace() {
    let mut node = node_with_own();
    let lease_ms = limits::ANNOUNCEMENT_MOST_MS;
    let one = |number: usize| {
        let address = |at: usize| format!("10.{at}.{}.{}:1", number >> 8, number & 255);
        let addresses: Vec<String> = (0..limits::DIALLED_ADDRESSES).map(address).collect();
        Arc::new(announcement(&key(number), START, lease_ms, &addresses.join(",")))
    };
    teach(&mut node, START, (0..500).map(one).collect());
    let dialled = dialled_in_vain(&mut node, START.after(5 * MINUTES));
    let addresses: usize = dialled.iter().map(|text| text.split(',').count()).sum();
    let pace = limits::GOSSIP_STRANGE_ADDRESSES + 5 * MINUTES / limits::GOSSIP_STRANGE_ADDRESS_US;
    assert!(addresses as u64 <= pace, "{addresses}, more than {pace}");
    assert!(addresses as u64 >= pace * 9 / 10, "{addresses}, far fewer than {pace}");
}

#[test]
fn where_somebody_was_looked_for_in_vain_no_stranger_is_for_a_while() {
    let mut node = node_with_own();
    let lease_ms = limits::ANNOUNCEMENT_MOST_MS;
    let one = |number: usize| {
        let address = format!("10.0.{number}.1:1,192.0.2.77:{}", number + 1);
        Arc::new(announcement(&key(number), START, lease_ms, &address))
    };
    // Each has a name and an address of its own, and one host that is somebody else's.
    teach(&mut node, START, (1..=250).map(one).collect());
    let dialled = dialled_in_vain(&mut node, START.after(9 * MINUTES));
    let most = limits::GOSSIP_BACKOFF_DOUBLINGS as usize + 1 + 9 * 60 / 64;
    assert!((4..=most).contains(&dialled.len()), "{} times", dialled.len());
}

#[test]
fn a_node_is_dialled_where_it_was_found_and_nowhere_else_that_it_names() {
    let mut node = node_with_own();
    let peer = key(3).id();
    let say = |now: Now, address: &str| Arc::new(announcement(&key(3), now, 500_000, address));
    let all = "192.0.2.3:1,192.0.2.77:1,192.0.2.78:1";
    teach(&mut node, START, vec![say(START, all)]);
    let dial = |node: &mut Gossip| loop {
        let now = node.deadline().expect("a round");
        node.handle(now, Input::Tick);
        let dial = outputs(node).into_iter().find_map(|output| match output {
            Output::Dial { exchange, address, .. } => Some((now, exchange, address)),
            _ => None,
        });
        if let Some(dial) = dial {
            break dial;
        }
    };
    let answer = |node: &mut Gossip, (now, exchange): (Now, ExchangeId), at: &str, say| {
        node.handle(now, Input::Reached { exchange, address: at.to_owned() });
        node.handle(now, Input::Frame { exchange, peer, body: body(&news(say)) });
        outputs(node);
    };
    let (now, exchange, address) = dial(&mut node);
    assert_eq!(address, all);
    answer(&mut node, (now, exchange), "[::ffff:192.0.2.3]:1", Vec::new());
    let (now, exchange, address) = dial(&mut node);
    assert_eq!(address, "192.0.2.3:1");
    // A newer announcement changes nothing about it, unless the address is none of it any more.
    let newer = "192.0.2.79:1,192.0.2.3:1";
    answer(&mut node, (now, exchange), "192.0.2.3:1", vec![say(now, newer)]);
    let (now, exchange, address) = dial(&mut node);
    assert_eq!(address, "192.0.2.3:1");
    let later = now.after(limits::SWARM_RENEWAL_US);
    answer(&mut node, (later, exchange), "192.0.2.3:1", vec![say(later, "192.0.2.80:1")]);
    let (now, exchange, address) = dial(&mut node);
    assert_eq!(address, "192.0.2.80:1");
    // Where it is not found any more it may be anywhere that it says.
    answer(&mut node, (now, exchange), "192.0.2.80:1", Vec::new());
    let later = now.after(limits::SWARM_RENEWAL_US);
    let (_, exchange, address) = dial(&mut node);
    assert_eq!(address, "192.0.2.80:1");
    node.handle(later, Input::Lost(exchange));
    outputs(&mut node);
    let (_, _, address) = dial(&mut node);
    assert_eq!(address, "192.0.2.80:1");
}

#[test]
fn a_peer_that_always_has_more_does_not_drive_a_node_from_round_to_round() {
    let seed = Seed { node: key(2).id(), address: "192.0.2.2:1".to_owned() };
    let mut node = Gossip::new(key(1).id(), vec![seed], 3);
    let mut rounds = 0;
    let end = START.after(10_000_000);
    node.handle(START, Input::Tick);
    while let Some(now) = node.deadline().filter(|now| *now <= end) {
        let dialled = outputs(&mut node).into_iter().find_map(|output| match output {
            Output::Dial { exchange, node, .. } => Some((exchange, node)),
            _ => None,
        });
        let Some((exchange, peer)) = dialled else {
            node.handle(now, Input::Tick);
            continue;
        };
        rounds += 1;
        let address = format!("10.2.{}.{}:1", rounds >> 8, rounds & 255);
        // Of nodes that have left, so that nobody else is dialled.
        let left = &key(1000 + rounds);
        let mut one = announcement(left, now, 30_000, &address);
        one.status.state = State::Left;
        let announcements = vec![Arc::new(one.signed(left))];
        let more = SwarmFrame::News { announcements, wanted: Vec::new(), has_more: true };
        let now = now.min(end);
        node.handle(now, Input::Frame { exchange, peer, body: body(&more) });
    }
    let most = limits::GOSSIP_AT_ONCE as usize + 20;
    assert!(rounds <= most, "{rounds} rounds in ten seconds");
}

#[test]
fn news_that_do_not_fit_a_frame_leave_some_for_the_next() {
    let mut node = node_with_own();
    // However much room the last one leaves: as much as this node's own takes, or less.
    for bytes in 0..40_usize {
        let software = "x".repeat(bytes % limits::SOFTWARE_BYTES);
        let mut one = announcement(&key(1), START.after(bytes as u64 * 1000), 30_000, "");
        one.status.software = software;
        node.handle(START, Input::Announce(Arc::new(one.signed(&key(1)))));
        if bytes == 0 {
            let one = |(at, key): (usize, &Keypair)| {
                let address = format!("10.{}.{}.1:1", at >> 8, at & 255);
                Arc::new(announcement(key, START, 30_000, &address))
            };
            let keys = many_keys(2400);
            for part in keys.iter().enumerate().map(one).collect::<Vec<_>>().chunks(1200) {
                teach(&mut node, START, part.to_vec());
            }
        }
        let (exchange, peer) = (ExchangeId::Accepted(2), key(5000 + bytes).id());
        let summary = body(&SwarmFrame::Summary(Vec::new()));
        node.handle(START, Input::Frame { exchange, peer, body: summary });
        let sent = outputs(&mut node).into_iter().find_map(|output| match output {
            Output::Send { wire, .. } => SwarmFrame::from_body(&wire[limits::LENGTH_BYTES..]).ok(),
            _ => None,
        });
        let Some(SwarmFrame::News { announcements, has_more: true, .. }) = sent else {
            panic!("{bytes}: {sent:?}");
        };
        assert_eq!(announcements.first().map(|one| one.status.node), Some(key(1).id()));
        node.handle(START, Input::Lost(exchange));
    }
}

#[test]
fn invented_nodes_on_a_host_keep_no_node_out_that_is_there() {
    let (mut members, inventor) = (Members::default(), key(800).id());
    let keys = many_keys(limits::SWARM_NODES_OF_HOST as u32 + 1);
    for (at, key) in keys.iter().enumerate() {
        let one = announcement(key, START, 30_000, &format!("10.0.0.{}:1,192.0.2.1:1", at & 255));
        let taken = members.take(Arc::new(one), inventor, START);
        assert_eq!(taken.is_ok(), at < limits::SWARM_NODES_OF_HOST, "{at}");
    }
    // Who is brought by others is one more of them; who comes itself takes the place of one.
    let honest = announcement(&key(1), START, 30_000, "192.0.2.1:7");
    let brought = members.take(Arc::new(honest.clone()), inventor, START);
    assert_eq!(brought, Err(MemberFault::HostFull));
    assert_eq!(taken(&mut members, &honest, START), Ok(Taken::Joined));
    assert_eq!(members.len(), limits::SWARM_NODES_OF_HOST);
    assert!(members.get(key(1).id()).is_some());
    // Those that were found there stay, and those that came themselves.
    let nodes: Vec<NodeId> = members.iter().map(|one| one.announcement.status.node).collect();
    nodes.iter().for_each(|node| members.found(*node, "192.0.2.1:1"));
    let late = announcement(&key(2), START, 30_000, "192.0.2.1:8");
    assert_eq!(taken(&mut members, &late, START), Err(MemberFault::HostFull));
    let elsewhere = announcement(&key(2), START, 30_000, "192.0.2.2:8");
    assert_eq!(taken(&mut members, &elsewhere, START), Ok(Taken::Joined));
}

#[test]
fn invented_nodes_that_are_gone_push_none_out_of_memory_that_was_there() {
    let mut members = Members::default();
    let honest = announcement(&key(1), START, 10_000, "192.0.2.1:7,192.0.2.2:7");
    assert_eq!(taken(&mut members, &honest, START), Ok(Taken::Joined));
    members.found(key(1).id(), "192.0.2.1:7");
    members.expire(START.after(10_000_000));
    let later = START.after(11_000_000);
    for (at, key) in many_keys(2 * limits::SWARM_FORMER_NODES as u32).iter().enumerate() {
        let one = announcement(key, later, 1_000, &format!("10.0.{}.{}:1", at >> 8, at & 255));
        assert_eq!(members.take(Arc::new(one), key.id(), later), Ok(Taken::Joined));
    }
    members.expire(later.after(1_000_000));
    let former: Vec<_> = members.former().collect();
    assert_eq!(former.len(), limits::SWARM_FORMER_NODES);
    let found: Vec<_> = former.iter().filter(|one| one.is_found).collect();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].node, &*found[0].address), (key(1).id(), "192.0.2.1:7"));
}

#[test]
fn a_peer_that_behaves_between_its_faults_is_left_alone_each_time() {
    let mut node = node_with_own();
    let (peer, mut now, mut number) = (key(2).id(), START, 0);
    let mut answered = 0;
    // It forges, waits until it is answered, compares notes as it should, and forges again.
    for _ in 0..20 {
        number += 1;
        assert!(stall(&mut node, now, number, peer), "exchange {number}");
        answered += 1;
        let exchange = ExchangeId::Accepted(number);
        let brought = vec![forged(10, now.since(START) / 1000)];
        node.handle(now, Input::Frame { exchange, peer, body: body(&news(brought)) });
        let wait = now.after(2 * limits::GOSSIP_BACKOFF_US);
        number += 1;
        assert!(!stall(&mut node, Now(wait.0 - 1), number, peer), "it is not left alone");
        now = wait;
        number += 1;
        assert!(stall(&mut node, now, number, peer), "its good conduct does not count");
        let exchange = ExchangeId::Accepted(number);
        node.handle(now, Input::Frame { exchange, peer, body: body(&news(Vec::new())) });
        outputs(&mut node);
    }
    assert_eq!(answered, 20);
}
