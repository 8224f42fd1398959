//! The machine that gives blobs to those who fetch them.
//!
//! It shares the blobs of one model and nothing else of the machine's. Links on which something is
//! asked take turns, and with a cap on the uplink the next piece leaves only when the last one had
//! its time on the line, so that the states of sessions find room there. Limits are on the links
//! that are served at once, of all nodes and of each, on the questions that wait on a link, and on
//! the bytes that a node gets in some hours. A link keeps its place among those that are served for
//! as long as it takes bytes: questions that are refused, and answers that are not taken, keep
//! none. The files belong to the driver.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lockstep_exact::digest::Digest;
use lockstep_exact::pieces::{self, Outline, PIECE_BYTES};
use lockstep_verify::sign::NodeId;

use crate::frame::{BlobRefusal, Frame as _, FromHolder, ToHolder};
use crate::limits;
use crate::now::Now;

/// The number that the driver gives a link; none is used again.
pub type LinkNumber = u64;

/// An input of the machine.
#[derive(Debug)]
pub enum Input {
    /// A node has opened a link.
    Opened {
        /// The number of the link.
        link: LinkNumber,
        /// The node, which the transport has authenticated.
        peer: NodeId,
    },
    /// A frame's body came on a link.
    Frame {
        /// The number of the link.
        link: LinkNumber,
        /// The body of the frame.
        body: Vec<u8>,
    },
    /// The outline that [`Output::Outline`] wanted; none if the blob is not there or damaged.
    Outlined {
        /// The number of the link.
        link: LinkNumber,
        /// The outline.
        outline: Option<Outline>,
    },
    /// The bytes that [`Output::Read`] wanted; none if they can't be read.
    Read {
        /// The number of the link.
        link: LinkNumber,
        /// The bytes of the piece.
        bytes: Option<Vec<u8>>,
    },
    /// The last frame that this machine wanted sent on the link has left.
    Sent(LinkNumber),
    /// A link has ended: its node closed it, or is gone.
    Lost(LinkNumber),
    /// The time of the deadline has come.
    Tick,
}

/// An output of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Compute the outline of a blob, and say [`Input::Outlined`].
    Outline {
        /// The number of the link.
        link: LinkNumber,
        /// The digest of the blob.
        blob: Digest,
    },
    /// Read a piece of a blob, and say [`Input::Read`].
    Read {
        /// The number of the link.
        link: LinkNumber,
        /// The digest of the blob.
        blob: Digest,
        /// The place of the piece in the blob, in bytes.
        offset: u64,
        /// The length of the piece in bytes.
        len: u64,
    },
    /// Send a frame, and say [`Input::Sent`] when it has left.
    Send {
        /// The number of the link.
        link: LinkNumber,
        /// Length and body.
        wire: Vec<u8>,
    },
    /// Close a link on which nothing more is answered.
    Close {
        /// The number of the link.
        link: LinkNumber,
        /// Whether the node sent what no node sends.
        is_fault: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    /// A question waits for its turn, or the file for its reader.
    Due(ToHolder),
    Reading(ToHolder),
    Sending,
}

#[derive(Debug)]
struct Upload {
    peer: NodeId,
    questions: VecDeque<ToHolder>,
    stage: Stage,
    /// Whether it is one of those that are served.
    has_place: bool,
    /// Whether it was, and lost its place because it took too little.
    had_place: bool,
    /// The time until which it keeps its place if it takes no more bytes.
    kept_until: Now,
    /// The time at which the question was taken up that is being answered.
    asked: Now,
    /// Bytes of a blob in the frame that is being sent; 0 in a refusal.
    sending: u64,
    /// The last time that something came or left for the stage to change.
    since: Now,
    /// The last time that bytes of a blob have left; when the link was opened if none have.
    moved: Now,
}

impl Upload {
    const fn new(peer: NodeId, now: Now) -> Self {
        Self {
            peer,
            questions: VecDeque::new(),
            stage: Stage::Idle,
            has_place: false,
            had_place: false,
            kept_until: now,
            asked: now,
            sending: 0,
            since: now,
            moved: now,
        }
    }

