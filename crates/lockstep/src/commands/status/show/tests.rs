//! Swarms of one server and of a hundred, on wide and on narrow terminals.

use std::time::Duration;

use lockstep_client::forecast::windows;
use lockstep_exact::Digest;
use lockstep_node::home::Home;
use lockstep_node::record::Record;
use lockstep_node::transport::PeerAddr;
use lockstep_testing::gossip::{MODEL, status};

use super::*;

const LAYERS: u32 = 30;

fn id(number: usize) -> NodeId {
    NodeId(Digest::of(&number.to_le_bytes()).0)
}

fn seen(number: usize, span: std::ops::Range<u32>) -> Seen {
    let mut status = status(id(number), span);
    status.speed.decode_ns = [1_000_000, 2_000_000, 4_000_000];
    status.speed.prefill_ns = 100_000;
    if status.head {
        status.speed.head_ns = [1_000_000, 2_000_000, 4_000_000];
    }
    let peer = PeerAddr { id: status.node, addrs: Vec::new() };
    Seen { status, peer, round_trip: Some(Duration::from_micros(1_500)), way: Some(Way::Direct) }
}

/// A hundred servers of three spans, of which one is silent, one drains and one is banned.
fn hundred() -> View {
    let span = |number: usize| [0..10, 10..20, 20..30][number % 3].clone();
    let mut seen: Vec<Seen> = (0..100).map(|number| seen(number, span(number))).collect();
    seen[40].round_trip = None;
    seen[50].status.state = State::Draining;
    seen.sort_by_key(|one| (one.status.first, one.status.node));
    let mut record = Record::default();
    record.add(id(60), Deeds { answers: 3, failed: 2, ..Deeds::default() });
    record.add(id(61), Deeds { answers: 3, verified: 3, ..Deeds::default() });
    view(seen, record)
}

fn view(seen: Vec<Seen>, record: Record) -> View {
    let statuses: Vec<&Status> = seen.iter().map(|one| &one.status).collect();
    let windows = windows(&statuses, LAYERS);
    let served = Served { manifest: MODEL, name: None, layers: LAYERS, windows, forecast: None };
    let (silent, changes, no_record) = (Vec::new(), Vec::new(), None);
    let (home, models) = (Home::at("/nowhere"), vec![served]);
    View { seen, silent, changes, record, home, no_record, models }
}

#[test]
fn a_hundred_servers_are_shown_by_their_spans_with_those_that_are_worth_a_look() {
    let view = hundred();
    let lines = view.lines(None, false);
    let text = lines.join("\n");
    assert!(lines.len() <= 16, "{text}");
    assert!(lines[0].contains("30 layers, 98 of 100 servers ready, 0 sessions"), "{text}");
    let row = |layers: &str| lines.iter().find(|line| line.trim().starts_with(layers)).unwrap();
    assert_eq!(row("0..10 +head").split_whitespace().nth(2), Some("34"));
    assert!(text.contains("coverage: 0..10 x34"), "{text}");
    for (number, word) in [(40, "silent"), (50, "draining"), (60, "banned")] {
        let short = id(number).short();
        let line =
            lines.iter().find(|line| line.contains(&short)).unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains(word), "{line}");
    }
    assert!(!text.contains(&id(61).short()), "nothing is wrong with it: {text}");
    let all = view.lines(None, true);
    assert!(all.len() > 100 && all.join("\n").contains("3 of 3 verified"));
}

#[test]
fn no_line_is_wider_than_a_narrow_terminal() {
    for shows_all in [false, true] {
        for width in [120, 80, 60, 48] {
            for line in hundred().lines(Some(width), shows_all).iter().skip(1) {
                let is_sentence = line.starts_with("rates") || line.starts_with("worth");
                assert!(is_sentence || line.chars().count() <= width, "{width}: {line:?}");
            }
        }
    }
}

#[test]
fn layers_that_nobody_holds_and_the_weakest_are_named() {
    let servers = vec![seen(1, 0..10), seen(2, 10..20), seen(3, 0..10)];
    let text = view(servers, Record::default()).lines(None, false).join("\n");
    assert!(text.contains("coverage: 0..10 x2  10..20 x1  20..30 x0 NOBODY"), "{text}");
    let servers = vec![seen(1, 0..10), seen(2, 10..30), seen(3, 0..10)];
    let text = view(servers, Record::default()).lines(None, false).join("\n");
    assert!(text.contains("coverage: 0..10 x2  10..30 x1 weakest"), "{text}");
    // A swarm in which every server holds another span.
    let servers: Vec<Seen> = (0..20).map(|number| seen(number, number as u32..29)).collect();
    let text = view(servers, Record::default()).lines(Some(80), false).join("\n");
    assert!(text.contains("windows, of them  29..30 x0 NOBODY"), "{text}");
}

#[test]
fn changes_are_told_and_many_are_counted() {
    let mut view = view(vec![seen(1, 0..30)], Record::default());
    view.changes = (0..20).map(|number| (id(number), Change::Joined)).collect();
    let text = view.lines(None, false).join("\n");
    assert!(text.contains(&format!("changed: {} joined", id(0).short())), "{text}");
    assert!(text.ends_with("changed: and 4 more"), "{text}");
}
