//! `lockstep serve`: a span of a model's layers for others.

use std::future;
use std::io::{self, Read};
use std::ops::Range;
use std::process;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};
use lockstep_client::model::Model;
use lockstep_client::place::Place;
use lockstep_client::random;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_exact::weights::Backend;
use lockstep_node::driver::Node;
use lockstep_node::executor::{Executor, Weights};
use lockstep_node::home::is_refusal;
use lockstep_node::limits;
use lockstep_node::measure;
use lockstep_node::memory::{Serving, Shares};
use lockstep_node::store::OpenBlobs;
use lockstep_node::ticket::Ticket;
use lockstep_node::transport::{
    AllowList, Endpoint, Held, Identity, IdentityError, Listen, PeerAddr, parse_node_id,
};
use lockstep_proto::job::{Done, Execute, Job};
use lockstep_proto::limits as proto;
use lockstep_proto::model::Model as ProtocolModel;
use lockstep_proto::server::{Capacity, Holding, RunValues, Server};
use lockstep_proto::swarm::gossip::{Gossip, Seed};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::args::Serve;
use crate::backend;
use crate::device::Device;
use crate::exit::{Exit, usage};
use crate::interrupt::{asked_to_end, asked_twice};
use crate::models;
use crate::output::Printer;
use crate::ring;

/// Runs the command: serves until interrupted, and then until the sessions under way are over.
pub(crate) fn run(place: &Place, args: &Serve) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let layers = args.layers.as_deref().map(layers).transpose()?;
    let tickets = ring::parse(&args.join)?;
    let listen = listen(place, args)?;
    let allow = allow_list(place, args)?;
    let retention_us = retention_us(place)?;
    let batch_positions = place.config.batch_positions();
    let threads = backend::threads(place, args.threads)?;
    let device = Device::open(args.device)?;
    let name = device.to_string();
    let model = models::ensure(place, &args.model, printer)?;
    let span = span(layers, model.manifest.layers.len() as u32)?;
    // Held for as long as this server runs.
    let held = identity(place, args, printer)?;
    let identity = held.as_ref().map_or_else(Identity::generate, |held| held.identity.clone());
    let computes = Computes { device, threads, batch_positions };
    let (serving, mut executor) = parts(place, &model, span.clone(), computes)?;
    let mut machine = Server::new(
        identity.keypair(),
        serving.holding,
        Capacity { retention_us, batch_positions, ..serving.capacity },
        RunValues::new(random::secret()?),
    );
    if !args.for_this_machine {
        let model = ProtocolModel::from(&model.manifest);
        machine.measured(measure::speed(&mut executor, &model, &span));
    }
    machine.runs(concat!("lockstep ", env!("CARGO_PKG_VERSION")));
    let runtime = runtime()?;
    runtime.block_on(async {
        let endpoint = Endpoint::bind(&identity, listen, allow).await?;
        let peer = told(&endpoint, place, args);
        machine.reachable_at(&peer.text());
        let (peers, manifest) = (vec![peer.clone()], Some(model.record.manifest));
        let ticket = Ticket { peers, manifest, called: model.called() };
        tell(printer, &model, (&peer, &ticket), &span, &name);
        let mut node = Node::new(Arc::new(endpoint));
        if !args.for_this_machine {
            let seeds = tickets.iter().flat_map(|ticket| &ticket.peers);
            let seed = |peer: &PeerAddr| Seed { node: peer.id, address: peer.text() };
            let random = random::seed()?;
            node.join(Gossip::new(peer.id, seeds.map(seed).collect(), random))?;
        }
        let stop = async {
            tokio::select! {
                () = closed(args.until_stdin_closes) => {}
                () = asked_twice() => printer.note("Stopped."),
            }
        };
        let drain = async {
            asked_to_end().await;
            printer.note("Finishing the sessions under way; again (Ctrl-C) to stop at once.");
        };
        node.serve(machine, executor, drain, stop).await?;
        node.close().await;
        anyhow::Ok(())
    })?;
    // The executor's thread may be inside a long job.
    runtime.shutdown_background();
    Ok(Exit::Done)
}

