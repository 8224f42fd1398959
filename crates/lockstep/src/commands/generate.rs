//! `lockstep generate`: a whole model in this process.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use lockstep_exact::sample::{Finish, History, StopTracker, sample};
use lockstep_import::tokenizer::{ControlText, Tokenizer};
use lockstep_node::local::{CHUNK, Local};
use serde_json::json;

use crate::args::Generate;
use crate::backend::{Backend, backend};
use crate::exit::{Exit, usage};
use crate::models::{Model, Place};
use crate::output::Voice;
use crate::prompt;

/// Loads all of a model.
pub(crate) fn load(place: &Place, model: &Model, threads: Option<usize>) -> Result<Local<Backend>> {
    let blobs = model.all_blobs(place)?;
    Ok(Local::load(backend(place.threads(threads))?, &model.manifest, blobs.source())?)
}

/// Runs the command.
pub(crate) fn run(place: &Place, args: &Generate, drawn_seed: u64) -> Result<Exit> {
    let voice = Voice::new(args.json);
    let asked = args
        .asking
        .prompt
        .as_deref()
        .ok_or_else(|| usage("--prompt is needed (`lockstep up` opens an interactive chat)"))?;
    let model = Model::ensure(place, &args.model, voice)?;
    let tokenizer = model.tokenizer(place)?;
    let tokens = prompt::tokens(&tokenizer, &args.asking, asked)?;
    let context = model.manifest.context as usize;
    if tokens.is_empty() || tokens.len() >= context {
        bail!("the prompt has {} tokens; expected 1..{context}", tokens.len());
    }
    let sampling = prompt::sampling(&args.asking.sampling, &model.manifest, drawn_seed)?;
    let stops = prompt::stops(&args.asking)?;
    let local = load(place, &model, args.threads)?;

    let mut session = local.session();
    let mut tracker = StopTracker::new(stops, &model.manifest.end_tokens, context, tokens.len());
    let mut answer: Vec<u32> = Vec::new();
    let mut shown = Shown::new(&tokenizer, voice);
    let start = Instant::now();
    let mut rows = local.feed(&mut session, &tokens, CHUNK, false, &mut ());
    let prefill = start.elapsed();
    let start = Instant::now();
    let finish = loop {
        let position = (tokens.len() + answer.len()) as u32 - 1;
        let layer = model.manifest.layers.len() as u32;
        let overflow = Finish::Overflow { position, layer };
        let row = rows.pop().context("a forward pass without logits")?;
        let history = History { prompt: &tokens, answer: &answer };
        let Ok(token) = row.and_then(|row| sample(&row, &sampling, history, None)) else {
            break overflow;
        };
        answer.push(token);
        shown.token(token);
        if let Some(finish) = tracker.push(token, tokenizer.vocabulary()) {
            break finish;
        }
        rows = local.feed(&mut session, &[token], 1, false, &mut ());
    };
    let decode = start.elapsed();
    let answer_text = shown.finish();
    let steps = answer.len().saturating_sub(1) as f64;
    let decode_rate = steps / decode.as_secs_f64().max(1e-9);
    let prefill_rate = tokens.len() as f64 / prefill.as_secs_f64().max(1e-9);
    voice.note(voice.dim(&format!(
        "{} prompt tokens at {prefill_rate:.0} tokens/s, {} tokens at {decode_rate:.1} tokens/s, \
         {}",
        tokens.len(),
        answer.len(),
        finish.reason(),
    )));
    voice.json(&json!({
        "text": answer_text,
        "tokens": answer,
        "finish_reason": finish.reason(),
        "prompt_tokens": tokens.len(),
        "prefill_tokens_per_s": prefill_rate,
        "decode_tokens_per_s": decode_rate,
        "seed": sampling.seed,
    }));
    Ok(Exit::Done)
}

/// Streams an answer's text as its tokens come.
pub(crate) struct Shown<'a> {
    tokenizer: &'a Tokenizer,
    voice: Voice,
    stream: lockstep_import::tokenizer::Utf8Stream,
    all: String,
}

impl<'a> Shown<'a> {
    /// An empty answer.
    pub(crate) fn new(tokenizer: &'a Tokenizer, voice: Voice) -> Self {
        let stream = lockstep_import::tokenizer::Utf8Stream::default();
        Self { tokenizer, voice, stream, all: String::new() }
    }

    /// Shows a token's text, as far as its characters are whole; control tokens have none.
    pub(crate) fn token(&mut self, token: u32) {
        let bytes = self.tokenizer.decode_bytes(&[token], ControlText::Plain);
        let piece = self.stream.push(&bytes);
        self.voice.piece(&piece);
        self.all.push_str(&piece);
    }

    /// Ends the line; the whole text.
    pub(crate) fn finish(self) -> String {
        let Self { voice, stream, mut all, .. } = self;
        let rest = stream.finish();
        voice.piece(&format!("{rest}\n"));
        all.push_str(&rest);
        all
    }
}
