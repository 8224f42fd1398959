//! Chooses the files of a repository that make the model which is asked for.

use std::collections::BTreeMap;

use super::{HubError, HubRef, RemoteFile};
use crate::gguf::{first_shard, shard_names};
use crate::safetensors::weight_files;
use crate::safetensors::{
    CONFIG, DESCRIBING, FolderError, INDEX, ONE_FILE, TOKENIZER, template_name,
};

/// Stands in a reference for the safetensors folder of a repository that has GGUF files too.
pub const SAFETENSORS: &str = "safetensors";
const SUFFIX: &str = ".gguf";

/// The files to take of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice<'f> {
    /// A GGUF file, or all parts of a split one in their order.
    Files(Vec<&'f RemoteFile>),
    /// The repository itself, as a folder of safetensors files.
    Folder(FolderFiles<'f>),
}

/// The files of a safetensors folder, of which an index may have to be read to know all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderFiles<'f> {
    /// The files that describe the model.
    pub describing: Vec<&'f RemoteFile>,
    /// The list of the files of weights, one of [`describing`](Self::describing).
    pub index: Option<&'f RemoteFile>,
    listed: &'f [RemoteFile],
}

impl<'f> FolderFiles<'f> {
    /// Returns the files of weights; `index` is the content of the index, if there is one.
    ///
    /// # Errors
    /// The index is malformed or names a file outside the folder, or a file is not listed.
    pub fn weights(&self, index: Option<&[u8]>) -> Result<Vec<&'f RemoteFile>, FolderFilesError> {
        let names = match index {
            Some(index) => weight_files(index)?,
            None => vec![ONE_FILE.to_owned()],
        };
        let found = names.iter().map(|name| listed(self.listed, name));
        Ok(found.collect::<Result<_, _>>()?)
    }
}

/// Why the files of a folder cannot be named.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FolderFilesError {
    /// The index is not as it should be.
    #[error(transparent)]
    Index(#[from] FolderError),
    /// A file is not in the repository.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Returns the files to take: those of the model asked for, or of the only one.
///
/// # Errors
/// What is asked for is not listed, or not whole; there is no model; or there are several to choose
/// from.
pub fn choose<'f>(reference: &HubRef, files: &'f [RemoteFile]) -> Result<Choice<'f>, HubError> {
    let models = gguf_models(files);
    let wanted = match reference.file.as_deref() {
        None if models.is_empty() => return folder(files),
        Some(SAFETENSORS) => return folder(files),
        wanted => wanted,
    };
    // A file's own path stands before a stem that it may look like.
    let exact = |model: &&Gguf<'_>| wanted.is_some_and(|wanted| first_path(wanted) == model.first);
    let found: Vec<&Gguf<'_>> = match models.iter().find(exact) {
        Some(model) => vec![model],
        None => models.iter().filter(|model| model.is_called(wanted)).collect(),
    };
    match (found.as_slice(), wanted) {
        ([only], _) => only.whole().map(Choice::Files),
        ([], Some(wanted)) => {
            let listed = few(files.iter().map(|file| file.path.as_str()));
            Err(HubError::NoSuchFile { wanted: wanted.to_owned(), listed })
        }
        (several, _) => {
            let listed = few(several.iter().map(|model| model.first.as_str()));
            let HubRef { organisation, repository, .. } = reference;
            Err(HubError::Several { reference: format!("hf:{organisation}/{repository}"), listed })
        }
    }
}

/// A GGUF model of a repository, with its files.
struct Gguf<'f> {
    /// Its path without the number of the part and the ending.
    stem: String,
    /// The path of its first file, listed or not.
    first: String,
    /// The files of the model that the repository lists.
    listed: Vec<&'f RemoteFile>,
}

impl<'f> Gguf<'f> {
    /// Returns whether a name is that of a file of the model, or its stem; every model has no name.
    fn is_called(&self, name: Option<&str>) -> bool {
        let Some(name) = name else { return true };
        self.stem == name
            || strip_suffix(name) == Some(&self.stem)
            || first_path(&[name, SUFFIX].concat()) == self.first
    }

