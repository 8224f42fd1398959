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

/// How messages become a prompt.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChatFormat {
    template: Option<Asked>,
    arguments: Map<String, Value>,
    tools: Option<Vec<Value>>,
}

/// The template that is asked for.
#[derive(Clone, Debug)]
enum Asked {
    /// What a file holds, unless the file's name is that of one of the model's own.
    File { name: String, source: String },
    /// One of the model's own: there is no such file.
    Own { name: String },
}

impl Asked {
    /// Reads the file, if there is one.
    fn read(path: &Path) -> Result<Self> {
        // A name that is not text, or leads elsewhere, is that of a file alone.
        let name = path.to_str().map(str::to_owned);
        let is_name = |name: &String| !name.contains(std::path::is_separator);
        match (name.filter(is_name), text_of(path, MAX_TEMPLATE_BYTES)) {
            (Some(name), Err(_)) if !path.exists() => Ok(Self::Own { name }),
            (name, source) => Ok(Self::File { name: name.unwrap_or_default(), source: source? }),
        }
    }
}

impl ChatFormat {
    /// Reads what the command line names.
    pub(crate) fn read(args: &FormatArgs) -> Result<Self> {
        let template = args.chat_template.as_deref().map(Asked::read).transpose()?;
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

    /// The template for a model's chats.
    ///
    /// # Errors
    /// The model has none of the name that is asked for, or none for every chat.
    pub(crate) fn template<'t>(&'t self, tokenizer: &'t Tokenizer) -> Result<&'t str> {
        let own = tokenizer.chat_templates();
        match &self.template {
            Some(Asked::File { name, source }) => Ok(own.get(name).unwrap_or(source)),
            Some(Asked::Own { name }) => own.get(name).ok_or_else(|| {
                let names = if own.is_empty() { "none".to_owned() } else { own.names() };
                usage(format!(
                    "--chat-template: there is no file {name:?}, and the model has no template of \
                     that name (it has {names})"
                ))
            }),
            None => own.choose(self.tools.is_some()).map_err(|none| {
                usage(format!(
                    "{none}: give one with --chat-template, or use --raw to feed the prompt as it \
                     is"
                ))
            }),
        }
    }

    /// Checks that a model's chats can be written: that there is a template, and that it reads what
    /// it is given. A template that was asked for may leave things out; what it does is returned,
    /// to be said.
    ///
    /// # Errors
    /// As [`Self::template`]; tools that the model's own template does not read, and arguments that
    /// no template of that name reads, would be left out of the prompt without a word.
    pub(crate) fn check(&self, tokenizer: &Tokenizer) -> Result<Vec<&'static str>> {
        let template = self.template(tokenizer)?;
        let is_name = |character: char| character.is_alphanumeric() || character == '_';
        let reads = |name: &str| template.split(|c| !is_name(c)).any(|word| word == name);
        let mut left_out = Vec::new();
        if self.template.is_some() && !reads("messages") {
            left_out.push("the chat template reads no `messages`: none is in the prompt");
        }
        if self.tools.as_ref().is_some_and(|tools| !tools.is_empty()) && !reads("tools") {
            if self.template.is_none() {
                return Err(usage(
                    "--tools: the chat template does not read `tools`, so the model would not \
                     hear of them: use a model whose template does, or give one with \
                     --chat-template",
                ));
            }
            left_out.push("the chat template reads no `tools`: none is in the prompt");
        }
        match self.arguments.keys().find(|name| !reads(name)) {
            Some(name) => Err(usage(format!(
                "--template-arg: the chat template does not read {name:?}, so it would change \
                 nothing"
            ))),
            None => Ok(left_out),
        }
    }

    /// The tokens of a conversation. What messages, tools and arguments say never becomes a
    /// control token.
    pub(crate) fn tokens(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        date: Date,
    ) -> Result<Vec<u32>> {
        let template = self.template(tokenizer)?;
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
