//! Rings of real server processes, and what their servers say of themselves.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_node::driver::{Contact, Links, StatusError, status};
use lockstep_node::ticket::Ticket;
use lockstep_node::transport::{AllowList, Endpoint, Identity};
use lockstep_proto::announcement::Status;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::process::{Process, Signal};
use super::relay::{Relay, Weather, free_port};
use super::{MODEL, PATIENCE, WATCHDOG, command, lockstep};

/// The spans of three servers.
pub(crate) const THREE: [Range<u32>; 3] = [0..10, 10..20, 20..30];

/// A server process that has told its ticket.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) ticket: String,
    pub(crate) node: String,
}

impl Server {
    /// Waits until a process that was started with `serve --json` listens.
    pub(crate) fn ready(process: Process) -> Self {
        let line = process.wait_stdout(PATIENCE, "ticket", |text| {
            text.split_once('\n').map(|(line, _)| line.to_owned())
        });
        let told: Value = serde_json::from_str(&line).unwrap();
        let word = |name: &str| told[name].as_str().unwrap().to_owned();
        Self { process, ticket: word("ticket"), node: word("node") }
    }

    /// Starts a server of a span on one thread, with a log of its sessions on standard error.
    pub(crate) fn start(span: Range<u32>) -> Self {
        Self::ready(starting(span, &["-v"]))
    }

    /// Asks it what it serves, without patience.
    pub(crate) fn status(&self) -> Result<Status, StatusError> {
        let ticket: Ticket = self.ticket.parse().unwrap();
        let asked = async {
            let bind: SocketAddr = "127.0.0.1:0".parse().unwrap();
            let nobody = AllowList::Only([].into());
            let endpoint = Endpoint::bind(&Identity::generate(), bind, nobody).await.unwrap();
            let links = Links::new(Arc::new(endpoint));
            let told = status(&links, &ticket.peers[0]).await;
            links.close().await;
            told.map(|Contact { status, .. }| status)
        };
        runtime().block_on(asked)
    }

    /// Waits until the server runs no session.
    pub(crate) fn wait_idle(&self, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let told = self.status();
            if matches!(&told, Ok(status) if status.sessions == 0 && status.queue == 0) {
                return;
            }
            assert!(Instant::now() < deadline, "{}: not idle: {told:?}", self.node);
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A server process that may not listen yet.
pub(crate) fn starting(span: Range<u32>, more: &[&str]) -> Process {
    starting_with(span, more, &[])
}

/// The same, with variables.
pub(crate) fn starting_with(
    span: Range<u32>,
    more: &[&str],
    variables: &[(&str, &str)],
) -> Process {
    let span = format!("{}..{}", span.start, span.end);
    let mut arguments = vec!["serve", MODEL, "--layers", &span];
    arguments.extend(["--ephemeral", "--json", "--until-stdin-closes"]);
    for (flag, usual) in [("--bind", "127.0.0.1:0"), ("--threads", "1")] {
        if !more.contains(&flag) {
            arguments.extend([flag, usual]);
        }
    }
    arguments.extend(more);
    let mut command = command(&arguments);
    command.envs(variables.iter().copied());
    Process::spawn(command)
}

/// What the server of a ticket knows of its swarm.
pub(crate) fn swarm_of(ticket: &str) -> Value {
    lockstep(&["status", ticket, "--json"]).expect_code(0).json()
}

/// Looks at a swarm until it is as expected, and returns what was seen then.
#[allow(clippy::print_stdout, reason = "how long it took is shown, not judged")]
pub(crate) fn wait_for(ticket: &str, what: &str, is_so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let seen = swarm_of(ticket)["nodes"].as_array().expect("a list").clone();
        if is_so(&seen) {
            println!("{what}: seen after {} ms", began.elapsed().as_millis());
            return seen;
        }
        assert!(began.elapsed() < WATCHDOG, "not {what}: {seen:?}");
    }
}

/// Whether there are this many servers, all of them ready.
pub(crate) fn are_ready(seen: &[Value], count: usize) -> bool {
    seen.len() == count && seen.iter().all(|one| one["state"] == "ready")
}

/// A server of a span that joins the swarm of another.
pub(crate) fn joining(span: Range<u32>, ticket: &str) -> Server {
    Server::ready(starting(span, &["--join", ticket]))
}

/// Starts servers of these spans on 127.0.0.2, whose tickets name only a relay with this weather.
/// Where nothing forbids it their connections change to the shorter way after a while.
pub(crate) fn behind(spans: &[Range<u32>], weather: Weather, more: &[&str]) -> (Ring, Vec<Relay>) {
    let start = |span: &Range<u32>| {
        let own = free_port();
        let relay = Relay::start(own, weather);
        let (own, announced) = (own.to_string(), relay.address.to_string());
        let places = ["--bind", &own, "--advertise", &announced];
        (starting(span.clone(), &[&places[..], more].concat()), relay)
    };
    let (starting, relays): (Vec<Process>, Vec<Relay>) = spans.iter().map(start).unzip();
    (Ring { servers: starting.into_iter().map(Server::ready).collect() }, relays)
}

/// Servers that hold every layer once.
pub(crate) struct Ring {
    pub(crate) servers: Vec<Server>,
}

impl Ring {
    /// Starts servers of these spans at once and waits for all.
    pub(crate) fn start(spans: &[Range<u32>], more: &[&str]) -> Self {
        let starting: Vec<Process> =
            spans.iter().map(|span| starting(span.clone(), more)).collect();
        Self { servers: starting.into_iter().map(Server::ready).collect() }
    }

    /// All tickets, as one argument.
    pub(crate) fn tickets(&self) -> String {
        let tickets: Vec<&str> = self.servers.iter().map(|server| server.ticket.as_str()).collect();
        tickets.join(",")
    }

    /// A client that is given a prompt and reports in JSON.
    pub(crate) fn chat(&self, prompt: &str, more: &[&str]) -> Process {
        let tickets = self.tickets();
        let mut arguments = vec!["chat", &tickets, "--prompt", prompt, "--json"];
        arguments.extend(more);
        Process::spawn(command(&arguments))
    }

    /// Waits until no server runs a session.
    pub(crate) fn wait_idle(&self, within: Duration) {
        for server in &self.servers {
            server.wait_idle(within);
        }
    }

    /// What the servers have logged.
    pub(crate) fn logs(&self) -> String {
        let log = |(stage, server): (usize, &Server)| {
            format!("--- stage {stage}, {}\n{}", server.node, server.process.stderr.text())
        };
        self.servers.iter().enumerate().map(log).collect()
    }

    pub(crate) fn signal(&self, stage: usize, signal: Signal) {
        self.servers[stage].process.signal(signal);
    }
}
