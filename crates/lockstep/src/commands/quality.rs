//! `lockstep quality`: what the exact arithmetic keeps of a model.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use lockstep_exact::num::Overflow;
use lockstep_exact::sample::{History, Sampling, sample};
use lockstep_import::float::FloatModel;
use lockstep_import::tokenizer::ControlText;
use lockstep_node::local::{CHUNK, Local};
use serde_json::{Value, json};

use crate::args::Quality;
use crate::backend::Backend;
use crate::commands::generate;
use crate::exit::{Exit, usage};
use crate::model_files::ModelFiles;
use crate::models::{Model, Place};
use crate::output::{self, Voice};
use crate::quality::{Agreement, Tally};

/// Runs the command.
pub(crate) fn run(place: &Place, args: &Quality) -> Result<Exit> {
    if args.reference.is_none() && args.text.is_none() {
        return Err(usage("give --reference FILE, --text FILE, or both"));
    }
    let voice = Voice::new(args.json);
    let model = Model::ensure(place, &args.model, voice)?;
    let local = generate::load(place, &model, args.threads)?;
    let mut report = serde_json::Map::new();
    if let Some(path) = &args.reference {
        report.insert("reference".to_owned(), against_reference(&local, path, voice)?);
    }
    if let Some(path) = &args.text {
        let tokenizer = model.tokenizer(place)?;
        let content = fs::read_to_string(path)
            .with_context(|| format!("can't read {} as UTF-8", path.display()))?;
        let tokens = tokenizer.encode_prompt(&content, ControlText::Plain)?;
        let start = tokenizer.prompt_start();
        report.insert("text".to_owned(), on_text(&local, args, &tokens, start, voice)?);
    }
    voice.json(&Value::Object(report));
    Ok(Exit::Done)
}

fn against_reference(local: &Local<Backend>, path: &Path, voice: Voice) -> Result<Value> {
    let content = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    let reference: Value = serde_json::from_slice(&content)?;
    let mut all = Agreement::default();
    for (name, case) in reference.as_object().context("expected an object of cases")? {
        let Some(ids) = case.get("ids").and_then(numbers) else { continue };
        let mut session = local.session();
        let rows = local.feed(&mut session, &ids, CHUNK, true, &mut ());
        let lists = case.get("top10_logprob_per_position").and_then(Value::as_array);
        // The lists may be for the last positions only.
        let unlisted = rows.len().saturating_sub(lists.map_or(0, Vec::len));
        let mut agreement = Agreement::default();
        for (row, list) in rows.iter().skip(unlisted).zip(lists.into_iter().flatten()) {
            let row = row.as_ref().map_err(|Overflow| anyhow::anyhow!("logits overflowed"))?;
            let entries = entries(list).context("expected lists of [token, log-probability]")?;
            agreement.add(row, &entries);
            all.add(row, &entries);
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
        voice.line(format!(
            "{name:<10} {:>4} positions  mean |Δ log p| {:.4}  top-1 {:.1} %  continuation equal: \
             {same}",
            agreement.positions,
            agreement.mean(),
            100.0 * agreement.same_top as f64 / agreement.positions.max(1) as f64,
        ));
    }
    let same_top = all.same_top as f64 / all.positions.max(1) as f64;
    voice.line(format!(
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

/// Perplexity over windows; the second half of each is scored, so that every scored token has at
/// least half a window of context. `start` takes the place of each window's first token, where the
/// model wants one, as llama.cpp's perplexity tool has it.
fn on_text(
    local: &Local<Backend>,
    args: &Quality,
    tokens: &[u32],
    start: Option<u32>,
    voice: Voice,
) -> Result<Value> {
    let float = args.against.as_deref().map(float_model).transpose()?;
    let all = tokens.len() / args.window;
    let windows = if args.windows == 0 { all } else { all.min(args.windows) };
    if windows == 0 {
        bail!("the text has {} tokens; a window takes {}", tokens.len(), args.window);
    }
    let bar = output::steps_bar("windows", windows as u64);
    let mut tally = Tally::default();
    for window in tokens.chunks_exact(args.window).take(windows) {
        let first = start.or_else(|| window.first().copied());
        let window: Vec<u32> = first.into_iter().chain(window.iter().skip(1).copied()).collect();
        let mut session = local.session();
        let exact = local.feed(&mut session, &window, CHUNK, true, &mut ());
        let floats = float.as_ref().map(|model| model.logits(&window));
        for position in args.window / 2..args.window - 1 {
            let Some(Ok(row)) = exact.get(position) else { bail!("logits overflowed") };
            let float = floats.as_ref().map(|rows| rows[position].as_slice());
            tally.add(row, float, window[position + 1]);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(report_text(&tally, windows, float.is_some(), voice))
}

/// The numbers of a model's files, as they are.
fn float_model(path: &Path) -> Result<FloatModel> {
    let files = ModelFiles::open(path)?;
    let translated = files.translated()?;
    let model = FloatModel::read(&files.model(translated.as_ref())?)?;
    files.check_unchanged()?;
    Ok(model)
}

fn report_text(tally: &Tally, windows: usize, has_float: bool, voice: Voice) -> Value {
    let positions = tally.positions as f64;
    let mut report = json!({
        "windows": windows,
        "positions": tally.positions,
        "perplexity": tally.perplexity(),
    });
    voice.line(format!("{windows} windows: perplexity {:.4}", tally.perplexity()));
    if has_float {
        let change = 100.0 * (tally.perplexity() / tally.float_perplexity() - 1.0);
        let same_top = tally.same_top as f64 / positions;
        voice.line(format!(
            "f32 forward: perplexity {:.4} ({change:+.2} %), KL {:.5}, same top-1 {:.2} %",
            tally.float_perplexity(),
            tally.kl / positions,
            100.0 * same_top,
        ));
        report["float_perplexity"] = json!(tally.float_perplexity());
        report["kl"] = json!(tally.kl / positions);
        report["same_top_1"] = json!(same_top);
    }
    report
}
