//! Servers that are asked to end: SIGTERM, and Ctrl-C.

mod support;

use support::process::{Process, Signal};
use support::ring::{Ring, THREE};
use support::{PATIENCE, WATCHDOG};

/// Waits until an answer streams.
fn streaming(client: &Process) {
    client.wait_stderr(PATIENCE, "tokens", |text| {
        let (_, rest) = text.split_once("ring: ")?;
        let (_, answer) = rest.split_once('\n')?;
        (answer.len() > 20).then_some(())
    });
}

#[test]
fn a_server_that_is_terminated_finishes_its_answer_and_its_audit_and_takes_no_other() {
    for (stage, signal) in [(0, Signal::Terminate), (1, Signal::Interrupt)] {
        let mut ring = Ring::start(&THREE, &["-v"]);
        let story = "Write a story about a lighthouse keeper and the sea.";
        let client = ring.chat(story, &["-n", "60"]);
        streaming(&client);
        ring.signal(stage, signal);
        ring.servers[stage].process.wait_stderr(WATCHDOG, "the drain", |text| {
            text.contains("no new sessions from now on").then_some(())
        });
        let refused = ring.chat("Hi.", &["-n", "2"]).end(PATIENCE).expect_code(1);
        assert!(refused.stderr.contains("no route"), "{refused}");
        assert_eq!(client.end(PATIENCE).expect_code(0).json()["verdict"], "verified");
        let server = ring.servers.remove(stage);
        server.process.end_by_itself(WATCHDOG).expect_code(0);
    }
}

#[test]
fn a_server_that_serves_nobody_ends_at_once_and_a_second_signal_ends_a_busy_one() {
    let mut ring = Ring::start(&THREE, &["-v"]);
    let client = ring.chat("Write a long story about a whale.", &["-n", "1000"]);
    streaming(&client);
    let busy = ring.servers.remove(0);
    busy.process.signal(Signal::Terminate);
    busy.process.wait_stderr(WATCHDOG, "the drain", |text| {
        text.contains("no new sessions from now on").then_some(())
    });
    busy.process.signal(Signal::Terminate);
    busy.process.end_by_itself(WATCHDOG).expect_code(0);
    let ended = client.end(WATCHDOG).expect_code(1);
    assert!(ended.stderr.contains("broke off at s1"), "{ended}");
    ring.wait_idle(WATCHDOG);
    for server in ring.servers {
        server.process.signal(Signal::Terminate);
        server.process.end_by_itself(WATCHDOG).expect_code(0);
    }
}
