//! Chat templates: the Jinja text a model brings for turning messages into one prompt.
//!
//! Templates come from strangers. They are rendered within limits of work, memory, nesting and
//! output, on a stack of their own that no source within the limits exhausts. They see nothing but
//! the [`Chat`] they are given and reach no clock: the date that `strftime_now` shows is part of
//! the input, so one chat always renders to one prompt.
//!
//! The rendered [`Prompt`] knows which of its bytes come from messages, tools and arguments. Those
//! never become control tokens, whatever the template does with them: see
//! [`Tokenizer::encode_rendered`](crate::tokenizer::Tokenizer::encode_rendered).

mod message;
mod own;

use std::io;
use std::ops::Range;
use std::thread;

pub use crate::date::{Date, DateError};
pub use message::{Content, Message, MessageError};
pub use own::{ChatTemplates, ChatTemplatesError, DEFAULT, NoTemplate, TOOL_USE};
use serde_json::{Map, Value as Json, json};

use crate::jinja::{self, Budget, Error, Fault, Origin, Value, from_json};
use crate::limits::{
    MAX_RENDERED_BYTES, MAX_TEMPLATE_BYTES, RENDER_FUEL, RENDER_MEMORY, RENDER_STACK_BYTES,
};

/// What the program gives to every template, so that no argument may.
const RESERVED: [&str; 3] = ["add_generation_prompt", "messages", "tools"];

/// Everything a chat template sees.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'a> {
    /// The messages, oldest first.
    pub messages: &'a [Message],
    /// The functions that the model may call, as JSON schemas; `None` is not an empty list.
    pub tools: Option<&'a [Json]>,
    /// Further values under their names, such as `enable_thinking`.
    pub arguments: &'a Map<String, Json>,
    /// Whether the prompt ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// Text of the beginning-of-sequence token.
    pub bos_token: &'a str,
    /// Text of the end-of-sequence token.
    pub eos_token: &'a str,
    /// The day that `strftime_now` shows, at midnight.
    pub date: Date,
}

/// A rendered chat, and which of its bytes users wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    text: String,
    user: Vec<Range<usize>>,
}

impl Prompt {
    /// Returns the whole text of the prompt.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the bytes that come from messages, tools or arguments: in order, none empty, none
    /// touching another.
    pub fn user_spans(&self) -> &[Range<usize>] {
        &self.user
    }

    /// Creates a prompt with this `text`, of which users wrote the parts `user`.
    pub(crate) fn of(text: String, user: Vec<Range<usize>>) -> Self {
        Self { text, user }
    }

    /// Creates a prompt with this `text`, all of which the template, or somebody as trusted, wrote.
    pub fn trusted(text: impl Into<String>) -> Self {
        Self { text: text.into(), user: Vec::new() }
    }
}

/// Renders `chat` with the template in `source`.
///
/// # Errors
/// The template is malformed, refuses the chat, or passes a limit.
pub fn render(source: &str, chat: &Chat<'_>) -> Result<Prompt, TemplateError> {
    if source.len() > MAX_TEMPLATE_BYTES {
        return Err(TemplateError::LongSource { got: source.len() });
    }
    if let Some(name) = RESERVED.into_iter().find(|name| chat.arguments.contains_key(*name)) {
        return Err(TemplateError::Reserved { name });
    }
    let renderer = thread::Builder::new().stack_size(RENDER_STACK_BYTES);
    thread::scope(|scope| {
        let rendering = renderer.spawn_scoped(scope, || render_here(source, chat));
        let rendering = rendering.map_err(|error| TemplateError::Stack { kind: error.kind() })?;
        let died = TemplateError::Invalid { message: "the renderer panicked".to_owned() };
        rendering.join().unwrap_or(Err(died))
    })
}

