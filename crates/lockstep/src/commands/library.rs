//! `lockstep import`, `pull`, `list`, `show`, `rm`: the models on this machine.

use anyhow::{Result, bail};
use lockstep_exact::feed_forward::FeedForward;
use lockstep_exact::manifest::LayerPlan;
use serde_json::{Value, json};

use crate::args::{Import, List, Pull, Rm, Show};
use crate::exit::Exit;
use crate::figures;
use crate::models::{self, Model, Place};
use crate::output::{Voice, human_bytes};
use crate::printable::Foreign;

/// `lockstep import`.
pub(crate) fn import(place: &Place, args: &Import) -> Result<Exit> {
    let voice = Voice::new(args.json);
    let model =
        models::import_path(place, &args.path, args.name.as_deref(), args.weights.into(), voice)?;
    report(&model, voice);
    Ok(Exit::Done)
}

/// `lockstep pull`.
pub(crate) fn pull(place: &Place, args: &Pull) -> Result<Exit> {
    let voice = Voice::new(args.json);
    let (name, codec) = (args.name.as_deref(), args.weights.into());
    let own = models::stored_name(&args.model, codec);
    if let Some(model) = Model::find(place, name.unwrap_or(&own))? {
        let stored = models::codec_of(&model.manifest);
        if stored != codec {
            bail!(
                "{} is here with weights in {stored}: give another --name for {codec}, or \
                 `lockstep rm {}` first",
                model.name,
                model.name,
            );
        }
        voice.note(format!("{} is here already", model.name));
        report(&model, voice);
        return Ok(Exit::Done);
    }
    let model = models::pull(place, &args.model, name, codec, voice)?;
    report(&model, voice);
    Ok(Exit::Done)
}

fn report(model: &Model, voice: Voice) {
    if !voice.is_json() {
        voice.line(format!("{}  {}", model.name, model.record.manifest));
    }
    voice.json(&facts(model));
}

fn facts(model: &Model) -> Value {
    let manifest = &model.manifest;
    let bytes: u64 = manifest.blobs.iter().map(|blob| blob.len).sum();
    json!({
        "name": model.name.to_string(),
        "id": model.record.manifest.to_string(),
        "source": model.record.source,
        "architecture": manifest.provenance.architecture,
        "license": manifest.provenance.license,
        "format": manifest.provenance.source_format,
        "weights": models::codec_of(manifest).name(),
        "layers": manifest.layers.len(),
        "hidden": manifest.hidden,
        "vocabulary": manifest.vocabulary,
        "context": manifest.context,
        "bytes": bytes,
        "blobs": manifest.blobs.len(),
        "figures": manifest.provenance.figures.iter().map(figures::json).collect::<Vec<_>>(),
    })
}

/// `lockstep list`.
pub(crate) fn list(place: &Place, args: &List) -> Result<Exit> {
    let voice = Voice::new(args.json);
    let mut models = Vec::new();
    for (name, record) in place.store.models()? {
        match place.store.manifest(&record) {
            Ok(manifest) => models.push(Model { name, record, manifest }),
            Err(error) => voice.note(format!("{name}: {error}")),
        }
    }
    if args.json {
        voice.json(&json!({ "models": models.iter().map(facts).collect::<Vec<_>>() }));
    } else if models.is_empty() {
        voice.line("No models yet. `lockstep pull smollm2` gets a small one.");
    } else {
        voice.line(format!(
            "{:<24} {:<14} {:>10} {:>7}  {}",
            "NAME", "ID", "SIZE", "LAYERS", "LICENCE"
        ));
        for model in &models {
            let manifest = &model.manifest;
            let bytes: u64 = manifest.blobs.iter().map(|blob| blob.len).sum();
            voice.line(format!(
                "{:<24} {:<14} {:>10} {:>7}  {}",
                model.name.to_string(),
                model.record.manifest.short(),
                human_bytes(bytes),
                manifest.layers.len(),
                Foreign(&manifest.provenance.license),
            ));
            for figure in &manifest.provenance.figures {
                voice.line(format!("  {}", figures::line(figure)));
            }
        }
        if models.iter().any(|model| !model.manifest.provenance.figures.is_empty()) {
            voice.line(figures::WHOSE);
        }
    }
    Ok(Exit::Done)
}

/// `lockstep show`.
pub(crate) fn show(place: &Place, args: &Show) -> Result<Exit> {
    let voice = Voice::new(args.json);
    let model = Model::installed(place, &args.model)?;
    if args.json {
        voice.json(&facts(&model));
        return Ok(Exit::Done);
    }
    let Value::Object(fields) = facts(&model) else { return Ok(Exit::Done) };
    for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_array()) {
        let text =
            value.as_str().map_or_else(|| value.to_string(), |text| Foreign(text).to_string());
        voice.line(format!("{name:<14} {text}"));
    }
    if let Some(layer) = model.manifest.layers.first() {
        let attention = &layer.attention;
        voice.line(format!(
            "{:<14} {} heads, {} kv heads of {}; feed-forward {}; {:?}",
            "layer",
            attention.heads,
            attention.kv_heads,
            attention.head_dim,
            feed_forward(layer),
            layer.activation,
        ));
    }
    let figures = &model.manifest.provenance.figures;
    for figure in figures {
        voice.line(format!("{:<14} {}", "quality", figures::line(figure)));
    }
    if !figures.is_empty() {
        voice.line(format!("{:<14} {}", "", figures::WHOSE));
    }
    Ok(Exit::Done)
}

/// The size of the feed-forward part, or the experts.
fn feed_forward(layer: &LayerPlan) -> String {
    let of = match &layer.feed_forward {
        FeedForward::Dense(gated) => return gated.down.matrix.columns.to_string(),
        FeedForward::Experts(of) => of,
    };
    let size = of.experts.first().map_or(0, |expert| expert.down.matrix.columns);
    let shared = of.shared.as_ref().map(|shared| shared.gated.down.matrix.columns);
    let shared = shared.map_or(String::new(), |size| format!(" and a shared one of {size}"));
    format!("{} of {} experts of {size}{shared}", of.rule.used, of.experts.len())
}

/// `lockstep rm`.
pub(crate) fn rm(place: &Place, args: &Rm) -> Result<Exit> {
    let voice = Voice::new(false);
    let Some((name, _)) = Model::record(place, &args.model)? else {
        bail!("no model {:?} here: `lockstep list` shows what there is", args.model);
    };
    let removed = place.store.remove(&name)?;
    voice.line(format!("Removed {name}: {} files, {}", removed.blobs, human_bytes(removed.bytes)));
    Ok(Exit::Done)
}
