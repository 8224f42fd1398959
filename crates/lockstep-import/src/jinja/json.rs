//! JSON: values of messages and tools come from it, and `tojson` writes it as Python's
//! `json.dumps`. Refused are values that JSON has no words for.

use std::fmt::Write;

use super::arguments::{Args, flag, needed, text};
use super::budget::{Budget, Error, Result};
use super::python::float;
use super::strings::count;
use super::text::{Builder, Origin, Text};
use super::value::{Dict, Value};

/// Returns the value that `json` says, its strings being a user's text.
pub(crate) fn from_json(budget: &Budget, json: &serde_json::Value) -> Result<Value> {
    let _level = budget.deeper()?;
    Ok(match json {
        serde_json::Value::Null => Value::None,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => {
            let whole = number.as_i64().map(i128::from);
            let whole = whole.or_else(|| number.as_u64().map(i128::from));
            match whole {
                Some(whole) => Value::Int(whole),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            }
        }
        serde_json::Value::String(text) => Value::Str(Text::new(budget, text, Origin::User)?),
        serde_json::Value::Array(items) => {
            let items = items.iter().map(|item| from_json(budget, item));
            Value::list(budget, items.collect::<Result<_>>()?)?
        }
        serde_json::Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| {
                let key = Value::Str(Text::new(budget, key, Origin::User)?);
                Ok((key, from_json(budget, value)?))
            });
            Value::dict(budget, entries.collect::<Result<Vec<_>>>()?)?
        }
    })
}

/// The style in which JSON is written.
struct Style {
    ascii: bool,
    sorted: bool,
    /// The text by which each level is indented, if each item stands on a line of its own.
    indent: Option<Text>,
    between: Text,
    colon: Text,
}

/// Evaluates `tojson(value, ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn tojson(budget: &Budget, args: Args) -> Result<Value> {
    let names = ["", "ensure_ascii", "indent", "separators", "sort_keys"];
    let [value, ascii, indent, separators, sorted] = args.bind("tojson", names)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text),
        Some(width) => {
            let mut spaces = Builder::new(budget);
            let width = count(super::arguments::int("tojson", &width)?)?;
            spaces.push_times(&Text::template(budget, " ")?, width)?;
            Some(spaces.finish()?)
        }
    };
    let (between, colon) = match separators {
        None | Some(Value::None) => {
            let between = if indent.is_some() { "," } else { ", " };
            (Text::template(budget, between)?, Text::template(budget, ": ")?)
        }
        Some(separators) => match separators.items(budget)?.as_slice() {
            [between, colon] => (text("tojson", between)?, text("tojson", colon)?),
            _ => return Err(Error::fails("tojson expects two separators")),
        },
    };
    let (ascii, sorted) = (flag(ascii.as_ref(), false), flag(sorted.as_ref(), false));
    let style = Style { ascii, sorted, indent, between, colon };
    let mut out = Builder::new(budget);
    style.write(&mut out, &needed("tojson", value)?, 0)?;
    out.finish().map(Value::Str)
}

impl Style {
    fn write(&self, out: &mut Builder<'_>, value: &Value, level: usize) -> Result<()> {
        out.budget().work(1)?;
        match value {
            Value::None => out.own("null"),
            Value::Bool(value) => out.own(if *value { "true" } else { "false" }),
            Value::Int(value) => out.own(&value.to_string()),
            Value::Float(value) => out.own(&number(*value)),
            Value::Str(text) => self.string(out, text),
            Value::List(items) | Value::Tuple(items) => {
                if items.items.is_empty() {
                    return out.own("[]");
                }
                out.own("[")?;
                for (at, item) in items.items.iter().enumerate() {
                    self.separate(out, at, level + 1)?;
                    self.write(out, item, level + 1)?;
                }
                self.line(out, level)?;
                out.own("]")
            }
            Value::Dict(dict) => self.dict(out, dict, level),
            other => {
                let name = other.type_name();
                let message = format!("Object of type {name} is not JSON serializable");
                Err(Error::fails(message))
            }
        }
    }

    fn dict(&self, out: &mut Builder<'_>, dict: &Dict, level: usize) -> Result<()> {
        if dict.entries.is_empty() {
            return out.own("{}");
        }
        let mut entries: Vec<&(Value, Value)> = dict.entries.iter().collect();
        if self.sorted {
            super::ops::sort_by(out.budget(), &mut entries, false, |(key, _)| key.clone())?;
        }
        out.own("{")?;
        for (at, (key, value)) in entries.into_iter().enumerate() {
            self.separate(out, at, level + 1)?;
            match key {
                Value::Str(text) => self.string(out, text)?,
                Value::None => out.own("\"null\"")?,
                Value::Bool(value) => out.own(if *value { "\"true\"" } else { "\"false\"" })?,
                Value::Int(value) => out.own(&format!("\"{value}\""))?,
                Value::Float(value) => out.own(&format!("\"{}\"", number(*value)))?,
                other => {
                    let name = other.type_name();
                    let what = "keys must be str, int, float, bool or None, not";
                    return Err(Error::fails(format!("{what} {name}")));
                }
            }
            out.push(&self.colon)?;
            self.write(out, value, level + 1)?;
        }
        self.line(out, level)?;
        out.own("}")
    }

    fn separate(&self, out: &mut Builder<'_>, at: usize, level: usize) -> Result<()> {
        if at > 0 {
            out.push(&self.between)?;
        }
        self.line(out, level)
    }

    /// Begins a new line at `level`, if items stand on lines of their own.
    fn line(&self, out: &mut Builder<'_>, level: usize) -> Result<()> {
        match &self.indent {
            None => Ok(()),
            Some(indent) => {
                out.own("\n")?;
                out.push_times(indent, level)
            }
        }
    }

    fn string(&self, out: &mut Builder<'_>, text: &Text) -> Result<()> {
        let mut buffer = String::new();
        out.own("\"")?;
        for (run, origin) in text.runs(0..text.as_str().len()) {
            out.budget().make(run.len())?;
            for letter in run.chars() {
                let code = u32::from(letter);
                let written = match letter {
                    '"' => write!(buffer, "\\\""),
                    '\\' => write!(buffer, "\\\\"),
                    '\n' => write!(buffer, "\\n"),
                    '\r' => write!(buffer, "\\r"),
                    '\t' => write!(buffer, "\\t"),
                    '\u{8}' => write!(buffer, "\\b"),
                    '\u{c}' => write!(buffer, "\\f"),
                    _ if code < 0x20 => write!(buffer, "\\u{code:04x}"),
                    _ if self.ascii && code > 0x7e => letter
                        .encode_utf16(&mut [0; 2])
                        .iter()
                        .try_for_each(|unit| write!(buffer, "\\u{unit:04x}")),
                    _ => write!(buffer, "{letter}"),
                };
                written.map_err(|_| Error::fails("no text"))?;
            }
            out.push_str(&buffer, origin)?;
            buffer.clear();
        }
        out.own("\"")
    }
}

fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    float(value)
}
