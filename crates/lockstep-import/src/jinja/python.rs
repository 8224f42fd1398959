//! Values as Python's `str` and `repr` write them.

use std::fmt::Write;

use super::budget::{Budget, Error, Result};
use super::strings::is_printable;
use super::text::{Builder, Text};
use super::value::{Function, Value, View};

/// Writes `value` as Python's `str` does.
pub(super) fn write_str(out: &mut Builder<'_>, value: &Value) -> Result<()> {
    match value {
        Value::Undefined(_) => Ok(()),
        Value::Str(text) => out.push(text),
        other => write_repr(out, other),
    }
}

impl Value {
    /// Returns the value as text: a string itself, everything else as Python's `str` writes it.
    pub(super) fn to_text(&self, budget: &Budget) -> Result<Text> {
        match self {
            Self::Str(text) => Ok(text.clone()),
            other => {
                let mut out = Builder::new(budget);
                write_str(&mut out, other)?;
                out.finish()
            }
        }
    }
}

/// Writes `value` as Python's `repr` does.
pub(super) fn write_repr(out: &mut Builder<'_>, value: &Value) -> Result<()> {
    out.budget().work(1)?;
    match value {
        Value::Undefined(_) => out.own("Undefined"),
        Value::None => out.own("None"),
        Value::Bool(value) => out.own(if *value { "True" } else { "False" }),
        Value::Int(value) => out.own(&value.to_string()),
        Value::Float(value) => out.own(&float(*value)),
        Value::Str(text) if text.is_markup() => {
            out.own("Markup(")?;
            write_quoted(out, text, false)?;
            out.own(")")
        }
        Value::Str(text) => write_quoted(out, text, false),
        Value::Bytes(text) => write_bytes(out, text),
        Value::List(items) => write_items(out, "[", &items.items, "]"),
        Value::Tuple(items) => {
            let end = if items.items.len() == 1 { ",)" } else { ")" };
            write_items(out, "(", &items.items, end)
        }
        Value::Dict(dict) => write_entries(out, &dict.entries),
        Value::Range(range) => {
            out.own(&format!("range({}, {}", range.start, range.stop))?;
            if range.step != 1 {
                out.own(&format!(", {}", range.step))?;
            }
            out.own(")")
        }
        Value::View(view, _) => {
            let items = value.items(out.budget())?;
            let name = match view {
                View::Keys => "dict_keys([",
                View::Values => "dict_values([",
                View::Items => "dict_items([",
            };
            write_items(out, name, &items, "])")
        }
        Value::Namespace(_) | Value::Iterator(_) | Value::Callable(_) | Value::Loop(_) => {
            let name = value.type_name();
            Err(Error::fails(format!("a {name} has no text that means anything here")))
        }
    }
}

fn write_items(out: &mut Builder<'_>, begin: &str, items: &[Value], end: &str) -> Result<()> {
    out.own(begin)?;
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.own(", ")?;
        }
        write_repr(out, item)?;
    }
    out.own(end)
}

fn write_entries(out: &mut Builder<'_>, entries: &[(Value, Value)]) -> Result<()> {
    out.own("{")?;
    for (at, (key, value)) in entries.iter().enumerate() {
        if at > 0 {
            out.own(", ")?;
        }
        write_repr(out, key)?;
        out.own(": ")?;
        write_repr(out, value)?;
    }
    out.own("}")
}

