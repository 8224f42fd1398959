//! From what a person types to a request's tokens and parameters.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use lockstep_exact::manifest::Manifest;
use lockstep_exact::sample::{Bias, Sampling, Stops};
use lockstep_import::template::{self, Chat, Date, Message};
use lockstep_import::tokenizer::{ControlText, Tokenizer};

use crate::args::{Asking, SamplingArgs};
use crate::exit::usage;

/// The tokens of a conversation, by the model's own chat template.
pub(crate) fn chat_tokens(tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>> {
    let template = tokenizer
        .chat_template()
        .context("the model has no chat template: use --raw to feed the prompt as it is")?;
    let text = template::render(
        template,
        &Chat {
            messages,
            add_generation_prompt: true,
            bos_token: &tokenizer.bos_text(),
            eos_token: &tokenizer.eos_text(),
            date: today()?,
        },
    )?;
    Ok(tokenizer.encode(&text, ControlText::Parse)?)
}

/// The tokens of one question.
pub(crate) fn tokens(tokenizer: &Tokenizer, asking: &Asking, prompt: &str) -> Result<Vec<u32>> {
    if asking.raw {
        return Ok(tokenizer.encode_prompt(prompt, ControlText::Plain)?);
    }
    let system = asking.system.as_ref().map(|text| Message::new("system", text));
    let messages: Vec<Message> = system.into_iter().chain([Message::new("user", prompt)]).collect();
    chat_tokens(tokenizer, &messages)
}

fn today() -> Result<Date> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(Date::from_days_since_1970(seconds / 86_400)?)
}

/// The sampling parameters of the command line, checked.
pub(crate) fn sampling(
    args: &SamplingArgs,
    manifest: &Manifest,
    drawn_seed: u64,
) -> Result<Sampling> {
    let mut logit_bias = Vec::new();
    for entry in &args.logit_bias {
        let parsed = entry.split_once('=').and_then(|(token, bias)| {
            Some(Bias { token: token.trim().parse().ok()?, bias: bias.trim().parse().ok()? })
        });
        logit_bias.push(parsed.ok_or_else(|| {
            usage(format!("--logit-bias: expected TOKEN_ID=BIAS, got {entry:?}"))
        })?);
    }
    logit_bias.sort_by_key(|entry| entry.token);
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        logit_bias,
        seed: args.seed.unwrap_or(drawn_seed),
    };
    sampling.check(manifest.vocabulary).map_err(|error| usage(error.to_string()))?;
    Ok(sampling)
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
    if asking.max_tokens == 0 {
        return Err(usage("--max-tokens: expected at least 1"));
    }
    Ok(Stops { max_tokens: asking.max_tokens, ignore_end: false, strings })
}
