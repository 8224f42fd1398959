//! Files of bundles: written and read one exchange at a time, however many there are.
//!
//! What a writer had appended when it was interrupted is a bundle that lacks openings. A reader
//! never allocates more than the file holds, and holds one exchange.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lockstep_exact::bytes::Canonical as _;
use lockstep_verify::bundle::{self, Bundle, Exchange};
use lockstep_verify::limits;

use crate::exit::in_full;
use crate::printable::ForeignPath;

/// Bytes of a length.
const LENGTH_BYTES: usize = 4;

/// Keeps exchanges in a bundle that is there, until that fails: what is found of an answer stands
/// whatever becomes of its bundle.
pub(crate) struct Keeping(Result<Option<Appender>, String>);

impl Keeping {
    /// Opens a bundle's file, if there is one.
    pub(crate) fn of(bundle: Option<&Path>) -> Self {
        let opened = bundle.map(Appender::open).transpose();
        Self(opened.map_err(|error| in_full(&error)))
    }

    /// Appends an exchange, if none has failed.
    pub(crate) fn append(&mut self, exchange: &Exchange) {
        if let Ok(Some(appender)) = &mut self.0
            && let Err(error) = appender.append(exchange)
        {
            self.0 = Err(in_full(&error));
        }
    }

    /// Waits until all is on the disk.
    ///
    /// # Errors
    /// Why not all of it is, in words.
    pub(crate) fn finish(self) -> Result<(), String> {
        let Some(appender) = self.0? else { return Ok(()) };
        appender.finish().map_err(|error| in_full(&error))
    }
}

/// Appends exchanges to a bundle that is there.
struct Appender {
    file: File,
    path: PathBuf,
}

impl Appender {
    /// Opens a bundle's file.
    fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path);
        let file = file.with_context(|| format!("can't write {}", path.display()))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends an exchange.
    fn append(&mut self, exchange: &Exchange) -> Result<()> {
        let written = self.file.write_all(&bundle::appended(exchange));
        written.with_context(|| format!("can't write {}", self.path.display()))
    }

    /// Waits until all is on the disk.
    fn finish(self) -> Result<()> {
        self.file.sync_all().with_context(|| format!("can't write {}", self.path.display()))
    }
}

/// Reads a bundle.
pub(crate) struct BundleReader {
    file: BufReader<File>,
    path: PathBuf,
    /// The offset of the next byte.
    at: u64,
}

impl BundleReader {
    /// Opens a file, and reads a bundle without its exchanges.
    pub(crate) fn open(path: &Path) -> Result<(Self, Bundle)> {
        let shown = ForeignPath(path);
        let file = File::open(path).with_context(|| format!("can't read {shown}"))?;
        let mut reader = Self { file: BufReader::new(file), path: path.to_owned(), at: 0 };
        let mut bytes = reader.read(bundle::START_BYTES)?;
        if bundle::is_start(&bytes) {
            bytes.append(&mut reader.counted(limits::HEAD_BYTES)?);
        }
        // Whatever is missing is told by what decodes it.
        let bundle = Bundle::from_bytes(&bytes);
        let bundle = bundle.with_context(|| format!("{shown} is not a receipt bundle"))?;
        Ok((reader, bundle))
    }

    /// The next exchange; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Exchange>> {
        let at = self.at;
        let bytes = self.counted(limits::EXCHANGE_BYTES)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let shown = ForeignPath(&self.path);
        let whole = bytes.split_first_chunk::<LENGTH_BYTES>().filter(|(len, exchange)| {
            u32::try_from(exchange.len()).ok() == Some(u32::from_le_bytes(**len))
        });
        let (_, exchange) = whole.with_context(|| {
            let most = limits::EXCHANGE_BYTES;
            format!(
                "{shown} is damaged: the exchange at byte {at} is cut off, or longer than {most} \
                 bytes; what is before it is a bundle"
            )
        })?;
        let exchange = Exchange::from_bytes(exchange);
        exchange.map(Some).with_context(|| format!("{shown}: the exchange at byte {at}"))
    }

    /// A length and what follows it, at most `limit` bytes, or as much of both as there is.
    fn counted(&mut self, limit: usize) -> Result<Vec<u8>> {
        let mut bytes = self.read(LENGTH_BYTES)?;
        if let Ok(len) = <[u8; LENGTH_BYTES]>::try_from(bytes.as_slice()) {
            let len = u32::from_le_bytes(len) as usize;
            bytes.append(&mut self.read(len.min(limit))?);
        }
        Ok(bytes)
    }

    /// The next bytes, fewer at the end.
    fn read(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.file.by_ref().take(len as u64).read_to_end(&mut bytes);
        read.with_context(|| format!("can't read {}", ForeignPath(&self.path)))?;
        self.at += bytes.len() as u64;
        Ok(bytes)
    }
}
