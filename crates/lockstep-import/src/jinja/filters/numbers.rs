//! Filters that give numbers.

use super::super::ast::Binary;
use super::super::budget::{Budget, Error, Result};
use super::super::ops::{binary, signed};
use super::super::percent::float_to_int;
use super::super::python::{parse_float, parse_int};
use super::{Args, Value, attribute_of, flag, int_or, text_arg};

pub(super) fn apply(budget: &Budget, name: &str, value: &Value, args: Args) -> Result<Value> {
    match name {
        "abs" => {
            args.none(name)?;
            let negative = match value.defined()? {
                Value::Int(number) => *number < 0,
                Value::Float(number) => number.is_sign_negative(),
                _ => false,
            };
            signed(value, negative)
        }
        "int" => {
            let [default, base] = args.bind(name, ["default", "base"])?;
            let base = u32::try_from(int_or(name, base.as_ref(), 10)?).ok();
            let base = base.filter(|base| *base == 0 || (2..=36).contains(base));
            let base = base.ok_or_else(|| Error::fails("int() base must be >= 2 and <= 36"))?;
            let default = default.unwrap_or(Value::Int(0));
            Ok(to_int(value.defined()?, base)?.map_or(default, Value::Int))
        }
        "float" => {
            let [default] = args.bind(name, ["default"])?;
            let found = match value.defined()? {
                Value::Str(text) => parse_float(text.as_str()),
                Value::Int(number) => Some(*number as f64),
                Value::Bool(value) => Some(f64::from(u8::from(*value))),
                Value::Float(number) => Some(*number),
                _ => None,
            };
            Ok(found.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        "round" => {
            let [precision, method] = args.bind(name, ["precision", "method"])?;
            let method = text_arg(budget, name, method.as_ref(), "common")?;
            round(value, int_or(name, precision.as_ref(), 0)?, method.as_str())
        }
        "filesizeformat" => {
            let [is_binary] = args.bind(name, ["binary"])?;
            let size = match value {
                Value::Int(number) => *number as f64,
                Value::Float(number) => *number,
                Value::Str(text) => {
                    parse_float(text.as_str()).ok_or_else(|| Error::fails("not a number"))?
                }
                _ => return Err(Error::fails("filesizeformat expects a number")),
            };
            Value::text(budget, &file_size(size, flag(is_binary.as_ref(), false)))
        }
        _ => {
            let [attribute, start] = args.bind(name, ["attribute", "start"])?;
            let mut sum = start.unwrap_or(Value::Int(0));
            for item in value.items(budget)? {
                let item = attribute_of(budget, name, &item, attribute.as_ref(), None)?;
                if matches!(sum, Value::Str(_)) {
                    return Err(Error::fails("sum() can't sum strings [use ''.join(seq) instead]"));
                }
                sum = binary(budget, Binary::Add, &sum, &item)?;
            }
            Ok(sum)
        }
    }
}

/// Evaluates `int(value)`, or `int(float(value))` if that fails; returns `None` if both fail.
fn to_int(value: &Value, base: u32) -> Result<Option<i128>> {
    let whole = |number: f64| match number.is_finite() {
        true => float_to_int(number).map(Some),
        false if number.is_nan() => Ok(None),
        false => Err(Error::fails("cannot convert float infinity to integer")),
    };
    match value {
        Value::Str(text) => match parse_int(text.as_str(), base) {
            Some(number) => Ok(Some(number)),
            None => parse_float(text.as_str()).map_or(Ok(None), whole),
        },
        Value::Int(number) => Ok(Some(*number)),
        Value::Bool(value) => Ok(Some(i128::from(*value))),
        Value::Float(number) => whole(*number),
        _ => Ok(None),
    }
}

fn round(value: &Value, precision: i128, method: &str) -> Result<Value> {
    let is_int = matches!(value, Value::Int(_) | Value::Bool(_));
    let number = match value.defined()? {
        Value::Int(number) => *number as f64,
        Value::Bool(value) => f64::from(u8::from(*value)),
        Value::Float(number) => *number,
        other => {
            return Err(Error::fails(format!("round expects a number, got {}", other.type_name())));
        }
    };
    let places = i32::try_from(precision).ok().filter(|places| places.abs() <= 300);
    let places = places.ok_or_else(|| Error::fails("round to too many places"))?;
    match method {
        "common" if is_int && places >= 0 => Ok(value.clone()),
        "common" if places < 0 => {
            // What is rounded off may be exactly half: then to even, as Python's integers do.
            let unit = 10_f64.powi(-places);
            let rounded = (number / unit).round_ties_even() * unit;
            Ok(if is_int { Value::Int(float_to_int(rounded)?) } else { Value::Float(rounded) })
        }
        // The digits that formatting gives are those of the exact value, halves to even.
        "common" => {
            let digits = places as usize;
            let rounded: Option<f64> = format!("{number:.digits$}").parse().ok();
            Ok(Value::Float(rounded.unwrap_or(number)))
        }
        "ceil" | "floor" => {
            let unit = 10_f64.powi(places);
            let scaled = number * unit;
            let whole = if method == "ceil" { scaled.ceil() } else { scaled.floor() };
            Ok(Value::Float(whole / unit))
        }
        _ => Err(Error::fails("method must be common, ceil or floor")),
    }
}

fn file_size(size: f64, is_binary: bool) -> String {
    let (base, units): (f64, [&str; 8]) = if is_binary {
        (1024.0, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"])
    } else {
        (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"])
    };
    if size == 1.0 {
        return "1 Byte".to_owned();
    }
    if size < base {
        return format!("{} Bytes", size.trunc());
    }
    let mut unit = base;
    let mut shown = units.first().copied().unwrap_or_default();
    for name in units {
        unit *= base;
        shown = name;
        if size < unit {
            break;
        }
    }
    format!("{:.1} {shown}", base * size / unit)
}
