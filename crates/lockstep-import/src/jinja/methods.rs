//! The methods of Python's strings, bytes, lists, tuples and dicts.
//!
//! Refused, as Python's immutable sandbox does: methods that change a value.

use std::rc::Rc;

use super::arguments::{self, Args, needed, text, times};
use super::budget::{Budget, Error, Result};
use super::ops::equal;
use super::strings::{byte_of, is_line_end, is_space, places};
use super::text::{Builder, Text};
use super::value::{Dict, ITEM_BYTES, Items, Method, Value, View};

mod cases;
mod padding;
mod splits;

pub(super) use cases::{change as change_case, per_letter};

const OF_STRINGS: [&str; 45] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
/// They are there, and calling them is an error here.
const NOT_HERE: [&str; 2] = ["maketrans", "translate"];
const OF_LISTS: [&str; 10] =
    ["copy", "count", "index", "append", "clear", "extend", "insert", "pop", "remove", "reverse"];
const OF_DICTS: [&str; 10] =
    ["copy", "get", "items", "keys", "values", "clear", "pop", "popitem", "setdefault", "update"];
/// The names of methods that change their object, which the immutable sandbox refuses.
const CHANGING: [&str; 12] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "fromkeys",
];

impl Method {
    /// Returns the method `name` of `value`, if Python's has one.
    pub(super) fn of(value: &Value, name: &str) -> Option<Self> {
        let among = |names: &[&'static str]| names.iter().find(|known| **known == name).copied();
        let found = match value {
            Value::Str(_) => among(&OF_STRINGS).or_else(|| among(&NOT_HERE)),
            Value::Bytes(_) => among(&["decode"]),
            Value::List(_) => among(&OF_LISTS).or_else(|| among(&["sort"])),
            Value::Tuple(_) => among(&["count", "index"]),
            Value::Dict(_) => among(&OF_DICTS).or_else(|| among(&["fromkeys"])),
            _ => None,
        };
        found.map(Self)
    }

    /// Calls the method on `value` with `args`.
    pub(super) fn call(self, budget: &Budget, value: &Value, args: Args) -> Result<Value> {
        let Self(name) = self;
        match value {
            Value::Str(this) => of_text(budget, this, name, args),
            Value::Bytes(this) => {
                args.bind(name, ["encoding", "errors"]).and_then(|bound| utf8(&bound))?;
                Ok(Value::Str(this.clone()))
            }
            _ if CHANGING.contains(&name) => {
                let kind = value.type_name();
                Err(Error::fails(format!("'{name}' would change a {kind}, which is not allowed")))
            }
            Value::Dict(this) => of_dict(budget, this, name, args),
            Value::List(items) | Value::Tuple(items) => of_items(budget, value, items, name, args),
            other => Err(Error::fails(format!("'{}' has no method {name}", other.type_name()))),
        }
    }
}

/// Refuses an encoding other than UTF-8.
fn utf8(bound: &[Option<Value>; 2]) -> Result<()> {
    let [encoding, _] = bound;
    match encoding {
        None => Ok(()),
        Some(encoding) => {
            let encoding = text("encode", encoding)?.as_str().to_ascii_lowercase();
            match encoding.replace('_', "-").as_str() {
                "utf-8" | "utf8" => Ok(()),
                _ => Err(Error::fails(format!("no encoding {encoding:?}: only utf-8"))),
            }
        }
    }
}

fn of_dict(budget: &Budget, this: &Rc<Dict>, name: &str, args: Args) -> Result<Value> {
    let view = |view| Value::View(view, this.clone());
    match name {
        "get" => {
            let [key, default] = args.bind(name, ["", "default"])?;
            let found = this.get(budget, needed(name, key)?.defined()?)?.cloned();
            Ok(found.or(default).unwrap_or(Value::None))
        }
        "keys" => args.none(name).map(|()| view(View::Keys)),
        "values" => args.none(name).map(|()| view(View::Values)),
        "items" => args.none(name).map(|()| view(View::Items)),
        _ => args.none(name).map(|()| Value::Dict(this.clone())),
    }
}

fn of_items(budget: &Budget, value: &Value, this: &Items, name: &str, args: Args) -> Result<Value> {
    match name {
        "count" => {
            let wanted = args.one(name)?;
            let mut count = 0;
            for item in &this.items {
                count += i128::from(equal(budget, item, &wanted)?);
            }
            Ok(Value::Int(count))
        }
        "index" => {
            let [wanted, start, stop] = args.bind(name, ["", "start", "stop"])?;
            let wanted = needed(name, wanted)?;
            let (from, to) = window(name, this.items.len(), start.as_ref(), stop.as_ref())?;
            for (at, item) in this.items.iter().enumerate().take(to).skip(from) {
                if equal(budget, item, &wanted)? {
                    return Ok(Value::Int(at as i128));
                }
            }
            Err(Error::fails("the list holds no such value"))
        }
        _ => args.none(name).map(|()| value.clone()),
    }
}

/// Returns the places from `start` to `stop` among `len`, counted from the end if negative.
fn window(
    callee: &str,
    len: usize,
    start: Option<&Value>,
    stop: Option<&Value>,
) -> Result<(usize, usize)> {
    let place = |value: Option<&Value>, default: usize| match value {
        None | Some(Value::None) => Ok(default),
        Some(value) => {
            let at = arguments::int(callee, value)?;
            let at = if at < 0 { at.saturating_add(len as i128) } else { at };
            Ok::<_, Error>(at.clamp(0, len as i128) as usize)
        }
    };
    Ok((place(start, 0)?, place(stop, len)?))
}

pub(super) fn of_text(budget: &Budget, this: &Text, name: &str, args: Args) -> Result<Value> {
    let takes_none = args.positional.is_empty() && args.named.is_empty();
    if this.is_markup() && !takes_none {
        return Err(Error::fails(format!("{name} with arguments of safe HTML is not supported")));
    }
    if NOT_HERE.contains(&name) {
        return Err(Error::fails(format!("the method {name} is not supported")));
    }
    if cases::changes(name) {
        args.none(name)?;
        return cases::change(budget, this, name).map(Value::Str);
    }
    if cases::asks(name) {
        args.none(name)?;
        budget.read(this.as_str().len())?;
        return cases::ask(this.as_str(), name).map(Value::Bool);
    }
    match name {
        "center" | "ljust" | "rjust" | "zfill" | "expandtabs" => {
            padding::call(budget, this, name, args).map(Value::Str)
        }
        "split" | "rsplit" | "splitlines" | "partition" | "rpartition" => {
            splits::call(budget, this, name, args)
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.bind(name, ["chars"])?;
            strip(budget, this, name, chars.as_ref()).map(Value::Str)
        }
        "startswith" | "endswith" => begins(budget, this, name, args).map(Value::Bool),
        "count" | "find" | "index" | "rfind" | "rindex" => search(budget, this, name, args),
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let old = text(name, &needed(name, old)?)?;
            let new = text(name, &needed(name, new)?)?;
            replace(budget, this, &old, &new, times(name, count.as_ref())?).map(Value::Str)
        }
        "removeprefix" | "removesuffix" => {
            let part = text(name, &args.one(name)?)?;
            let (whole, part) = (this.as_str(), part.as_str());
            let at = match name {
                "removeprefix" if whole.starts_with(part) => part.len()..whole.len(),
                "removesuffix" if whole.ends_with(part) => 0..whole.len() - part.len(),
                _ => 0..whole.len(),
            };
            this.slice(budget, at).map(Value::Str)
        }
        "join" => {
            let items = args.one(name)?.defined()?.items(budget)?;
            join(budget, this, &items).map(Value::Str)
        }
        "encode" => {
            args.bind(name, ["encoding", "errors"]).and_then(|bound| utf8(&bound))?;
            Ok(Value::Bytes(this.clone()))
        }
        "format" => super::format::format(budget, this, &args).map(Value::Str),
        _ => {
            let Value::Dict(values) = args.one(name)? else {
                return Err(Error::fails("format_map expects a dict"));
            };
            let named = values
                .entries
                .iter()
                .map(|(key, value)| Ok((text(name, key)?.as_str().into(), value.clone())));
            let args = Args { positional: Vec::new(), named: named.collect::<Result<_>>()? };
            super::format::format(budget, this, &args).map(Value::Str)
        }
    }
}

