//! Adds a model to the store.
//!
//! A blob is written beside its place, made durable and read-only, and renamed to its digest: a
//! reader sees all of it or nothing. While an [`Import`] lives nothing is removed from the store.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::digest::Digest;
use lockstep_exact::manifest::{BlobRef, Manifest};
use lockstep_import::package::Sink;

use super::lock::StoreLock;
use super::{Mapped, ModelName, ModelRecord, Source, Store, StoreError, space};
use crate::home;

/// One model on its way into the store. Any number may run at once, in any number of processes.
///
/// Dropped without [`Import::publish`], it leaves blobs that no model uses: the next import that
/// runs alone removes them.
#[derive(Debug)]
pub struct Import<'a> {
    store: &'a Store,
    _lock: StoreLock,
}

/// Whether all blobs of a model have to be in the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Yes,
    No,
}

impl<'a> Import<'a> {
    pub(super) fn new(store: &'a Store, lock: StoreLock) -> Self {
        Self { store, _lock: lock }
    }

    /// Checks that the disk has room for `bytes` more bytes. Call it before the work, with the sum
    /// of all that will be written.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`].
    pub fn check_space(&self, bytes: u64) -> Result<(), StoreError> {
        let root = &self.store.root;
        let room = space::check(root, bytes, self.store.reserve);
        Ok(room.map_err(StoreError::io("measure", root))??)
    }

    /// Stores a blob; does nothing if a good copy is there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn put(&self, bytes: &[u8]) -> Result<BlobRef, StoreError> {
        let blob = BlobRef { digest: Digest::of(bytes), len: bytes.len() as u64 };
        if self.store.open_blob(&blob).is_ok() {
            return Ok(blob);
        }
        self.check_space(blob.len)?;
        let mut writer = self.writer()?;
        writer.write_all(bytes).map_err(StoreError::io("write", &writer.beside))?;
        writer.finish()
    }

    /// Stores a blob whose bytes come bit by bit.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn writer(&self) -> Result<BlobWriter<'_>, StoreError> {
        let dir = self.store.temporary();
        let unique = home::unique().map_err(StoreError::io("name a file in", &dir))?;
        let beside = dir.join(format!("{unique:016x}"));
        let failed = StoreError::io("create", &beside);
        let file = home::create_private_file(&beside).map_err(failed)?;
        Ok(BlobWriter {
            store: self.store,
            beside,
            file,
            hasher: blake3::Hasher::new(),
            len: 0,
            placed: false,
        })
    }

    /// Gives a model its name in the store. All blobs of the manifest must be in the store already.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`] if the name stands for another model, [`StoreError::Manifest`] if
    /// the manifest contradicts itself, [`StoreError::Missing`] if a blob isn't here.
    pub fn publish(
        self,
        name: &ModelName,
        manifest: &Manifest,
        source: impl Into<Source>,
    ) -> Result<Digest, StoreError> {
        match self.store.record(name) {
            Ok(record) if record.manifest != manifest.id() => {
                Err(StoreError::NameTaken { name: name.clone(), id: record.manifest })
            }
            Ok(_) | Err(StoreError::Unknown { .. } | StoreError::Record { .. }) => {
                self.place(name, manifest, source.into(), Whole::Yes)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a name to a model of which a part will be here: what a server of some of its layers
    /// needs. A name that stands for this model already is left as it is, so a model that is whole
    /// stays so.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), but for missing blobs.
    pub fn publish_part(
        self,
        name: &ModelName,
        manifest: &Manifest,
        source: impl Into<Source>,
    ) -> Result<Digest, StoreError> {
        match self.store.record(name) {
            Ok(record) if record.manifest == manifest.id() => Ok(record.manifest),
            Ok(record) => Err(StoreError::NameTaken { name: name.clone(), id: record.manifest }),
            Err(StoreError::Unknown { .. } | StoreError::Record { .. }) => {
                self.place(name, manifest, source.into(), Whole::No)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a model its name as [`publish`](Self::publish) does, but takes the name from the model
    /// that had it, and removes the blobs of that model that no other uses.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), but for [`StoreError::NameTaken`].
    pub fn replace(
        self,
        name: &ModelName,
        manifest: &Manifest,
        source: impl Into<Source>,
    ) -> Result<Digest, StoreError> {
        let store = self.store;
        let id = self.place(name, manifest, source.into(), Whole::Yes)?;
        store.clean_if_alone()?;
        Ok(id)
    }

    fn place(
        self,
        name: &ModelName,
        manifest: &Manifest,
        source: Source,
        whole: Whole,
    ) -> Result<Digest, StoreError> {
        manifest
            .check()
            .map_err(|source| StoreError::Manifest { digest: manifest.id(), source })?;
        if whole == Whole::Yes {
            for blob in &manifest.blobs {
                self.store.find_blob(blob)?;
            }
        }
        let bytes = manifest.to_bytes();
        let id = self.put(&bytes)?;
        let is_part = whole == Whole::No;
        let record = ModelRecord { manifest: id.digest, manifest_bytes: id.len, source, is_part };
        let path = self.store.record_path(name);
        let failed = StoreError::io("write", &path);
        let written = record.to_toml().and_then(|text| home::write_private(&path, text.as_bytes()));
        written.map_err(failed)?;
        Ok(id.digest)
    }
}

impl Sink for Import<'_> {
    type Error = StoreError;

    fn put_blob(&mut self, bytes: Vec<u8>) -> Result<Digest, StoreError> {
        Ok(self.put(&bytes)?.digest)
    }
}

/// A writer of one blob of the store. Dropped without [`BlobWriter::finish`], it leaves nothing
/// behind.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    store: &'a Store,
    beside: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    len: u64,
    placed: bool,
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        let taken = bytes.get(..written).unwrap_or_default();
        self.hasher.update(taken);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter<'_> {
    /// Makes the blob durable and puts it in its place.
    ///
    /// # Errors
    /// [`StoreError::Io`]; then nothing is stored.
    pub fn finish(mut self) -> Result<BlobRef, StoreError> {
        let blob = BlobRef { digest: Digest(*self.hasher.finalize().as_bytes()), len: self.len };
        let place = self.store.blob_path(&blob.digest);
        self.place(&place).map_err(StoreError::io("store", &place))?;
        self.placed = true;
        Ok(blob)
    }

    /// Returns the path at which the bytes lie until the blob is finished.
    pub(super) fn path(&self) -> &Path {
        &self.beside
    }

    /// Maps the bytes and gives up their name: nobody can open them any more.
    pub(super) fn map_unnamed(self) -> Result<Mapped, StoreError> {
        let path = self.beside.clone();
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        // Takes the name and the only handle that can write.
        drop(self);
        Mapped::new(file).map_err(StoreError::io("map", &path))
    }

    fn place(&self, place: &Path) -> io::Result<()> {
        make_read_only(&self.file)?;
        self.file.sync_all()?;
        fs::rename(&self.beside, place)?;
        home::sync_dir(&self.store.blobs())
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        if !self.placed {
            // What is left here goes with the next import that runs alone.
            let _ = fs::remove_file(&self.beside);
        }
    }
}

pub(super) fn make_read_only(file: &File) -> io::Result<()> {
    let mut permissions = file.metadata()?.permissions();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        permissions.set_mode(0o400);
    }
    #[cfg(not(unix))]
    permissions.set_readonly(true);
    file.set_permissions(permissions)
}
