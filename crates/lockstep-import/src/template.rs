//! Chat templates: the Jinja text a model brings for turning messages into one prompt.
//!
//! Templates come from strangers. They are rendered under a fuel limit (work and memory), a limit
//! on the output, and on a stack of their own that no source within the limits exhausts. They see
//! nothing but the [`Chat`] they are given and reach no clock: the date that `strftime_now` shows
//! is part of the input, so one chat always renders to one prompt.
//!
//! The dialect is that of the Python reference: `trim_blocks`, `lstrip_blocks`, Python's string
//! methods, `tojson` without HTML escapes, `raise_exception`.

mod date;
mod json;

use std::fmt;
use std::io;
use std::thread;

pub use date::{Date, DateError};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value, context};

use crate::limits::{MAX_RENDERED_BYTES, MAX_TEMPLATE_BYTES, RENDER_FUEL, RENDER_STACK_BYTES};

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, ...
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of `role` with `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    fn value(&self) -> Value {
        Value::from_pairs([("role", self.role.as_str()), ("content", self.content.as_str())])
    }
}

/// Everything a chat template sees.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'a> {
    /// The messages, oldest first.
    pub messages: &'a [Message],
    /// Whether the prompt ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// Text of the beginning-of-sequence token.
    pub bos_token: &'a str,
    /// Text of the end-of-sequence token.
    pub eos_token: &'a str,
    /// The day that `strftime_now` shows, at midnight.
    pub date: Date,
}

/// Renders `chat` with the template in `source`.
///
/// # Errors
/// The template is malformed, refuses the chat, or passes a limit.
pub fn render(source: &str, chat: &Chat<'_>) -> Result<String, TemplateError> {
    if source.len() > MAX_TEMPLATE_BYTES {
        return Err(TemplateError::LongSource { got: source.len() });
    }
    let renderer = thread::Builder::new().stack_size(RENDER_STACK_BYTES);
    thread::scope(|scope| {
        let rendering = renderer.spawn_scoped(scope, || render_here(source, chat));
        let rendering = rendering.map_err(|error| TemplateError::Stack { kind: error.kind() })?;
        let died = TemplateError::Invalid { message: "the renderer panicked".to_owned() };
        rendering.join().unwrap_or(Err(died))
    })
}

/// Renders on this thread, however deep the template makes the renderer recurse.
fn render_here(source: &str, chat: &Chat<'_>) -> Result<String, TemplateError> {
    let environment = environment(chat.date).map_err(explain)?;
    let template = environment.template_from_named_str("chat", source).map_err(explain)?;
    let values = context! {
        messages => chat.messages.iter().map(Message::value).collect::<Vec<_>>(),
        add_generation_prompt => chat.add_generation_prompt,
        bos_token => chat.bos_token,
        eos_token => chat.eos_token,
        tools => (),
        documents => (),
    };
    let mut out = Capped { bytes: Vec::new() };
    template.render_captured_to(values, &mut out).map_err(explain)?;
    String::from_utf8(out.bytes).map_err(|_| TemplateError::LongOutput)
}

fn environment(date: Date) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax?);
    environment.set_fuel(Some(RENDER_FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| {
        date.format(format).map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
    });
    Ok(environment)
}

fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Accepted as in Python, where templates pass it to keep text readable; that is the case here.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let text = json::to_python_json(value, indent);
    text.map(Value::from_safe_string)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// The text of a template's own refusal, carried through the renderer's error.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn raise_exception(message: String) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, "refused by the chat template");
    Err(error.with_source(Refusal(message)))
}

/// A buffer that takes at most [`MAX_RENDERED_BYTES`].
struct Capped {
    bytes: Vec<u8>,
}

impl io::Write for Capped {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if part.len() > MAX_RENDERED_BYTES.saturating_sub(self.bytes.len()) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn explain(error: Error) -> TemplateError {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(inner) = cause {
        if let Some(Refusal(message)) = inner.downcast_ref() {
            return TemplateError::Refused { message: message.clone() };
        }
        let kind = inner.downcast_ref::<Error>().map(Error::kind);
        let io_kind = inner.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind == Some(ErrorKind::OutOfFuel) {
            return TemplateError::TooMuchWork;
        } else if io_kind == Some(io::ErrorKind::FileTooLarge) {
            return TemplateError::LongOutput;
        }
        cause = inner.source();
    }
    TemplateError::Invalid { message: error.to_string() }
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
    /// The system gives no stack to render on.
    #[error("no memory for rendering the chat template: {kind}")]
    Stack {
        /// The system's reason.
        kind: io::ErrorKind,
    },
    /// The template works on and on.
    #[error("the chat template does more work than the limit of {RENDER_FUEL} steps allows")]
    TooMuchWork,
}
