//! One node that fetches blobs in virtual time, and holders that are honest or not.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::digest::Digest;
use lockstep_exact::pieces::{Outline, PIECE_BYTES};
use lockstep_proto::frame::{BlobRefusal, Frame as _, FromHolder, ToHolder};
use lockstep_proto::limits;
use lockstep_proto::now::Now;
use lockstep_proto::swarm::fetch::{self, Event, Fault, Fetch, GivenUp, Holder, Length, Wanted};
use lockstep_proto::swarm::uploads::{self, Uploads};
use lockstep_verify::sign::NodeId;

const START: Now = Now(5_000_000_000_000);
const LATENCY_US: u64 = 10_000;
/// What a holder of ordinary speed sends: 10 MB/s.
const US_PER_BYTE_X1000: u64 = 100;

/// The bytes of blob number `number`.
pub(crate) fn blob(number: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 255 + number * 13) as u8).collect()
}

/// The node id of holder number `number`.
pub(crate) fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

/// What a holder does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Honest,
    FlipsPiece(u32),
    Truncates,
    Lengthens,
    WrongOutline,
    LongOutline,
    WrongLength,
    Reorders,
    OtherBlob,
    Garbage,
    Endless,
    RepeatsOutline,
    Silent,
    SilentAfter(u32),
    LostAfter(u32),
    Unreachable,
    NoDial,
    /// So many times as slow as the others.
    Slow(u64),
    Refuses(BlobRefusal),
    /// It does not have this blob, and says so with this.
    Lacks(u64, BlobRefusal),
    /// Its outline has one value, the digest, and the length of one piece.
    ClaimsOnePiece,
    /// The same, and then it is gone.
    ClaimsOnePieceAndLeaves,
    /// It says that blobs are this much shorter, and sends that.
    ClaimsShorter(u64),
    /// It says that blobs are longer than any may be.
    ClaimsTooLong,
    /// It refuses another blob than the one that it was asked for, and says nothing else.
    RefusesAnother,
    /// It refuses every third piece, and answers what was asked behind it.
    RefusesThird,
    /// Each answer comes just in time.
    Drips,
    /// It takes this time in microseconds to make an outline.
    Hashes(u64),
    /// It drips, after so many answers that come at once.
    DripsAfter(u32),
    /// It sends pieces when nobody has asked for any.
    Pushes,
    /// It sends right pieces on its first link, drops it, and wrong ones on the next.
    Switches,
}

struct Peer {
    behaviour: Behaviour,
    /// What an honest one does, and what the others begin with.
    uploads: Uploads,
    answers: u32,
    line_free: Now,
    /// Pieces on their way, by blob.
    given: BTreeMap<u64, u64>,
    address: String,
    /// The links that it has had.
    links: u32,
}

enum Arrival {
    AtHolder(NodeId, u64, Vec<u8>),
    AtFetch(fetch::Input),
    /// A frame of a holder that comes only if the link is still open.
    FromHolder(NodeId, u64, Vec<u8>),
    LostBy(NodeId, u64),
    /// The holder's own clock.
    HolderTick(NodeId),
    Join(NodeId),
}

pub(crate) struct World {
    lengths: Vec<u64>,
    bytes: Vec<Vec<u8>>,
    digests: Vec<Digest>,
    unknown: BTreeMap<u64, u64>,
    peers: BTreeMap<NodeId, Peer>,
    announced: BTreeMap<NodeId, Range<u64>>,
    later: BTreeMap<NodeId, u64>,
    /// The disk: what is written of each blob.
    files: BTreeMap<Digest, Vec<u8>>,
    stored: BTreeSet<Digest>,
    links: BTreeMap<NodeId, u64>,
    next_link: u64,
    now: Now,
    arrivals: BTreeMap<(Now, u64), Arrival>,
    put: u64,
    seed: u64,
    dropped: Vec<(NodeId, Fault)>,
    /// Time that the disk takes for each piece.
    pub(crate) disk_us: u64,
    disk_free: Now,
    unwritten: usize,
    most_unwritten: usize,
    most_at_once: usize,
}

