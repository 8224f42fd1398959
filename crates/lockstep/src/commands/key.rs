//! `lockstep key`: the secret with which this machine verifies a model's answers.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use lockstep_client::keys;
use lockstep_client::model::{self, Model};
use lockstep_client::place::Place;
use serde_json::{Value, json};

use crate::args::Key;
use crate::exit::Exit;
use crate::key_making;
use crate::models;
use crate::output::{Printer, human_bytes};
use crate::printable::ForeignPath;

/// Runs `lockstep key`, and returns its exit code.
pub(crate) fn run(place: &Place, args: &Key) -> Result<Exit> {
    let printer = Printer::new(args.json);
    if let Some(path) = args.out.as_deref().filter(|path| path.exists() && !args.force) {
        bail!("{} is there already; --force replaces it", ForeignPath(path));
    }
    let model = models::ensure(place, &args.model, printer)?;
    let path = match &args.out {
        Some(path) => path.clone(),
        None => model::key_path(place, &model.record.manifest),
    };
    if path.exists() && !args.force {
        // The one in the keys folder is the one that is asked for.
        keys::read(&path)?;
        if !args.json {
            printer.line(format!(
                "The key for {} is in {} already; --force makes another.",
                model.name,
                ForeignPath(&path)
            ));
        }
        printer.json(&facts(&model, &path)?);
        return Ok(Exit::Done);
    }
    let key = key_making::make(place, &model)?;
    keys::write(&path, &key)?;
    let bytes = fs::metadata(&path).map_or(0, |file| file.len());
    if !args.json {
        printer.line(format!(
            "Key for {} in {} ({}). Keep it secret: whoever has it can fool you.",
            model.name,
            path.display(),
            human_bytes(bytes),
        ));
    }
    printer.json(&facts(&model, &path)?);
    Ok(Exit::Done)
}

/// Returns a key's file for scripts.
fn facts(model: &Model, path: &Path) -> Result<Value> {
    let bytes = fs::metadata(path).with_context(|| format!("can't read {}", ForeignPath(path)))?;
    let model = model.record.manifest.to_string();
    Ok(json!({ "path": path, "model": model, "bytes": bytes.len() }))
}
