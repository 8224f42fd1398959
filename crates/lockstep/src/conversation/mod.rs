//! A conversation with a model: one prompt, or a chat.
//!
//! Answers go to standard output and are escaped; verdicts go to standard error and begin with a
//! mark that no answer can write. What goes wrong with one answer of a chat is said, and the chat
//! goes on: its turns are dropped only on request, and never silently.

mod chat;
mod command;
mod editor;
mod engine;
mod entry;
mod history;
mod host;
mod input;
mod setting;
mod talk;
mod terminal;

use std::time::Duration;

use anyhow::Result;
use lockstep_client::format::ChatFormat;
use lockstep_client::receipts::{self, NotKept};
use lockstep_client::request::{Question, RequestBuilder};
use lockstep_exact::sample::Finish;
use serde_json::{Value, json};

use crate::args::{Asking, Audit, Chatting, Checking};
use crate::exit::{self, Exit, usage};
use crate::interrupt::interrupted;
use crate::output::{self, Printer, Spinner};
use crate::prompt;
use crate::stream::StreamedAnswer;

use chat::{Chat, Leave};
pub(crate) use engine::audited;
use engine::{Answered, Engine, Proof};
pub(crate) use host::Host;

/// The way in which a conversation ended.
pub(crate) struct Ended {
    /// The exit code of the program.
    pub(crate) exit: Exit,
    /// The last answer as JSON, for scripts.
    pub(crate) json: Value,
}

/// The settings that a single prompt and a chat have in common.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The arguments that say how answers are made.
    pub(crate) asking: Asking,
    /// The way in which messages become a prompt, with the files that `asking` names.
    pub(crate) format: ChatFormat,
    /// The arguments that say how answers are checked.
    pub(crate) checking: Checking,
    /// Whether the lines of a chat are kept for the next one.
    pub(crate) keeps_history: bool,
    /// Whether times and rates are shown.
    pub(crate) verbose: bool,
    /// A seed for sampling, where none is given.
    pub(crate) drawn_seed: u64,
    /// The time from the start until questions could be asked.
    pub(crate) loading: Duration,
}

impl Setup {
    /// Checks what the command line says as far as that needs no model, and reads the files that it
    /// names: before anything is fetched, loaded or asked.
    pub(crate) fn read(
        asking: &Asking,
        checking: &Checking,
        chatting: Chatting,
        verbose: bool,
        drawn_seed: u64,
    ) -> Result<Self> {
        let format = prompt::check(asking)?;
        receipts::check(checking.receipt.as_deref()).map_err(|error| match error {
            NotKept::NotAFile { .. } => usage(format!("--receipt: {error}")),
            NotKept::Openings(_) | NotKept::Receipt { .. } => error.into(),
        })?;
        Ok(Self {
            asking: asking.clone(),
            format,
            checking: checking.clone(),
            keeps_history: !chatting.no_history,
            verbose,
            drawn_seed,
            loading: Duration::ZERO,
        })
    }
}

/// Answers one prompt: streamed, audited, saved, reported.
pub(crate) async fn once(engine: &mut Engine<'_>, setup: &Setup, prompt: &str) -> Result<Ended> {
    let printer = Printer::new(setup.checking.json);
    show_route(engine, printer);
    let request = prompt::request(&setup.asking, &setup.format, prompt, setup.drawn_seed)?;
    let question = question(engine, &request)?;
    let prompt_tokens = question.prompt.len();
    let seed = question.sampling.seed;
    let (text, answered) = show(engine, question, setup.checking.audit(), printer).await;
    if output::is_unread() {
        // A reader that has gone away has what it wanted; `main` says if something else is wrong.
        return Ok(Ended { exit: Exit::Done, json: Value::Null });
    }
    let mut answered = answered?;
    // Listened for before anything tells that the answer is over.
    let interrupt = interrupted();
    let speed = Speed::of(&answered, prompt_tokens);
    let reason = answered.finish.as_ref().map_or("interrupted", end_in_words);
    let over = match engine.servers() {
        0 => String::new(),
        servers => format!(" over {servers} servers"),
    };
    let sampling = &setup.asking.sampling;
    let drawn = match sampling.seed {
        None if sampling.temperature > 0.0 => format!(", seed {seed}"),
        None | Some(_) => String::new(),
    };
    printer.aside(format!(
        "{prompt_tokens} prompt tokens at {:.0} tokens/s, {} tokens at {:.1} tokens/s{over}, \
         {reason}{drawn}",
        speed.prefill,
        answered.tokens.len(),
        speed.decode,
    ));
    if setup.verbose {
        show_figures(&answered, prompt_tokens, setup.loading, printer);
    }
    let proof = engine.prove(&mut answered, &setup.checking, interrupt).await?;
    let mut json = summary(engine, &text, &answered, prompt_tokens);
    json["seed"] = json!(seed);
    let alone = if answered.finish.is_some() { Exit::Done } else { Exit::Error };
    let exit = proof.as_ref().map_or(alone, |proof| {
        show_audit(proof, printer);
        show_table(proof, printer);
        proof.exit()
    });
    if let Some(proof) = &proof {
        add_proof(&mut json, proof);
    }
    Ok(Ended { exit, json })
}

