//! Frames: what peers send each other, and how bytes become frames.
//!
//! On a stream a frame is a `u32` length and that many bytes: a tag and the fields, canonical. The
//! length is checked against the channel's limit before anything is allocated; every frame has one
//! encoding and ends exactly where its length says. There is one version of the frames per ALPN.

mod ctl;
mod ring;

use core::fmt;

use lockstep_exact::bytes::{Canonical, DecodeError};

pub use ctl::{Status, ToClient, ToServer};
pub use ring::{RingFrame, Step};

use crate::limits;

/// The version of all frames, as the ALPNs end.
pub const VERSION: u16 = 0;
/// Client and server speak [`ToServer`] and [`ToClient`].
pub const CTL_ALPN: &[u8] = b"lockstep/ctl/0";
/// Stages speak [`RingFrame`] in both directions.
pub const RING_ALPN: &[u8] = b"lockstep/ring/0";

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The body does not decode.
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

/// The frames of one direction of one channel.
pub trait Frame: Canonical {
    /// Most bytes of a body.
    const LIMIT: usize;

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

    /// Reads a body.
    ///
    /// # Errors
    /// [`FrameError`] for anything that this frame would not encode to.
    fn from_body(body: &[u8]) -> Result<Self, FrameError> {
        if body.len() > Self::LIMIT {
            return Err(FrameError::TooLong { got: body.len(), limit: Self::LIMIT });
        }
        Ok(Self::from_bytes(body)?)
    }

    /// Length and body, as they go on a stream.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    fn to_wire(&self) -> Result<Vec<u8>, FrameError> {
        let mut wire = vec![0; limits::LENGTH_BYTES];
        self.encode(&mut wire);
        let got = wire.len().saturating_sub(limits::LENGTH_BYTES);
        match (u32::try_from(got), wire.first_chunk_mut()) {
            (Ok(len), Some(length)) if got <= Self::LIMIT => *length = len.to_le_bytes(),
            _ => return Err(FrameError::TooLong { got, limit: Self::LIMIT }),
        }
        Ok(wire)
    }
}
