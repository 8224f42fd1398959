//! References to files of Hugging Face repositories, `hf:ORG/REPO[:NAME]`, and their listings.

use std::fmt;

use serde_json::Value;

use super::{Checksum, GitBlob, Sha256};
use crate::limits::{MAX_LISTED_FILES, MAX_LISTING_BYTES};

/// The host that paths are relative to, unless the user names another.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const SCHEME: &str = "hf:";
/// Bytes of an organisation's or repository's name.
const MAX_NAME: usize = 96;
/// The most bytes of a file's path.
const MAX_PATH: usize = 512;
/// A repository, or one file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRef {
    /// The name of the organisation or person who publishes the repository.
    pub organisation: String,
    /// The name of the repository.
    pub repository: String,
    /// The name of what to take: the path of a GGUF file, its stem, that of a split one, or
    /// [`SAFETENSORS`](super::SAFETENSORS); absent if there is but one thing to take.
    pub file: Option<String>,
}

impl HubRef {
    /// Reads `hf:ORG/REPO` or `hf:ORG/REPO:NAME`.
    ///
    /// # Errors
    /// The text is something else. Nothing in an accepted reference can leave the repository.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let malformed = || HubError::Malformed { got: text.chars().take(MAX_PATH).collect() };
        let rest = text.strip_prefix(SCHEME).ok_or_else(malformed)?;
        let (repository, file) = match rest.split_once(':') {
            None => (rest, None),
            Some((repository, file)) => (repository, Some(file)),
        };
        let (organisation, repository) = repository.split_once('/').ok_or_else(malformed)?;
        let names = is_name(organisation, MAX_NAME) && is_name(repository, MAX_NAME);
        if !names || file.is_some_and(|file| !is_path(file)) {
            return Err(malformed());
        }
        Ok(Self {
            organisation: organisation.to_owned(),
            repository: repository.to_owned(),
            file: file.map(str::to_owned),
        })
    }

    /// Returns the path of the repository's listing, below the endpoint.
    pub fn listing_path(&self) -> String {
        let Self { organisation, repository, .. } = self;
        format!("api/models/{organisation}/{repository}/tree/main?recursive=true")
    }

    /// Returns the path of one file's bytes, below the endpoint.
    pub fn file_path(&self, file: &str) -> String {
        let Self { organisation, repository, .. } = self;
        format!("{organisation}/{repository}/resolve/main/{file}")
    }
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.organisation, self.repository)?;
        self.file.iter().try_for_each(|file| write!(f, ":{file}"))
    }
}

/// Letters, digits and `-_.`, not beginning with a dot.
fn is_name(text: &str, limit: usize) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=limit).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('.')
}

/// Returns the names with slashes between them.
fn is_path(text: &str) -> bool {
    text.len() <= MAX_PATH && text.split('/').all(|part| is_name(part, MAX_PATH))
}

/// A file of a repository, as its listing states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// The path of the file inside the repository.
    pub path: String,
    /// The length of the file in bytes.
    pub bytes: u64,
    /// The checksum of the content, if the listing states one: SHA-256 of files that are stored
    /// apart, as every large file is, and git's name of others.
    pub checksum: Option<Checksum>,
}

/// Reads the files out of a repository's listing, the JSON at [`HubRef::listing_path`].
///
/// Left out is what has no place or length, and files whose paths could leave the repository.
///
/// # Errors
/// The listing is not of the documented form, or too long.
pub fn parse_listing(json: &[u8]) -> Result<Vec<RemoteFile>, HubError> {
    if json.len() > MAX_LISTING_BYTES {
        return Err(HubError::Listing { why: "it is too long" });
    }
    let parsed: Value =
        serde_json::from_slice(json).map_err(|_| HubError::Listing { why: "it is not JSON" })?;
    let entries = parsed.as_array().ok_or(HubError::Listing { why: "it is not an array" })?;
    if entries.len() > MAX_LISTED_FILES {
        return Err(HubError::Listing { why: "it has too many files" });
    }
    let file = |entry: &Value| {
        let path = entry.get("path")?.as_str().filter(|path| is_path(path))?;
        if entry.get("type")?.as_str()? != "file" {
            return None;
        }
        // Of a file that is stored apart, git's name is that of a pointer to it.
        let checksum = match entry.get("lfs").filter(|lfs| !lfs.is_null()) {
            Some(lfs) => {
                lfs.get("oid").and_then(Value::as_str).and_then(Sha256::parse).map(Checksum::Sha256)
            }
            None => {
                entry.get("oid").and_then(Value::as_str).and_then(GitBlob::parse).map(Checksum::Git)
            }
        };
        let bytes = entry.get("size")?.as_u64()?;
        Some(RemoteFile { path: path.to_owned(), bytes, checksum })
    };
    Ok(entries.iter().filter_map(file).collect())
}

