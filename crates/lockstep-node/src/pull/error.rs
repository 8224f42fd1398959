//! The errors of downloading a model file, each with what to do about it.

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
        /// The path of the file that the other process writes.
        path: PathBuf,
    },
    /// The connection was lost again and again; what is here is kept for the next attempt.
    #[error("{url}: broken off after {have} of {bytes} bytes; try again to go on from there")]
    BrokenOff {
        /// The URL that was asked for.
        url: String,
        /// The bytes that are here already.
        have: u64,
        /// The length of the file in bytes.
        bytes: u64,
    },
    /// The server wants to know who asks.
    #[error(
        "{url}: access denied ({status}); if the model has terms to accept, accept them on its \
         page, then set HF_TOKEN"
    )]
    Denied {
        /// The URL that was asked for.
        url: String,
        /// The HTTP status that the server answered with.
        status: u16,
    },
    /// The bytes are not those that were expected.
    #[error("{origin}: wrong content: {expected} was expected, got {got}")]
    Digest {
        /// The place where the file came from.
        origin: String,
        /// The digest that was pinned or listed.
        expected: Checksum,
        /// The digest of the file that came.
        got: Checksum,
    },
    /// The disk has too little room for the file.
    #[error(transparent)]
    DiskFull(#[from] DiskFull),
    /// The endpoint of the model server can't be used.
    #[error("HF_ENDPOINT={endpoint}: {why}")]
    Endpoint {
        /// The URL of the endpoint.
        endpoint: String,
        /// The reason why it can't be used.
        why: &'static str,
    },
    /// The list of the files of weights is not as it should be.
    #[error(transparent)]
    Index(#[from] FolderError),
    /// The repository has no such file, or its listing makes no sense.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The system refused an operation on a file.
    #[error("can't {what} {}: {source}", path.display())]
    Io {
        /// The verb of the operation, such as "read".
        what: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// The error that the system reported.
        source: io::Error,
    },
    /// The server states another length than the listing, or sends more than it stated.
    #[error("{url}: {expected} bytes were expected, got {got}")]
    Length {
        /// The URL that was asked for.
        url: String,
        /// The number of bytes that was expected.
        expected: u64,
        /// The number of bytes that the server stated or sent.
        got: u64,
    },
    /// The model server could not be talked to.
    #[error("{url}: {detail}")]
    Network {
        /// The URL that was asked for.
        url: String,
        /// A description of the failure.
        detail: String,
    },
    /// The model server has no such file or repository.
    #[error("{url}: not found; check the name")]
    NotFound {
        /// The URL that was asked for.
        url: String,
    },
    /// Neither a model server nor `pip` is there to get the model from.
    #[error("no place is known to get this model from")]
    Nowhere,
    /// The environment forbids downloads.
    #[error("HF_HUB_OFFLINE is set; unset it, or import a file with `lockstep import FILE`")]
    Offline,
    /// The model could not be imported here.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// `pip` ended with an error.
    #[error("pip could not bring {package}: {detail}")]
    Pip {
        /// The name and version of the package.
        package: String,
        /// The last lines that `pip` wrote.
        detail: String,
    },
    /// Python is not installed, or could not be started.
    #[error("{} can't be started ({source}); install Python with pip", python.display())]
    Python {
        /// The program that was to be started.
        python: PathBuf,
        /// The error that the system reported.
        source: io::Error,
    },
    /// The other side sent nothing for too long.
    #[error("{what}: no answer within {} s", after.as_secs())]
    Silent {
        /// The name of the side that was silent.
        what: String,
        /// The time for which it was waited.
        after: Duration,
    },
    /// The server refused for another reason.
    #[error("{url}: the server answers {status}")]
    Status {
        /// The URL that was asked for.
        url: String,
        /// The HTTP status that the server answered with.
        status: u16,
    },
    /// A task of this program panicked or was ended.
    #[error("a task ended early: {0}")]
    Task(String),
    /// The file or listing is longer than the limit.
    #[error("{origin} has {bytes} bytes, more than the limit of {limit}")]
    TooLong {
        /// The place where it came from.
        origin: String,
        /// Its length in bytes, as it is stated.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Nothing says which bytes are the right ones.
    #[error("{file}: neither pinned nor listed with a digest, so nothing could be checked")]
    Unpinned {
        /// The name of the file.
        file: String,
    },
    /// The Python package is not as expected.
    #[error("{package}: {source}")]
    Wheel {
        /// The name and version of the package.
        package: String,
        /// The error with which reading the wheel failed.
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
