//! `lockstep verify`: a saved bundle, offline, without weights or servers.

use std::fs;

use anyhow::{Context, Result};
use lockstep_exact::bytes::Canonical;
use lockstep_verify::audit;
use lockstep_verify::bundle::Bundle;
use lockstep_verify::links::{Linked, Rules};
use serde_json::{Value, json};

use crate::args::Verify;
use crate::backend::backend;
use crate::commands::key;
use crate::exit::Exit;
use crate::models::{self, Model, Place};
use crate::output::Voice;
use crate::verdict::Report;

/// Runs the command.
pub(crate) fn run(place: &Place, args: &Verify) -> Result<Exit> {
    let voice = Voice::new(args.json);
    let bytes =
        fs::read(&args.bundle).with_context(|| format!("can't read {}", args.bundle.display()))?;
    let bundle = Bundle::from_bytes(&bytes)
        .with_context(|| format!("{} is not a receipt bundle", args.bundle.display()))?;
    let manifest = bundle.receipt.request.manifest;
    let path = args.key.clone().unwrap_or_else(|| models::key_path(place, &manifest));
    let report = if path.exists() {
        let key = key::read(&path)?;
        Report::of(&audit::audit(&backend(place.threads(None))?, &key, &bundle))
    } else if args.key.is_some() {
        anyhow::bail!("no key at {}", path.display());
    } else {
        without_key(place, &bundle)?
    };
    if !args.json {
        for line in &report.lines {
            voice.line(line);
        }
    }
    let mut json = json!({
        "session": bundle.receipt.request.session().to_string(),
        "model": manifest.to_string(),
        "servers": bundle.receipt.segments.len(),
        "tokens": bundle.receipt.answer.len(),
    });
    report.add_to(&mut json);
    voice.json(&json as &Value);
    Ok(report.exit)
}

/// Signatures and links alone: never more than "not checked".
fn without_key(place: &Place, bundle: &Bundle) -> Result<Report> {
    let id = bundle.receipt.request.manifest.to_string();
    let Some(model) = Model::find(place, &id)? else {
        let why = "neither a key nor the model's manifest is here (`lockstep key MODEL` makes one)";
        return Ok(Report::unchecked(why, Exit::NotChecked));
    };
    let tokenizer = model.tokenizer(place)?;
    let rules = Rules { manifest: &model.manifest, vocabulary: tokenizer.vocabulary() };
    Ok(match Linked::check(&bundle.receipt, rules) {
        Ok(_) => Report::unchecked(
            "signatures, links and stop rules hold, but without a key no computation was checked \
             (`lockstep key MODEL` makes one)",
            Exit::NotChecked,
        ),
        Err(fault) => Report::of(&Err(fault.into())),
    })
}
