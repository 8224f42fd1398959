//! The models of this machine: from what people call one to its package in the store.

use std::path::{Path, PathBuf};

use lockstep_exact::Digest;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::matrix::Codec;
use lockstep_exact::weights::LoadError;
use lockstep_import::source;
use lockstep_import::tokenizer::{BlobError, Tokenizer};
use lockstep_node::limits::MODEL_ID_DIGITS;
use lockstep_node::local::Local;
use lockstep_node::store::{ModelName, ModelRecord, OpenBlobs, Source, Store, StoreError};
use lockstep_node::ticket::is_plain_name;

use crate::backend::{Backend, BackendError, backend};
use crate::place::Place;

/// A model in the store, with its manifest read and checked.
pub struct Model {
    /// The name of the model in the store.
    pub name: ModelName,
    /// The record that the name stands for: the digest of the manifest, and where the model is
    /// from.
    pub record: ModelRecord,
    /// The manifest, decoded and checked.
    pub manifest: Manifest,
}

/// The reasons why a name leads to no single model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The beginning of an id is that of several models.
    #[error("{text:?} begins the ids of several models: {names}")]
    Ambiguous {
        /// The name or id that was looked for.
        text: String,
        /// The names of the models that it could mean.
        names: String,
    },
    /// The store can't be read, or the model in it is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No model in the store has this name or id.
    #[error("no model {text:?} here{}", did_you_mean(near.as_deref()))]
    Unknown {
        /// The name or id that was looked for.
        text: String,
        /// The name that may have been meant.
        near: Option<String>,
    },
}

/// Why a model's tokenizer can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenTokenizerError {
    /// The blobs do not hold a tokenizer.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The store could not open the blobs.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A blob that was just opened is gone: a fault of this program.
    #[error("a blob that was just opened is gone")]
    Gone,
}

