//! The commands `lockstep import`, `pull`, `list`, `show` and `rm`: the models on this machine.

use anyhow::{Result, bail};
use lockstep_client::model::{self, Model};
use lockstep_client::place::Place;
use lockstep_exact::feed_forward::FeedForward;
use lockstep_exact::manifest::total_bytes;
use lockstep_exact::matrix::Codec;
use lockstep_exact::plan::LayerPlan;
use lockstep_node::pull;
use lockstep_node::store::{ModelName, ModelRecord, Removed, StoreError};
use serde_json::{Value, json};

use crate::args::{Import, List, Pull, Rm, Show};
use crate::exit::Exit;
use crate::figures;
use crate::importing::{self, Importing, Taken};
use crate::models;
use crate::output::{Printer, human_bytes};
use crate::printable::Foreign;

/// Runs `lockstep import`, and returns its exit code.
pub(crate) fn import(place: &Place, args: &Import) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let importing = Importing {
        name: args.name.as_deref(),
        codec: args.weights.into(),
        taken: if args.replace { Taken::Replace } else { Taken::Refuse },
        odd_weights: args.odd_weights,
    };
    let model = importing::import_path(place, &args.path, importing, printer)?;
    report(&model, printer);
    Ok(Exit::Done)
}

/// Runs `lockstep pull`, and returns its exit code.
pub(crate) fn pull(place: &Place, args: &Pull) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let (mut name, codec) = (args.name.clone(), args.weights.into());
    let asked = model::canonical(&args.model);
    let own = model::stored_name(&asked, codec);
    let mut taken = if args.replace { Taken::Replace } else { Taken::Refuse };
    let found = match Model::record(&place.store, name.as_ref().unwrap_or(&own))? {
        None if name.is_none() => {
            let pulled = Model::pulled(&place.store, &asked, codec)?;
            pulled.map(|model| (model.name, model.record))
        }
        found => found,
    };
    match here(place, found) {
        Here::Whole(model) if !args.replace => {
            let stored = model::codec_of(&model.manifest);
            if stored != codec {
                bail!(
                    "{} is here with weights in {stored}: give another --name for {codec}, or \
                     `lockstep rm {}` first",
                    model.name,
                    model.name,
                );
            }
            printer.note(format!("{} is here already", model.name));
            report(&model, printer);
            return Ok(Exit::Done);
        }
        Here::Damaged(damaged, wrong) => {
            printer.note(format!("{damaged} is damaged ({wrong}); getting it again"));
            (name, taken) = (Some(damaged.to_string()), Taken::Replace);
        }
        Here::Whole(_) | Here::No => {}
    }
    let importing =
        Importing { name: name.as_deref(), codec, taken, odd_weights: args.odd_weights };
    let model = models::pull(place, &asked, importing, printer)?;
    report(&model, printer);
    Ok(Exit::Done)
}

/// The state of the model that has a name.
enum Here {
    No,
    Whole(Box<Model>),
    /// A model has the name, and this error says what is damaged of it.
    Damaged(ModelName, StoreError),
}

/// Reads all bytes of the model that was found, if any, and says in which state it is.
fn here(place: &Place, found: Option<(ModelName, ModelRecord)>) -> Here {
    let Some((name, record)) = found else { return Here::No };
    let manifest = match place.store.manifest(&record) {
        Ok(manifest) => manifest,
        Err(error) => return Here::Damaged(name, error),
    };
    match place.store.damage(&manifest, true).into_iter().next() {
        Some(error) => Here::Damaged(name, error),
        None => Here::Whole(Box::new(Model { name, record, manifest })),
    }
}

fn report(model: &Model, printer: Printer) {
    if !printer.is_json() {
        printer.line(format!("{}  {}", model.name, model.record.manifest));
    }
    printer.json(&facts(model));
}

fn facts(model: &Model) -> Value {
    let manifest = &model.manifest;
    let bytes: u64 = total_bytes(&manifest.blobs);
    json!({
        "name": model.name.to_string(),
        "id": model.record.manifest.to_string(),
        "source": model.record.source.text,
        "architecture": manifest.provenance.architecture,
        "license": manifest.provenance.license,
        "format": manifest.provenance.source_format,
        "weights": model::codec_of(manifest).name(),
        "layers": manifest.layers.len(),
        "hidden": manifest.hidden,
        "vocabulary": manifest.vocabulary,
        "context": manifest.context,
        "bytes": bytes,
        "blobs": manifest.blobs.len(),
        "figures": manifest.provenance.figures.iter().map(figures::json).collect::<Vec<_>>(),
    })
}

