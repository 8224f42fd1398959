//! Servers as people start them: several from one home, on IPv4 and IPv6, at stated addresses,
//! under allow-lists; and what a bundle says to who did not ask for it.

mod support;

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::symlink;

use lockstep_node::ticket::Ticket;
use lockstep_node::transport::Address;
use serde_json::Value;
use support::process::Process;
use support::ring::Server;
use support::{
    Folder, MODEL, PATIENCE, WATCHDOG, command, command_in, home, lockstep, lockstep_in,
};

const ASK: [&str; 5] = ["--prompt", "Hi.", "-n", "2", "--json"];

/// A server that keeps its identity, from a home.
fn serve(home: &Folder, more: &[&str]) -> Server {
    let arguments = ["serve", MODEL, "--threads", "1", "--json", "--until-stdin-closes"];
    let arguments = [&arguments[..], more].concat();
    Server::ready(Process::spawn(command_in(home.path(), &arguments)))
}

/// A home of its own with the model and the key of the shared one.
fn own_home(name: &str) -> Folder {
    let folder = Folder::new(name);
    for part in ["blobs", "models", "keys"] {
        symlink(home().join(part), folder.path().join(part)).unwrap();
    }
    folder
}

fn chat(home: &Folder, tickets: &[&str]) -> support::process::Ended {
    lockstep_in(home.path(), &[&["chat"], tickets, &ASK[..]].concat())
}

fn addresses(server: &Server) -> Vec<std::net::SocketAddr> {
    let ticket: Ticket = server.ticket.parse().unwrap();
    ticket.peers[0].addrs.iter().filter_map(Address::socket).collect()
}

#[test]
fn two_servers_of_one_home_are_two_nodes_and_one_chat_goes_through_both() {
    let home = own_home("two-of-one");
    let servers = [serve(&home, &["--layers", "0..15"]), serve(&home, &["--layers", "15..30"])];
    assert_ne!(servers[0].node, servers[1].node);
    servers[1].process.wait_stderr(WATCHDOG, "the note", |text| {
        text.contains("this one's is the home's node id 2").then_some(())
    });
    let report = chat(&home, &[&servers[0].ticket, &servers[1].ticket]).expect_code(0).json();
    assert_eq!((&report["servers"], &report["verdict"]), (&2.into(), &"verified".into()));
    // The first identity is free again, and is the one that comes again.
    let [first, second] = servers;
    let node = first.node.clone();
    first.process.end(WATCHDOG);
    assert_eq!(serve(&home, &["--layers", "0..15"]).node, node);
    drop(second);
}

#[test]
fn two_tickets_of_one_node_at_two_addresses_are_told_apart_from_two_servers() {
    let home = own_home("same-node");
    let server = serve(&home, &[]);
    let mut other: Ticket = server.ticket.parse().unwrap();
    let moved = std::net::SocketAddr::new(addresses(&server)[0].ip(), 9);
    other.peers[0].addrs[0] = moved.into();
    let ended = chat(&home, &[&server.ticket, &other.to_string()]).expect_code(2);
    for word in ["same node id", "--ephemeral", "--home"] {
        assert!(ended.stderr.contains(word), "{word}: {ended}");
    }
    // The same ticket twice is one server.
    chat(&home, &[&server.ticket, &server.ticket]).expect_code(0);
}

#[test]
fn what_nobody_serves_is_said_once_with_the_next_step() {
    let home = own_home("missing-layers");
    let server = serve(&home, &["--layers", "0..15"]);
    let ended = chat(&home, &[&server.ticket]).expect_code(1);
    assert!(ended.stderr.contains("nobody holds layers 15..30"), "{ended}");
    assert!(ended.stderr.contains("lockstep serve"), "{ended}");
    assert!(!ended.stderr.contains("Endpoint dropped"), "{ended}");
}

#[test]
fn servers_are_reached_on_ipv6_and_on_both_families() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return;
    }
    let home = own_home("ipv6");
    let six = serve(&home, &["--bind", "[::1]:0"]);
    assert!(addresses(&six).iter().all(std::net::SocketAddr::is_ipv6), "{:?}", addresses(&six));
    chat(&home, &[&six.ticket]).expect_code(0);
    drop(six);
    let both = serve(&home, &["--bind", "127.0.0.1:0", "--bind", "[::1]:0"]);
    let told = addresses(&both);
    assert!(told.iter().any(std::net::SocketAddr::is_ipv4), "{told:?}");
    assert!(told.iter().any(std::net::SocketAddr::is_ipv6), "{told:?}");
    for is_ipv4 in [true, false] {
        let mut ticket: Ticket = both.ticket.parse().unwrap();
        ticket.peers[0].addrs.retain(|addr| addr.socket().unwrap().is_ipv4() == is_ipv4);
        chat(&home, &[&ticket.to_string()]).expect_code(0);
    }
}

