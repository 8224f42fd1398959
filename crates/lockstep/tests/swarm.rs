//! Swarms of real server processes: one ticket leads to all of them, servers take the layers that
//! are missing, those that leave are gone at once, and a killed one is seen to be silent.

mod support;

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::process::{Process, Signal};
use support::ring::{Server, are_ready, joining, starting, wait_for};
use support::{MODEL, WATCHDOG, command, lockstep};

fn spans(seen: &[Value]) -> Vec<(u64, u64)> {
    let number = |value: &Value| value.as_u64().expect("a number");
    seen.iter().map(|one| (number(&one["first"]), number(&one["end"]))).collect()
}

fn chat(ticket: &str) -> Process {
    Process::spawn(command(&["chat", ticket, "--prompt", "Hi.", "-n", "2", "--json"]))
}

#[test]
fn the_ticket_of_any_server_leads_to_all_and_who_leaves_is_gone() {
    let first = Server::ready(starting(0..10, &[]));
    let second = joining(10..20, &first.ticket);
    let third = joining(20..30, &second.ticket);
    let seen = wait_for(&first.ticket, "three servers", |seen| are_ready(seen, 3));
    assert_eq!(spans(&seen), [(0, 10), (10, 20), (20, 30)]);
    assert!(seen.iter().all(|one| one["answers"] == true), "{seen:?}");
    assert!(seen.iter().all(|one| one["way"] == "direct"), "{seen:?}");
    wait_for(&third.ticket, "three servers from the third", |seen| are_ready(seen, 3));
    for ticket in [&first.ticket, &third.ticket] {
        let ended = chat(ticket).end(WATCHDOG).expect_code(0);
        let report = ended.json();
        assert_eq!((&report["servers"], &report["verdict"]), (&3.into(), &"verified".into()));
        // Two of them nobody has named: before the question they have shown what they can.
        let tried = ended.stderr.contains("trying with a request of no one's");
        assert_eq!(tried, ticket == &first.ticket, "they are remembered: {ended}");
    }
    let nodes = lockstep(&["nodes", "--json"]).expect_code(0).json();
    let is_proven = |server: &Server| {
        let nodes = nodes["nodes"].as_array().expect("a list");
        let known = nodes.iter().find(|one| one["node"] == server.node.as_str());
        known.is_some_and(|one| one["verified"].as_u64() >= Some(2))
    };
    assert!([&second, &third].into_iter().all(is_proven), "{nodes}");
    // One that leaves says so: nobody waits for its lease to end.
    second.process.end(WATCHDOG);
    let seen = wait_for(&first.ticket, "two servers", |seen| seen.len() == 2);
    assert_eq!(spans(&seen), [(0, 10), (20, 30)]);
    let error = chat(&first.ticket).end(WATCHDOG).expect_code(1);
    assert!(error.stderr.contains("nobody holds layers 10..20"), "{error}");
    // Another takes its place.
    let _fourth = joining(10..20, &third.ticket);
    for ticket in [&first.ticket, &third.ticket] {
        wait_for(ticket, "three servers again", |seen| are_ready(seen, 3));
    }
    chat(&third.ticket).end(WATCHDOG).expect_code(0);
}

/// A server without `--layers` in this much memory.
fn placing_itself(mib: &str, ticket: &str) -> Process {
    let arguments = ["serve", MODEL, "--join", ticket, "--bind", "127.0.0.1:0", "--threads", "1"];
    let end = ["--ephemeral", "--json", "--until-stdin-closes"];
    let mut command = command(&[&arguments[..], &end[..]].concat());
    command.env("LOCKSTEP_MEMORY_MIB", mib);
    Process::spawn(command)
}

#[test]
fn servers_take_the_layers_that_are_missing_and_are_ready_when_a_token_has_crossed_them() {
    let first = Server::ready(starting(0..10, &[]));
    // There is memory for some twelve layers.
    let second = Server::ready(placing_itself("80", &first.ticket));
    second.process.wait_stderr(WATCHDOG, "why it is not ready", |text| {
        text.contains("Joining: nobody holds the other layers yet").then_some(())
    });
    let seen = wait_for(&first.ticket, "one that is joining", |seen| seen.len() == 2);
    let (_, end) = spans(&seen)[1];
    assert!((12..30).contains(&end) && spans(&seen)[1].0 == 10, "{seen:?}");
    assert_eq!((&seen[0]["state"], &seen[1]["state"]), (&"ready".into(), &"joining".into()));
    let refused = chat(&first.ticket).end(WATCHDOG).expect_code(1);
    assert!(refused.stderr.contains("1 still joining"), "{refused}");
    // The third takes what is missing, and the token that crosses it makes all of them ready.
    let third = Server::ready(placing_itself("80", &first.ticket));
    wait_for(&third.ticket, "three that are ready from the third", |seen| are_ready(seen, 3));
    let seen = wait_for(&first.ticket, "three that are ready", |seen| are_ready(seen, 3));
    assert_eq!(spans(&seen)[2].1, 30, "{seen:?}");
    assert!(spans(&seen)[2].0 <= end, "{seen:?}");
    assert!(seen.iter().all(|one| one["decode_ms_per_layer"].as_f64() > Some(0.0)), "{seen:?}");
    let report = chat(&third.ticket).end(WATCHDOG).expect_code(0).json();
    assert_eq!((&report["servers"], &report["verdict"]), (&3.into(), &"verified".into()));
    let text = "Ready: a token has crossed a ring";
    second.process.wait_stderr(WATCHDOG, text, |told| told.contains(text).then_some(()));
}

