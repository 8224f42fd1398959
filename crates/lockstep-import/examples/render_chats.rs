//! Renders chats for `dev/compare_templates.py`: one JSON object a line in, one a line out.
//!
//! A job has `template`, `messages`, `tools`, `arguments`, `bos`, `eos`, `date` and `prompt`. The
//! answer has `text` with the `user` spans, or `error`, and whether the template `refused`. A job
//! that is no such object ends the program with an error.

use std::error::Error;
use std::io::{BufRead, Write, stdin, stdout};

use lockstep_import::template::{Chat, Date, Message, TemplateError, render};
use serde_json::{Map, Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = stdout().lock();
    for line in stdin().lock().lines() {
        let job: Value = serde_json::from_str(&line?)?;
        writeln!(out, "{}", answer(&job)?)?;
    }
    Ok(())
}

fn answer(job: &Value) -> Result<Value, Box<dyn Error>> {
    let text =
        |name: &str| job.get(name).and_then(Value::as_str).ok_or_else(|| format!("no {name}"));
    let messages = job.get("messages").and_then(Value::as_array).ok_or("no messages")?;
    let messages = messages.iter().map(Message::from_json).collect::<Result<Vec<_>, _>>()?;
    let nothing = Map::new();
    let arguments = job.get("arguments").and_then(Value::as_object).unwrap_or(&nothing);
    let chat = Chat {
        messages: &messages,
        tools: job.get("tools").and_then(Value::as_array).map(Vec::as_slice),
        arguments,
        add_generation_prompt: job.get("prompt").and_then(Value::as_bool).ok_or("no prompt")?,
        bos_token: text("bos")?,
        eos_token: text("eos")?,
        date: Date::parse(text("date")?)?,
    };
    Ok(match render(text("template")?, &chat) {
        Ok(prompt) => {
            let user = prompt.user_spans().iter().map(|span| [span.start, span.end]);
            json!({ "text": prompt.text(), "user": user.collect::<Vec<_>>() })
        }
        Err(error) => {
            let refused = matches!(error, TemplateError::Refused { .. });
            json!({ "error": error.to_string(), "refused": refused })
        }
    })
}
