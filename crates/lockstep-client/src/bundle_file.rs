//! Files of bundles: written and read one exchange at a time, however many there are.
//!
//! What a writer had appended when it was interrupted is a bundle that lacks openings. A reader
//! never allocates more than the file holds, and holds one exchange.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};

use lockstep_exact::bytes::{Canonical as _, DecodeError};
use lockstep_verify::bundle::{self, Bundle, Exchange};
use lockstep_verify::limits;

use crate::path_text::PathText;

/// The number of bytes of a length field.
const LENGTH_BYTES: usize = 4;

/// The reasons why a bundle's file can't be read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// An exchange is cut off, or too long.
    #[error(
        "{} is damaged: the exchange at byte {at} is cut off, or longer than {most} bytes; what is \
         before it is a bundle",
        PathText(path),
        most = limits::EXCHANGE_BYTES
    )]
    Damaged {
        /// The path of the bundle's file.
        path: PathBuf,
        /// The offset in bytes at which the exchange begins.
        at: u64,
    },
    /// An exchange, a challenge with its answers, is malformed.
    #[error("{}: the exchange at byte {at}", PathText(path))]
    Exchange {
        /// The path of the bundle's file.
        path: PathBuf,
        /// The offset in bytes at which the exchange begins.
        at: u64,
        /// The error with which its decoding failed.
        source: DecodeError,
    },
    /// The file does not begin as a bundle does.
    #[error("{} is not a receipt bundle", PathText(path))]
    NotABundle {
        /// The path of the file.
        path: PathBuf,
        /// The error with which its decoding failed.
        source: DecodeError,
    },
    /// The system can't read the file.
    #[error("can't read {}", PathText(path))]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The error that the system reports.
        source: io::Error,
    },
}

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("can't write {}", PathText(path))]
pub struct NotWritten {
    /// The path of the file that could not be written.
    pub path: PathBuf,
    /// The error that the system reports.
    pub source: io::Error,
}

/// Keeps exchanges in a bundle that is there, until that fails: what is found of an answer stands
/// whatever becomes of its bundle.
pub(crate) struct Keeping(Result<Option<Appender>, NotWritten>);

impl Keeping {
    /// Opens a bundle's file, if there is one.
    pub(crate) fn of(bundle: Option<&Path>) -> Self {
        Self(bundle.map(Appender::open).transpose())
    }

    /// Appends an exchange, if none has failed.
    pub(crate) fn append(&mut self, exchange: &Exchange) {
        if let Ok(Some(appender)) = &mut self.0
            && let Err(error) = appender.append(exchange)
        {
            self.0 = Err(error);
        }
    }

    /// Waits until everything that was written is on the disk.
    ///
    /// # Errors
    /// Why not all of it is.
    pub(crate) fn finish(self) -> Result<(), NotWritten> {
        match self.0? {
            Some(appender) => appender.finish(),
            None => Ok(()),
        }
    }
}

/// Appends exchanges to a bundle that is there.
struct Appender {
    file: File,
    path: PathBuf,
}

impl Appender {
    /// Opens the file of a bundle, to append exchanges to it.
    fn open(path: &Path) -> Result<Self, NotWritten> {
        let path = path.to_owned();
        match OpenOptions::new().append(true).open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(NotWritten { path, source }),
        }
    }

    /// Appends one exchange to the file.
    fn append(&mut self, exchange: &Exchange) -> Result<(), NotWritten> {
        let written = self.file.write_all(&bundle::appended(exchange));
        written.map_err(|source| NotWritten { path: self.path.clone(), source })
    }

    /// Waits until everything that was appended is on the disk.
    fn finish(self) -> Result<(), NotWritten> {
        let written = self.file.sync_all();
        written.map_err(|source| NotWritten { path: self.path, source })
    }
}

/// A reader of a bundle's file, which holds one exchange in memory at a time.
pub struct BundleReader {
    file: BufReader<File>,
    path: PathBuf,
    /// The offset in the file of the next byte to read.
    at: u64,
}

impl BundleReader {
    /// Opens a file, and reads a bundle without its exchanges.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn open(path: &Path) -> Result<(Self, Bundle), BundleError> {
        let path = path.to_owned();
        let file = match File::open(&path) {
            Ok(file) => BufReader::new(file),
            Err(source) => return Err(BundleError::Read { path, source }),
        };
        let mut reader = Self { file, path, at: 0 };
        let mut bytes = reader.read(bundle::START_BYTES)?;
        if bundle::is_start(&bytes) {
            bytes.append(&mut reader.counted(limits::HEAD_BYTES)?);
        }
        // Whatever is missing is told by what decodes it.
        match Bundle::from_bytes(&bytes) {
            Ok(bundle) => Ok((reader, bundle)),
            Err(source) => Err(BundleError::NotABundle { path: reader.path, source }),
        }
    }

    /// Returns the next exchange; `None` at the end.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn next_exchange(&mut self) -> Result<Option<Exchange>, BundleError> {
        let at = self.at;
        let bytes = self.counted(limits::EXCHANGE_BYTES)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let whole = bytes.split_first_chunk::<LENGTH_BYTES>().filter(|(len, exchange)| {
            u32::try_from(exchange.len()).ok() == Some(u32::from_le_bytes(**len))
        });
        let path = || self.path.clone();
        let (_, exchange) = whole.ok_or_else(|| BundleError::Damaged { path: path(), at })?;
        let exchange = Exchange::from_bytes(exchange);
        exchange.map(Some).map_err(|source| BundleError::Exchange { path: path(), at, source })
    }

    /// Returns a length and what follows it, at most `limit` bytes, or as much of both as there is.
    fn counted(&mut self, limit: usize) -> Result<Vec<u8>, BundleError> {
        let mut bytes = self.read(LENGTH_BYTES)?;
        if let Ok(len) = <[u8; LENGTH_BYTES]>::try_from(bytes.as_slice()) {
            let len = u32::from_le_bytes(len) as usize;
            bytes.append(&mut self.read(len.min(limit))?);
        }
        Ok(bytes)
    }

    /// Returns the next bytes, fewer at the end.
    fn read(&mut self, len: usize) -> Result<Vec<u8>, BundleError> {
        let mut bytes = Vec::new();
        let read = self.file.by_ref().take(len as u64).read_to_end(&mut bytes);
        read.map_err(|source| BundleError::Read { path: self.path.clone(), source })?;
        self.at += bytes.len() as u64;
        Ok(bytes)
    }
}
