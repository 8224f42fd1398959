//! The messages of a chat, as the chat completion interfaces that people use write them.

use serde_json::{Map, Value as Json};

use crate::jinja::{Budget, Origin, Result, Value, from_json};

/// Roles that templates write control tokens for. Any other is a text that a user could choose.
const ROLES: [&str; 12] = [
    "assistant",
    "context",
    "developer",
    "document",
    "documents",
    "function",
    "ipython",
    "model",
    "observation",
    "system",
    "tool",
    "user",
];

/// One message of a chat, as templates see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The role of the speaker: `system`, `user`, `assistant`, `tool`, ...
    pub role: String,
    /// The content: what the speaker says.
    pub content: Content,
    /// Everything else that a template may look at: `tool_calls`, `tool_call_id`, `name`,
    /// `reasoning_content`, ...
    pub fields: Map<String, Json>,
}

/// The content of a [`Message`].
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// None, as beside tool calls.
    Nothing,
    /// The content is a single text.
    Text(String),
    /// Parts such as `{"type": "text", "text": "..."}`.
    Parts(Vec<Json>),
}

impl Content {
    /// Returns the text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Nothing | Self::Parts(_) => None,
        }
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl PartialEq<str> for Content {
    fn eq(&self, other: &str) -> bool {
        self.as_text() == Some(other)
    }
}

impl PartialEq<&str> for Content {
    fn eq(&self, other: &&str) -> bool {
        self.as_text() == Some(*other)
    }
}

impl Message {
    /// Creates a message of `role` that says the text `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let (role, content) = (role.into(), Content::Text(content.into()));
        Self { role, content, fields: Map::new() }
    }

    /// Returns a message as JSON has it: an object with `role`, `content` and other fields.
    ///
    /// The arguments of tool calls are what templates expect: where they are a text that holds a
    /// JSON object, as chat completion interfaces send them, they become that object.
    ///
    /// # Errors
    /// It is no object, or a field is of another type.
    pub fn from_json(message: &Json) -> std::result::Result<Self, MessageError> {
        let fields = message.as_object().ok_or(MessageError::NoObject)?;
        let mut fields = fields.clone();
        let Some(Json::String(role)) = fields.shift_remove("role") else {
            return Err(MessageError::Role);
        };
        let content = match fields.shift_remove("content") {
            None | Some(Json::Null) => Content::Nothing,
            Some(Json::String(text)) => Content::Text(text),
            Some(Json::Array(parts)) => Content::Parts(parts),
            Some(_) => return Err(MessageError::Content),
        };
        match fields.get_mut("tool_calls") {
            None | Some(Json::Null) => {}
            Some(Json::Array(calls)) => calls.iter_mut().for_each(read_arguments),
            Some(_) => return Err(MessageError::ToolCalls),
        }
        Ok(Self { role, content, fields })
    }

    /// What a template sees.
    pub(super) fn value(&self, budget: &Budget) -> Result<Value> {
        let own = |text: &str| Value::text_of(budget, text, Origin::Template);
        let known = ROLES.contains(&self.role.as_str());
        let origin = if known { Origin::Template } else { Origin::User };
        let content = match &self.content {
            Content::Nothing => Value::None,
            Content::Text(text) => Value::text_of(budget, text, Origin::User)?,
            Content::Parts(parts) => {
                let parts = parts.iter().map(|part| from_json(budget, part));
                Value::list_of(budget, parts.collect::<Result<_>>()?)?
            }
        };
        let role = Value::text_of(budget, &self.role, origin)?;
        let mut entries = vec![(own("role")?, role), (own("content")?, content)];
        for (name, value) in &self.fields {
            let name = Value::text_of(budget, name, Origin::User)?;
            entries.push((name, from_json(budget, value)?));
        }
        Value::dict_of(budget, entries)
    }
}

/// Makes an object of the arguments of a tool call, if they are its text.
fn read_arguments(call: &mut Json) {
    let function =
        if call.get("function").is_some() { call.get_mut("function") } else { Some(call) };
    let arguments = function.and_then(|function| function.get_mut("arguments"));
    if let Some(arguments) = arguments
        && let Some(text) = arguments.as_str()
        && let Ok(object @ Json::Object(_)) = serde_json::from_str(text)
    {
        *arguments = object;
    }
}

/// Why JSON is no message of a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The content is of another type.
    #[error("a message's content: expected a text, a list of parts, or null")]
    Content,
    /// The message is not a JSON object.
    #[error("a message: expected an object with role and content")]
    NoObject,
    /// There is no role, or it is no text.
    #[error("a message's role: expected a text such as \"user\"")]
    Role,
    /// The tool calls are no list.
    #[error("a message's tool_calls: expected a list")]
    ToolCalls,
}
