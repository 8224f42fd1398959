//! `lockstep serve`: a span of a model's layers for others.

use std::cell::{Cell, OnceCell};
use std::future;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use lockstep_client::model::Model;
use lockstep_client::place::Place;
use lockstep_client::random;
use lockstep_exact::digest::Digest;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_exact::weights::Backend;
use lockstep_node::driver::{self, Finder, Node, View};
use lockstep_node::executor::{Executor, Weights};
use lockstep_node::home::is_refusal;
use lockstep_node::lan::{Found, Lan};
use lockstep_node::limits;
use lockstep_node::measure;
use lockstep_node::memory::{MemoryLimit, Serving, Shares};
use lockstep_node::metrics::MetricsServer;
use lockstep_node::store::OpenBlobs;
use lockstep_node::ticket::Ticket;
use lockstep_node::transport::{
    Address, AllowList, Endpoint, Held, Identity, IdentityError, Listen, NodeId, PeerAddr,
    parse_node_id,
};
use lockstep_proto::announcement::{Announcement, Speed};
use lockstep_proto::fair::Weight;
use lockstep_proto::job::{Done, Execute, Job};
use lockstep_proto::limits as proto;
use lockstep_proto::model::Model as ProtocolModel;
use lockstep_proto::server::{Capacity, Holding, RunValues, Server};
use lockstep_proto::swarm::gossip::{Gossip, Seed};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use crate::args::Serve;
use crate::backend;
use crate::device::Device;
use crate::exit::{Exit, usage};
use crate::hours::Hours;
use crate::interrupt::end_requests;
use crate::joining::{Joins, Tried, meanwhile_announced, served, vocabulary};
use crate::output::Printer;
use crate::ring;

/// Runs the command: serves until interrupted, and then until the sessions under way are over.
pub(crate) fn run(place: &Place, args: &Serve) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let layers = args.layers.as_deref().map(layers).transpose()?;
    let tickets = ring::given(&args.join)?;
    let (listen, allow) = (listen(place, args, &tickets)?, allow_list(place, args)?);
    let retention_us = retention_us(place)?;
    let threads = backend::threads(place, args.threads)?;
    let device = Device::open(args.device)?;
    // Held for as long as this server runs.
    let held = identity(place, args, printer)?;
    let identity = held.as_ref().map_or_else(Identity::generate, |held| held.identity.clone());
    let runtime = runtime()?;
    let (node, peer) = runtime.block_on(async {
        let endpoint = Endpoint::bind(&identity, listen, allow.clone()).await?;
        let peer = told(&endpoint, place, args);
        anyhow::Ok((Node::new(Arc::new(endpoint)), peer))
    })?;
    let inside = runtime.enter();
    let may_begin = ring::asks_for_lan(&args.join);
    let joins = Joins { place, runtime: &runtime, tickets, may_begin, printer };
    let memory = memory(place, args);
    let (identity, is_told, asked) = (&identity, Cell::new(false), OnceCell::new());
    let mut starting =
        Starting { args, joins, identity, peer, allow, retention_us, memory, is_told, asked };
    starting.serve(node, layers, (device, threads))?;
    // The executor's thread may be inside a long job.
    drop(inside);
    runtime.shutdown_background();
    Ok(Exit::Done)
}

/// What a server is started with.
struct Starting<'a> {
    args: &'a Serve,
    joins: Joins<'a>,
    identity: &'a Identity,
    peer: PeerAddr,
    allow: AllowList,
    retention_us: u64,
    /// The memory that the server may take, as it was when it started.
    memory: Option<MemoryLimit>,
    /// Whether the ticket has been told.
    is_told: Cell<bool>,
    /// How often the program has been asked to end, once it listens for that.
    asked: OnceCell<watch::Receiver<u32>>,
}

/// What follows when a server serves no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The program ends.
    End,
    /// Its hours are over: it joins again when they begin.
    Rest,
}

/// What follows, as those say that end a server: the last word counts.
struct After(AtomicU8);

impl After {
    fn set(&self, next: Next) {
        self.0.store(next as u8, Ordering::Relaxed);
    }

