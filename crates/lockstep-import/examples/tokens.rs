//! The ids that a model's files give texts: what `dev/compare_tokenizers.py` compares with others.
//!
//! `tokens FILE.gguf|FOLDER` reads the tokenizer, which may come without weights, and then JSON
//! lines `{"text": ..., "mode": "plain"|"parse"|"prompt"}`, or with mode `chat` the messages of a
//! chat as `text`, which the model's own template renders; each gets a line `{"ids": [...]}` or
//! `{"error": ...}`. The first line it writes describes the tokenizer, or says why it is refused.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;

use lockstep_import::gguf::Gguf;
use lockstep_import::safetensors::{
    CONFIG, Folder, GENERATION, ONE_FILE, SETTINGS, TEMPLATE, TOKENIZER,
};
use lockstep_import::template::{Chat, Date, Message, render};
use lockstep_import::tokenizer::{self, ControlText, FromGguf, Tokenizer};
use serde_json::{Map, Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: tokens FILE.gguf|FOLDER")?;
    let mut out = std::io::stdout().lock();
    let read = match read(Path::new(&path)) {
        Ok(read) => read,
        Err(error) => {
            writeln!(out, "{}", json!({ "error": error.to_string() }))?;
            return Ok(());
        }
    };
    let ends = read.end_tokens;
    let warnings: Vec<String> = read.warnings.iter().map(ToString::to_string).collect();
    let tokenizer = Tokenizer::new(read.vocabulary, read.definition)?;
    writeln!(out, "{}", json!({ "tokens": tokenizer.len(), "ends": ends, "warnings": warnings }))?;
    for line in std::io::stdin().lock().lines() {
        let job: Value = serde_json::from_str(&line?)?;
        let answer = match ids(&tokenizer, &job) {
            Ok(ids) => json!({ "ids": ids }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

fn ids(tokenizer: &Tokenizer, job: &Value) -> Result<Vec<u32>, Box<dyn Error>> {
    if job["mode"] == "chat" {
        return chat(tokenizer, &job["text"]);
    }
    let text = job["text"].as_str().ok_or("a line without a text")?;
    Ok(match job["mode"].as_str() {
        Some("prompt") => tokenizer.encode_prompt(text, ControlText::Plain),
        Some("parse") => tokenizer.encode(text, ControlText::Parse),
        _ => tokenizer.encode(text, ControlText::Plain),
    }?)
}

/// The ids of a chat by the model's own template, up to where the answer begins.
fn chat(tokenizer: &Tokenizer, messages: &Value) -> Result<Vec<u32>, Box<dyn Error>> {
    let messages = messages.as_array().ok_or("a chat is a list of messages")?;
    let messages = messages.iter().map(Message::from_json).collect::<Result<Vec<_>, _>>()?;
    let template = tokenizer.chat_templates().choose(false)?;
    let chat = Chat {
        messages: &messages,
        tools: None,
        arguments: &Map::new(),
        add_generation_prompt: true,
        bos_token: &tokenizer.bos_text(),
        eos_token: &tokenizer.eos_text(),
        date: Date::parse("2026-01-01")?,
    };
    Ok(tokenizer.encode_rendered(&render(template, &chat)?)?)
}

fn read(path: &Path) -> Result<FromGguf, Box<dyn Error>> {
    if path.is_file() {
        return Ok(tokenizer::read(&Gguf::parse(&std::fs::read(path)?)?)?);
    }
    let file = |name: &str| std::fs::read(path.join(name));
    let optional = |name: &str| file(name).ok();
    let (config, tokens) = (file(CONFIG)?, file(TOKENIZER)?);
    let (settings, template) = (optional(SETTINGS), optional(TEMPLATE));
    let generation = optional(GENERATION);
    let no_weights: &[u8] = b"\x02\0\0\0\0\0\0\0{}";
    let folder = Folder {
        name: "tokens",
        license: None,
        config: &config,
        tokenizer: &tokens,
        tokenizer_config: settings.as_deref(),
        chat_template: template.as_deref(),
        more_chat_templates: BTreeMap::new(),
        generation_config: generation.as_deref(),
        index: None,
        weights: BTreeMap::from([(ONE_FILE.to_owned(), no_weights)]),
    };
    Ok(tokenizer::read(&folder.translate()?.gguf()?)?)
}
