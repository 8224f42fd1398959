//! The free space of a disk.

use std::io;
use std::path::Path;

/// Returns the number of bytes that this user may still write to the file system of `path`; `None`
/// where the system can't be asked.
///
/// # Errors
/// What the system says.
pub fn free_bytes(path: &Path) -> io::Result<Option<u64>> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        Ok(None)
    }
}

/// A write would not leave the reserve free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not enough disk space for {}: {} MiB are needed and {} MiB are to stay free, but only {} MiB \
     are free",
    path.display(), mib(*needed), mib(*reserve), mib(*free)
)]
pub struct DiskFull {
    /// The path at which the bytes were to be written.
    pub path: std::path::PathBuf,
    /// The number of bytes to write.
    pub needed: u64,
    /// The number of bytes to leave free.
    pub reserve: u64,
    /// The number of bytes that are free.
    pub free: u64,
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Checks that `needed` bytes can be written beside `path` while `reserve` bytes stay free. A
/// system that does not say how much is free is taken to have room.
///
/// # Errors
/// `Ok(Err(DiskFull))` if they can't; the outer error is the system's.
pub fn check(path: &Path, needed: u64, reserve: u64) -> io::Result<Result<(), DiskFull>> {
    let Some(free) = free_bytes(path)? else { return Ok(Ok(())) };
    if needed.saturating_add(reserve) <= free {
        return Ok(Ok(()));
    }
    Ok(Err(DiskFull { path: path.to_owned(), needed, reserve, free }))
}