#[test]
fn a_ticket_states_addresses_even_where_all_are_listened_on() {
    let home = own_home("unspecified");
    for bind in ["0.0.0.0:0", "[::]:0"] {
        if UdpSocket::bind(bind).is_err() {
            continue;
        }
        let server = serve(&home, &["--bind", bind]);
        let told = addresses(&server);
        assert!(!told.is_empty(), "{bind}");
        assert!(told.iter().all(|addr| !addr.ip().is_unspecified()), "{told:?}");
        chat(&home, &[&server.ticket]).expect_code(0);
    }
}

#[test]
fn a_stated_address_is_in_the_ticket_in_place_of_the_others() {
    let home = own_home("advertised");
    let more = ["--advertise", "203.0.113.7:4848", "--advertise", "2001:db8::7"];
    let server = serve(&home, &more);
    let told = addresses(&server);
    assert_eq!(told[0], "203.0.113.7:4848".parse().unwrap());
    assert_eq!(told[1].ip(), "2001:db8::7".parse::<std::net::IpAddr>().unwrap());
    assert_ne!(told[1].port(), 0);
    drop(server);
    // The setting does the same, and the servers of `up` are found all the same.
    fs::write(home.path().join("config.toml"), "advertise = \"203.0.113.7:9\"\n").unwrap();
    assert_eq!(addresses(&serve(&home, &[])), ["203.0.113.7:9".parse().unwrap()]);
    let up = ["up", MODEL, "--servers", "1", "--audit", "off"];
    lockstep_in(home.path(), &[&up[..], &ASK[..]].concat()).expect_code(0);
}

#[test]
fn servers_of_up_let_up_in_whatever_the_list_says() {
    let home = own_home("allowed-up");
    let list = "allow = [\"e5a8cf221cc288d86a7a9f171b4d896e9822ee096d059cba03564b6c36dafe4e\"]\n";
    fs::write(home.path().join("config.toml"), list).unwrap();
    let up = ["up", MODEL, "--servers", "2", "--audit", "off"];
    lockstep_in(home.path(), &[&up[..], &ASK[..]].concat()).expect_code(0);
    let mut up = command(&[&up[..], &ASK[..]].concat());
    up.env("LOCKSTEP_ALLOW", "e5a8cf221cc288d86a7a9f171b4d896e9822ee096d059cba03564b6c36dafe4e");
    Process::spawn(up).end(PATIENCE).expect_code(0);
}

#[test]
fn an_address_that_can_not_be_listened_on_says_why_and_what_to_do() {
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    for (bind, code, word) in [
        (taken.as_str(), 1, "another program has the port"),
        ("192.0.2.77:0", 1, "this machine has no such address"),
        ("127.0.0.1:0,0.0.0.0:0", 2, "at most one IPv4 and one IPv6"),
    ] {
        let arguments = ["serve", MODEL, "--layers", "29..30", "--ephemeral", "--bind", bind];
        let ended = lockstep(&arguments).expect_code(code);
        assert!(ended.stderr.contains(word), "{bind}: {ended}");
    }
    drop(holder);
    for stated in ["here", "0.0.0.0"] {
        let ended = lockstep(&["serve", MODEL, "--advertise", stated]).expect_code(2);
        assert!(ended.stderr.contains("--advertise"), "{ended}");
    }
}

#[test]
fn a_bundle_of_others_states_no_rates_and_what_can_not_be_known() {
    let own = own_home("own-bundle");
    let server = serve(&own, &[]);
    let file = own.file("a.receipt");
    let ask = ["chat", &server.ticket, "--receipt", &file];
    lockstep_in(own.path(), &[&ask[..], &ASK[..]].concat()).expect_code(0);
    let verify = |home: &Folder, more: &[&str]| {
        lockstep_in(home.path(), &[&["verify", &file], more].concat()).expect_code(0)
    };
    let other = own_home("foreign-bundle");
    let (here, there) = (verify(&own, &[]).stdout, verify(&other, &[]).stdout);
    assert!(here.starts_with("VERIFIED") && there.starts_with("VERIFIED"));
    assert!(here.contains("caught with probability") && !here.contains("can't know"), "{here}");
    assert!(!there.contains("caught with probability"), "{there}");
    assert!(there.contains("can't know") && there.contains("the draw was honest"), "{there}");
    for text in [&here, &there] {
        assert!(text.contains("  | ") && text.contains("Hi."), "the prompt: {text}");
        assert!(text.contains(&server.node) && text.contains("temperature 0"), "{text}");
    }
    let (here, there) = (verify(&own, &["--json"]).json(), verify(&other, &["--json"]).json());
    assert_eq!((&here["own"], &there["own"]), (&true.into(), &false.into()));
    assert_eq!(there["coverage"]["detects"], Value::Null, "{there}");
    let of_stage = |report: &Value| report["coverage"]["stages"][0]["detects"].clone();
    assert_eq!(of_stage(&there), Value::Null, "{there}");
    for stated in [&here["coverage"]["detects"], &of_stage(&here)] {
        assert!(stated.as_array().is_some_and(|list| !list.is_empty()), "{here}");
    }
    assert_eq!(there["nodes"][0]["node"], server.node);
}
