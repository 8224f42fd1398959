//! Putting a model's files into the store under a name, or finding that they are there already.

use std::path::Path;

use anyhow::{Context, Result, bail};
use lockstep_client::model::{Model, code_width, codec_of, stored_name};
use lockstep_client::place::Place;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::matrix::Codec;
use lockstep_import::package::{Facts, Loss, Progress};
use lockstep_node::memory;
use lockstep_node::store::{ModelName, Source, StoreError};

use crate::chat_format::faults_of_templates;
use crate::exit::usage;
use crate::model_files::{self, ModelFiles};
use crate::output::{self, Printer};
use crate::printable::Foreign;

/// The way to go on where the name of a new model stands for another one already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The import fails, with an error that says what to do.
    Refuse,
    /// The other model gives the name up, with its blobs.
    Replace,
    /// The new one gets a number behind its name.
    Number,
}

/// The settings of an import.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Importing<'a> {
    /// The name to keep it under; made of the path, or of what the model calls itself, if not
    /// given.
    pub name: Option<&'a str>,
    /// The codec in which the matrices of the layers are stored.
    pub codec: Codec,
    /// The way to go on where the name is taken.
    pub taken: Taken,
    /// Also if it has matrices as no training leaves them.
    pub odd_weights: bool,
}

impl Importing<'_> {
    /// Returns the settings with which a model is imported that a command only named in order to
    /// run it.
    pub(crate) const fn on_the_way(codec: Codec) -> Self {
        Self { name: None, codec, taken: Taken::Number, odd_weights: false }
    }
}

/// Imports a model file, or a folder of them, unless it is here already.
pub(crate) fn import_path(
    place: &Place,
    path: &Path,
    importing: Importing<'_>,
    printer: Printer,
) -> Result<Model> {
    import_from(place, path, importing, &model_files::last_part(path), printer)
}

/// Returns the same, of files that came from `source`.
pub(crate) fn import_from(
    place: &Place,
    path: &Path,
    importing: Importing<'_>,
    source: &str,
    printer: Printer,
) -> Result<Model> {
    let Importing { codec, odd_weights, .. } = importing;
    let files = ModelFiles::open(path)?;
    let source = Source { text: source.to_owned(), digest: Some(files.digest(codec)) };
    let asked = importing.name.map(parsed).transpose()?;
    if let Some(model) = here_already(place, &source, asked.as_ref(), importing.taken, printer)? {
        files.check_unchanged()?;
        return Ok(model);
    }
    let translated = files.translated()?;
    let model = files.model(translated.as_ref())?;
    let w8_bytes = model.facts().package_bytes;
    let model = model.with_weights(codec).with_odd_weights(odd_weights);
    let facts = model.facts();
    let name = match asked {
        Some(name) => name,
        None => name_of(&files, &facts, codec).context("no name can be made: give one (--name)")?,
    };
    let name = free_name(place, name, &facts, codec, importing.taken)?;
    printer.note(format!(
        "Importing {} ({} layers, hidden size {}), licence {}, into {}",
        Foreign(&facts.provenance.name),
        facts.layers,
        facts.hidden,
        Foreign(&facts.provenance.license),
        output::human_bytes(facts.package_bytes),
    ));
    for warning in model.warnings() {
        printer.note(format!("Warning: {}", Foreign(&warning.to_string())));
    }
    memory::check_import(name.as_str(), facts.memory_bytes, place.room())?;
    let mut import = place.store.begin()?;
    import.check_space(facts.package_bytes)?;
    let bar = output::steps_bar("quantising", facts.weights);
    let progress = |progress: Progress| bar.set_position(progress.done);
    let (manifest, loss) = model.import_measured(&mut import, progress)?;
    bar.finish_and_clear();
    files.check_unchanged()?;
    let id = match importing.taken {
        Taken::Replace => import.replace(&name, &manifest, source)?,
        Taken::Refuse | Taken::Number => import.publish(&name, &manifest, source)?,
    };
    printer.note(format!("Imported {name} as {}", id.short()));
    printer.note(cost(codec, facts.package_bytes, w8_bytes, loss));
    let record = place.store.record(&name)?;
    let model = Model { name, record, manifest };
    for fault in faults_of_templates(&model.tokenizer(&place.store)?) {
        printer.note(fault);
    }
    Ok(model)
}