/// Writes a string in quotes, with escapes; if `ascii`, everything that is not ASCII is escaped
/// too.
pub(super) fn write_quoted(out: &mut Builder<'_>, text: &Text, ascii: bool) -> Result<()> {
    let plain = text.as_str();
    let quote = if plain.contains('\'') && !plain.contains('"') { '"' } else { '\'' };
    let mut buffer = String::new();
    out.own(if quote == '"' { "\"" } else { "'" })?;
    for (run, origin) in text.runs(0..plain.len()) {
        for letter in run.chars() {
            let code = u32::from(letter);
            let shown = is_printable(letter) && (!ascii || letter.is_ascii());
            let written = match letter {
                '\n' => write!(buffer, "\\n"),
                '\r' => write!(buffer, "\\r"),
                '\t' => write!(buffer, "\\t"),
                '\\' => write!(buffer, "\\\\"),
                _ if letter == quote => write!(buffer, "\\{letter}"),
                _ if shown => write!(buffer, "{letter}"),
                _ if code < 0x100 => write!(buffer, "\\x{code:02x}"),
                _ if code < 0x1_0000 => write!(buffer, "\\u{code:04x}"),
                _ => write!(buffer, "\\U{code:08x}"),
            };
            written.map_err(|_| Error::fails("no text"))?;
            out.push_str(&buffer, origin)?;
            buffer.clear();
        }
    }
    out.own(if quote == '"' { "\"" } else { "'" })
}

fn write_bytes(out: &mut Builder<'_>, text: &Text) -> Result<()> {
    let plain = text.as_str();
    let quote = if plain.contains('\'') && !plain.contains('"') { "\"" } else { "'" };
    out.own("b")?;
    out.own(quote)?;
    for (run, origin) in text.runs(0..plain.len()) {
        for byte in run.bytes() {
            let letter = char::from(byte);
            let escaped = match byte {
                b'\n' => "\\n".to_owned(),
                b'\r' => "\\r".to_owned(),
                b'\t' => "\\t".to_owned(),
                b'\\' => "\\\\".to_owned(),
                b' '..=b'~' if quote.starts_with(letter) => format!("\\{letter}"),
                b' '..=b'~' => letter.to_string(),
                _ => format!("\\x{byte:02x}"),
            };
            out.push_str(&escaped, origin)?;
        }
    }
    out.own(quote)
}

/// Returns a number as `repr` writes it: the shortest digits that say it.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let (digits, exponent) = shortest(value);
    if (-4..16).contains(&exponent) {
        let text = format!("{value}");
        return if text.contains('.') { text } else { text + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// Returns the shortest digits of a number, with its sign and point, and its decimal exponent.
fn shortest(value: f64) -> (String, i32) {
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (digits.to_owned(), exponent.parse().unwrap_or_default())
}

/// Parses an integer as Python's `int(text, base)` does; `None` if `text` is none.
pub(super) fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(super::strings::is_space);
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let prefix = |radix: u32| match radix {
        16 => Some(["0x", "0X"]),
        8 => Some(["0o", "0O"]),
        2 => Some(["0b", "0B"]),
        _ => None,
    };
    let mut found = (base, digits, false);
    for radix in [16, 8, 2] {
        if base != 0 && base != radix {
            continue;
        }
        let stripped = prefix(radix).into_iter().flatten().find_map(|p| digits.strip_prefix(p));
        if let Some(rest) = stripped {
            found = (radix, rest, true);
        }
    }
    let (radix, digits, prefixed) = found;
    let radix = if radix == 0 { 10 } else { radix };
    let digits = if prefixed { digits.strip_prefix('_').unwrap_or(digits) } else { digits };
    let underscored = digits.starts_with('_') || digits.ends_with('_') || digits.contains("__");
    if underscored || digits.starts_with(['+', '-']) {
        return None;
    }
    if base == 0 && !prefixed && digits.len() > 1 && digits.starts_with('0') {
        return digits.bytes().all(|b| b == b'0' || b == b'_').then_some(0);
    }
    let number = i128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    Some(if negative { -number } else { number })
}

/// Parses a float as Python's `float(text)` does; `None` if `text` is none.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(super::strings::is_space);
    let inner = |at: usize| {
        let byte = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
        at > 0 && byte(at - 1) && byte(at + 1)
    };
    if text.match_indices('_').any(|(at, _)| !inner(at)) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// Returns the function a name stands for in every template.
pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "cycler" => Function::Cycler,
        "dict" => Function::Dict,
        "joiner" => Function::Joiner,
        "lipsum" => Function::Lipsum,
        "namespace" => Function::Namespace,
        "raise_exception" => Function::RaiseException,
        "range" => Function::Range,
        "strftime_now" => Function::StrftimeNow,
        _ => return None,
    })
}
