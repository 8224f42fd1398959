//! The chat templates that a model brings: one for every chat, and others for a purpose by name.
//!
//! Their number, names and sources are bounded where they are read, whatever they are read from:
//! a GGUF file, a folder, a package's blob.

use std::collections::BTreeMap;

use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_bytes, put_list};

use crate::limits::{MAX_TEMPLATE_BYTES, MAX_TEMPLATE_NAME_BYTES, MAX_TEMPLATES};

/// The name of the template for every chat, which most models have alone.
pub const DEFAULT: &str = "default";
/// The name of the template for chats with tools.
pub const TOOL_USE: &str = "tool_use";

/// Flags before the templates in a blob: whether there is one for every chat, and whether there are
/// others. The first alone is how a blob says that there is one.
const HAS_DEFAULT: u8 = 1;
const HAS_OTHERS: u8 = 2;

/// The chat templates of a model, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatTemplates(BTreeMap<String, String>);

impl ChatTemplates {
    /// Adds the template `source` under `name`. If one has its name already, that one is kept.
    ///
    /// # Errors
    /// A bound is passed, or the name is empty.
    pub fn add(&mut self, name: &str, source: &str) -> Result<(), ChatTemplatesError> {
        if name.is_empty() || name.len() > MAX_TEMPLATE_NAME_BYTES {
            let got = name.len();
            return Err(ChatTemplatesError::Name { got });
        }
        if source.len() > MAX_TEMPLATE_BYTES {
            let (name, got) = (name.to_owned(), source.len());
            return Err(ChatTemplatesError::Long { name, got });
        }
        if self.0.contains_key(name) {
            return Ok(());
        }
        if self.0.len() == MAX_TEMPLATES {
            return Err(ChatTemplatesError::TooMany);
        }
        self.0.insert(name.to_owned(), source.to_owned());
        Ok(())
    }

    /// Returns whether the model has no template.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names and sources, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, source)| (name.as_str(), source.as_str()))
    }

    /// Returns the template called `name`, if the model has one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns the template for a chat: with tools `tool_use`, if there is one, else `default`, as
    /// the transformers library chooses.
    ///
    /// # Errors
    /// There is no template, or none that suits every chat.
    pub fn choose(&self, with_tools: bool) -> Result<&str, NoTemplate> {
        let for_tools = self.get(TOOL_USE).filter(|_| with_tools);
        for_tools.or_else(|| self.get(DEFAULT)).ok_or_else(|| match self.is_empty() {
            true => NoTemplate::None,
            false => NoTemplate::NoDefault { names: self.names() },
        })
    }

    /// Returns all names, for a message.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.0.keys().map(|name| format!("{name:?}")).collect();
        names.join(", ")
    }
}

/// Why a model has no template for a chat.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTemplate {
    /// The model has no chat template at all.
    #[error("the model has no chat template")]
    None,
    /// The model has templates, but none for a chat of this kind.
    #[error("the model has no chat template for every chat, but these by name: {names}")]
    NoDefault {
        /// The names.
        names: String,
    },
}

/// Why a chat template is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChatTemplatesError {
    /// The source of a template is longer than the limit.
    #[error("the chat template {name:?} has {got} bytes; the limit is {MAX_TEMPLATE_BYTES}")]
    Long {
        /// Its name.
        name: String,
        /// Bytes of its source.
        got: usize,
    },
    /// The name of a template is empty or too long.
    #[error("the name of a chat template has {got} bytes; expected 1 to {MAX_TEMPLATE_NAME_BYTES}")]
    Name {
        /// Bytes of the name.
        got: usize,
    },
    /// The model has more templates than the limit.
    #[error("there are more than {MAX_TEMPLATES} chat templates, the limit")]
    TooMany,
}

/// A template with its name, as a blob holds it.
struct Named {
    name: String,
    source: String,
}

impl Canonical for Named {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.name.as_bytes());
        put_bytes(out, self.source.as_bytes());
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let name = input.text("chat template name", MAX_TEMPLATE_NAME_BYTES)?;
        Ok(Self { name, source: input.text(TEMPLATE, MAX_TEMPLATE_BYTES)? })
    }
}

const TEMPLATE: &str = "chat template";
const TEMPLATES: &str = "chat templates";