/// Why a model's weights can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadModelError {
    /// The operations that compute could not be started.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The weights are not those of the manifest.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The store could not open the blobs.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Model {
    /// Finds a model that is here, by name or id.
    ///
    /// # Errors
    /// [`ModelError`]; a model that is not here is none.
    pub fn find(store: &Store, text: &str) -> Result<Option<Self>, ModelError> {
        let Some((name, record)) = Self::record(store, text)? else { return Ok(None) };
        let manifest = store.manifest(&record)?;
        Ok(Some(Self { name, record, manifest }))
    }

    /// Finds a model that must be here.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn installed(store: &Store, text: &str) -> Result<Self, ModelError> {
        if let Some(model) = Self::find(store, text)? {
            return Ok(model);
        }
        let near = nearest(&local_names(store)?, text);
        Err(ModelError::Unknown { text: text.to_owned(), near })
    }

    /// Finds a model without a look at its manifest. An id may be that of several names.
    ///
    /// # Errors
    /// [`ModelError::Ambiguous`]: the beginning of an id is that of several models.
    pub fn record(
        store: &Store,
        text: &str,
    ) -> Result<Option<(ModelName, ModelRecord)>, ModelError> {
        let found = Self::records(store, text)?;
        let mut ids = found.iter().map(|(_, record)| record.manifest);
        if let Some(first) = ids.next()
            && ids.any(|id| id != first)
        {
            return Err(ModelError::Ambiguous { text: text.to_owned(), names: names_of(&found) });
        }
        Ok(found.into_iter().next())
    }

    /// Returns the model of a name, or all names that stand for models whose id begins so.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn records(store: &Store, text: &str) -> Result<Vec<(ModelName, ModelRecord)>, StoreError> {
        let models = store.models()?;
        if let Some(found) = models.iter().find(|(name, _)| name.as_str() == text) {
            return Ok(vec![(found.0.clone(), found.1.clone())]);
        }
        let digits = text.to_lowercase();
        let is_it = |record: &ModelRecord| {
            digits.len() >= MODEL_ID_DIGITS && record.manifest.to_string().starts_with(&digits)
        };
        Ok(models.into_iter().filter(|(_, record)| is_it(record)).collect())
    }

    /// Finds a model that was pulled from where `text` says, if it is here with its layers stored
    /// in this codec.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn pulled(store: &Store, text: &str, codec: Codec) -> Result<Option<Self>, StoreError> {
        if !text.starts_with("hf:") {
            return Ok(None);
        }
        // What was named by its repository alone says afterwards which of its files it was.
        let is_from = |source: &Source| {
            let rest = source.text.strip_prefix(text);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        for (name, record) in store.models()? {
            if is_from(&record.source)
                && !record.is_part
                && let Ok(manifest) = store.manifest(&record)
                && codec_of(&manifest) == codec
            {
                return Ok(Some(Self { name, record, manifest }));
            }
        }
        Ok(None)
    }

    /// Returns whether all files of the model are here; of a model of which a server fetched a part
    /// they need not be.
    #[must_use]
    pub fn is_whole(&self, store: &Store) -> bool {
        let all = (0..).zip(&self.manifest.blobs).map(|(index, _)| index).collect();
        !self.record.is_part || store.missing(&self.manifest, &all).is_empty()
    }

    /// Returns the name that the model's tickets give it: what `pull` takes, if the model came from
    /// there, otherwise its name in the store; with `-w4` if its layers are stored in w4.
    #[must_use]
    pub fn called(&self) -> String {
        let source = &self.record.source.text;
        let is_of_hub = source.starts_with("hf:") && is_plain_name(source);
        match is_of_hub && source::find(self.name.as_str()).is_none() {
            true => stored_name(source, codec_of(&self.manifest)),
            false => self.name.to_string(),
        }
    }

    /// Opens all blobs of the model and checks their digests.
    ///
    /// # Errors
    /// A blob is not there, or is not what the manifest names.
    pub fn all_blobs(&self, store: &Store) -> Result<OpenBlobs, StoreError> {
        let layers = 0..self.manifest.layers.len() as u32;
        store.open_span(&self.manifest, layers)
    }

    /// Loads all of the model into this process, to compute on `threads` threads or as many as the
    /// settings say.
    ///
    /// # Errors
    /// [`LoadModelError`].
    pub fn load(
        &self,
        place: &Place,
        threads: Option<usize>,
    ) -> Result<Local<Backend>, LoadModelError> {
        let blobs = self.all_blobs(&place.store)?;
        let ops = backend(place.threads(threads).map_err(BackendError::from)?)?;
        Ok(Local::load(ops, &self.manifest, blobs.source())?)
    }

    /// Opens the tokenizer of the model, which turns text into tokens and back.
    ///
    /// # Errors
    /// [`OpenTokenizerError`].
    pub fn tokenizer(&self, store: &Store) -> Result<Tokenizer, OpenTokenizerError> {
        let wanted = [self.manifest.vocabulary_blob, self.manifest.tokenizer_blob];
        let blobs = store.open_blobs(&self.manifest, wanted)?;
        let get = |index| blobs.get(index).ok_or(OpenTokenizerError::Gone);
        let vocabulary = get(self.manifest.vocabulary_blob)?;
        let definition = get(self.manifest.tokenizer_blob)?;
        Ok(Tokenizer::from_blobs(vocabulary.as_slice(), definition.as_slice())?)
    }
}

/// Returns the canonical form of a model's name as people write it: names of the catalogue in any
/// case, and addresses of Hugging Face as they are copied from a browser.
#[must_use]
pub fn canonical(text: &str) -> String {
    if Path::new(text).exists() {
        return text.to_owned();
    }
    let hosts = ["https://huggingface.co/", "huggingface.co/", "https://hf.co/", "hf.co/"];
    if let Some(repository) = hosts.iter().find_map(|host| text.strip_prefix(host)) {
        return format!("hf:{}", repository.trim_end_matches('/'));
    }
    match source::catalogue().iter().find(|entry| entry.name.eq_ignore_ascii_case(text)) {
        Some(entry) => entry.name.to_owned(),
        None => text.to_owned(),
    }
}

