//! Getting a model that somebody names: from the store, or fetched and imported on the way.

use std::path::Path;

use anyhow::{Result, bail};
use lockstep_client::model::{
    Model, canonical, codec_of, did_you_mean, local_names, names_of, nearest, stored_name,
};
use lockstep_client::place::Place;
use lockstep_exact::matrix::Codec;
use lockstep_import::source;
use lockstep_node::store::ModelName;

use crate::fetch;
use crate::importing::{Importing, import_from, import_path};
use crate::model_files::ModelFiles;
use crate::output::Printer;

/// Returns the one name that is meant, and what else it stands for: the names of the same model.
///
/// # Errors
/// There is none, or an id is that of several names.
pub(crate) fn only_name(place: &Place, text: &str) -> Result<(ModelName, Vec<ModelName>)> {
    let found = Model::records(&place.store, text)?;
    match found.as_slice() {
        [] => bail!(
            "no model {text:?} here: `lockstep list` shows what there is{}",
            did_you_mean(nearest(&local_names(&place.store)?, text).as_deref())
        ),
        [(name, record)] => {
            let models = place.store.models()?.into_iter();
            let same = models.filter(|(other, of)| other != name && of.manifest == record.manifest);
            Ok((name.clone(), same.map(|(other, _)| other).collect()))
        }
        several => bail!(
            "{text:?} is the id of several names: {}; say which name is meant",
            names_of(several)
        ),
    }
}

/// Finds a model that is here, or says how to get it.
pub(crate) fn installed(place: &Place, text: &str) -> Result<Model> {
    if let Some(model) = Model::find(&place.store, text)? {
        return Ok(model);
    }
    let can_pull = text.starts_with("hf:") || source::find(text).is_some();
    let next = match can_pull {
        true => format!(", `lockstep pull {text}` gets it"),
        false => did_you_mean(nearest(&local_names(&place.store)?, text).as_deref()),
    };
    bail!("no model {text:?} here: `lockstep list` shows what there is{next}")
}

/// Finds a model, or gets it: a file or folder is imported, a catalogue name or Hugging Face
/// reference is pulled.
pub(crate) fn ensure(place: &Place, text: &str, printer: Printer) -> Result<Model> {
    let text = &canonical(text);
    if let Some(model) = Model::find(&place.store, text)? {
        return Ok(model);
    }
    get(place, text, Codec::W8, printer)
}

/// Returns the same, with its layers stored in this codec.
pub(crate) fn ensure_stored(
    place: &Place,
    text: &str,
    codec: Codec,
    printer: Printer,
) -> Result<Model> {
    let text = &canonical(text);
    if codec == Codec::W8 {
        return ensure(place, text, printer);
    }
    for name in [text, &stored_name(text, codec)] {
        let model = Model::find(&place.store, name)?;
        if let Some(model) = model.filter(|model| codec_of(&model.manifest) == codec) {
            return Ok(model);
        }
    }
    get(place, text, codec, printer)
}

/// Imports or pulls the model that `text` names.
fn get(place: &Place, text: &str, codec: Codec, printer: Printer) -> Result<Model> {
    let path = Path::new(text);
    if ModelFiles::are_at(path) {
        return import_path(place, path, Importing::on_the_way(codec), printer);
    }
    if let Some(model) = Model::pulled(&place.store, text, codec)? {
        return Ok(model);
    }
    if text.starts_with("hf:") || source::find(text).is_some() {
        return pull(place, text, Importing::on_the_way(codec), printer);
    }
    if let Some(model) = Model::find(&place.store, text)? {
        let stored = codec_of(&model.manifest);
        bail!(
            "{text} is here with weights in {stored}: for {codec} import its file or folder again, \
             with --weights {codec}"
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
        "no model {text:?}: expected a name that `lockstep list` shows, a GGUF file, a safetensors \
         folder, hf:ORG/REPO[:NAME], or one of: {}{}",
        fetch::catalogue_names(),
        did_you_mean(nearest(&known_names(place)?, text).as_deref()),
    )
}

/// Returns a sentence that says how to get a model that a ticket calls by this name.
pub(crate) fn how_to_get(called: &str) -> String {
    let w4 = called.strip_suffix("-w4");
    let pulled = w4.unwrap_or(called);
    if pulled.starts_with("hf:") || source::find(pulled).is_some() {
        let weights = if w4.is_some() { " --weights w4" } else { "" };
        return format!("`lockstep pull {pulled}{weights}` gets it");
    }
    "ask whoever gave you the ticket for its files or where they come from, and `lockstep import \
     FILE` or `lockstep pull hf:ORG/REPO`"
        .to_owned()
}

/// Returns the names of the models here, and of those that `pull` knows.
fn known_names(place: &Place) -> Result<Vec<String>> {
    let mut names = local_names(&place.store)?;
    names.extend(source::catalogue().iter().map(|entry| entry.name.to_owned()));
    Ok(names)
}

/// Downloads a model and imports it.
pub(crate) fn pull(
    place: &Place,
    text: &str,
    importing: Importing<'_>,
    printer: Printer,
) -> Result<Model> {
    let fetched = fetch::fetch(place, text, printer)?;
    let own = ModelName::made_of(&stored_name(&fetched.name, importing.codec));
    let source = fetched.file.origin.clone();
    let name = importing.name.or_else(|| own.as_ref().map(ModelName::as_str));
    let importing = Importing { name, ..importing };
    let model = import_from(place, &fetched.file.path, importing, &source, printer)?;
    fetched.file.discard()?;
    Ok(model)
}
