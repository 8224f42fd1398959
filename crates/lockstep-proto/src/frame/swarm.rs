//! Frames in which two nodes compare what they know of a swarm, and complete it.

use std::sync::Arc;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_count};
use lockstep_exact::canonical_struct;
use lockstep_verify::sign::NodeId;

use super::Frame;
use crate::announcement::Announcement;
use crate::limits;

/// The first eight bytes of a node id, by which a summary calls a node. Two nodes that share them
/// hide each other's news from each other's readers, and nothing else: whoever makes such a pair
/// harms itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortId(pub u64);

impl From<NodeId> for ShortId {
    fn from(node: NodeId) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = node.0;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl Canonical for ShortId {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(u64::decode(input)?))
    }
}

/// An entry of a summary: the newest announcement of a node that the sender of the summary has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// The node that the announcement is about.
    pub node: ShortId,
    /// The sequence of the announcement.
    pub sequence: u64,
}

canonical_struct!(Known { node, sequence });

/// A frame of an exchange between two nodes. Whoever dials sends a summary and gets news; it may
/// answer with the news that were wanted. Then the exchange is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwarmFrame {
    /// Everything that the sender knows, in short: in the order of the short ids, each once.
    Summary(Vec<Known>),
    /// The announcements that the sender knows and the receiver does not.
    News {
        /// Announcements that are newer than what the receiver has.
        announcements: Vec<Arc<Announcement>>,
        /// The nodes of which the receiver has something newer, in order, each once.
        wanted: Vec<ShortId>,
        /// Whether there is more that did not fit: another exchange brings it.
        has_more: bool,
    },
}

impl Frame for SwarmFrame {
    const LIMIT: usize = limits::SWARM_FRAME_BYTES;

    fn limit_of(_: u8) -> usize {
        limits::SWARM_FRAME_BYTES
    }
}

/// The fewest bytes of an announcement.
const LEAST_ANNOUNCEMENT_BYTES: usize = 128;

impl Canonical for SwarmFrame {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Summary(known) => {
                out.push(0);
                lockstep_exact::bytes::put_list(out, known);
            }
            Self::News { announcements, wanted, has_more } => {
                out.push(1);
                put_count(out, announcements.len());
                announcements.iter().for_each(|announcement| announcement.encode(out));
                lockstep_exact::bytes::put_list(out, wanted);
                has_more.encode(out);
            }
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => {
                let known: Vec<Known> = input.list("summary", limits::SWARM_NODES, 16)?;
                let is_ordered = known.is_sorted_by(|one, next| one.node < next.node);
                if !is_ordered {
                    return Err(input.invalid("summary", "not in order, or a node twice"));
                }
                Ok(Self::Summary(known))
            }
            1 => {
                let most = limits::SWARM_FRAME_BYTES / LEAST_ANNOUNCEMENT_BYTES;
                let count = input.count("announcements", most, LEAST_ANNOUNCEMENT_BYTES)?;
                let announcements = (0..count).map(|_| Announcement::decode(input).map(Arc::new));
                let announcements = announcements.collect::<Result<_, _>>()?;
                let wanted: Vec<ShortId> = input.list("wanted nodes", limits::SWARM_NODES, 8)?;
                if !wanted.is_sorted_by(|one, next| one < next) {
                    return Err(input.invalid("wanted nodes", "not in order, or a node twice"));
                }
                Ok(Self::News { announcements, wanted, has_more: bool::decode(input)? })
            }
            tag => Err(input.unknown_tag("frame of a swarm", tag)),
        }
    }
}
