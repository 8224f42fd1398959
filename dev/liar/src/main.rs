//! `lockstep-liar`: a server like `lockstep serve` that tells one lie. For tests alone.
//!
//! It prints the same line of JSON with its ticket, and ends when its standard input closes.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::Parser;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_kernels::Kernels;
use lockstep_liar::{Liar, liar};
use lockstep_node::config::Config;
use lockstep_node::driver::{Serving, serve};
use lockstep_node::home::Home;
use lockstep_node::store::{ModelName, ModelRecord, Store};
use lockstep_node::ticket::Ticket;
use lockstep_node::transport::{AllowList, Endpoint, Identity};
use lockstep_proto::model::Model;
use lockstep_proto::server::{Capacity, Holding, RunValues, Server};
use lockstep_testing::liar::rules;
use lockstep_testing::lie::{Aim, Lie, Script};
use lockstep_verify::secret::Secret;
use serde_json::json;
use tokio::sync::oneshot;

/// A server that lies, for tests: any client that audits must find out.
#[derive(Debug, Parser)]
#[command(name = "lockstep-liar", version)]
struct Arguments {
    /// The model's name in the home folder
    model: String,
    /// Where models are kept
    #[arg(long)]
    home: PathBuf,
    /// Layers to serve, as FIRST..END (END not included) [default: all]
    #[arg(long, value_name = "FIRST..END")]
    layers: Option<String>,
    /// What to lie about; without it the server is honest
    #[arg(long)]
    lie: Option<Lie>,
    /// The layer to lie about [default: the middle of those served]
    #[arg(long)]
    at_layer: Option<u32>,
    /// The position to lie about
    #[arg(long, default_value_t = 3)]
    at_position: u32,
    /// Compute threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let home = Home::at(&arguments.home);
    let store = Store::open(&home, Config::default().disk_reserve())?;
    let name: ModelName = arguments.model.parse()?;
    let record = store.record(&name)?;
    let manifest = Arc::new(store.manifest(&record)?);
    let span = span(arguments.layers.as_deref(), manifest.layers.len() as u32)?;
    let script = script(&arguments, &manifest, &span)?;
    let identity = Identity::generate();
    let (machine, executor) =
        parts(&store, &manifest, span.clone(), script, &identity, arguments.threads)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build()?;
    let served = runtime.block_on(run(&identity, &record, span, machine, executor));
    // The executor's thread may be inside a long job.
    runtime.shutdown_background();
    served
}

/// Layers as FIRST..END; all if not given.
fn span(text: Option<&str>, layers: u32) -> Result<Range<u32>> {
    let Some(text) = text else { return Ok(0..layers) };
    let parsed =
        text.split_once("..").and_then(|(first, end)| Some(first.parse().ok()?..end.parse().ok()?));
    parsed
        .filter(|span: &Range<u32>| span.start < span.end && span.end <= layers)
        .with_context(|| format!("--layers: expected FIRST..END inside 0..{layers}, got {text:?}"))
}

fn script(arguments: &Arguments, manifest: &Manifest, span: &Range<u32>) -> Result<Option<Script>> {
    let Some(lie) = arguments.lie else { return Ok(None) };
    if lie.is_told_in_frames() {
        bail!("{lie} is told in frames, which only a ring in memory lets a liar change");
    }
    let layer = arguments.at_layer.unwrap_or_else(|| span.start.midpoint(span.end));
    if !span.contains(&layer) {
        bail!("--at-layer: expected one of {}..{}, got {layer}", span.start, span.end);
    }
    if !lie.fits(manifest, layer) {
        bail!("--lie {lie}: layer {layer} of this model does not have what the lie is about");
    }
    let aim = Aim { layer, position: arguments.at_position };
    Ok(Some(Script { lie, aim }))
}

/// The machine and the executor of the server.
fn parts(
    store: &Store,
    manifest: &Arc<Manifest>,
    span: Range<u32>,
    script: Option<Script>,
    identity: &Identity,
    threads: usize,
) -> Result<(Server, Liar<Kernels>)> {
    let is_first = span.start == 0;
    let blobs = store.open_span(manifest, span.clone())?;
    let ops = Kernels::detect(threads)?;
    let executor = liar(ops, script, manifest, span.clone(), blobs.source())?;
    let head = match is_first {
        true => {
            let blob = blobs.get(manifest.vocabulary_blob).context("no vocabulary")?;
            Some(Arc::new(Vocabulary::from_bytes(blob.as_slice())?))
        }
        false => None,
    };
    let model = rules::model(script, Model::from(&**manifest));
    let holding = Holding { model, span, head };
    let runs = RunValues::new(Secret::of(&Identity::generate().id().0));
    Ok((Server::new(identity.keypair(), holding, Capacity::default(), runs), executor))
}

/// Serves until standard input closes.
async fn run(
    identity: &Identity,
    record: &ModelRecord,
    span: Range<u32>,
    machine: Server,
    executor: Liar<Kernels>,
) -> Result<()> {
    let bind: std::net::SocketAddr = "127.0.0.1:0".parse()?;
    let endpoint = Endpoint::bind(identity, bind, AllowList::Anyone).await?;
    let peer = endpoint.addr();
    let ticket = Ticket {
        peers: vec![peer.clone()],
        manifest: Some(record.manifest),
        called: String::new(),
    };
    let line = json!({
        "node": peer.id.to_string(),
        "addresses": peer.addrs,
        "ticket": ticket.to_string(),
        "first": span.start,
        "end": span.end,
    });
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    out.flush()?;
    let (closed, wait) = oneshot::channel::<()>();
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut buffer = [0; 64];
        while std::io::stdin().read(&mut buffer).is_ok_and(|count| count > 0) {}
        closed.send(()).ok();
    })?;
    let shutdown = async {
        wait.await.ok();
    };
    let serving = Serving { endpoint: Arc::new(endpoint), machine, executor };
    serve(serving, std::future::pending(), shutdown).await?;
    Ok(())
}
