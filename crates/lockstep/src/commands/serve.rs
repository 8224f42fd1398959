//! `lockstep serve`: a span of a model's layers for others.

use std::future;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_node::driver::{self, serve};
use lockstep_node::executor::{Executor, Weights};
use lockstep_node::memory::Serving;
use lockstep_node::ticket::Ticket;
use lockstep_node::transport::{AllowList, Endpoint, Identity, parse_node_id};
use lockstep_proto::model::Model as ProtocolModel;
use lockstep_proto::server::{Capacity, Holding, Server};
use serde_json::json;
use tokio::sync::oneshot;

use crate::args::Serve;
use crate::backend::backend;
use crate::exit::{Exit, usage};
use crate::interrupt::{asked_to_end, asked_twice};
use crate::models::{Model, Place};
use crate::output::Voice;

/// Runs the command: serves until interrupted, and then until the sessions under way are over.
pub(crate) fn run(place: &Place, args: &Serve) -> Result<Exit> {
    let voice = Voice::new(args.json);
    let model = Model::ensure(place, &args.model, voice)?;
    let span = span(args.layers.as_deref(), model.manifest.layers.len() as u32)?;
    let identity = if args.ephemeral {
        Identity::generate()
    } else {
        Identity::load_or_create(&place.home.node_key())?
    };
    let threads = place.threads(args.threads);
    let (machine, executor) = parts(place, &model, span.clone(), &identity, threads)?;
    let allow = allow_list(place, args)?;
    let bind = args.bind.unwrap_or_else(|| place.config.bind_addr());
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let endpoint = Endpoint::bind(&identity, bind, allow).await?;
        let peer = endpoint.addr();
        let ticket = Ticket { peers: vec![peer.clone()], manifest: Some(model.record.manifest) };
        if !args.json {
            voice.line(format!("node     {}", peer.id));
            voice.line(format!("serving  {} layers {}..{}", model.name, span.start, span.end));
            voice.line(format!("ticket   {ticket}"));
            voice.note("Serving until interrupted (Ctrl-C).");
        }
        voice.json(&json!({
            "node": peer.id.to_string(),
            "addresses": peer.addrs,
            "ticket": ticket.to_string(),
            "first": span.start,
            "end": span.end,
        }));
        let serving = driver::Serving { endpoint: Arc::new(endpoint), machine, executor };
        let stop = async {
            tokio::select! {
                () = closed(args.until_stdin_closes) => {}
                () = asked_twice() => voice.note("Stopped."),
            }
        };
        let drain = async {
            asked_to_end().await;
            voice.note("Finishing the sessions under way; again (Ctrl-C) to stop at once.");
        };
        serve(serving, drain, stop).await?;
        anyhow::Ok(())
    })?;
    // The executor's thread may be inside a long job.
    runtime.shutdown_background();
    Ok(Exit::Done)
}

/// The machine and the executor of a server.
fn parts(
    place: &Place,
    model: &Model,
    span: Range<u32>,
    identity: &Identity,
    threads: Option<usize>,
) -> Result<(Server, Executor<crate::backend::Backend>)> {
    let is_first = span.start == 0;
    let what = format!("layers {}..{} of {}", span.start, span.end, model.name);
    let pages = Serving::of(&model.manifest, &span).pages(&what, place.room())?;
    let blobs = place.store.open_span(&model.manifest, span.clone())?;
    let ops = backend(threads)?;
    let weights = Weights::load(&ops, &model.manifest, span.clone(), blobs.source())?;
    let executor = Executor::new(ops, &model.manifest, weights);
    let vocabulary = blobs.get(model.manifest.vocabulary_blob).filter(|_| is_first);
    let vocabulary = vocabulary.map(|blob| Vocabulary::from_bytes(blob.as_slice()));
    let head = vocabulary.transpose()?.map(Arc::new);
    let holding = Holding { model: ProtocolModel::from(&model.manifest), span, head };
    let retention_us = place.config.retention().as_micros();
    let retention_us = u64::try_from(retention_us).unwrap_or(u64::MAX);
    let capacity = Capacity { retention_us, kv_pages: pages, ..Capacity::default() };
    Ok((Server::new(identity.keypair(), holding, capacity), executor))
}

/// Layers as FIRST..END; all if not given.
fn span(text: Option<&str>, layers: u32) -> Result<Range<u32>> {
    let Some(text) = text else { return Ok(0..layers) };
    let parsed = text
        .split_once("..")
        .and_then(|(first, end)| Some(first.trim().parse().ok()?..end.trim().parse().ok()?));
    parsed.filter(|span: &Range<u32>| span.start < span.end && span.end <= layers).ok_or_else(
        || usage(format!("--layers: expected FIRST..END inside 0..{layers}, got {text:?}")),
    )
}

fn allow_list(place: &Place, args: &Serve) -> Result<AllowList> {
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
        while std::io::stdin().read(&mut buffer).is_ok_and(|count| count > 0) {}
        closed.send(()).ok();
    });
    drop(watcher.context("no thread for standard input"));
    wait.await.ok();
}
