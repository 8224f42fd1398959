//! What connects the machine that fetches files to the world: links to holders, a thread that
//! writes, and the view of the swarm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::{io, thread};

use bytes::Bytes;
use lockstep_exact::digest::Digest;
use lockstep_exact::manifest::{BlobRef, Manifest};
use lockstep_exact::pieces::Outline;
use lockstep_proto::announcement::{Announcement, State};
use lockstep_proto::limits as protocol;
use lockstep_proto::swarm::fetch::{
    Event, Fault, Fetch, GivenUp, Holder, Input, Length, Output, Wanted,
};
use lockstep_verify::sign::NodeId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::body;
use super::clock::Clock;
use super::drive::{Next, Port, drive};
use super::swarm::{View, peer_of};
use crate::limits;
use crate::store::{Part, Store, StoreError, span_blobs};
use crate::transport::{Class, Endpoint, HangUp, Link, Sender};

/// Why files could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No server gives what is missing.
    #[error("{0}")]
    GivenUp(GivenUp),
    /// The store can't take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gave no thread to write with.
    #[error("the thread that writes files could not be started: {0}")]
    Thread(#[source] io::Error),
    /// The thread that writes has ended: a fault of this program.
    #[error("the thread that writes files has died")]
    WriterDied,
}

/// The progress of a fetch, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The bytes that are on the disk.
    pub bytes: u64,
    /// The bytes that all files have that were missing; 0 as long as nobody knows.
    pub all: u64,
    /// A server that gives nothing for now, or never again, and the reason.
    pub dropped: Option<(NodeId, Fault)>,
}

/// Returns the servers that may hold files of a model: those that serve it, each with the files
/// that it announces to hold; of all files without a manifest.
#[must_use]
pub fn holders(
    announcements: &[Arc<Announcement>],
    model: Digest,
    manifest: Option<&Manifest>,
) -> Vec<Holder> {
    let serves = |one: &&Arc<Announcement>| {
        let has_loaded = one.status.speed.is_known() || one.status.state != State::Joining;
        one.status.manifest == model && one.status.state != State::Left && has_loaded
    };
    let files_of = |(first, end): (u32, u32)| match manifest {
        Some(manifest) => {
            let texts = [manifest.vocabulary_blob, manifest.tokenizer_blob];
            let all = span_blobs(manifest, first..end).into_iter().chain(texts);
            all.filter_map(|index| Some(manifest.blobs.get(index as usize)?.digest)).collect()
        }
        None => BTreeSet::from([model]),
    };
    // Many servers have the same span.
    let mut known = BTreeMap::new();
    let mut holder = |one: &Arc<Announcement>| {
        let span = (one.status.first, one.status.end);
        let likely = known.entry(span).or_insert_with(|| Arc::new(files_of(span)));
        let (node, address) = (one.status.node, one.address.clone());
        Holder { node, address, likely: Arc::clone(likely) }
    };
    announcements.iter().filter(serves).map(&mut holder).collect()
}

/// Fetches blobs into the store, each checked against its digest, from the servers of a swarm that
/// hold them: those that `view` knows now and later. `tell` hears of the progress. The room on the
/// disk is looked at first. What has come of an interrupted fetch is there for the next one.
///
/// # Errors
/// [`FetchError`]; servers that sent wrong bytes are named in it, and in what is told.
pub async fn fetch(
    endpoint: &Arc<Endpoint>,
    clock: Clock,
    store: &Store,
    (wanted, random): (&[Wanted], u64),
    holders: &(dyn Fn() -> Vec<Holder> + Sync),
    mut view: Option<watch::Receiver<Arc<View>>>,
    tell: &mut (dyn FnMut(Fetched) + Send),
) -> Result<(), FetchError> {
    let all = wanted_bytes(wanted);
    store.begin()?.check_space(all)?;
    let mut machine = Fetch::new(wanted, holders(), random);
    let (events, inbox) = mpsc::channel(limits::DRIVER_INBOX);
    let files = start_writer(store.clone(), events.clone())?;
    if let Some(view) = &mut view {
        view.mark_unchanged();
    }
    let mut port = FetchPort {
        endpoint: Arc::clone(endpoint),
        holders,
        view,
        files,
        events,
        inbox,
        links: BTreeMap::new(),
        dialled: 0,
        told: Fetched { bytes: 0, all, dropped: None },
        tell,
        tasks: JoinSet::new(),
    };
    drive(clock, &mut machine, &mut port).await
}

/// Returns the bytes of all blobs that are wanted, as far as their lengths are known. A manifest is
/// a stranger's: if its lengths come to more than a number holds, no disk has the room.
fn wanted_bytes(wanted: &[Wanted]) -> u64 {
    let exact = |wanted: &Wanted| match wanted.len {
        Length::Exactly(len) => len,
        Length::AtMost(_) => 0,
    };
    wanted.iter().map(exact).fold(0, u64::saturating_add)
}