    /// Returns all of its files, in order.
    fn whole(&self) -> Result<Vec<&'f RemoteFile>, HubError> {
        let (folder, name) = split(&self.first);
        let names = shard_names(name).unwrap_or_else(|| vec![name.to_owned()]);
        let find = |name: &String| {
            let path = [folder, name].concat();
            let file = self.listed.iter().find(|file| file.path == path).copied();
            file.ok_or(HubError::PartMissing { file: path })
        };
        names.iter().map(find).collect()
    }
}

fn strip_suffix(path: &str) -> Option<&str> {
    let (stem, end) = path.split_at_checked(path.len().checked_sub(SUFFIX.len())?)?;
    end.eq_ignore_ascii_case(SUFFIX).then_some(stem)
}

/// Returns the paths split into the folder, with its slash, and the file's name.
fn split(path: &str) -> (&str, &str) {
    path.rfind('/').map_or(("", path), |at| path.split_at(at + 1))
}

/// Returns the path of the first file of the model that a GGUF file belongs to.
fn first_path(path: &str) -> String {
    let (folder, name) = split(path);
    first_shard(name).map_or_else(|| path.to_owned(), |name| [folder, &name].concat())
}

/// Returns the GGUF models of which files are listed, in the order of their first files' paths.
///
/// The paths of a model's other files are made only when it is taken: a listing may name the first
/// of a thousand parts many times over.
fn gguf_models(files: &[RemoteFile]) -> Vec<Gguf<'_>> {
    let mut models = BTreeMap::<String, Gguf<'_>>::new();
    for file in files {
        let Some(stem) = strip_suffix(&file.path) else { continue };
        let is_part = first_shard(split(&file.path).1).is_some();
        // "-00001-of-00003"
        let stem = if is_part { stem.rsplitn(4, '-').last().unwrap_or(stem) } else { stem };
        let first = first_path(&file.path);
        let new = || Gguf { stem: stem.to_owned(), first: first.clone(), listed: Vec::new() };
        models.entry(first.clone()).or_insert_with(new).listed.push(file);
    }
    models.into_values().collect()
}

/// Returns the files of the repository as a folder.
fn folder(files: &[RemoteFile]) -> Result<Choice<'_>, HubError> {
    if !files.iter().any(|file| file.path == CONFIG) {
        return Err(HubError::NoModel { listed: few(files.iter().map(|file| file.path.as_str())) });
    }
    listed(files, TOKENIZER)?;
    let named = DESCRIBING.iter().filter_map(|name| files.iter().find(|file| file.path == *name));
    let templates = files.iter().filter(|file| template_name(&file.path).is_some());
    let describing: Vec<_> = named.chain(templates).collect();
    let index = describing.iter().copied().find(|file| file.path == INDEX);
    Ok(Choice::Folder(FolderFiles { describing, index, listed: files }))
}

fn listed<'f>(files: &'f [RemoteFile], name: &str) -> Result<&'f RemoteFile, HubError> {
    let found = files.iter().find(|file| file.path == name);
    found.ok_or_else(|| HubError::PartMissing { file: name.to_owned() })
}

