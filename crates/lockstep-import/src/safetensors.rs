//! Models as folders of safetensors files, with `config.json` and `tokenizer.json`.
//!
//! A folder is [translated](Folder::translate) into what a GGUF file of the same model would say -
//! its metadata, its tensors' names, the order of query and key rows - and read as one from then
//! on. So there is one description of each architecture, and one package whichever form a model
//! comes in: a model in F32, F16 or BF16 has the same id from both.
//!
//! Nothing here opens files: whoever does gives their bytes, which are treated as hostile. What is
//! not understood is refused, as everywhere in this crate.

mod card;
mod config;
mod error;
mod header;
mod index;
mod kinds;
mod metadata;
mod multimodal;
mod quantised;
mod rotation;
mod settings;
mod vocabulary;

use std::collections::BTreeMap;

pub use card::card_license;
pub use error::FolderError;
use header::Stored;
pub use index::weight_files;
use metadata::Metadata;
use rotation::Made;

use crate::gguf::{Gguf, GgufError, Tensor, TensorType};
use kinds::Translation;

/// The model's settings: every folder of a model has it.
pub const CONFIG: &str = "config.json";
/// The tokenizer: every folder of a model has it.
pub const TOKENIZER: &str = "tokenizer.json";
/// Which file of weights holds which tensor, if there are several.
pub const INDEX: &str = "model.safetensors.index.json";
/// The weights, if they are in one file.
pub const ONE_FILE: &str = "model.safetensors";
/// The model card, for the licence.
pub const CARD: &str = "README.md";
/// The name of the file with the tokenizer's settings.
pub const SETTINGS: &str = "tokenizer_config.json";
/// The chat template, which stands before those in [`SETTINGS`].
pub const TEMPLATE: &str = "chat_template.jinja";
/// The folder of further chat templates, each a file with the end [`TEMPLATE_END`].
pub const MORE_TEMPLATES: &str = "additional_chat_templates";
/// The ending of the names of such files; what stands before it is the template's name.
pub const TEMPLATE_END: &str = ".jinja";
/// The name of the file that says how answers are made, and which tokens end them.
pub const GENERATION: &str = "generation_config.json";
/// All files of a folder that describe the model: what is read beside the weights.
pub const DESCRIBING: [&str; 7] = [CARD, CONFIG, GENERATION, INDEX, SETTINGS, TEMPLATE, TOKENIZER];

/// Returns the name of the chat template in a file of a model's folder, if it is one of
/// [`MORE_TEMPLATES`].
pub fn template_name(path: &str) -> Option<&str> {
    let name = path.strip_prefix(MORE_TEMPLATES)?.strip_prefix('/')?;
    name.strip_suffix(TEMPLATE_END).filter(|name| !name.contains('/'))
}

/// The files of a model's folder.
#[derive(Debug, Clone)]
pub struct Folder<'a> {
    /// The name of the model in the manifest.
    pub name: &'a str,
    /// The weights' licence, if it is known.
    pub license: Option<&'a str>,
    /// The content of `config.json`.
    pub config: &'a [u8],
    /// The content of `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// The content of `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// The content of `chat_template.jinja`. If there is a file of a chat template, those in
    /// `tokenizer_config.json` don't count.
    pub chat_template: Option<&'a [u8]>,
    /// The files of `additional_chat_templates`, by the templates' names.
    pub more_chat_templates: BTreeMap<&'a str, &'a [u8]>,
    /// `generation_config.json`, for the tokens that end an answer.
    pub generation_config: Option<&'a [u8]>,
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
    /// Vectors that are made of settings, as exporters make them: names and bytes.
    made: Vec<(&'static str, Vec<u8>)>,
}

/// A tensor, and how GGUF files have it.
#[derive(Debug)]
struct Named<'a> {
    translation: Translation,
    stored: Stored<'a>,
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
        metadata.text("general.architecture", config.kind.architecture);
        metadata.text("general.name", self.name);
        if let Some(license) = self.license {
            metadata.text("general.license", license);
        }
        config.describe(&mut metadata)?;
        let made = rotation::describe(&config, &mut metadata)?;
        let bytes = |made: Made| {
            (made.name, made.numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
        };
        let files = vocabulary::Files {
            tokenizer: self.tokenizer,
            settings: self.tokenizer_config,
            generation: self.generation_config,
            template: self.chat_template,
            more_templates: &self.more_chat_templates,
        };
        vocabulary::describe(&mut metadata, &files, &config)?;
        let mut tensors = Vec::new();
        for (name, stored) in self.stored()? {
            if let Some(translation) = config.translated(&name)? {
                tensors.push(Named { translation, stored });
            }
        }
        config.check_layers(&tensors.iter().map(|t| t.translation.name.as_str()).collect())?;
        let biases = tensors.iter().filter(|tensor| tensor.translation.name.ends_with(".bias"));
        let (got, stated) = (biases.count() as u64, config.stated_biases()?);
        if let Some(expected) = stated.filter(|stated| *stated != got) {
            return Err(FolderError::Biases { got, expected });
        }
        Ok(Translated { metadata, tensors, made: made.into_iter().map(bytes).collect() })
    }

    /// Returns the tensors of all files of weights.
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
    /// Returns the model, to be read like a GGUF file.
    ///
    /// # Errors
    /// A text or list is past a bound.
    pub fn gguf(&self) -> Result<Gguf<'_>, GgufError> {
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for Named { translation, stored } in &self.tensors {
            let Translation { name, half_split, less_one } = translation;
            let tensor = Tensor::new(name, stored.dims, stored.ty, stored.bytes);
            tensors.push(tensor.half_split(*half_split).less_one(*less_one));
        }
        for (name, bytes) in &self.made {
            let dims = [bytes.len() as u64 / 4, 1, 1, 1];
            tensors.push(Tensor::new(name, dims, TensorType::F32, bytes));
        }
        let (count, bytes) = self.metadata.parts();
        Gguf::assemble(bytes, count, tensors)
    }
}
