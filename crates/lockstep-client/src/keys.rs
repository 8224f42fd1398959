//! The secrets with which this machine verifies models' answers: one file for each model.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use lockstep_node::home::{self, ReadSecretError};
use lockstep_node::limits;
use lockstep_node::store::StoreError;
use lockstep_verify::key::{Key, KeyError};

use crate::backend::{BackendError, backend};
use crate::bundle_file::NotWritten;
use crate::model::{self, Model};
use crate::place::Place;
use crate::random::{self, NoRandomness};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is nothing to compute it with.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Others can read it.
    #[error(
        "{path} can be read or changed by others, and whoever has it can fool you: make a new one \
         with `lockstep key --force`, or run: chmod 600 {path}",
        path = path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// It can't be made of the model.
    #[error(transparent)]
    Make(KeyError),
    /// There are no random bytes.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The file holds no key.
    #[error("{}", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// It can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ReadSecretError,
    },
    /// The model's weights can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It can't be written.
    #[error(transparent)]
    Write(#[from] NotWritten),
}

/// Reads a key file.
///
/// # Errors
/// [`KeyFileError`].
pub fn read(path: &Path) -> Result<Key, KeyFileError> {
    let path = || path.to_owned();
    let bytes = match home::read_secret(&path(), limits::KEY_BYTES) {
        Err(ReadSecretError::Exposed) => return Err(KeyFileError::Exposed { path: path() }),
        read => read.map_err(|source| KeyFileError::Read { path: path(), source })?,
    };
    Key::from_file(&bytes).map_err(|source| KeyFileError::NotAKey { path: path(), source })
}

/// Writes a key file, for its owner's eyes only.
///
/// # Errors
/// [`NotWritten`].
pub fn write(path: &Path, key: &Key) -> Result<(), NotWritten> {
    let written = home::write_private(path, &key.to_file());
    written.map_err(|source| NotWritten { path: path.to_owned(), source })
}

/// Makes a key for a model. `progress` hears how many layers are done.
///
/// # Errors
/// [`KeyFileError`].
pub fn make(place: &Place, model: &Model, progress: impl FnMut(u32)) -> Result<Key, KeyFileError> {
    let blobs = model.all_blobs(&place.store)?;
    let (ops, manifest) = (backend(None)?, model.manifest.clone());
    Key::generate(&ops, manifest, random::secret()?, blobs.source(), progress)
        .map_err(KeyFileError::Make)
}

/// Returns the key in the keys folder, made now if there is none. In a home that can't be read or
/// written it is made, and serves this once.
///
/// # Errors
/// [`KeyFileError`].
pub fn ensure(
    place: &Place,
    model: &Model,
    progress: impl FnMut(u32),
) -> Result<Key, KeyFileError> {
    let path = model::key_path(place, &model.record.manifest);
    match fs::File::open(&path) {
        // Somebody else's home: a key of one's own is made from the model, and serves this once.
        Err(error) if home::is_refusal(&error) => return make(place, model, progress),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Ok(_) | Err(_) => return read(&path),
    }
    let key = make(place, model, progress)?;
    match write(&path, &key) {
        Err(NotWritten { source, .. }) if home::is_refusal(&source) => Ok(key),
        written => {
            written?;
            Ok(key)
        }
    }
}