/// Returns a few names, for a message.
fn few<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> String {
    const SHOWN: usize = 24;
    let more = names.len() > SHOWN;
    let shown: Vec<&str> = names.take(SHOWN).collect();
    match (shown.is_empty(), more) {
        (true, _) => "nothing".to_owned(),
        (false, true) => format!("{}, ...", shown.join(", ")),
        (false, false) => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_LISTED_FILES;

    fn reference(text: &str) -> HubRef {
        HubRef::parse(text).unwrap()
    }

    fn files(paths: &[&str]) -> Vec<RemoteFile> {
        let file = |path: &&str| RemoteFile { path: (*path).to_owned(), bytes: 1, checksum: None };
        paths.iter().map(file).collect()
    }

    fn gguf(text: &str, paths: &[&str]) -> Result<Vec<String>, String> {
        match choose(&reference(text), &files(paths)) {
            Ok(Choice::Files(parts)) => Ok(parts.iter().map(|part| part.path.clone()).collect()),
            Ok(Choice::Folder(_)) => Err("a folder".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_only_model_or_the_named_one_is_taken() {
        let all = ["README.md", "sub/m-Q8_0.gguf", "m-F16.GGUF"];
        assert_eq!(gguf("hf:o/r", &all[..2]).unwrap(), ["sub/m-Q8_0.gguf"]);
        for name in ["m-F16.GGUF", "m-F16", "m-F16.gguf"] {
            assert_eq!(gguf(&format!("hf:o/r:{name}"), &all).unwrap(), ["m-F16.GGUF"]);
        }
        let several = gguf("hf:o/r", &all).unwrap_err();
        assert!(
            several.ends_with("name one as hf:o/r:NAME: m-F16.GGUF, sub/m-Q8_0.gguf"),
            "{several}"
        );
        let error = gguf("hf:o/r:m-Q4_K_M.gguf", &all).unwrap_err();
        assert!(error.contains("README.md, sub/m-Q8_0.gguf, m-F16.GGUF"), "{error}");
        let error = gguf("hf:o/r", &["README.md"]).unwrap_err();
        assert!(error.contains("no model"), "{error}");
    }

    #[test]
    fn any_part_or_the_stem_leads_to_all_parts() {
        let parts = ["q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf"];
        let turned = [parts[1], "x.gguf", parts[0]];
        for name in [parts[0], parts[1], "q/m", "q/m.gguf"] {
            assert_eq!(gguf(&format!("hf:o/r:{name}"), &turned).unwrap(), parts, "{name}");
        }
        assert_eq!(gguf("hf:o/r", &[parts[1], parts[0]]).unwrap(), parts);
        let error = gguf("hf:o/r", &parts[..1]).unwrap_err();
        assert!(error.contains("no \"q/m-00002-of-00002.gguf\""), "{error}");
        let both = [parts[0], parts[1], "q/m.gguf"];
        let error = gguf("hf:o/r:q/m", &both).unwrap_err();
        assert!(error.ends_with(": q/m-00001-of-00002.gguf, q/m.gguf"), "{error}");
        assert_eq!(gguf("hf:o/r:q/m-00001-of-00002", &both).unwrap(), parts);
        assert_eq!(gguf("hf:o/r:q/m.gguf", &both).unwrap(), ["q/m.gguf"]);
    }

    #[test]
    fn a_listing_of_many_models_of_many_parts_takes_no_more_memory_than_its_files() {
        // All paths of these models together would take gigabytes.
        let paths: Vec<String> =
            (0..MAX_LISTED_FILES).map(|n| format!("{n:0200}-00001-of-01024.gguf")).collect();
        let error = gguf("hf:o/r", &paths.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(error.unwrap_err().contains("several GGUF models"));
    }

    #[test]
    fn a_repository_without_gguf_files_or_by_request_is_a_folder() {
        let some = ["config.json", "tokenizer.json", "model.safetensors", "x/config.json"];
        let listed = files(&some);
        let Choice::Folder(folder) = choose(&reference("hf:o/r"), &listed).unwrap() else {
            panic!("no folder")
        };
        assert_eq!(folder.describing, [&listed[0], &listed[1]]);
        assert_eq!(folder.index, None);
        assert_eq!(folder.weights(None).unwrap(), [&listed[2]]);
        let mut both = some.to_vec();
        both.push("m.gguf");
        assert_eq!(gguf("hf:o/r", &both).unwrap(), ["m.gguf"]);
        assert_eq!(gguf("hf:o/r:safetensors", &both).unwrap_err(), "a folder");
        for (missing, word) in [(0, "no model"), (1, "tokenizer.json")] {
            let mut rest = some.to_vec();
            rest.remove(missing);
            let error = gguf("hf:o/r", &rest).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn an_index_that_leaves_the_folder_is_refused() {
        let listed = files(&["config.json", "tokenizer.json", INDEX, "a.safetensors"]);
        let Choice::Folder(folder) = choose(&reference("hf:o/r"), &listed).unwrap() else {
            panic!("no folder")
        };
        let index = |name: &str| format!(r#"{{"weight_map":{{"t":"{name}"}}}}"#);
        let weights = |name: &str| folder.weights(Some(index(name).as_bytes()));
        assert_eq!(weights("a.safetensors").unwrap(), [&listed[3]]);
        for outside in ["../a.safetensors", "/a.safetensors", "x/a.safetensors"] {
            let error = weights(outside).unwrap_err();
            assert!(matches!(error, FolderFilesError::Index(_)), "{outside}: {error}");
        }
        let error = weights("b.safetensors").unwrap_err();
        assert!(matches!(error, FolderFilesError::Hub(HubError::PartMissing { .. })), "{error}");
    }
}
