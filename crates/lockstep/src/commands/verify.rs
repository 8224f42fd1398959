//! `lockstep verify`: a saved bundle, offline, without weights or servers.
//!
//! Shown is what the bundle says was asked and answered, and by whom. Rates of detection hold for
//! an honest draw of the cells, which nobody but the one who asked can know: for a bundle that this
//! machine did not ask for there are none, and what can't be known is said.

use std::path::Path;

use anyhow::Result;
use lockstep_client::keys;
use lockstep_client::model::{self, Model};
use lockstep_client::place::Place;
use lockstep_client::reverify::{self, Saved};
use lockstep_client::standing;
use lockstep_exact::vocabulary::Vocabulary;
use lockstep_import::tokenizer::{ControlText, Tokenizer};
use lockstep_verify::audit::Unverified;
use lockstep_verify::bundle::Bundle;
use lockstep_verify::fault::Fault;
use lockstep_verify::key::Key;
use serde_json::{Value, json};

use crate::args::Verify;
use crate::backend::{backend, threads};
use crate::exit::Exit;
use crate::output::Printer;
use crate::printable::ForeignPath;
use crate::verdict::Report;

/// The facts that nobody can know of a request that somebody else made.
const UNKNOWN: [&str; 3] = [
    "who drew the cells that were opened, and when",
    "that the draw was honest: whoever made the request may have asked again until one missed",
    "that the servers are different machines, or belong to different people",
];

/// Runs `lockstep verify`, and returns its exit code.
pub(crate) fn run(place: &Place, args: &Verify) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let file = reverify::find(&place.home, &args.bundle);
    let saved = Saved::open(&file)?;
    let bundle = saved.bundle.clone();
    let request = &bundle.receipt.request;
    let path = args.key.clone().unwrap_or_else(|| model::key_path(place, &request.manifest));
    let key = if path.exists() {
        Some(keys::read(&path)?)
    } else if args.key.is_some() {
        anyhow::bail!("no key at {}", ForeignPath(&path));
    } else {
        None
    };
    let model = Model::find(&place.store, &request.manifest.to_string())?;
    let tokenizer = model.as_ref().map(|model| model.tokenizer(&place.store)).transpose()?;
    let is_own = saved.is_own(&place.home)?;
    let mut report = match (&key, &model, &tokenizer) {
        (Some(key), _, _) => {
            let ops = backend(threads(place, None)?)?;
            let verdict = saved.audit(&ops, key)?;
            // A key that somebody else made can convict anybody.
            if let (Err(Unverified::Failed(fault)), None) = (&verdict, &args.key) {
                ban(place, fault, &file, printer);
            }
            let report = Report::of(&verdict);
            let named = args.key.as_deref().map(|path| ForeignPath(path).to_string());
            named.into_iter().fold(report, |report, file| report.with_key_of(&file))
        }
        (None, Some(model), Some(tokenizer)) => without_key(&saved, model, tokenizer),
        _ => Report::unchecked(&format!(
            "neither a key nor the model {} is here: get the model, and `lockstep key NAME` makes \
             a key from it",
            request.manifest.short()
        )),
    };
    if !is_own {
        report.forget_rates();
    }
    let texts = Texts::of(&bundle, key.as_ref(), tokenizer.as_ref());
    if !args.json {
        report.all_lines().for_each(|line| printer.line(line));
        if !is_own {
            printer.line("This machine did not make the request. It can't know");
            UNKNOWN.iter().for_each(|what| printer.line(format!("  {what}")));
        }
        show(&bundle, model.as_ref(), &texts, printer);
    }
    let mut json = content(&bundle, &texts);
    json["own"] = json!(is_own);
    json["unknown"] = if is_own { json!([]) } else { json!(UNKNOWN) };
    report.add_to(&mut json);
    printer.json(&json);
    Ok(report.exit)
}

/// Has routes avoid the node that a bundle convicts, from now on.
fn ban(place: &Place, fault: &Fault, file: &Path, printer: Printer) {
    match standing::ban(place, fault, file) {
        Ok(None) => {}
        Ok(Some(node)) => printer.note(format!(
            "banned {node}: nothing goes over it any more (`lockstep nodes --forget` lifts that)"
        )),
        Err(error) => printer.note(format!("the conviction is not remembered: {error}")),
    }
}

