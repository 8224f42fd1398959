//! Arithmetic and comparison, as Python does them.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::rc::Rc;

use super::ast::{Binary, Comparison};
use super::budget::{Budget, Error, Result};
use super::strings::count;
use super::text::{Builder, Text};
use super::value::{ITEM_BYTES, Value};

/// Integers up to this are equal to a float.
const EXACT: u128 = 1 << 53;

const TOO_LARGE: &str = "the number is too large: integers have 127 bits here";

/// A number as arithmetic sees it: an integer or a float.
#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Bool(value) => Self::Int(i128::from(*value)),
            Value::Int(value) => Self::Int(*value),
            Value::Float(value) => Self::Float(*value),
            _ => return None,
        })
    }

    fn float(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

/// Returns the sign of an operator, as Python writes it.
const fn sign(operator: Binary) -> &'static str {
    match operator {
        Binary::Add => "+",
        Binary::Subtract => "-",
        Binary::Multiply => "*",
        Binary::Divide => "/",
        Binary::FloorDivide => "//",
        Binary::Modulo => "%",
        Binary::Power => "** or pow()",
    }
}

/// Evaluates `left operator right`, of arithmetic.
pub(super) fn binary(
    budget: &Budget,
    operator: Binary,
    left: &Value,
    right: &Value,
) -> Result<Value> {
    left.defined()?;
    right.defined()?;
    if let (Binary::Modulo, Value::Str(format)) = (operator, left) {
        return super::percent::format(budget, format, right).map(Value::Str);
    }
    if let (Some(left), Some(right)) = (Number::of(left), Number::of(right)) {
        return arithmetic(operator, left, right);
    }
    match (operator, left, right) {
        (Binary::Add, Value::Str(left), Value::Str(right)) => {
            add_texts(budget, left, right).map(Value::Str)
        }
        (Binary::Add, Value::List(left), Value::List(right)) => {
            Value::list(budget, joined(budget, &left.items, &right.items)?)
        }
        (Binary::Add, Value::Tuple(left), Value::Tuple(right)) => {
            Value::tuple(budget, joined(budget, &left.items, &right.items)?)
        }
        (Binary::Multiply, many, Value::Int(_) | Value::Bool(_))
            if matches!(many, Value::Str(_) | Value::List(_) | Value::Tuple(_)) =>
        {
            repeated(budget, many, right)
        }
        (Binary::Multiply, Value::Int(_) | Value::Bool(_), many)
            if matches!(many, Value::Str(_) | Value::List(_) | Value::Tuple(_)) =>
        {
            repeated(budget, many, left)
        }
        _ => Err(Error::fails(format!(
            "unsupported operand type(s) for {}: '{}' and '{}'",
            sign(operator),
            left.type_name(),
            right.type_name()
        ))),
    }
}

fn joined(budget: &Budget, left: &[Value], right: &[Value]) -> Result<Vec<Value>> {
    budget.make_times(ITEM_BYTES, left.len() + right.len())?;
    Ok([left, right].concat())
}

/// Strings behind each other; if one is safe HTML, the other is escaped.
fn add_texts(budget: &Budget, left: &Text, right: &Text) -> Result<Text> {
    let markup = left.is_markup() || right.is_markup();
    let mut out = Builder::new(budget);
    for part in [left, right] {
        if markup && !part.is_markup() {
            super::text::escape(&mut out, part)?;
        } else {
            out.push(part)?;
        }
    }
    out.finish()?.with_markup(budget, markup)
}

fn repeated(budget: &Budget, many: &Value, times: &Value) -> Result<Value> {
    let times = match times {
        Value::Int(times) => count(*times)?,
        Value::Bool(times) => usize::from(*times),
        _ => 0,
    };
    let items = |items: &[Value]| {
        budget.make_times(ITEM_BYTES, items.len().saturating_mul(times))?;
        let all = items.len().saturating_mul(times);
        Ok(items.iter().cycle().take(all).cloned().collect())
    };
    match many {
        Value::Str(text) => {
            let mut out = Builder::new(budget);
            out.push_times(text, times)?;
            out.finish_like(text).map(Value::Str)
        }
        Value::List(list) => Value::list(budget, items(&list.items)?),
        Value::Tuple(tuple) => Value::tuple(budget, items(&tuple.items)?),
        other => Err(Error::fails(format!("can't repeat '{}'", other.type_name()))),
    }
}

fn arithmetic(operator: Binary, left: Number, right: Number) -> Result<Value> {
    match (left, right) {
        (Number::Int(left), Number::Int(right)) => integers(operator, left, right),
        _ => floats(operator, left.float(), right.float()).map(Value::Float),
    }
}

