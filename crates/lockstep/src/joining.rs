//! A server that joins a swarm: what it gets from there, which layers it claims, and how it is
//! tried before clients are sent to it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use lockstep_client::from_swarm;
use lockstep_client::model::{Model, canonical};
use lockstep_client::place::Place;
use lockstep_client::random;
use lockstep_client::ring::Served;
use lockstep_client::trial::{NotTried, cross_a_ring};
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::manifest::total_bytes;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_node::driver::{self, Fetched, Node, View};
use lockstep_node::memory::{MemoryLimit, sizes};
use lockstep_node::ticket::Ticket;
use lockstep_node::transport::{AllowList, PeerAddr};
use lockstep_proto::announcement::{Announcement, Speed, Status};
use lockstep_proto::limits as proto;
use lockstep_proto::server::Server;
use lockstep_proto::swarm::place::{self as placing, Claim, Machine, Sizes};
use lockstep_proto::swarm::trial;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::model_files::ModelFiles;
use crate::models;
use crate::output::{self, Printer, human_bytes};

/// The model that is served if none is named and no swarm is joined.
const DEFAULT_MODEL: &str = "smollm2";
/// Time for the swarm to answer a server that joins.
const FIRST_VIEW: Duration = Duration::from_secs(3);
/// Time after which a server for which there is no ring yet looks again although nothing changed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// A server of this process, its tickets, and what it works with.
pub(crate) struct Joins<'a> {
    /// The home folder, its settings and its store.
    pub(crate) place: &'a Place,
    /// The runtime on which links run.
    pub(crate) runtime: &'a Runtime,
    /// The tickets of servers of the swarm; none of a server that joins nobody.
    pub(crate) tickets: Vec<Ticket>,
    /// Whether it begins a swarm if there is none: if it looks for one on the local network.
    pub(crate) may_begin: bool,
    /// The printer of what the user is told.
    pub(crate) printer: Printer,
}

