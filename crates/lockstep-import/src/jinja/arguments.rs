//! The arguments of a call, and how they find their parameters.

use std::rc::Rc;

use super::budget::{Budget, Error, Result};
use super::strings::count;
use super::text::Text;
use super::value::Value;

/// The evaluated arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Args {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Rc<str>, Value)>,
}

impl Args {
    /// Returns the argument of each of `parameters`, if given.
    pub(super) fn bind<const N: usize>(
        self,
        callee: &str,
        parameters: [&str; N],
    ) -> Result<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        let given = self.positional.len();
        if given > N {
            return Err(Error::fails(format!("{callee} takes at most {N} arguments, got {given}")));
        }
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let at = parameters.iter().position(|parameter| **parameter == *name);
            match at.and_then(|at| bound.get_mut(at)) {
                Some(place @ None) => *place = Some(value),
                Some(Some(_)) => {
                    return Err(Error::fails(format!("{callee} got two values for {name:?}")));
                }
                None => return Err(Error::fails(format!("{callee} takes no argument {name:?}"))),
            }
        }
        Ok(bound)
    }

    /// Refuses the call if it has any arguments.
    pub(super) fn none(self, callee: &str) -> Result<()> {
        self.bind(callee, []).map(|[]| ())
    }

    /// Returns one argument without a name.
    pub(super) fn one(self, callee: &str) -> Result<Value> {
        let [value] = self.bind(callee, [""])?;
        needed(callee, value)
    }
}

/// Returns an argument that must be given, or an error that names the callee.
pub(super) fn needed(callee: &str, value: Option<Value>) -> Result<Value> {
    value.ok_or_else(|| Error::fails(format!("{callee} is missing an argument")))
}

/// Returns the argument `value` of `callee` as a string, or an error that names its type.
pub(super) fn text(callee: &str, value: &Value) -> Result<Text> {
    match value.defined()? {
        Value::Str(text) => Ok(text.clone()),
        other => {
            let name = other.type_name();
            Err(Error::fails(format!("{callee} expects a string, got {name}")))
        }
    }
}

/// Returns a string argument, or what stands for it.
pub(super) fn text_or(
    budget: &Budget,
    callee: &str,
    value: Option<&Value>,
    default: &str,
) -> Result<Text> {
    match value {
        Some(value) => text(callee, value),
        None => Text::template(budget, default),
    }
}

/// Returns the argument `value` of `callee` as an integer, or an error that names its type.
pub(super) fn int(callee: &str, value: &Value) -> Result<i128> {
    match value.defined()? {
        Value::Int(number) => Ok(*number),
        Value::Bool(value) => Ok(i128::from(*value)),
        other => {
            let name = other.type_name();
            Err(Error::fails(format!("{callee} expects an integer, got {name}")))
        }
    }
}

/// Returns the length that an argument gives, 0 for a negative one, or `default` without it; an
/// error if it is no integer, or too large.
pub(super) fn length(callee: &str, value: Option<&Value>, default: usize) -> Result<usize> {
    match value {
        None => Ok(default),
        Some(value) => count(int(callee, value)?),
    }
}

/// Returns an argument that says how many times at most something is done; a negative one or none
/// sets no limit.
pub(super) fn times(callee: &str, value: Option<&Value>) -> Result<usize> {
    match value {
        None => Ok(usize::MAX),
        Some(value) => match int(callee, value)? {
            ..0 => Ok(usize::MAX),
            number => count(number),
        },
    }
}

/// Returns whether an argument is true as conditions see it, or `default` without it.
pub(super) fn flag(value: Option<&Value>, default: bool) -> bool {
    value.map_or(default, Value::is_true)
}
