//! Files over HTTP(S), resumed where they broke off.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode, Url};
use tokio::time::{sleep, timeout};

use super::{Progress, PullError, endpoint, is_this_machine};
use crate::transport::deepest;
use crate::{home, limits};

/// First pause before a failed attempt is repeated; it doubles each time.
const PAUSE: Duration = Duration::from_millis(250);

/// A client of one endpoint of a model server.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    endpoint: Url,
}

impl Client {
    pub(super) fn new(text: &str, token: Option<&str>) -> Result<Self, PullError> {
        let endpoint = endpoint(text, token.is_some())?;
        let refused = |why| PullError::Endpoint { endpoint: text.to_owned(), why };
        // The first caller in the process chooses; all choices here are the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("lockstep/", env!("CARGO_PKG_VERSION")))
            // A redirect to another host loses the token.
            .redirect(Policy::limited(limits::HTTP_REDIRECTS))
            .connect_timeout(limits::HTTP_HEAD_DEADLINE)
            .default_headers(
                authorization(token)
                    .ok_or_else(|| refused("HF_TOKEN holds characters that no token has"))?,
            );
        if is_this_machine(&endpoint) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|_| refused("no HTTP client could be made"))?;
        Ok(Self { http, endpoint })
    }

    /// Returns the URL of a path below the endpoint.
    pub(super) fn url(&self, path: &str) -> Result<Url, PullError> {
        let endpoint = self.endpoint.to_string();
        self.endpoint.join(path).map_err(|_| PullError::Endpoint { endpoint, why: "it is no base" })
    }

    /// Downloads a short document, such as a repository's listing, into memory.
    pub(super) async fn listing(&self, path: &str) -> Result<Vec<u8>, PullError> {
        let url = self.url(path)?;
        let mut response = checked(&url, self.get(&url, 0).await?)?;
        let mut document = Vec::new();
        while let Some(chunk) = next_chunk(&url, &mut response).await? {
            let got = document.len() + chunk.len();
            if got > limits::HTTP_LISTING_BYTES {
                let (url, expected) = (url.to_string(), limits::HTTP_LISTING_BYTES as u64);
                return Err(PullError::Length { url, expected, got: got as u64 });
            }
            document.extend_from_slice(&chunk);
        }
        Ok(document)
    }

    /// Completes a partial file to exactly `bytes`.
    ///
    /// Gives up after [`limits::HTTP_ATTEMPTS`] attempts in a row that brought nothing.
    pub(super) async fn download(
        &self,
        url: &Url,
        part: &mut Part,
        bytes: u64,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), PullError> {
        if part.len > bytes {
            part.restart()?;
        }
        let mut idle = 0;
        while part.len < bytes {
            let before = part.len;
            let error = match self.attempt(url, part, bytes, progress).await {
                Ok(()) => PullError::BrokenOff { url: url.to_string(), have: part.len, bytes },
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => error,
            };
            idle = if part.len > before { 0 } else { idle + 1 };
            if part.len < bytes && idle >= limits::HTTP_ATTEMPTS {
                return Err(error);
            }
            if idle > 0 {
                tracing::debug!(%error, "a download attempt brought nothing");
                sleep(PAUSE * 2u32.saturating_pow(idle - 1)).await;
            }
        }
        Ok(())
    }

    /// Makes one request for the bytes that are missing, and writes them until the connection ends.
    async fn attempt(
        &self,
        url: &Url,
        part: &mut Part,
        bytes: u64,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), PullError> {
        let response = self.get(url, part.len).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return part.restart();
        }
        let mut response = checked(url, response)?;
        if part.len > 0 && !continues(&response, part.len) {
            part.restart()?;
        }
        let length = |got| PullError::Length { url: url.to_string(), expected: bytes, got };
        if let Some(rest) = response.content_length()
            && part.len.saturating_add(rest) != bytes
        {
            return Err(length(part.len.saturating_add(rest)));
        }
        progress(Progress::Bytes { done: part.len, total: bytes });
        while let Some(chunk) = next_chunk(url, &mut response).await? {
            let got = part.len.saturating_add(chunk.len() as u64);
            if got > bytes {
                return Err(length(got));
            }
            part.append(&chunk)?;
            progress(Progress::Bytes { done: part.len, total: bytes });
        }
        Ok(())
    }

    async fn get(&self, url: &Url, from: u64) -> Result<Response, PullError> {
        let mut request = self.http.get(url.clone());
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let after = limits::HTTP_HEAD_DEADLINE;
        match timeout(after, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(network(url, &error)),
            Err(_elapsed) => Err(PullError::Silent { what: url.to_string(), after }),
        }
    }
}

