//! The repository as the rules see it: its Rust files, its packages, its other text files.
//!
//! A tree is read from disk, or made of snippets in a test. Build outputs, hidden folders (except
//! `.ci`) and files that are not text of a known kind are not part of it.

use super::source::Source;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) sources: Vec<Source>,
    /// Every other text file by its path: documents, manifests, settings, scripts.
    pub(crate) texts: BTreeMap<String, String>,
    /// Every file and folder, whatever is in it.
    pub(crate) paths: BTreeSet<String>,
    pub(crate) packages: Vec<Package>,
}

/// A package of the workspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Folder below the repository's root.
    pub(crate) folder: String,
    /// Names of what it links, build scripts included.
    pub(crate) links: Vec<String>,
    /// Names of what only its tests link.
    pub(crate) links_in_tests: Vec<String>,
    pub(crate) features: Vec<String>,
}

impl Tree {
    /// Creates a tree of (path, text) pairs, without packages.
    pub(crate) fn of<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.add_path(path);
            if has_extension(path, "rs") {
                tree.sources.push(Source::new(path, text));
            } else {
                tree.texts.insert(path.to_owned(), text.to_owned());
            }
        }
        tree
    }

    /// Reads the repository at `root`.
    pub(crate) fn load(root: &Path) -> Result<Self, String> {
        let mut paths = Vec::new();
        list(root, "", &mut paths)?;
        let mut files = Vec::new();
        for path in paths.iter().filter(|path| is_known(path)) {
            let text = std::fs::read_to_string(root.join(path))
                .map_err(|error| format!("{path}: {error}"))?;
            files.push((path.as_str(), text));
        }
        let mut tree = Self::of(files.iter().map(|(path, text)| (*path, text.as_str())));
        for path in &paths {
            tree.add_path(path);
        }
        tree.packages = packages(root)?;
        Ok(tree)
    }

    /// Adds a file and the folders it is in.
    fn add_path(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.paths.insert(path[..at].to_owned());
        }
        self.paths.insert(path.to_owned());
    }

    pub(crate) fn text(&self, path: &str) -> &str {
        self.texts.get(path).map_or("", String::as_str)
    }
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|e| e == extension)
}

fn is_known(path: &str) -> bool {
    let extensions = ["rs", "md", "toml", "sh", "patch"];
    extensions.iter().any(|e| has_extension(path, e)) || path.starts_with(".ci/")
}

fn is_skipped(name: &str) -> bool {
    name.starts_with("target") || (name.starts_with('.') && name != ".ci")
}

/// Lists the files below a folder, by their paths from the root.
fn list(root: &Path, below: &str, files: &mut Vec<String>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", root.join(below).display());
    for entry in std::fs::read_dir(root.join(below)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() && !is_skipped(&name) {
            list(root, &path, files)?;
        } else if kind.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// Asks cargo for the workspace's packages; needs neither a network nor a lock file.
fn packages(root: &Path) -> Result<Vec<Package>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    let list = metadata["packages"].as_array().ok_or("cargo metadata: no packages")?;
    Ok(list.iter().map(|package| read_package(package, root)).collect())
}

fn read_package(package: &Value, root: &str) -> Package {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let manifest = text(&package["manifest_path"]);
    let folder = manifest.strip_prefix(root).unwrap_or(&manifest).trim_start_matches('/');
    let mut read = Package {
        name: text(&package["name"]),
        folder: folder.trim_end_matches("/Cargo.toml").to_owned(),
        ..Package::default()
    };
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let links = match dependency["kind"].as_str() {
            Some("dev") => &mut read.links_in_tests,
            _ => &mut read.links,
        };
        links.push(text(&dependency["name"]));
    }
    if let Some(features) = package["features"].as_object() {
        read.features = features.keys().cloned().collect();
    }
    read
}
