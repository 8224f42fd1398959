//! Server processes on this machine that hold a model between them, and end with this program.

use std::net::SocketAddr;
use std::ops::Range;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lockstep_client::model::Model;
use lockstep_client::place::Place;
use lockstep_node::ticket::Ticket;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::exit::usage;

/// Time for a server to load its layers and listen.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// The servers that are to be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fleet {
    /// The number of servers to split the layers over.
    pub(crate) servers: u32,
    /// The number of threads that compute in each server.
    pub(crate) threads: usize,
    /// The address at which the first server shows its metrics, and each other one at the port
    /// after the one before; at any port if it is port 0. None shows metrics if it is `None`.
    pub(crate) metrics: Option<SocketAddr>,
}

impl Fleet {
    /// Returns the address at which the server with this index shows its metrics.
    fn metrics_of(&self, index: usize) -> Result<Option<SocketAddr>> {
        let Some(mut address) = self.metrics else { return Ok(None) };
        if address.port() != 0 {
            let port = usize::from(address.port()) + index;
            let no_port = |_| usage(format!("--metrics: server {} has no port {port}", index + 1));
            address.set_port(u16::try_from(port).map_err(no_port)?);
        }
        Ok(Some(address))
    }
}

/// Layers in contiguous spans of almost equal length.
fn spans(layers: u32, servers: u32) -> Vec<Range<u32>> {
    let cut = |index: u32| (u64::from(layers) * u64::from(index) / u64::from(servers)) as u32;
    (0..servers).map(|index| cut(index)..cut(index + 1)).collect()
}

/// A server process that this program has started. It ends when its standard input closes, and so
/// also when this program is killed.
struct LocalServer {
    child: Child,
    ticket: Ticket,
    /// The address at which it shows its metrics, if it does.
    metrics: Option<String>,
}

/// Server processes that hold all layers of a model between them.
pub(crate) struct LocalServers(Vec<LocalServer>);

impl LocalServers {
    /// Starts all servers at once and waits until each has told its ticket.
    pub(crate) async fn start(place: &Place, model: &Model, fleet: Fleet) -> Result<Self> {
        let Fleet { servers, threads, .. } = fleet;
        let layers = model.manifest.layers.len() as u32;
        if servers == 0 || servers > layers {
            return Err(usage(format!("--servers: expected 1..={layers}, got {servers}")));
        }
        let spans = spans(layers, servers);
        let spawn = |(index, span): (usize, &Range<u32>)| {
            spawn(place, model, span, (threads, fleet.metrics_of(index)?))
        };
        let children = spans.iter().enumerate().map(spawn).collect::<Result<Vec<_>>>()?;
        let mut servers = Vec::new();
        for (child, span) in children.into_iter().zip(spans) {
            let ready = timeout(START_DEADLINE, ready(child)).await;
            let late = || format!("no answer in {} s", START_DEADLINE.as_secs());
            let server = ready.with_context(late).and_then(|server| server);
            servers.push(server.with_context(|| {
                format!("the server of layers {}..{} did not start", span.start, span.end)
            })?);
        }
        Ok(Self(servers))
    }

    /// Returns the tickets of the servers.
    pub(crate) fn tickets(&self) -> Vec<Ticket> {
        self.0.iter().map(|server| server.ticket.clone()).collect()
    }

    /// Returns the addresses at which the servers show their metrics, in their order.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|server| server.metrics.as_deref())
    }

    /// Closes every server's standard input and waits a moment for it to end.
    pub(crate) async fn stop(mut self) {
        for server in &mut self.0 {
            drop(server.child.stdin.take());
        }
        for mut server in self.0 {
            if timeout(Duration::from_secs(3), server.child.wait()).await.is_err() {
                server.child.kill().await.ok();
            }
        }
    }
}

fn spawn(
    place: &Place,
    model: &Model,
    span: &Range<u32>,
    (threads, metrics): (usize, Option<SocketAddr>),
) -> Result<Child> {
    let program = std::env::current_exe().context("can't tell which program this is")?;
    let mut command = Command::new(&program);
    // An interrupt at the terminal is for us: it ends an answer, not the servers under it.
    #[cfg(unix)]
    command.process_group(0);
    command
        .arg("--home")
        .arg(place.home.root())
        .args(place.config.log.iter().flat_map(|log| ["--log".to_owned(), log.to_string()]))
        .args(place.config.log_level.iter().flat_map(|level| ["--log-level", level]))
        .arg("serve")
        .arg(model.record.manifest.to_string())
        .arg("--layers")
        .arg(format!("{}..{}", span.start, span.end))
        .args(["--for-this-machine", "--json", "--until-stdin-closes"])
        .arg("--threads")
        .arg(threads.to_string())
        .args(metrics.iter().flat_map(|address| ["--metrics".to_owned(), address.to_string()]))
        // A variable is for the one server that a person starts: all can't listen there.
        .env_remove("LOCKSTEP_METRICS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("can't start {}", program.display()))
}

/// Reads the line that a server prints when it listens.
async fn ready(mut child: Child) -> Result<LocalServer> {
    let stdout = child.stdout.take().context("a server without standard output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).await?;
    if line.is_empty() {
        bail!("it ended with {}", child.wait().await?);
    }
    let value: Value = serde_json::from_str(&line).context("its first line")?;
    if let Some(error) = value.get("error").and_then(Value::as_str) {
        bail!("{error}");
    }
    let ticket = value.get("ticket").and_then(Value::as_str).context("no ticket")?;
    let metrics = value.get("metrics").and_then(Value::as_str).map(str::to_owned);
    Ok(LocalServer { child, ticket: ticket.parse()?, metrics })
}

#[cfg(test)]
mod tests {
    use super::{Fleet, spans};

    #[test]
    fn each_server_shows_its_metrics_at_the_port_after_the_one_before() {
        let at = |text: &str, index| {
            let metrics = Some(text.parse().unwrap());
            Fleet { servers: 3, threads: 1, metrics }.metrics_of(index).map(|one| one.unwrap())
        };
        assert_eq!(at("[::1]:9464", 2).unwrap().to_string(), "[::1]:9466");
        assert_eq!(at("127.0.0.1:0", 2).unwrap().port(), 0);
        let error = at("127.0.0.1:65535", 1).unwrap_err().to_string();
        assert!(error.contains("server 2 has no port 65536"), "{error}");
        assert_eq!(Fleet { servers: 3, threads: 1, metrics: None }.metrics_of(1).unwrap(), None);
    }

    #[test]
    fn spans_hold_every_layer_once_and_none_is_empty() {
        for layers in 1..40 {
            for servers in 1..=layers {
                let spans = spans(layers, servers);
                assert_eq!(spans.first().map(|span| span.start), Some(0));
                assert_eq!(spans.last().map(|span| span.end), Some(layers));
                assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert!(spans.iter().all(|span| !span.is_empty()));
            }
        }
    }
}