impl World {
    pub(crate) fn new(seed: u64, lengths: &[u64]) -> Self {
        let numbers = 0..lengths.len() as u64;
        let bytes: Vec<_> = numbers.zip(lengths).map(|(number, len)| blob(number, *len)).collect();
        Self {
            lengths: lengths.to_vec(),
            digests: bytes.iter().map(|bytes| Digest::of(bytes)).collect(),
            bytes,
            unknown: BTreeMap::new(),
            peers: BTreeMap::new(),
            announced: BTreeMap::new(),
            later: BTreeMap::new(),
            files: BTreeMap::new(),
            stored: BTreeSet::new(),
            links: BTreeMap::new(),
            next_link: 0,
            now: START,
            arrivals: BTreeMap::new(),
            put: 0,
            seed,
            dropped: Vec::new(),
            disk_us: 100,
            disk_free: START,
            unwritten: 0,
            most_unwritten: 0,
            most_at_once: 0,
        }
    }

    fn blob(&self, number: u64) -> &[u8] {
        &self.bytes[number as usize]
    }

    fn digest(&self, number: u64) -> Digest {
        self.digests[number as usize]
    }

    fn number_of(&self, digest: Digest) -> u64 {
        let mut numbers = 0..self.lengths.len() as u64;
        numbers.find(|number| self.digest(*number) == digest).expect("a blob of this world")
    }

    pub(crate) fn add(&mut self, number: u8, behaviour: Behaviour) -> NodeId {
        let shared = (0..self.lengths.len() as u64)
            .map(|number| (self.digest(number), self.lengths[number as usize]));
        let peer = Peer {
            behaviour,
            uploads: Uploads::new(shared.collect(), None),
            answers: 0,
            line_free: START,
            given: BTreeMap::new(),
            address: format!("192.0.2.{number}:1"),
            links: 0,
        };
        let node = node(number);
        self.peers.insert(node, peer);
        self.announced.insert(node, 0..self.lengths.len() as u64);
        node
    }

    /// A holder that is known only after some time.
    pub(crate) fn add_later(&mut self, number: u8, behaviour: Behaviour, after_us: u64) -> NodeId {
        let node = self.add(number, behaviour);
        self.later.insert(node, after_us);
        node
    }

    /// A holder announces another address than its own.
    pub(crate) fn is_at(&mut self, node: NodeId, address: &str) {
        self.peers.get_mut(&node).expect("added").address = address.to_owned();
    }

    pub(crate) fn cap(&mut self, node: NodeId, bytes_per_s: u64) {
        let shared = (0..self.lengths.len() as u64)
            .map(|number| (self.digest(number), self.lengths[number as usize]));
        let uploads = Uploads::new(shared.collect(), Some(bytes_per_s));
        self.peers.get_mut(&node).expect("added").uploads = uploads;
    }

    pub(crate) fn announces(&mut self, node: NodeId, blobs: Range<u64>) {
        self.announced.insert(node, blobs);
    }

    pub(crate) fn of_unknown_length(&mut self, number: u64, most: u64) {
        self.unknown.insert(number, most);
    }

    /// The disk has the first pieces of a blob already, one of them wrong if that is said.
    pub(crate) fn left_by_an_earlier_fetch(
        &mut self,
        number: u64,
        pieces: u64,
        wrong: Option<u64>,
    ) {
        let mut bytes = self.blob(number).to_vec();
        bytes.truncate((pieces * PIECE_BYTES) as usize);
        if let Some(wrong) = wrong {
            bytes[(wrong * PIECE_BYTES) as usize] ^= 1;
        }
        self.files.insert(self.digest(number), bytes);
    }

    fn holder(&self, node: NodeId) -> Holder {
        let likely = self.announced[&node].clone().map(|number| self.digest(number)).collect();
        let address = self.peers[&node].address.clone();
        Holder { node, address, likely: Arc::new(likely) }
    }

    fn at(&mut self, after_us: u64, arrival: Arrival) {
        self.put += 1;
        self.arrivals.insert((self.now.after(after_us), self.put), arrival);
    }

