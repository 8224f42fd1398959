//! `lockstep key`: the secret with which this machine verifies a model's answers.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use lockstep_client::keys::{self, KeyFileError};
use lockstep_client::model::{self, Model};
use lockstep_client::place::Place;
use lockstep_verify::key::Key as VerifierKey;
use serde_json::{Value, json};

use crate::args::Key;
use crate::exit::Exit;
use crate::models;
use crate::output::{self, Voice, human_bytes};
use crate::printable::ForeignPath;

/// Runs the command.
pub(crate) fn run(place: &Place, args: &Key) -> Result<Exit> {
    let voice = Voice::new(args.json);
    if let Some(path) = args.out.as_deref().filter(|path| path.exists() && !args.force) {
        bail!("{} is there already; --force replaces it", ForeignPath(path));
    }
    let model = models::ensure(place, &args.model, voice)?;
    let path = match &args.out {
        Some(path) => path.clone(),
        None => model::key_path(place, &model.record.manifest),
    };
    if path.exists() && !args.force {
        // The one in the keys folder is the one that is asked for.
        keys::read(&path)?;
        if !args.json {
            voice.line(format!(
                "The key for {} is in {} already; --force makes another.",
                model.name,
                ForeignPath(&path)
            ));
        }
        voice.json(&facts(&model, &path)?);
        return Ok(Exit::Done);
    }
    let key = make(place, &model)?;
    keys::write(&path, &key)?;
    let bytes = fs::metadata(&path).map_or(0, |file| file.len());
    if !args.json {
        voice.line(format!(
            "Key for {} in {} ({}). Keep it secret: whoever has it can fool you.",
            model.name,
            path.display(),
            human_bytes(bytes),
        ));
    }
    voice.json(&facts(&model, &path)?);
    Ok(Exit::Done)
}

/// A key's file for scripts.
fn facts(model: &Model, path: &Path) -> Result<Value> {
    let bytes = fs::metadata(path).with_context(|| format!("can't read {}", ForeignPath(path)))?;
    let model = model.record.manifest.to_string();
    Ok(json!({ "path": path, "model": model, "bytes": bytes.len() }))
}

/// The key in the keys folder; made now if there is none.
pub(crate) fn ensure(place: &Place, model: &Model) -> Result<VerifierKey> {
    with_bar(model, |progress| keys::ensure(place, model, progress))
}

fn make(place: &Place, model: &Model) -> Result<VerifierKey> {
    with_bar(model, |progress| keys::make(place, model, progress))
}

/// Shows how many layers are done, if any are.
fn with_bar(
    model: &Model,
    work: impl FnOnce(&mut dyn FnMut(u32)) -> Result<VerifierKey, KeyFileError>,
) -> Result<VerifierKey> {
    let mut bar = None;
    let layers = model.manifest.layers.len() as u64;
    let key = work(&mut |done| {
        let bar = bar.get_or_insert_with(|| output::steps_bar("making the key", layers));
        bar.set_position(done.into());
    })?;
    bar.iter().for_each(ProgressBar::finish_and_clear);
    Ok(key)
}
