//! From what people call a model to its package in the store, fetching and importing on the way.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lockstep_exact::Digest;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::matrix::Codec;
use lockstep_exact::plan::LayerPlan;
use lockstep_import::source;
use lockstep_import::tokenizer::Tokenizer;
use lockstep_node::config::Config;
use lockstep_node::home::Home;
use lockstep_node::limits::MODEL_ID_DIGITS;
use lockstep_node::memory::Room;
use lockstep_node::store::{ModelName, ModelRecord, OpenBlobs, Source, Store};
use lockstep_node::ticket::is_plain_name;

use crate::backend;
use crate::fetch;
use crate::importing::{Importing, import_from, import_path};
use crate::model_files::ModelFiles;
use crate::output::Voice;

/// The home folder, its settings and its store.
pub(crate) struct Place {
    /// Folders and file modes.
    pub home: Home,
    /// Settings of the file and the environment.
    pub config: Config,
    /// Models.
    pub store: Store,
}

impl Place {
    /// Opens the home folder given on the command line or by the environment.
    pub(crate) fn open(home: Option<&Path>) -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        let home = match home {
            Some(path) => Home::at(path),
            None => Home::from_env(variable)?,
        };
        home.create().with_context(|| {
            format!(
                "can't make the home folder {}: set LOCKSTEP_HOME or --home to one that you can \
                 write",
                home.root().display()
            )
        })?;
        let config = Config::read(&home.config())?.overridden(variable)?;
        let store = Store::open(&home, config.disk_reserve())?;
        Ok(Self { home, config, store })
    }

    /// Threads that compute: as many as given, else as the settings say.
    ///
    /// # Errors
    /// A usage error that says how many can be used.
    pub(crate) fn threads(&self, given: Option<usize>) -> Result<Option<usize>> {
        let threads = given.or_else(|| self.config.threads.map(NonZeroUsize::get));
        threads.map(backend::checked_threads).transpose()
    }

    /// The memory that this process may take now.
    pub(crate) fn room(&self) -> Option<Room> {
        Room::now(self.config.memory())
    }
}

/// A model in the store.
pub(crate) struct Model {
    /// Its name here.
    pub name: ModelName,
    /// What the name stands for.
    pub record: ModelRecord,
    /// Its manifest, checked.
    pub manifest: Manifest,
}

impl Model {
    /// Finds a model that is here, by name or id.
    pub(crate) fn find(place: &Place, text: &str) -> Result<Option<Self>> {
        let Some((name, record)) = Self::record(place, text)? else { return Ok(None) };
        let manifest = place.store.manifest(&record)?;
        Ok(Some(Self { name, record, manifest }))
    }

    /// The same, without a look at its manifest. An id may be that of several names.
    ///
    /// # Errors
    /// The beginning of an id is that of several models.
    pub(crate) fn record(place: &Place, text: &str) -> Result<Option<(ModelName, ModelRecord)>> {
        let found = Self::records(place, text)?;
        let mut ids = found.iter().map(|(_, record)| record.manifest);
        if let Some(first) = ids.next()
            && ids.any(|id| id != first)
        {
            bail!("{text:?} begins the ids of several models: {}", names_of(&found));
        }
        Ok(found.into_iter().next())
    }

    /// The model of a name, or all names that stand for models whose id begins so.
    fn records(place: &Place, text: &str) -> Result<Vec<(ModelName, ModelRecord)>> {
        let models = place.store.models()?;
        if let Some(found) = models.iter().find(|(name, _)| name.as_str() == text) {
            return Ok(vec![(found.0.clone(), found.1.clone())]);
        }
        let digits = text.to_lowercase();
        let is_it = |record: &ModelRecord| {
            digits.len() >= MODEL_ID_DIGITS && record.manifest.to_string().starts_with(&digits)
        };
        Ok(models.into_iter().filter(|(_, record)| is_it(record)).collect())
    }

    /// The one name that is meant, and what else it stands for: the names of the same model.
    ///
    /// # Errors
    /// There is none, or an id is that of several names.
    pub(crate) fn only_name(place: &Place, text: &str) -> Result<(ModelName, Vec<ModelName>)> {
        let found = Self::records(place, text)?;
        match found.as_slice() {
            [] => bail!(
                "no model {text:?} here: `lockstep list` shows what there is{}",
                did_you_mean(&local_names(place)?, text)
            ),
            [(name, record)] => {
                let models = place.store.models()?.into_iter();
                let same =
                    models.filter(|(other, of)| other != name && of.manifest == record.manifest);
                Ok((name.clone(), same.map(|(other, _)| other).collect()))
            }
            several => bail!(
                "{text:?} is the id of several names: {}; say which name is meant",
                names_of(several)
            ),
        }
    }