/// Signatures and links alone: never more than "not checked".
fn without_key(saved: &Saved, model: &Model, tokenizer: &Tokenizer) -> Report {
    match saved.check_links(&model.manifest, tokenizer.vocabulary()) {
        Ok(()) => Report::unchecked(&format!(
            "signatures, links and stop rules hold, but without a key no computation was checked \
             (`lockstep key {}` makes one)",
            model.name
        )),
        Err(fault) => Report::of(&Err(fault.into())),
    }
}

/// Prompt and answer as text, if the model's tokens are known here.
struct Texts(Option<[String; 2]>);

impl Texts {
    fn of(bundle: &Bundle, key: Option<&Key>, tokenizer: Option<&Tokenizer>) -> Self {
        let receipt = &bundle.receipt;
        let sides = [&receipt.request.prompt, &receipt.answer];
        let read = |vocabulary: &Vocabulary, ids: &[u32]| {
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| vocabulary.token(id)).copied().collect();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Self(match (tokenizer, key) {
            (Some(tokenizer), _) => {
                Some(sides.map(|ids| tokenizer.decode(ids, ControlText::Parse)))
            }
            (None, Some(key)) => Some(sides.map(|ids| read(key.vocabulary(), ids))),
            (None, None) => None,
        })
    }
}

/// Shows to people what was asked, answered and signed.
fn show(bundle: &Bundle, model: Option<&Model>, texts: &Texts, printer: Printer) {
    let receipt = &bundle.receipt;
    let name = model.map_or_else(String::new, |model| format!(" ({})", model.name));
    printer.line(format!("model     {}{name}", receipt.request.manifest));
    let sides = [("prompt", receipt.request.prompt.len()), ("answer", receipt.answer.len())];
    for (side, (what, count)) in sides.into_iter().enumerate() {
        let finish =
            if side == 1 { format!(", {}", receipt.finish.reason()) } else { String::new() };
        printer.line(format!("{what:<9} {count} tokens{finish}"));
        match &texts.0 {
            Some(texts) => texts[side].lines().for_each(|line| printer.line(format!("  | {line}"))),
            None => printer.line("  (the model is not here, so its tokens can't be read)"),
        }
    }
    let sampling = &receipt.request.sampling;
    printer.line(format!(
        "sampling  temperature {}, top_k {}, top_p {}, min_p {}, penalties {} {} {}, {} biases, \
         seed {}",
        sampling.temperature,
        sampling.top_k,
        sampling.top_p,
        sampling.min_p,
        sampling.repetition_penalty,
        sampling.presence_penalty,
        sampling.frequency_penalty,
        sampling.logit_bias.len(),
        sampling.seed,
    ));
    let stops = &receipt.request.stops;
    printer.line(format!("stops     {} tokens, {} texts", stops.max_tokens, stops.strings.len()));
    for (index, segment) in receipt.segments.iter().enumerate() {
        let what = if index == 0 { "servers" } else { "" };
        let head = if index == 0 { " + head" } else { "" };
        printer.line(format!(
            "{what:<9} s{} [{}..{}{head}] {}",
            index + 1,
            segment.first,
            segment.end,
            segment.node
        ));
    }
}

/// Returns what was asked, answered and signed, as JSON for scripts.
fn content(bundle: &Bundle, texts: &Texts) -> Value {
    let receipt = &bundle.receipt;
    let request = &receipt.request;
    let nodes = receipt.segments.iter().map(|segment| {
        json!({ "node": segment.node.to_string(), "first": segment.first, "end": segment.end })
    });
    let sampling = &request.sampling;
    json!({
        "session": request.session().to_string(),
        "model": request.manifest.to_string(),
        "servers": receipt.segments.len(),
        "tokens": receipt.answer.len(),
        "prompt_tokens": request.prompt.len(),
        "prompt": texts.0.as_ref().map(|[prompt, _]| prompt),
        "answer": texts.0.as_ref().map(|[_, answer]| answer),
        "finish_reason": receipt.finish.reason(),
        "max_tokens": request.stops.max_tokens,
        "sampling": {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "seed": sampling.seed,
        },
        "nodes": nodes.collect::<Vec<_>>(),
    })
}
