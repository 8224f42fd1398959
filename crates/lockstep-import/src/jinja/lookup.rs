//! Attributes, items and slices of values.

use super::budget::{Budget, Error, Result};
use super::strings::byte_of;
use super::text::{Builder, Text};
use super::value::{Callable, ITEM_BYTES, Loop, Method, Value};
use std::rc::Rc;

/// Evaluates `value.name`: an attribute, or else an item.
pub(super) fn attribute(budget: &Budget, value: &Value, name: &str) -> Result<Value> {
    value.defined()?;
    if let Some(found) = own_attribute(value, name)? {
        return Ok(found);
    }
    if let Value::Dict(dict) = value
        && let Some(found) = dict.named(budget, name)?
    {
        return Ok(found.clone());
    }
    missing(value, name)
}

/// Evaluates `value[index]`: an item, or else an attribute.
pub(super) fn item(budget: &Budget, value: &Value, index: &Value) -> Result<Value> {
    value.defined()?;
    if let Some(found) = own_item(budget, value, index)? {
        return Ok(found);
    }
    match index {
        Value::Str(name) => match own_attribute(value, name.as_str())? {
            Some(found) => Ok(found),
            None => missing(value, name.as_str()),
        },
        other => missing(value, other.type_name()),
    }
}

fn missing(value: &Value, name: &str) -> Result<Value> {
    // The error that using it gives is seldom read; a long name would be copied for nothing.
    let name = name.get(..name.len().min(64)).unwrap_or("...");
    Ok(Value::undefined(format!("'{} object' has no attribute '{name}'", value.type_name())))
}

fn own_item(budget: &Budget, value: &Value, index: &Value) -> Result<Option<Value>> {
    if let Value::Dict(dict) = value {
        return match index {
            Value::Undefined(_) => index.defined().map(|_| None),
            Value::List(_) | Value::Dict(_) => Ok(None),
            index => Ok(dict.get(budget, index)?.cloned()),
        };
    }
    let at = match index {
        Value::Int(at) => *at,
        Value::Bool(at) => i128::from(*at),
        _ => return Ok(None),
    };
    let place = |len: usize| {
        let at = if at < 0 { at.checked_add(len as i128)? } else { at };
        usize::try_from(at).ok().filter(|at| *at < len)
    };
    Ok(match value {
        Value::List(items) | Value::Tuple(items) => {
            place(items.items.len()).and_then(|at| items.items.get(at)).cloned()
        }
        Value::Range(range) => place(range.len()).and_then(|at| range.get(at)),
        Value::Str(text) => {
            budget.read(text.as_str().len())?;
            match place(text.chars()) {
                None => None,
                Some(at) => Some(Value::Str(letter(budget, text, at)?)),
            }
        }
        _ => None,
    })
}

fn letter(budget: &Budget, text: &Text, at: usize) -> Result<Text> {
    let start = byte_of(text.as_str(), at);
    let rest = text.as_str().get(start..).unwrap_or_default();
    let len = rest.chars().next().map_or(0, char::len_utf8);
    text.slice(budget, start..start + len)
}

/// Returns what Python's object has under `name` itself, as opposed to its items.
fn own_attribute(value: &Value, name: &str) -> Result<Option<Value>> {
    if name.starts_with("__") {
        return Err(Error::fails(format!("access to attribute '{name}' is unsafe")));
    }
    if let Some(method) = Method::of(value, name) {
        return Ok(Some(Value::callable(Callable::Method(value.clone(), method))));
    }
    Ok(match value {
        Value::Namespace(namespace) => namespace.get(name),
        Value::Loop(this) => loop_attribute(this, name),
        Value::Callable(callable) => match (&**callable, name) {
            (Callable::Cycler { items, at }, "current") => items.get(at.get()).cloned(),
            (Callable::Cycler { .. }, "next") => {
                Some(Value::callable(Callable::CyclerNext(callable.clone())))
            }
            (Callable::Cycler { .. }, "reset") => {
                Some(Value::callable(Callable::CyclerReset(callable.clone())))
            }
            _ => return Err(Error::fails(format!("a function's {name} is not known here"))),
        },
        Value::Int(_) | Value::Float(_) | Value::Bool(_) => match name {
            "real" | "imag" | "numerator" | "denominator" | "conjugate" | "bit_length"
            | "is_integer" | "as_integer_ratio" | "hex" | "to_bytes" | "bit_count" => {
                return Err(Error::fails(format!("a number's {name} is not supported")));
            }
            _ => None,
        },
        _ => None,
    })
}

