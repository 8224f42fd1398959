//! `lockstep quality`: what the exact arithmetic keeps of a model.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use lockstep_client::backend::Backend;
use lockstep_client::model::{self, Model};
use lockstep_client::place::Place;
use lockstep_exact::Digest;
use lockstep_exact::figure::Figure;
use lockstep_exact::num::Overflow;
use lockstep_exact::sample::{History, Sampling, sample};
use lockstep_import::float::FloatModel;
use lockstep_import::tokenizer::ControlText;
use lockstep_node::local::{CHUNK, Local};
use serde_json::{Value, json};

use crate::args::Quality;
use crate::backend;
use crate::exit::{Exit, usage};
use crate::figures;
use crate::model_files::{self, ModelFiles};
use crate::models;
use crate::output::{self, Printer};
use crate::quality::{Agreement, Tally};

/// Positions whose logits are in memory at once.
const ROWS: usize = 32;

/// Runs `lockstep quality`, and returns its exit code.
pub(crate) fn run(place: &Place, args: &Quality) -> Result<Exit> {
    if args.reference.is_none() && args.text.is_none() {
        return Err(usage("give --reference FILE, --text FILE, or both"));
    }
    let printer = Printer::new(args.json);
    let model = models::ensure(place, &args.model, printer)?;
    let local = backend::load(place, &model, args.threads)?;
    let mut report = serde_json::Map::new();
    let mut recorded = None;
    if let Some(path) = &args.reference {
        report.insert("reference".to_owned(), against_reference(&local, path, printer)?);
    }
    if let Some(path) = &args.text {
        let text = Text::read(place, &model, path)?;
        let measured = on_text(&local, args, &text)?;
        report.insert("text".to_owned(), report_text(&measured, printer));
        if let Some(against) = args.against.as_deref().filter(|_| args.record) {
            recorded = Some(measured.figure(&text, args.window, against)?);
        }
    }
    if let Some(figure) = recorded {
        let manifest = figures::recorded(&model.manifest, figure)?;
        let renamed = model::rename(&place.store, &model, manifest)?;
        let id = renamed.record.manifest;
        printer.line(format!(
            "{} is now {} (before: {}), with this figure as your claim in its manifest",
            renamed.name,
            id.short(),
            model.record.manifest.short(),
        ));
        report.insert("id".to_owned(), json!(id.to_string()));
    }
    printer.json(&Value::Object(report));
    Ok(Exit::Done)
}

fn against_reference(local: &Local<Backend>, path: &Path, printer: Printer) -> Result<Value> {
    let content = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    let reference: Value = serde_json::from_slice(&content)?;
    let mut all = Agreement::default();
    for (name, case) in reference.as_object().context("expected an object of cases")? {
        let Some(ids) = case.get("ids").and_then(numbers) else { continue };
        let mut session = local.session();
        let lists = case.get("top10_logprob_per_position").and_then(Value::as_array);
        let lists = lists.map_or(&[][..], Vec::as_slice);
        // The lists may be for the last positions only.
        let (unlisted, listed) = ids.split_at(ids.len().saturating_sub(lists.len()));
        local.feed(&mut session, unlisted, CHUNK, false, &mut ());
        let mut agreement = Agreement::default();
        for (ids, lists) in listed.chunks(ROWS).zip(lists.chunks(ROWS)) {
            let rows = local.feed(&mut session, ids, ROWS, true, &mut ());
            for (row, list) in rows.iter().zip(lists) {
                let row = row.as_ref().map_err(|Overflow| anyhow::anyhow!("logits overflowed"))?;
                let entries =
                    entries(list).context("expected lists of [token, log-probability]")?;
                agreement.add(row, &entries);
                all.add(row, &entries);
            }
        }
        let expected = case.get("greedy_continuation").and_then(numbers).unwrap_or_default();
        let greedy = greedy(local, &ids, expected.len())?;
        let same = if expected.is_empty() {
            "-"
        } else if greedy == expected {
            "yes"
        } else {
            "no"
        };
        printer.line(format!(
            "{name:<10} {:>4} positions  mean |Δ log p| {:.4}  top-1 {:.1} %  continuation equal: \
             {same}",
            agreement.positions,
            agreement.mean(),
            100.0 * agreement.same_top as f64 / agreement.positions.max(1) as f64,
        ));
    }
    let same_top = all.same_top as f64 / all.positions.max(1) as f64;
    printer.line(format!(
        "all        {:>4} positions  mean |Δ log p| {:.4} (largest {:.3})  top-1 {:.1} %",
        all.positions,
        all.mean(),
        all.largest,
        100.0 * same_top,
    ));
    Ok(json!({
        "positions": all.positions,
        "mean_abs_logprob_difference": all.mean(),
        "largest_logprob_difference": all.largest,
        "same_top_1": same_top,
    }))
}

fn greedy(local: &Local<Backend>, prompt: &[u32], len: usize) -> Result<Vec<u32>> {
    let mut session = local.session();
    let mut answer = Vec::new();
    let mut next = prompt.to_vec();
    while answer.len() < len {
        let mut rows = local.feed(&mut session, &next, CHUNK, false, &mut ());
        let Some(Ok(row)) = rows.pop() else { bail!("logits overflowed") };
        let history = History { prompt, answer: &answer };
        let token = sample(&row, &Sampling::default(), history, None);
        let Ok(token) = token else { bail!("logits overflowed") };
        answer.push(token);
        next = vec![token];
    }
    Ok(answer)
}

fn numbers(value: &Value) -> Option<Vec<u32>> {
    let number = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    value.as_array()?.iter().map(number).collect()
}

