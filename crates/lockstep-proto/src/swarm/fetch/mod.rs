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
//!      │  Outline(length, values)          │   checked against the digest
//!      │ ◄──────────────────────────────── │
//!      │  Piece(0), Piece(1), ...          │   as many as may be under way
//!      │ ────────────────────────────────► │
//!      │  Piece(0, bytes), ...             │   each checked against the outline, then written
//!      │ ◄──────────────────────────────── │
//! ```
//!
//! Values that give the digest are the blob's only if the length is. Where no manifest states it,
//! whoever sends an outline has to send the last piece next, which proves the length
//! ([`Outline::checked`]): no other holder is measured by an outline that could be false.
//!
//! Files belong to the driver: it says how much of a blob an earlier fetch has left
//! ([`Output::Resume`]), writes, and puts what is complete in its place.
//!
//! | module | what it has |
//! |---|---|
//! | `fault` | what is told of holders and of the end |
//! | `holders` | the nodes that may hold what is wanted, and whom to dial next |
//! | `schedule` | which holder is asked for what |
//! | `want` | how far a blob has come |

mod fault;
mod holders;
mod schedule;
mod want;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::pieces::{self, Outline};
use lockstep_verify::sign::NodeId;

pub use fault::{Event, Fault, GivenUp};

use crate::frame::{BlobRefusal, Frame as _, FromHolder, ToHolder};
use crate::limits;
use crate::now::Now;
use holders::{Holders, Link, Peer};
use want::Want;

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
    pub likely: Arc<BTreeSet<Digest>>,
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

/// The machine that fetches blobs, driven as every [`Machine`](crate::machine::Machine).
#[derive(Debug)]
pub struct Fetch {
    wants: BTreeMap<Digest, Want>,
    holders: Holders,
    now: Now,
    /// The last time that something came.
    progress: Option<Now>,
    given_up: Option<GivenUp>,
    out: VecDeque<Output>,
}

impl Fetch {
    /// Creates the machine that fetches these blobs from these holders. Whom it dials first, and
    /// the times for which holders are left alone, vary with `random`, which should be drawn
    /// afresh.
    #[must_use]
    pub fn new(wanted: &[Wanted], holders: Vec<Holder>, random: u64) -> Self {
        let want = |wanted: &Wanted| (wanted.blob, Want::new(wanted.len));
        let mut fetch = Self {
            wants: wanted.iter().map(want).collect(),
            holders: Holders::new(random),
            now: Now::default(),
            progress: None,
            given_up: None,
            out: VecDeque::new(),
        };
        fetch.holders.announced(holders, fetch.now);
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
            Input::Holders(holders) => self.holders.announced(holders, self.now),
            Input::Connected(node) => self.on_connected(node),
            Input::Frame { node, body } => self.on_frame(node, &body),
            Input::Lost(node) => self.on_lost(node),
            Input::Resumed { blob, pieces } => self.on_resumed(blob, pieces),
            Input::Written(blob) => self.on_written(blob),
            Input::Stored(blob) => self.on_stored(blob),
            Input::Tick => {}
        }
        self.on_time();
        let is_missing = |want: &Want| !want.is_stored && !want.has_all();
        let missing = self.wants.iter().filter(|(_, want)| is_missing(want));
        self.holders.fill(|| missing.map(|(blob, _)| *blob).collect());
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
        let peers = self.holders.iter().flat_map(|(_, peer)| {
            let waits =
                (peer.not_before > now && peer.link != Link::Banned).then_some(peer.not_before);
            [peer.deadline(), waits]
        });
        let reliefs = self.holders.iter().filter_map(|(_, peer)| peer.relief());
        let can_relieve = |peer: &Peer| peer.is_idle() && peer.bytes_per_s(now).is_some();
        let is_relieved = self.holders.iter().any(|(_, peer)| can_relieve(peer));
        let reliefs = reliefs.filter(|relief| is_relieved && *relief > now);
        let patience = progress.after(limits::BLOB_PATIENCE_US);
        peers.flatten().chain(reliefs).chain([patience]).min()
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

    fn on_connected(&mut self, node: NodeId) {
        match self.holders.get_mut(&node) {
            Some(peer) if peer.link == Link::Dialling => {
                (peer.link, peer.since) = (Link::Open, self.now);
            }
            // It was given up meanwhile.
            Some(_) | None => self.out.push_back(Output::Close { node, is_fault: false }),
        }
    }

    fn on_lost(&mut self, node: NodeId) {
        match self.holders.get(&node) {
            // A holder need not keep a link on which nothing is asked.
            Some(peer) if peer.is_idle() => self.rest(node, false),
            Some(peer) if peer.is_up() => self.fail(node, Fault::Lost, false),
            Some(_) | None => {}
        }
    }

