//! Serves some layers of a tiny seeded model on this machine.
//!
//! `cargo run -p lockstep-client --example serve_a_span -- 0..2` prints a ticket and serves layers
//! 0 and 1, with embedding and head, until its standard input closes. `ask_and_verify` starts two
//! of these servers inside its own process.

use std::error::Error;
use std::future::Future;
use std::io::{Read as _, Write, stdin, stdout};
use std::ops::Range;
use std::sync::Arc;

use lockstep_client::backend::{Backend, backend};
use lockstep_client::random;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::digest::Digest;
use lockstep_node::driver::{ServeError, Serving, serve};
use lockstep_node::executor::{Executor, Weights};
use lockstep_node::ticket::Ticket;
use lockstep_node::transport::{AllowList, Endpoint, Identity, Listen};
use lockstep_proto::model::Model;
use lockstep_proto::server::{Capacity, Holding, RunValues, Server};
use lockstep_testing::tiny_model::TinyModel;

/// The seed of the model that all servers and the client agree on.
pub(crate) const SEED: u64 = 7;

/// Where a server listens, and what it serves until it ends.
pub(crate) struct Span {
    /// How to reach it.
    pub(crate) ticket: Ticket,
    serving: Serving<Executor<Backend>>,
}

impl Span {
    /// A server of `layers`; of embedding and head too if layer 0 is among them.
    ///
    /// # Errors
    /// Whatever keeps it from starting.
    pub(crate) async fn of(model: &TinyModel, layers: Range<u32>) -> Result<Self, Box<dyn Error>> {
        let identity = Identity::generate();
        // On this machine alone, at a port that the system chooses.
        let endpoint = Endpoint::bind(&identity, Listen::default(), AllowList::Anyone).await?;
        let manifest = Digest::of(&model.manifest.to_bytes());
        let (peers, called) = (vec![endpoint.addr()], "tiny".to_owned());
        let ticket = Ticket { peers, manifest: Some(manifest), called };

        let ops = backend(Some(1))?;
        let blob = |index| model.blob(index);
        let weights = Weights::load(&ops, &model.manifest, layers.clone(), blob)?;
        let executor = Executor::new(ops, &model.manifest, weights);
        let head = (layers.start == 0).then(|| Arc::new(model.vocabulary()));
        let holding = Holding { model: Model::from(&model.manifest), span: layers, head };
        let runs = RunValues::new(random::secret()?);
        let mut machine = Server::new(identity.keypair(), holding, Capacity::default(), runs);
        machine.reachable_at(&endpoint.addr().text());
        let serving = Serving { endpoint: Arc::new(endpoint), machine, executor };
        Ok(Self { ticket, serving })
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// The server's thread could not be started.
    pub(crate) async fn serve(
        self,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        serve(self.serving, std::future::pending(), stop).await
    }
}

/// Serves the layers that `argument` names until `stop`; writes the ticket to `out`.
///
/// # Errors
/// Whatever keeps the server from starting.
async fn run(
    argument: &str,
    stop: impl Future<Output = ()> + Send,
    mut out: impl Write,
) -> Result<(), Box<dyn Error>> {
    let model = TinyModel::new(SEED);
    let (first, end) = argument.split_once("..").ok_or("expected layers as FIRST..END")?;
    let span = Span::of(&model, first.parse()?..end.parse()?).await?;
    writeln!(out, "{}", span.ticket)?;
    Ok(span.serve(stop).await?)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<(), Box<dyn Error>> {
    let layers = std::env::args().nth(1).ok_or("expected layers as FIRST..END")?;
    let (closed, stop) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        stdin().read_to_end(&mut Vec::new()).ok();
        closed.send(()).ok();
    });
    let stop = async { stop.await.unwrap_or_default() };
    run(&layers, stop, stdout()).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_server_says_where_it_is_and_ends_when_it_is_told_to() {
        let mut out = Vec::new();
        let served = run("0..1", async {}, &mut out);
        timeout(Duration::from_secs(60), served).await.expect("in time").expect("served");
        let ticket: Ticket =
            String::from_utf8(out).expect("text").trim().parse().expect("a ticket");
        assert_eq!((ticket.peers.len(), ticket.called.as_str()), (1, "tiny"));
    }
}