    fn get(&self) -> Next {
        match self.0.load(Ordering::Relaxed) {
            next if next == Next::Rest as u8 => Next::Rest,
            _ => Next::End,
        }
    }
}

/// A server that is about to serve: its machine, what computes for it, and the device by name.
struct Loaded {
    machine: Server,
    executor: Watched,
    device: String,
}

impl Starting<'_> {
    /// Gets the model and serves it in the hours that are given, until it is told to end.
    fn serve(
        &mut self,
        mut node: Node,
        layers: Option<Range<u32>>,
        (device, threads): (Device, Option<usize>),
    ) -> Result<()> {
        let (args, runtime) = (self.args, self.joins.runtime);
        let metrics = runtime.block_on(show_metrics(&node, args))?;
        let (mut device, mut is_first) = (Some(device), true);
        loop {
            if !runtime.block_on(self.until_hours_begin()) {
                break;
            }
            let lan = self.ask_lan()?;
            let model = self.joins.model(&node, args.model.as_deref())?;
            let given = layers.clone().map(|given| check(given, &model)).transpose()?;
            let (view, meeting) = self.join(&mut node, &model, lan)?;
            share(&mut node, self.joins.place, &model, args)?;
            let opened = device.take().map_or_else(|| Device::open(args.device), Ok)?;
            let joined = (&model, view, metrics.as_deref());
            let next = self.in_swarm(&node, joined, given, (opened, threads))?;
            meeting.abort();
            if next == Next::End {
                break;
            }
            if is_first {
                // The servers of the tickets may be gone by then.
                is_first = false;
                self.remember(&node, &model);
            }
            node.rest();
        }
        runtime.block_on(node.close());
        Ok(())
    }

    /// Serves a model until the program is told to end or its hours are over.
    fn in_swarm(
        &self,
        node: &Node,
        (model, view, metrics): (&Model, Option<watch::Receiver<Arc<View>>>, Option<&str>),
        given: Option<Range<u32>>,
        (device, threads): (Device, Option<usize>),
    ) -> Result<Next> {
        let claimed = self.claimed(node, model, &device, (given, view.as_ref()))?;
        let loaded = self.loaded(node, model, claimed, (device, threads), view.as_ref())?;
        self.joins.runtime.block_on(self.until_over(node, loaded, (model, metrics), view))
    }

    /// Returns the number of times that this program has been asked to end since it listens for
    /// that, which it does from the first call on: before, it just ends.
    fn asked(&self) -> watch::Receiver<u32> {
        self.asked.get_or_init(end_requests).clone()
    }

    /// Waits until the hours begin in which this server serves; false if it is told to end before.
    async fn until_hours_begin(&self) -> bool {
        let Some(hours) = self.args.hours.filter(|hours| !hours.has_now()) else { return true };
        self.joins.printer.note(format!("Waiting: this server serves from {hours}."));
        tokio::select! {
            () = hours.begun() => true,
            () = asked_often(self.asked(), 1) => false,
            () = closed(self.args.until_stdin_closes) => false,
        }
    }

    /// Begins to look for servers on the local network, if that is asked for, and waits a moment
    /// for those that are there.
    fn ask_lan(&mut self) -> Result<Option<Lan>> {
        if !self.joins.may_begin {
            return Ok(None);
        }
        let lan = Lan::open()?;
        let found = self.joins.runtime.block_on(lan.find(limits::LAN_WAIT));
        self.joins.tickets.extend(found.iter().map(Found::ticket));
        Ok(Some(lan))
    }

    /// Makes a node part of the swarm of its tickets, and tells the local network of it, before
    /// anything is loaded: servers that start at the same moment have to know each other when they
    /// choose their layers. Returns what is known of the swarm, if there may be others in it, and
    /// the task that goes on looking for them.
    fn join(
        &mut self,
        node: &mut Node,
        model: &Model,
        lan: Option<Lan>,
    ) -> Result<(Option<watch::Receiver<Arc<View>>>, AbortHandle)> {
        let manifest = model.record.manifest;
        if lan.is_some() {
            // Of the servers that were found, only those of this model are of the same swarm.
            self.joins.tickets.retain(|ticket| ticket.manifest == Some(manifest));
        }
        let args = self.args;
        let joined =
            (!args.for_this_machine).then(|| join(node, &self.joins.seeds())).transpose()?;
        let meeting = match lan {
            Some(mut lan) => {
                let called = model.called();
                lan.announce(&Found { peer: self.peer.clone(), manifest, called })?;
                let found = self.joins.runtime.block_on(lan.find(limits::LAN_WAIT));
                let finder = node.finder();
                for one in found.iter().filter(|one| one.manifest == manifest) {
                    finder.found(&one.peer);
                    self.joins.tickets.push(one.ticket());
                }
                self.joins.runtime.spawn(meet_on_lan(lan, finder, manifest))
            }
            None => self.joins.runtime.spawn(async {}),
        };
        if !self.joins.tickets.is_empty() {
            // A server of layer 0 says with the vocabulary what it claims.
            self.joins.fetch(node, model, 0..0, None)?;
        }
        let has_others = !self.joins.tickets.is_empty() || self.joins.may_begin;
        Ok((joined.filter(|_| has_others), meeting.abort_handle()))
    }

    /// Keeps the addresses of the servers that are known now, for when this one joins again.
    fn remember(&mut self, node: &Node, model: &Model) {
        let known = self.joins.known(node);
        let of_model = known.iter().filter(|one| one.status.manifest == model.record.manifest);
        let is_other = |one: &&Arc<Announcement>| one.status.node != self.peer.id;
        let peers = of_model.filter(is_other).take(limits::TICKET_PEERS);
        let peers: Vec<PeerAddr> =
            peers.map(|one| driver::peer_of(one.status.node, &one.address)).collect();
        if !peers.is_empty() {
            let manifest = Some(model.record.manifest);
            self.joins.tickets.push(Ticket { peers, manifest, called: model.called() });
        }
    }

    /// Fetches and loads what a server of the claimed layers needs, while it is announced.
    fn loaded(
        &self,
        node: &Node,
        model: &Model,
        (room, mut machine): (Room, Server),
        (device, threads): (Device, Option<usize>),
        view: Option<&watch::Receiver<Arc<View>>>,
    ) -> Result<Loaded> {
        if let Some(view) = view {
            let span = room.span.clone();
            let fetch = || self.joins.fetch(node, model, span, Some(view.clone()));
            meanwhile_announced(node, &mut machine, fetch)?;
        }
        let name = device.to_string();
        let is_timed = !self.args.for_this_machine;
        let load = || load(self.joins.place, model, &room, (device, threads), is_timed);
        let (executor, speed) = meanwhile_announced(node, &mut machine, load)?;
        machine.measured(speed);
        Ok(Loaded { machine, executor, device: name })
    }

    /// Announces the layers that are given, or else those that the swarm lacks most, or all in a
    /// swarm of its own; until nobody whose turn was before has chosen them, too.
    fn claimed(
        &self,
        node: &Node,
        model: &Model,
        device: &Device,
        (given, view): (Option<Range<u32>>, Option<&watch::Receiver<Arc<View>>>),
    ) -> Result<(Room, Server)> {
        let claim = |span: &Range<u32>| self.claim(model, span, device);
        let view = match (given, view) {
            (Some(given), _) => return claim(&given),
            (None, None) => return claim(&(0..model.manifest.layer_count())),
            (None, Some(view)) => view,
        };
        let memory = (self.memory, self.args.room);
        let mut choice = self.joins.choice(node, memory, model, view)?;
        let mut claimed = claim(&choice.span)?;
        for _ in 0..proto::CLAIMS {
            if !self.joins.has_changed(node, &mut claimed.1, &mut choice, view) {
                break;
            }
            claimed = claim(&choice.span)?;
        }
        self.joins.say(&choice);
        Ok(claimed)
    }

    /// Makes the machine of a server of a span, if there is memory for it.
    fn claim(&self, model: &Model, span: &Range<u32>, device: &Device) -> Result<(Room, Server)> {
        let place = self.joins.place;
        let batch_positions = place.config.batch_positions();
        let room = room(place, self.memory, (model, span), (device, batch_positions))?;
        let retention_us = self.retention_us;
        let capacity = Capacity { retention_us, batch_positions, ..room.capacity };
        let mut machine = room.machine(self.identity, capacity, &self.args.weight)?;
        machine.reachable_at(&self.peer.text());
        machine.joining(!self.joins.tickets.is_empty() || self.joins.may_begin);
        Ok((room, machine))
    }

    /// Serves until it is told to end or its hours are over, and has itself tried meanwhile.
    async fn until_over(
        &self,
        node: &Node,
        Loaded { machine, executor, device }: Loaded,
        (model, metrics): (&Model, Option<&str>),
        view: Option<watch::Receiver<Arc<View>>>,
    ) -> Result<Next> {
        let printer = self.joins.printer;
        // What ends it first decides what follows; who is told to end does so whatever came before.
        let next = After(AtomicU8::new(Next::End as u8));
        let stop = told_to_stop(printer, (self.asked(), self.args.until_stdin_closes), &next);
        let told = told_to_leave(printer, self.asked(), &next);
        let drain = async {
            tokio::select! {
                () = told => {}
                () = hours_over(self.args.hours, printer, &next) => {}
            }
        };
        let own = machine.status();
        let span = own.first..own.end;
        let telling = || self.tell(model, &span, (&device, metrics));
        let tried = Tried { node, own: &own, peer: &self.peer, allow: &self.allow };
        let joining = async {
            match view {
                Some(view) => {
                    let served = served(self.joins.place, model)?;
                    tried.until_ready(served, view, printer, telling).await?;
                }
                None => telling(),
            }
            future::pending::<Result<()>>().await
        };
        tokio::select! {
            ended = node.serve(machine, executor, drain, stop) => ended?,
            failed = joining => failed?,
        }
        Ok(next.get())
    }

    /// Says that the server listens, and how others find it; once, because a ticket stays.
    fn tell(&self, model: &Model, span: &Range<u32>, (device, metrics): (&str, Option<&str>)) {
        if self.is_told.replace(true) {
            let Range { start, end } = span;
            return self.joins.printer.note(format!("Serving layers {start}..{end}."));
        }
        let (peers, manifest) = (vec![self.peer.clone()], Some(model.record.manifest));
        let ticket = Ticket { peers, manifest, called: model.called() };
        tell(self.joins.printer, model, (&self.peer, &ticket, metrics), span, device);
    }
}

