//! The layer below a link, over QUIC and in memory: how frames get out of a queue and come in.

pub(crate) mod memory;
mod queued;
pub(crate) mod quic;

pub(crate) use queued::Queued;

use super::way::Way;
use super::{HangUp, LinkFailure};

/// The connection under a link, for both halves.
#[derive(Clone, Debug)]
pub(crate) enum Wire {
    Quic(quic::Wire),
    Memory(memory::Wire),
}

impl Wire {
    pub(crate) fn hang_up(&self, why: HangUp) {
        match self {
            Self::Quic(wire) => wire.hang_up(why),
            Self::Memory(wire) => wire.hang_up(why),
        }
    }

    pub(crate) fn way(&self) -> Option<Way> {
        match self {
            Self::Quic(wire) => wire.way(),
            Self::Memory(_) => None,
        }
    }

    pub(crate) fn failure(&self) -> LinkFailure {
        match self {
            Self::Quic(wire) => wire.failure(),
            Self::Memory(wire) => wire.failure(),
        }
    }
}

/// The source of a link's frames.
#[derive(Debug)]
pub(crate) enum Source {
    Quic(Box<quic::Reader>),
    Memory(memory::Reader),
}