    /// Finds a model that was pulled from where `text` says, if it is here with its layers stored
    /// in this codec.
    pub(crate) fn pulled(place: &Place, text: &str, codec: Codec) -> Result<Option<Self>> {
        if !text.starts_with("hf:") {
            return Ok(None);
        }
        // What was named by its repository alone says afterwards which of its files it was.
        let is_from = |source: &Source| {
            let rest = source.text.strip_prefix(text);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        for (name, record) in place.store.models()? {
            if is_from(&record.source)
                && let Ok(manifest) = place.store.manifest(&record)
                && codec_of(&manifest) == codec
            {
                return Ok(Some(Self { name, record, manifest }));
            }
        }
        Ok(None)
    }

    /// Finds a model that is here, or says how to get it.
    pub(crate) fn installed(place: &Place, text: &str) -> Result<Self> {
        if let Some(model) = Self::find(place, text)? {
            return Ok(model);
        }
        let can_pull = text.starts_with("hf:") || source::find(text).is_some();
        let next = match can_pull {
            true => format!(", `lockstep pull {text}` gets it"),
            false => did_you_mean(&local_names(place)?, text),
        };
        bail!("no model {text:?} here: `lockstep list` shows what there is{next}")
    }

    /// Finds a model, or gets it: a file or folder is imported, a catalogue name or Hugging Face
    /// reference is pulled.
    pub(crate) fn ensure(place: &Place, text: &str, voice: Voice) -> Result<Self> {
        let text = &canonical(text);
        if let Some(model) = Self::find(place, text)? {
            return Ok(model);
        }
        Self::get(place, text, Codec::W8, voice)
    }

    /// The same, with its layers stored in this codec.
    pub(crate) fn ensure_stored(
        place: &Place,
        text: &str,
        codec: Codec,
        voice: Voice,
    ) -> Result<Self> {
        let text = &canonical(text);
        if codec == Codec::W8 {
            return Self::ensure(place, text, voice);
        }
        for name in [text, &stored_name(text, codec)] {
            let model = Self::find(place, name)?;
            if let Some(model) = model.filter(|model| codec_of(&model.manifest) == codec) {
                return Ok(model);
            }
        }
        Self::get(place, text, codec, voice)
    }

    /// Imports or pulls a model.
    fn get(place: &Place, text: &str, codec: Codec, voice: Voice) -> Result<Self> {
        let path = Path::new(text);
        if ModelFiles::are_at(path) {
            return import_path(place, path, Importing::on_the_way(codec), voice);
        }
        if let Some(model) = Self::pulled(place, text, codec)? {
            return Ok(model);
        }
        if text.starts_with("hf:") || source::find(text).is_some() {
            return pull(place, text, Importing::on_the_way(codec), voice);
        }
        if let Some(model) = Self::find(place, text)? {
            let stored = codec_of(&model.manifest);
            bail!(
                "{text} is here with weights in {stored}: for {codec} import its file or folder \
                 again, with --weights {codec}"
            );
        }
        if path.is_dir() {
            // Says what is missing in it.
            ModelFiles::open(path)?;
        }
        if text.contains(['/', std::path::MAIN_SEPARATOR]) || text.ends_with(".gguf") {
            bail!(
                "{text:?}: there is no such file or folder (a repository of Hugging Face is named \
                 hf:ORG/REPO)"
            );
        }
        bail!(
            "no model {text:?}: expected a name that `lockstep list` shows, a GGUF file, \
             a safetensors folder, hf:ORG/REPO[:NAME], or one of: {}{}",
            catalogue_names(),
            did_you_mean(&known_names(place)?, text),
        )
    }

    /// What the model's tickets call it: what `pull` takes, if it came from there, else its name
    /// here; with -w4 if its layers are stored so.
    pub(crate) fn called(&self) -> String {
        let source = &self.record.source.text;
        let is_of_hub = source.starts_with("hf:") && is_plain_name(source);
        match is_of_hub && source::find(self.name.as_str()).is_none() {
            true => stored_name(source, codec_of(&self.manifest)),
            false => self.name.to_string(),
        }
    }

    /// How to get a model that is called so in a ticket.
    pub(crate) fn how_to_get(called: &str) -> String {
        let w4 = called.strip_suffix("-w4");
        let pulled = w4.unwrap_or(called);
        if pulled.starts_with("hf:") || source::find(pulled).is_some() {
            let weights = if w4.is_some() { " --weights w4" } else { "" };
            return format!("`lockstep pull {pulled}{weights}` gets it");
        }
        "ask whoever gave you the ticket for its files or where they come from, and `lockstep \
         import FILE` or `lockstep pull hf:ORG/REPO`"
            .to_owned()
    }

    /// Opens and checks all blobs.
    pub(crate) fn all_blobs(&self, place: &Place) -> Result<OpenBlobs> {
        let layers = 0..self.manifest.layers.len() as u32;
        Ok(place.store.open_span(&self.manifest, layers)?)
    }

    /// What turns text into tokens and back.
    pub(crate) fn tokenizer(&self, place: &Place) -> Result<Tokenizer> {
        let wanted = [self.manifest.vocabulary_blob, self.manifest.tokenizer_blob];
        let blobs = place.store.open_blobs(&self.manifest, wanted)?;
        let get = |index| blobs.get(index).context("a blob that was just opened is gone");
        let vocabulary = get(self.manifest.vocabulary_blob)?;
        let definition = get(self.manifest.tokenizer_blob)?;
        Ok(Tokenizer::from_blobs(vocabulary.as_slice(), definition.as_slice())?)
    }
}

/// What a name stands for: the catalogue's names in any case, and addresses of Hugging Face as
/// people copy them.
pub(crate) fn canonical(text: &str) -> String {
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

/// The names of the models here.
fn local_names(place: &Place) -> Result<Vec<String>> {
    Ok(place.store.models()?.into_keys().map(|name| name.to_string()).collect())
}

/// The names of the models here, and of those that `pull` knows.
fn known_names(place: &Place) -> Result<Vec<String>> {
    let mut names = local_names(place)?;
    names.extend(source::catalogue().iter().map(|entry| entry.name.to_owned()));
    Ok(names)
}

fn names_of(models: &[(ModelName, ModelRecord)]) -> String {
    models.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The name that may have been meant, if one is near.
fn did_you_mean(names: &[String], text: &str) -> String {
    let text = text.to_lowercase();
    let distance = |name: &String| edits(&name.to_lowercase(), &text);
    let nearest = names.iter().min_by_key(|name| distance(name));
    match nearest.filter(|name| distance(name) <= 1 + text.len() / 5) {
        Some(name) => format!("; did you mean {name}?"),
        None => String::new(),
    }
}

/// The least number of bytes that are put in, taken out or changed to make one text of another.
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

/// Names that `pull` knows.
pub(crate) fn catalogue_names() -> String {
    source::catalogue().iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ")
}

/// How the matrices of a model's layers are stored: the coarsest of their codecs.
pub(crate) fn codec_of(manifest: &Manifest) -> Codec {
    let matrices = manifest.layers.iter().flat_map(LayerPlan::matrices);
    matrices.map(|(_, matrix)| matrix.codec).max().unwrap_or_default()
}

/// How wide a codec's codes are, in words.
pub(crate) const fn code_width(codec: Codec) -> &'static str {
    match codec {
        Codec::W8 => "8-bit",
        Codec::W4 => "4-bit",
    }
}

/// The name of a model whose layers are stored so, unless it is given one.
pub(crate) fn stored_name(name: &str, codec: Codec) -> String {
    match codec {
        Codec::W8 => name.to_owned(),
        Codec::W4 => format!("{name}-{codec}"),
    }
}

/// Downloads a model and imports it.
pub(crate) fn pull(
    place: &Place,
    text: &str,
    importing: Importing<'_>,
    voice: Voice,
) -> Result<Model> {
    let fetched = fetch::fetch(place, text, voice)?;
    let own = ModelName::made_of(&stored_name(&fetched.name, importing.codec));
    let source = fetched.file.origin.clone();
    let name = importing.name.or_else(|| own.as_ref().map(ModelName::as_str));
    let importing = Importing { name, ..importing };
    let model = import_from(place, &fetched.file.path, importing, &source, voice)?;
    fetched.file.discard()?;
    Ok(model)
}

/// Gives a model's name to the same model with another manifest, all of whose blobs are here.
pub(crate) fn rename(place: &Place, model: &Model, manifest: Manifest) -> Result<Model> {
    let name = model.name.clone();
    // Its files would be imported as another model now.
    let source = Source { text: model.record.source.text.clone(), digest: None };
    place.store.begin()?.replace(&name, &manifest, source)?;
    let record = place.store.record(&name)?;
    Ok(Model { name, record, manifest })
}

/// The path of a verifier's key for a model.
pub(crate) fn key_path(place: &Place, manifest: &Digest) -> PathBuf {
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
            assert_eq!(did_you_mean(&names, text), format!("; did you mean {meant}?"));
        }
        for text in ["qwen", "mistral", "no-such-model", ""] {
            assert_eq!(did_you_mean(&names, text), "", "{text}");
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