/// Waits until the hours of a server are over, and says so; for ever if it has none.
async fn hours_over(hours: Option<Hours>, printer: Printer, next: &After) {
    let Some(hours) = hours else { return future::pending().await };
    hours.ended().await;
    next.set(Next::Rest);
    printer.note(format!("Leaving: this server serves from {hours}."));
}

/// Returns the memory that this server may take: what `--memory` or the settings say.
fn memory(place: &Place, args: &Serve) -> Option<MemoryLimit> {
    match args.memory {
        Some(mib) => MemoryLimit::now(Some(u64::from(mib).saturating_mul(1 << 20))),
        None => place.room(),
    }
}

/// Lets other servers fetch the files of the model here, unless that is not wanted.
fn share(node: &mut Node, place: &Place, model: &Model, args: &Serve) -> Result<()> {
    if args.for_this_machine || args.uplink == Some(0) {
        return Ok(());
    }
    let bytes_per_s = args.uplink.map(|mbps| u64::from(mbps) * 125_000);
    Ok(node.share(&place.store, (&model.record, &model.manifest), bytes_per_s)?)
}

/// Waits until this server is to end at once, and says so.
async fn told_to_stop(
    printer: Printer,
    (asked, closes_with_stdin): (watch::Receiver<u32>, bool),
    next: &After,
) {
    tokio::select! {
        () = closed(closes_with_stdin) => {}
        () = asked_often(asked, 2) => printer.note("Stopped."),
    }
    next.set(Next::End);
}

