//! The machine that fetches blobs from those who hold them.
//!
//! Each blob is asked for by its digest, from one holder at a time, and different blobs from
//! different holders at once. First comes the blob's outline, then its pieces in order; each is
//! checked before it is written, so a holder that sends anything else is named and never asked
//! again, and whoever takes its place goes on behind what was right. A holder that stalls, is gone
//! or refuses is left alone for a while; one that is much slower than another that has nothing to
//! do is relieved.
//!
//! ```text
//!   this machine                        a holder
//!      │  Outline(blob)                    │
//!      │ ────────────────────────────────► │
//!      │  Outline(values)                  │   checked against the digest
//!      │ ◄──────────────────────────────── │
//!      │  Piece(0), Piece(1), ...          │   as many as may be under way
//!      │ ────────────────────────────────► │
//!      │  Piece(0, bytes), ...             │   each checked against the outline, then written
//!      │ ◄──────────────────────────────── │
//! ```
//!
//! Files belong to the driver: it says how much of a blob an earlier fetch has left
//! ([`Output::Resume`]), writes, and puts what is complete in its place.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::pieces::{self, Outline};
use lockstep_verify::sign::NodeId;

use super::draws::Draws;
use crate::frame::{BlobRefusal, Frame as _, FromHolder, ToHolder};
use crate::limits;
use crate::now::Now;

/// A blob that a node wants to fetch, by its digest and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The digest that the bytes of the blob must have.
    pub blob: Digest,
    /// The length of the blob in bytes, as the manifest states it; the most that it may be if no
    /// manifest does.
    pub len: Length,
}

/// The length of a blob, as far as it is known before it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// The blob has this many bytes.
    Exactly(u64),
    /// The blob has this many bytes at most.
    AtMost(u64),
}

/// A node that may hold what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The node id of the holder.
    pub node: NodeId,
    /// Its addresses, comma-separated.
    pub address: String,
    /// The blobs that it holds if it holds what it announces. It is asked for others too, when
    /// nobody announces them.
    pub likely: BTreeSet<Digest>,
}

/// An input of the machine.
#[derive(Debug)]
pub enum Input {
    /// These nodes may hold blobs, beside those that are known already.
    Holders(Vec<Holder>),
    /// The link that was dialled to a holder is open.
    Connected(NodeId),
    /// A frame's body came from a holder.
    Frame {
        /// The holder, which the transport has authenticated.
        node: NodeId,
        /// The body of the frame.
        body: Vec<u8>,
    },
    /// The link to a holder has ended, or it could not be dialled.
    Lost(NodeId),
    /// The driver has looked how much of a blob is on the disk already.
    Resumed {
        /// The digest of the blob.
        blob: Digest,
        /// The number of pieces that are right, from the first one on.
        pieces: u64,
    },
    /// The next piece of a blob has been written.
    Written(Digest),
    /// A complete blob is in its place.
    Stored(Digest),
    /// The time of the deadline has come.
    Tick,
}

/// An output of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Dial a holder, and say whether that has worked.
    Dial {
        /// The node.
        node: NodeId,
        /// Where it may be, comma-separated.
        address: String,
    },
    /// Send a frame to a holder.
    Send {
        /// The node.
        node: NodeId,
        /// Length and body.
        wire: Vec<u8>,
    },
    /// Close the link to a holder, or give up dialling it.
    Close {
        /// The node.
        node: NodeId,
        /// Whether it sent what no holder sends.
        is_fault: bool,
    },
    /// Open the file of a blob, and say with [`Input::Resumed`] how many of its first pieces are
    /// there and right.
    Resume {
        /// The digest of the blob.
        blob: Digest,
        /// What its pieces are.
        outline: Arc<Outline>,
    },
    /// Write a piece that is right, and say [`Input::Written`].
    Write {
        /// The digest of the blob.
        blob: Digest,
        /// The place of the piece in the blob.
        offset: u64,
        /// The bytes of the piece.
        bytes: Vec<u8>,
    },
    /// All pieces of a blob are written: put it in its place, and say [`Input::Stored`].
    Finish(Digest),
    /// Something happened that somebody may want to know.
    Event(Event),
}

