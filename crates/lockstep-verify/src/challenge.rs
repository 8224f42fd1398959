//! Which cells a client asks a stage to open.

use lockstep_exact::Digest;
use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_list};

use crate::limits;
use crate::sign::Signature;
use crate::signed_struct;
use crate::statement::RunId;

/// The cells that one challenge names. Positions are in increasing order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Positions of one layer: a part of what is opened of it. The parts of a layer follow each
    /// other, and the KV rows of all of them are those from position 0 on without a gap.
    Layer {
        /// The index of the layer.
        layer: u32,
        /// The first position whose KV row is opened.
        first: u32,
        /// The position after the last one whose KV row is opened.
        end: u32,
        /// The positions whose cells are opened, all between these two; there can be none.
        positions: Vec<u32>,
    },
    /// Head cells, named by the position of the state that the head reads.
    Head {
        /// The positions, in increasing order.
        positions: Vec<u32>,
    },
    /// Rows of a column at the edge of a stage, so that it can be held against the stage's marks:
    /// asked where two neighbours signed different roots for the same states.
    Edge {
        /// The layer: a stage's first for what it received, its last for what it sent.
        layer: u32,
        /// The column that the rows are in.
        side: Side,
        /// The first position of the rows.
        first: u32,
        /// The number of positions, not 0.
        count: u32,
    },
    /// The mark that a stage got for a frame from the stage before: asked where the receipt has
    /// different marks of the two for what went between them.
    Mark {
        /// The first layer of the stage that got it; the number of layers for the head.
        layer: u32,
        /// The first position of the frame.
        position: u32,
    },
}

/// One of the two edges of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The edge at which the stage received states.
    Received,
    /// The edge at which the stage sent states.
    Sent,
}

impl Canonical for Side {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Received => 0,
            Self::Sent => 1,
        });
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(Self::Received),
            1 => Ok(Self::Sent),
            tag => Err(input.unknown_tag("side", tag)),
        }
    }
}

impl Canonical for Target {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Layer { layer, first, end, positions } => {
                out.push(0);
                layer.encode(out);
                first.encode(out);
                end.encode(out);
                put_list(out, positions);
            }
            Self::Head { positions } => {
                out.push(1);
                put_list(out, positions);
            }
            Self::Edge { layer, side, first, count } => {
                out.push(2);
                layer.encode(out);
                side.encode(out);
                first.encode(out);
                count.encode(out);
            }
            Self::Mark { layer, position } => {
                out.push(3);
                layer.encode(out);
                position.encode(out);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => {
                let (layer, first) = (u32::decode(input)?, u32::decode(input)?);
                let end = u32::decode(input)?;
                let positions = increasing(input)?;
                if first >= end || !positions.iter().all(|at| (first..end).contains(at)) {
                    return Err(input.invalid("challenged layer", "no KV rows, or not its cells'"));
                }
                Ok(Self::Layer { layer, first, end, positions })
            }
            1 => {
                let positions = increasing(input)?;
                if positions.is_empty() {
                    return Err(input.invalid("challenged positions", "none"));
                }
                Ok(Self::Head { positions })
            }
            2 => {
                let (layer, side) = (u32::decode(input)?, Side::decode(input)?);
                let (first, count) = (u32::decode(input)?, u32::decode(input)?);
                if count == 0 || first.checked_add(count).is_none() {
                    return Err(input.invalid("challenged edge", "no positions, or too many"));
                }
                Ok(Self::Edge { layer, side, first, count })
            }
            3 => Ok(Self::Mark { layer: u32::decode(input)?, position: u32::decode(input)? }),
            tag => Err(input.unknown_tag("challenge target", tag)),
        }
    }
}

fn increasing(input: &mut Reader<'_>) -> Result<Vec<u32>, DecodeError> {
    let positions: Vec<u32> = input.list("challenged positions", limits::CHALLENGE_POSITIONS, 4)?;
    let next = positions.iter().skip(1);
    if positions.iter().zip(next).any(|(a, b)| a >= b) {
        return Err(input.invalid("challenged positions", "not increasing"));
    }
    Ok(positions)
}

/// A client's demand to open cells, made after it holds every stage's signed roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The name of the session.
    pub session: Digest,
    /// The run of the stage that is asked: an opening of another run would be no answer.
    pub run: RunId,
    /// The receipt whose roots the opening must fit.
    pub receipt: Digest,
    /// The cells or rows to open.
    pub target: Target,
    /// The signature by the session key.
    pub signature: Signature,
}

signed_struct!(Challenge("lockstep 2026 challenge") { session, run, receipt, target });