/// Returns why an answer ended, for people.
const fn end_in_words(finish: &Finish) -> &'static str {
    match finish {
        Finish::Length => "cut off at --max-tokens",
        Finish::Context => "cut off where the context is full",
        Finish::EndToken | Finish::StopString | Finish::Overflow => finish.reason(),
    }
}

/// Shows which servers answer, and which layers each holds.
fn show_route(engine: &Engine<'_>, printer: Printer) {
    if let Engine::Ring(asker) = engine {
        printer.aside(format!("ring: {} -> s1", asker.route()));
    }
}

/// Returns the question of a request, checked for the model that answers.
fn question(engine: &Engine<'_>, request: &RequestBuilder) -> Result<Question> {
    request.build(&engine.model().manifest, engine.tokenizer()).map_err(prompt::in_flags)
}

/// Gets an answer and shows it as it comes; its text as far as it came.
async fn show(
    engine: &mut Engine<'_>,
    question: Question,
    audit: Audit,
    printer: Printer,
) -> (String, Result<Answered>) {
    let mut streamed = StreamedAnswer::new(engine.tokenizer(), &question.stops.strings, printer);
    let spinner = Spinner::start("");
    let answered = engine.ask(question, audit, |token| {
        spinner.stop();
        streamed.token(token);
    });
    let answered = answered.await;
    spinner.stop();
    (streamed.finish(answered.is_ok()), answered)
}

/// The speed of an answer, in tokens per second.
struct Speed {
    prefill: f64,
    decode: f64,
}

impl Speed {
    fn of(answered: &Answered, prompt_tokens: usize) -> Self {
        let steps = answered.tokens.len().saturating_sub(1) as f64;
        Self {
            prefill: prompt_tokens as f64 / answered.first_token.as_secs_f64().max(1e-9),
            decode: if steps > 0.0 { steps / answered.rest.as_secs_f64().max(1e-9) } else { 0.0 },
        }
    }
}

/// Times and rates, by the names that people know.
fn show_figures(answered: &Answered, prompt_tokens: usize, loading: Duration, printer: Printer) {
    let speed = Speed::of(answered, prompt_tokens);
    let total = loading + answered.first_token + answered.rest;
    for (name, value) in [
        ("total duration:", format!("{total:.3?}")),
        ("load duration:", format!("{loading:.3?}")),
        ("prompt eval count:", format!("{prompt_tokens} token(s)")),
        ("prompt eval duration:", format!("{:.3?}", answered.first_token)),
        ("prompt eval rate:", format!("{:.2} tokens/s", speed.prefill)),
        ("eval count:", format!("{} token(s)", answered.tokens.len())),
        ("eval duration:", format!("{:.3?}", answered.rest)),
        ("eval rate:", format!("{:.2} tokens/s", speed.decode)),
    ] {
        printer.aside(format!("{name:<21} {value}"));
    }
}

/// Shows how long the audit took.
fn show_audit(proof: &Proof, printer: Printer) {
    if let Some((openings, opening, checking)) = &proof.audit {
        printer.aside(format!(
            "audit: {openings} openings in {:.2} s, checked in {:.2} s",
            opening.as_secs_f64(),
            checking.as_secs_f64(),
        ));
    }
}

/// Shows the whole verdict, and where the receipt is kept.
fn show_table(proof: &Proof, printer: Printer) {
    let mut lines = proof.report.all_lines();
    if let Some(first) = lines.next() {
        printer.verdict(proof.report.style(), first);
    }
    for line in lines {
        printer.note(line);
    }
    match &proof.receipt {
        Ok(receipt) => printer.note(format!("receipt {}", receipt.display())),
        Err(why) => printer.note(format!("error: {}", exit::all_of(why))),
    }
}

/// Returns an answer as JSON, for scripts.
fn summary(engine: &Engine<'_>, text: &str, answered: &Answered, prompt_tokens: usize) -> Value {
    let speed = Speed::of(answered, prompt_tokens);
    json!({
        "text": text,
        "tokens": answered.tokens,
        "finish_reason": answered.finish.as_ref().map_or("interrupted", Finish::reason),
        "servers": engine.servers(),
        "prompt_tokens": prompt_tokens,
        "prefill_tokens_per_s": speed.prefill,
        "decode_tokens_per_s": speed.decode,
        "model": engine.model().record.manifest.to_string(),
    })
}

/// Adds what was checked to the JSON of an answer.
fn add_proof(json: &mut Value, proof: &Proof) {
    let seconds = proof
        .audit
        .as_ref()
        .map_or(0.0, |(_, opening, checking)| (*opening + *checking).as_secs_f64());
    json["audit_s"] = json!(seconds);
    json["receipt"] = json!(proof.receipt.as_ref().ok());
    if let Err(why) = &proof.receipt {
        json["receipt_error"] = json!(exit::all_of(why));
    }
    proof.report.add_to(json);
}
