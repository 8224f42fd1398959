//! Makes a request of what flags and files of the command line say, with errors that name the flag.

use std::fs::File;
use std::io::{self, Read};

use anyhow::{Context, Result, anyhow, bail};
use lockstep_client::format::ChatFormat;
use lockstep_client::request::{Input, Parameters, RequestBuilder, RequestError};
use lockstep_exact::sample::{Bias, Sampling};
use lockstep_import::template::Message;

use crate::args::{Asking, SamplingArgs};
use crate::chat_format;
use crate::exit::usage;
use crate::printable::ForeignPath;

/// Longest message that is read from a file or from standard input, in bytes.
const PROMPT_BYTES: u64 = 64 << 20;

/// Returns the message of the command line, if there is one: `--prompt`, or what `--prompt-file`
/// names.
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

/// Returns all of standard input as a message.
pub(crate) fn from_stdin() -> Result<String> {
    read(io::stdin().lock(), "standard input")
}

/// Returns a message out of a file, without the line break at its end.
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

/// Returns the request of one question of the command line.
pub(crate) fn request(
    asking: &Asking,
    format: &ChatFormat,
    prompt: &str,
    drawn_seed: u64,
) -> Result<RequestBuilder> {
    let input = match asking.raw {
        true => Input::Raw(prompt.to_owned()),
        false => {
            let system = asking.system.as_ref().map(|text| Message::new("system", text));
            let question = [Message::new("user", prompt)];
            Input::Messages(system.into_iter().chain(question).collect())
        }
    };
    of_input(input, asking, format, drawn_seed)
}

/// Returns the request of some input, with the parameters of the command line.
pub(crate) fn of_input(
    input: Input,
    asking: &Asking,
    format: &ChatFormat,
    drawn_seed: u64,
) -> Result<RequestBuilder> {
    let parameters = parameters(asking, drawn_seed)?;
    Ok(RequestBuilder::new(input).format(format.clone()).parameters(parameters))
}

/// Checks what the command line says of answers as far as that needs no model: sampling and stop
/// texts. Reads the files that it names, once: they may be pipes.
pub(crate) fn check(asking: &Asking) -> Result<ChatFormat> {
    check_parameters(asking)?;
    chat_format::read(&asking.format)
}

/// Checks sampling and stop texts as far as that needs no model.
pub(crate) fn check_parameters(asking: &Asking) -> Result<()> {
    let parameters = parameters(asking, 0)?;
    parameters.unbound_sampling().map_err(in_flags)?;
    parameters.stops().map_err(in_flags)?;
    Ok(())
}

/// Returns the parameters of answers as the command line states them.
fn parameters(asking: &Asking, drawn_seed: u64) -> Result<Parameters> {
    Ok(Parameters {
        sampling: sampling(&asking.sampling, drawn_seed)?,
        stop: asking.sampling.stop.clone(),
        max_tokens: asking.max_tokens,
        ignore_end: false,
    })
}

fn sampling(args: &SamplingArgs, drawn_seed: u64) -> Result<Sampling> {
    Ok(Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        logit_bias: logit_bias(&args.logit_bias)?,
        seed: args.seed.unwrap_or(drawn_seed),
    })
}

/// Biases of tokens, as they are given.
fn logit_bias(texts: &[String]) -> Result<Vec<Bias>> {
    let bias = |entry: &String| {
        let parsed = entry.split_once('=').and_then(|(token, bias)| {
            Some(Bias { token: token.trim().parse().ok()?, bias: bias.trim().parse().ok()? })
        });
        parsed.ok_or_else(|| usage(format!("--logit-bias: expected TOKEN_ID=BIAS, got {entry:?}")))
    };
    texts.iter().map(bias).collect()
}

/// Returns the error of a request in the names that the command line has for its parts.
pub(crate) fn in_flags(error: RequestError) -> anyhow::Error {
    match error {
        RequestError::Format(error) => chat_format::in_flags(error),
        RequestError::BiasToken { .. }
        | RequestError::BiasTwice { .. }
        | RequestError::MaxTokens
        | RequestError::Stop
        | RequestError::Stops => {
            let text = error.to_string();
            let (name, reason) = text.split_once(':').unwrap_or(("", &text));
            usage(format!("--{}:{reason}", name.replace('_', "-")))
        }
        RequestError::Parameter(error) => usage(error.to_string()),
        RequestError::Clock
        | RequestError::Date(_)
        | RequestError::Encode(_)
        | RequestError::PromptLength { .. }
        | RequestError::PromptToken { .. } => error.into(),
    }
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
