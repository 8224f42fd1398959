//! Servers that die or freeze in the middle of an answer: the client ends soon, with an error that
//! names the right stage, and the servers that are left go on serving.
//!
//! The time from the signal to the error is printed (`--nocapture` shows it), not judged: deadlines
//! are tested in virtual time, beside the protocol's machines.

mod support;

use std::time::{Duration, Instant};

use support::process::{Ended, Process, Signal};
use support::ring::{Ring, Server, THREE};
use support::{PATIENCE, WATCHDOG};

/// How far an answer has come when the signal is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Prefill,
    FirstToken,
    Middle,
}

const MOMENTS: [Moment; 3] = [Moment::Prefill, Moment::FirstToken, Moment::Middle];

/// A prompt that takes a while to read: nothing is streamed before all of it has been.
fn long_prompt() -> String {
    (0..400).map(|day| format!("On day {day} the wind came from the west. ")).collect()
}

/// A prompt with a long answer.
const STORY: &str = "Write a long story about a lighthouse keeper and the sea.";

/// A request under way.
struct Asked {
    client: Process,
    /// Where the answer begins on the client's standard error.
    start: usize,
}

impl Asked {
    /// Asks, and waits until the answer has come so far.
    fn until(ring: &Ring, moment: Moment) -> Self {
        let opened: Vec<usize> = ring.servers.iter().map(sessions_opened).collect();
        let long = long_prompt();
        let prompt = if moment == Moment::Prefill { long.as_str() } else { STORY };
        let client = ring.chat(prompt, &["--audit", "off", "-n", "1000"]);
        let start = client.wait_stderr(PATIENCE, "a route", |text| {
            let ring = text.find("ring: ")?;
            text[ring..].find('\n').map(|end| ring + end + 1)
        });
        let asked = Self { client, start };
        match moment {
            Moment::Prefill => {
                for (server, before) in ring.servers.iter().zip(opened) {
                    server.process.wait_stderr(WATCHDOG, "a session", |text| {
                        (count_opened(text) > before).then_some(())
                    });
                }
                // All stages have opened it, and server 1 has done something since.
                ring.servers[0].status().unwrap();
                assert_eq!(asked.streamed(), "");
            }
            Moment::FirstToken => asked.wait_streamed(1),
            Moment::Middle => asked.wait_streamed(150),
        }
        asked
    }

    /// The answer so far.
    fn streamed(&self) -> String {
        self.client.stderr.text()[self.start..].to_owned()
    }

    fn wait_streamed(&self, bytes: usize) {
        self.client.wait_stderr(WATCHDOG, "tokens", |text| {
            (text.len() >= self.start + bytes).then_some(())
        });
    }

    /// Waits for the error; the line, how long it took, and how the client ended.
    fn error(self, signal: Instant) -> (String, Duration, Ended) {
        let (at, line) = self.client.wait_stderr(WATCHDOG, "an error", |text| {
            let at = text.find("error: ")?;
            text[at..].find('\n').map(|end| (at, text[at..at + end].to_owned()))
        });
        let latency = self.client.stderr.moment(at).saturating_duration_since(signal);
        (line, latency, self.client.end(WATCHDOG))
    }
}

fn sessions_opened(server: &Server) -> usize {
    count_opened(&server.process.stderr.text())
}

fn count_opened(log: &str) -> usize {
    log.matches("session opened").count()
}

/// The stage that an error says the answer broke off at; `s1` is stage 0.
fn stage_named(error: &str) -> Option<usize> {
    let (_, rest) = error.split_once("the answer broke off at s")?;
    let place = rest.chars().next()?.to_digit(10)? as usize;
    place.checked_sub(1)
}

/// Sends the signal to each server at each moment.
#[expect(clippy::print_stdout, reason = "latencies are shown, not judged")]
fn every_server_at_every_moment(signal: Signal) {
    let mut ring = Ring::start(&THREE, &["-vv"]);
    for (stage, span) in THREE.into_iter().enumerate() {
        for moment in MOMENTS {
            let case = format!("{signal:?} of stage {stage} at {moment:?}");
            let asked = Asked::until(&ring, moment);
            let sent = Instant::now();
            ring.signal(stage, signal);
            let (error, latency, ended) = asked.error(sent);
            println!("{case}: {:.2} s: {error}", latency.as_secs_f64());
            assert_eq!(stage_named(&error), Some(stage), "{case}: {ended}");
            let ended = ended.expect_code(1);
            let told = ended.json();
            assert!(told["text"].is_null(), "{case}: an answer that is not one: {ended}");
            assert!(told["error"].as_str().is_some_and(|told| error.contains(told)), "{told}");
            assert!(error.contains("Next: ask again"), "{error}");
            match signal {
                Signal::Stop => ring.signal(stage, Signal::Continue),
                _ => ring.servers[stage] = Server::start(span.clone()),
            }
            ring.wait_idle(WATCHDOG);
            let short = ["-n", "4", "--audit", "sampled"];
            let answer = ring.chat("Say hello.", &short).end(PATIENCE);
            assert_eq!(answer.code, Some(0), "after {case}: {answer}\n{}", ring.logs());
            assert_eq!(answer.json()["verdict"], "verified", "after {case}");
        }
    }
}

#[test]
fn a_killed_server_ends_the_answer_with_its_name_and_the_others_serve_on() {
    every_server_at_every_moment(Signal::Kill);
}

#[test]
fn a_frozen_server_ends_the_answer_with_its_name_and_the_others_serve_on() {
    every_server_at_every_moment(Signal::Stop);
}
