//! The body of an announcement: what a server serves, how fast, and how busy it is.
//!
//! Lists are sorted, without duplicates and of bounded length; texts are short and plain. Anything
//! else is no status: it is refused where it is decoded.

use core::fmt;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_bytes, put_list};
use lockstep_exact::canonical_struct;
use lockstep_exact::digest::Digest;
use lockstep_verify::sign::NodeId;

use super::speed::Speed;
use crate::limits;
use crate::version::VERSION;

/// Whether a server takes sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It is about to serve: it fetches its layers, or no token has crossed a ring with it yet.
    /// Routes avoid it; whoever chooses layers counts it as if it served already.
    Joining,
    /// The server serves, and routes may use it.
    Ready,
    /// It is about to leave and takes no new sessions.
    Draining,
    /// The server has left the swarm. What it announced before is not true any more.
    Left,
}

impl Canonical for State {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Joining => 0,
            Self::Ready => 1,
            Self::Draining => 2,
            Self::Left => 3,
        });
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = input.clone();
        Ok(match u8::decode(input)? {
            0 => Self::Joining,
            1 => Self::Ready,
            2 => Self::Draining,
            3 => Self::Left,
            tag => return Err(start.unknown_tag("state", tag)),
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Joining => "joining",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Left => "left",
        })
    }
}

/// The measured link from a server to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The node at the other end.
    pub node: NodeId,
    /// The round-trip time in microseconds.
    pub rtt_us: u32,
    /// The bytes per second that the link carries towards the node; 0 if not measured.
    pub bytes_per_s: u64,
}
canonical_struct!(Neighbour { node, rtt_us, bytes_per_s });

/// A word that a server's owner gives it, such as a place or a jurisdiction: 1 to
/// [`limits::TAG_BYTES`] bytes of `a` to `z`, `0` to `9` and `-._:`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(String);

/// The error that a text is no [`Tag`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTag;

impl fmt::Display for BadTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a tag has 1 to {} characters of a-z, 0-9 and -._:", limits::TAG_BYTES)
    }
}

impl core::error::Error for BadTag {}

impl Tag {
    /// Checks a text and makes it a tag.
    ///
    /// # Errors
    /// [`BadTag`] says which texts are tags.
    pub fn new(text: &str) -> Result<Self, BadTag> {
        let is_plain =
            |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':');
        let fits = (1..=limits::TAG_BYTES).contains(&text.len()) && text.bytes().all(is_plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(BadTag) }
    }

    /// Returns the text of the tag.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl Canonical for Tag {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.0.as_bytes());
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = input.clone();
        let text = input.text("tag", limits::TAG_BYTES)?;
        Self::new(&text).map_err(|BadTag| start.invalid("tag", "empty, or not a-z, 0-9 and -._:"))
    }
}

/// The status of a server: what it serves, how fast, and how busy it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The version of the frames it speaks.
    pub version: u16,
    /// The node id of the server.
    pub node: NodeId,
    /// The digest of the manifest of the model that it serves.
    pub manifest: Digest,
    /// The lowest layer that it holds.
    pub first: u32,
    /// The layer after the highest that it holds.
    pub end: u32,
    /// Whether it holds embedding and head.
    pub head: bool,
    /// Whether it takes sessions, or will, or does no more.
    pub state: State,
    /// The number of sessions under way.
    pub sessions: u32,
    /// The most sessions that it takes at once.
    pub sessions_limit: u32,
    /// Items that wait for its executor.
    pub queue: u32,
    /// KV pages, 256 positions of one layer each, that new sessions may take.
    pub kv_pages_free: u32,
    /// The speed at which the server computes; [`Speed::UNKNOWN`] if it has not measured itself.
    pub speed: Speed,
    /// Its links to other nodes, as it has measured them: by node id, at most
    /// [`limits::NEIGHBOURS`].
    pub neighbours: Vec<Neighbour>,
    /// The digests of the adapters that it holds, in ascending order, at most
    /// [`limits::ADAPTERS_HELD`].
    pub adapters: Vec<Digest>,
    /// Its owner's words about it, in ascending order, at most [`limits::TAGS`].
    pub tags: Vec<Tag>,
    /// The version of its program, in at most [`limits::SOFTWARE_BYTES`] printable ASCII
    /// characters; empty if it does not say.
    pub software: String,
}

impl Canonical for Status {
    fn encode(&self, out: &mut Vec<u8>) {
        self.version.encode(out);
        self.node.encode(out);
        self.manifest.encode(out);
        self.first.encode(out);
        self.end.encode(out);
        self.head.encode(out);
        self.state.encode(out);
        self.sessions.encode(out);
        self.sessions_limit.encode(out);
        self.queue.encode(out);
        self.kv_pages_free.encode(out);
        self.speed.encode(out);
        put_list(out, &self.neighbours);
        put_list(out, &self.adapters);
        put_list(out, &self.tags);
        put_bytes(out, self.software.as_bytes());
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let version = u16::decode(input)?;
        let node = NodeId::decode(input)?;
        Ok(Self {
            version,
            node,
            manifest: Digest::decode(input)?,
            first: u32::decode(input)?,
            end: u32::decode(input)?,
            head: bool::decode(input)?,
            state: State::decode(input)?,
            sessions: u32::decode(input)?,
            sessions_limit: u32::decode(input)?,
            queue: u32::decode(input)?,
            kv_pages_free: u32::decode(input)?,
            speed: Speed::decode(input)?,
            neighbours: neighbours(input, node)?,
            adapters: ascending(input, "adapters", limits::ADAPTERS_HELD, 32)?,
            tags: ascending(input, "tags", limits::TAGS, 5)?,
            software: software(input)?,
        })
    }
}

/// Reads a list of at most `limit` values in ascending order, none of them twice.
fn ascending<T: Canonical + Ord>(
    input: &mut Reader<'_>,
    what: &'static str,
    limit: usize,
    unit: usize,
) -> Result<Vec<T>, DecodeError> {
    let start = input.clone();
    let list: Vec<T> = input.list(what, limit, unit)?;
    let is_ascending = list.is_sorted_by(|one, next| one < next);
    if is_ascending { Ok(list) } else { Err(start.invalid(what, "not in ascending order")) }
}

/// Reads the neighbours of the node `own`: in the order of their ids, and no node its own.
fn neighbours(input: &mut Reader<'_>, own: NodeId) -> Result<Vec<Neighbour>, DecodeError> {
    let start = input.clone();
    let list: Vec<Neighbour> = input.list("neighbours", limits::NEIGHBOURS, 44)?;
    if !list.is_sorted_by(|one, next| one.node < next.node) {
        return Err(start.invalid("neighbours", "not in ascending order of node ids"));
    }
    if list.iter().any(|neighbour| neighbour.node == own) {
        return Err(start.invalid("neighbours", "the node is its own neighbour"));
    }
    Ok(list)
}

/// Reads the version of a program.
fn software(input: &mut Reader<'_>) -> Result<String, DecodeError> {
    let start = input.clone();
    let text = input.text("software", limits::SOFTWARE_BYTES)?;
    let is_plain = text.bytes().all(is_printable);
    if is_plain { Ok(text) } else { Err(start.invalid("software", "not printable ASCII")) }
}

/// Returns whether a byte may stand in [`Status::software`].
pub(super) const fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

impl Status {
    /// Returns whether a new session may be asked for: the shortest takes one page of every layer.
    #[must_use]
    pub fn takes_sessions(&self) -> bool {
        let has_room = self.sessions < self.sessions_limit
            && self.kv_pages_free >= self.end.saturating_sub(self.first);
        self.state == State::Ready && has_room && self.version == VERSION
    }
}
