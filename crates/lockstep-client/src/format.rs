//! Turns a chat into a prompt, with the model's template or another, its arguments, and tools.

use std::fmt;

use lockstep_import::template::{self, Chat, Date, Message, NoTemplate, TemplateError};
use lockstep_import::tokenizer::{EncodeError, Tokenizer};
use serde_json::{Map, Value};

/// The way in which messages become a prompt. The default is the model's own template, without
/// arguments and tools.
#[derive(Clone, Debug, Default)]
pub struct ChatFormat {
    /// The template that is asked for; the model's own for every chat, or for tools, if `None`.
    pub template: Option<Template>,
    /// Further values that the template reads, such as `enable_thinking`.
    pub arguments: Map<String, Value>,
    /// The functions that the model may call, as JSON schemas; `None` is not an empty list.
    pub tools: Option<Vec<Value>>,
}

/// The chat template that the caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Template {
    /// One of the model's own templates, by its name.
    Own {
        /// The name of the template in the model.
        name: String,
    },
    /// This text, unless `name` is that of one of the model's own.
    Text {
        /// The name under which errors speak of it; empty if it has none.
        name: String,
        /// The source text of the template in Jinja.
        source: String,
    },
}

/// An input that the chat template which was asked for leaves out of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// The messages of the conversation.
    Messages,
    /// The descriptions of the tools.
    Tools,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Messages => "messages",
            Self::Tools => "tools",
        };
        write!(f, "the chat template reads no `{what}`: none is in the prompt")
    }
}

/// Why messages can't become a prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// An argument that the template does not read.
    #[error("template_arg: the chat template does not read {name:?}, so it would change nothing")]
    Argument {
        /// The name of the template.
        name: String,
    },
    /// The prompt can't be turned into tokens.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The model has no template of this name.
    #[error("chat_template: the model has no template {name:?} (it has {has})")]
    NoSuchTemplate {
        /// The name of the template that was asked for.
        name: String,
        /// The names of the templates that the model has, for people.
        has: String,
    },
    /// The model has no template for this chat.
    #[error("chat_template: {0}")]
    NoTemplate(#[from] NoTemplate),
    /// The template fails, or refuses the chat.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The model's template does not read tools.
    #[error(
        "tools: the chat template does not read `tools`, so the model would not hear of them: use \
         a model whose template does, or give another template"
    )]
    Tools,
}

impl FormatError {
    /// Returns the parameter that is wrong, as interfaces write it, if it is one.
    #[must_use]
    pub const fn parameter(&self) -> Option<&'static str> {
        match self {
            Self::Argument { .. } => Some("template_arg"),
            Self::Encode(_) | Self::Template(_) => None,
            Self::NoSuchTemplate { .. } | Self::NoTemplate(_) => Some("chat_template"),
            Self::Tools => Some("tools"),
        }
    }
}

impl ChatFormat {
    /// Returns the template for a model's chats.
    ///
    /// # Errors
    /// The model has none of the name that is asked for, or none for every chat.
    pub fn template<'t>(&'t self, tokenizer: &'t Tokenizer) -> Result<&'t str, FormatError> {
        let own = tokenizer.chat_templates();
        match &self.template {
            Some(Template::Text { name, source }) => Ok(own.get(name).unwrap_or(source)),
            Some(Template::Own { name }) => own.get(name).ok_or_else(|| {
                let has = if own.is_empty() { "none".to_owned() } else { own.names() };
                FormatError::NoSuchTemplate { name: name.clone(), has }
            }),
            None => Ok(own.choose(self.tools.is_some())?),
        }
    }

    /// Checks that a model's chats can be written: that there is a template, and that it reads what
    /// it is given. A template that was asked for may leave things out; what it does is returned.
    ///
    /// # Errors
    /// As [`Self::template`]; tools that the model's own template does not read, and arguments that
    /// no template of that name reads, would be left out of the prompt without a word.
    pub fn check(&self, tokenizer: &Tokenizer) -> Result<Vec<LeftOut>, FormatError> {
        let template = self.template(tokenizer)?;
        let is_name = |character: char| character.is_alphanumeric() || character == '_';
        let reads = |name: &str| template.split(|c| !is_name(c)).any(|word| word == name);
        let mut left_out = Vec::new();
        if self.template.is_some() && !reads("messages") {
            left_out.push(LeftOut::Messages);
        }
        if self.tools.as_ref().is_some_and(|tools| !tools.is_empty()) && !reads("tools") {
            if self.template.is_none() {
                return Err(FormatError::Tools);
            }
            left_out.push(LeftOut::Tools);
        }
        match self.arguments.keys().find(|name| !reads(name)) {
            Some(name) => Err(FormatError::Argument { name: name.clone() }),
            None => Ok(left_out),
        }
    }

    /// Returns the tokens of a conversation on a day. What messages, tools and arguments say never
    /// becomes a control token.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn tokens(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        date: Date,
    ) -> Result<Vec<u32>, FormatError> {
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