    /// Returns whether its place is free for another link. What this machine takes to answer is no
    /// fault of the other end's.
    fn is_quiet(&self, now: Now) -> bool {
        let is_served = matches!(self.stage, Stage::Due(_) | Stage::Reading(_));
        !is_served && self.kept_until <= now
    }

    /// Takes note that the last frame has left.
    fn sent(&mut self, now: Now) {
        (self.stage, self.since) = (Stage::Idle, now);
        let bytes = core::mem::take(&mut self.sending);
        if bytes > 0 {
            let worth = bytes.min(limits::BLOB_PLACE_BYTES).saturating_mul(limits::BLOB_PLACE_US);
            let kept = self.kept_until.max(now).after(worth / limits::BLOB_PLACE_BYTES);
            self.kept_until = kept.min(now.after(limits::BLOB_PLACE_US));
            self.moved = now;
        }
    }

    /// Takes note that a frame with so many bytes of a blob is sent.
    fn sends(&mut self, bytes: u64, now: Now) {
        if bytes > 0 {
            self.kept_until = self.kept_until.after(now.since(self.asked));
        }
        (self.stage, self.sending, self.since) = (Stage::Sending, bytes, now);
    }
}

/// The bytes that a node may still get, as of a time.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    bytes: u64,
    since: Now,
}

/// The machine that gives blobs, driven as every [`Machine`](crate::machine::Machine).
#[derive(Debug)]
pub struct Uploads {
    /// The blobs that are shared, with their lengths.
    shared: BTreeMap<Digest, u64>,
    bytes_per_s: Option<u64>,
    allowances: BTreeMap<NodeId, Allowance>,
    links: BTreeMap<LinkNumber, Upload>,
    /// Links with a question, in the order of their turns.
    turns: VecDeque<LinkNumber>,
    /// The time from which the line is free again.
    line_free: Now,
    /// The time until which a place that is free goes to a link that had none first: one was
    /// refused for want of a place.
    wanted_until: Now,
    now: Now,
    out: VecDeque<Output>,
}

impl Uploads {
    /// Creates the machine that shares blobs of these digests and lengths, and sends
    /// `bytes_per_s` at most, if that is given.
    #[must_use]
    pub fn new(shared: BTreeMap<Digest, u64>, bytes_per_s: Option<u64>) -> Self {
        Self {
            shared,
            bytes_per_s,
            allowances: BTreeMap::new(),
            links: BTreeMap::new(),
            turns: VecDeque::new(),
            line_free: Now::default(),
            wanted_until: Now::default(),
            now: Now::default(),
            out: VecDeque::new(),
        }
    }

