//! From what a person types to a request's tokens and parameters.

use std::fs::File;
use std::io::{self, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use lockstep_exact::manifest::Manifest;
use lockstep_exact::sample::{Bias, Sampling, Stops};
use lockstep_import::template::{Date, Message};
use lockstep_import::tokenizer::{ControlText, Tokenizer};

use crate::args::{Asking, SamplingArgs};
use crate::chat_format::ChatFormat;
use crate::exit::usage;
use crate::printable::ForeignPath;

/// What a model is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// The prompt's tokens, template included.
    pub(crate) prompt: Vec<u32>,
    /// How tokens are chosen.
    pub(crate) sampling: Sampling,
    /// When the answer ends.
    pub(crate) stops: Stops,
}

/// Longest message that is read from a file or from standard input, in bytes.
const PROMPT_BYTES: u64 = 64 << 20;

/// The message of the command line, if there is one: `--prompt`, or what `--prompt-file` names.
pub(crate) fn given(asking: &Asking) -> Result<Option<String>> {
    match (&asking.prompt, &asking.prompt_file) {
        (Some(text), _) if text != "-" => Ok(Some(text.clone())),
        (None, None) => Ok(None),
        (None, Some(path)) if path.as_os_str() != "-" => {
            let file = File::open(path);
            let file = file.with_context(|| format!("can't read {}", ForeignPath(path)))?;
            read(file, &ForeignPath(path).to_string()).map(Some)
        }
        _ => from_stdin().map(Some),
    }
}

/// All of standard input as a message.
pub(crate) fn from_stdin() -> Result<String> {
    read(io::stdin().lock(), "standard input")
}

/// A message out of a file, without the line break at its end.
fn read(file: impl Read, name: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let read = file.take(PROMPT_BYTES + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("can't read {name}"))?;
    if bytes.len() as u64 > PROMPT_BYTES {
        bail!("the message in {name} is longer than {} MiB", PROMPT_BYTES >> 20);
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow!("the message in {name} is not UTF-8: byte {at} begins no character")
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// The tokens of a conversation in a chat format.
pub(crate) fn chat_tokens(
    tokenizer: &Tokenizer,
    format: &ChatFormat,
    messages: &[Message],
) -> Result<Vec<u32>> {
    format.tokens(tokenizer, messages, today()?)
}

/// The tokens of one question.
pub(crate) fn tokens(
    tokenizer: &Tokenizer,
    asking: &Asking,
    format: &ChatFormat,
    prompt: &str,
) -> Result<Vec<u32>> {
    if asking.raw {
        return Ok(tokenizer.encode_prompt(prompt, ControlText::Parse)?);
    }
    let system = asking.system.as_ref().map(|text| Message::new("system", text));
    let messages: Vec<Message> = system.into_iter().chain([Message::new("user", prompt)]).collect();
    chat_tokens(tokenizer, format, &messages)
}

fn today() -> Result<Date> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.context("this machine's clock stands before 1970")?.as_secs();
    Ok(Date::from_days_since_1970(seconds / 86_400)?)
}

/// Checks what the command line says of answers as far as that needs no model: sampling and stop
/// texts. Reads the files that it names, once: they may be pipes.
pub(crate) fn check(asking: &Asking) -> Result<ChatFormat> {
    unbound_sampling(&asking.sampling, 0)?;
    stops(asking)?;
    ChatFormat::read(&asking.format)
}

/// The sampling parameters of the command line, checked for a model.
pub(crate) fn sampling(
    args: &SamplingArgs,
    manifest: &Manifest,
    drawn_seed: u64,
) -> Result<Sampling> {
    let sampling = unbound_sampling(args, drawn_seed)?;
    let vocabulary = manifest.vocabulary;
    let unknown = sampling.logit_bias.iter().find(|entry| entry.token >= vocabulary);
    if let Some(Bias { token, .. }) = unknown {
        return Err(usage(format!(
            "--logit-bias: there is no token {token}: expected ids of the vocabulary's \
             {vocabulary} tokens, from 0"
        )));
    }
    sampling.check(vocabulary).map_err(|error| usage(error.to_string()))?;
    Ok(sampling)
}

/// The sampling parameters of the command line, checked for a vocabulary of any size.
pub(crate) fn unbound_sampling(args: &SamplingArgs, drawn_seed: u64) -> Result<Sampling> {
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        logit_bias: logit_bias(&args.logit_bias)?,
        seed: args.seed.unwrap_or(drawn_seed),
    };
    sampling.check(u32::MAX).map_err(|error| usage(error.to_string()))?;
    Ok(sampling)
}

/// Biases of tokens, by increasing ids.
fn logit_bias(texts: &[String]) -> Result<Vec<Bias>> {
    let mut biases = Vec::new();
    for entry in texts {
        let parsed = entry.split_once('=').and_then(|(token, bias)| {
            Some(Bias { token: token.trim().parse().ok()?, bias: bias.trim().parse().ok()? })
        });
        biases.push(parsed.ok_or_else(|| {
            usage(format!("--logit-bias: expected TOKEN_ID=BIAS, got {entry:?}"))
        })?);
    }
    biases.sort_by_key(|entry| entry.token);
    let twice = biases.windows(2).find(|pair| matches!(pair, [a, b] if a.token == b.token));
    if let Some([Bias { token, .. }, ..]) = twice {
        return Err(usage(format!("--logit-bias: token {token} is given twice")));
    }
    Ok(biases)
}

/// The stop rules of the command line, checked.
pub(crate) fn stops(asking: &Asking) -> Result<Stops> {
    use lockstep_exact::limits::{STOP_BYTES, STOP_STRINGS};
    let strings: Vec<Vec<u8>> =
        asking.sampling.stop.iter().map(|text| text.clone().into_bytes()).collect();
    if strings.len() > STOP_STRINGS {
        return Err(usage(format!("--stop: at most {STOP_STRINGS} stop texts")));
    }
    if strings.iter().any(|text| text.is_empty() || text.len() > STOP_BYTES) {
        return Err(usage(format!("--stop: expected 1 to {STOP_BYTES} bytes")));
    }
    Ok(Stops { max_tokens: asking.max_tokens, ignore_end: false, strings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_from_a_file_is_its_text_without_the_last_line_break() {
        let read = |bytes: &[u8]| read(bytes, "a.txt").map_err(|error| error.to_string());
        assert_eq!(read(b"one\ntwo\n"), Ok("one\ntwo".to_owned()));
        assert_eq!(read(b"one\r\n"), Ok("one".to_owned()));
        assert_eq!(read(b"one\n\n"), Ok("one\n".to_owned()));
        assert_eq!(read(b""), Ok(String::new()));
        let error = read(b"ab\xffc").unwrap_err();
        assert!(error.contains("a.txt is not UTF-8") && error.contains("byte 2"), "{error}");
        let long = io::repeat(b'a');
        let error = super::read(long, "a.txt").unwrap_err().to_string();
        assert!(error.contains("longer than 64 MiB"), "{error}");
    }
}