/// Returns blobs as a fetch wants them whose lengths a manifest states.
#[must_use]
pub fn wanted(blobs: &[BlobRef]) -> Vec<Wanted> {
    let want = |blob: &BlobRef| Wanted { blob: blob.digest, len: Length::Exactly(blob.len) };
    blobs.iter().map(want).collect()
}

/// What the thread that writes is to do.
enum Command {
    Resume { blob: Digest, outline: Arc<Outline> },
    Write { blob: Digest, offset: u64, bytes: Vec<u8> },
    Finish(Digest),
}

/// What links and the thread that writes tell.
enum Told {
    Connected { node: NodeId, dial: u64, link: Option<Box<Link>> },
    Frame { node: NodeId, dial: u64, body: Bytes },
    Lost { node: NodeId, dial: u64 },
    Wrote(Input),
    Failed(StoreError),
}

/// Starts the thread that writes; it ends when no more commands can come.
fn start_writer(
    store: Store,
    events: mpsc::Sender<Told>,
) -> Result<mpsc::Sender<Command>, FetchError> {
    let (commands, mut queue) = mpsc::channel::<Command>(limits::FILE_COMMANDS);
    let writing = move || {
        let failed = |error| drop(events.blocking_send(Told::Failed(error)));
        // While this lives nobody takes away what has come.
        let _import = match store.begin() {
            Ok(import) => import,
            Err(error) => return failed(error),
        };
        let mut parts = BTreeMap::new();
        while let Some(command) = queue.blocking_recv() {
            let told = match write(&store, &mut parts, command) {
                Ok(input) => Told::Wrote(input),
                Err(error) => return failed(error),
            };
            if events.blocking_send(told).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("files".to_owned()).spawn(writing).map_err(FetchError::Thread)?;
    Ok(commands)
}

fn write(
    store: &Store,
    parts: &mut BTreeMap<Digest, Part>,
    command: Command,
) -> Result<Input, StoreError> {
    match command {
        Command::Resume { blob, outline } => {
            let mut part = store.part(blob)?;
            let pieces = part.keep_right(&outline)?;
            parts.insert(blob, part);
            Ok(Input::Resumed { blob, pieces })
        }
        Command::Write { blob, offset, bytes } => {
            if let Some(part) = parts.get_mut(&blob) {
                part.write(offset, &bytes)?;
            }
            Ok(Input::Written(blob))
        }
        Command::Finish(blob) => {
            if let Some(part) = parts.remove(&blob) {
                part.finish(store)?;
            }
            Ok(Input::Stored(blob))
        }
    }
}

enum Arrival {
    Told(Option<Told>),
    Changed,
    TaskEnded,
}

/// The link to a holder; none while it is being dialled.
struct HolderLink {
    dial: u64,
    sender: Option<Sender>,
}

struct FetchPort<'a> {
    endpoint: Arc<Endpoint>,
    holders: &'a (dyn Fn() -> Vec<Holder> + Sync),
    view: Option<watch::Receiver<Arc<View>>>,
    files: mpsc::Sender<Command>,
    events: mpsc::Sender<Told>,
    inbox: mpsc::Receiver<Told>,
    links: BTreeMap<NodeId, HolderLink>,
    dialled: u64,
    told: Fetched,
    tell: &'a mut (dyn FnMut(Fetched) + Send),
    tasks: JoinSet<()>,
}

impl Port<Fetch> for FetchPort<'_> {
    type Arrival = Arrival;
    type End = Result<(), FetchError>;

    async fn hear(&mut self) -> Arrival {
        let changed = async {
            let has_changed = match &mut self.view {
                Some(view) => view.changed().await.is_ok(),
                None => false,
            };
            if !has_changed {
                std::future::pending().await
            }
        };
        tokio::select! {
            told = self.inbox.recv() => Arrival::Told(told),
            () = changed => Arrival::Changed,
            Some(_) = self.tasks.join_next() => Arrival::TaskEnded,
        }
    }

    async fn take(&mut self, _: &mut Fetch, heard: Arrival) -> Next<Input, Self::End> {
        match heard {
            Arrival::Told(Some(Told::Failed(error))) => Next::Over(Err(error.into())),
            Arrival::Told(Some(Told::Wrote(input))) => Next::Input(input),
            Arrival::Told(Some(Told::Connected { node, dial, link })) => {
                self.connected(node, dial, link)
            }
            Arrival::Told(Some(Told::Frame { node, dial, body })) if self.is_open(node, dial) => {
                Next::Input(Input::Frame { node, body: body.into() })
            }
            Arrival::Told(Some(Told::Lost { node, dial })) if self.is_open(node, dial) => {
                self.links.remove(&node);
                Next::Input(Input::Lost(node))
            }
            Arrival::Changed => Next::Input(Input::Holders((self.holders)())),
            Arrival::Told(Some(_)) | Arrival::TaskEnded => Next::Nothing,
            Arrival::Told(None) => Next::Over(Err(FetchError::WriterDied)),
        }
    }

    fn perform(&mut self, output: Output) -> Next<Input, Self::End> {
        let command = match output {
            Output::Dial { node, address } => {
                self.dial(node, &address);
                return Next::Nothing;
            }
            Output::Send { node, wire } => {
                let link = self.links.get(&node).and_then(|link| link.sender.as_ref());
                if let Some(error) = link.and_then(|sender| sender.post(body(wire)).err()) {
                    debug!(%error, "a server can't be asked for files");
                    self.links.remove(&node);
                    return Next::Input(Input::Lost(node));
                }
                return Next::Nothing;
            }
            Output::Close { node, is_fault } => {
                if let Some(HolderLink { sender: Some(sender), .. }) = self.links.remove(&node) {
                    sender.hang_up(if is_fault { HangUp::BadFrame } else { HangUp::Done });
                }
                return Next::Nothing;
            }
            Output::Event(event) => {
                self.on_event(event);
                return Next::Nothing;
            }
            Output::Resume { blob, outline } => Command::Resume { blob, outline },
            Output::Write { blob, offset, bytes } => Command::Write { blob, offset, bytes },
            Output::Finish(blob) => Command::Finish(blob),
        };
        match self.files.try_send(command) {
            Ok(()) => Next::Nothing,
            // Why it has ended is on its way, unless it is a fault of this program.
            Err(_) => match self.inbox.try_recv() {
                Ok(Told::Failed(error)) => Next::Over(Err(error.into())),
                _ => Next::Over(Err(FetchError::WriterDied)),
            },
        }
    }

    fn ended(&self, machine: &Fetch) -> Option<Self::End> {
        let outcome = machine.outcome()?;
        Some(outcome.map_err(|given_up| FetchError::GivenUp(given_up.clone())))
    }
}