    /// Runs a fetch of all blobs to its end.
    pub(crate) fn run(&mut self) -> Result<(), GivenUp> {
        let numbers = 0..self.lengths.len() as u64;
        let wanted = numbers.map(|number| Wanted {
            blob: self.digest(number),
            len: match self.unknown.get(&number) {
                Some(most) => Length::AtMost(*most),
                None => Length::Exactly(self.lengths[number as usize]),
            },
        });
        let wanted: Vec<Wanted> = wanted.collect();
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        let known = nodes.iter().filter(|node| !self.later.contains_key(node));
        let holders = known.map(|node| self.holder(*node)).collect();
        for (node, after_us) in self.later.clone() {
            self.at(after_us, Arrival::Join(node));
        }
        let mut fetch = Fetch::new(&wanted, holders, self.seed);
        fetch.handle(self.now, fetch::Input::Tick);
        for _ in 0..2_000_000 {
            while let Some(output) = fetch.poll() {
                self.perform(output);
            }
            if let Some(outcome) = fetch.outcome() {
                return outcome.map_err(Clone::clone);
            }
            let next = self.arrivals.keys().next().copied();
            let deadline = fetch.deadline().expect("a fetch that goes on has a deadline");
            match next.filter(|(at, _)| *at <= deadline) {
                Some(key) => {
                    self.now = self.now.max(key.0);
                    let arrival = self.arrivals.remove(&key).expect("it is there");
                    self.arrive(&mut fetch, arrival);
                }
                None => {
                    self.now = self.now.max(deadline);
                    fetch.handle(self.now, fetch::Input::Tick);
                }
            }
        }
        panic!("the fetch does not end");
    }

    fn perform(&mut self, output: fetch::Output) {
        match output {
            fetch::Output::Dial { node, .. } => self.dial(node),
            fetch::Output::Send { node, wire } => {
                if let Some(&link) = self.links.get(&node) {
                    let body = wire[limits::LENGTH_BYTES..].to_vec();
                    self.at(LATENCY_US, Arrival::AtHolder(node, link, body));
                }
            }
            fetch::Output::Close { node, .. } => {
                if let Some(link) = self.links.remove(&node) {
                    self.at(LATENCY_US, Arrival::LostBy(node, link));
                }
            }
            fetch::Output::Resume { blob, outline } => {
                let file = self.files.entry(blob).or_default();
                let range = |index| outline.range(index);
                let is_right = |index: &u64| {
                    let range = range(*index);
                    let piece = file.get(range.start as usize..range.end as usize);
                    piece.is_some_and(|piece| outline.holds(*index, piece))
                };
                let pieces = (0..outline.count()).take_while(is_right).count() as u64;
                file.truncate((pieces * PIECE_BYTES) as usize);
                self.at(self.disk_us, Arrival::AtFetch(fetch::Input::Resumed { blob, pieces }));
            }
            fetch::Output::Write { blob, offset, bytes } => {
                let file = self.files.get_mut(&blob).expect("resumed");
                assert_eq!(file.len() as u64, offset, "pieces are written in order");
                file.extend(bytes);
                self.unwritten += 1;
                self.most_unwritten = self.most_unwritten.max(self.unwritten);
                self.disk_free = self.disk_free.max(self.now).after(self.disk_us);
                let after = self.disk_free.since(self.now);
                self.at(after, Arrival::AtFetch(fetch::Input::Written(blob)));
            }
            fetch::Output::Finish(blob) => {
                assert_eq!(Digest::of(&self.files[&blob]), blob, "what is finished is right");
                self.stored.insert(blob);
                self.at(self.disk_us, Arrival::AtFetch(fetch::Input::Stored(blob)));
            }
            fetch::Output::Event(Event::Dropped { node, why }) => self.dropped.push((node, why)),
            fetch::Output::Event(Event::Progress { .. }) => {}
        }
    }

