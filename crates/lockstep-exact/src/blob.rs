//! Shared, immutable bytes: a mapped file or a vector, and ranges of it.

use core::fmt;
use std::sync::Arc;

/// The alignment of the sections of a model's blob, in bytes: they start at multiples of it.
pub const SECTION: usize = 64;

/// Pads a blob that is being made to where its next section starts, and returns that offset.
pub fn start_section(blob: &mut Vec<u8>) -> u64 {
    blob.resize(blob.len().next_multiple_of(SECTION), 0);
    blob.len() as u64
}

/// Appends a section to a blob that is being made, and returns its offset.
pub fn append_section(blob: &mut Vec<u8>, section: &[u8]) -> u64 {
    let offset = start_section(blob);
    blob.extend_from_slice(section);
    offset
}

/// Immutable bytes owned by somebody else: a memory map, a vector.
#[derive(Clone)]
pub struct Blob(Arc<dyn AsRef<[u8]> + Send + Sync>);

impl Blob {
    /// Shares `owner`'s bytes, which must not change.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(owner))
    }

    /// Returns all bytes of the blob.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        (*self.0).as_ref()
    }

    /// Returns the bytes `start..start + len`, or `None` if they are not all inside the blob.
    #[must_use]
    pub fn slice(&self, start: usize, len: usize) -> Option<Slice> {
        let end = start.checked_add(len)?;
        (end <= self.as_slice().len()).then(|| Slice { blob: self.clone(), start, len })
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.as_slice().len())
    }
}

/// A range of a [`Blob`], which keeps the blob alive.
#[derive(Clone, Debug)]
pub struct Slice {
    blob: Blob,
    start: usize,
    len: usize,
}

impl Slice {
    /// Returns the bytes of the range.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.blob.as_slice()[self.start..self.start + self.len]
    }

    /// Returns the number of bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the range has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}