/// A byte of flags; the source of the template for every chat; a list of the others, name and
/// source, in order of name.
impl Canonical for ChatTemplates {
    fn encode(&self, out: &mut Vec<u8>) {
        let default = self.get(DEFAULT);
        let others = self.iter().filter(|(name, _)| *name != DEFAULT);
        let others: Vec<Named> = others
            .map(|(name, source)| Named { name: name.to_owned(), source: source.to_owned() })
            .collect();
        let mut flags = if default.is_some() { HAS_DEFAULT } else { 0 };
        if !others.is_empty() {
            flags |= HAS_OTHERS;
        }
        flags.encode(out);
        if let Some(source) = default {
            put_bytes(out, source.as_bytes());
        }
        if !others.is_empty() {
            put_list(out, &others);
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = u8::decode(input)?;
        if flags > HAS_DEFAULT | HAS_OTHERS {
            return Err(input.unknown_tag(TEMPLATES, flags));
        }
        let mut templates = BTreeMap::new();
        if flags & HAS_DEFAULT != 0 {
            templates.insert(DEFAULT.to_owned(), input.text(TEMPLATE, MAX_TEMPLATE_BYTES)?);
        }
        if flags & HAS_OTHERS != 0 {
            let most = MAX_TEMPLATES.saturating_sub(templates.len());
            let others: Vec<Named> = input.list(TEMPLATES, most, 8)?;
            let is_ordered = others.is_sorted_by(|one, next| one.name < next.name);
            let is_named = |other: &Named| !other.name.is_empty() && other.name != DEFAULT;
            if others.is_empty() || !is_ordered || !others.iter().all(is_named) {
                let why = "expected others than the default one, each once and in order of name";
                return Err(input.invalid(TEMPLATES, why));
            }
            templates.extend(others.into_iter().map(|Named { name, source }| (name, source)));
        }
        Ok(Self(templates))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates(names: &[&str]) -> ChatTemplates {
        let mut templates = ChatTemplates::default();
        for name in names {
            templates.add(name, &format!("source of {name}")).unwrap();
        }
        templates
    }

    #[test]
    fn tools_have_a_template_of_their_own_and_the_default_serves_the_rest() {
        let both = templates(&["default", "tool_use", "rag"]);
        assert_eq!(both.choose(false), Ok("source of default"));
        assert_eq!(both.choose(true), Ok("source of tool_use"));
        assert_eq!(templates(&["default"]).choose(true), Ok("source of default"));
        let special = templates(&["tool_use", "rag"]);
        assert_eq!(special.choose(true), Ok("source of tool_use"));
        let said = special.choose(false).unwrap_err().to_string();
        assert!(said.contains("by name: \"rag\", \"tool_use\""), "{said}");
        assert_eq!(templates(&[]).choose(true), Err(NoTemplate::None));
    }

    #[test]
    fn a_single_template_has_the_bytes_that_it_always_had() {
        assert_eq!(templates(&[]).to_bytes(), [0]);
        let alone = templates(&["default"]).to_bytes();
        assert_eq!(alone[..5], [1, 17, 0, 0, 0]);
        assert_eq!(&alone[5..], b"source of default");
    }

    #[test]
    fn templates_have_one_encoding() {
        for names in [&[][..], &["default"], &["rag"], &["default", "rag", "tool_use"]] {
            let all = templates(names);
            let bytes = all.to_bytes();
            assert_eq!(ChatTemplates::from_bytes(&bytes), Ok(all));
            for len in 0..bytes.len() {
                assert!(ChatTemplates::from_bytes(&bytes[..len]).is_err(), "{names:?}: {len}");
            }
        }
        let named = |name: &str| Named { name: name.to_owned(), source: String::new() };
        for names in [&[][..], &["b", "a"], &["a", "a"], &["default"], &[""]] {
            let mut bytes = vec![HAS_OTHERS];
            put_list(&mut bytes, &names.iter().map(|name| named(name)).collect::<Vec<_>>());
            assert!(ChatTemplates::from_bytes(&bytes).is_err(), "{names:?}");
        }
        assert!(ChatTemplates::from_bytes(&[4]).is_err());
        let many: Vec<Named> = (10..10 + MAX_TEMPLATES).map(|i| named(&i.to_string())).collect();
        let mut bytes = vec![HAS_OTHERS];
        put_list(&mut bytes, &many);
        assert!(ChatTemplates::from_bytes(&bytes).is_ok());
        let mut bytes = vec![HAS_DEFAULT | HAS_OTHERS, 0, 0, 0, 0];
        put_list(&mut bytes, &many);
        assert!(ChatTemplates::from_bytes(&bytes).is_err(), "one more than the limit");
    }

    #[test]
    fn bounds_are_named() {
        let mut all = templates(&[]);
        let long = "x".repeat(MAX_TEMPLATE_BYTES + 1);
        let error = all.add("a", &long).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the chat template \"a\" has 65537 bytes; the limit is 65536"
        );
        for name in [String::new(), "n".repeat(MAX_TEMPLATE_NAME_BYTES + 1)] {
            assert_eq!(all.add(&name, ""), Err(ChatTemplatesError::Name { got: name.len() }));
        }
        for number in 0..MAX_TEMPLATES {
            all.add(&number.to_string(), "").unwrap();
        }
        assert_eq!(all.add("0", "again"), Ok(()));
        assert_eq!(all.get("0"), Some(""), "the first one stays");
        assert_eq!(all.add("another", ""), Err(ChatTemplatesError::TooMany));
    }
}