fn authorization(token: Option<&str>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).ok()?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Some(headers)
}

/// Returns whether the response is a partial answer that starts exactly at byte `from`, where the
/// file ends.
fn continues(response: &Response, from: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}

fn checked(url: &Url, response: Response) -> Result<Response, PullError> {
    let (url, status) = (url.to_string(), response.status());
    match status.as_u16() {
        200 | 206 => Ok(response),
        status @ (401 | 403) => Err(PullError::Denied { url, status }),
        404 => Err(PullError::NotFound { url }),
        status => Err(PullError::Status { url, status }),
    }
}

/// Returns whether trying again would not help.
fn is_final(error: &PullError) -> bool {
    match error {
        PullError::Network { .. } | PullError::Silent { .. } => false,
        PullError::Status { status, .. } => !(*status == 429 || *status >= 500),
        _ => true,
    }
}

async fn next_chunk(url: &Url, response: &mut Response) -> Result<Option<bytes::Bytes>, PullError> {
    let after = limits::HTTP_STALL_DEADLINE;
    match timeout(after, response.chunk()).await {
        Ok(chunk) => chunk.map_err(|error| network(url, &error)),
        Err(_elapsed) => Err(PullError::Silent { what: url.to_string(), after }),
    }
}

fn network(url: &Url, error: &reqwest::Error) -> PullError {
    PullError::Network { url: url.to_string(), detail: deepest(error) }
}

/// A file that is not complete yet, held by this process alone.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Part {
    pub(super) fn open(path: &Path) -> Result<Self, PullError> {
        let file = private_append(path).map_err(PullError::io("open", path))?;
        Self::hold(file, path)
    }

    /// Takes a file that was opened at `path`, if no other process holds it, and none has renamed
    /// or removed it since: then it is that one's model.
    fn hold(file: File, path: &Path) -> Result<Self, PullError> {
        let is_free = file.try_lock().is_ok();
        if !is_free || !home::is_at(&file, path).map_err(PullError::io("read", path))? {
            return Err(PullError::Busy { path: path.to_owned() });
        }
        let len = file.metadata().map_err(PullError::io("read", path))?.len();
        Ok(Self { path: path.to_owned(), file, len })
    }

    /// Returns the number of bytes that are here.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        self.file.write_all(bytes).map_err(PullError::io("write", &self.path))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), PullError> {
        self.file.set_len(0).map_err(PullError::io("truncate", &self.path))?;
        self.len = 0;
        Ok(())
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn private_append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    #[test]
    fn a_file_that_another_process_has_finished_meanwhile_is_not_written() {
        let dir = TestDir::new("pull-finished");
        std::fs::create_dir_all(dir.path()).expect("made");
        let (path, place) = (dir.path().join("model.part"), dir.path().join("model.gguf"));
        let mut first = Part::open(&path).expect("free");
        first.append(b"whole").expect("written");
        let is_busy = |held: Result<Part, PullError>| matches!(held, Err(PullError::Busy { .. }));
        assert!(is_busy(Part::open(&path)));
        // The second process opens the file before the first one gives it its place, and locks it
        // afterwards.
        let opened = private_append(&path).expect("opened");
        std::fs::rename(&path, &place).expect("renamed");
        drop(first);
        assert!(is_busy(Part::hold(opened, &path)));
        assert_eq!(Part::open(&path).expect("free").len(), 0, "the next one begins anew");
        assert_eq!(std::fs::read(&place).expect("there"), b"whole");
    }
}