/// Why a file of a repository cannot be named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// A listing that is not of the documented form.
    #[error("the repository's listing cannot be read: {why}")]
    Listing {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A reference that is not of the documented form.
    #[error("{got:?} is not of the form hf:ORGANISATION/REPOSITORY or hf:ORG/REPO:NAME")]
    Malformed {
        /// The reference.
        got: String,
    },
    /// The repository does not hold a model that can be imported.
    #[error("the repository holds no model: no GGUF file, and no config.json; it has: {listed}")]
    NoModel {
        /// What there is.
        listed: String,
    },
    /// The file asked for is not in the repository.
    #[error("the repository has no {wanted:?}; it has: {listed}")]
    NoSuchFile {
        /// The file asked for.
        wanted: String,
        /// What there is.
        listed: String,
    },
    /// A file that the others belong to is not in the repository.
    #[error("the repository has no {file:?}, which the model's other files call for")]
    PartMissing {
        /// The file.
        file: String,
    },
    /// Several models to choose from, and none is named.
    #[error("the repository holds several GGUF models; name one as {reference}:NAME: {listed}")]
    Several {
        /// The repository.
        reference: String,
        /// What there is.
        listed: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> HubRef {
        HubRef::parse(text).unwrap()
    }

    #[test]
    fn references_name_a_repository_and_perhaps_a_file() {
        let whole = reference("hf:Org-1/Model.v2");
        assert_eq!((whole.organisation.as_str(), whole.repository.as_str()), ("Org-1", "Model.v2"));
        assert_eq!(whole.listing_path(), "api/models/Org-1/Model.v2/tree/main?recursive=true");
        let file = reference("hf:o/r:sub/m-Q8_0.gguf");
        assert_eq!(file.file.as_deref(), Some("sub/m-Q8_0.gguf"));
        assert_eq!(file.file_path("m.gguf"), "o/r/resolve/main/m.gguf");
        assert_eq!(file.to_string(), "hf:o/r:sub/m-Q8_0.gguf");
    }

    #[test]
    fn references_that_could_leave_the_repository_are_refused() {
        for text in [
            "",
            "smollm2",
            "hf:",
            "hf:org",
            "hf:/repo",
            "hf:org/",
            "hf:a/b/c",
            "hf:../b",
            "hf:a/..",
            "hf:a/b:",
            "hf:a/b:/etc/passwd",
            "hf:a/b:../x.gguf",
            "hf:a/b:x//y",
            "hf:a/b:x?y",
            "hf:a/b:x#y",
            "hf:a/b:x y",
            "hf:a/b:x%2e",
            "hf:a/b:x:y",
            "hf:ä/b",
        ] {
            assert!(matches!(HubRef::parse(text), Err(HubError::Malformed { .. })), "{text}");
        }
    }

    #[test]
    fn a_listing_gives_sizes_and_digests_of_files() {
        let digest = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let json = format!(
            r#"[{{"type":"file","path":"README.md","size":10,"oid":"{git}"}},
                {{"type":"directory","path":"x.gguf","size":0}},
                {{"type":"file","path":"../m.gguf","size":3}},
                {{"type":"file","path":"m-Q8_0.gguf","size":7,"oid":"{git}",
                  "lfs":{{"oid":"{digest}"}}}},
                {{"type":"file","path":"n.GGUF","oid":"{git}","size":8,
                  "lfs":{{"oid":"short"}}}}, 5]"#
        );
        let files = parse_listing(json.as_bytes()).unwrap();
        let seen: Vec<_> = files.iter().map(|f| (f.path.as_str(), f.bytes, f.checksum)).collect();
        let card = GitBlob::parse(git).map(Checksum::Git);
        let stored = Sha256::parse(digest).map(Checksum::Sha256);
        let expected = [("README.md", 10, card), ("m-Q8_0.gguf", 7, stored), ("n.GGUF", 8, None)];
        assert_eq!(seen, expected);
        assert_eq!(parse_listing(b"{}"), Err(HubError::Listing { why: "it is not an array" }));
        assert_eq!(parse_listing(b"["), Err(HubError::Listing { why: "it is not JSON" }));
    }
}
