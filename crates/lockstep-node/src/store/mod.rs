//! Model files, named by what is in them.
//!
//! ```text
//! blobs/<BLAKE3 of the bytes>   manifests and what they list; read-only, never changed
//! models/<name>.toml            a name for a manifest
//! tmp/                          blobs that are being written
//! partial/<BLAKE3>              blobs that are being fetched in pieces
//! lock                          held by imports (shared) and removals (alone)
//! ```
//!
//! Bytes are checked when they are opened, not when they are believed: [`Store::open_blobs`] hashes
//! the very map that it hands out, and only the blobs that were asked for. A damaged file is an
//! error that names it. A removal deletes only what no other model uses, and refuses to guess: it
//! does nothing while it can't read what the other models use. What interrupted imports left goes
//! with the next removal, or the next import that runs alone. A home on a file system that can only
//! be read is read; only adding and removing fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lockstep_exact::blob::Blob;
use lockstep_exact::digest::Digest;
use lockstep_exact::manifest::{BlobRef, Manifest, ManifestError};
use lockstep_exact::pieces::Outline;
use serde::{Deserialize, Serialize};

use crate::home::{self, Home};
use crate::limits;

mod import;
pub(crate) mod lock;
mod mmap;
mod name;
mod part;
pub mod space;

pub use import::{BlobWriter, Import};
use lock::StoreLock;
pub use mmap::{Mapped, MappedFile};
pub use name::{ModelName, NameError};
pub(crate) use part::Part;

/// A directory of content-addressed files.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    reserve: u64,
    patience: Duration,
    is_writable: bool,
}

/// The record of a model in the store, which its name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRecord {
    /// The manifest's digest: the model's id.
    pub manifest: Digest,
    /// The length of the manifest in bytes.
    pub manifest_bytes: u64,
    /// The place where the model came from.
    pub source: Source,
    /// Whether a server fetched what it serves of the model, so that other files of it may be
    /// missing.
    pub is_part: bool,
}

/// The place where a model came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// A description for people, such as a path or an address.
    pub text: String,
    /// The digest of the files and of how they were imported: the same files, imported in the same
    /// way, are the same model. `None` where nobody can tell.
    pub digest: Option<Digest>,
}

impl From<&str> for Source {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), digest: None }
    }
}

/// A model record as its file holds it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordFile {
    manifest: String,
    manifest_bytes: u64,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_digest: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    part: bool,
}

impl ModelRecord {
    fn to_toml(&self) -> io::Result<String> {
        let file = RecordFile {
            manifest: self.manifest.to_string(),
            manifest_bytes: self.manifest_bytes,
            source: self.source.text.clone(),
            source_digest: self.source.digest.map(|digest| digest.to_string()),
            part: self.is_part,
        };
        toml::to_string(&file).map_err(io::Error::other)
    }

    fn from_toml(text: &str) -> Result<Self, String> {
        let file: RecordFile = toml::from_str(text).map_err(|error| error.to_string())?;
        let manifest = Digest::parse(&file.manifest).ok_or("manifest is not a digest")?;
        let digest = file.source_digest.map(|text| {
            Digest::parse(&text).ok_or_else(|| "source_digest is not a digest".to_owned())
        });
        let source = Source { text: file.source, digest: digest.transpose()? };
        Ok(Self { manifest, manifest_bytes: file.manifest_bytes, source, is_part: file.part })
    }

    /// Returns the manifest as a blob of the store.
    #[must_use]
    pub const fn blob(&self) -> BlobRef {
        BlobRef { digest: self.manifest, len: self.manifest_bytes }
    }
}

/// The blobs that a removal deleted or would delete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The number of blobs, which are files.
    pub blobs: usize,
    /// The number of their bytes.
    pub bytes: u64,
}

impl Removed {
    /// Returns the sum of both removals.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { blobs: self.blobs + other.blobs, bytes: self.bytes + other.bytes }
    }

    fn add(&mut self, bytes: u64) {
        self.blobs += 1;
        self.bytes += bytes;
    }
}

