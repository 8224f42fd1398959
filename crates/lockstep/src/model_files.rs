//! The files of a model that is to be imported: one GGUF file, all parts of a split one, or a
//! folder of safetensors files with what describes them.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lockstep_exact::Digest;
use lockstep_exact::matrix::Codec;
use lockstep_import::gguf::shard_names;
use lockstep_import::package::{ModelError, ModelFile};
use lockstep_import::safetensors::{
    CARD, CONFIG, DESCRIBING, Folder, GENERATION, INDEX, MORE_TEMPLATES, ONE_FILE, SETTINGS,
    TEMPLATE, TOKENIZER, Translated, card_license, template_name, weight_files,
};
use lockstep_node::store::MappedFile;

use crate::exit::usage;
use crate::printable::Foreign;

/// The mapped files of a model, by name.
pub(crate) struct ModelFiles {
    path: PathBuf,
    /// The name that whoever put the model there gave it: the folder's name, or the file's without
    /// its ending and its number.
    pub name: String,
    files: BTreeMap<String, MappedFile>,
    is_folder: bool,
}

impl ModelFiles {
    /// Returns whether a path is that of a file, or of a folder that describes a model.
    pub(crate) fn are_at(path: &Path) -> bool {
        path.is_file() || path.join(CONFIG).is_file()
    }

    /// Maps the file at `path`, the other parts that are beside it if it is one of several, or the
    /// files of the folder there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let is_folder = path.is_dir();
        let (folder, names) = if is_folder {
            (path, folder_names(path)?)
        } else {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let names = shard_names(&name).unwrap_or_else(|| vec![name]);
            (path.parent().unwrap_or_else(|| Path::new("")), names)
        };
        let map = |name: &String| {
            // The path itself, whose name need not be text, if it is the only file.
            let only = names.len() == 1 && !is_folder;
            let path = if only { path.to_owned() } else { folder.join(name) };
            let file = match MappedFile::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound && !only => {
                    return Err(missing(&path, is_folder));
                }
                file => file.with_context(|| format!("can't read {}", path.display()))?,
            };
            Ok((name.clone(), file))
        };
        let files = names.iter().map(map).collect::<Result<_>>()?;
        Ok(Self { path: path.to_owned(), name: name_of(path), files, is_folder })
    }

    /// Describes the content of a folder as a GGUF file would; returns `None` for GGUF files.
    pub(crate) fn translated(&self) -> Result<Option<Translated<'_>>> {
        if !self.is_folder {
            return Ok(None);
        }
        let file = |name: &str| self.files.get(name).map(|file| &**file);
        let needed = |name: &str| {
            file(name).ok_or_else(|| usage(format!("{}: no {name} in it", self.path.display())))
        };
        let weights = self.files.iter().filter(|(name, _)| name.ends_with(".safetensors"));
        let folder = Folder {
            name: &self.name,
            license: file(CARD).and_then(card_license),
            config: needed(CONFIG)?,
            tokenizer: needed(TOKENIZER)?,
            tokenizer_config: file(SETTINGS),
            chat_template: file(TEMPLATE),
            more_chat_templates: self.more_templates(),
            generation_config: file(GENERATION),
            index: file(INDEX),
            weights: weights.map(|(name, file)| (name.clone(), &**file)).collect(),
        };
        folder.translate().with_context(|| self.refusal()).map(Some)
    }

    /// Returns the files of further chat templates, by the templates' names.
    fn more_templates(&self) -> BTreeMap<&str, &[u8]> {
        let templates = self.files.iter();
        templates.filter_map(|(path, file)| Some((template_name(path)?, &**file))).collect()
    }

    /// Checks the model; `translated` is what [`translated`](Self::translated) gave.
    pub(crate) fn model<'a>(
        &'a self,
        translated: Option<&'a Translated<'_>>,
    ) -> Result<ModelFile<'a>> {
        let parts: Vec<&[u8]> = self.files.values().map(|file| &**file).collect();
        let model: Result<ModelFile<'a>, ModelError> = match (translated, parts.as_slice()) {
            (Some(folder), _) => ModelFile::open_folder(folder),
            (None, [file]) => ModelFile::open(file),
            (None, parts) => ModelFile::open_shards(parts),
        };
        model.with_context(|| self.refusal())
    }

    /// Returns the type in which most of the weights are stored.
    pub(crate) fn format(&self) -> Result<String> {
        let translated = self.translated()?;
        Ok(self.model(translated.as_ref())?.facts().provenance.source_format)
    }

    /// Returns one digest of everything that an import with this codec makes a model of.
    pub(crate) fn digest(&self, codec: Codec) -> Digest {
        // A single file's own name is no part of the model; those of several say what each is.
        let name = if self.is_folder { self.name.as_str() } else { "" };
        let is_alone = self.files.len() == 1;
        let files = self
            .files
            .iter()
            .map(|(name, file)| (if is_alone { "" } else { name.as_str() }, file.digest()));
        source_digest(name, codec, files)
    }

    fn refusal(&self) -> String {
        format!("{} can't be imported", self.path.display())
    }

    /// Fails if a file was written since it was mapped.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        for (name, file) in &self.files {
            file.check_unchanged().with_context(|| format!("can't read {name}"))?;
        }
        Ok(())
    }
}