/// An event for logs and for whoever watches the progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// More bytes have been checked and written, or were on the disk already.
    Progress {
        /// The number of bytes since the last event.
        bytes: u64,
    },
    /// A holder is not asked any more, or not for a while.
    Dropped {
        /// The node.
        node: NodeId,
        /// The reason.
        why: Fault,
    },
}

/// Why a holder did not give a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It sent bytes that are not of the blob.
    WrongBytes {
        /// The digest of the blob.
        blob: Digest,
    },
    /// It sent what is no frame, or what nobody had asked for.
    BadFrame,
    /// It could not be reached, or the link has ended.
    Lost,
    /// It did not answer in time.
    Stalled,
    /// Another holder was much faster.
    Slow,
    /// It refused to give the blob.
    Refused(BlobRefusal),
}

impl Fault {
    /// Returns whether no honest holder does this.
    #[must_use]
    pub const fn is_hostile(&self) -> bool {
        matches!(self, Self::WrongBytes { .. } | Self::BadFrame)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongBytes { blob } => {
                write!(f, "it sent bytes that are not those of {}", blob.short())
            }
            Self::BadFrame => f.write_str("it sent what was not asked for, or no frame"),
            Self::Lost => f.write_str("it could not be reached, or the link ended"),
            Self::Stalled => {
                write!(f, "it did not answer in {} s", limits::BLOB_STALL_US / 1_000_000)
            }
            Self::Slow => f.write_str("another one was much faster"),
            Self::Refused(why) => why.fmt(f),
        }
    }
}

/// Why a fetch was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The digest of a blob that is missing.
    pub blob: Digest,
    /// Whether holders are left that could have it; then nothing has come for too long.
    pub is_late: bool,
    /// The last fault of each holder that had one.
    pub faults: Vec<(NodeId, Fault)>,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blob = self.blob.short();
        match self.is_late {
            true => {
                let seconds = limits::BLOB_PATIENCE_US / 1_000_000;
                write!(f, "nothing of {blob} has come for {seconds} s")?;
            }
            false => write!(f, "no server gives {blob}")?,
        }
        for (node, fault) in &self.faults {
            write!(f, "; {}: {fault}", node.short())?;
        }
        Ok(())
    }
}

impl core::error::Error for GivenUp {}

#[derive(Debug)]
struct Want {
    length: Length,
    outline: Option<Arc<Outline>>,
    /// Whether the driver has said how much of the blob is there.
    is_resumed: bool,
    /// Pieces from the beginning that are right, written or about to be.
    received: u64,
    written: u64,
    from: Option<NodeId>,
    is_stored: bool,
}

impl Want {
    /// Returns whether all pieces have come, though they may not all be written.
    fn has_all(&self) -> bool {
        let count = self.outline.as_ref().map(|outline| outline.count());
        self.is_resumed && Some(self.received) == count
    }

    /// Returns whether a holder is to be found for the blob.
    fn needs_holder(&self) -> bool {
        self.from.is_none() && !self.is_stored && !self.has_all()
    }