/// A mapped blob with several owners.
#[derive(Clone, Debug)]
struct Shared(Arc<Mapped>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Checked blobs of one model, by their index in the manifest.
#[derive(Clone, Debug, Default)]
pub struct OpenBlobs(BTreeMap<u32, Shared>);

impl OpenBlobs {
    /// Returns a blob that was asked for when these were opened.
    pub fn get(&self, index: u32) -> Option<Blob> {
        self.0.get(&index).cloned().map(Blob::new)
    }

    /// Checks whether all files are still what they were when they were checked.
    ///
    /// # Soundness
    /// Whoever signs what was computed from these blobs must ask after computing and before
    /// signing: the maps show what is written into the files.
    ///
    /// # Errors
    /// [`StoreError::Changed`] names the blob.
    pub fn check_unchanged(&self) -> Result<(), StoreError> {
        for Shared(mapped) in self.0.values() {
            let changed = |_| StoreError::Changed { digest: mapped.digest() };
            mapped.check_unchanged().map_err(changed)?;
        }
        Ok(())
    }

    /// Returns these blobs as loaders ask for them, by their index in the manifest. One that was
    /// not opened has no bytes: a loader that asks for it then says which section is outside it.
    pub fn source(&self) -> impl Fn(u32) -> Blob {
        let empty = Blob::new(Vec::new());
        move |index| self.get(index).unwrap_or_else(|| empty.clone())
    }
}

/// Returns the blobs that the server of a span needs: those of its layers, and with the first layer
/// those of embedding, head, vocabulary and tokenizer.
#[must_use]
pub fn span_blobs(manifest: &Manifest, span: Range<u32>) -> BTreeSet<u32> {
    let head = if span.start == 0 { head_blobs(manifest) } else { BTreeSet::new() };
    let layers = manifest.layers.get(span.start as usize..span.end as usize);
    layers.unwrap_or_default().iter().map(|layer| layer.blob).chain(head).collect()
}

/// Returns the blobs that hold embedding, head, vocabulary and tokenizer.
fn head_blobs(manifest: &Manifest) -> BTreeSet<u32> {
    let head = &manifest.head;
    let text = [manifest.vocabulary_blob, manifest.tokenizer_blob];
    BTreeSet::from([head.embedding_blob, head.blob]).union(&BTreeSet::from(text)).copied().collect()
}

impl Store {
    /// Opens the store in a home, making its directories; a home that can't be written to is opened
    /// for reading. Writes leave `reserve` bytes of the disk free.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(home: &Home, reserve: u64) -> Result<Self, StoreError> {
        let root = home.root().to_owned();
        let patience = limits::STORE_LOCK_DEADLINE;
        let store = Self { root, reserve, patience, is_writable: true };
        match store.make_directories() {
            Err(StoreError::Io { source, .. })
                if home::is_refusal(&source) && store.root.is_dir() =>
            {
                Ok(Self { is_writable: false, ..store })
            }
            made => made.map(|()| store),
        }
    }

    fn make_directories(&self) -> Result<(), StoreError> {
        for dir in [self.blobs(), self.records(), self.temporary(), self.partial()] {
            home::create_private_dir(&dir).map_err(StoreError::io("create", &dir))?;
        }
        let lock = self.lock_path();
        StoreLock::make(&lock).map_err(StoreError::io("make", &lock))
    }

    /// Returns whether models can be added and removed.
    pub fn is_writable(&self) -> bool {
        self.is_writable
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        if self.is_writable {
            Ok(())
        } else {
            Err(StoreError::ReadOnly { root: self.root.clone() })
        }
    }

    /// Begins to add a model to the store. If no other process is writing, what interrupted writers
    /// left behind is removed.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if a removal holds the store too long, [`StoreError::ReadOnly`].
    pub fn begin(&self) -> Result<Import<'_>, StoreError> {
        self.check_writable()?;
        self.clean_if_alone()?;
        let path = self.lock_path();
        let lock =
            StoreLock::shared(&path, self.patience).map_err(StoreError::io("lock", &path))?;
        Ok(Import::new(self, lock.ok_or(StoreError::Busy)?))
    }

    /// Removes what dead writers left, and every blob that no model uses, if nobody else changes
    /// the store now. What can't be told apart from what models use stays.
    fn clean_if_alone(&self) -> Result<(), StoreError> {
        let lock = self.lock_path();
        let alone = StoreLock::exclusive(&lock, Duration::ZERO);
        if let Some(_alone) = alone.map_err(StoreError::io("lock", &lock))?
            && let Err(error) = self.sweep_alone()
        {
            tracing::warn!(%error, "what interrupted imports left could not be removed");
        }
        Ok(())
    }

    /// Returns the records of all models, by their names.
    ///
    /// # Errors
    /// [`StoreError`] if a record can't be read.
    pub fn models(&self) -> Result<BTreeMap<ModelName, ModelRecord>, StoreError> {
        let dir = self.records();
        let unreadable = || StoreError::io("read", &dir);
        let mut models = BTreeMap::new();
        let entries = match fs::read_dir(&dir) {
            // A home for reading in which nobody has written yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_writable => {
                return Ok(models);
            }
            entries => entries.map_err(unreadable())?,
        };
        for entry in entries {
            let file = entry.map_err(unreadable())?.file_name();
            let stem = file.to_str().and_then(|file| file.strip_suffix(".toml"));
            if let Some(Ok(name)) = stem.map(str::parse::<ModelName>) {
                let record = self.record(&name)?;
                models.insert(name, record);
            }
        }
        Ok(models)
    }

    /// Returns the record that a name stands for.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] with the names that there are.
    pub fn record(&self, name: &ModelName) -> Result<ModelRecord, StoreError> {
        let path = self.record_path(name);
        let text = match home::read_capped(&path, limits::MODEL_RECORD_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Unknown { name: name.clone() });
            }
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        let record = ModelRecord::from_toml(&String::from_utf8_lossy(&text));
        record.map_err(|detail| StoreError::Record { path, detail })
    }

    /// Reads the manifest of a model, and checks it against its digest and for contradictions.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn manifest(&self, record: &ModelRecord) -> Result<Manifest, StoreError> {
        let (digest, len) = (record.manifest, record.manifest_bytes);
        if len > limits::MANIFEST_BYTES {
            return Err(StoreError::TooLong { digest, len, limit: limits::MANIFEST_BYTES });
        }
        let bytes = self.open_blob(&record.blob())?;
        Manifest::parse(&bytes).map_err(|source| StoreError::Manifest { digest, source })
    }

    /// Reads a manifest that is in the store, whether or not a name stands for it yet.
    ///
    /// # Errors
    /// As [`Store::manifest`].
    pub fn manifest_of(&self, model: Digest) -> Result<Manifest, StoreError> {
        let missing = |_| StoreError::Missing { digest: model };
        let file = fs::metadata(self.blob_path(&model)).map_err(missing)?;
        let source = Source::from("");
        let manifest_bytes = file.len();
        self.manifest(&ModelRecord { manifest: model, manifest_bytes, source, is_part: true })
    }

    /// Opens, checks and maps what the server of a span of layers needs, and nothing else: with
    /// the first layer come embedding, head, vocabulary and tokenizer.
    ///
    /// # Errors
    /// As [`Store::open_blobs`].
    pub fn open_span(
        &self,
        manifest: &Manifest,
        span: Range<u32>,
    ) -> Result<OpenBlobs, StoreError> {
        self.open_blobs(manifest, span_blobs(manifest, span))
    }

    /// Opens, checks and maps the blobs with these indices, and no others.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] or [`StoreError::Missing`] names the blob.
    pub fn open_blobs(
        &self,
        manifest: &Manifest,
        indices: impl IntoIterator<Item = u32>,
    ) -> Result<OpenBlobs, StoreError> {
        let mut open = BTreeMap::new();
        for index in indices {
            let blob = manifest.blobs.get(index as usize).ok_or_else(|| {
                let (at, count) = ("blob index".to_owned(), manifest.blobs.len());
                let (expected, got) = (format!("below {count}"), index.to_string());
                let source = ManifestError::Inconsistent { at, expected, got };
                StoreError::Manifest { digest: manifest.id(), source }
            })?;
            open.insert(index, Shared(Arc::new(self.open_blob(blob)?)));
        }
        Ok(OpenBlobs(open))
    }

    /// Returns the blobs with these indices that are not in the store, or have another length
    /// there.
    #[must_use]
    pub fn missing(&self, manifest: &Manifest, indices: &BTreeSet<u32>) -> Vec<BlobRef> {
        let blobs = indices.iter().filter_map(|index| manifest.blobs.get(*index as usize));
        blobs.filter(|blob| self.find_blob(blob).is_err()).copied().collect()
    }

    /// Computes the outline of a blob; none if it is not here, or not what it was.
    #[must_use]
    pub fn outline(&self, blob: &BlobRef) -> Option<Outline> {
        self.find_blob(blob).ok()?;
        let file = MappedFile::open(&self.blob_path(&blob.digest)).ok()?;
        let outline = Outline::of(file.as_ref());
        file.check_unchanged().ok()?;
        Outline::checked(blob.digest, blob.len, outline.values().to_vec())
    }

    /// Reads `len` bytes of a blob from `offset` on. They are not checked: whoever gets them does
    /// that.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`] if it has another length,
    /// [`StoreError::Io`].
    pub fn read_blob(&self, blob: &BlobRef, offset: u64, len: u64) -> Result<Vec<u8>, StoreError> {
        let mut file = self.find_blob(blob)?;
        let mut bytes = Vec::new();
        let path = self.blob_path(&blob.digest);
        let read = file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| file.take(len).read_to_end(&mut bytes).map(drop));
        read.map_err(StoreError::io("read", &path))?;
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(StoreError::Damaged { path }) }
    }

    /// Opens, checks and maps one blob.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] or [`StoreError::Missing`].
    pub fn open_blob(&self, blob: &BlobRef) -> Result<Mapped, StoreError> {
        let file = self.find_blob(blob)?;
        let path = self.blob_path(&blob.digest);
        let mapped = Mapped::new(file).map_err(StoreError::io("map", &path))?;
        if mapped.digest() != blob.digest {
            return Err(StoreError::Damaged { path });
        }
        Ok(mapped)
    }

    /// Returns the damage of a model's blobs: those that are missing or of another length, and, if
    /// `reads_bytes`, those whose bytes have another digest.
    pub fn damage(&self, manifest: &Manifest, reads_bytes: bool) -> Vec<StoreError> {
        let look = |blob: &BlobRef| match reads_bytes {
            true => self.open_blob(blob).map(drop),
            false => self.find_blob(blob).map(drop),
        };
        manifest.blobs.iter().filter_map(|blob| look(blob).err()).collect()
    }

    /// Maps bytes, given in pieces, as a model's are mapped: from a file, but one that has no name
    /// any more and whose space is freed with the map. For weights that are made for one run.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`], [`StoreError::Io`].
    pub fn map_unnamed(&self, pieces: &[&[u8]]) -> Result<Mapped, StoreError> {
        let import = self.begin()?;
        import.check_space(pieces.iter().map(|piece| piece.len() as u64).sum())?;
        let mut writer = import.writer()?;
        let path = writer.path().to_owned();
        for piece in pieces {
            writer.write_all(piece).map_err(StoreError::io("write", &path))?;
        }
        writer.map_unnamed()
    }

    /// Removes a name, and every blob that no model uses then: none if it can't be told what the
    /// others use.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove(&self, name: &ModelName) -> Result<Removed, StoreError> {
        let _lock = self.lock_alone()?;
        match self.record(name) {
            Ok(_) | Err(StoreError::Record { .. }) => {}
            Err(other) => return Err(other),
        }
        let path = self.record_path(name);
        fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        // Where another manifest is unreadable the blobs stay, until it is repaired or removed.
        match self.sweep_alone() {
            Err(StoreError::Io { what: "remove", path, source }) => {
                Err(StoreError::Io { what: "remove", path, source })
            }
            swept => Ok(swept.unwrap_or_default()),
        }
    }

    /// Removes every blob that no model uses, and what dead writers left.
    ///
    /// # Errors
    /// [`StoreError`]; no blob is removed if it can't be told what the models use.
    pub fn sweep(&self) -> Result<Removed, StoreError> {
        let _lock = self.lock_alone()?;
        self.sweep_alone()
    }

    /// Returns what [`sweep`](Self::sweep) would remove, if no other process is writing now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn leftovers(&self) -> Result<Removed, StoreError> {
        let mut left = Removed::default();
        for path in self.unused()? {
            left.add(fs::metadata(path).map_or(0, |metadata| metadata.len()));
        }
        Ok(left)
    }

    fn sweep_alone(&self) -> Result<Removed, StoreError> {
        Self::delete(self.unused()?)
    }

    /// Returns the files of blobs that no model uses, and temporary ones.
    fn unused(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut files = Vec::new();
        let mut list = |dir: PathBuf, is_unused: &dyn Fn(&str) -> bool| {
            let entries = match fs::read_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                entries => entries.map_err(StoreError::io("read", &dir))?,
            };
            for entry in entries {
                let file = entry.map_err(StoreError::io("read", &dir))?.file_name();
                if file.to_str().is_some_and(is_unused) {
                    files.push(dir.join(file));
                }
            }
            Ok::<(), StoreError>(())
        };
        list(self.temporary(), &|_| true)?;
        list(self.records(), &|file| file.starts_with(home::BESIDE))?;
        // Blobs that are linked to from here are another home's, whose lock this one does not hold.
        if fs::symlink_metadata(self.blobs()).is_ok_and(|blobs| blobs.is_symlink()) {
            return Ok(files);
        }
        let mut used = BTreeSet::new();
        for record in self.models()?.values() {
            used.extend(self.uses(record)?);
        }
        let is_unused = |file: &str| Digest::parse(file).is_some_and(|blob| !used.contains(&blob));
        list(self.blobs(), &is_unused)?;
        let is_there = |blob: &Digest| self.blob_path(blob).exists();
        let is_done = |file: &str| Digest::parse(file).is_none_or(|blob| is_there(&blob));
        list(self.partial(), &|file| is_unused(file) || is_done(file))?;
        Ok(files)
    }

    fn delete(paths: Vec<PathBuf>) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        for path in paths {
            let bytes = fs::metadata(&path).map(|metadata| metadata.len());
            match bytes.and_then(|bytes| fs::remove_file(&path).map(|()| bytes)) {
                Ok(bytes) => removed.add(bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("remove", &path)(error)),
            }
        }
        Ok(removed)
    }

    /// Returns every blob that a model uses, its manifest included.
    fn uses(&self, record: &ModelRecord) -> Result<BTreeSet<Digest>, StoreError> {
        let manifest = self.manifest(record)?;
        let blobs = manifest.blobs.iter().map(|blob| blob.digest);
        Ok(blobs.chain([record.manifest]).collect())
    }

    fn lock_alone(&self) -> Result<StoreLock, StoreError> {
        self.check_writable()?;
        let path = self.lock_path();
        let lock = StoreLock::exclusive(&path, self.patience);
        lock.map_err(StoreError::io("lock", &path))?.ok_or(StoreError::Busy)
    }

    /// Returns the file of a blob, if it has the right length; its bytes are not looked at.
    fn find_blob(&self, blob: &BlobRef) -> Result<File, StoreError> {
        let path = self.blob_path(&blob.digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing { digest: blob.digest });
            }
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        };
        let len = file.metadata().map_err(StoreError::io("read", &path))?.len();
        if len == blob.len { Ok(file) } else { Err(StoreError::Damaged { path }) }
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    fn records(&self) -> PathBuf {
        self.root.join("models")
    }

    fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn lock_path(&self) -> PathBuf {
        self.root.join("lock")
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.to_string())
    }

    fn record_path(&self, name: &ModelName) -> PathBuf {
        self.records().join(format!("{name}.toml"))
    }
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Others are changing the store and didn't finish in time.
    #[error("another process is changing the store; try again when it is done")]
    Busy,
    /// A blob's file was changed while it was in use.
    #[error(
        "the file of blob {} was changed while it was in use; nothing that is computed from it can \
         be believed: `lockstep doctor --deep` says what is damaged",
        digest.short()
    )]
    Changed {
        /// The digest of the blob.
        digest: Digest,
    },
    /// A file's bytes are not those of its name.
    #[error(
        "{} is damaged; `lockstep pull` or `lockstep import` of the model repairs it",
        path.display()
    )]
    Damaged {
        /// The path of the file.
        path: PathBuf,
    },
    /// The disk has too little room.
    #[error(transparent)]
    DiskFull(#[from] space::DiskFull),
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
    /// A manifest can't be decoded, or contradicts itself.
    #[error(
        "manifest {} is damaged, or another version of lockstep made it; `lockstep rm` the model \
         and get it again",
        digest.short()
    )]
    Manifest {
        /// The digest of the manifest.
        digest: Digest,
        /// The error with which its check failed.
        source: ManifestError,
    },
    /// A blob of a model is not in the store.
    #[error(
        "the store has no blob {}; `lockstep pull` or `lockstep import` of the model brings it",
        digest.short()
    )]
    Missing {
        /// The digest of the blob.
        digest: Digest,
    },
    /// There is no name that a model could be kept under.
    #[error("no name for model {} is free; `lockstep rm` one that is not needed", id.short())]
    NoName {
        /// The id of the model.
        id: Digest,
    },
    /// The name stands for another model.
    #[error(
        "the name {name} stands for another model ({}): give this one another with --name NAME, or \
         replace that one with --replace",
        id.short()
    )]
    NameTaken {
        /// The name that was asked for.
        name: ModelName,
        /// The id of the model that has the name.
        id: Digest,
    },
    /// The home folder can't be written to.
    #[error(
        "{} can only be read here, so no model can be added or removed: set LOCKSTEP_HOME (or \
         --home) to a directory that you can write to",
        root.display()
    )]
    ReadOnly {
        /// The path of the home folder.
        root: PathBuf,
    },
    /// A model record can't be read.
    #[error("{}: {detail}", path.display())]
    Record {
        /// The path of the record's file.
        path: PathBuf,
        /// The error, with the line in the file.
        detail: String,
    },
    /// A manifest is longer than any model's.
    #[error("manifest {} is {len} bytes long, at most {limit} are allowed", digest.short())]
    TooLong {
        /// The digest of the manifest.
        digest: Digest,
        /// The length of the manifest in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// No model in the store has this name.
    #[error("there is no model {name}; see `lockstep list`, or get it with `lockstep pull`")]
    Unknown {
        /// The name that was asked for.
        name: ModelName,
    },
}

impl StoreError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

#[cfg(test)]
mod tests;
