//! `format % values`, as Python's strings do it.

use super::arguments::int;
use super::budget::{Budget, Error, Result};
use super::python::{write_quoted, write_repr, write_str};
use super::spec::Spec;
use super::strings::count;
use super::text::{Builder, Text};
use super::value::Value;

const TOO_FEW: &str = "not enough arguments for format string";

/// The values that fill the places of a format.
struct Values<'a> {
    whole: &'a Value,
    items: &'a [Value],
    used: usize,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value> {
        let item = self.items.get(self.used).cloned();
        self.used += 1;
        item.ok_or_else(|| Error::fails(TOO_FEW))
    }
}

/// Evaluates `format % values`.
pub(super) fn format(budget: &Budget, format: &Text, values: &Value) -> Result<Text> {
    if format.is_markup() {
        return Err(Error::fails("% with safe HTML is not supported"));
    }
    let items = match values {
        Value::Tuple(items) => items.items.as_slice(),
        other => std::slice::from_ref(other),
    };
    let mut values = Values { whole: values, items, used: 0 };
    let mut out = Builder::new(budget);
    let text = format.as_str();
    let (mut at, mut named) = (0, false);
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('%')) {
        let mark = at + found;
        out.push_slice(format, at..mark)?;
        budget.work(1)?;
        let mut place = Place { rest: text.get(mark + 1..).unwrap_or_default() };
        named |= place.rest.starts_with('(');
        place.write(&mut out, &mut values)?;
        at = text.len() - place.rest.len();
    }
    out.push_slice(format, at..text.len())?;
    let is_mapping = matches!(values.whole, Value::Dict(_) | Value::List(_));
    if values.used < values.items.len() && !is_mapping && !named {
        return Err(Error::fails("not all arguments converted during string formatting"));
    }
    out.finish()
}

/// A place of a format: what follows a `%`.
struct Place<'t> {
    rest: &'t str,
}

impl Place<'_> {
    fn take(&mut self) -> Option<char> {
        let letter = self.rest.chars().next()?;
        self.rest = self.rest.get(letter.len_utf8()..).unwrap_or_default();
        Some(letter)
    }

    /// Writes the value of this place and moves behind it.
    fn write(&mut self, out: &mut Builder<'_>, values: &mut Values<'_>) -> Result<()> {
        let budget = out.budget();
        let key = match self.rest.strip_prefix('(') {
            None => None,
            Some(rest) => {
                let (key, rest) =
                    rest.split_once(')').ok_or_else(|| Error::fails("incomplete format key"))?;
                self.rest = rest;
                let Value::Dict(dict) = values.whole else {
                    return Err(Error::fails("format requires a mapping"));
                };
                let found = dict.named(budget, key)?.cloned();
                Some(found.ok_or_else(|| Error::fails(format!("no key {key:?} to format")))?)
            }
        };
        let mut spec = Spec { align: Some('>'), ..Spec::default() };
        let mut left = false;
        while let Some(flag) = self.rest.chars().next().filter(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => left = true,
                '0' => (spec.fill, spec.align) = (Some('0'), Some('=')),
                '#' => spec.alternate = true,
                '+' => spec.sign = Some('+'),
                _ => {
                    spec.sign.get_or_insert(' ');
                }
            }
            self.take();
        }
        if let Some(width) = self.number(values)? {
            left |= width < 0;
            spec.width = count(width.saturating_abs())?;
        }
        if left {
            (spec.fill, spec.align) = (None, Some('<'));
        }
        if self.rest.starts_with('.') {
            self.take();
            spec.precision = Some(count(self.number(values)?.unwrap_or_default())?);
        }
        if self.rest.starts_with(['h', 'l', 'L']) {
            self.take();
        }
        let kind = self.take().ok_or_else(|| Error::fails("incomplete format"))?;
        if kind == '%' {
            return out.own("%");
        }
        let value = match key {
            Some(value) => value,
            None => values.next()?,
        };
        write_kind(out, &value, kind, spec)
    }

    /// Returns a width or precision: digits, or `*` for the next value.
    fn number(&mut self, values: &mut Values<'_>) -> Result<Option<i128>> {
        if self.rest.starts_with('*') {
            self.take();
            return int("%", &values.next()?).map(Some);
        }
        let end = self.rest.find(|letter: char| !letter.is_ascii_digit());
        let (digits, rest) =
            self.rest.split_at_checked(end.unwrap_or(self.rest.len())).unwrap_or_default();
        self.rest = rest;
        if digits.is_empty() {
            return Ok(None);
        }
        digits.parse().map(Some).map_err(|_| Error::fails("width too big"))
    }
}

fn write_kind(out: &mut Builder<'_>, value: &Value, kind: char, mut spec: Spec) -> Result<()> {
    let budget = out.budget();
    let as_text =
        |write: &dyn Fn(&mut Builder<'_>) -> Result<()>, spec: &Spec, out: &mut Builder<'_>| {
            let mut text = Builder::new(budget);
            write(&mut text)?;
            let align = if spec.align == Some('<') { '<' } else { '>' };
            let plain = Spec {
                align: Some(align),
                width: spec.width,
                precision: spec.precision,
                ..Spec::default()
            };
            plain.write(out, &Value::Str(text.finish()?))
        };
    match (kind, value) {
        ('s', value) => as_text(&|text| write_str(text, value), &spec, out),
        ('r', value) => as_text(&|text| write_repr(text, value), &spec, out),
        ('a', Value::Str(quoted)) => as_text(&|text| write_quoted(text, quoted, true), &spec, out),
        ('c', Value::Str(letter)) if letter.chars() == 1 => {
            as_text(&|text| text.push(letter), &spec, out)
        }
        ('d' | 'i' | 'u', Value::Int(_) | Value::Float(_) | Value::Bool(_)) => {
            let number = match value {
                Value::Float(number) => float_to_int(*number)?,
                other => int("%", other)?,
            };
            let digits = spec.precision.take().unwrap_or_default();
            if digits > number.unsigned_abs().to_string().len() {
                return Err(Error::fails("a precision of an integer is not supported"));
            }
            spec.kind = Some('d');
            spec.write(out, &Value::Int(number))
        }
        ('x' | 'X' | 'o' | 'c', Value::Int(_) | Value::Bool(_)) if spec.precision.is_none() => {
            spec.kind = Some(kind);
            spec.write(out, &Value::Int(int("%", value)?))
        }
        ('e' | 'E' | 'f' | 'F' | 'g' | 'G', Value::Int(_) | Value::Float(_) | Value::Bool(_)) => {
            spec.kind = Some(kind);
            match value {
                Value::Bool(flag) => spec.write(out, &Value::Int(i128::from(*flag))),
                value => spec.write(out, value),
            }
        }
        _ => {
            value.defined()?;
            let name = value.type_name();
            Err(Error::fails(format!("%{kind} format: not possible for {name}")))
        }
    }
}

/// Returns the whole part of a number; an error for NaN and from 10^38 on.
pub(super) fn float_to_int(number: f64) -> Result<i128> {
    if number.is_nan() {
        return Err(Error::fails("cannot convert float NaN to integer"));
    }
    if number.abs() >= 1.0e38 {
        return Err(Error::fails("the float is too large for an integer"));
    }
    Ok(number as i128)
}
