//! The home folder of a client, with its settings and its models.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use lockstep_node::config::{Config, ConfigError};
use lockstep_node::home::{Home, NoHome};
use lockstep_node::memory::MemoryLimit;
use lockstep_node::store::{Store, StoreError};

use crate::backend::{ThreadsError, checked_threads};
use crate::path_text::PathText;

/// The home folder, its settings and its store.
pub struct Place {
    /// The paths and file modes of the home folder.
    pub home: Home,
    /// Settings of the file and the environment.
    pub config: Config,
    /// The store of models in the home folder.
    pub store: Store,
}

/// Why a home folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The settings could not be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The home folder could not be made.
    #[error(
        "can't make the home folder {}: set LOCKSTEP_HOME or --home to one that you can write",
        PathText(path)
    )]
    Create {
        /// The path of the home folder.
        path: PathBuf,
        /// The error that the system reports.
        source: io::Error,
    },
    /// No setting and no variable says where the home folder is.
    #[error(transparent)]
    NoHome(#[from] NoHome),
    /// The store of models can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Place {
    /// Opens the home folder `home`, or the one that the environment names. `variable` reads a
    /// variable of the environment.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn open(
        home: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, PlaceError> {
        let home = match home {
            Some(path) => Home::at(path),
            None => Home::from_env(&variable)?,
        };
        home.create()
            .map_err(|source| PlaceError::Create { path: home.root().to_owned(), source })?;
        let config = Config::read(&home.config())?.overridden(variable)?;
        let store = Store::open(&home, config.disk_reserve())?;
        Ok(Self { home, config, store })
    }

    /// Returns the number of threads that compute: `given` if there is one, else what the settings
    /// say; `None` if neither says.
    ///
    /// # Errors
    /// [`ThreadsError`] says how many can be used.
    pub fn threads(&self, given: Option<usize>) -> Result<Option<usize>, ThreadsError> {
        let threads = given.or_else(|| self.config.threads.map(NonZeroUsize::get));
        threads.map(checked_threads).transpose()
    }

    /// Returns the memory that this process may take now.
    #[must_use]
    pub fn room(&self) -> Option<MemoryLimit> {
        MemoryLimit::now(self.config.memory())
    }
}
