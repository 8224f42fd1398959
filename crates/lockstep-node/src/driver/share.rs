//! What connects the machine that gives files to the world: links that come in, and the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lockstep_exact::digest::Digest;
use lockstep_exact::manifest::{BlobRef, Manifest};
use lockstep_proto::swarm::uploads::{Input, LinkNumber, Output, Uploads};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tracing::{debug, warn};

use super::body;
use super::clock::Clock;
use super::drive::{Next, Port, drive};
use super::outlines::Outlines;
use crate::limits;
use crate::store::{ModelRecord, Store};
use crate::transport::{HangUp, Link, Sender};

/// A node's part in sharing a model, which goes on until this is dropped.
#[derive(Debug)]
pub(super) struct Sharing {
    /// Ends when this is dropped.
    _driving: JoinSet<()>,
}

impl Sharing {
    /// Begins to give the files of a model, its manifest among them, on the links that come through
    /// `accepted`, at `bytes_per_s` at most. To be called inside a runtime of tokio.
    pub(super) fn start(
        clock: Clock,
        accepted: mpsc::Receiver<Link>,
        store: Store,
        (record, manifest): (&ModelRecord, &Manifest),
        bytes_per_s: Option<u64>,
    ) -> Self {
        let all = manifest.blobs.iter().copied().chain([record.blob()]);
        let shared: BTreeMap<Digest, u64> = all.map(|blob| (blob.digest, blob.len)).collect();
        let mut machine = Uploads::new(shared.clone(), bytes_per_s);
        let (events, inbox) = mpsc::channel(limits::DRIVER_INBOX);
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            let mut port = SharePort {
                store,
                shared,
                clock,
                outlines: Arc::new(Outlines::new()),
                accepted,
                events,
                inbox,
                senders: BTreeMap::new(),
                accepted_count: 0,
                tasks: JoinSet::new(),
            };
            drive(clock, &mut machine, &mut port).await;
        });
        Self { _driving: driving }
    }
}

/// What the links, the store and the senders tell.
enum Told {
    Frame { link: LinkNumber, body: Bytes },
    Input(Input),
}

enum Arrival {
    Accepted(Option<Box<Link>>),
    Told(Option<Told>),
    TaskEnded,
}

struct SharePort {
    store: Store,
    /// The lengths of the files that are shared.
    shared: BTreeMap<Digest, u64>,
    clock: Clock,
    outlines: Arc<Outlines>,
    accepted: mpsc::Receiver<Link>,
    events: mpsc::Sender<Told>,
    inbox: mpsc::Receiver<Told>,
    senders: BTreeMap<LinkNumber, Sender>,
    accepted_count: LinkNumber,
    tasks: JoinSet<()>,
}

impl Port<Uploads> for SharePort {
    type Arrival = Arrival;
    type End = ();

    async fn hear(&mut self) -> Arrival {
        tokio::select! {
            told = self.inbox.recv() => Arrival::Told(told),
            link = self.accepted.recv() => Arrival::Accepted(link.map(Box::new)),
            Some(_) = self.tasks.join_next() => Arrival::TaskEnded,
        }
    }

    async fn take(&mut self, _: &mut Uploads, heard: Arrival) -> Next<Input, ()> {
        match heard {
            Arrival::Accepted(Some(link)) => Next::Input(self.open(*link)),
            Arrival::Told(Some(Told::Frame { link, body })) => {
                Next::Input(Input::Frame { link, body: body.into() })
            }
            Arrival::Told(Some(Told::Input(input))) => {
                if let Input::Lost(link) = &input {
                    self.senders.remove(link);
                }
                Next::Input(input)
            }
            Arrival::TaskEnded => Next::Nothing,
            // The endpoint is closed.
            Arrival::Accepted(None) | Arrival::Told(None) => Next::Over(()),
        }
    }

    fn perform(&mut self, output: Output) -> Next<Input, ()> {
        match output {
            Output::Outline { link, blob } => self.outline(link, self.blob(blob)),
            Output::Read { link, blob, offset, len } => {
                let (store, blob, events) =
                    (self.store.clone(), self.blob(blob), self.events.clone());
                self.tasks.spawn(async move {
                    let reading = spawn_blocking(move || store.read_blob(&blob, offset, len));
                    let bytes = match reading.await {
                        Ok(Ok(bytes)) => Some(bytes),
                        Ok(Err(error)) => {
                            warn!(%error, "a file can't be given");
                            None
                        }
                        Err(_) => None,
                    };
                    events.send(Told::Input(Input::Read { link, bytes })).await.ok();
                });
            }
            Output::Send { link, wire } => self.send(link, wire),
            Output::Close { link, is_fault } => {
                if let Some(sender) = self.senders.remove(&link) {
                    debug!(peer = %sender.peer().short(), is_fault, "no more files for it");
                    sender.hang_up(if is_fault { HangUp::BadFrame } else { HangUp::Done });
                }
            }
        }
        Next::Nothing
    }

    fn ended(&self, _: &Uploads) -> Option<()> {
        None
    }
}

impl SharePort {
    fn blob(&self, digest: Digest) -> BlobRef {
        // The machine asks for what is shared alone.
        let len = self.shared.get(&digest).copied().unwrap_or(0);
        BlobRef { digest, len }
    }

    /// Begins to read a link that came in.
    fn open(&mut self, link: Link) -> Input {
        self.accepted_count += 1;
        let number = self.accepted_count;
        let Link { sender, mut receiver, peer, .. } = link;
        self.senders.insert(number, sender.clone());
        let events = self.events.clone();
        self.tasks.spawn(async move {
            // The link lives as long as both of its halves.
            let _sender = sender;
            while let Ok(Some(body)) = receiver.recv().await {
                if events.send(Told::Frame { link: number, body }).await.is_err() {
                    return;
                }
            }
            events.send(Told::Input(Input::Lost(number))).await.ok();
        });
        Input::Opened { link: number, peer }
    }

    /// Computes an outline, or takes it from those that were.
    fn outline(&mut self, link: LinkNumber, blob: BlobRef) {
        let (store, outlines) = (self.store.clone(), Arc::clone(&self.outlines));
        let (events, now) = (self.events.clone(), self.clock.now());
        self.tasks.spawn(async move {
            let outline = outlines.get(now, blob.digest, move || store.outline(&blob)).await;
            if outline.is_none() {
                debug!(blob = %blob.digest.short(), "not here, so it can't be given");
            }
            let outline = outline.map(|outline| (*outline).clone());
            events.send(Told::Input(Input::Outlined { link, outline })).await.ok();
        });
    }

    /// Sends a frame, and tells the machine when it has left.
    fn send(&mut self, link: LinkNumber, wire: Vec<u8>) {
        let Some(sender) = self.senders.get(&link).cloned() else { return };
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let sent = match sender.post(body(wire)) {
                Ok(()) => sender.drained(limits::FRAME_DEADLINE).await,
                Err(error) => Err(error),
            };
            let input = match sent {
                Ok(()) => Input::Sent(link),
                Err(error) => {
                    debug!(%error, "a file is not taken");
                    sender.hang_up(HangUp::Unread);
                    Input::Lost(link)
                }
            };
            events.send(Told::Input(input)).await.ok();
        });
    }
}
