//! The lock of the store: any number of imports may hold it, or one removal, in all processes
//! together.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// The time between attempts to take a lock that another process holds.
const RETRY: Duration = Duration::from_millis(20);

/// A lock on the store, held until it is dropped. The system frees it if the process dies.
#[derive(Debug)]
pub(crate) struct StoreLock {
    _file: File,
}

impl StoreLock {
    /// Makes the file that processes lock.
    pub(super) fn make(path: &Path) -> io::Result<()> {
        OpenOptions::new().create(true).append(true).open(path).map(drop)
    }

    /// Takes the lock for adding models; `Ok(None)` if a removal holds the store for all of
    /// `patience`.
    pub(super) fn shared(path: &Path, patience: Duration) -> io::Result<Option<Self>> {
        Self::take(path, patience, File::try_lock_shared)
    }

    /// Takes the lock for removing models; `Ok(None)` if anyone else holds the store for all of
    /// `patience`.
    pub(crate) fn exclusive(path: &Path, patience: Duration) -> io::Result<Option<Self>> {
        Self::take(path, patience, File::try_lock)
    }

    fn take(
        path: &Path,
        patience: Duration,
        attempt: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let deadline = Instant::now() + patience;
        loop {
            match attempt(&file) {
                Ok(()) => return Ok(Some(Self { _file: file })),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(None),
                Err(TryLockError::WouldBlock) => std::thread::sleep(RETRY),
            }
        }
    }
}