    /// Ends what a holder does, for a while or, if it is hostile or has failed too often, for ever.
    fn fail(&mut self, node: NodeId, fault: Fault, closes: bool) {
        let spread = self.holders.spread_us(limits::BLOB_BACKOFF_US);
        self.holders.judge_again();
        let Some(peer) = self.holders.get_mut(&node) else { return };
        let task = peer.task.take();
        peer.questions.clear();
        peer.fault = Some(fault);
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
        self.free(task.map(|task| task.blob));
        self.out.push_back(Output::Event(Event::Dropped { node, why: fault }));
    }

    /// Closes the link to a holder that has nothing to do, which is no fault of its.
    fn rest(&mut self, node: NodeId, closes: bool) {
        let Some(peer) = self.holders.get_mut(&node) else { return };
        (peer.link, peer.not_before) = (Link::Closed, self.now.after(limits::BLOB_BACKOFF_US));
        if closes {
            self.out.push_back(Output::Close { node, is_fault: false });
        }
    }

    /// Nobody sends the blob any more.
    fn free(&mut self, blob: Option<Digest>) {
        if let Some(want) = blob.and_then(|blob| self.wants.get_mut(&blob)) {
            want.from = None;
        }
    }

    fn on_frame(&mut self, node: NodeId, body: &[u8]) {
        let now = self.now;
        let Some(peer) = self.holders.get_mut(&node).filter(|peer| peer.link == Link::Open) else {
            return;
        };
        let is_due =
            |frame: &FromHolder| peer.questions.front().is_some_and(|due| is_answer(due, frame));
        let frame = match FromHolder::from_body(body) {
            Ok(frame) if is_due(&frame) => frame,
            Ok(_) | Err(_) => return self.fail(node, Fault::BadFrame, true),
        };
        if let Some(question) = peer.questions.pop_front() {
            peer.answered(&question, now);
        }
        match frame {
            FromHolder::Outline { blob, len, values } => self.on_outline(node, blob, len, values),
            FromHolder::Piece { blob, index, bytes } => {
                self.on_piece(node, blob, u64::from(index), bytes);
            }
            FromHolder::Refused { blob, why } => self.on_refused(node, blob, why),
        }
    }

    fn on_outline(&mut self, node: NodeId, blob: Digest, len: u64, values: Vec<Digest>) {
        let Some(length) = self.wants.get(&blob).map(|want| want.length) else { return };
        let (is_certain, fits) = match length {
            Length::Exactly(expected) => (true, len == expected),
            Length::AtMost(most) => (false, len <= most),
        };
        if !is_certain && !fits {
            return self.on_lacking(node, blob, Fault::TooLong { blob });
        }
        let outline = Outline::checked(blob, len, values).filter(|_| fits);
        let Some(outline) = outline.map(Arc::new) else {
            return self.fail(node, Fault::WrongBytes { blob }, true);
        };
        self.progress = Some(self.now);
        if is_certain {
            return self.resume(blob, outline, None);
        }
        let last = outline.count().saturating_sub(1);
        let task = self.holders.get_mut(&node).and_then(|peer| peer.task.as_mut());
        if let (Some(task), Ok(index)) = (task, u32::try_from(last)) {
            task.claim = Some(outline);
            self.send(node, ToHolder::Piece { blob, index });
        }
    }

    /// Goes on with a blob whose outline is certain; `tail` is the last piece, if it has come.
    fn resume(&mut self, blob: Digest, outline: Arc<Outline>, tail: Option<Vec<u8>>) {
        if let Some(want) = self.wants.get_mut(&blob) {
            (want.outline, want.tail) = (Some(Arc::clone(&outline)), tail);
            self.out.push_back(Output::Resume { blob, outline });
        }
    }

    fn on_piece(&mut self, node: NodeId, blob: Digest, index: u64, bytes: Vec<u8>) {
        let Some(peer) = self.holders.get_mut(&node) else { return };
        // What is answered behind a refusal is for nobody any more.
        let Some(task) = peer.task.as_mut().filter(|task| task.blob == blob) else { return };
        let claim = task.claim.take();
        let Some(want) = self.wants.get_mut(&blob) else { return };
        let Some(outline) = claim.clone().or_else(|| want.outline.clone()) else { return };
        if !outline.holds(index, &bytes) {
            return self.fail(node, Fault::WrongBytes { blob }, true);
        }
        peer.gave(bytes.len() as u64);
        self.progress = Some(self.now);
        if claim.is_some() {
            return self.resume(blob, outline, Some(bytes));
        }
        want.received = index.saturating_add(1);
        self.out.push_back(Output::Write { blob, offset: outline.range(index).start, bytes });
        self.end_if_all_is_here(blob);
    }