/// Waits until this program has been asked to end so often.
async fn asked_often(mut asked: watch::Receiver<u32>, count: u32) {
    if asked.wait_for(|asked| *asked >= count).await.is_err() {
        future::pending().await
    }
}

/// Has a node compare notes with every server of its model that is found on the local network, for
/// as long as this machine listens.
async fn meet_on_lan(lan: Lan, finder: Finder, manifest: Digest) {
    while let Some(found) = lan.next().await {
        if found.manifest == manifest {
            finder.found(&found.peer);
        }
    }
}

/// Waits until this server is to leave, and says so.
async fn told_to_leave(printer: Printer, asked: watch::Receiver<u32>, next: &After) {
    asked_often(asked, 1).await;
    next.set(Next::End);
    printer.note("Finishing the sessions under way; again (Ctrl-C) to stop at once.");
}

/// Makes a node part of the swarm of these peers, or of one of its own.
fn join(node: &mut Node, peers: &[PeerAddr]) -> Result<watch::Receiver<Arc<View>>> {
    let seed = |peer: &PeerAddr| Seed { node: peer.id, address: peer.text() };
    let (id, seeds) = (node.links().endpoint().id(), peers.iter().map(seed).collect());
    Ok(node.join(Gossip::new(id, seeds, random::seed()?))?)
}

