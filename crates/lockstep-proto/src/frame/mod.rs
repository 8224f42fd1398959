//! Frames: what peers send each other, and how bytes become frames.
//!
//! On a stream a frame is a `u32` length and that many bytes: a tag and the fields, canonical. The
//! length is checked against the channel's limit before anything is allocated; every frame has one
//! encoding and ends exactly where its length says. There is one version of the frames per ALPN.

mod blobs;
mod ctl;
mod ring;
mod swarm;

use core::fmt;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader};
use lockstep_verify::request::Lease;

pub use blobs::{BlobRefusal, FromHolder, ToHolder};
pub use ctl::{ToClient, ToServer};
pub use ring::{RingFrame, Step, Tenant};
pub use swarm::{Known, ShortId, SwarmFrame};

use crate::limits;

pub use crate::version::VERSION;
/// Client and server speak [`ToServer`] and [`ToClient`].
pub const CTL_ALPN: &[u8] = b"lockstep/ctl/1";
/// Stages speak [`RingFrame`] in both directions.
pub const RING_ALPN: &[u8] = b"lockstep/ring/1";
/// Nodes of a swarm speak [`SwarmFrame`] in both directions.
pub const SWARM_ALPN: &[u8] = b"lockstep/swarm/1";
/// A node that fetches files of a model and one that holds them speak [`ToHolder`] and
/// [`FromHolder`].
pub const BLOBS_ALPN: &[u8] = b"lockstep/blobs/1";

/// The reasons why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The body of the frame could not be decoded.
    Decode(DecodeError),
    /// The body would be longer than the channel allows.
    TooLong {
        /// The length found.
        got: usize,
        /// The largest length allowed.
        limit: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode(error) => write!(f, "frame: {error}"),
            Self::TooLong { got, limit } => {
                write!(f, "frame of {got} bytes is above the limit of {limit}")
            }
        }
    }
}

impl core::error::Error for FrameError {}

impl From<DecodeError> for FrameError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

/// Appends the zero bytes that are due for a frame with a lease, which began at `start`.
///
/// A lease that says where a stage can be reached makes the stage before it send datagrams there,
/// to whomever that harms. So whoever sends it pays with at least as many bytes of its own, and
/// gains nothing by it.
fn pad(out: &mut Vec<u8>, start: usize, lease: &Lease) {
    out.resize(out.len().max(start.saturating_add(due(lease))), 0);
}

/// Reads and checks the zero bytes that [`pad`] appended.
fn unpad(input: &mut Reader<'_>, start: usize, lease: &Lease) -> Result<(), DecodeError> {
    let used = input.position().saturating_sub(start);
    let padding = input.take("padding of a lease", due(lease).saturating_sub(used))?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(input.invalid("padding of a lease", "not zero"));
    }
    Ok(())
}

/// Returns the least number of bytes of a frame with this lease.
fn due(lease: &Lease) -> usize {
    let count = |addresses: &String| match addresses.is_empty() {
        true => 0,
        false => addresses.split(',').count().min(limits::DIALLED_ADDRESSES),
    };
    let most = lease.addresses.iter().map(count).fold(0, usize::max);
    most.saturating_mul(limits::DIAL_BYTES)
}

/// The frames of one direction of one channel.
pub trait Frame: Canonical {
    /// The most bytes that a body may have.
    const LIMIT: usize;

    /// Returns the most bytes of a body that begins with this tag.
    fn limit_of(tag: u8) -> usize;

    /// Reads the length that precedes a body.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    fn body_len(length: [u8; limits::LENGTH_BYTES]) -> Result<usize, FrameError> {
        let got = u32::from_le_bytes(length) as usize;
        if got > Self::LIMIT {
            return Err(FrameError::TooLong { got, limit: Self::LIMIT });
        }
        Ok(got)
    }

    /// Decodes the body of a frame.
    ///
    /// # Errors
    /// [`FrameError`] for anything that this frame would not encode to.
    fn from_body(body: &[u8]) -> Result<Self, FrameError> {
        let limit = body.first().map_or(Self::LIMIT, |tag| Self::limit_of(*tag));
        if body.len() > limit {
            return Err(FrameError::TooLong { got: body.len(), limit });
        }
        Ok(Self::from_bytes(body)?)
    }

    /// Encodes the frame as it goes on a stream: its length, and then its body.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    fn to_wire(&self) -> Result<Vec<u8>, FrameError> {
        let mut wire = vec![0; limits::LENGTH_BYTES];
        self.encode(&mut wire);
        let got = wire.len().saturating_sub(limits::LENGTH_BYTES);
        let limit = wire.get(limits::LENGTH_BYTES).map_or(Self::LIMIT, |tag| Self::limit_of(*tag));
        match (u32::try_from(got), wire.first_chunk_mut()) {
            (Ok(len), Some(length)) if got <= limit => *length = len.to_le_bytes(),
            _ => return Err(FrameError::TooLong { got, limit }),
        }
        Ok(wire)
    }
}
