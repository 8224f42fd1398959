//! Jinja templates as Python's jinja2 renders them, within limits, and with a record of who wrote
//! what.
//!
//! The language is that of `ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)`
//! with loop controls, as the transformers library sets it up for chat templates. What is missing
//! is an error, never another text. Everything is computed within a [`Budget`], and every string
//! knows which of its bytes a user wrote.

mod arguments;
mod ast;
mod budget;
mod closures;
mod filter_names;
mod filters;
mod format;
mod json;
mod lexer;
mod lookup;
mod machine;
mod methods;
mod ops;
mod parser;
mod percent;
mod predicates;
mod python;
mod spec;
mod strings;
mod text;
mod value;

pub(crate) use budget::{Budget, Error, Fault, Result};
pub(crate) use json::from_json;
pub(crate) use text::{Origin, Text};
pub(crate) use value::Value;

use crate::date::Date;

/// Renders the template `source` with `variables`, on the day `date`, and returns the text.
pub(crate) fn render(
    budget: &Budget,
    source: &str,
    date: Date,
    variables: Vec<(&str, Value)>,
) -> Result<Text> {
    let body = parser::parse(budget, source)?;
    machine::Machine::new(budget, date).render(&body, variables)
}

impl Value {
    /// Creates a list with these `items`.
    pub(crate) fn list_of(budget: &Budget, items: Vec<Self>) -> Result<Self> {
        Self::list(budget, items)
    }

    /// Creates a dict with these `entries`.
    pub(crate) fn dict_of(budget: &Budget, entries: Vec<(Self, Self)>) -> Result<Self> {
        Self::dict(budget, entries)
    }

    /// Creates a string that is all of one origin.
    pub(crate) fn text_of(budget: &Budget, text: &str, origin: Origin) -> Result<Self> {
        Text::new(budget, text, origin).map(Self::Str)
    }
}
