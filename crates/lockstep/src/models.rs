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
    let next = match can_pull(text) {
        true => format!(", `lockstep pull {text}` gets it"),
        false => did_you_mean(nearest(&local_names(&place.store)?, text).as_deref()),
    };
    bail!("no model {text:?} here: `lockstep list` shows what there is{next}")
}

/// Finds a model, or gets it: a file or folder is imported, a catalogue name or Hugging Face
/// reference is pulled.
pub(crate) fn ensure(place: &Place, text: &str, printer: Printer) -> Result<Model> {
    let text = &canonical(text);
    match Model::find(&place.store, text)? {
        Some(model) if model.is_whole(&place.store) => return Ok(model),
        Some(part) if !can_pull(text) => bail!(
            "only a part of {text} is here, which a server has fetched from others: {}",
            how_to_get(&part.called())
        ),
        Some(_) | None => {}
    }
    get(place, text, Codec::W8, printer)
}

/// Gets the files of a model that are not here, from where the model came from.
pub(crate) fn ensure_whole(place: &Place, model: &Model, printer: Printer) -> Result<()> {
    let source = &model.record.source.text;
    let got = get(place, source, codec_of(&model.manifest), printer)?;
    let (id, wanted) = (got.record.manifest, model.record.manifest);
    if id != wanted {
        bail!("{source} is another model now: {} and not {}", id.short(), wanted.short());
    }
    Ok(())
}

/// Returns whether `pull` takes this text.
fn can_pull(text: &str) -> bool {
    text.starts_with("hf:") || source::find(text).is_some()
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
    if can_pull(text) {
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
    if can_pull(pulled) {
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