impl Joins<'_> {
    /// Returns the servers that the tickets name.
    pub(crate) fn seeds(&self) -> Vec<PeerAddr> {
        self.tickets.iter().flat_map(|ticket| ticket.peers.iter().cloned()).collect()
    }

    /// Asks the servers of the tickets for all that they know.
    pub(crate) fn known(&self, node: &Node) -> Vec<Arc<Announcement>> {
        let seeds = self.seeds();
        self.runtime.block_on(driver::swarm(node.links(), node.clock(), &seeds))
    }

    /// Returns the announcements that the servers of the tickets know, and those that this node
    /// knows itself: the servers of the tickets may be gone when it joins again.
    fn known_by_all(
        &self,
        node: &Node,
        view: &watch::Receiver<Arc<View>>,
    ) -> Vec<Arc<Announcement>> {
        let mut known = self.known(node);
        for own in &view.borrow().announcements {
            if known.iter().all(|one| one.status.node != own.status.node) {
                known.push(Arc::clone(own));
            }
        }
        known
    }

    /// Returns the model that is to be served: from this machine, as far as it is here, else from
    /// the swarm that is joined, else from where it is pulled or imported.
    pub(crate) fn model(&self, node: &Node, text: Option<&str>) -> Result<Model> {
        let (place, printer) = (self.place, self.printer);
        if self.tickets.is_empty() {
            return models::ensure(place, text.unwrap_or(DEFAULT_MODEL), printer);
        }
        if let Some(text) = text {
            if ModelFiles::are_at(Path::new(text)) {
                return models::ensure(place, text, printer);
            }
            if let Some(model) = Model::find(&place.store, &canonical(text))? {
                return Ok(model);
            }
        }
        match (self.model_of_swarm(node, text), text) {
            (Ok(model), _) => {
                let id = model.record.manifest.short();
                printer.note(format!("Serving {} ({id}), as the swarm does.", model.name));
                Ok(model)
            }
            (Err(error), Some(text)) => {
                printer.note(format!("{text} is not to be had from the swarm: {error}"));
                models::ensure(place, text, printer)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn model_of_swarm(&self, node: &Node, text: Option<&str>) -> Result<Model> {
        let known = self.known(node);
        let id = from_swarm::which(text, &self.tickets, &known)?;
        if let Some(model) = Model::find(&self.place.store, &id.to_string())? {
            return Ok(model);
        }
        let called = from_swarm::called(id, &self.tickets);
        let told = Told::new(self.printer, &called);
        let mut tell = |fetched| told.tell(fetched);
        let wanted = (id, called.as_str());
        let fetching = from_swarm::manifest(self.place, node, wanted, &known, &mut tell);
        Ok(self.runtime.block_on(fetching)?)
    }

    /// Fetches what a server of a span needs and this machine has not; of an empty span vocabulary
    /// and tokenizer.
    pub(crate) fn fetch(
        &self,
        node: &Node,
        model: &Model,
        span: Range<u32>,
        view: Option<watch::Receiver<Arc<View>>>,
    ) -> Result<()> {
        let (place, printer) = (self.place, self.printer);
        let needs = from_swarm::needs(&model.manifest, span.clone());
        let missing = place.store.missing(&model.manifest, &needs);
        if missing.is_empty() {
            return Ok(());
        }
        let bytes = total_bytes(&missing);
        let known = self.known(node);
        let told = Told::new(printer, &format!("{}: fetching", model.name));
        let mut tell = |fetched| told.tell(fetched);
        let fetching = from_swarm::span(place, node, (model, span), (&known, view), &mut tell);
        match self.runtime.block_on(fetching) {
            Ok(()) => {
                let (count, bytes) = (missing.len(), human_bytes(bytes));
                printer.note(format!("Fetched {count} files, {bytes}, from the swarm."));
                Ok(())
            }
            // Where it came from has it, too.
            Err(error) if model.record.source.text.starts_with("hf:") => {
                printer.note(error.to_string());
                models::ensure_whole(place, model, printer)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the choice of layers of a machine that may take so much memory, and has room for
    /// `room` positions of sessions in each layer, if it says for how many.
    pub(crate) fn choice(
        &self,
        node: &Node,
        (memory, room): (Option<MemoryLimit>, Option<u32>),
        model: &Model,
        view: &watch::Receiver<Arc<View>>,
    ) -> Result<Choice> {
        let known = self.known_by_all(node, view);
        if known.is_empty() && !self.may_begin {
            bail!(
                "no server of --join answered, so it is not known which layers are wanted; \
                 --layers FIRST..END serves a span all the same"
            );
        }
        let memory_bytes = memory.map_or(u64::MAX, MemoryLimit::for_serving);
        let id = node.links().endpoint().id();
        let own = Machine { node: id, speed: Speed::UNKNOWN, memory_bytes, neighbours: Vec::new() };
        let (sizes, before) = (sizes(&model.manifest, room), BTreeSet::new());
        let mut choice = Choice { own, sizes, before, span: 0..0, others: 0 };
        let Some(span) = choice.of(&known) else {
            let needed = human_bytes(sizes.layer_bytes.saturating_add(sizes.kv_bytes));
            bail!(
                "one layer of {} and its sessions take {needed}, and there is not so much memory \
                 (memory_mib)",
                model.name
            );
        };
        choice.take(span, &known);
        Ok(choice)
    }

    /// Waits until the swarm knows which layers this server claims, of which `announced` tells it,
    /// and then chooses again, because of others that have chosen at the same moment. Returns
    /// whether the choice is another one.
    pub(crate) fn has_changed(
        &self,
        node: &Node,
        announced: &mut Server,
        choice: &mut Choice,
        view: &watch::Receiver<Arc<View>>,
    ) -> bool {
        if self.tickets.is_empty() {
            // There is nobody who could have chosen at the same moment.
            return false;
        }
        let told = Duration::from_micros(proto::CLAIM_US);
        meanwhile_announced(node, announced, || self.runtime.block_on(sleep(told)));
        let known = view.borrow().announcements.clone();
        if !choice.gives_way(&known) {
            return false;
        }
        let span = choice.of(&known).filter(|span| *span != choice.span);
        let has_changed = span.is_some();
        if let Some(span) = span {
            choice.take(span, &known);
        }
        has_changed
    }

    /// Says which layers a choice is.
    pub(crate) fn say(&self, choice: &Choice) {
        let Range { start, end } = choice.span;
        let others = choice.others;
        self.printer.note(format!("Taking layers {start}..{end}, beside {others} other servers."));
    }
}

/// The layers that a server has chosen, and what it chose by.
pub(crate) struct Choice {
    own: Machine,
    sizes: Sizes,
    /// What others held or claimed when it chose.
    before: BTreeSet<Claim>,
    /// The layers that this server claims.
    pub(crate) span: Range<u32>,
    others: usize,
}

impl Choice {
    /// The round in which all that join choose.
    const ROUND: u64 = 0;

    fn of(&self, known: &[Arc<Announcement>]) -> Option<Range<u32>> {
        placing::place(&statuses(known), &self.own, &self.sizes)
    }

    fn gives_way(&self, known: &[Arc<Announcement>]) -> bool {
        let own = (self.own.node, self.sizes.manifest);
        placing::gives_way(&statuses(known), &self.before, own, &self.span, Self::ROUND)
    }

    fn take(&mut self, span: Range<u32>, known: &[Arc<Announcement>]) {
        let is_of_model = |one: &&Arc<Announcement>| one.status.manifest == self.sizes.manifest;
        self.others = known.iter().filter(is_of_model).count();
        self.span = span;
        let claim = |one: &Status| (one.node, one.first, one.end);
        self.before = known.iter().map(|one| claim(&one.status)).collect();
    }
}

fn statuses(known: &[Arc<Announcement>]) -> Vec<Status> {
    known.iter().map(|one| one.status.clone()).collect()
}

/// The progress of a fetch, as it is shown.
struct Told {
    printer: Printer,
    bar: ProgressBar,
}

impl Told {
    fn new(printer: Printer, text: &str) -> Self {
        Self { printer, bar: output::bytes_bar(text, 0) }
    }

    fn tell(&self, fetched: Fetched) {
        self.bar.set_length(fetched.all);
        self.bar.set_position(fetched.bytes);
        if let Some((node, fault)) = fetched.dropped.filter(|(_, fault)| fault.is_hostile()) {
            self.printer.note(format!("{} is not asked any more: {fault}", node.short()));
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A server of this process that is tried before clients are sent to it.
pub(crate) struct Tried<'a> {
    /// The node on which the server runs.
    pub(crate) node: &'a Node,
    /// The status of the server.
    pub(crate) own: &'a Status,
    /// The address at which the server can be reached.
    pub(crate) peer: &'a PeerAddr,
    /// The nodes that may connect to it.
    pub(crate) allow: &'a AllowList,
}

impl Tried<'_> {
    /// Has tokens cross a ring with this server until one has. Calls `tell` once: when that is
    /// done, or when it is known that it can't be yet. As long as there is no ring it looks
    /// whenever the swarm changes; after a trial that failed it waits longer and longer.
    pub(crate) async fn until_ready(
        &self,
        served: Served,
        mut view: watch::Receiver<Arc<View>>,
        printer: Printer,
        tell: impl Fn(),
    ) -> Result<()> {
        // The swarm answers within a round, if it is there.
        timeout(FIRST_VIEW, view.changed()).await.ok();
        let (mut has_told, mut failures) = (false, 0u32);
        loop {
            let known = view.borrow_and_update().announcements.clone();
            let own = (self.own, self.peer, self.allow);
            let Err(error) = cross_a_ring(self.node, own, served.clone(), &known).await else {
                break;
            };
            info!(%error, "trial failed");
            if !has_told {
                printer.note(format!("Joining: {error}. Clients are sent here after that."));
                tell();
                has_told = true;
            }
            if matches!(error, NotTried::NoRing) {
                timeout(LOOK_AGAIN, view.changed()).await.ok();
                continue;
            }
            failures = failures.saturating_add(1);
            let wait = trial::again_us(failures, random::seed()?);
            sleep(Duration::from_micros(wait)).await;
        }
        info!("trial passed");
        if has_told {
            printer.note("Ready: a token has crossed a ring with this server.");
        } else {
            tell();
        }
        Ok(())
    }
}

/// Returns what a client knows of the model that is served here.
pub(crate) fn served(place: &Place, model: &Model) -> Result<Served> {
    // Embedding and head, which a span with layer 0 has beside it, are not needed for a request.
    let vocabulary = vocabulary(place, model)?;
    let manifest = Arc::new(model.manifest.clone());
    Ok(Served { id: model.record.manifest, manifest, vocabulary })
}

/// Opens the vocabulary of a model.
pub(crate) fn vocabulary(place: &Place, model: &Model) -> Result<Arc<Vocabulary>> {
    let index = model.manifest.vocabulary_blob;
    let blobs = place.store.open_blobs(&model.manifest, [index])?;
    let blob = blobs.get(index).context("the model has no vocabulary")?;
    Ok(Arc::new(Vocabulary::from_bytes(blob.as_slice())?))
}

/// Does something that takes a while, and tells the swarm meanwhile that this server is joining, so
/// that nobody else takes the same layers.
pub(crate) fn meanwhile_announced<T>(
    node: &Node,
    machine: &mut Server,
    work: impl FnOnce() -> T,
) -> T {
    let (done, working) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            // Ends when the sender is dropped.
            loop {
                node.announce(machine.announcement(node.clock().now()));
                let waited =
                    working.recv_timeout(Duration::from_millis(proto::ANNOUNCEMENT_MS / 3));
                if waited != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        let result = work();
        drop(done);
        result
    })
}
