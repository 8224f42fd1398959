//! Frames in which a node fetches the files of a model from another one: an outline of a blob, and
//! then its pieces, each of which is checked by itself ([`lockstep_exact::pieces`]).

use core::fmt;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_bytes, put_list};
use lockstep_exact::digest::Digest;

use super::Frame;
use crate::limits;

/// A frame of a node that fetches blobs, to one that holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToHolder {
    /// Asks for the outline of a blob.
    Outline {
        /// The digest of the blob.
        blob: Digest,
    },
    /// Asks for one piece of a blob.
    Piece {
        /// The digest of the blob.
        blob: Digest,
        /// The number of the piece, from 0.
        index: u32,
    },
}

/// The reasons why a holder does not send what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlobRefusal {
    /// It does not have the blob, or shares only the model that it serves.
    NotHeld,
    /// It sends to as many nodes as it may at once. Later it may have room.
    Busy,
    /// The blob has fewer pieces.
    NoSuchPiece,
    /// It has sent this node as much as one node gets in some hours.
    Spent,
}

impl Canonical for BlobRefusal {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::NotHeld => 0,
            Self::Busy => 1,
            Self::NoSuchPiece => 2,
            Self::Spent => 3,
        });
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(Self::NotHeld),
            1 => Ok(Self::Busy),
            2 => Ok(Self::NoSuchPiece),
            3 => Ok(Self::Spent),
            tag => Err(input.unknown_tag("refusal of a blob", tag)),
        }
    }
}

impl fmt::Display for BlobRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotHeld => "it does not hold the file",
            Self::Busy => "it sends to as many others as it may at once",
            Self::NoSuchPiece => "the file is shorter there",
            Self::Spent => "it has sent this node as much as it may for some hours",
        })
    }
}

/// A frame of a node that holds blobs, to one that fetches them. Questions are answered in their
/// order, each by one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromHolder {
    /// Tells the outline of a blob that was asked for.
    Outline {
        /// The digest of the blob.
        blob: Digest,
        /// The length of the blob in bytes.
        len: u64,
        /// The values of its pieces.
        values: Vec<Digest>,
    },
    /// Brings one piece of a blob that was asked for.
    Piece {
        /// The digest of the blob.
        blob: Digest,
        /// The number of the piece, from 0.
        index: u32,
        /// The bytes of the piece.
        bytes: Vec<u8>,
    },
    /// The question is refused.
    Refused {
        /// The digest of the blob that was asked for.
        blob: Digest,
        /// The reason.
        why: BlobRefusal,
    },
}

impl Frame for ToHolder {
    const LIMIT: usize = limits::SMALL_FRAME_BYTES;

    fn limit_of(_: u8) -> usize {
        limits::SMALL_FRAME_BYTES
    }
}

impl Canonical for ToHolder {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Outline { blob } => {
                out.push(0);
                blob.encode(out);
            }
            Self::Piece { blob, index } => {
                out.push(1);
                blob.encode(out);
                index.encode(out);
            }
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(Self::Outline { blob: Digest::decode(input)? }),
            1 => Ok(Self::Piece { blob: Digest::decode(input)?, index: u32::decode(input)? }),
            tag => Err(input.unknown_tag("frame to a holder of blobs", tag)),
        }
    }
}

impl Frame for FromHolder {
    const LIMIT: usize = limits::BLOB_FRAME_BYTES;

    fn limit_of(tag: u8) -> usize {
        match tag {
            0 => limits::BLOB_FRAME_BYTES,
            1 => limits::BLOB_PIECE_FRAME_BYTES,
            _ => limits::SMALL_FRAME_BYTES,
        }
    }
}

impl Canonical for FromHolder {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Outline { blob, len, values } => {
                out.push(0);
                blob.encode(out);
                len.encode(out);
                put_list(out, values);
            }
            Self::Piece { blob, index, bytes } => {
                out.push(1);
                blob.encode(out);
                index.encode(out);
                put_bytes(out, bytes);
            }
            Self::Refused { blob, why } => {
                out.push(2);
                blob.encode(out);
                why.encode(out);
            }
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(Self::Outline {
                blob: Digest::decode(input)?,
                len: u64::decode(input)?,
                values: input.list("outline", limits::BLOB_PIECES, 32)?,
            }),
            1 => Ok(Self::Piece {
                blob: Digest::decode(input)?,
                index: u32::decode(input)?,
                bytes: input.bytes("piece", limits::BLOB_PIECE_BYTES)?.to_vec(),
            }),
            2 => {
                Ok(Self::Refused { blob: Digest::decode(input)?, why: BlobRefusal::decode(input)? })
            }
            tag => Err(input.unknown_tag("frame from a holder of blobs", tag)),
        }
    }
}