fn entries(list: &Value) -> Option<Vec<(u32, f64)>> {
    let entry = |pair: &Value| {
        let token = u32::try_from(pair.get(0)?.as_u64()?).ok()?;
        Some((token, pair.get(1)?.as_f64()?))
    };
    list.as_array()?.iter().map(entry).collect()
}

/// A text to measure on, as a model reads it.
struct Text {
    name: String,
    digest: Digest,
    tokens: Vec<u32>,
    /// Takes the place of each window's first token, where the model wants one, as llama.cpp's
    /// perplexity tool has it.
    start: Option<u32>,
}

impl Text {
    fn read(place: &Place, model: &Model, path: &Path) -> Result<Self> {
        let tokenizer = model.tokenizer(&place.store)?;
        let content = fs::read_to_string(path)
            .with_context(|| format!("can't read {} as UTF-8", path.display()))?;
        let tokens = tokenizer.encode_prompt(&content, ControlText::Plain)?;
        let (digest, start) = (Digest::of(content.as_bytes()), tokenizer.prompt_start());
        Ok(Self { name: model_files::last_part(path), digest, tokens, start })
    }
}

/// The figures that were measured on a text.
struct Measured {
    tally: Tally,
    windows: usize,
    has_float: bool,
}

/// Measures perplexity over windows of a text. The second half of each window is scored, so that
/// every scored token has at least half a window of context.
fn on_text(local: &Local<Backend>, args: &Quality, text: &Text) -> Result<Measured> {
    let float = args.against.as_deref().map(float_model).transpose()?;
    let all = text.tokens.len() / args.window;
    let windows = if args.windows == 0 { all } else { all.min(args.windows) };
    if windows == 0 {
        bail!("the text has {} tokens; a window takes {}", text.tokens.len(), args.window);
    }
    let bar = output::steps_bar("windows", windows as u64);
    let mut tally = Tally::default();
    for window in text.tokens.chunks_exact(args.window).take(windows) {
        let first = text.start.or_else(|| window.first().copied());
        let window: Vec<u32> = first.into_iter().chain(window.iter().skip(1).copied()).collect();
        add_window(local, float.as_ref(), &window, &mut tally)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Measured { tally, windows, has_float: float.is_some() })
}

/// Scores the second half of a window, a few positions at a time: the logits of a whole window of a
/// model with a large vocabulary take more memory than the model.
fn add_window(
    local: &Local<Backend>,
    float: Option<&FloatModel>,
    window: &[u32],
    tally: &mut Tally,
) -> Result<()> {
    let (context, scored) = window.split_at(window.len() / 2);
    let mut session = local.session();
    local.feed(&mut session, context, CHUNK, false, &mut ());
    let floats = float.map(|model| (model, model.states(window, |_, _| ())));
    // The last token has no successor to be scored by.
    let scored = scored.len().saturating_sub(1);
    let mut position = context.len();
    while position < context.len() + scored {
        let end = (position + ROWS).min(context.len() + scored);
        let exact = local.feed(&mut session, &window[position..end], ROWS, true, &mut ());
        let floats = floats.as_ref().map(|(model, states)| {
            let hidden = model.hidden();
            model.rows_of_logits(&states[position * hidden..end * hidden])
        });
        for (index, (exact, next)) in exact.iter().zip(&window[position + 1..]).enumerate() {
            let Ok(exact) = exact else { bail!("logits overflowed") };
            let float = floats.as_ref().map(|rows| rows[index].as_slice());
            tally.add(exact, float, *next);
        }
        position = end;
    }
    Ok(())
}

/// Reads the model at `path` with its numbers as they are stored, without quantising them.
fn float_model(path: &Path) -> Result<FloatModel> {
    let files = ModelFiles::open(path)?;
    let translated = files.translated()?;
    let model = FloatModel::read(&files.model(translated.as_ref())?)?;
    files.check_unchanged()?;
    Ok(model)
}

impl Measured {
    /// Returns the same, as a manifest has it.
    fn figure(&self, text: &Text, window: usize, against: &Path) -> Result<Figure> {
        let Self { tally, windows, .. } = self;
        let format = ModelFiles::open(against)?.format()?;
        Ok(Figure {
            text: text.name.clone(),
            text_digest: text.digest,
            window: u32::try_from(window)?,
            windows: u32::try_from(*windows)?,
            positions: tally.positions as u64,
            reference: format!("f32 of {} ({format})", model_files::last_part(against)),
            perplexity: tally.perplexity() as f32,
            reference_perplexity: tally.float_perplexity() as f32,
            kl: tally.mean_kl().max(0.0) as f32,
            same_top: tally.same_top_share() as f32,
        })
    }
}

fn report_text(measured: &Measured, printer: Printer) -> Value {
    let Measured { tally, windows, has_float } = measured;
    let mut report = json!({
        "windows": windows,
        "positions": tally.positions,
        "perplexity": tally.perplexity(),
    });
    printer.line(format!("{windows} windows: perplexity {:.4}", tally.perplexity()));
    if *has_float {
        let change = 100.0 * (tally.perplexity() / tally.float_perplexity() - 1.0);
        let (kl, same_top) = (tally.mean_kl(), tally.same_top_share());
        printer.line(format!(
            "f32 forward: perplexity {:.4} ({change:+.2} %), KL {kl:.5}, same top-1 {:.2} %",
            tally.float_perplexity(),
            100.0 * same_top,
        ));
        report["float_perplexity"] = json!(tally.float_perplexity());
        report["kl"] = json!(kl);
        report["same_top_1"] = json!(same_top);
    }
    report
}
