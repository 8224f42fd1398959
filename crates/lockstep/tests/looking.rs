//! Looking at a swarm of real server processes: `plan`, `status --watch`, `doctor`, and the log as
//! JSON.

mod support;

use serde_json::Value;

use support::process::{Process, Signal};
use support::ring::{Server, starting};
use support::{MODEL, WATCHDOG, command, lockstep};

/// Numbers of a report that must be there.
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

fn check<'c>(report: &'c Value, name: &str) -> Vec<&'c Value> {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().filter(|check| check["name"] == name).collect()
}

#[test]
fn a_swarm_is_planned_measured_watched_and_reached() {
    let log = ["--log", "json", "--log-level", "info"];
    let first = Server::ready(starting(0..10, &log));
    let joining = [&log[..], &["--join", &first.ticket]].concat();
    let second = Server::ready(starting(10..30, &joining));
    second.process.wait_stderr(WATCHDOG, "its trial", |text| {
        text.contains("\"message\":\"trial passed\"").then_some(())
    });
    first.process.wait_stderr(WATCHDOG, "the other", |text| {
        text.contains("\"message\":\"a node has joined the swarm\"").then_some(())
    });

    let plan = ["plan", &second.ticket, "--measure", "--add", "2", "--json"];
    let plan = lockstep(&plan).expect_code(0).json();
    assert_eq!(
        (&plan["servers"], &plan["ready"], &plan["layers"]),
        (&2.into(), &2.into(), &30.into())
    );
    let hop = &plan["ring"][1];
    assert_eq!((&hop["node"], &hop["first"]), (&second.node.clone().into(), &10.into()));
    assert!(number(&plan["predicted"]["tokens_per_s"]) > 0.0, "{plan}");
    assert!(number(&plan["predicted"]["many_tokens_per_s"]) > 0.0, "{plan}");
    assert_eq!(plan["measured"]["tokens"], 32, "{plan}");
    assert!(number(&plan["measured"]["of_predicted"]) > 0.0, "{plan}");
    let weakest = &plan["bottleneck"][0];
    assert!([0, 10].contains(&weakest["first"].as_i64().unwrap()), "{plan}");
    let rows = plan["more"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{plan}");
    let many: Vec<f64> = rows.iter().map(|row| number(&row["many_tokens_per_s"])).collect();
    // Whether two more are enough to give more hangs on the speeds that were measured.
    assert!(many.is_sorted() && many[0] > 0.0, "{many:?}");
    let shown = lockstep(&["plan", &first.ticket]).expect_code(0).stdout;
    for word in ["one client", "many", "weakest", "more", "+4"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }

    let watching = ["status", &first.ticket, "--watch", "1", "--json"];
    let watching = Process::spawn(command(&watching));
    let looks = |text: &str| text.lines().filter(|line| line.ends_with('}')).count();
    watching.wait_stdout(WATCHDOG, "a look", |text| (looks(text) >= 1).then_some(()));
    let reached = lockstep(&["doctor", &second.ticket, "--bind", "127.0.0.1:0", "--json"]);
    let reached = reached.expect_code(0).json();
    assert_eq!(check(&reached, "reachability")[0]["status"], "ok", "{reached}");
    assert_eq!(check(&reached, "clock")[0]["status"], "ok", "{reached}");
    assert_eq!(check(&reached, "listening")[0]["status"], "ok", "{reached}");
    let dead = second.ticket.clone();
    second.process.end(WATCHDOG);
    let change = watching.wait_stdout(WATCHDOG, "the change", |text| {
        let told = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut changes = told.flat_map(|look| look["changes"].as_array().unwrap().clone());
        changes.find(|change| change["change"] == "left")
    });
    assert_eq!(change["node"], second.node);
    watching.signal(Signal::Interrupt);
    watching.end(WATCHDOG).expect_code(0);

    let plan = lockstep(&["plan", &first.ticket, "--json"]).expect_code(0).json();
    assert!(plan["no_ring"].as_str().unwrap().contains("nobody holds layers 10..30"), "{plan}");
    assert!(number(&plan["more"][4]["many_tokens_per_s"]) > 0.0, "{plan}");
    let shown = lockstep(&["status", &first.ticket]).expect_code(0).stdout;
    assert!(shown.contains("10..30 x0 NOBODY") && shown.contains("rates: no ring"), "{shown}");
    let unreached = lockstep(&["doctor", &dead, "--json"]).expect_code(1).json();
    let why = check(&unreached, "reachability")[0];
    assert_eq!(why["status"], "fail", "{unreached}");
    assert!(why["next"].as_str().unwrap().contains("UDP is blocked"), "{unreached}");
}

#[test]
fn machines_like_this_one_are_planned_for_and_what_can_not_be_is_explained() {
    let plan = lockstep(&["plan", MODEL, "--add", "3", "--rtt-ms", "0.5", "--json"]);
    let plan = plan.expect_code(0).json();
    let rows = plan["more"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["machines"].clone()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(number(&rows[0]["one_tokens_per_s"]) > 0.0, "{plan}");
    assert!(number(&plan["decode_ms_per_layer"]) > 0.0, "{plan}");
    for (arguments, code, text) in [
        (&["plan", "no-such-model"][..], 1, "no model \"no-such-model\" here"),
        (&["plan", "lockstep1nonsense"], 2, "ticket"),
        (&["plan"], 2, "no TICKET"),
        (&["plan", MODEL, "--measure"], 2, "--measure is for a plan of a TICKET"),
        (&["plan", MODEL, "--add", "65"], 2, "0..=64"),
        (&["plan", MODEL, "--rtt-ms", "-1"], 2, "expected milliseconds"),
        (&["--log", "xml", "list"], 2, "expected text or json"),
        (&["--log-level", "lockstep=loud", "list"], 1, "off, error, warn"),
    ] {
        let ended = lockstep(arguments).expect_code(code);
        assert!(ended.stderr.contains(text), "{ended}");
    }
}
