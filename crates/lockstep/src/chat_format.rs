//! How a chat becomes a prompt: the model's template or another, its arguments, and tools.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use lockstep_import::limits::{MAX_TEMPLATE_BYTES, MAX_TEXT_BYTES};
use lockstep_import::template::{self, Chat, Date, Message};
use lockstep_import::tokenizer::Tokenizer;
use serde_json::{Map, Value};

use crate::exit::usage;
use crate::printable::{Foreign, ForeignPath};

/// What the command line says about it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FormatArgs {
    /// A file with a chat template (Jinja) in place of the model's own
    #[arg(long, env = "LOCKSTEP_CHAT_TEMPLATE", value_name = "FILE", conflicts_with = "raw")]
    pub chat_template: Option<PathBuf>,
    /// An argument of the chat template: true, a number, other JSON, or a text; may be repeated,
    /// as in --template-arg enable_thinking=false
    #[arg(long, env = "LOCKSTEP_TEMPLATE_ARG", value_name = "NAME=VALUE", conflicts_with = "raw")]
    pub template_arg: Vec<String>,
    /// A file with the functions that the model may call: a JSON list of their schemas
    #[arg(long, env = "LOCKSTEP_TOOLS", value_name = "FILE", conflicts_with = "raw")]
    pub tools: Option<PathBuf>,
}

/// How messages become a prompt.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChatFormat {
    template: Option<String>,
    arguments: Map<String, Value>,
    tools: Option<Vec<Value>>,
}

impl ChatFormat {
    /// Reads what the command line names.
    pub(crate) fn read(args: &FormatArgs) -> Result<Self> {
        let template = args.chat_template.as_deref();
        let template = template.map(|path| text_of(path, MAX_TEMPLATE_BYTES)).transpose()?;
        let mut arguments = Map::new();
        for entry in &args.template_arg {
            let (name, value) =
                entry.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                    usage(format!("--template-arg: expected NAME=VALUE, got {entry:?}"))
                })?;
            // What is no JSON is a text, so that quotes are needed only where it could be either.
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            arguments.insert(name.to_owned(), value);
        }
        let tools = args.tools.as_deref().map(tools_of).transpose()?;
        Ok(Self { template, arguments, tools })
    }

    /// The tokens of a conversation. What messages, tools and arguments say never becomes a
    /// control token.
    pub(crate) fn tokens(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        date: Date,
    ) -> Result<Vec<u32>> {
        let template = self.template.as_deref().or_else(|| tokenizer.chat_template());
        let template = template.context(
            "the model has no chat template: give one with --chat-template FILE, or use --raw to \
             feed the prompt as it is",
        )?;
        let chat = Chat {
            messages,
            tools: self.tools.as_deref(),
            arguments: &self.arguments,
            add_generation_prompt: true,
            bos_token: &tokenizer.bos_text(),
            eos_token: &tokenizer.eos_text(),
            date,
        };
        let prompt = template::render(template, &chat)?;
        Ok(tokenizer.encode_rendered(&prompt)?)
    }
}

/// Says what is wrong with a model's chat template, if it can't render the simplest chat.
pub(crate) fn fault_of_template(tokenizer: &Tokenizer) -> Option<String> {
    let template = tokenizer.chat_template()?;
    let tried = template::try_out(template, &tokenizer.bos_text(), &tokenizer.eos_text());
    let error = tried.err()?.to_string();
    Some(format!(
        "warning: {}; to chat with this model, give another template with --chat-template FILE",
        Foreign(&error)
    ))
}

/// The text of a file of at most so many bytes.
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
