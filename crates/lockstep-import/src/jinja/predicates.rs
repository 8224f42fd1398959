//! The tests of the operator `is`, such as `is defined`.

use super::arguments::Args;
use super::ast::{Binary, Comparison};
use super::budget::{Budget, Error, Result};
use super::ops::{binary, compare};
use super::value::{Callable, Function, Value};

/// The names of all tests, sorted.
const NAMES: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// Returns whether there is a test `name`.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Returns whether `value is name(args)`.
pub(super) fn test(budget: &Budget, name: &str, value: &Value, args: Args) -> Result<bool> {
    let comparison = match name {
        "==" | "eq" | "equalto" => Some(Comparison::Equal),
        "!=" | "ne" => Some(Comparison::NotEqual),
        "<" | "lt" | "lessthan" => Some(Comparison::Less),
        "<=" | "le" => Some(Comparison::LessOrEqual),
        ">" | "gt" | "greaterthan" => Some(Comparison::Greater),
        ">=" | "ge" => Some(Comparison::GreaterOrEqual),
        "in" => Some(Comparison::In),
        _ => None,
    };
    if let Some(comparison) = comparison {
        return compare(budget, comparison, value, &args.one(name)?);
    }
    match name {
        "divisibleby" | "even" | "odd" => {
            let by = if name == "divisibleby" {
                args.one(name)?
            } else {
                args.none(name)?;
                Value::Int(2)
            };
            let rest = binary(budget, Binary::Modulo, value, &by)?;
            let wanted = Value::Int(i128::from(name == "odd"));
            compare(budget, Comparison::Equal, &rest, &wanted)
        }
        "sameas" => Ok(same(value, &args.one(name)?)),
        _ => {
            args.none(name)?;
            kind(budget, name, value)
        }
    }
}

/// Returns the tests without arguments.
fn kind(budget: &Budget, name: &str, value: &Value) -> Result<bool> {
    Ok(match name {
        "boolean" => matches!(value, Value::Bool(_)),
        // What is undefined counts, as it does in Jinja2; calling it is an error there too.
        "callable" => {
            matches!(value, Value::Callable(_) | Value::Loop(_) | Value::Undefined(_))
        }
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "escaped" => matches!(value, Value::Str(text) if text.is_markup()),
        "false" => matches!(value, Value::Bool(false)),
        "true" => matches!(value, Value::Bool(true)),
        "float" => matches!(value, Value::Float(_)),
        "integer" => matches!(value, Value::Int(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "none" => matches!(value, Value::None),
        "string" => matches!(value, Value::Str(_)),
        "iterable" => !matches!(
            value,
            Value::None
                | Value::Bool(_)
                | Value::Int(_)
                | Value::Float(_)
                | Value::Namespace(_)
                | Value::Callable(_)
        ),
        // What has a length and can be indexed.
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Str(_)
                | Value::Bytes(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
        ),
        "lower" | "upper" => {
            let text = value.to_text(budget)?;
            budget.read(text.as_str().len())?;
            let mut letters = text.as_str().chars();
            let is_cased = |letter: char| letter.is_lowercase() || letter.is_uppercase();
            let fits = |letter: char| {
                if name == "lower" { !letter.is_uppercase() } else { !letter.is_lowercase() }
            };
            letters.clone().any(is_cased) && letters.all(fits)
        }
        "filter" | "test" => {
            let text = value.to_text(budget)?;
            let known = if name == "filter" { super::filter_names::exists } else { exists };
            known(text.as_str())
        }
        _ => return Err(Error::fails(format!("there is no test {name:?}"))),
    })
}

/// Returns whether two values are one object. Equal numbers and strings count as one: whether
/// Python keeps two of them apart is its implementation's secret.
fn same(left: &Value, right: &Value) -> bool {
    use std::rc::Rc;
    match (left, right) {
        (Value::None, Value::None) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::Int(left), Value::Int(right)) => left == right,
        (Value::Float(left), Value::Float(right)) => left.to_bits() == right.to_bits(),
        (Value::Str(left), Value::Str(right)) => left.as_str() == right.as_str(),
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            Rc::ptr_eq(left, right)
        }
        (Value::Dict(left), Value::Dict(right)) => Rc::ptr_eq(left, right),
        (Value::Namespace(left), Value::Namespace(right)) => Rc::ptr_eq(left, right),
        (Value::Callable(left), Value::Callable(right)) => match (&**left, &**right) {
            (Callable::Function(left), Callable::Function(right)) => {
                let left: Function = *left;
                left == *right
            }
            _ => Rc::ptr_eq(left, right),
        },
        _ => false,
    }
}