fn loop_attribute(this: &Rc<Loop>, name: &str) -> Option<Value> {
    let (at, len) = (this.at.get(), this.items.len());
    let number = |number: usize| Some(Value::Int(number as i128));
    let neighbour = |at: Option<usize>, what: &str| {
        let item = at.and_then(|at| this.items.get(at)).cloned();
        Some(item.unwrap_or_else(|| Value::undefined(format!("there is no {what} item"))))
    };
    match name {
        "index" => number(at + 1),
        "index0" => number(at),
        "revindex" => number(len - at),
        "revindex0" => number(len - at - 1),
        "first" => Some(Value::Bool(at == 0)),
        "last" => Some(Value::Bool(at + 1 == len)),
        "length" => number(len),
        "depth" => Some(Value::Int(this.level + 1)),
        "depth0" => Some(Value::Int(this.level)),
        "previtem" => neighbour(at.checked_sub(1), "previous"),
        "nextitem" => neighbour(Some(at + 1), "next"),
        "cycle" => Some(Value::callable(Callable::LoopCycle(this.clone()))),
        "changed" => Some(Value::callable(Callable::LoopChanged(this.clone()))),
        _ => None,
    }
}

/// Evaluates `value[start:stop:step]`.
pub(super) fn slice(budget: &Budget, value: &Value, parts: &[Option<Value>; 3]) -> Result<Value> {
    value.defined()?;
    let len = match value {
        Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_) => value.len(budget)?,
        other => return missing(other, "a slice"),
    };
    let number = |part: &Option<Value>| match part {
        None | Some(Value::None) => Ok(None),
        Some(value) => super::arguments::int("a slice", value).map(Some),
    };
    let [start, stop, step] = parts;
    let step = number(step)?.unwrap_or(1);
    if step == 0 {
        return Err(Error::fails("slice step cannot be zero"));
    }
    let len = len as i128;
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let place = |at: Option<i128>, default: i128| {
        let Some(at) = at else { return default };
        let at = if at < 0 { at.saturating_add(len) } else { at };
        at.clamp(low, high)
    };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    let start = place(number(start)?, first);
    let stop = place(number(stop)?, last);
    let step = step.clamp(-len - 1, len + 1);
    let places = super::value::Range { start, stop, step };
    budget.make_times(size_of::<usize>(), places.len())?;
    sliced(budget, value, places)
}

fn sliced(budget: &Budget, value: &Value, places: super::value::Range) -> Result<Value> {
    let chosen = |items: &[Value]| {
        budget.make_times(ITEM_BYTES, places.len())?;
        let at = places.places();
        Ok(at.filter_map(|at| items.get(at).cloned()).collect())
    };
    match value {
        Value::List(items) => Value::list(budget, chosen(&items.items)?),
        Value::Tuple(items) => Value::tuple(budget, chosen(&items.items)?),
        Value::Str(text) if places.step == 1 => {
            let whole = text.as_str();
            let (start, stop) = (places.start as usize, places.stop.max(places.start) as usize);
            text.slice(budget, byte_of(whole, start)..byte_of(whole, stop)).map(Value::Str)
        }
        Value::Str(text) => {
            let whole = text.as_str();
            budget.make_times(size_of::<usize>(), whole.len())?;
            let starts: Vec<usize> = whole.char_indices().map(|(at, _)| at).collect();
            let mut out = Builder::new(budget);
            for at in places.places() {
                let end = starts.get(at + 1).copied().unwrap_or(whole.len());
                out.push_slice(text, starts.get(at).copied().unwrap_or(end)..end)?;
            }
            out.finish_like(text).map(Value::Str)
        }
        _ => Err(Error::fails("a slice of a range is not supported")),
    }
}
