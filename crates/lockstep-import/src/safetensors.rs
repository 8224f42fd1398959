//! Models as folders of safetensors files, with `config.json` and `tokenizer.json`.
//!
//! A folder is [translated](Folder::translate) into what a GGUF file of the same model would say -
//! its metadata, its tensors' names, the order of query and key rows - and read as one from then
//! on. So there is one description of each architecture, and one package whichever form a model
//! comes in: a model in F32, F16 or BF16 has the same id from both.
//!
//! Nothing here opens files: whoever does gives their bytes, which are treated as hostile. What is
//! not understood is refused, as everywhere in this crate.

mod config;
mod error;
mod header;
mod index;
mod metadata;
mod vocabulary;

use std::collections::BTreeMap;

pub use error::FolderError;
use header::Stored;
pub use index::weight_files;
use metadata::Metadata;

use crate::gguf::{Gguf, GgufError, Tensor};

/// The files of a model's folder.
#[derive(Debug, Clone)]
pub struct Folder<'a> {
    /// What the manifest shall call the model.
    pub name: &'a str,
    /// The weights' licence, if it is known.
    pub license: Option<&'a str>,
    /// `config.json`
    pub config: &'a [u8],
    /// `tokenizer.json`
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`
    pub tokenizer_config: Option<&'a [u8]>,
    /// `chat_template.jinja`, which stands before the one in `tokenizer_config.json`.
    pub chat_template: Option<&'a [u8]>,
    /// `model.safetensors.index.json`; without it there is one file of weights.
    pub index: Option<&'a [u8]>,
    /// The files of weights by name: `model.safetensors`, or those that [`weight_files`] gives.
    pub weights: BTreeMap<String, &'a [u8]>,
}

/// A folder, described as a GGUF file would describe it.
#[derive(Debug)]
pub struct Translated<'a> {
    metadata: Metadata,
    tensors: Vec<Named<'a>>,
}

/// A tensor under the name that GGUF files give it.
#[derive(Debug)]
struct Named<'a> {
    name: String,
    stored: Stored<'a>,
    /// Size of a head whose rows are half-split for rotation, where GGUF files interleave them.
    half_split: Option<usize>,
}

impl<'a> Folder<'a> {
    /// Reads everything but the weights, and finds them.
    ///
    /// # Errors
    /// A file is malformed, is missing, contradicts another, or says something that is not
    /// understood.
    pub fn translate(&self) -> Result<Translated<'a>, FolderError> {
        let config = config::Config::parse(self.config)?;
        let mut metadata = Metadata::default();
        metadata.text("general.architecture", config.architecture());
        metadata.text("general.name", self.name);
        if let Some(license) = self.license {
            metadata.text("general.license", license);
        }
        config.describe(&mut metadata)?;
        let settings = self.tokenizer_config.unwrap_or(b"{}");
        vocabulary::describe(
            &mut metadata,
            self.tokenizer,
            settings,
            self.chat_template,
            config.vocabulary()?,
        )?;
        let mut tensors = Vec::new();
        for (name, stored) in self.stored()? {
            if let Some((name, half_split)) = config.translated(&name)? {
                tensors.push(Named { name, stored, half_split });
            }
        }
        Ok(Translated { metadata, tensors })
    }

    /// The tensors of all files of weights.
    fn stored(&self) -> Result<BTreeMap<String, Stored<'a>>, FolderError> {
        let mut all = BTreeMap::new();
        let mut holders = BTreeMap::new();
        for (file, bytes) in &self.weights {
            for (name, stored) in header::parse(file, bytes)? {
                if all.insert(name.clone(), stored).is_some() {
                    return Err(FolderError::TensorTwice { name });
                }
                holders.insert(name, file.as_str());
            }
        }
        match self.index {
            Some(index) => index::check(index, &holders)?,
            None if self.weights.len() == 1 => {}
            None => return Err(FolderError::NoIndex { files: self.weights.len() }),
        }
        Ok(all)
    }
}

impl Translated<'_> {
    /// The model, to be read like a GGUF file.
    ///
    /// # Errors
    /// A text or list is past a bound.
    pub fn gguf(&self) -> Result<Gguf<'_>, GgufError> {
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for Named { name, stored, half_split } in &self.tensors {
            let tensor = Tensor::new(name, stored.dims, stored.ty, stored.bytes);
            tensors.push(tensor.half_split(*half_split));
        }
        let (count, bytes) = self.metadata.parts();
        Gguf::assemble(bytes, count, tensors)
    }
}
