//! The filters of Jinja2, but for those that need the world or a browser.
//!
//! Refused: `random`, whose result no prompt should depend on, and `urlize`.

use super::arguments::{Args, flag, int, length, needed, text, text_or, times};
use super::budget::{Budget, Error, Result};
use super::methods;
use super::text::{Builder, Text, escape};
use super::value::Value;

mod lists;
mod numbers;
mod paragraphs;
mod sequences;

/// Evaluates `value | name(args)`.
pub(super) fn apply(budget: &Budget, name: &str, value: Value, args: Args) -> Result<Value> {
    match name {
        "abs" | "filesizeformat" | "float" | "int" | "round" | "sum" => {
            numbers::apply(budget, name, &value, args)
        }
        "batch" | "count" | "dictsort" | "groupby" | "items" | "length" | "list" | "max"
        | "min" | "slice" | "sort" | "unique" => lists::apply(budget, name, &value, args),
        "attr" | "first" | "join" | "last" | "map" | "reject" | "rejectattr" | "reverse"
        | "select" | "selectattr" => sequences::apply(budget, name, &value, args),
        "capitalize" | "lower" | "title" | "upper" => {
            args.none(name)?;
            letters(budget, name, &value.to_text(budget)?).map(Value::Str)
        }
        "indent" | "striptags" | "truncate" | "urlencode" | "wordcount" | "wordwrap"
        | "xmlattr" => paragraphs::apply(budget, name, &value, args),
        "d" | "default" => {
            let [default, also_false] = args.bind(name, ["default_value", "boolean"])?;
            let missing = match &value {
                Value::Undefined(_) => true,
                value => flag(also_false.as_ref(), false) && !value.is_true(),
            };
            match (missing, default) {
                (false, _) => Ok(value),
                (true, Some(default)) => Ok(default),
                (true, None) => Value::text(budget, ""),
            }
        }
        "tojson" => {
            let positional = [vec![value], args.positional].concat();
            super::json::tojson(budget, Args { positional, named: args.named })
        }
        "center" | "format" | "replace" | "string" | "trim" => strings(budget, name, &value, args),
        "e" | "escape" | "forceescape" | "safe" => {
            args.none(name)?;
            html(budget, name, &value).map(Value::Str)
        }
        "pprint" => {
            args.none(name)?;
            pprint(budget, &value)
        }
        "random" | "urlize" => Err(Error::fails(format!("the filter {name} is not supported"))),
        _ => Err(Error::fails(format!("there is no filter {name:?}"))),
    }
}

fn letters(budget: &Budget, name: &str, this: &Text) -> Result<Text> {
    if name != "title" {
        return methods::change_case(budget, this, name);
    }
    // Unlike the method, words begin behind these only.
    let mut first = true;
    let starts =
        |letter: char| letter == '-' || super::strings::is_space(letter) || "([{<".contains(letter);
    methods::per_letter(budget, this, |letter| {
        let upper = std::mem::replace(&mut first, starts(letter));
        if upper { letter.to_uppercase().collect() } else { letter.to_lowercase().collect() }
    })
}

fn strings(budget: &Budget, name: &str, value: &Value, args: Args) -> Result<Value> {
    let this = value.to_text(budget)?;
    match name {
        "string" => {
            args.none(name)?;
            Ok(Value::Str(this))
        }
        "trim" => {
            let [chars] = args.bind(name, ["chars"])?;
            methods::strip(budget, &this, "strip", chars.as_ref()).map(Value::Str)
        }
        "center" => {
            let [width] = args.bind(name, ["width"])?;
            let width = length(name, width.as_ref(), 80)?;
            let args = Args { positional: vec![Value::Int(width as i128)], named: Vec::new() };
            methods::of_text(budget, &this, name, args)
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let old = needed(name, old)?.to_text(budget)?;
            let new = needed(name, new)?.to_text(budget)?;
            let count = count.filter(|count| !matches!(count, Value::None));
            let plain = this.with_markup(budget, false)?;
            let count = times(name, count.as_ref())?;
            methods::replace(budget, &plain, &old, &new, count).map(Value::Str)
        }
        _ => {
            if !args.positional.is_empty() && !args.named.is_empty() {
                return Err(Error::fails("format takes values with or without names, not both"));
            }
            let values = if args.named.is_empty() {
                Value::tuple(budget, args.positional)?
            } else {
                let named = args.named.into_iter();
                let named = named.map(|(name, value)| Ok((Value::text(budget, &name)?, value)));
                Value::dict(budget, named.collect::<Result<Vec<_>>>()?)?
            };
            super::percent::format(budget, &this, &values).map(Value::Str)
        }
    }
}

fn html(budget: &Budget, name: &str, value: &Value) -> Result<Text> {
    let this = value.to_text(budget)?;
    let done = name == "safe" || (this.is_markup() && name != "forceescape");
    if done {
        return this.with_markup(budget, true);
    }
    let mut out = Builder::new(budget);
    escape(&mut out, &this)?;
    out.finish()?.with_markup(budget, true)
}

/// Returns the text that Python's `pprint` writes, on one line.
fn pprint(budget: &Budget, value: &Value) -> Result<Value> {
    const LINE: usize = 80;
    let mut out = Builder::new(budget);
    super::python::write_repr(&mut out, value)?;
    let text = out.finish()?;
    let sorted = !matches!(value, Value::Dict(_)) && !text.as_str().contains('{');
    if text.chars() >= LINE || !sorted {
        return Err(Error::fails("pprint of dicts, or of more than a line, is not supported"));
    }
    Ok(Value::Str(text))
}

/// Returns the parts between the dots of an argument that names an attribute.
fn attribute_path(callee: &str, value: &Value) -> Result<Vec<Value>> {
    match value {
        Value::Int(_) => Ok(vec![value.clone()]),
        _ => Ok(vec![Value::Str(text(callee, value)?)]),
    }
}

/// Returns the attribute of an item under a dotted name, or the item itself without a name.
fn attribute_of(
    budget: &Budget,
    callee: &str,
    item: &Value,
    attribute: Option<&Value>,
    default: Option<&Value>,
) -> Result<Value> {
    let Some(attribute) = attribute.filter(|attribute| !matches!(attribute, Value::None)) else {
        return Ok(item.clone());
    };
    let mut found = item.clone();
    for path in attribute_path(callee, attribute)? {
        let Value::Str(path) = &path else {
            return super::lookup::item(budget, &found, &path);
        };
        for part in path.as_str().split('.') {
            let part = match part.parse::<i128>() {
                Ok(number) if part.bytes().all(|byte| byte.is_ascii_digit()) => Value::Int(number),
                _ => Value::text(budget, part)?,
            };
            found = super::lookup::item(budget, &found, &part)?;
            if let (Value::Undefined(_), Some(default)) = (&found, default) {
                found = default.clone();
            }
        }
    }
    Ok(found)
}

/// Returns `value` as a filter compares it: a text in lower case, unless the filter is told to be
/// case-sensitive.
fn without_case(budget: &Budget, value: &Value, case_sensitive: bool) -> Result<Value> {
    match value {
        Value::Str(text) if !case_sensitive => {
            methods::change_case(budget, text, "lower").map(Value::Str)
        }
        value => Ok(value.clone()),
    }
}

/// Returns an integer argument with a default, as a text or number.
fn int_or(callee: &str, value: Option<&Value>, default: i128) -> Result<i128> {
    value.map_or(Ok(default), |value| int(callee, value))
}

/// Returns a text argument with a default.
fn text_arg(budget: &Budget, callee: &str, value: Option<&Value>, default: &str) -> Result<Text> {
    text_or(budget, callee, value, default)
}
