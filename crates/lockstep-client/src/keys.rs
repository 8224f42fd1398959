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

/// The reasons why a key can't be read, made or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The operations that compute a key could not be started.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Other users of the machine can read or change the key file.
    #[error(
        "{path} can be read or changed by others, and whoever has it can fool you: make a new one \
         with `lockstep key --force`, or run: chmod 600 {path}",
        path = path.display()
    )]
    Exposed {
        /// The path of the key file.
        path: PathBuf,
    },
    /// The key could not be derived from the model's weights.
    #[error(transparent)]
    Make(KeyError),
    /// The system gave no random bytes.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The file does not hold a key of this version.
    #[error("{}", path.display())]
    NotAKey {
        /// The path of the file.
        path: PathBuf,
        /// The error with which its decoding failed.
        source: KeyError,
    },
    /// The key file could not be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The path of the key file.
        path: PathBuf,
        /// The error of reading it.
        source: ReadSecretError,
    },
    /// The model's weights can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key file could not be written.
    #[error(transparent)]
    Write(#[from] NotWritten),
}

/// Reads the key in the file at `path`.
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

/// Makes a key for a model from its weights. `progress` is called with the number of layers that
/// are done.
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