    fn dial(&mut self, node: NodeId) {
        match self.peers[&node].behaviour {
            Behaviour::Unreachable => {
                self.at(2 * LATENCY_US, Arrival::AtFetch(fetch::Input::Lost(node)));
            }
            Behaviour::NoDial => {}
            _ => {
                self.next_link += 1;
                let link = self.next_link;
                self.links.insert(node, link);
                let peer = self.peers.get_mut(&node).expect("added");
                peer.links += 1;
                let opened = uploads::Input::Opened { link, peer: NodeId([200; 32]) };
                peer.uploads.handle(self.now, opened);
                self.at(2 * LATENCY_US, Arrival::AtFetch(fetch::Input::Connected(node)));
                if self.peers[&node].behaviour == Behaviour::Pushes {
                    let (blob, bytes) = (self.digest(0), self.blob(0).to_vec());
                    let peer = self.peers.get_mut(&node).expect("added");
                    peer.line_free = self.now.after(2 * LATENCY_US);
                    self.send(node, link, FromHolder::Piece { blob, index: 0, bytes });
                }
            }
        }
    }

    fn arrive(&mut self, fetch: &mut Fetch, arrival: Arrival) {
        match arrival {
            Arrival::AtFetch(input) => {
                match &input {
                    fetch::Input::Written(_) => self.unwritten -= 1,
                    fetch::Input::Lost(node) => drop(self.links.remove(node)),
                    _ => {}
                }
                fetch.handle(self.now, input);
            }
            Arrival::FromHolder(node, link, body) if self.links.get(&node) == Some(&link) => {
                fetch.handle(self.now, fetch::Input::Frame { node, body });
            }
            Arrival::FromHolder(..) => {}
            Arrival::Join(node) => {
                fetch.handle(self.now, fetch::Input::Holders(vec![self.holder(node)]));
            }
            Arrival::AtHolder(node, link, body) if self.links.get(&node) == Some(&link) => {
                self.most_at_once = self.most_at_once.max(self.links.len());
                self.asked(node, link, body);
            }
            Arrival::AtHolder(..) => {}
            Arrival::LostBy(node, link) => {
                let peer = self.peers.get_mut(&node).expect("added");
                peer.uploads.handle(self.now, uploads::Input::Lost(link));
                self.serve(node);
            }
            Arrival::HolderTick(node) => {
                let peer = self.peers.get_mut(&node).expect("added");
                peer.uploads.handle(self.now, uploads::Input::Tick);
                self.serve(node);
            }
        }
    }

    fn asked(&mut self, node: NodeId, link: u64, body: Vec<u8>) {
        let peer = &self.peers[&node];
        let question = ToHolder::from_body(&body).expect("our own frame");
        let (blob, is_third) = match question {
            ToHolder::Outline { blob } => (blob, false),
            ToHolder::Piece { blob, index } => (blob, index % 3 == 2),
        };
        match peer.behaviour {
            Behaviour::Silent => return,
            Behaviour::SilentAfter(count) if peer.answers >= count => return,
            Behaviour::LostAfter(count) if peer.answers >= count => {
                // Behind everything that is on its way.
                let after = peer.line_free.max(self.now).since(self.now) + LATENCY_US;
                return self.at(after, Arrival::AtFetch(fetch::Input::Lost(node)));
            }
            Behaviour::Refuses(why) => {
                return self.send(node, link, FromHolder::Refused { blob, why });
            }
            Behaviour::Lacks(number, why) if self.number_of(blob) == number => {
                return self.send(node, link, FromHolder::Refused { blob, why });
            }
            Behaviour::RefusesAnother => {
                let (blob, why) = (Digest([3; 32]), BlobRefusal::NotHeld);
                return self.send(node, link, FromHolder::Refused { blob, why });
            }
            Behaviour::RefusesThird if is_third => {
                let why = BlobRefusal::Spent;
                return self.send(node, link, FromHolder::Refused { blob, why });
            }
            Behaviour::ClaimsOnePieceAndLeaves if peer.answers >= 1 => {
                return self.at(LATENCY_US, Arrival::AtFetch(fetch::Input::Lost(node)));
            }
            Behaviour::Switches if peer.links == 1 && peer.answers >= 3 => {
                let after = peer.line_free.max(self.now).since(self.now) + LATENCY_US;
                return self.at(after, Arrival::AtFetch(fetch::Input::Lost(node)));
            }
            _ => {}
        }
        let peer = self.peers.get_mut(&node).expect("added");
        peer.answers += 1;
        peer.uploads.handle(self.now, uploads::Input::Frame { link, body });
        self.serve(node);
    }

