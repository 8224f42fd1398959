//! `str.format`: fields in braces.

use super::arguments::Args;
use super::budget::{Budget, Error, Result};
use super::lookup::{attribute, item};
use super::python::{write_quoted, write_repr, write_str};
use super::spec::Spec;
use super::text::{Builder, Text};
use super::value::Value;

/// The depth to which fields may stand in the specification of other fields.
const MAX_FIELDS_DEPTH: u32 = 2;

/// Evaluates `format.format(*args)`.
pub(super) fn format(budget: &Budget, format: &Text, args: &Args) -> Result<Text> {
    let mut out = Builder::new(budget);
    Fields { args, next: Some(0) }.write(&mut out, format, 0)?;
    out.finish_like(format)
}

struct Fields<'a> {
    args: &'a Args,
    /// The place of the next field without a name; `None` once a number was written.
    next: Option<usize>,
}

impl Fields<'_> {
    /// Writes `format` with its fields filled in.
    fn write(&mut self, out: &mut Builder<'_>, format: &Text, depth: u32) -> Result<()> {
        if depth >= MAX_FIELDS_DEPTH {
            return Err(Error::fails("Max string recursion exceeded"));
        }
        let text = format.as_str();
        let mut at = 0;
        while let Some(found) = text.get(at..).and_then(|rest| rest.find(['{', '}'])) {
            let mark = at + found;
            out.push_slice(format, at..mark)?;
            let rest = text.get(mark..).unwrap_or_default();
            if rest.starts_with("{{") || rest.starts_with("}}") {
                out.push_slice(format, mark..mark + 1)?;
                at = mark + 2;
                continue;
            }
            if rest.starts_with('}') {
                return Err(Error::fails("Single '}' encountered in format string"));
            }
            let len = field_len(rest)?;
            let budget = out.budget();
            let field = format.slice(budget, mark + 1..mark + len - 1)?;
            self.field(out, &field, depth)?;
            budget.work(1)?;
            at = mark + len;
        }
        out.push_slice(format, at..text.len())
    }

    /// Writes one field, given without its braces.
    fn field(&mut self, out: &mut Builder<'_>, field: &Text, depth: u32) -> Result<()> {
        let budget = out.budget();
        let text = field.as_str();
        let name_end = name_end(text);
        let name = text.get(..name_end).unwrap_or_default();
        let mut rest = text.get(name_end..).unwrap_or_default();
        let mut conversion = None;
        if let Some(after) = rest.strip_prefix('!') {
            conversion = after.chars().next();
            rest = after.get(conversion.map_or(0, char::len_utf8)..).unwrap_or_default();
        }
        let value = self.value(budget, name)?;
        let value = match conversion {
            None => value,
            Some(conversion) => converted(budget, &value, conversion)?,
        };
        let spec = match rest.strip_prefix(':') {
            None if rest.is_empty() => String::new(),
            None => return Err(Error::fails("expected ':' after conversion specifier")),
            Some(_) => {
                let start = text.len() - rest.len() + 1;
                let mut inner = Builder::new(budget);
                self.write(&mut inner, &field.slice(budget, start..text.len())?, depth + 1)?;
                inner.finish()?.as_str().to_owned()
            }
        };
        match value {
            Value::Undefined(_) if !spec.is_empty() => value.defined().map(|_| ()),
            value => Spec::parse(&spec)?.write(out, &value),
        }
    }

    /// Returns the value that the name of a field stands for.
    fn value(&mut self, budget: &Budget, name: &str) -> Result<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at_checked(end).unwrap_or((name, ""));
        let mut value = self.argument(first)?;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                value = attribute(budget, &value, after.get(..end).unwrap_or_default())?;
                rest = after.get(end..).unwrap_or_default();
            } else {
                let after = rest.strip_prefix('[').unwrap_or_default();
                let (index, behind) = after
                    .split_once(']')
                    .ok_or_else(|| Error::fails("Missing ']' in format string"))?;
                let index = match index.parse::<i128>() {
                    Ok(number) => Value::Int(number),
                    Err(_) => Value::text(budget, index)?,
                };
                value = item(budget, &value, &index)?;
                rest = behind;
            }
            value.defined()?;
        }
        Ok(value)
    }

    fn argument(&mut self, name: &str) -> Result<Value> {
        let missing = |name: &str| Error::fails(format!("format has no argument {name:?}"));
        let number = match (name.is_empty(), self.next) {
            (true, Some(next)) => {
                self.next = Some(next + 1);
                Some(next)
            }
            (true, None) => {
                return Err(Error::fails(
                    "cannot switch from manual field specification to automatic field numbering",
                ));
            }
            _ => name.parse().ok(),
        };
        let Some(number) = number else {
            let found = self.args.named.iter().find(|(known, _)| **known == *name);
            return found.map(|(_, value)| value.clone()).ok_or_else(|| missing(name));
        };
        if !name.is_empty() {
            if self.next.is_some_and(|next| next > 0) {
                return Err(Error::fails(
                    "cannot switch from automatic field numbering to manual field specification",
                ));
            }
            self.next = None;
        }
        self.args.positional.get(number).cloned().ok_or_else(|| missing(&number.to_string()))
    }
}

/// Returns where the name of a field ends: at `!` or `:` outside of brackets.
fn name_end(text: &str) -> usize {
    let mut inside = false;
    let end = text.char_indices().find(|(_, letter)| {
        match letter {
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
        matches!(letter, '!' | ':') && !inside
    });
    end.map_or(text.len(), |(at, _)| at)
}

/// Returns the length of the field that `rest` begins with, braces included.
fn field_len(rest: &str) -> Result<usize> {
    let mut open = 0_u32;
    for (at, letter) in rest.char_indices() {
        match letter {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Ok(at + 1);
        }
    }
    Err(Error::fails("expected '}' before end of string"))
}

/// Applies a conversion: `!r`, `!s` or `!a`.
fn converted(budget: &Budget, value: &Value, conversion: char) -> Result<Value> {
    let mut out = Builder::new(budget);
    match (conversion, value) {
        ('s', value) => write_str(&mut out, value)?,
        ('r', value) => write_repr(&mut out, value)?,
        ('a', Value::Str(text)) => write_quoted(&mut out, text, true)?,
        ('a', Value::Int(_) | Value::Float(_) | Value::Bool(_) | Value::None) => {
            write_repr(&mut out, value)?;
        }
        _ => return Err(Error::fails(format!("the conversion !{conversion} is not supported"))),
    }
    out.finish().map(Value::Str)
}