/// Returns the files of a folder that describe a model, and those of its weights.
fn folder_names(folder: &Path) -> Result<Vec<String>> {
    let exists = |name: &&str| folder.join(name).is_file();
    let here = || there_are(&names_in(folder));
    if !exists(&CONFIG) {
        return Err(usage(format!(
            "{} is no model's folder: no {CONFIG} in it{}",
            folder.display(),
            here()
        )));
    }
    if !exists(&TOKENIZER) {
        return Err(no_tokenizer(folder));
    }
    let mut names: Vec<String> =
        DESCRIBING.iter().copied().filter(exists).map(str::to_owned).collect();
    let more = names_in(&folder.join(MORE_TEMPLATES)).into_iter();
    let more = more.map(|name| format!("{MORE_TEMPLATES}/{name}"));
    names.extend(more.filter(|path| template_name(path).is_some()));
    if exists(&INDEX) {
        let index = folder.join(INDEX);
        let bytes = fs::read(&index).with_context(|| format!("can't read {}", index.display()))?;
        let weights = weight_files(&bytes);
        names.extend(weights.with_context(|| format!("{} can't be imported", folder.display()))?);
    } else if exists(&ONE_FILE) {
        names.push(ONE_FILE.to_owned());
    } else {
        return Err(usage(format!(
            "{} can't be imported: no {ONE_FILE} and no index ({INDEX}){}",
            folder.display(),
            here()
        )));
    }
    Ok(names)
}

/// Returns the error that a folder's tokenizer is missing, or is one in files of another kind.
fn no_tokenizer(folder: &Path) -> anyhow::Error {
    /// The names of files in which other programs keep a tokenizer.
    const OTHERS: [&str; 6] =
        ["tekken.json", "tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt"];
    let here: Vec<&str> = OTHERS.into_iter().filter(|name| folder.join(name).is_file()).collect();
    let next = if here.is_empty() {
        "; it says how text becomes tokens: download it too".to_owned()
    } else {
        format!(
            "; there is {} instead, which is not read: transformers writes a {TOKENIZER} with \
             AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER), or take a GGUF file \
             of the model, which brings its own",
            here.join(", "),
        )
    };
    usage(format!("{} can't be imported: no {TOKENIZER} in it{next}", folder.display()))
}

/// Returns the error that `path` is missing, a file that the other files of the model name.
fn missing(path: &Path, is_folder: bool) -> anyhow::Error {
    let why = if is_folder { INDEX } else { "the name of the part that was given" };
    usage(format!("{} is missing, of which {why} speaks: download it too", path.display()))
}

/// Returns the names of a folder's files, sorted.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    let mut names: Vec<String> =
        files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Returns a sentence that says which files are there that may have been meant, and what can be
/// done with them.
fn there_are(names: &[String]) -> String {
    /// Ends of names, and what is to be done with such files.
    const KINDS: [(&[&str], &str); 4] = [
        (&[".gguf"], "of GGUF files, give one"),
        (
            &[".safetensors"],
            "safetensors are needed under their own names: model.safetensors, or several with \
             their index",
        ),
        (
            &[".bin", ".pt", ".pth", ".ckpt", ".pkl"],
            "safetensors are needed: PyTorch's pickles can run any program when they are read, so \
             they are not",
        ),
        (&[".onnx", ".h5", ".msgpack", ".tflite", ".npz"], "safetensors or a GGUF file are needed"),
    ];
    /// The number of file names that a message lists.
    const SAID: usize = 8;
    let mut found = Vec::new();
    let mut advice = Vec::new();
    for (ends, what) in KINDS {
        let of_kind = |name: &&String| ends.iter().any(|end| name.to_lowercase().ends_with(end));
        let before = found.len();
        found.extend(names.iter().filter(of_kind).map(|name| Foreign(name).to_string()));
        if found.len() > before {
            advice.push(what);
        }
    }
    if found.is_empty() {
        return "; there are no weights in it".to_owned();
    }
    let more = found.len().saturating_sub(SAID);
    found.truncate(SAID);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("; there are {}{more} ({})", found.join(", "), advice.join("; "))
}

/// Returns the name of the file or folder at a path that need not end in it.
pub(crate) fn last_part(path: &Path) -> String {
    let whole = path.canonicalize().ok().filter(|_| path.file_name().is_none());
    let name = whole.as_deref().unwrap_or(path).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Returns the name that a path gives its model.
fn name_of(path: &Path) -> String {
    let name = last_part(path);
    if path.is_dir() {
        return name;
    }
    let stem = Path::new(&name).file_stem().unwrap_or_default().to_string_lossy();
    let is_part = shard_names(&name).is_some();
    // "-00001-of-00003"
    let end = if is_part { stem.len().saturating_sub(15) } else { stem.len() };
    stem.get(..end).unwrap_or(&stem).to_owned()
}

/// Returns the digest of what an import makes a model of: names and bytes of all files, what the
/// model is called, and how it is imported. Another version of this program may make another model
/// of them.
fn source_digest<'f>(
    name: &str,
    codec: Codec,
    files: impl Iterator<Item = (&'f str, Digest)>,
) -> Digest {
    let version = lockstep_import::package::RULES;
    let mut text = format!("lockstep import {version}\n{codec}\n{name:?}\n");
    for (file, digest) in files {
        text += &format!("{digest} {file:?}\n");
    }
    Digest::of(text.as_bytes())
}
