//! From what people call a model to its package in the store, fetching and importing on the way.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lockstep_exact::Digest;
use lockstep_exact::manifest::{LayerPlan, Manifest};
use lockstep_exact::matrix::Codec;
use lockstep_import::source;
use lockstep_import::tokenizer::Tokenizer;
use lockstep_node::config::Config;
use lockstep_node::home::Home;
use lockstep_node::limits::MODEL_ID_DIGITS;
use lockstep_node::memory::Room;
use lockstep_node::store::{ModelName, ModelRecord, OpenBlobs, Source, Store};

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
        home.create().with_context(|| format!("can't make {}", home.root().display()))?;
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

    /// The same, without a look at its manifest.
    pub(crate) fn record(place: &Place, text: &str) -> Result<Option<(ModelName, ModelRecord)>> {
        let models = place.store.models()?;
        let by_id = |record: &ModelRecord| {
            text.len() >= MODEL_ID_DIGITS
                && record.manifest.to_string().starts_with(&text.to_lowercase())
        };
        Ok(models.into_iter().find(|(name, record)| name.as_str() == text || by_id(record)))
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
        Self::find(place, text)?.with_context(|| {
            format!(
                "no model {text:?} here: `lockstep list` shows what there is, \
                 `lockstep pull {text}` may get it"
            )
        })
    }

    /// Finds a model, or gets it: a file or folder is imported, a catalogue name or Hugging Face
    /// reference is pulled.
    pub(crate) fn ensure(place: &Place, text: &str, voice: Voice) -> Result<Self> {
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
             a safetensors folder, hf:ORG/REPO[:NAME], or one of: {}",
            catalogue_names()
        )
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

/// Names that `pull` knows.
pub(crate) fn catalogue_names() -> String {
    source::catalogue().iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ")
}

/// How the matrices of a model's layers are stored: the coarsest of their codecs.
pub(crate) fn codec_of(manifest: &Manifest) -> Codec {
    let matrices = manifest.layers.iter().flat_map(LayerPlan::matrices);
    matrices.map(|(_, matrix)| matrix.codec).max().unwrap_or_default()
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