    /// Takes an input at the time `now`. An earlier time than that of the last call counts as that.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.now = self.now.max(now);
        let now = self.now;
        match input {
            Input::Opened { link, peer } => {
                self.links.insert(link, Upload::new(peer, now));
            }
            Input::Frame { link, body } => self.on_frame(link, &body),
            Input::Outlined { link, outline } => self.on_outlined(link, outline),
            Input::Read { link, bytes } => self.on_read(link, bytes),
            Input::Sent(link) => {
                if let Some(upload) = self.links.get_mut(&link) {
                    upload.sent(now);
                }
                self.next_question(link);
            }
            Input::Lost(link) => {
                self.links.remove(&link);
            }
            Input::Tick => {}
        }
        self.on_time();
        self.take_turns();
    }

    /// Returns the next output; `None` when the machine waits for an input.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Returns the time at which [`Input::Tick`] must come, if nothing else does.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        let idle = self.links.values().map(idle_until).min();
        let turn = (!self.turns.is_empty()).then_some(self.line_free);
        [idle, turn].into_iter().flatten().min()
    }

    fn on_frame(&mut self, link: LinkNumber, body: &[u8]) {
        let Some(upload) = self.links.get_mut(&link) else { return };
        let Ok(question) = ToHolder::from_body(body) else {
            return self.close(link, true);
        };
        if upload.questions.len() >= limits::BLOB_QUESTIONS {
            return self.close(link, true);
        }
        upload.questions.push_back(question);
        if upload.stage == Stage::Idle {
            self.next_question(link);
        }
    }

    /// Takes up the next question of a link that does nothing.
    fn next_question(&mut self, link: LinkNumber) {
        let Some(upload) = self.links.get_mut(&link).filter(|one| one.stage == Stage::Idle) else {
            return;
        };
        let Some(question) = upload.questions.pop_front() else { return };
        let (blob, peer) = (blob_of(&question), upload.peer);
        let refusal = self.refusal(link, peer, &question);
        if let Some(why) = refusal {
            return self.send(link, &FromHolder::Refused { blob, why });
        }
        if let Some(upload) = self.links.get_mut(&link) {
            (upload.stage, upload.asked) = (Stage::Due(question), self.now);
        }
        self.turns.push_back(link);
    }

    /// Returns why a question is refused, if it is.
    fn refusal(
        &mut self,
        link: LinkNumber,
        peer: NodeId,
        question: &ToHolder,
    ) -> Option<BlobRefusal> {
        let Some(&len) = self.shared.get(&blob_of(question)) else {
            return Some(BlobRefusal::NotHeld);
        };
        if let ToHolder::Piece { index, .. } = question
            && u64::from(*index) >= pieces::count(len)
        {
            return Some(BlobRefusal::NoSuchPiece);
        }
        if pieces::count(len) > limits::BLOB_PIECES as u64 {
            return Some(BlobRefusal::NotHeld);
        }
        // Who gets nothing takes no place.
        if self.allowance(peer) < PIECE_BYTES {
            return Some(BlobRefusal::Spent);
        }
        (!self.has_place(link, peer)).then_some(BlobRefusal::Busy)
    }

    /// Returns whether a link is one of those that are served; one that is not becomes one if there
    /// is room. One that has not taken enough to keep its place does so too, unless another link
    /// was refused.
    fn has_place(&mut self, link: LinkNumber, peer: NodeId) -> bool {
        let now = self.now;
        for upload in self.links.values_mut().filter(|one| one.has_place && one.is_quiet(now)) {
            (upload.has_place, upload.had_place) = (false, true);
        }
        let served = || self.links.values().filter(|one| one.has_place);
        let of_peer = served().filter(|one| one.peer == peer).count();
        let room = limits::BLOB_UPLOADS.saturating_sub(served().count());
        let Some(own) = self.links.get_mut(&link) else { return false };
        if own.has_place {
            return true;
        }
        if room == 0 {
            self.wanted_until = now.after(limits::BLOB_PLACE_US);
        }
        let is_for_another = room == 1 && own.had_place && now < self.wanted_until;
        if room == 0 || of_peer >= limits::BLOB_UPLOADS_OF_PEER || is_for_another {
            return false;
        }
        (own.has_place, own.had_place) = (true, false);
        own.kept_until = now.after(limits::BLOB_PLACE_US);
        true
    }

    /// Returns the bytes that all shared blobs have.
    fn package_bytes(&self) -> u64 {
        self.shared.values().fold(0, |sum: u64, len| sum.saturating_add(*len))
    }

    /// Returns the bytes that a node may still get now.
    fn allowance(&mut self, peer: NodeId) -> u64 {
        let most = self.package_bytes().saturating_mul(limits::BLOB_PACKAGES_OF_PEER);
        // Small packages have room for outlines and repetitions too.
        let most = most.max(64 * PIECE_BYTES);
        if self.allowances.len() >= limits::BLOB_PEERS_COUNTED
            && !self.allowances.contains_key(&peer)
        {
            // The one that has got least loses least by being forgotten.
            let least = self.allowances.iter().max_by_key(|(_, one)| one.bytes);
            if let Some(node) = least.map(|(node, _)| *node) {
                self.allowances.remove(&node);
            }
        }
        let now = self.now;
        let allowance =
            self.allowances.entry(peer).or_insert(Allowance { bytes: most, since: now });
        let refill = u128::from(now.since(allowance.since)).saturating_mul(u128::from(most))
            / u128::from(limits::BLOB_REFILL_US);
        if refill > 0 {
            // default: more than fits is more than all
            let refill = u64::try_from(refill).unwrap_or(u64::MAX);
            allowance.bytes = allowance.bytes.saturating_add(refill).min(most);
            allowance.since = now;
        }
        allowance.bytes
    }

    /// Lets links have their turns for as long as the line is free.
    fn take_turns(&mut self) {
        while self.line_free <= self.now {
            let Some(link) = self.turns.pop_front() else { return };
            let Some(upload) = self.links.get_mut(&link) else { continue };
            let Stage::Due(question) = upload.stage else { continue };
            (upload.stage, upload.since) = (Stage::Reading(question), self.now);
            let peer = upload.peer;
            let blob = blob_of(&question);
            // default: what is not shared has been refused
            let len = self.shared.get(&blob).copied().unwrap_or(0);
            let bytes = match question {
                ToHolder::Outline { .. } => {
                    self.out.push_back(Output::Outline { link, blob });
                    pieces::count(len).saturating_mul(32)
                }
                ToHolder::Piece { index, .. } => {
                    let offset = u64::from(index).saturating_mul(PIECE_BYTES);
                    let len = len.saturating_sub(offset).min(PIECE_BYTES);
                    self.out.push_back(Output::Read { link, blob, offset, len });
                    len
                }
            };
            if let Some(allowance) = self.allowances.get_mut(&peer) {
                allowance.bytes = allowance.bytes.saturating_sub(bytes);
            }
            let on_line = self
                .bytes_per_s
                .map_or(0, |rate| bytes.saturating_mul(1_000_000).div_ceil(rate.max(1)));
            self.line_free = self.now.after(on_line);
        }
    }

    fn on_outlined(&mut self, link: LinkNumber, outline: Option<Outline>) {
        let Some(question) = self.read(link) else { return };
        let blob = blob_of(&question);
        let frame = match outline {
            Some(outline) => {
                FromHolder::Outline { blob, len: outline.len(), values: outline.values().to_vec() }
            }
            None => FromHolder::Refused { blob, why: BlobRefusal::NotHeld },
        };
        self.send(link, &frame);
    }

    fn on_read(&mut self, link: LinkNumber, bytes: Option<Vec<u8>>) {
        let Some(question) = self.read(link) else { return };
        let blob = blob_of(&question);
        let frame = match (bytes, question) {
            (Some(bytes), ToHolder::Piece { index, .. }) => {
                FromHolder::Piece { blob, index, bytes }
            }
            (Some(_), ToHolder::Outline { .. }) | (None, _) => {
                FromHolder::Refused { blob, why: BlobRefusal::NotHeld }
            }
        };
        self.send(link, &frame);
    }

    /// Returns the question for which a file was read.
    fn read(&self, link: LinkNumber) -> Option<ToHolder> {
        match self.links.get(&link)?.stage {
            Stage::Reading(question) => Some(question),
            Stage::Idle | Stage::Due(_) | Stage::Sending => None,
        }
    }

    fn send(&mut self, link: LinkNumber, frame: &FromHolder) {
        let Ok(wire) = frame.to_wire() else { return self.close(link, false) };
        let bytes = match frame {
            FromHolder::Outline { .. } | FromHolder::Piece { .. } => wire.len() as u64,
            FromHolder::Refused { .. } => 0,
        };
        if let Some(upload) = self.links.get_mut(&link) {
            upload.sends(bytes, self.now);
            self.out.push_back(Output::Send { link, wire });
        }
    }

    fn close(&mut self, link: LinkNumber, is_fault: bool) {
        if self.links.remove(&link).is_some() {
            self.out.push_back(Output::Close { link, is_fault });
        }
    }

    fn on_time(&mut self) {
        let now = self.now;
        let idle = self.links.iter().filter(|(_, upload)| idle_until(upload) <= now);
        for link in idle.map(|(link, _)| *link).collect::<BTreeSet<_>>() {
            self.close(link, false);
        }
    }
}

/// Returns when a link is closed if no bytes of blobs leave on it: of one that is sent to or read
/// for, since that began. A turn that has not come is no fault of the other end's.
fn idle_until(upload: &Upload) -> Now {
    match upload.stage {
        Stage::Idle => upload.moved.after(limits::BLOB_IDLE_US),
        Stage::Sending if upload.sending == 0 => upload.moved.after(limits::BLOB_IDLE_US),
        Stage::Sending | Stage::Reading(_) => upload.since.after(limits::BLOB_IDLE_US),
        Stage::Due(_) => Now(u64::MAX),
    }
}

const fn blob_of(question: &ToHolder) -> Digest {
    match question {
        ToHolder::Outline { blob } | ToHolder::Piece { blob, .. } => *blob,
    }
}
