//! `lockstep key`: the secret with which this machine verifies a model's answers.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};
use lockstep_node::home::{self, ReadSecretError};
use lockstep_node::limits;
use lockstep_verify::key::Key as VerifierKey;
use serde_json::{Value, json};

use crate::args::Key;
use crate::backend::backend;
use crate::exit::Exit;
use crate::models::{self, Model, Place};
use crate::output::{self, Voice, human_bytes};
use crate::printable::ForeignPath;
use crate::random;

/// Runs the command.
pub(crate) fn run(place: &Place, args: &Key) -> Result<Exit> {
    let voice = Voice::new(args.json);
    if let Some(path) = args.out.as_deref().filter(|path| path.exists() && !args.force) {
        bail!("{} is there already; --force replaces it", ForeignPath(path));
    }
    let model = Model::ensure(place, &args.model, voice)?;
    let path = match &args.out {
        Some(path) => path.clone(),
        None => models::key_path(place, &model.record.manifest),
    };
    if path.exists() && !args.force {
        // The one in the keys folder is the one that is asked for.
        read(&path)?;
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
    let file = key.to_file();
    home::write_private(&path, &file).with_context(|| format!("can't write {}", path.display()))?;
    if !args.json {
        voice.line(format!(
            "Key for {} in {} ({}). Keep it secret: whoever has it can fool you.",
            model.name,
            path.display(),
            human_bytes(file.len() as u64),
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
    let path = models::key_path(place, &model.record.manifest);
    match fs::File::open(&path) {
        // Somebody else's home: a key of one's own is made from the model, and serves this once.
        Err(error) if home::is_refusal(&error) => return make(place, model),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Ok(_) | Err(_) => return read(&path),
    }
    let key = make(place, model)?;
    match home::write_private(&path, &key.to_file()) {
        // In a home that can only be read, the key serves this once.
        Err(error) if home::is_refusal(&error) => Ok(key),
        written => {
            written.with_context(|| format!("can't write {}", path.display()))?;
            Ok(key)
        }
    }
}

/// Reads a key file.
pub(crate) fn read(path: &Path) -> Result<VerifierKey> {
    let bytes = match home::read_secret(path, limits::KEY_BYTES) {
        Err(ReadSecretError::Exposed) => bail!(
            "{path} can be read or changed by others, and whoever has it can fool you: make a new \
             one with `lockstep key --force`, or run: chmod 600 {path}",
            path = path.display(),
        ),
        read => read.with_context(|| format!("can't read {}", path.display()))?,
    };
    VerifierKey::from_file(&bytes).with_context(|| path.display().to_string())
}

fn make(place: &Place, model: &Model) -> Result<VerifierKey> {
    let blobs = model.all_blobs(place)?;
    let bar = output::steps_bar("making the key", model.manifest.layers.len() as u64);
    let done = |layers: u32| bar.set_position(layers.into());
    let (ops, manifest) = (backend(None)?, model.manifest.clone());
    let key = VerifierKey::generate(&ops, manifest, random::secret()?, blobs.source(), done)?;
    bar.finish_and_clear();
    Ok(key)
}