/// Tries `source` on the simplest chat that the template of this name is taken for: one that can't
/// render it can't render any. Other templates than those for every chat and for tools need what
/// only they know, so they are not tried.
///
/// # Errors
/// As [`render`]; a refusal in the template's own words is none.
pub fn try_out(
    name: &str,
    source: &str,
    bos_token: &str,
    eos_token: &str,
) -> Result<(), TemplateError> {
    let tool = json!({"type": "function", "function": {
        "name": "today",
        "description": "The date of today.",
        "parameters": {"type": "object", "properties": {
            "zone": {"type": "string", "description": "The time zone."},
        }, "required": ["zone"]},
    }});
    let tools = match name {
        DEFAULT => None,
        TOOL_USE => Some(std::slice::from_ref(&tool)),
        _ => return Ok(()),
    };
    let chat = Chat {
        messages: &[Message::new("user", "Hello")],
        tools,
        arguments: &Map::new(),
        add_generation_prompt: true,
        bos_token,
        eos_token,
        date: Date::FIRST,
    };
    match render(source, &chat) {
        Ok(_) | Err(TemplateError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Renders on this thread, however deep the template makes the renderer recurse.
fn render_here(source: &str, chat: &Chat<'_>) -> Result<Prompt, TemplateError> {
    let budget = Budget::new();
    let rendered = variables(&budget, chat)
        .and_then(|variables| jinja::render(&budget, source, chat.date, variables));
    let (text, user) = rendered.map_err(|error| explain(&error))?.into_parts();
    Ok(Prompt::of(text, user))
}

/// Returns the values that a template sees, under their names.
fn variables<'a>(budget: &Budget, chat: &Chat<'a>) -> jinja::Result<Vec<(&'a str, Value)>> {
    let own = |text: &str| Value::text_of(budget, text, Origin::Template);
    let list = |items: &[Json]| {
        let items = items.iter().map(|item| from_json(budget, item));
        Value::list_of(budget, items.collect::<jinja::Result<_>>()?)
    };
    let messages = chat.messages.iter().map(|message| message.value(budget));
    let messages = Value::list_of(budget, messages.collect::<jinja::Result<_>>()?)?;
    let mut variables = vec![
        ("messages", messages),
        ("tools", chat.tools.map_or(Ok(Value::None), list)?),
        ("documents", Value::None),
        ("add_generation_prompt", Value::Bool(chat.add_generation_prompt)),
        ("bos_token", own(chat.bos_token)?),
        ("eos_token", own(chat.eos_token)?),
    ];
    for (name, value) in chat.arguments {
        variables.push((name, from_json(budget, value)?));
    }
    Ok(variables)
}

fn explain(error: &Error) -> TemplateError {
    match error.fault() {
        Fault::Fails(_) => TemplateError::Invalid { message: error.to_string() },
        Fault::Refused(message) => TemplateError::Refused { message: message.clone() },
        Fault::TooDeep => TemplateError::TooDeep,
        Fault::TooMuchMemory => TemplateError::TooMuchMemory,
        Fault::TooMuchWork => TemplateError::TooMuchWork,
        Fault::LongOutput => TemplateError::LongOutput,
    }
}

/// Why a chat could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template is malformed, or uses something that does not exist.
    #[error("the chat template fails: {message}")]
    Invalid {
        /// The renderer's words, with the line.
        message: String,
    },
    /// The prompt would be too long.
    #[error("the rendered chat is longer than {MAX_RENDERED_BYTES} bytes")]
    LongOutput,
    /// The template's source is too long.
    #[error("the chat template has {got} bytes; the limit is {MAX_TEMPLATE_BYTES}")]
    LongSource {
        /// Bytes of the source.
        got: usize,
    },
    /// The template itself refuses this chat, for instance because of the order of roles.
    #[error("the chat template refuses this chat: {message}")]
    Refused {
        /// The template's words.
        message: String,
    },
    /// An argument under a name that the program gives itself.
    #[error("{name} can't be given as an argument of the chat template")]
    Reserved {
        /// The name.
        name: &'static str,
    },
    /// The system gives no stack to render on.
    #[error("no memory for rendering the chat template: {kind}")]
    Stack {
        /// The system's reason.
        kind: io::ErrorKind,
    },
    /// Calls or values nest too deeply.
    #[error("the chat template nests calls or values too deeply")]
    TooDeep,
    /// The template's values are too large together.
    #[error("the chat template makes more than {RENDER_MEMORY} bytes of values")]
    TooMuchMemory,
    /// The template works on and on.
    #[error("the chat template does more work than the limit of {RENDER_FUEL} steps allows")]
    TooMuchWork,
}
