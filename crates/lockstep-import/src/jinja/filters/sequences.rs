//! Filters that choose, change or join items.

use super::super::budget::{Budget, Error, Result};
use super::super::lookup;
use super::super::text::Builder;
use super::lists::named;
use super::{Args, Value, attribute_of, text, text_arg};

pub(super) fn apply(budget: &Budget, name: &str, value: &Value, args: Args) -> Result<Value> {
    match name {
        "attr" => {
            let attribute = text(name, &args.one(name)?)?;
            // An attribute only, never an item.
            match value {
                Value::Dict(_) => {
                    let method = super::super::value::Method::of(value, attribute.as_str());
                    let found =
                        method.map(|_| lookup::attribute(budget, value, attribute.as_str()));
                    found.unwrap_or_else(|| Ok(Value::undefined("a dict has no such attribute")))
                }
                value => lookup::attribute(budget, value, attribute.as_str()),
            }
        }
        "first" | "last" => {
            args.none(name)?;
            end(budget, name, value)
        }
        "reverse" => {
            args.none(name)?;
            reverse(budget, value)
        }
        "join" => join(budget, value, args),
        "map" => map(budget, value, args),
        _ => choose(budget, name, value, args),
    }
}

/// Returns the first or last item.
fn end(budget: &Budget, name: &str, value: &Value) -> Result<Value> {
    let found = match value {
        Value::List(items) | Value::Tuple(items) => {
            if name == "first" { items.items.first() } else { items.items.last() }.cloned()
        }
        Value::Iterator(_) if name == "last" => {
            return Err(Error::fails("'generator' object is not reversible"));
        }
        Value::Iterator(items) => items.borrow_mut().next(),
        Value::Str(_) => {
            let at = if name == "first" { 0 } else { -1 };
            Some(lookup::item(budget, value, &Value::Int(at))?)
                .filter(|found| !matches!(found, Value::Undefined(_)))
        }
        Value::Undefined(_) => None,
        other => {
            let items = other.items(budget)?;
            if name == "first" { items.first() } else { items.last() }.cloned()
        }
    };
    let none = || Value::undefined(format!("No {name} item, sequence was empty."));
    Ok(found.unwrap_or_else(none))
}

fn reverse(budget: &Budget, value: &Value) -> Result<Value> {
    match value {
        Value::Str(_) => lookup::slice(budget, value, &[None, None, Some(Value::Int(-1))]),
        Value::Undefined(_) => Value::iterator(budget, Vec::new()),
        other => {
            let mut items = other.items(budget)?;
            items.reverse();
            Value::iterator(budget, items)
        }
    }
}

fn join(budget: &Budget, value: &Value, args: Args) -> Result<Value> {
    let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
    let separator = match separator {
        Some(separator) => separator.to_text(budget)?,
        None => text_arg(budget, "join", None, "")?,
    };
    let mut out = Builder::new(budget);
    for (at, item) in value.items(budget)?.iter().enumerate() {
        budget.work(1)?;
        if at > 0 {
            out.push(&separator)?;
        }
        let item = attribute_of(budget, "join", item, attribute.as_ref(), None)?;
        super::super::python::write_str(&mut out, &item)?;
    }
    out.finish().map(Value::Str)
}

/// Items to change or choose from; nothing at all has none, as in Jinja2.
fn items_of(budget: &Budget, value: &Value) -> Result<Vec<Value>> {
    if value.is_true() { value.items(budget) } else { Ok(Vec::new()) }
}

/// Evaluates the filter `map(attribute=…, default=…)` or `map(filter, …)`.
fn map(budget: &Budget, value: &Value, mut args: Args) -> Result<Value> {
    let items = items_of(budget, value)?;
    let mut mapped = Vec::with_capacity(items.len());
    let is_attribute =
        args.positional.is_empty() && args.named.iter().any(|(name, _)| &**name == "attribute");
    if is_attribute {
        let [attribute, default] = args.bind("map", ["attribute", "default"])?;
        for item in &items {
            budget.work(1)?;
            let (attribute, default) = (attribute.as_ref(), default.as_ref());
            mapped.push(attribute_of(budget, "map", item, attribute, default)?);
        }
        return Value::iterator(budget, mapped);
    }
    if args.positional.is_empty() {
        return Err(Error::fails("map requires a filter argument"));
    }
    let filter = named("map", &args.positional.remove(0))?;
    for item in items {
        budget.work(1)?;
        let args = Args { positional: args.positional.clone(), named: args.named.clone() };
        mapped.push(super::apply(budget, &filter, item, args)?);
    }
    Value::iterator(budget, mapped)
}

/// Evaluates the filters `select`, `reject`, `selectattr` and `rejectattr`.
fn choose(budget: &Budget, name: &str, value: &Value, mut args: Args) -> Result<Value> {
    let attribute = if name.ends_with("attr") {
        if args.positional.is_empty() {
            return Err(Error::fails(format!("{name} is missing the attribute's name")));
        }
        Some(args.positional.remove(0))
    } else {
        None
    };
    let test = if args.positional.is_empty() {
        None
    } else {
        Some(named(name, &args.positional.remove(0))?)
    };
    let wanted = name.starts_with("select");
    let mut kept = Vec::new();
    for item in items_of(budget, value)? {
        budget.work(1)?;
        let asked = attribute_of(budget, name, &item, attribute.as_ref(), None)?;
        let holds = match &test {
            None => asked.is_true(),
            Some(test) => {
                let args = Args { positional: args.positional.clone(), named: args.named.clone() };
                super::super::predicates::test(budget, test, &asked, args)?
            }
        };
        if holds == wanted {
            kept.push(item);
        }
    }
    Value::iterator(budget, kept)
}
