//! Models of several files: all parts of a split GGUF file, or a folder of safetensors files.
//!
//! They lie together in a directory of their own, under the names that they have in the repository,
//! until they are imported; what a broken off pull has brought is there for the next one.

use std::path::{Path, PathBuf};

use lockstep_import::limits::{MAX_CONFIG_BYTES, MAX_TOKENIZER_JSON_BYTES};
use lockstep_import::safetensors::{CARD, INDEX, MORE_TEMPLATES, TOKENIZER, template_name};
use lockstep_import::source::{Checksum, FolderFiles, HubRef, RemoteFile, Sha256};

use super::{Fetched, Progress, PullError, Puller, Wanted, http};
use crate::home;

/// The file by which a process holds a directory. No repository's name begins with a dot.
pub(super) const LOCK: &str = ".lock";

/// A directory that is one model's, held by this process alone.
#[derive(Debug)]
pub(super) struct OwnDir {
    path: PathBuf,
    lock: http::Part,
}

impl OwnDir {
    fn open(path: &Path) -> Result<Self, PullError> {
        home::create_private_dir(path).map_err(PullError::io("create", path))?;
        let lock = http::Part::open(&path.join(LOCK))?;
        Ok(Self { path: path.to_owned(), lock })
    }

    pub(super) fn remove(self) -> Result<(), PullError> {
        // The lock is freed last: another process must not begin in a directory that goes.
        let removed = std::fs::remove_dir_all(&self.path);
        drop(self.lock);
        removed.map_err(PullError::io("remove", &self.path))
    }
}

impl Puller {
    /// Gets all parts of a split GGUF file.
    pub(super) async fn parts(
        &self,
        reference: &HubRef,
        parts: &[&RemoteFile],
        pinned: Option<Checksum>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Fetched, PullError> {
        let own = self.own_dir(reference, parts)?;
        let wanted = self.all_wanted(reference, parts, pinned, &own.path)?;
        self.bring_all(reference, parts, &wanted, progress).await?;
        let first = wanted.first().ok_or(PullError::Nowhere)?;
        let (path, origin) = (first.place.clone(), first.origin.clone());
        Ok(together(path, origin, &wanted, own))
    }

    /// Gets the files of a safetensors folder: first what describes the model, which may name the
    /// files of weights.
    pub(super) async fn folder(
        &self,
        reference: &HubRef,
        folder: &FolderFiles<'_>,
        pinned: Option<Checksum>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Fetched, PullError> {
        // Only a licence is read of the card: a long one is no reason to go without the model.
        let is_read =
            |file: &&RemoteFile| file.path != CARD || file.bytes <= MAX_CONFIG_BYTES as u64;
        let describing: Vec<_> = folder.describing.iter().copied().filter(is_read).collect();
        for file in &describing {
            check_describing(reference, file)?;
        }
        let own = self.own_dir(reference, &describing)?;
        // The folder's name is the model's, as where the repository is cloned.
        let dir = own.path.join(&reference.repository);
        home::create_private_dir(&dir).map_err(PullError::io("create", &dir))?;
        if describing.iter().any(|file| template_name(&file.path).is_some()) {
            let templates = dir.join(MORE_TEMPLATES);
            home::create_private_dir(&templates).map_err(PullError::io("create", &templates))?;
        }
        let mut index = None;
        if let Some(file) = folder.index {
            let wanted = self.all_wanted(reference, &[file], pinned, &dir)?;
            self.bring_all(reference, &[file], &wanted, progress).await?;
            let path = dir.join(INDEX);
            index = Some(std::fs::read(&path).map_err(PullError::io("read", &path))?);
        }
        let weights = folder.weights(index.as_deref())?;
        let files: Vec<_> = describing.into_iter().chain(weights).collect();
        let wanted = self.all_wanted(reference, &files, pinned, &dir)?;
        self.bring_all(reference, &files, &wanted, progress).await?;
        let origin = HubRef { file: None, ..reference.clone() }.to_string();
        Ok(together(dir, origin, &wanted, own))
    }

    /// Returns the directory of a model, by where it comes from and the digests of these files.
    fn own_dir(&self, reference: &HubRef, files: &[&RemoteFile]) -> Result<OwnDir, PullError> {
        let mut text = format!("hf:{}/{}\n", reference.organisation, reference.repository);
        for file in files {
            let checksum = file.checksum.map_or_else(String::new, |known| known.digits());
            text += &format!("{} {checksum}\n", file.path);
        }
        let name = Sha256::of(text.as_bytes(), |_| ());
        let name = name.map_err(PullError::io("name a directory in", &self.downloads))?;
        OwnDir::open(&self.downloads.join(name.to_string()))
    }

    fn all_wanted(
        &self,
        reference: &HubRef,
        files: &[&RemoteFile],
        pinned: Option<Checksum>,
        dir: &Path,
    ) -> Result<Vec<Wanted>, PullError> {
        let templates = dir.join(MORE_TEMPLATES);
        let place = |file: &RemoteFile| match template_name(&file.path) {
            Some(_) => &templates,
            None => dir,
        };
        files.iter().map(|file| self.wanted(reference, file, pinned, Some(place(file)))).collect()
    }

    /// Gets files one after another, once there is room for all of them.
    async fn bring_all(
        &self,
        reference: &HubRef,
        files: &[&RemoteFile],
        wanted: &[Wanted],
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), PullError> {
        let total = wanted.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes));
        self.check_length(&reference.to_string(), total)?;
        let missing = wanted.iter().map(|file| self.missing(file));
        self.check_disk(missing.fold(0, u64::saturating_add))?;
        let mut before = 0;
        for (file, wanted) in files.iter().zip(wanted) {
            let mut shifted = |now: Progress| progress(now.within(before, total));
            self.bring(reference, file, wanted, &mut shifted).await?;
            before += wanted.bytes;
        }
        Ok(())
    }

    /// Returns the number of bytes of a file that are not here, as far as lengths tell.
    fn missing(&self, file: &Wanted) -> u64 {
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let here = length(&file.place).max(length(&self.part_path(file)));
        file.bytes.saturating_sub(here)
    }
}

/// Refuses a describing file that no import would read.
fn check_describing(reference: &HubRef, file: &RemoteFile) -> Result<(), PullError> {
    let long = [TOKENIZER, INDEX].contains(&file.path.as_str());
    let limit = if long { MAX_TOKENIZER_JSON_BYTES } else { MAX_CONFIG_BYTES } as u64;
    if file.bytes > limit {
        let origin = HubRef { file: Some(file.path.clone()), ..reference.clone() }.to_string();
        return Err(PullError::TooLong { origin, bytes: file.bytes, limit });
    }
    Ok(())
}

fn together(path: PathBuf, origin: String, files: &[Wanted], own: OwnDir) -> Fetched {
    let checksums = files.iter().map(|file| file.checksum).collect();
    let bytes = files.iter().map(|file| file.bytes).sum();
    Fetched { path, origin, checksums, bytes, own: Some(own) }
}