/// Says that the server listens, and how others find it.
fn tell(
    printer: Printer,
    model: &Model,
    (peer, ticket, metrics): (&PeerAddr, &Ticket, Option<&str>),
    span: &Range<u32>,
    device: &str,
) {
    if !printer.is_json() {
        printer.line(format!("node     {}", peer.id));
        printer.line(format!("serving  {} layers {}..{}", model.name, span.start, span.end));
        printer.line(format!("device   {device}"));
        if let Some(metrics) = metrics {
            printer.line(format!("metrics  {metrics}"));
        }
        printer.line(format!("ticket   {ticket}"));
        if peer.addrs.iter().all(Address::is_loopback) {
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
        "metrics": metrics,
    }));
}

/// Begins to show the metrics of a node where the arguments want it, and returns the address.
async fn show_metrics(node: &Node, args: &Serve) -> Result<Option<String>> {
    let Some(address) = args.metrics else { return Ok(None) };
    let server = MetricsServer::bind(address).await?.named(&args.metrics_name);
    let address = format!("http://{}/metrics", server.address());
    // It ends with the runtime.
    drop(tokio::spawn(server.serve(node.observer())));
    Ok(Some(address))
}

/// Starts what the server's links run on.
fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Returns the addresses to listen on: those of the command line, otherwise those of the settings;
/// and the relays to use: those of either, otherwise those by which the servers of these tickets
/// are reached.
fn listen(place: &Place, args: &Serve, tickets: &[Ticket]) -> Result<Listen> {
    if args.for_this_machine {
        return Ok(Listen::default());
    }
    let listen = match args.bind.as_slice() {
        // Nobody on the network reaches the loopback.
        [] if place.config.bind.is_none() && ring::asks_for_lan(&args.join) => {
            Listen::from(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))
        }
        [] => place.config.listen(),
        given => Listen::on(given).map_err(|error| usage(format!("--bind: {error}")))?,
    };
    let peers = tickets.iter().flat_map(|ticket| &ticket.peers);
    let of_swarm = peers.flat_map(|peer| peer.addrs.iter().filter_map(Address::relay));
    Ok(match (args.relay.as_slice(), place.config.relays()) {
        ([], []) => listen.through(of_swarm),
        ([], set) => listen.through(set.iter().copied()),
        (given, _) => listen.through(given.iter().copied()),
    })
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
        let relays = peer.addrs.iter().filter_map(Address::relay).map(Address::Relay);
        let relays: Vec<Address> = relays.collect();
        let stated = stated.iter().map(|address| address.over(&bound).into());
        peer.addrs = stated.take(limits::PEER_ADDRESSES - relays.len()).chain(relays).collect();
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

/// What a server of a span has, before its weights are loaded.
struct Room {
    model: ProtocolModel,
    span: Range<u32>,
    /// The vocabulary, if the span has the head.
    head: Option<Arc<Vocabulary>>,
    capacity: Capacity,
    rebuild_bytes: u64,
}