/// Runs `lockstep list`, and returns its exit code.
pub(crate) fn list(place: &Place, args: &List) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let mut models = Vec::new();
    for (name, record) in place.store.models()? {
        match place.store.manifest(&record) {
            Ok(manifest) => models.push(Model { name, record, manifest }),
            Err(error) => printer.note(format!("{name}: {error}")),
        }
    }
    if args.json {
        printer.json(&json!({ "models": models.iter().map(facts).collect::<Vec<_>>() }));
    } else if models.is_empty() {
        printer.line("No models yet. `lockstep pull smollm2` gets a small one.");
    } else {
        printer.line(format!(
            "{:<24} {:<14} {:>10} {:>7}  {}",
            "NAME", "ID", "SIZE", "LAYERS", "LICENCE"
        ));
        for model in &models {
            let manifest = &model.manifest;
            let bytes: u64 = total_bytes(&manifest.blobs);
            printer.line(format!(
                "{:<24} {:<14} {:>10} {:>7}  {}",
                model.name.to_string(),
                model.record.manifest.short(),
                human_bytes(bytes),
                manifest.layers.len(),
                Foreign(&manifest.provenance.license),
            ));
            for figure in &manifest.provenance.figures {
                printer.line(format!("  {}", figures::line(figure)));
            }
        }
        if models.iter().any(|model| !model.manifest.provenance.figures.is_empty()) {
            printer.line(figures::WHOSE);
        }
    }
    Ok(Exit::Done)
}

/// Runs `lockstep show`, and returns its exit code.
pub(crate) fn show(place: &Place, args: &Show) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let model = models::installed(place, &args.model)?;
    if args.json {
        printer.json(&facts(&model));
        return Ok(Exit::Done);
    }
    let Value::Object(fields) = facts(&model) else { return Ok(Exit::Done) };
    for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_array()) {
        let text =
            value.as_str().map_or_else(|| value.to_string(), |text| Foreign(text).to_string());
        let meaning = meaning(&name, model::codec_of(&model.manifest));
        printer.line(format!("{name:<14} {text}{meaning}"));
    }
    if let Some(layer) = model.manifest.layers.first() {
        let attention = &layer.attention;
        printer.line(format!(
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
        printer.line(format!("{:<14} {}", "quality", figures::line(figure)));
    }
    if !figures.is_empty() {
        printer.line(format!("{:<14} {}", "", figures::WHOSE));
    }
    Ok(Exit::Done)
}

/// Returns an explanation of a field of [`facts`], where its name leaves open what it means:
/// numbers are stored in one way in the file that a model was imported from, and in another way in
/// the package.
fn meaning(field: &str, codec: Codec) -> String {
    match field {
        "format" => ", as most weights of the source were stored; it may have other types beside \
                     that"
            .to_owned(),
        "weights" => {
            let others = match codec {
                Codec::W8 => "",
                Codec::W4 => " (queries, keys and values, embedding and head in 8-bit ones)",
            };
            format!(
                ": kept in {} codes with a scale for every {} columns{others}, whatever the \
                 source had",
                model::code_width(codec),
                codec.group(),
            )
        }
        _ => String::new(),
    }
}

/// Returns the size of the feed-forward part, or the experts.
fn feed_forward(layer: &LayerPlan) -> String {
    let of = match &layer.parts.feed_forward {
        FeedForward::Dense(gated) => return gated.down.matrix.columns.to_string(),
        FeedForward::Experts(of) => of,
    };
    let size = of.experts.first().map_or(0, |expert| expert.down.matrix.columns);
    let shared = of.shared.as_ref().map(|shared| shared.gated.down.matrix.columns);
    let shared = shared.map_or(String::new(), |size| format!(" and a shared one of {size}"));
    format!("{} of {} experts of {size}{shared}", of.rule.used, of.experts.len())
}

/// Runs `lockstep rm`, and returns its exit code.
pub(crate) fn rm(place: &Place, args: &Rm) -> Result<Exit> {
    let printer = Printer::new(false);
    let said = |what: &str, removed: Removed| {
        printer.line(format!(
            "Removed {what}: {} files, {}",
            removed.blobs,
            human_bytes(removed.bytes)
        ));
    };
    if let Some(model) = &args.model {
        let (name, others) = models::only_name(place, model)?;
        let removed = place.store.remove(&name)?;
        match others.is_empty() {
            true => said(name.as_str(), removed),
            false => {
                let others = others.iter().map(ModelName::as_str).collect::<Vec<_>>().join(", ");
                printer.line(format!(
                    "Removed the name {name}; the model stays under the name {others}"
                ));
            }
        }
    }
    if args.leftovers {
        let swept = place.store.sweep()?;
        said("what interrupted work left", swept.and(pull::remove_leftovers(&place.home)?));
    }
    Ok(Exit::Done)
}