#[test]
fn two_servers_that_join_at_the_same_moment_take_different_layers() {
    let first = Server::ready(starting(0..10, &[]));
    let both = [0, 1].map(|_| placing_itself("80", &first.ticket)).map(Server::ready);
    let seen = wait_for(&first.ticket, "three that are ready", |seen| are_ready(seen, 3));
    let layers: BTreeSet<u64> = spans(&seen).into_iter().flat_map(|(at, end)| at..end).collect();
    assert_eq!(layers, (0..30).collect(), "{seen:?}");
    let report = chat(&both[1].ticket).end(WATCHDOG).expect_code(0).json();
    assert_eq!((&report["servers"], &report["verdict"]), (&3.into(), &"verified".into()));
}

#[test]
fn a_chat_goes_on_over_a_server_that_came_in_the_place_of_one_that_left() {
    let first = Server::ready(starting(0..10, &[]));
    let second = joining(10..30, &first.ticket);
    wait_for(&first.ticket, "two that are ready", |seen| are_ready(seen, 2));
    let mut client = Process::spawn(command(&["chat", &first.ticket, "-n", "4"]));
    let verified = |count: usize| {
        move |text: &str| (text.matches("◈ verified").count() == count).then_some(())
    };
    client.write_stdin("Hi.\n");
    client.wait_stderr(WATCHDOG, "a first answer", verified(1));
    let third = joining(10..30, &first.ticket);
    second.process.end(WATCHDOG);
    wait_for(&first.ticket, "two that are ready again", |seen| {
        are_ready(seen, 2) && seen.iter().any(|one| one["node"] == third.node.as_str())
    });
    // It looks again by itself while nobody writes, and tries who is new.
    client.wait_stderr(WATCHDOG, "the new one is found", |text| {
        text.contains(&format!("trying with a request of no one's: {}", &third.node[..8]))
            .then_some(())
    });
    client.write_stdin("Again.\n");
    client.wait_stderr(WATCHDOG, "a second answer", verified(2));
    let ended = client.end(WATCHDOG).expect_code(0);
    assert!(ended.stderr.contains(&third.node[..8]), "{ended}");
}

#[test]
fn a_server_serves_in_its_hours_alone() {
    let hour = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 3_600;
    let from_to = |from: u64, to: u64| format!("{}-{}", (hour + from) % 24, (hour + to) % 24);
    let inside = Server::ready(starting(0..30, &["--hours", &from_to(23, 2)]));
    wait_for(&inside.ticket, "one that is ready", |seen| are_ready(seen, 1));
    let outside = starting(0..30, &["--hours", &from_to(2, 4)]);
    outside.wait_stderr(WATCHDOG, "why it does not serve", |text| {
        text.contains("Waiting: this server serves from").then_some(())
    });
    outside.signal(Signal::Terminate);
    let ended = outside.end_by_itself(WATCHDOG).expect_code(0);
    assert_eq!(ended.stdout, "", "no ticket: {ended}");
    let refused = lockstep(&["serve", MODEL, "--hours", "7"]).expect_code(2);
    assert!(refused.stderr.contains("expected FIRST-END in hours"), "{refused}");
}

#[test]
fn a_server_that_can_not_ask_the_swarm_or_hold_a_layer_says_so() {
    let first = Server::ready(starting(0..10, &[]));
    let small = placing_itself("2", &first.ticket).end_by_itself(WATCHDOG).expect_code(1);
    assert!(small.stderr.contains("one layer of smollm2"), "{small}");
    let ticket = first.ticket.clone();
    first.process.end(WATCHDOG);
    let alone = placing_itself("80", &ticket).end_by_itself(WATCHDOG).expect_code(1);
    assert!(alone.stderr.contains("no server of --join answered"), "{alone}");
}

#[test]
fn a_killed_server_is_seen_to_be_silent_and_is_not_asked() {
    let first = Server::ready(starting(0..30, &[]));
    let second = joining(10..30, &first.ticket);
    wait_for(&first.ticket, "two servers", |seen| seen.len() == 2);
    second.process.signal(Signal::Kill);
    let seen = wait_for(&first.ticket, "one that is silent", |seen| {
        seen.iter().any(|one| one["answers"] == false)
    });
    assert_eq!(seen.iter().filter(|one| one["answers"] == true).count(), 1, "{seen:?}");
    let report = chat(&first.ticket).end(WATCHDOG).expect_code(0).json();
    assert_eq!(report["servers"], 1, "{report}");
}

#[test]
fn the_table_names_each_server_and_wrong_tickets_are_refused() {
    let server = Server::ready(starting(0..30, &[]));
    let shown = lockstep(&["status", &server.ticket]).expect_code(0);
    assert!(shown.stdout.contains("0..30 +head") && shown.stdout.contains("ready"), "{shown}");
    assert!(shown.stdout.contains(&server.node[..8]), "{shown}");
    let refused = lockstep(&["status"]).expect_code(2);
    assert!(refused.stderr.contains("no TICKET"), "{refused}");
    let refused = lockstep(&["status", "lockstep1nonsense"]).expect_code(2);
    assert!(refused.stderr.contains("ticket"), "{refused}");
    let arguments = ["serve", "smollm2", "--ephemeral", "--join", "no-ticket"];
    let refused = lockstep(&arguments).expect_code(2);
    assert!(refused.stderr.contains("a ticket starts with"), "{refused}");
    let dead = server.ticket.clone();
    server.process.end(WATCHDOG);
    let silent = lockstep(&["status", &dead]).expect_code(1);
    assert!(silent.stderr.contains("no server of the ticket answered"), "{silent}");
}
