//! A conversation with a ring: one prompt, or lines from a terminal, each answer audited.

use std::io::{self, BufRead, IsTerminal};
use std::thread;

use anyhow::{Context, Result, bail};
use lockstep_import::template::Message;
use lockstep_verify::key::Key;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::args::{Asking, Audit, Checking};
use crate::commands::generate::Shown;
use crate::commands::key;
use crate::exit::Exit;
use crate::interrupt::interrupted;
use crate::output::Voice;
use crate::prompt;
use crate::ring::{Answer, Ring};
use crate::verdict::Report;

/// How a conversation ended.
pub(crate) struct Ended {
    /// The program's exit code.
    pub(crate) exit: Exit,
    /// For scripts: the last answer.
    pub(crate) json: Value,
}

/// What stays the same from answer to answer.
struct Talk<'a> {
    ring: &'a Ring<'a>,
    asking: &'a Asking,
    checking: &'a Checking,
    key: Option<Key>,
    drawn_seed: u64,
    voice: Voice,
}

/// Answers the prompt of the command line, or opens a chat.
pub(crate) async fn run(
    ring: &Ring<'_>,
    asking: &Asking,
    checking: &Checking,
    drawn_seed: u64,
) -> Result<Ended> {
    let key = match checking.audit {
        Audit::Off => None,
        Audit::Full | Audit::Sampled => Some(key::ensure(ring.place, ring.model)?),
    };
    let voice = Voice::new(checking.json);
    let talk = Talk { ring, asking, checking, key, drawn_seed, voice };
    talk.show_route();
    match &asking.prompt {
        Some(prompt) => {
            let tokens = prompt::tokens(ring.tokenizer, asking, prompt)?;
            let (ended, _) = talk.answer(tokens).await?;
            Ok(ended)
        }
        None => talk.chat().await,
    }
}

impl Talk<'_> {
    fn show_route(&self) {
        let hops = self.ring.route.iter().enumerate().map(|(index, hop)| {
            let head = if index == 0 { " + head" } else { "" };
            format!("s{} [{}..{}{head}] {}", index + 1, hop.first, hop.end, hop.node.short())
        });
        let hops: Vec<String> = hops.collect();
        self.voice.note(self.voice.dim(&format!("ring: {} -> s1", hops.join(" -> "))));
    }

    /// Reads lines until the end of input or `/bye`.
    async fn chat(&self) -> Result<Ended> {
        if self.asking.raw {
            bail!("--raw needs --prompt");
        }
        let system = self.asking.system.as_ref().map(|text| Message::new("system", text));
        let mut messages: Vec<Message> = system.into_iter().collect();
        let mut last = Ended { exit: Exit::Done, json: json!({ "verdict": "not checked" }) };
        let is_terminal = io::stdin().is_terminal();
        let mut lines = lines()?;
        self.voice.note("Type a message; /clear starts over, /bye ends.");
        loop {
            if is_terminal {
                self.voice.piece(&self.voice.bold("> "));
            }
            let line = tokio::select! {
                line = lines.recv() => line,
                () = interrupted() => None,
            };
            let Some(line) = line else { return Ok(last) };
            match line.trim() {
                "" => continue,
                "/bye" => return Ok(last),
                "/clear" => {
                    messages.retain(|message| message.role == "system");
                    continue;
                }
                text => messages.push(Message::new("user", text)),
            }
            let tokens = prompt::chat_tokens(self.ring.tokenizer, &messages)?;
            let (ended, answer) = self.answer(tokens).await?;
            messages.push(Message::new("assistant", answer));
            let is_worse = ended.exit != Exit::Done;
            last = ended;
            if is_worse {
                return Ok(last);
            }
        }
    }

    /// One answer: streamed, audited, saved, reported.
    async fn answer(&self, tokens: Vec<u32>) -> Result<(Ended, String)> {
        let manifest = &self.ring.model.manifest;
        let sampling = prompt::sampling(&self.asking.sampling, manifest, self.drawn_seed)?;
        let stops = prompt::stops(self.asking)?;
        let prompt_tokens = tokens.len();
        let mut shown = Shown::new(self.ring.tokenizer, self.voice);
        let answer = self.ring.ask(tokens, sampling, stops, |token| shown.token(token)).await?;
        let text = shown.finish();
        let speed = Speed::of(&answer, prompt_tokens);
        let finish = answer.receipt.finish;
        let tokens = answer.receipt.answer.clone();
        let interrupt = interrupted();
        self.voice.note(self.voice.dim(&format!(
            "{prompt_tokens} prompt tokens at {:.0} tokens/s, {} tokens at {:.1} tokens/s over {} \
             servers, {}",
            speed.prefill,
            tokens.len(),
            speed.decode,
            self.ring.route.len(),
            finish.reason(),
        )));
        // The receipt is kept whatever becomes of its audit.
        let unaudited = self.ring.unaudited(&answer);
        let path = self.ring.save(&unaudited, self.checking.receipt.as_deref())?;
        let (report, audit_seconds) = tokio::select! {
            checked = self.check(answer) => checked?,
            () = interrupt => {
                (Report::unchecked("the audit was interrupted", Exit::NotChecked), 0.0)
            }
        };
        for line in &report.lines {
            self.voice.line(line);
        }
        self.voice.line(format!("receipt {}", path.display()));
        let mut json = json!({
            "text": text,
            "tokens": tokens,
            "finish_reason": finish.reason(),
            "servers": self.ring.route.len(),
            "prompt_tokens": prompt_tokens,
            "prefill_tokens_per_s": speed.prefill,
            "decode_tokens_per_s": speed.decode,
            "audit_s": audit_seconds,
            "receipt": path,
            "model": self.ring.model.record.manifest.to_string(),
        });
        report.add_to(&mut json);
        Ok((Ended { exit: report.exit, json }, text))
    }

    /// Audits an answer and keeps what was opened in its receipt.
    async fn check(&self, answer: Answer) -> Result<(Report, f64)> {
        let Some(key) = &self.key else { return Ok((Report::off(), 0.0)) };
        let audited = self.ring.audit(key, answer, self.checking.audit).await?;
        self.ring.save(&audited.bundle, self.checking.receipt.as_deref())?;
        let seconds = (audited.opening + audited.checking).as_secs_f64();
        self.voice.note(self.voice.dim(&format!(
            "audit: {} openings in {:.2} s, checked in {:.2} s",
            audited.bundle.exchanges.len(),
            audited.opening.as_secs_f64(),
            audited.checking.as_secs_f64(),
        )));
        Ok((Report::of(&audited.verdict), seconds))
    }
}

/// The lines of standard input, until it ends; read on a thread that nobody has to wait for.
fn lines() -> Result<mpsc::Receiver<String>> {
    let (read, lines) = mpsc::channel(1);
    let reader = thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if read.blocking_send(line).is_err() {
                return;
            }
        }
    });
    drop(reader.context("no thread for standard input")?);
    Ok(lines)
}

/// Tokens per second.
struct Speed {
    prefill: f64,
    decode: f64,
}

impl Speed {
    fn of(answer: &Answer, prompt_tokens: usize) -> Self {
        let steps = answer.receipt.answer.len().saturating_sub(1) as f64;
        Self {
            prefill: prompt_tokens as f64 / answer.first_token.as_secs_f64().max(1e-9),
            decode: if steps > 0.0 { steps / answer.rest.as_secs_f64().max(1e-9) } else { 0.0 },
        }
    }
}