    fn left_bytes(&self) -> u64 {
        let len = match (&self.outline, self.length) {
            (Some(outline), _) => outline.len(),
            (None, Length::Exactly(len) | Length::AtMost(len)) => len,
        };
        len.saturating_sub(self.received.saturating_mul(pieces::PIECE_BYTES))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Closed,
    Dialling,
    Open,
    /// It is never asked again.
    Banned,
}

#[derive(Debug)]
struct Peer {
    address: String,
    likely: BTreeSet<Digest>,
    /// The blobs that it has refused for good.
    lacks: BTreeSet<Digest>,
    link: Link,
    /// The blob that it sends, and the pieces that it was asked for and has not sent.
    task: Option<(Digest, VecDeque<u64>)>,
    /// Answers that are due, also to questions about which nobody cares any more.
    owed: u64,
    /// The last time that it answered, or was dialled or asked with nothing due before.
    since: Now,
    failures: u32,
    not_before: Now,
    fault: Option<Fault>,
    bytes: u64,
    busy_us: u64,
}

impl Peer {
    /// Returns the bytes per second that it has given while something was due, if that is known.
    fn bytes_per_s(&self) -> Option<u64> {
        let per_s = u128::from(self.bytes).saturating_mul(1_000_000);
        let rate = per_s / u128::from(self.busy_us.max(1));
        // default: more than a u64 counts is as fast as can be
        (self.bytes > 0).then_some(u64::try_from(rate).unwrap_or(u64::MAX).max(1))
    }

    fn may_have(&self, blob: &Digest) -> bool {
        self.link != Link::Banned && !self.lacks.contains(blob)
    }
}

/// The machine that fetches blobs, driven as every [`Machine`](crate::machine::Machine).
#[derive(Debug)]
pub struct Fetch {
    wants: BTreeMap<Digest, Want>,
    peers: BTreeMap<NodeId, Peer>,
    draws: Draws,
    now: Now,
    /// The last time that something came.
    progress: Option<Now>,
    given_up: Option<GivenUp>,
    out: VecDeque<Output>,
}

impl Fetch {
    /// Creates the machine that fetches these blobs from these holders. The times for which holders
    /// are left alone vary with `random`, which should be drawn afresh.
    #[must_use]
    pub fn new(wanted: &[Wanted], holders: Vec<Holder>, random: u64) -> Self {
        let want = |wanted: &Wanted| Want {
            length: wanted.len,
            outline: None,
            is_resumed: false,
            received: 0,
            written: 0,
            from: None,
            is_stored: false,
        };
        let mut fetch = Self {
            wants: wanted.iter().map(|wanted| (wanted.blob, want(wanted))).collect(),
            peers: BTreeMap::new(),
            draws: Draws::new(random),
            now: Now::default(),
            progress: None,
            given_up: None,
            out: VecDeque::new(),
        };
        fetch.on_holders(holders);
        fetch
    }

    /// Takes an input at the time `now`. An earlier time than that of the last call counts as that.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.now = self.now.max(now);
        self.progress.get_or_insert(self.now);
        if self.outcome().is_some() {
            return;
        }
        match input {
            Input::Holders(holders) => self.on_holders(holders),
            Input::Connected(node) => self.on_connected(node),
            Input::Frame { node, body } => self.on_frame(node, &body),
            Input::Lost(node) => self.on_lost(node),
            Input::Resumed { blob, pieces } => self.on_resumed(blob, pieces),
            Input::Written(blob) => self.on_written(blob),
            Input::Stored(blob) => self.on_stored(blob),
            Input::Tick => {}
        }
        self.on_time();
        self.schedule();
        self.look_for_the_end();
    }