    /// Does what a holder's machine wants, and what that holder makes of it.
    fn serve(&mut self, node: NodeId) {
        loop {
            let peer = self.peers.get_mut(&node).expect("added");
            let Some(output) = peer.uploads.poll() else { break };
            match output {
                uploads::Output::Outline { link, blob } => {
                    let outline = Some(Outline::of(self.blob(self.number_of(blob))));
                    let input = uploads::Input::Outlined { link, outline };
                    self.peers.get_mut(&node).expect("added").uploads.handle(self.now, input);
                }
                uploads::Output::Read { link, blob, offset, len } => {
                    let bytes = self.blob(self.number_of(blob));
                    let piece = bytes[offset as usize..(offset + len) as usize].to_vec();
                    let input = uploads::Input::Read { link, bytes: Some(piece) };
                    self.peers.get_mut(&node).expect("added").uploads.handle(self.now, input);
                }
                uploads::Output::Send { link, wire } => {
                    let frame = FromHolder::from_body(&wire[limits::LENGTH_BYTES..]);
                    let frame = frame.expect("our own frame");
                    if self.links.get(&node) == Some(&link) {
                        self.change_and_send(node, link, frame);
                    }
                    let peer = self.peers.get_mut(&node).expect("added");
                    peer.uploads.handle(self.now, uploads::Input::Sent(link));
                }
                uploads::Output::Close { link, .. } => {
                    assert!(self.links.get(&node) != Some(&link), "an honest fetch is closed");
                }
            }
        }
        if let Some(deadline) = self.peers[&node].uploads.deadline() {
            let after = deadline.since(self.now);
            // Links that only grow old are closed long after these tests.
            if after < limits::BLOB_IDLE_US / 2 {
                self.at(after, Arrival::HolderTick(node));
            }
        }
    }

    fn change_and_send(&mut self, node: NodeId, link: u64, frame: FromHolder) {
        let behaviour = self.peers[&node].behaviour;
        let frame = change_outline(behaviour, frame);
        let mut wire = None;
        let changed = match (behaviour, frame) {
            (Behaviour::FlipsPiece(at), FromHolder::Piece { blob, index, mut bytes })
                if index >= at =>
            {
                bytes[0] ^= 1;
                FromHolder::Piece { blob, index, bytes }
            }
            (Behaviour::Truncates, FromHolder::Piece { blob, index, mut bytes }) => {
                bytes.pop();
                FromHolder::Piece { blob, index, bytes }
            }
            (Behaviour::Lengthens, FromHolder::Piece { blob, index, bytes }) => {
                // No frame can carry it: it is written by hand.
                let mut body = FromHolder::Piece { blob, index, bytes: Vec::new() }.to_bytes();
                body.truncate(body.len() - 4);
                let len = PIECE_BYTES as u32 + 1;
                body.extend(len.to_le_bytes());
                body.extend(bytes);
                body.resize(1 + 32 + 4 + 4 + len as usize, 0);
                wire = Some(body);
                FromHolder::Refused { blob, why: BlobRefusal::NotHeld }
            }
            (Behaviour::ClaimsShorter(by), FromHolder::Piece { blob, index, mut bytes }) => {
                let len = self.lengths[self.number_of(blob) as usize] - by;
                bytes.truncate((len - u64::from(index) * PIECE_BYTES) as usize);
                FromHolder::Piece { blob, index, bytes }
            }
            (Behaviour::Switches, FromHolder::Piece { blob, index, mut bytes })
                if self.peers[&node].links > 1 =>
            {
                bytes[0] ^= 1;
                FromHolder::Piece { blob, index, bytes }
            }
            (Behaviour::Reorders, FromHolder::Piece { blob, index, bytes }) => {
                FromHolder::Piece { blob, index: index + 1, bytes }
            }
            (Behaviour::OtherBlob, FromHolder::Piece { index, bytes, .. }) => {
                FromHolder::Piece { blob: Digest([3; 32]), index, bytes }
            }
            (Behaviour::Garbage, _) => {
                wire = Some(vec![77; 99]);
                FromHolder::Refused { blob: Digest::ZERO, why: BlobRefusal::NotHeld }
            }
            (Behaviour::RepeatsOutline, FromHolder::Piece { .. }) => {
                let bytes = self.blob(0);
                let values = Outline::of(bytes).values().to_vec();
                FromHolder::Outline { blob: self.digest(0), len: bytes.len() as u64, values }
            }
            (Behaviour::Endless, frame) => {
                for _ in 0..40 {
                    self.send(node, link, frame.clone());
                }
                frame
            }
            (_, frame) => frame,
        };
        match wire {
            Some(body) => self.at(LATENCY_US, Arrival::FromHolder(node, link, body)),
            None => self.send(node, link, changed),
        }
    }