impl FetchPort<'_> {
    /// Returns whether this is the link that is kept to a holder.
    fn is_open(&self, node: NodeId, dial: u64) -> bool {
        self.links.get(&node).is_some_and(|link| link.dial == dial)
    }

    fn connected(
        &mut self,
        node: NodeId,
        dial: u64,
        link: Option<Box<Link>>,
    ) -> Next<Input, Result<(), FetchError>> {
        if !self.is_open(node, dial) {
            return Next::Nothing;
        }
        let Some(link) = link else {
            self.links.remove(&node);
            return Next::Input(Input::Lost(node));
        };
        let Link { sender, mut receiver, .. } = *link;
        if let Some(link) = self.links.get_mut(&node) {
            link.sender = Some(sender.clone());
        }
        let events = self.events.clone();
        self.tasks.spawn(async move {
            // The link lives as long as both of its halves.
            let _sender = sender;
            while let Ok(Some(body)) = receiver.recv().await {
                if events.send(Told::Frame { node, dial, body }).await.is_err() {
                    return;
                }
            }
            events.send(Told::Lost { node, dial }).await.ok();
        });
        Next::Input(Input::Connected(node))
    }

    fn dial(&mut self, node: NodeId, address: &str) {
        self.dialled += 1;
        let dial = self.dialled;
        self.links.insert(node, HolderLink { dial, sender: None });
        let (endpoint, events) = (Arc::clone(&self.endpoint), self.events.clone());
        let peer = peer_of(node, address);
        self.tasks.spawn(async move {
            let link = match endpoint.connect(&peer, Class::Blobs).await {
                Ok(link) => Some(Box::new(link)),
                Err(error) => {
                    debug!(%error, "a server can't be asked for files");
                    None
                }
            };
            events.send(Told::Connected { node, dial, link }).await.ok();
        });
    }

    fn on_event(&mut self, event: Event) {
        self.told.dropped = None;
        match event {
            Event::Progress { bytes } => self.told.bytes = self.told.bytes.saturating_add(bytes),
            Event::Dropped { node, why } => {
                if why.is_hostile() {
                    warn!(node = %node.short(), fault = %why, "a server is not asked any more");
                }
                self.told.dropped = Some((node, why));
            }
        }
        (self.tell)(self.told);
    }
}

const _: () = assert!(
    limits::FILE_COMMANDS > protocol::BLOB_HOLDERS * (protocol::BLOB_PIECES_ASKED + 2),
    "whatever a fetch may write at once has room"
);