    /// Returns the next output; `None` when the machine waits for an input.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Returns the time at which [`Input::Tick`] must come, if nothing else does. The first input
    /// must come at once.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        if self.outcome().is_some() {
            return None;
        }
        let Some(progress) = self.progress else { return Some(self.now) };
        let now = self.now;
        let peers = self.peers.values().flat_map(|peer| {
            let waits =
                (peer.not_before > now && peer.link != Link::Banned).then_some(peer.not_before);
            [peer_deadline(peer), waits]
        });
        let patience = progress.after(limits::BLOB_PATIENCE_US);
        peers.flatten().chain([patience]).min()
    }

    /// Returns how the fetch has ended, if it has: all blobs are in their places, or it was given
    /// up.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<(), &GivenUp>> {
        match &self.given_up {
            Some(given_up) => Some(Err(given_up)),
            None => self.wants.values().all(|want| want.is_stored).then_some(Ok(())),
        }
    }

    fn on_holders(&mut self, holders: Vec<Holder>) {
        for Holder { node, address, likely } in holders {
            if let Some(peer) = self.peers.get_mut(&node) {
                (peer.address, peer.likely) = (address, likely);
                continue;
            }
            if self.peers.len() >= limits::BLOB_HOLDERS_KNOWN {
                continue;
            }
            let peer = Peer {
                address,
                likely,
                lacks: BTreeSet::new(),
                link: Link::Closed,
                task: None,
                owed: 0,
                since: self.now,
                failures: 0,
                not_before: Now::default(),
                fault: None,
                bytes: 0,
                busy_us: 0,
            };
            self.peers.insert(node, peer);
        }
    }

    fn on_connected(&mut self, node: NodeId) {
        match self.peers.get_mut(&node) {
            Some(peer) if peer.link == Link::Dialling => {
                (peer.link, peer.since) = (Link::Open, self.now);
            }
            // It was given up meanwhile.
            Some(_) | None => self.out.push_back(Output::Close { node, is_fault: false }),
        }
    }

    fn on_lost(&mut self, node: NodeId) {
        let is_up = |peer: &&mut Peer| matches!(peer.link, Link::Dialling | Link::Open);
        if self.peers.get_mut(&node).filter(is_up).is_some() {
            self.fail(node, Fault::Lost, false);
        }
    }

    /// Ends what a holder does, for a while or, if it is hostile or has failed too often, for ever.
    fn fail(&mut self, node: NodeId, fault: Fault, closes: bool) {
        let spread = self.draws.below(limits::BLOB_BACKOFF_US);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let task = peer.task.take();
        (peer.owed, peer.fault) = (0, Some(fault));
        if fault != Fault::Refused(BlobRefusal::Busy) {
            peer.failures = peer.failures.saturating_add(1);
        }
        let is_over = fault.is_hostile() || peer.failures >= limits::BLOB_FAILURES;
        peer.link = if is_over { Link::Banned } else { Link::Closed };
        let doublings = peer.failures.clamp(1, limits::BLOB_BACKOFF_DOUBLINGS);
        let wait = limits::BLOB_BACKOFF_US << doublings;
        peer.not_before = self.now.after(wait.saturating_add(spread));
        if closes {
            self.out.push_back(Output::Close { node, is_fault: fault.is_hostile() });
        }
        self.free(task.map(|(blob, _)| blob));
        self.out.push_back(Output::Event(Event::Dropped { node, why: fault }));
    }

    /// Nobody sends the blob any more.
    fn free(&mut self, blob: Option<Digest>) {
        if let Some(want) = blob.and_then(|blob| self.wants.get_mut(&blob)) {
            want.from = None;
        }
    }

    fn on_frame(&mut self, node: NodeId, body: &[u8]) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.link == Link::Open) else {
            return;
        };
        let (Ok(frame), Some(owed)) = (FromHolder::from_body(body), peer.owed.checked_sub(1))
        else {
            return self.fail(node, Fault::BadFrame, true);
        };
        peer.owed = owed;
        peer.busy_us = peer.busy_us.saturating_add(now.since(peer.since));
        peer.since = now;
        match frame {
            FromHolder::Outline { blob, len, values } => self.on_outline(node, blob, len, values),
            FromHolder::Piece { blob, index, bytes } => {
                self.on_piece(node, blob, u64::from(index), bytes);
            }
            FromHolder::Refused { blob, why } => self.on_refused(node, blob, why),
        }
    }

    fn on_outline(&mut self, node: NodeId, blob: Digest, len: u64, values: Vec<Digest>) {
        let is_due = self.peers.get(&node).and_then(|peer| peer.task.as_ref());
        let is_due = is_due.is_some_and(|(at, asked)| *at == blob && asked.is_empty());
        let want = self.wants.get_mut(&blob).filter(|want| is_due && want.outline.is_none());
        let Some(want) = want else { return self.fail(node, Fault::BadFrame, true) };
        let fits = match want.length {
            Length::Exactly(expected) => len == expected,
            Length::AtMost(most) => len <= most,
        };
        match Outline::checked(blob, len, values).filter(|_| fits) {
            Some(outline) => {
                let outline = Arc::new(outline);
                want.outline = Some(Arc::clone(&outline));
                self.progress = Some(self.now);
                self.out.push_back(Output::Resume { blob, outline });
            }
            None => self.fail(node, Fault::WrongBytes { blob }, true),
        }
    }

    fn on_piece(&mut self, node: NodeId, blob: Digest, index: u64, bytes: Vec<u8>) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let is_next = match &mut peer.task {
            Some((at, asked)) if *at == blob && asked.front() == Some(&index) => {
                asked.pop_front();
                true
            }
            _ => false,
        };
        let want = self.wants.get_mut(&blob).filter(|_| is_next);
        let outline = want.as_ref().and_then(|want| want.outline.clone());
        let (Some(want), Some(outline)) = (want, outline) else {
            return self.fail(node, Fault::BadFrame, true);
        };
        if !outline.holds(index, &bytes) {
            return self.fail(node, Fault::WrongBytes { blob }, true);
        }
        peer.bytes = peer.bytes.saturating_add(bytes.len() as u64);
        (peer.failures, peer.fault) = (0, None);
        want.received = index.saturating_add(1);
        if want.has_all() {
            (want.from, peer.task) = (None, None);
        }
        self.progress = Some(self.now);
        self.out.push_back(Output::Write { blob, offset: outline.range(index).start, bytes });
    }

    fn on_refused(&mut self, node: NodeId, blob: Digest, why: BlobRefusal) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        // Of several questions each is refused by itself; the first refusal ends the task.
        let Some((at, _)) = peer.task.take_if(|(at, _)| *at == blob) else { return };
        self.free(Some(at));
        match why {
            BlobRefusal::Busy => self.fail(node, Fault::Refused(why), true),
            BlobRefusal::NotHeld | BlobRefusal::NoSuchPiece | BlobRefusal::Spent => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.lacks.insert(blob);
                    peer.fault = Some(Fault::Refused(why));
                }
            }
        }
    }

    fn on_resumed(&mut self, blob: Digest, count: u64) {
        let Some(want) = self.wants.get_mut(&blob) else { return };
        let Some(outline) = &want.outline else { return };
        let count = count.min(outline.count());
        (want.is_resumed, want.received, want.written) = (true, count, count);
        let bytes = outline.len().min(count.saturating_mul(pieces::PIECE_BYTES));
        self.out.push_back(Output::Event(Event::Progress { bytes }));
        if want.has_all()
            && let Some(peer) = want.from.take().and_then(|node| self.peers.get_mut(&node))
        {
            peer.task = None;
        }
        self.finish_if_written(blob);
    }

    fn on_written(&mut self, blob: Digest) {
        let Some(want) = self.wants.get_mut(&blob) else { return };
        let Some(outline) = &want.outline else { return };
        let range = outline.range(want.written);
        want.written = want.written.saturating_add(1);
        let bytes = range.end.saturating_sub(range.start);
        self.out.push_back(Output::Event(Event::Progress { bytes }));
        self.finish_if_written(blob);
    }

    fn finish_if_written(&mut self, blob: Digest) {
        let want = self.wants.get(&blob);
        let all = want.and_then(|want| want.outline.as_ref()).map(|outline| outline.count());
        if want.is_some_and(|want| Some(want.written) == all) {
            self.out.push_back(Output::Finish(blob));
        }
    }

    fn on_stored(&mut self, blob: Digest) {
        self.progress = Some(self.now);
        if let Some(want) = self.wants.get_mut(&blob) {
            want.is_stored = true;
        }
    }

    fn on_time(&mut self) {
        let now = self.now;
        let late = |peer: &Peer| peer_deadline(peer).is_some_and(|deadline| deadline <= now);
        let late = self.peers.iter().filter(|(_, peer)| late(peer)).map(|(node, _)| *node);
        for node in late.collect::<Vec<_>>() {
            self.fail(node, Fault::Stalled, true);
        }
    }

    /// Gives each holder something to do, as far as there is something.
    fn schedule(&mut self) {
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        let idle: Vec<NodeId> = nodes.iter().copied().filter(|node| self.is_idle(*node)).collect();
        for node in idle {
            self.give(node);
        }
        for node in &nodes {
            self.ask(*node);
        }
        let is_up = |peer: &&Peer| matches!(peer.link, Link::Dialling | Link::Open);
        let mut up = self.peers.values().filter(is_up).count();
        let needed = self.needed();
        // Those that announce what is missing go first.
        for likely_alone in [true, false] {
            for node in &nodes {
                if up >= limits::BLOB_HOLDERS || needed.is_empty() {
                    return;
                }
                up = up.saturating_add(usize::from(self.dial(*node, &needed, likely_alone)));
            }
        }
    }

    /// Returns the blobs for which a holder is to be found, and whether one that may still be asked
    /// announces them.
    fn needed(&self) -> Vec<(Digest, bool)> {
        let needed = self.wants.iter().filter(|(_, want)| want.needs_holder());
        let is_announced = |blob: &Digest| {
            self.peers.values().any(|peer| peer.may_have(blob) && peer.likely.contains(blob))
        };
        needed.map(|(blob, _)| (*blob, is_announced(blob))).collect()
    }

    /// Dials a holder if it may have something that nobody sends.
    fn dial(&mut self, node: NodeId, needed: &[(Digest, bool)], likely_alone: bool) -> bool {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&node) else { return false };
        let is_for_it = |(blob, is_announced): &(Digest, bool)| {
            let may = peer.likely.contains(blob) || !(likely_alone || *is_announced);
            may && peer.may_have(blob)
        };
        if peer.link != Link::Closed || peer.not_before > now || !needed.iter().any(is_for_it) {
            return false;
        }
        (peer.link, peer.since, peer.owed) = (Link::Dialling, now, 0);
        let address = peer.address.clone();
        self.out.push_back(Output::Dial { node, address });
        true
    }

    /// Returns whether a holder could be given a blob.
    fn is_idle(&self, node: NodeId) -> bool {
        let is_idle =
            |peer: &Peer| peer.link == Link::Open && peer.task.is_none() && peer.owed == 0;
        self.peers.get(&node).is_some_and(is_idle)
    }

    /// Chooses a blob for a holder that has nothing to do.
    fn give(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get(&node) else { return };
        let is_for_it = |(blob, is_announced): &&(Digest, bool)| {
            peer.may_have(blob) && (peer.likely.contains(blob) || !is_announced)
        };
        let free = self.needed().iter().find(is_for_it).map(|(blob, _)| *blob);
        let Some(blob) = free.or_else(|| self.relieve(node)) else { return };
        if let Some(want) = self.wants.get_mut(&blob) {
            want.from = Some(node);
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            (peer.task, peer.since) = (Some((blob, VecDeque::new())), self.now);
        }
        if self.wants.get(&blob).is_some_and(|want| want.outline.is_none()) {
            self.send(node, &ToHolder::Outline { blob });
        }
    }

    /// Takes a blob from a holder that is much slower than this one, which has nothing to do.
    fn relieve(&mut self, node: NodeId) -> Option<Digest> {
        let peer = self.peers.get(&node)?;
        let own = peer.bytes_per_s()?;
        let slow = self.wants.iter().filter_map(|(blob, want)| {
            let from = want.from.filter(|from| *from != node)?;
            // One that has sent nothing yet is judged by its deadline.
            let others = self.peers.get(&from)?.bytes_per_s()?;
            let is_slow = own >= others.saturating_mul(limits::BLOB_TAKEOVER_FACTOR);
            let left_us = want.left_bytes().saturating_mul(1_000_000).checked_div(others)?;
            let is_worth_it = left_us >= limits::BLOB_TAKEOVER_US && want.is_resumed;
            (is_slow && is_worth_it && peer.may_have(blob)).then_some((left_us, *blob, from))
        });
        let (_, blob, from) = slow.max()?;
        self.fail(from, Fault::Slow, true);
        Some(blob)
    }

    /// Asks a holder for as many pieces as may be under way.
    fn ask(&mut self, node: NodeId) {
        while let Some((blob, index)) = self.next_piece(node) {
            if let Some(peer) = self.peers.get_mut(&node)
                && let Some((_, asked)) = &mut peer.task
            {
                if asked.is_empty() {
                    peer.since = self.now;
                }
                asked.push_back(u64::from(index));
            }
            self.send(node, &ToHolder::Piece { blob, index });
        }
    }

    /// Returns the piece for which a holder is to be asked now, if there is one.
    fn next_piece(&self, node: NodeId) -> Option<(Digest, u32)> {
        let peer = self.peers.get(&node).filter(|peer| peer.link == Link::Open)?;
        let (blob, asked) = peer.task.as_ref()?;
        let want = self.wants.get(blob).filter(|want| want.is_resumed)?;
        let next = want.received.saturating_add(asked.len() as u64);
        let own = next.saturating_sub(want.written);
        let most = limits::BLOB_PIECES_ASKED as u64;
        if next >= want.outline.as_ref()?.count() || own >= most {
            return None;
        }
        // Pieces that a slow disk has not taken are bounded over all blobs.
        let unwritten = self.wants.values().map(|want| want.received.saturating_sub(want.written));
        let asked = self.peers.values().filter_map(|peer| peer.task.as_ref());
        let asked = asked.map(|(_, asked)| asked.len() as u64);
        let all = unwritten.chain(asked).fold(0, u64::saturating_add);
        let fits = all < most.saturating_mul(limits::BLOB_HOLDERS as u64);
        // default: a blob has no more pieces than a u32 counts: its outline would be no frame
        Some((*blob, u32::try_from(next).ok().filter(|_| fits)?))
    }

    fn send(&mut self, node: NodeId, frame: &ToHolder) {
        let (Some(peer), Ok(wire)) = (self.peers.get_mut(&node), frame.to_wire()) else { return };
        peer.owed = peer.owed.saturating_add(1);
        self.out.push_back(Output::Send { node, wire });
    }

    fn look_for_the_end(&mut self) {
        let lost = self.wants.iter().find(|(blob, want)| {
            want.needs_holder() && !self.peers.values().any(|peer| peer.may_have(blob))
        });
        let late = self.progress.map(|progress| progress.after(limits::BLOB_PATIENCE_US));
        let is_late = late.is_some_and(|late| late <= self.now);
        let unstored = self.wants.iter().find(|(_, want)| !want.is_stored);
        let end = lost.map(|(blob, _)| (*blob, false));
        let end = end.or_else(|| unstored.filter(|_| is_late).map(|(blob, _)| (*blob, true)));
        if let Some((blob, is_late)) = end {
            let faults = self.peers.iter().filter_map(|(node, peer)| Some((*node, peer.fault?)));
            self.given_up = Some(GivenUp { blob, is_late, faults: faults.collect() });
        }
        if self.outcome().is_some() {
            let open = self.peers.iter().filter(|(_, peer)| peer.link == Link::Open);
            let close = |node: &NodeId| Output::Close { node: *node, is_fault: false };
            self.out.extend(open.map(|(node, _)| close(node)));
        }
    }
}

/// Returns when a holder must have answered or been reached, if that is due.
fn peer_deadline(peer: &Peer) -> Option<Now> {
    match peer.link {
        Link::Dialling => Some(peer.since.after(limits::BLOB_DIAL_US)),
        Link::Open if peer.owed > 0 => Some(peer.since.after(limits::BLOB_STALL_US)),
        Link::Open | Link::Closed | Link::Banned => None,
    }
}