/// Says that the server listens, and how others find it.
fn tell(
    printer: Printer,
    model: &Model,
    (peer, ticket): (&PeerAddr, &Ticket),
    span: &Range<u32>,
    device: &str,
) {
    if !printer.is_json() {
        printer.line(format!("node     {}", peer.id));
        printer.line(format!("serving  {} layers {}..{}", model.name, span.start, span.end));
        printer.line(format!("device   {device}"));
        printer.line(format!("ticket   {ticket}"));
        if peer.addrs.iter().all(|addr| addr.ip().is_loopback()) {
            printer.note(
                "The ticket is for programs on this machine: --bind ADDRESS listens to others.",
            );
        }
        printer.note("Serving until interrupted (Ctrl-C).");
    }
    printer.json(&json!({
        "node": peer.id.to_string(),
        "addresses": peer.addrs,
        "ticket": ticket.to_string(),
        "first": span.start,
        "end": span.end,
        "device": device,
    }));
}

/// Starts what the server's links run on.
fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Returns the addresses to listen on: those of the command line, otherwise those of the settings.
fn listen(place: &Place, args: &Serve) -> Result<Listen> {
    if args.for_this_machine {
        return Ok(Listen::default());
    }
    if args.bind.is_empty() {
        return Ok(place.config.listen());
    }
    Listen::on(&args.bind).map_err(|error| usage(format!("--bind: {error}")))
}

/// Returns an identity of the home that no other server has; none for a fresh one.
fn identity(place: &Place, args: &Serve, printer: Printer) -> Result<Option<Held>> {
    if args.ephemeral || args.for_this_machine {
        return Ok(None);
    }
    let held = match Identity::hold(&place.home) {
        Err(error) if matches!(&error, IdentityError::Io { source, .. } if is_refusal(source)) => {
            bail!("{error}; --ephemeral serves under a fresh node id, which needs no file")
        }
        held => held?,
    };
    if held.number > 1 {
        printer.note(format!(
            "{} other servers run from this home, each under a node id of its own; this one's is \
             the home's node id {}: {}",
            held.number - 1,
            held.number,
            held.identity.id(),
        ));
    }
    Ok(Some(held))
}

/// Returns the address of this server as its ticket states it.
fn told(endpoint: &Endpoint, place: &Place, args: &Serve) -> PeerAddr {
    let stated = match args.advertise.as_slice() {
        _ if args.for_this_machine => &[],
        [] => place.config.advertised(),
        given => given,
    };
    let mut peer = endpoint.addr();
    if !stated.is_empty() {
        let bound = endpoint.bound();
        peer.addrs = stated.iter().map(|address| address.over(&bound)).collect();
        peer.addrs.truncate(limits::PEER_ADDRESSES);
    }
    peer
}

/// An executor whose weights are asked after each job whether they are still what they were: what
/// is computed from others must not be signed.
struct Watched {
    executor: Box<dyn Execute + Send>,
    blobs: OpenBlobs,
}

impl Execute for Watched {
    fn run(&mut self, job: Job) -> Vec<Done> {
        let done = self.executor.run(job);
        if let Err(error) = self.blobs.check_unchanged() {
            // Nothing of this server's can be believed any more, and there is no going on.
            Printer::new(true).note(format!("error: {error}"));
            process::exit(Exit::Error as i32);
        }
        done
    }
}

/// The span of layers that a server holds, and the memory that it has for sessions.
struct Serves {
    holding: Holding,
    capacity: Capacity,
}

/// What computes, and how much at a time.
struct Computes {
    device: Device,
    threads: Option<usize>,
    batch_positions: u32,
}