    /// Puts a frame on the line of a holder.
    fn send(&mut self, node: NodeId, link: u64, frame: FromHolder) {
        let body = frame.to_wire().expect("within its limit")[limits::LENGTH_BYTES..].to_vec();
        let peer = self.peers.get_mut(&node).expect("added");
        let slowness = match peer.behaviour {
            Behaviour::Slow(times) => times,
            _ => 1,
        };
        let on_line = body.len() as u64 * US_PER_BYTE_X1000 * slowness / 1000;
        peer.line_free = peer.line_free.max(self.now).after(on_line);
        let is_dripping = match peer.behaviour {
            Behaviour::Drips => true,
            Behaviour::DripsAfter(count) => peer.answers > count,
            _ => false,
        };
        if let (Behaviour::Hashes(us), FromHolder::Outline { .. }) = (peer.behaviour, &frame) {
            peer.line_free = peer.line_free.after(us);
        }
        if is_dripping {
            peer.line_free = peer.line_free.after(limits::BLOB_STALL_US - 20 * LATENCY_US);
        }
        let after = peer.line_free.since(self.now) + LATENCY_US;
        if let FromHolder::Piece { blob, bytes, .. } = &frame
            && let Some(number) =
                (0..self.lengths.len() as u64).find(|number| self.digest(*number) == *blob)
        {
            let peer = self.peers.get_mut(&node).expect("added");
            *peer.given.entry(number).or_default() += bytes.len() as u64;
        }
        self.at(after, Arrival::FromHolder(node, link, body));
    }

    /// The bytes of pieces that a holder has sent.
    pub(crate) fn given(&self, node: NodeId) -> u64 {
        self.peers[&node].given.values().sum()
    }

    pub(crate) fn given_of(&self, node: NodeId, blobs: Range<u64>) -> u64 {
        blobs.filter_map(|number| self.peers[&node].given.get(&number)).sum()
    }

    pub(crate) fn dropped(&self) -> &[(NodeId, Fault)] {
        &self.dropped
    }

    pub(crate) fn elapsed_us(&self) -> u64 {
        self.now.since(START)
    }

    pub(crate) fn most_unwritten(&self) -> usize {
        self.most_unwritten
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.most_at_once
    }

    pub(crate) fn check_stored(&self) {
        for number in 0..self.lengths.len() as u64 {
            let digest = self.digest(number);
            assert!(self.stored.contains(&digest), "blob {number} is missing");
            assert_eq!(self.files[&digest], self.blob(number));
        }
    }

    pub(crate) fn check_no_wrong_byte(&self) {
        for (digest, file) in &self.files {
            let blob = self.blob(self.number_of(*digest));
            assert!(blob.starts_with(file.as_slice()), "a wrong byte was written");
        }
    }
}

/// What a holder makes of an outline.
fn change_outline(behaviour: Behaviour, frame: FromHolder) -> FromHolder {
    let FromHolder::Outline { blob, mut len, mut values } = frame else { return frame };
    match behaviour {
        Behaviour::WrongOutline => values[0].0[5] ^= 1,
        Behaviour::LongOutline => values.extend(vec![Digest::ZERO; 60_000]),
        Behaviour::WrongLength => len += 1,
        Behaviour::ClaimsOnePiece | Behaviour::ClaimsOnePieceAndLeaves => {
            (len, values) = (5, vec![blob]);
        }
        Behaviour::ClaimsShorter(by) => len -= by,
        Behaviour::ClaimsTooLong => len = u64::MAX,
        _ => {}
    }
    FromHolder::Outline { blob, len, values }
}
