//! Reads from flags and files how a chat becomes a prompt, with errors that name the flag.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use lockstep_client::format::{ChatFormat, FormatError, Template};
use lockstep_import::limits::{MAX_TEMPLATE_BYTES, MAX_TEXT_BYTES};
use lockstep_import::template;
use lockstep_import::tokenizer::Tokenizer;
use serde_json::{Map, Value};

use crate::exit::usage;
use crate::printable::{Foreign, ForeignPath};

/// The arguments that say how messages become a prompt.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FormatArgs {
    /// Which of the model's own chat templates to use, by name, or a file with another (Jinja)
    /// [default: tool_use with --tools if there is one, else default]
    #[arg(long, env = "LOCKSTEP_CHAT_TEMPLATE", value_name = "NAME|FILE", conflicts_with = "raw")]
    pub chat_template: Option<PathBuf>,
    /// An argument of the chat template: true, a number, other JSON, or a text; may be repeated,
    /// as in --template-arg enable_thinking=false
    #[arg(long, env = "LOCKSTEP_TEMPLATE_ARG", value_name = "NAME=VALUE", conflicts_with = "raw")]
    pub template_arg: Vec<String>,
    /// A file with the functions that the model may call: a JSON list of their schemas
    #[arg(long, env = "LOCKSTEP_TOOLS", value_name = "FILE", conflicts_with = "raw")]
    pub tools: Option<PathBuf>,
}

/// Reads the file that is named as a chat template, if there is one.
fn read_template(path: &Path) -> Result<Template> {
    // A name that is not text, or leads elsewhere, is that of a file alone.
    let name = path.to_str().map(str::to_owned);
    let is_name = |name: &String| !name.contains(std::path::is_separator);
    match (name.filter(is_name), text_of(path, MAX_TEMPLATE_BYTES)) {
        (Some(name), Err(_)) if !path.exists() => Ok(Template::Own { name }),
        (name, source) => Ok(Template::Text { name: name.unwrap_or_default(), source: source? }),
    }
}

/// Reads what the command line names.
pub(crate) fn read(args: &FormatArgs) -> Result<ChatFormat> {
    let template = args.chat_template.as_deref().map(read_template).transpose()?;
    let mut arguments = Map::new();
    for entry in &args.template_arg {
        let (name, value) = entry
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| usage(format!("--template-arg: expected NAME=VALUE, got {entry:?}")))?;
        // What is no JSON is a text, so that quotes are needed only where it could be either.
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        arguments.insert(name.to_owned(), value);
    }
    let tools = args.tools.as_deref().map(tools_of).transpose()?;
    Ok(ChatFormat { template, arguments, tools })
}

/// Returns why messages can't become a prompt, by the names that the command line has for its
/// parts.
pub(crate) fn in_flags(error: FormatError) -> anyhow::Error {
    match error {
        FormatError::Argument { name } => usage(format!(
            "--template-arg: the chat template does not read {name:?}, so it would change nothing"
        )),
        FormatError::NoSuchTemplate { name, has } => usage(format!(
            "--chat-template: there is no file {name:?}, and the model has no template of that \
             name (it has {has})"
        )),
        FormatError::NoTemplate(none) => usage(format!(
            "{none}: give one with --chat-template, or use --raw to feed the prompt as it is"
        )),
        FormatError::Tools => usage(
            "--tools: the chat template does not read `tools`, so the model would not hear of \
             them: use a model whose template does, or give one with --chat-template",
        ),
        FormatError::Encode(_) | FormatError::Template(_) => error.into(),
    }
}

/// Says what is wrong with a model's chat templates: those that can't render the simplest chat.
pub(crate) fn faults_of_templates(tokenizer: &Tokenizer) -> Vec<String> {
    let (bos, eos) = (tokenizer.bos_text(), tokenizer.eos_text());
    let fault = |(name, source)| {
        let error = template::try_out(name, source, &bos, &eos).err()?.to_string();
        Some(format!(
            "warning: {} (template {name:?}); to chat with this model, give another template with \
             --chat-template FILE",
            Foreign(&error)
        ))
    };
    tokenizer.chat_templates().iter().filter_map(fault).collect()
}

/// Reads the text of a file that has at most `most` bytes.
fn text_of(path: &Path, most: usize) -> Result<String> {
    let cant_read = || format!("can't read {}", ForeignPath(path));
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(cant_read)?;
    file.take(most as u64 + 1).read_to_end(&mut bytes).with_context(cant_read)?;
    if bytes.len() > most {
        bail!("{} is longer than {most} bytes", ForeignPath(path));
    }
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", ForeignPath(path)))
}

fn tools_of(path: &Path) -> Result<Vec<Value>> {
    let value = serde_json::from_str(&text_of(path, MAX_TEXT_BYTES)?);
    match value.with_context(|| format!("{} is not JSON", ForeignPath(path)))? {
        Value::Array(tools) => Ok(tools),
        _ => Err(usage(format!(
            "--tools: expected a JSON list of functions in {}",
            ForeignPath(path)
        ))),
    }
}