fn integers(operator: Binary, left: i128, right: i128) -> Result<Value> {
    let found = match operator {
        Binary::Add => left.checked_add(right),
        Binary::Subtract => left.checked_sub(right),
        Binary::Multiply => left.checked_mul(right),
        Binary::Power if right < 0 => {
            return floats(operator, left as f64, right as f64).map(Value::Float);
        }
        Binary::Power => match (left, right) {
            (0 | 1, 1..) => Some(left),
            (-1, _) => Some(if right % 2 == 0 { 1 } else { -1 }),
            _ => u32::try_from(right).ok().and_then(|right| left.checked_pow(right)),
        },
        Binary::Divide | Binary::FloorDivide | Binary::Modulo if right == 0 => {
            return Err(Error::fails(if operator == Binary::Divide {
                "division by zero"
            } else {
                "integer division or modulo by zero"
            }));
        }
        Binary::Divide => {
            if left.unsigned_abs() > EXACT || right.unsigned_abs() > EXACT {
                return Err(Error::fails(TOO_LARGE));
            }
            return Ok(Value::Float(left as f64 / right as f64));
        }
        Binary::FloorDivide => left.checked_div_euclid(right).and_then(|quotient| {
            // Euclid's quotient is not the floor if the divisor is negative.
            let inexact = left.checked_rem_euclid(right)? != 0;
            if right < 0 && inexact { quotient.checked_sub(1) } else { Some(quotient) }
        }),
        Binary::Modulo => left
            .checked_rem_euclid(right)
            .map(|rest| if right < 0 && rest != 0 { rest + right } else { rest }),
    };
    found.map(Value::Int).ok_or_else(|| Error::fails(TOO_LARGE))
}

fn floats(operator: Binary, left: f64, right: f64) -> Result<f64> {
    let by_zero = |what: &str| if right == 0.0 { Err(Error::fails(what)) } else { Ok(()) };
    Ok(match operator {
        Binary::Add => left + right,
        Binary::Subtract => left - right,
        Binary::Multiply => left * right,
        Binary::Divide => {
            by_zero("float division by zero")?;
            left / right
        }
        Binary::FloorDivide => {
            by_zero("float floor division by zero")?;
            ((left - modulo(left, right)) / right).round()
        }
        Binary::Modulo => {
            by_zero("float modulo")?;
            modulo(left, right)
        }
        Binary::Power => {
            if left == 0.0 && right < 0.0 {
                return Err(Error::fails("0.0 cannot be raised to a negative power"));
            }
            let power = left.powf(right);
            if power.is_nan() && !left.is_nan() && !right.is_nan() {
                return Err(Error::fails("complex numbers are not supported"));
            }
            power
        }
    })
}

/// Returns the remainder that has the divisor's sign.
fn modulo(left: f64, right: f64) -> f64 {
    let rest = left % right;
    if rest == 0.0 {
        return 0.0_f64.copysign(right);
    }
    if (rest < 0.0) == (right < 0.0) { rest } else { rest + right }
}

/// Evaluates `-value` or `+value`.
pub(super) fn signed(value: &Value, negative: bool) -> Result<Value> {
    match Number::of(value.defined()?) {
        Some(Number::Int(number)) => {
            let found = if negative { number.checked_neg() } else { Some(number) };
            found.map(Value::Int).ok_or_else(|| Error::fails(TOO_LARGE))
        }
        Some(Number::Float(number)) => Ok(Value::Float(if negative { -number } else { number })),
        None => Err(Error::fails(format!("bad operand type for a sign: '{}'", value.type_name()))),
    }
}

/// Evaluates `left operator right`, of comparisons.
pub(super) fn compare(
    budget: &Budget,
    operator: Comparison,
    left: &Value,
    right: &Value,
) -> Result<bool> {
    Ok(match operator {
        Comparison::Equal => equal(budget, left, right)?,
        Comparison::NotEqual => !equal(budget, left, right)?,
        Comparison::In => contains(budget, right, left)?,
        Comparison::NotIn => !contains(budget, right, left)?,
        _ => {
            let order = order(budget, left, right)?;
            match operator {
                Comparison::Less => order == Some(Ordering::Less),
                Comparison::LessOrEqual => order.is_some_and(Ordering::is_le),
                Comparison::Greater => order == Some(Ordering::Greater),
                _ => order.is_some_and(Ordering::is_ge),
            }
        }
    })
}

/// Returns whether two values are equal.
pub(super) fn equal(budget: &Budget, left: &Value, right: &Value) -> Result<bool> {
    budget.work(1)?;
    if let (Some(left), Some(right)) = (Number::of(left), Number::of(right)) {
        return Ok(numbers(left, right) == Some(Ordering::Equal));
    }
    Ok(match (left, right) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Str(left), Value::Str(right)) | (Value::Bytes(left), Value::Bytes(right)) => {
            budget.read(left.as_str().len().min(right.as_str().len()))?;
            left.as_str() == right.as_str()
        }
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            Rc::ptr_eq(left, right) || all_equal(budget, &left.items, &right.items)?
        }
        (Value::Dict(left), Value::Dict(right)) => {
            if left.entries.len() != right.entries.len() {
                return Ok(false);
            }
            for (key, value) in &left.entries {
                match right.get(budget, key)? {
                    Some(other) if equal(budget, value, other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Range(left), Value::Range(right)) => {
            let (first, len) = (|range: &super::value::Range| range.get(0), left.len());
            len == right.len()
                && (len == 0 || equal_options(budget, first(left), first(right))?)
                && (len < 2 || left.step == right.step)
        }
        (Value::View(..), Value::View(..)) => {
            return Err(Error::fails("views of dicts can't be compared here"));
        }
        (Value::Namespace(left), Value::Namespace(right)) => Rc::ptr_eq(left, right),
        (Value::Iterator(left), Value::Iterator(right)) => Rc::ptr_eq(left, right),
        (Value::Loop(left), Value::Loop(right)) => Rc::ptr_eq(left, right),
        (Value::Callable(left), Value::Callable(right)) => Rc::ptr_eq(left, right),
        _ => false,
    })
}

