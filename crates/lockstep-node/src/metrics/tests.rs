//! The page of a server with something in every family, as Prometheus reads it, and the HTTP server
//! against requests of every kind.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use lockstep_proto::announcement::Neighbour;
use lockstep_proto::counters::{BOUNDS_US, Times};
use lockstep_proto::failure::{Reason, Refusal};
use lockstep_proto::server::{Counters, JobKind};
use lockstep_testing::gossip;
use lockstep_verify::sign::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::driver::Observer;
use crate::limits;

/// No test waits longer than this for anything.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Figures with something in every family.
fn full() -> Figures {
    let node = NodeId([1; 32]);
    let mut status = gossip::status(node, 0..4);
    status.speed = Speed { decode_ns: [5, 6, 7], head_ns: [8, 9, 10], prefill_ns: 11 };
    status.neighbours = vec![Neighbour { node: NodeId([2; 32]), rtt_us: 300, bytes_per_s: 0 }];
    status.software = "quote \" and \\".to_owned();
    let mut counters = Counters { decode_positions: 7, ..Counters::default() };
    counters.ended.insert(Reason::Cancelled, 2);
    counters.ended.insert(Reason::Refused(Refusal::NoRoom), 1);
    counters.refused.insert((Refused::Session, Refusal::PeerShare), 3);
    counters.refused.insert((Refused::Challenge, Refusal::OtherRun), 4);
    counters.hops.insert(NodeId([2; 32]), Traffic { sent_frames: 5, ..Traffic::default() });
    counters.jobs.insert(JobKind::Decode, Times { sum_us: 1_500_000, ..Times::default() });
    counters.jobs.entry(JobKind::Decode).and_modify(|times| {
        times.buckets[0] = 2;
        times.longer = 1;
    });
    let server = server::Figures {
        status,
        counters,
        kv_pages: 130,
        retained: 2,
        kept_bytes: 1 << 40,
        running: 1,
        waiting: 4,
    };
    Figures { server: Some(server), swarm: Some(SwarmFigures::default()) }
}

/// One family of a page.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    /// The values, by the name and the labels as they are written.
    values: BTreeMap<String, f64>,
    labels: BTreeSet<String>,
}

/// Reads a page as the format's description says, and refuses what it does not allow.
fn parse(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    assert!(page.ends_with('\n'));
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help");
            assert!(!families.contains_key(name), "{name} comes twice");
            name.clone_into(&mut current);
            families.entry(current.clone()).or_default().help = help.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, current, "a type follows its help");
            families.get_mut(name).expect("known").kind = kind.to_owned();
        } else {
            value(line, families.get_mut(&current).expect("a family"), &current);
        }
    }
    families
}

fn value(line: &str, family: &mut Family, name: &str) {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let (metric, labels) = series.split_once('{').unwrap_or((series, "}"));
    let suffix = metric.strip_prefix(name).unwrap_or_else(|| panic!("{line} in {name}"));
    let is_histogram = family.kind == "histogram";
    assert!(suffix.is_empty() || is_histogram, "{line}");
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().expect(line) };
    let labels = labels.strip_suffix('}').expect("a brace");
    for label in labels.split("\",").filter(|label| !label.is_empty()) {
        let (label, _) = label.split_once("=\"").expect("a label");
        if label != "le" {
            family.labels.insert(label.to_owned());
        }
    }
    assert!(family.values.insert(series.to_owned(), value).is_none(), "{line} comes twice");
}

fn page(figures: Figures) -> String {
    Shown { figures, resident: Some(1 << 30) }.render().expect("written")
}

