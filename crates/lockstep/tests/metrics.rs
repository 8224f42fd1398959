//! The metrics of a real server process over HTTP: they are in the text format, and a request moves
//! them.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use support::process::Process;
use support::ring::{Server, starting};
use support::{MODEL, PATIENCE, WATCHDOG, command, lockstep};

/// The values of a page, by their series.
fn scrape(url: &str) -> BTreeMap<String, f64> {
    let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/metrics"));
    let mut stream = TcpStream::connect(address.unwrap_or_else(|| panic!("{url}"))).unwrap();
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let value = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}")))
    };
    lines.map(value).collect()
}

/// The address of the metrics that a server has told.
fn url(server: &Server) -> String {
    let told = server.process.stdout.text();
    let told: serde_json::Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    told["metrics"].as_str().unwrap().to_owned()
}

#[test]
fn a_request_moves_the_counters_of_every_server_that_it_crosses_and_no_text_is_shown() {
    let first = Server::ready(starting(0..10, &["--metrics", "0"]));
    let joining = ["--metrics", "0", "--join", &first.ticket, "-v"];
    let second = Server::ready(starting(10..30, &joining));
    // Its trial is over: no session but those below moves anything.
    second
        .process
        .wait_stderr(WATCHDOG, "its trial", |text| text.contains("trial passed").then_some(()));
    let urls = [url(&first), url(&second)];
    let prompt = "Repeat the word zanzibar.";
    let ask = |tokens: &str| {
        let asked = ["chat", &second.ticket, "--prompt", prompt, "-n", tokens, "--json"];
        Process::spawn(command(&asked)).end(PATIENCE).expect_code(0).json()
    };
    // The first server is not named by this ticket: a canary proves it before the first question.
    ask("1");
    let before: Vec<_> = urls.iter().map(|url| scrape(url)).collect();
    let report = ask("6");
    let tokens = report["tokens"].as_array().unwrap().len() as f64;
    let after: Vec<_> = urls.iter().map(|url| scrape(url)).collect();
    let moved = |server: usize, series: &str| {
        let of = |page: &BTreeMap<String, f64>| page.get(series).copied().unwrap_or(0.0);
        of(&after[server]) - of(&before[server])
    };
    assert_eq!(moved(0, "lockstep_tokens_total"), tokens);
    assert_eq!(moved(0, "lockstep_time_to_first_token_seconds_count"), 1.0);
    assert_eq!(moved(0, "lockstep_inter_token_latency_seconds_count"), tokens - 1.0);
    assert_eq!(moved(0, "lockstep_sessions_opened_total{place=\"first\"}"), 1.0);
    assert_eq!(moved(1, "lockstep_sessions_opened_total{place=\"other\"}"), 1.0);
    for server in 0..2 {
        assert_eq!(moved(server, "lockstep_sessions_finished_total"), 1.0);
        assert!(moved(server, "lockstep_stage_positions_total{kind=\"prompt\"}") >= 5.0);
        assert!(moved(server, "lockstep_stage_compute_seconds_sum{kind=\"decode\"}") > 0.0);
        assert!(moved(server, "lockstep_audits_answered_total") > 0.0);
        let page = &after[server];
        assert!(page["process_resident_memory_bytes"] > 1e6);
        assert!(page["lockstep_kv_pages_free"] > 0.0 && page["lockstep_sessions"] == 0.0);
        assert!(page["lockstep_decode_seconds_per_layer{batch=\"1\"}"] > 0.0);
        assert_eq!(page["lockstep_swarm_nodes"], 1.0);
        assert!(page["lockstep_gossip_bytes_total{dir=\"received\"}"] > 0.0);
        let hop = [&second.node, &first.node][server];
        let sent = format!("lockstep_hop_bytes_total{{peer=\"{hop}\",dir=\"sent\"}}");
        assert!(moved(server, &sent) > 5.0 * 576.0, "{sent}");
        let trip = format!("lockstep_hop_rtt_seconds{{peer=\"{hop}\"}}");
        let began = Instant::now();
        while !scrape(&urls[server]).contains_key(&trip) {
            assert!(began.elapsed() < WATCHDOG, "no {trip}");
        }
        let text = format!("{page:?}");
        assert!(!text.contains("zanzibar") && !text.contains(&first.ticket), "{text}");
    }
}

#[test]
fn an_address_that_is_taken_or_none_is_an_error_before_the_model_is_loaded() {
    let server = Server::ready(starting(0..30, &["--metrics", "127.0.0.1:0"]));
    let address = url(&server);
    let address = address.trim_start_matches("http://").trim_end_matches("/metrics");
    let again = lockstep(&["serve", MODEL, "--ephemeral", "--json", "--metrics", address]);
    let again = again.expect_code(1);
    assert!(again.stderr.contains(&format!("can't listen on {address}")), "{again}");
    let wrong = lockstep(&["serve", MODEL, "--metrics", "somewhere"]).expect_code(2);
    assert!(wrong.stderr.contains("expected a port, such as 9464"), "{wrong}");
}

#[test]
fn up_shows_the_metrics_of_each_of_its_servers() {
    let asked = ["up", MODEL, "--servers", "2", "--metrics", "0", "-n", "2", "--prompt", "Hi."];
    let ended = lockstep(&[&asked[..], &["--json", "--audit", "off"]].concat());
    let said = ended.stderr.clone();
    ended.expect_code(0);
    let urls = said.lines().filter(|line| line.starts_with("metrics of s"));
    assert_eq!(urls.count(), 2, "{said}");
}