/// Returns the names of the models here.
///
/// # Errors
/// The store can't be read.
pub fn local_names(store: &Store) -> Result<Vec<String>, StoreError> {
    Ok(store.models()?.into_keys().map(|name| name.to_string()).collect())
}

/// Returns the names of models in one line.
#[must_use]
pub fn names_of(models: &[(ModelName, ModelRecord)]) -> String {
    models.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Returns the one of these names that may have been meant, if one is near.
#[must_use]
pub fn nearest(names: &[String], text: &str) -> Option<String> {
    let text = text.to_lowercase();
    let distance = |name: &String| edits(&name.to_lowercase(), &text);
    let nearest = names.iter().min_by_key(|name| distance(name));
    nearest.filter(|name| distance(name) <= 1 + text.len() / 5).cloned()
}

/// Returns the sentence with which an error offers a name that is near to the one that was given;
/// empty if there is none.
#[must_use]
pub fn did_you_mean(near: Option<&str>) -> String {
    near.map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// Returns the least number of bytes that are put in, taken out or changed to make one text of
/// another.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, byte) in from.bytes().enumerate() {
        let (mut diagonal, mut left) = (above, above + 1);
        for (cell, other) in row.iter_mut().skip(1).zip(to.bytes()) {
            let here = (diagonal + usize::from(byte != other)).min(left + 1).min(*cell + 1);
            (diagonal, left) = (*cell, here);
            *cell = here;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.pop().unwrap_or(from.len())
}

/// Returns the codec of the matrices of a model's layers: the coarsest one, if there are several.
#[must_use]
pub fn codec_of(manifest: &Manifest) -> Codec {
    let products = manifest.layers.iter().flat_map(|layer| layer.parts.products());
    products.map(|(_, product)| product.matrix.codec).max().unwrap_or_default()
}

/// Returns in words how many bits the codes of a codec have.
#[must_use]
pub const fn code_width(codec: Codec) -> &'static str {
    match codec {
        Codec::W8 => "8-bit",
        Codec::W4 => "4-bit",
    }
}

/// Returns the name of a model whose layers are stored so, unless it is given one.
#[must_use]
pub fn stored_name(name: &str, codec: Codec) -> String {
    match codec {
        Codec::W8 => name.to_owned(),
        Codec::W4 => format!("{name}-{codec}"),
    }
}

/// Gives a model's name to the same model with another manifest, all of whose blobs are here.
///
/// # Errors
/// The store can't be written.
pub fn rename(store: &Store, model: &Model, manifest: Manifest) -> Result<Model, StoreError> {
    let name = model.name.clone();
    // Its files would be imported as another model now.
    let source = Source { text: model.record.source.text.clone(), digest: None };
    store.begin()?.replace(&name, &manifest, source)?;
    let record = store.record(&name)?;
    Ok(Model { name, record, manifest })
}

/// Returns the path of a verifier's key for a model.
#[must_use]
pub fn key_path(place: &Place, manifest: &Digest) -> PathBuf {
    place.home.keys().join(format!("{manifest}.key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_near_are_suggested_and_others_are_not() {
        let names = ["smollm2", "gemma", "llama3.2"].map(str::to_owned);
        for (text, meant) in [
            ("smolm2", "smollm2"),
            ("SmolLM2", "smollm2"),
            ("llama3,2", "llama3.2"),
            ("gema", "gemma"),
        ] {
            assert_eq!(nearest(&names, text).as_deref(), Some(meant));
        }
        for text in ["qwen", "mistral", "no-such-model", ""] {
            assert_eq!(nearest(&names, text), None, "{text}");
        }
        for (from, to, expected) in [("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3)] {
            assert_eq!(edits(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn names_of_the_catalogue_and_addresses_are_what_they_mean() {
        for (text, meant) in [
            ("SmolLM2", "smollm2"),
            ("https://huggingface.co/a/b/", "hf:a/b"),
            ("hf.co/a/b", "hf:a/b"),
            ("hf:a/b", "hf:a/b"),
            ("other", "other"),
        ] {
            assert_eq!(canonical(text), meant);
        }
    }
}