#[test]
fn a_page_has_help_and_type_of_every_family_and_the_values_that_were_counted() {
    let text = page(full());
    let families = parse(&text);
    for (name, family) in &families {
        assert!(family.help.ends_with('.') && family.help.len() > 10, "{name}: {family:?}");
        assert!(["counter", "gauge", "histogram"].contains(&family.kind.as_str()), "{name}");
        assert_eq!(name.ends_with("_total"), family.kind == "counter", "{name}");
        assert!(name.starts_with("lockstep_") || name.starts_with("process_"), "{name}");
    }
    let of = |family: &str, series: &str| families[family].values[series];
    let kv = "lockstep_kv_pages_used";
    assert_eq!(of(kv, kv), 30.0);
    let ended = "lockstep_sessions_ended_total";
    assert_eq!(of(ended, "lockstep_sessions_ended_total{reason=\"refused_no_room\"}"), 1.0);
    let refusals = "lockstep_refusals_total";
    let series = "lockstep_refusals_total{what=\"session\",reason=\"peer_share\"}";
    assert_eq!(of(refusals, series), 3.0);
    let rtt = &families["lockstep_hop_rtt_seconds"].values;
    assert_eq!(rtt.values().copied().collect::<Vec<_>>(), [0.0003]);
    let compute = "lockstep_stage_compute_seconds";
    let bucket =
        |le: &str| of(compute, &format!("{compute}_bucket{{kind=\"decode\",le=\"{le}\"}}"));
    assert_eq!((bucket("0.0001"), bucket("60"), bucket("+Inf")), (2.0, 2.0, 3.0));
    assert_eq!(of(compute, &format!("{compute}_sum{{kind=\"decode\"}}")), 1.5);
    assert_eq!(families[compute].values.len(), BOUNDS_US.len() + 3);
    assert!(text.contains(r#"software="quote \" and \\""#), "{text}");
}

#[test]
fn the_document_has_every_family_as_it_is() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/observability.md");
    let document = std::fs::read_to_string(path).expect("the document");
    let told: Vec<&str> =
        document.lines().filter(|line| line.starts_with("| `") && line.contains("_")).collect();
    let row = |(name, family): (&String, &Family)| {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {} | {} | {} |", family.kind, labels.join(", "), family.help)
    };
    let families = parse(&page(full()));
    let rows: Vec<String> = families.iter().map(row).collect();
    let told: Vec<&str> = told.into_iter().filter(|row| row.split('|').count() == 6).collect();
    assert_eq!(told, rows, "the table of docs/observability.md:\n{}", rows.join("\n"));
}

#[test]
fn a_port_alone_means_the_loopback_and_what_is_no_address_is_explained() {
    for (text, address) in [
        ("9464", "127.0.0.1:9464"),
        (":0", "127.0.0.1:0"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::1]:9", "[::1]:9"),
    ] {
        assert_eq!(parse_address(text), Ok(address.parse().expect("an address")), "{text}");
    }
    for text in ["", ":", "localhost:9464", "1.2.3.4", "70000", "-1", "1.2.3.4:x"] {
        let error = parse_address(text).expect_err(text);
        assert!(error.contains("such as 9464"), "{error}");
    }
}

/// A server of metrics with nothing to show but a swarm.
async fn listening() -> (SocketAddr, JoinHandle<()>) {
    let server = MetricsServer::bind(parse_address("0").expect("a port")).await.expect("bound");
    let (address, observer) = (server.address(), Observer::default());
    let mut asked = observer.swarm.open();
    tokio::spawn(async move {
        while let Some(question) = asked.recv().await {
            question.send(SwarmFigures { members: 3, ..SwarmFigures::default() }).ok();
        }
    });
    (address, tokio::spawn(server.serve(observer)))
}

/// What the server answers to these bytes, until it closes the connection.
async fn answer_to(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("there");
    // It may have answered and closed before it was sent everything.
    stream.write_all(request).await.ok();
    let mut answer = Vec::new();
    match timeout(WATCHDOG, stream.read_to_end(&mut answer)).await.expect("closed in time") {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
    String::from_utf8(answer).expect("text")
}

fn get(target: &str, more: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: 127.0.0.1\r\n{more}\r\n").into_bytes()
}

#[tokio::test]
async fn every_kind_of_request_is_answered_with_a_status_and_none_stops_the_server() {
    let (address, _serving) = listening().await;
    let long = "x".repeat(limits::METRICS_HEAD_BYTES);
    let many = "a: b\r\n".repeat(limits::METRICS_HEADERS + 1);
    let rows: &[(&str, Vec<u8>, &str)] = &[
        ("a scrape", get("/metrics", ""), "200"),
        ("with a query", get("/metrics?x=y", ""), "200"),
        ("of HTTP/1.0", b"GET /metrics HTTP/1.0\r\n\r\n".to_vec(), "200"),
        ("its head alone", b"HEAD /metrics HTTP/1.1\r\nhost: [::1]:9\r\n\r\n".to_vec(), "200"),
        ("with a body", get("/metrics", "content-length: 99999999\r\n"), "200"),
        ("another path", get("/", ""), "404"),
        ("a path below", get("/metrics/x", ""), "404"),
        ("a way out", get("/metrics/../../etc/passwd", ""), "404"),
        ("escapes", get("/%6Detrics%00%ff", ""), "404"),
        ("a post", b"POST /metrics HTTP/1.1\r\ncontent-length: 0\r\n\r\n".to_vec(), "405"),
        ("a delete", b"DELETE /metrics HTTP/1.1\r\n\r\n".to_vec(), "405"),
        ("a method of its own", b"BREW /metrics HTTP/1.1\r\n\r\n".to_vec(), "405"),
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\xff\r\n\r\n".to_vec(), "400"),
        ("another version", b"GET /metrics HTTP/9.9\r\n\r\n".to_vec(), "400"),
        ("two lengths", get("/", "content-length: 1\r\ncontent-length: 2\r\n"), "400"),
        ("a header without a colon", get("/", "nonsense\r\n"), "400"),
        ("a long header", get("/", &format!("a: {long}\r\n")), "431"),
        ("many headers", get("/", &many), "431"),
        ("a long line", get(&format!("/{long}"), ""), "431"),
        ("two requests at once", get("/", "").repeat(2), "404"),
    ];
    for (what, request, status) in rows {
        let answer = answer_to(address, request).await;
        let line = answer.lines().next().unwrap_or_default();
        assert_eq!(line.split(' ').nth(1), Some(*status), "{what}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{what}: one answer");
        if *status == "405" {
            assert!(answer.to_lowercase().contains("allow: get, head\r\n"), "{answer}");
        }
    }
    let answer = answer_to(address, &get("/metrics", "")).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    assert!(head.contains("text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert_eq!(parse(body)["lockstep_swarm_nodes"].values["lockstep_swarm_nodes"], 3.0);
}

#[tokio::test]
async fn metrics_are_shown_under_addresses_and_known_names_alone() {
    let server = MetricsServer::bind(parse_address("0").expect("a port")).await.expect("bound");
    let server = server.named(&["Prometheus-Target.example.".to_owned()]);
    let address = server.address();
    let (mut asked, observer) = {
        let observer = Observer::default();
        (observer.swarm.open(), observer)
    };
    tokio::spawn(async move {
        while let Some(question) = asked.recv().await {
            question.send(SwarmFigures::default()).ok();
        }
    });
    let _serving = tokio::spawn(server.serve(observer));
    let known = [
        "127.0.0.1",
        "192.0.2.1:9464",
        "[::1]",
        "[2001:db8::1]:9464",
        "localhost",
        "LocalHost:80",
        "localhost.",
        "prometheus-target.example:9464",
        "PROMETHEUS-TARGET.example",
    ];
    let unknown = [
        "evil.example",
        "evil.example:9464",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "prometheus-target.example.evil.example",
        "x.prometheus-target.example",
        "user@127.0.0.1",
        "127.0.0.1@evil.example",
        "2130706433.example",
        "",
        "a b",
        "[::1",
        "\u{e9}vil",
    ];
    let rows =
        known.iter().map(|host| (host, "200")).chain(unknown.iter().map(|host| (host, "421")));
    for (host, status) in rows {
        for path in ["/metrics", "/elsewhere"] {
            let status = if (path, status) == ("/elsewhere", "200") { "404" } else { status };
            let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
            let answer = answer_to(address, request.as_bytes()).await;
            let line = answer.lines().next().unwrap_or_default();
            assert_eq!(line.split(' ').nth(1), Some(status), "{host:?}: {answer:?}");
            assert_eq!(answer.contains("--metrics-name"), status == "421", "{answer}");
        }
    }
    // A name in the line of the request, or in a second header, counts too.
    for request in [
        "GET http://evil.example/metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        "GET http://127.0.0.1/metrics HTTP/1.1\r\nhost: evil.example\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example\r\n\r\n",
    ] {
        let answer = answer_to(address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{request:?}: {answer:?}");
    }
}

#[tokio::test]
async fn who_says_nothing_is_let_go_and_too_many_are_told_so() {
    let (address, _serving) = listening().await;
    let mut quiet = Vec::new();
    for _ in 0..limits::METRICS_CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.expect("there");
        stream.write_all(b"GET /met").await.expect("sent");
        quiet.push(stream);
    }
    // All places are taken once the last of them was accepted: it is the next one that is refused.
    let answer = answer_to(address, b"").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("too many"), "{answer:?}");
    // They are closed without a word of theirs, and there is room again.
    for mut stream in quiet {
        let mut answer = Vec::new();
        timeout(WATCHDOG, stream.read_to_end(&mut answer)).await.expect("closed").ok();
    }
    let answer = answer_to(address, &get("/metrics", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_server_that_does_not_serve_yet_says_so() {
    let server = MetricsServer::bind(parse_address("0").expect("a port")).await.expect("bound");
    let address = server.address();
    let _serving = tokio::spawn(server.serve(Observer::default()));
    let answer = answer_to(address, &get("/metrics", "")).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("come again"), "{answer}");
    let taken = MetricsServer::bind(address).await.expect_err("it is taken").to_string();
    assert!(taken.contains(&address.to_string()), "{taken}");
}