/// Evaluates `strip`, `lstrip` and `rstrip`, which remove `chars` from the ends; white space if
/// there are none.
pub(super) fn strip(
    budget: &Budget,
    this: &Text,
    name: &str,
    chars: Option<&Value>,
) -> Result<Text> {
    let whole = this.as_str();
    let chars = match chars {
        None | Some(Value::None) => None,
        Some(chars) => Some(text(name, chars)?),
    };
    let chars = chars.as_ref().map(Text::as_str);
    let steps = chars.map_or(1, |chars| 1 + chars.len() / 8);
    budget.work((whole.len() / 64).saturating_mul(steps))?;
    let stripped = |letter: char| match chars {
        None => is_space(letter),
        Some(chars) => chars.contains(letter),
    };
    let start = match name {
        "rstrip" => 0,
        _ => whole.len() - whole.trim_start_matches(stripped).len(),
    };
    let rest = whole.get(start..).unwrap_or_default();
    let end = match name {
        "lstrip" => whole.len(),
        _ => start + rest.trim_end_matches(stripped).len(),
    };
    this.slice(budget, start..end)
}

/// Evaluates `startswith` and `endswith`, also with a tuple of texts.
fn begins(budget: &Budget, this: &Text, name: &str, args: Args) -> Result<bool> {
    let [wanted, start, stop] = args.bind(name, ["", "start", "end"])?;
    let wanted = needed(name, wanted)?;
    let Some((whole, _)) = part_of(budget, this, name, start.as_ref(), stop.as_ref())? else {
        return Ok(false);
    };
    let wanted = match &wanted {
        Value::Tuple(items) => items.items.clone(),
        other => vec![other.clone()],
    };
    for part in &wanted {
        let part = text(name, part)?;
        budget.read(part.as_str().len())?;
        let found = match name {
            "startswith" => whole.starts_with(part.as_str()),
            _ => whole.ends_with(part.as_str()),
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the part of `this` between two places in characters, and where its bytes begin.
fn part_of<'t>(
    budget: &Budget,
    this: &'t Text,
    name: &str,
    start: Option<&Value>,
    stop: Option<&Value>,
) -> Result<Option<(&'t str, usize)>> {
    let whole = this.as_str();
    if start.is_none() && stop.is_none() {
        return Ok(Some((whole, 0)));
    }
    budget.read(whole.len())?;
    let chars = this.chars();
    if let Some(Value::Int(start)) = start
        && *start > chars as i128
    {
        return Ok(None);
    }
    let (from, to) = window(name, chars, start, stop)?;
    let from = byte_of(whole, from);
    Ok(whole.get(from..byte_of(whole, to)).map(|part| (part, from)))
}

/// Evaluates `count`, `find`, `index`, `rfind` and `rindex`.
fn search(budget: &Budget, this: &Text, name: &str, args: Args) -> Result<Value> {
    let [part, start, stop] = args.bind(name, ["", "start", "end"])?;
    let part = text(name, &needed(name, part)?)?;
    let window = part_of(budget, this, name, start.as_ref(), stop.as_ref())?;
    let part = part.as_str();
    budget.read(this.as_str().len())?;
    if name == "count" {
        let count = window.map_or(0, |(window, _)| window.matches(part).count());
        return Ok(Value::Int(count as i128));
    }
    let found = window.and_then(|(window, from)| {
        let at = if name.starts_with('r') { window.rfind(part) } else { window.find(part) }?;
        Some(this.as_str().get(..from + at)?.chars().count() as i128)
    });
    match found {
        Some(at) => Ok(Value::Int(at)),
        None if name.ends_with("index") => Err(Error::fails("substring not found")),
        None => Ok(Value::Int(-1)),
    }
}

/// Returns `this` with `new` in place of each of the earliest `times` places of `old`.
pub(super) fn replace(
    budget: &Budget,
    this: &Text,
    old: &Text,
    new: &Text,
    times: usize,
) -> Result<Text> {
    let whole = this.as_str();
    let mut out = Builder::new(budget);
    let mut rest = 0;
    for at in places(budget, whole, old.as_str())?.into_iter().take(times) {
        out.push_slice(this, rest..at)?;
        out.push(new)?;
        budget.work(1)?;
        rest = at + old.as_str().len();
    }
    out.push_slice(this, rest..whole.len())?;
    out.finish_like(this)
}

/// Joins `items`, which must be strings, with `separator` between them.
fn join(budget: &Budget, separator: &Text, items: &[Value]) -> Result<Text> {
    let mut out = Builder::new(budget);
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(separator)?;
        }
        match item {
            Value::Str(text) => out.push(text)?,
            other => {
                let name = other.type_name();
                let message = format!("sequence item {at}: expected str instance, {name} found");
                return Err(Error::fails(message));
            }
        }
        budget.work(1)?;
    }
    out.finish_like(separator)
}

/// Returns a list of parts of `this`.
fn parts_of(
    budget: &Budget,
    this: &Text,
    parts: impl IntoIterator<Item = std::ops::Range<usize>>,
) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for part in parts {
        budget.make(ITEM_BYTES)?;
        found.push(Value::Str(this.slice(budget, part)?));
    }
    Ok(found)
}

/// Returns the end of the line break at `at`, which may be of two characters.
pub(super) fn behind_line_end(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    if rest.starts_with("\r\n") {
        return at + 2;
    }
    at + rest.chars().next().filter(|letter| is_line_end(*letter)).map_or(0, char::len_utf8)
}
