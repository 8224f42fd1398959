//! References to files of Hugging Face repositories, `hf:ORG/REPO[:FILE]`, and their listings.

use std::fmt;

use serde_json::Value;

use super::Sha256;
use crate::limits::{MAX_LISTED_FILES, MAX_LISTING_BYTES};

/// The host that paths are relative to, unless the user names another.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
const SCHEME: &str = "hf:";
const SUFFIX: &str = ".gguf";
/// Bytes of an organisation's or repository's name.
const MAX_NAME: usize = 96;
/// Bytes of a file's path.
const MAX_PATH: usize = 512;
/// What to take of several files in a repository, best first: exact enough, then smallest.
const PREFERENCE: [&str; 8] = ["q8_0", "bf16", "f16", "f32", "q5_1", "q5_0", "q4_1", "q4_0"];

/// A repository, or one file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRef {
    /// Who publishes it.
    pub organisation: String,
    /// The repository's name.
    pub repository: String,
    /// The file's path; absent if it is to be chosen from the listing.
    pub file: Option<String>,
}

impl HubRef {
    /// Reads `hf:ORG/REPO` or `hf:ORG/REPO:FILE`.
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

    /// Path of the repository's listing, below the endpoint.
    pub fn listing_path(&self) -> String {
        let Self { organisation, repository, .. } = self;
        format!("api/models/{organisation}/{repository}/tree/main?recursive=true")
    }

    /// Path of one file's bytes, below the endpoint.
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

/// Names with slashes between them.
fn is_path(text: &str) -> bool {
    text.len() <= MAX_PATH && text.split('/').all(|part| is_name(part, MAX_PATH))
}

/// A file of a repository, as its listing states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path inside the repository.
    pub path: String,
    /// Bytes.
    pub bytes: u64,
    /// Digest, if the listing states one: it does for every large file.
    pub sha256: Option<Sha256>,
}

/// Reads the GGUF files out of a repository's listing, the JSON at [`HubRef::listing_path`].
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
        if entry.get("type")?.as_str()? != "file" || !path.to_lowercase().ends_with(SUFFIX) {
            return None;
        }
        let stored = entry.get("lfs");
        let digest = stored.and_then(|lfs| Sha256::parse(lfs.get("oid")?.as_str()?));
        let bytes = entry.get("size")?.as_u64()?;
        Some(RemoteFile { path: path.to_owned(), bytes, sha256: digest })
    };
    Ok(entries.iter().filter_map(file).collect())
}

/// The file to take: the one asked for, the only one, or the best type that can be imported.
///
/// # Errors
/// The file asked for is not listed, or no listed file can be imported.
pub fn choose<'f>(reference: &HubRef, files: &'f [RemoteFile]) -> Result<&'f RemoteFile, HubError> {
    if let Some(wanted) = &reference.file {
        let missing = || HubError::NoSuchFile { wanted: wanted.clone(), listed: names(files) };
        return files.iter().find(|file| file.path == *wanted).ok_or_else(missing);
    }
    if let [only] = files {
        return Ok(only);
    }
    let whole = |file: &&RemoteFile| !file.path.contains("-of-");
    let of_type = |ty: &str| {
        let named = |file: &&RemoteFile| has_word(&file.path.to_lowercase(), ty);
        files.iter().filter(whole).filter(named).min_by(|a, b| a.path.cmp(&b.path))
    };
    let best = PREFERENCE.into_iter().find_map(of_type);
    best.ok_or_else(|| HubError::NothingToTake { listed: names(files) })
}

/// Whether `word` stands in `text` between characters that are neither letters nor digits.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(start, _)| {
        let before = text.get(..start).and_then(|text| text.chars().next_back());
        let after = text.get(start + word.len()..).and_then(|text| text.chars().next());
        // An underscore ends a word too, save in front of a variant as in "q4_0_4_4".
        let ends = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
        ends(before) && ends(after) && after != Some('_')
    })
}

/// A few names, for a message.
fn names(files: &[RemoteFile]) -> String {
    const SHOWN: usize = 12;
    let names: Vec<&str> = files.iter().take(SHOWN).map(|file| file.path.as_str()).collect();
    match (names.is_empty(), files.len() > SHOWN) {
        (true, _) => "no GGUF file".to_owned(),
        (false, true) => format!("{}, ...", names.join(", ")),
        (false, false) => names.join(", "),
    }
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
    #[error("{got:?} is not of the form hf:ORGANISATION/REPOSITORY or hf:ORG/REPO:FILE.gguf")]
    Malformed {
        /// The reference.
        got: String,
    },
    /// The file asked for is not in the repository.
    #[error("the repository has no {wanted:?}; it has: {listed}")]
    NoSuchFile {
        /// The file asked for.
        wanted: String,
        /// What there is.
        listed: String,
    },
    /// No file of the repository is of a type that can be imported.
    #[error("no file of the repository is of a type that can be imported; it has: {listed}")]
    NothingToTake {
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

    fn listed(paths: &[&str]) -> Vec<RemoteFile> {
        paths
            .iter()
            .map(|path| RemoteFile { path: (*path).to_owned(), bytes: 1, sha256: None })
            .collect()
    }

    #[test]
    fn a_listing_gives_sizes_and_digests_of_model_files() {
        let digest = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
        let json = format!(
            r#"[{{"type":"file","path":"README.md","size":10}},
                {{"type":"directory","path":"x.gguf","size":0}},
                {{"type":"file","path":"../m.gguf","size":3}},
                {{"type":"file","path":"m-Q8_0.gguf","size":7,"lfs":{{"oid":"{digest}"}}}},
                {{"type":"file","path":"n.GGUF","size":8,"lfs":{{"oid":"short"}}}}, 5]"#
        );
        let files = parse_listing(json.as_bytes()).unwrap();
        let seen: Vec<_> = files.iter().map(|f| (f.path.as_str(), f.bytes, f.sha256)).collect();
        assert_eq!(seen, [("m-Q8_0.gguf", 7, Sha256::parse(digest)), ("n.GGUF", 8, None)]);
        assert_eq!(parse_listing(b"{}"), Err(HubError::Listing { why: "it is not an array" }));
        assert_eq!(parse_listing(b"["), Err(HubError::Listing { why: "it is not JSON" }));
    }

    #[test]
    fn the_best_importable_file_is_chosen() {
        let files = listed(&["m-Q4_K_M.gguf", "m-Q4_0.gguf", "m-q8_0.gguf", "m-f16.gguf"]);
        let repository = reference("hf:o/r");
        assert_eq!(choose(&repository, &files).unwrap().path, "m-q8_0.gguf");
        let files = listed(&["m-Q4_0_4_4.gguf", "m-bf16-00001-of-00002.gguf", "m-Q5_1.gguf"]);
        assert_eq!(choose(&repository, &files).unwrap().path, "m-Q5_1.gguf");
        let only = listed(&["model.gguf"]);
        assert_eq!(choose(&repository, &only).unwrap().path, "model.gguf");
        let wanted = reference("hf:o/r:m-Q4_K_M.gguf");
        let error = choose(&wanted, &only).unwrap_err().to_string();
        assert_eq!(error, "the repository has no \"m-Q4_K_M.gguf\"; it has: model.gguf");
        let error = choose(&repository, &listed(&["a-Q4_K.gguf", "b-Q6_K.gguf"])).unwrap_err();
        assert!(error.to_string().ends_with("it has: a-Q4_K.gguf, b-Q6_K.gguf"));
    }
}
