//! What a fetch tells of its holders and of its end: faults, events, and why it was given up.

use core::fmt;

use lockstep_exact::digest::Digest;
use lockstep_verify::sign::NodeId;

use crate::frame::BlobRefusal;
use crate::limits;

/// An event for logs and for whoever watches the progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// More bytes have been checked and written, or were on the disk already.
    Progress {
        /// The number of bytes since the last event.
        bytes: u64,
    },
    /// A holder is not asked any more, or not for a while.
    Dropped {
        /// The node.
        node: NodeId,
        /// The reason.
        why: Fault,
    },
}

/// Why a holder did not give a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It sent bytes that are not of the blob.
    WrongBytes {
        /// The digest of the blob.
        blob: Digest,
    },
    /// It sent what is no frame, or what nobody had asked for.
    BadFrame,
    /// It could not be reached, or the link has ended.
    Lost,
    /// It did not answer in time.
    Stalled,
    /// Another holder was much faster, or could be.
    Slow,
    /// It says that the blob is longer than it may be, which is not known to be false.
    TooLong {
        /// The digest of the blob.
        blob: Digest,
    },
    /// It refused to give the blob.
    Refused(BlobRefusal),
}

impl Fault {
    /// Returns whether no honest holder does this.
    #[must_use]
    pub const fn is_hostile(&self) -> bool {
        matches!(self, Self::WrongBytes { .. } | Self::BadFrame)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongBytes { blob } => {
                write!(f, "it sent bytes that are not those of {}", blob.short())
            }
            Self::BadFrame => f.write_str("it sent what was not asked for, or no frame"),
            Self::Lost => f.write_str("it could not be reached, or the link ended"),
            Self::Stalled => {
                write!(f, "it did not answer in {} s", limits::BLOB_STALL_US / 1_000_000)
            }
            Self::Slow => f.write_str("it was much slower than others, or than it has to be"),
            Self::TooLong { blob } => {
                write!(f, "it says that {} is longer than it may be", blob.short())
            }
            Self::Refused(why) => why.fmt(f),
        }
    }
}

/// Why a fetch was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The digest of a blob that is missing.
    pub blob: Digest,
    /// Whether holders are left that could have it; then nothing has come for too long.
    pub is_late: bool,
    /// The last fault of each holder that had one; of no more than
    /// [`BLOB_HOLDERS_KNOWN`](limits::BLOB_HOLDERS_KNOWN) holders.
    pub faults: Vec<(NodeId, Fault)>,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blob = self.blob.short();
        match self.is_late {
            true => {
                let seconds = limits::BLOB_PATIENCE_US / 1_000_000;
                write!(f, "nothing of {blob} has come for {seconds} s")?;
            }
            false => write!(f, "no server gives {blob}")?,
        }
        for (node, fault) in &self.faults {
            write!(f, "; {}: {fault}", node.short())?;
        }
        Ok(())
    }
}

impl core::error::Error for GivenUp {}