/// Returns the model that these files were imported as, if it is here and whole; under the name
/// that is asked for, if one is.
fn here_already(
    place: &Place,
    source: &Source,
    asked: Option<&ModelName>,
    taken: Taken,
    printer: Printer,
) -> Result<Option<Model>> {
    let models = place.store.models()?;
    let is_same = |name: &ModelName| asked.is_none_or(|asked| asked == name);
    let mut found: Vec<_> =
        models.into_iter().filter(|(_, record)| record.source.digest == source.digest).collect();
    // The one of the name that is asked for, if there are several.
    found.sort_by_key(|(name, _)| !is_same(name));
    let Some((name, record)) = found.into_iter().next() else { return Ok(None) };
    let Ok(manifest) = place.store.manifest(&record) else { return Ok(None) };
    if !place.store.damage(&manifest, true).is_empty() {
        printer.note(format!("{name} is damaged; importing it again"));
        return Ok(None);
    }
    let Some(asked) = asked.filter(|asked| **asked != name) else {
        printer.note(format!("{name} is here already, from these files"));
        return Ok(Some(Model { name, record, manifest }));
    };
    let import = place.store.begin()?;
    match taken {
        Taken::Replace => import.replace(asked, &manifest, record.source.clone())?,
        Taken::Refuse | Taken::Number => import.publish(asked, &manifest, record.source.clone())?,
    };
    printer.note(format!("{asked} is what {name} is, which is here already, from these files"));
    Ok(Some(Model { name: asked.clone(), record: place.store.record(asked)?, manifest }))
}

fn parsed(name: &str) -> Result<ModelName> {
    name.parse().map_err(|error| usage(format!("--name: {error}")))
}

/// Returns the name for a model that was given none: that of its files, or that in its metadata if
/// the files' name has no letter that a name may have.
fn name_of(files: &ModelFiles, facts: &Facts, codec: Codec) -> Option<ModelName> {
    let of_texts = [files.name.as_str(), &facts.provenance.name, "model"];
    let plain = of_texts.into_iter().find_map(ModelName::made_of);
    let plain = plain.as_ref().map_or("model", ModelName::as_str);
    ModelName::made_of(&stored_name(plain, codec))
}

/// Returns the name that a model can get, told as early as it can be that it can't.
fn free_name(
    place: &Place,
    name: ModelName,
    facts: &Facts,
    codec: Codec,
    taken: Taken,
) -> Result<ModelName> {
    let record = match place.store.record(&name) {
        Ok(record) => record,
        Err(StoreError::Unknown { .. } | StoreError::Record { .. }) => return Ok(name),
        Err(error) => return Err(error.into()),
    };
    match taken {
        Taken::Replace => Ok(name),
        // The same model from other files keeps its name: whether it is the same is known at the
        // end.
        Taken::Refuse => match place.store.manifest(&record) {
            Ok(manifest) if is_another(&manifest, facts, codec) => {
                bail!(StoreError::NameTaken { name, id: record.manifest })
            }
            Ok(_) | Err(_) => Ok(name),
        },
        Taken::Number => {
            let models = place.store.models()?;
            let mut numbered = (2..).map_while(|number| name.numbered(number));
            let free = numbered.find(|name| !models.contains_key(name));
            Ok(free.unwrap_or(name))
        }
    }
}

/// Returns whether a model in the store is surely none that these files make.
fn is_another(manifest: &Manifest, facts: &Facts, codec: Codec) -> bool {
    let (theirs, ours) = (&manifest.provenance, &facts.provenance);
    (&theirs.name, &theirs.architecture) != (&ours.name, &ours.architecture)
        || manifest.layers.len() != facts.layers as usize
        || (manifest.hidden, manifest.vocabulary) != (facts.hidden, facts.vocabulary)
        || codec_of(manifest) != codec
}

/// Returns a sentence that says how much quantising changed the weights.
fn cost(codec: Codec, bytes: u64, w8_bytes: u64, loss: Loss) -> String {
    let bytes = match codec {
        Codec::W8 => output::human_bytes(bytes),
        Codec::W4 => {
            format!("{} instead of {}", output::human_bytes(bytes), output::human_bytes(w8_bytes))
        }
    };
    let bits = code_width(codec);
    let off = 100.0 * loss.relative();
    format!("{codec}: {bytes}; {bits} codes change the weights by {off:.2} % (root mean square)")
}