    /// Writes the last piece if all others have come before it, and frees the holder of a blob that
    /// has come whole.
    fn end_if_all_is_here(&mut self, blob: Digest) {
        let Some(want) = self.wants.get_mut(&blob) else { return };
        if let (Some(outline), Some(bytes)) = (want.outline.clone(), want.take_tail()) {
            let offset = outline.range(want.received).start;
            want.received = want.received.saturating_add(1);
            self.out.push_back(Output::Write { blob, offset, bytes });
        }
        if want.has_all()
            && let Some(peer) = want.from.take().and_then(|node| self.holders.get_mut(&node))
        {
            peer.task = None;
        }
    }

    fn on_refused(&mut self, node: NodeId, blob: Digest, why: BlobRefusal) {
        match why {
            BlobRefusal::Busy => {
                let is_at_it = |peer: &Peer| peer.is_at(&blob);
                if self.holders.get(&node).is_some_and(is_at_it) {
                    self.fail(node, Fault::Refused(why), true);
                }
            }
            BlobRefusal::NotHeld | BlobRefusal::NoSuchPiece | BlobRefusal::Spent => {
                self.on_lacking(node, blob, Fault::Refused(why));
            }
        }
    }

    /// A holder does not give a blob, now or later. Of several questions each is refused by itself;
    /// the first refusal ends the task.
    fn on_lacking(&mut self, node: NodeId, blob: Digest, fault: Fault) {
        let Some(peer) = self.holders.get_mut(&node).filter(|peer| peer.is_at(&blob)) else {
            return;
        };
        (peer.task, peer.fault) = (None, Some(fault));
        peer.lacks.insert(blob);
        self.holders.judge_again();
        self.free(Some(blob));
    }

    fn on_resumed(&mut self, blob: Digest, count: u64) {
        let Some(want) = self.wants.get_mut(&blob) else { return };
        let Some(outline) = &want.outline else { return };
        let count = count.min(outline.count());
        (want.is_resumed, want.received, want.written) = (true, count, count);
        let bytes = outline.len().min(count.saturating_mul(pieces::PIECE_BYTES));
        self.out.push_back(Output::Event(Event::Progress { bytes }));
        self.end_if_all_is_here(blob);
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
        if self.wants.get(&blob).is_some_and(|want| Some(want.written) == want.count()) {
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
        let late = |peer: &Peer| peer.deadline().is_some_and(|deadline| deadline <= now);
        let late = self.holders.iter().filter(|(_, peer)| late(peer)).map(|(node, _)| node);
        for node in late.collect::<Vec<_>>() {
            self.fail(node, Fault::Stalled, true);
        }
    }

    fn send(&mut self, node: NodeId, question: ToHolder) {
        let (Some(peer), Ok(wire)) = (self.holders.get_mut(&node), question.to_wire()) else {
            return;
        };
        if peer.questions.is_empty() {
            peer.since = self.now;
        }
        peer.questions.push_back(question);
        self.out.push_back(Output::Send { node, wire });
    }

    fn look_for_the_end(&mut self) {
        let lost = self
            .wants
            .iter()
            .find(|(blob, want)| want.needs_holder() && !self.holders.may_have(blob));
        let late = self.progress.map(|progress| progress.after(limits::BLOB_PATIENCE_US));
        let is_late = late.is_some_and(|late| late <= self.now);
        let unstored = self.wants.iter().find(|(_, want)| !want.is_stored);
        let end = lost.map(|(blob, _)| (*blob, false));
        let end = end.or_else(|| unstored.filter(|_| is_late).map(|(blob, _)| (*blob, true)));
        if let Some((blob, is_late)) = end {
            self.given_up = Some(GivenUp { blob, is_late, faults: self.holders.faults() });
        }
        if self.outcome().is_some() {
            let open = self.holders.iter().filter(|(_, peer)| peer.link == Link::Open);
            let close = |(node, _)| Output::Close { node, is_fault: false };
            self.out.extend(open.map(close));
        }
    }
}

/// Returns whether a frame answers a question: what was asked for, or a refusal of it.
fn is_answer(question: &ToHolder, frame: &FromHolder) -> bool {
    let (ToHolder::Outline { blob: asked } | ToHolder::Piece { blob: asked, .. }) = question;
    match (question, frame) {
        (ToHolder::Outline { .. }, FromHolder::Outline { blob, .. })
        | (_, FromHolder::Refused { blob, .. }) => blob == asked,
        (ToHolder::Piece { index: at, .. }, FromHolder::Piece { blob, index, .. }) => {
            blob == asked && index == at
        }
        (ToHolder::Piece { .. }, FromHolder::Outline { .. })
        | (ToHolder::Outline { .. }, FromHolder::Piece { .. }) => false,
    }
}
