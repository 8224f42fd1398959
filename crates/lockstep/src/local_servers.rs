//! Server processes on this machine that hold a model between them, and end with this program.

use std::ops::Range;
use std::path::Path;
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
}

/// Server processes that hold all layers of a model between them.
pub(crate) struct LocalServers(Vec<LocalServer>);

impl LocalServers {
    /// Starts all servers at once and waits until each has told its ticket.
    pub(crate) async fn start(
        place: &Place,
        model: &Model,
        servers: u32,
        threads: usize,
    ) -> Result<Self> {
        let layers = model.manifest.layers.len() as u32;
        if servers == 0 || servers > layers {
            return Err(usage(format!("--servers: expected 1..={layers}, got {servers}")));
        }
        let spans = spans(layers, servers);
        let spawn = |span: &Range<u32>| spawn(place.home.root(), model, span, threads);
        let children = spans.iter().map(spawn).collect::<Result<Vec<_>>>()?;
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

fn spawn(home: &Path, model: &Model, span: &Range<u32>, threads: usize) -> Result<Child> {
    let program = std::env::current_exe().context("can't tell which program this is")?;
    let mut command = Command::new(&program);
    // An interrupt at the terminal is for us: it ends an answer, not the servers under it.
    #[cfg(unix)]
    command.process_group(0);
    command
        .arg("--home")
        .arg(home)
        .arg("serve")
        .arg(model.record.manifest.to_string())
        .arg("--layers")
        .arg(format!("{}..{}", span.start, span.end))
        .args(["--for-this-machine", "--json", "--until-stdin-closes"])
        .arg("--threads")
        .arg(threads.to_string())
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
    Ok(LocalServer { child, ticket: ticket.parse()? })
}

#[cfg(test)]
mod tests {
    use super::spans;

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