fn equal_options(budget: &Budget, left: Option<Value>, right: Option<Value>) -> Result<bool> {
    match (left, right) {
        (Some(left), Some(right)) => equal(budget, &left, &right),
        _ => Ok(false),
    }
}

pub(super) fn all_equal(budget: &Budget, left: &[Value], right: &[Value]) -> Result<bool> {
    if left.len() != right.len() {
        return Ok(false);
    }
    for (left, right) in left.iter().zip(right) {
        if !equal(budget, left, right)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn numbers(left: Number, right: Number) -> Option<Ordering> {
    match (left, right) {
        (Number::Int(left), Number::Int(right)) => Some(left.cmp(&right)),
        (Number::Float(left), Number::Float(right)) => left.partial_cmp(&right),
        (Number::Float(_), Number::Int(_)) => numbers(right, left).map(Ordering::reverse),
        (Number::Int(left), Number::Float(right)) => {
            let rounded = (left as f64).partial_cmp(&right)?;
            // The conversion can have rounded; what is that large has no fraction.
            Some(if rounded.is_eq() { left.cmp(&(right as i128)) } else { rounded })
        }
    }
}

/// Returns the order of two values, `None` if a number is NaN.
pub(super) fn order(budget: &Budget, left: &Value, right: &Value) -> Result<Option<Ordering>> {
    budget.work(1)?;
    left.defined()?;
    right.defined()?;
    if let (Some(left), Some(right)) = (Number::of(left), Number::of(right)) {
        return Ok(numbers(left, right));
    }
    match (left, right) {
        (Value::Str(left), Value::Str(right)) => {
            budget.read(left.as_str().len().min(right.as_str().len()))?;
            Ok(Some(left.as_str().cmp(right.as_str())))
        }
        (Value::List(left), Value::List(right)) | (Value::Tuple(left), Value::Tuple(right)) => {
            for (left, right) in left.items.iter().zip(&right.items) {
                if !equal(budget, left, right)? {
                    return order(budget, left, right);
                }
            }
            Ok(Some(left.items.len().cmp(&right.items.len())))
        }
        _ => Err(Error::fails(format!(
            "'<' not supported between instances of '{}' and '{}'",
            left.type_name(),
            right.type_name()
        ))),
    }
}

fn any_equal(budget: &Budget, items: &[Value], item: &Value) -> Result<bool> {
    for known in items {
        if equal(budget, known, item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Evaluates `item in whole`.
pub(super) fn contains(budget: &Budget, whole: &Value, item: &Value) -> Result<bool> {
    match whole {
        Value::Str(text) => match item {
            Value::Str(part) => {
                budget.read(text.as_str().len())?;
                Ok(text.as_str().contains(part.as_str()))
            }
            other => Err(Error::fails(format!(
                "'in <string>' requires string as left operand, not {}",
                other.type_name()
            ))),
        },
        Value::Dict(dict) | Value::View(super::value::View::Keys, dict) => {
            Ok(dict.get(budget, item)?.is_some())
        }
        Value::List(items) | Value::Tuple(items) => any_equal(budget, &items.items, item),
        Value::Undefined(_) | Value::View(..) | Value::Range(_) | Value::Iterator(_) => {
            any_equal(budget, &whole.items(budget)?, item)
        }
        other => {
            let name = other.type_name();
            Err(Error::fails(format!("argument of type '{name}' is not iterable")))
        }
    }
}

/// Sorts `items` by their keys; equal ones stay in order.
pub(super) fn sort_by<T>(
    budget: &Budget,
    items: &mut [T],
    reverse: bool,
    key: impl Fn(&T) -> Value,
) -> Result<()> {
    let failed = RefCell::new(None);
    items.sort_by(|left, right| {
        if failed.borrow().is_some() {
            return Ordering::Equal;
        }
        match order(budget, &key(left), &key(right)) {
            Ok(found) => {
                let found = found.unwrap_or(Ordering::Equal);
                if reverse { found.reverse() } else { found }
            }
            Err(error) => {
                failed.replace(Some(error));
                Ordering::Equal
            }
        }
    });
    match failed.into_inner() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