/// Loads the layers of `span`, and returns what the server serves, with the executor that computes
/// it.
fn parts(
    place: &Place,
    model: &Model,
    span: Range<u32>,
    computes: Computes,
) -> Result<(Serves, Watched)> {
    let (is_first, manifest) = (span.start == 0, &model.manifest);
    let Computes { device, threads, batch_positions } = computes;
    let what = format!("layers {}..{} of {}", span.start, span.end, model.name);
    let serving = device.on_host(Serving::of(manifest, &span), manifest, span.start);
    let pages = device.pages(&what, manifest, &span, batch_positions, serving.least_pages)?;
    let shares = serving.shares(serving.pages(&what, place.room())?);
    let shares = Shares { pages: shares.pages.min(pages), ..shares };
    let blobs = place.store.open_span(manifest, span.clone())?;
    let executor = match device {
        Device::Cpu => load(backend::backend(threads)?, model, span.clone(), &blobs, shares)?,
        Device::Cuda(cuda) => load(*cuda, model, span.clone(), &blobs, shares)?,
    };
    let executor = Watched { executor, blobs: blobs.clone() };
    let vocabulary = blobs.get(model.manifest.vocabulary_blob).filter(|_| is_first);
    let vocabulary = vocabulary.map(|blob| Vocabulary::from_bytes(blob.as_slice()));
    let head = vocabulary.transpose()?.map(Arc::new);
    let holding = Holding { model: ProtocolModel::from(&model.manifest), span, head };
    let (kv_pages, kept_bytes) = (shares.pages, shares.kept_bytes);
    let capacity = Capacity { kv_pages, kept_bytes, ..Capacity::default() };
    Ok((Serves { holding, capacity }, executor))
}

/// Loads the layers of `span` into a backend, and returns what computes them.
fn load<O: Backend>(
    ops: O,
    model: &Model,
    span: Range<u32>,
    blobs: &OpenBlobs,
    shares: Shares,
) -> Result<Box<dyn Execute + Send>>
where
    Executor<O>: Send + 'static,
{
    let weights = Weights::load(&ops, &model.manifest, span, blobs.source())?;
    let executor = Executor::new(ops, &model.manifest, weights);
    Ok(Box::new(executor.with_rebuild_room(shares.rebuild_bytes)))
}

/// Returns the time in microseconds for which the settings let this server promise to keep what
/// audits need.
fn retention_us(place: &Place) -> Result<u64> {
    let retention_us = place.config.retention().as_micros();
    let retention_us = u64::try_from(retention_us).unwrap_or(u64::MAX);
    if retention_us < proto::LEAST_RETENTION_US {
        let least = proto::LEAST_RETENTION_US / 1_000_000;
        return Err(usage(format!("retention_s: clients accept no answer below {least} seconds")));
    }
    Ok(retention_us)
}

/// Parses a range of layers written as FIRST..END.
fn layers(text: &str) -> Result<Range<u32>> {
    let parsed = text
        .split_once("..")
        .and_then(|(first, end)| Some(first.trim().parse().ok()?..end.trim().parse().ok()?));
    parsed.filter(|span: &Range<u32>| span.start < span.end).ok_or_else(|| {
        usage(format!("--layers: expected FIRST..END, END not included, got {text:?}"))
    })
}

/// Returns the layers that are served, of a model of `layers` layers: all of them if none are
/// `given`.
fn span(given: Option<Range<u32>>, layers: u32) -> Result<Range<u32>> {
    let span = given.unwrap_or(0..layers);
    if span.end > layers {
        let Range { start, end } = span;
        return Err(usage(format!(
            "--layers: expected FIRST..END inside 0..{layers}, got {start}..{end}"
        )));
    }
    Ok(span)
}

fn allow_list(place: &Place, args: &Serve) -> Result<AllowList> {
    if args.for_this_machine {
        return Ok(AllowList::Anyone);
    }
    if args.allow.is_empty() {
        return Ok(place.config.allow_list());
    }
    let parse = |text: &String| {
        parse_node_id(text).map_err(|error| usage(format!("--allow {text:?}: {error}")))
    };
    Ok(AllowList::Only(args.allow.iter().map(parse).collect::<Result<_>>()?))
}

/// Waits until standard input closes, if that is asked for; else for ever.
async fn closed(is_asked_for: bool) {
    if !is_asked_for {
        return future::pending().await;
    }
    let (closed, wait) = oneshot::channel();
    let watcher = thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut buffer = [0; 64];
        while io::stdin().read(&mut buffer).is_ok_and(|count| count > 0) {}
        closed.send(()).ok();
    });
    drop(watcher.context("no thread for standard input"));
    wait.await.ok();
}