impl Room {
    /// Returns the machine of the server, which gives clients these weights.
    fn machine(
        &self,
        identity: &Identity,
        capacity: Capacity,
        weights: &[(NodeId, Weight)],
    ) -> Result<Server> {
        let Self { model, span, head, .. } = self;
        let holding = Holding { model: model.clone(), span: span.clone(), head: head.clone() };
        let runs = RunValues::new(random::secret()?);
        let mut machine = Server::new(identity.keypair(), holding, capacity, runs);
        machine.runs(concat!("lockstep ", env!("CARGO_PKG_VERSION")));
        weights.iter().for_each(|(client, weight)| machine.weigh(*client, *weight));
        Ok(machine)
    }
}

/// Checks whether there is memory for a span, here and on the device. Jobs have at most
/// `batch_positions` rows.
fn room(
    place: &Place,
    memory: Option<MemoryLimit>,
    (model, span): (&Model, &Range<u32>),
    (device, batch_positions): (&Device, u32),
) -> Result<Room> {
    let (is_first, manifest) = (span.start == 0, &model.manifest);
    let what = format!("layers {}..{} of {}", span.start, span.end, model.name);
    let serving = device.on_host(Serving::of(manifest, span), manifest, span.start);
    let pages = device.pages(&what, manifest, span, batch_positions, serving.least_pages)?;
    let shares = serving.shares(serving.pages(&what, memory)?);
    let shares = Shares { pages: shares.pages.min(pages), ..shares };
    let head = is_first.then(|| vocabulary(place, model)).transpose()?;
    let (kv_pages, kept_bytes) = (shares.pages, shares.kept_bytes);
    let capacity = Capacity { kv_pages, kept_bytes, ..Capacity::default() };
    let (model, rebuild_bytes) = (ProtocolModel::from(&model.manifest), shares.rebuild_bytes);
    Ok(Room { model, span: span.clone(), head, capacity, rebuild_bytes })
}

/// Opens the files of a span, loads its layers into what computes them, and times them if that is
/// wanted.
fn load(
    place: &Place,
    model: &Model,
    room: &Room,
    (device, threads): (Device, Option<usize>),
    is_timed: bool,
) -> Result<(Watched, Speed)> {
    let blobs = place.store.open_span(&model.manifest, room.span.clone())?;
    let executor = match device {
        Device::Cpu => executor(backend::backend(threads)?, model, (room, &blobs))?,
        Device::Cuda(cuda) => executor(*cuda, model, (room, &blobs))?,
    };
    let mut executor = Watched { executor, blobs };
    let speed = match is_timed {
        true => measure::speed(&mut executor, &room.model, &room.span),
        false => Speed::UNKNOWN,
    };
    Ok((executor, speed))
}

/// Loads the layers of a span into a backend, and returns what computes them.
fn executor<O: Backend>(
    ops: O,
    model: &Model,
    (room, blobs): (&Room, &OpenBlobs),
) -> Result<Box<dyn Execute + Send>>
where
    Executor<O>: Send + 'static,
{
    let weights = Weights::load(&ops, &model.manifest, room.span.clone(), blobs.source())?;
    let executor = Executor::new(ops, &model.manifest, weights);
    Ok(Box::new(executor.with_rebuild_room(room.rebuild_bytes)))
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

/// Checks whether a model has the layers that are to be served.
fn check(given: Range<u32>, model: &Model) -> Result<Range<u32>> {
    let layers = model.manifest.layer_count();
    if given.end > layers {
        let Range { start, end } = given;
        return Err(usage(format!(
            "--layers: expected FIRST..END inside 0..{layers}, got {start}..{end}"
        )));
    }
    Ok(given)
}

fn allow_list(place: &Place, args: &Serve) -> Result<AllowList> {
    if args.for_this_machine {
        return Ok(AllowList::Anyone);
    }
    allowed(place, &args.allow)
}

/// Returns the nodes that the command line lets in, or if it names none, the settings.
pub(crate) fn allowed(place: &Place, given: &[String]) -> Result<AllowList> {
    if given.is_empty() {
        return Ok(place.config.allow_list());
    }
    let parse = |text: &String| {
        parse_node_id(text).map_err(|error| usage(format!("--allow {text:?}: {error}")))
    };
    Ok(AllowList::Only(given.iter().map(parse).collect::<Result<_>>()?))
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
