//! `lockstep bench`: how fast a model, or random weights of given sizes, are on this machine,
//! beside what the machine can; and for a model what proof and a ring cost.
//!
//! Every figure is the median of the repetitions with its range. What is compared is measured
//! alternately in one run, because machines drift.

use anyhow::Result;
use lockstep_client::backend::{Backend, cores};
use lockstep_client::place::Place;
use lockstep_exact::Digest;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::matrix::Codec;
use lockstep_node::local::Local;
use serde_json::json;

use crate::args::Bench;
use crate::backend;
use crate::exit::{Exit, usage};
use crate::models;
use crate::output::Printer;

mod commitments;
mod ring;
mod samples;
mod shape;
mod single;
mod verifier;
mod work;

/// The loaded weights that are measured.
struct Subject {
    /// The name of the model or of the shape, for people.
    name: String,
    manifest: Manifest,
    local: Local<Backend>,
}

/// Runs `lockstep bench`, and returns its exit code.
pub(crate) fn run(place: &Place, args: &Bench) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let threads = args.threads.unwrap_or_else(cores);
    let mut report = json!({});
    let (subject, model) = match args.shape {
        Some(shape) => {
            let codec = args.codec.unwrap_or_default().into();
            report["shape"] = json!(shape::name(shape));
            report["codec"] = json!(Codec::name(codec));
            (shape::subject(place, shape, codec, threads)?, None)
        }
        None => {
            let model = models::ensure(place, &args.model, printer)?;
            report["model"] = json!(model.record.manifest.to_string());
            let name = format!("{} ({})", model.name, model.record.manifest.short());
            let local = backend::load(place, &model, Some(threads))?;
            (Subject { name, manifest: model.manifest.clone(), local }, Some(model))
        }
    };
    check_lengths(args, &subject.manifest)?;
    report["layers"] = json!(subject.manifest.layers.len());
    report["threads"] = json!(threads);
    report["kernel"] = json!(subject.local.ops().isa().name());
    printer.line(format!(
        "{}, {}, {threads} threads, median of {} (min-max)",
        subject.name,
        subject.local.ops().isa(),
        args.repetitions,
    ));
    single::measure(place, &subject, args, &mut report, printer)?;
    if args.verify {
        verifier::measure(&subject, args, &mut report, printer)?;
    }
    if let (Some(model), false) = (&model, args.rates_only) {
        commitments::measure(&subject, args, &mut report, printer);
        if args.servers > 0 {
            ring::measure(place, model, args, &mut report, printer)?;
        }
    }
    printer.json(&report);
    Ok(Exit::Done)
}

/// Refuses more positions than the model has.
fn check_lengths(args: &Bench, manifest: &Manifest) -> Result<()> {
    let context = manifest.context as usize;
    let longest = args.prefill.max(args.context.unwrap_or(0)).saturating_add(args.decode);
    if longest > context {
        return Err(usage(format!(
            "{longest} positions (--prefill or --context, and --decode) of a model that has \
             {context}"
        )));
    }
    Ok(())
}

/// Returns a prompt of `len` tokens that spell no text.
fn prompt(manifest: &Manifest, len: usize) -> Vec<u32> {
    let token = |index: usize| {
        let digest = Digest::derive("lockstep 2026 bench prompt", &[&index.to_le_bytes()]);
        let [a, b, c, d, ..] = digest.0;
        u32::from_le_bytes([a, b, c, d]) % manifest.vocabulary
    };
    (0..len).map(token).collect()
}
