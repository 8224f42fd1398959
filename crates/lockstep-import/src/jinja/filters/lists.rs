//! Filters about whole collections: their order, length, groups.

use std::cmp::Ordering;
use std::rc::Rc;

use super::super::budget::{Budget, Error, Result};
use super::super::ops::{equal, order, sort_by};
use super::super::value::ITEM_BYTES;
use super::{Args, Value, attribute_of, flag, int_or, needed, text, text_arg, without_case};

pub(super) fn apply(budget: &Budget, name: &str, value: &Value, args: Args) -> Result<Value> {
    match name {
        "count" | "length" => {
            args.none(name)?;
            Ok(Value::Int(value.len(budget)? as i128))
        }
        "list" => {
            args.none(name)?;
            Value::list(budget, value.items(budget)?)
        }
        "items" => {
            args.none(name)?;
            match value {
                Value::Undefined(_) => Value::iterator(budget, Vec::new()),
                Value::Dict(dict) => {
                    let view = Value::View(super::super::value::View::Items, dict.clone());
                    Value::iterator(budget, view.items(budget)?)
                }
                _ => Err(Error::fails("Can only get item pairs from a mapping.")),
            }
        }
        "max" | "min" => extreme(budget, name, value, args),
        "sort" => {
            let names = ["reverse", "case_sensitive", "attribute"];
            let [reverse, case, attribute] = args.bind(name, names)?;
            let case = flag(case.as_ref(), false);
            let mut keyed = keyed(budget, name, value, attribute.as_ref(), case)?;
            sort_by(budget, &mut keyed, flag(reverse.as_ref(), false), |(key, _)| key.clone())?;
            Value::list(budget, keyed.into_iter().map(|(_, item)| item).collect())
        }
        "dictsort" => dictsort(budget, value, args),
        "unique" => {
            let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let case = flag(case.as_ref(), false);
            let keyed = keyed(budget, name, value, attribute.as_ref(), case)?;
            let (mut seen, mut kept): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
            for (key, item) in keyed {
                if matches!(key, Value::List(_) | Value::Dict(_)) {
                    return Err(Error::fails("unhashable values have no unique ones"));
                }
                let mut known = false;
                for other in &seen {
                    known |= equal(budget, other, &key)?;
                }
                if !known {
                    seen.push(key);
                    kept.push(item);
                }
            }
            Value::iterator(budget, kept)
        }
        "groupby" => groupby(budget, value, args),
        _ => parts(budget, name, value, args),
    }
}

/// Returns the items of `value`, each behind what it is ordered by.
fn keyed(
    budget: &Budget,
    name: &str,
    value: &Value,
    attribute: Option<&Value>,
    case_sensitive: bool,
) -> Result<Vec<(Value, Value)>> {
    let items = value.items(budget)?;
    budget.make_times(2 * ITEM_BYTES, items.len())?;
    let attributes: Vec<Value> = match attribute {
        Some(Value::Str(names)) if name == "sort" && names.as_str().contains(',') => names
            .as_str()
            .split(',')
            .map(|name| Value::text(budget, name))
            .collect::<Result<_>>()?,
        Some(attribute) => vec![attribute.clone()],
        None => Vec::new(),
    };
    let key = |item: &Value| {
        let one = |attribute: Option<&Value>| {
            let found = attribute_of(budget, name, item, attribute, None)?;
            without_case(budget, &found, case_sensitive)
        };
        match attributes.as_slice() {
            [] => one(None),
            [attribute] => one(Some(attribute)),
            several => {
                let keys = several.iter().map(|attribute| one(Some(attribute)));
                Value::list(budget, keys.collect::<Result<_>>()?)
            }
        }
    };
    items.into_iter().map(|item| Ok((key(&item)?, item))).collect()
}

fn extreme(budget: &Budget, name: &str, value: &Value, args: Args) -> Result<Value> {
    let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
    let case = flag(case.as_ref(), false);
    let mut best: Option<(Value, Value)> = None;
    for (key, item) in keyed(budget, name, value, attribute.as_ref(), case)? {
        let better = match &best {
            None => true,
            Some((known, _)) => {
                let wanted = if name == "max" { Ordering::Greater } else { Ordering::Less };
                order(budget, &key, known)? == Some(wanted)
            }
        };
        if better {
            best = Some((key, item));
        }
    }
    let none = || Value::undefined("No aggregated item, sequence was empty.");
    Ok(best.map_or_else(none, |(_, item)| item))
}

fn dictsort(budget: &Budget, value: &Value, args: Args) -> Result<Value> {
    let [case, by, reverse] = args.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let by = text_arg(budget, "dictsort", by.as_ref(), "key")?;
    let Value::Dict(dict) = value else {
        return Err(Error::fails("dictsort expects a dict"));
    };
    let case = flag(case.as_ref(), false);
    let by_value = match by.as_str() {
        "key" => false,
        "value" => true,
        _ => return Err(Error::fails("You can only sort by either 'key' or 'value'")),
    };
    let mut keyed = Vec::new();
    for (key, item) in &dict.entries {
        let ordered = without_case(budget, if by_value { item } else { key }, case)?;
        keyed.push((ordered, Value::tuple(budget, vec![key.clone(), item.clone()])?));
    }
    sort_by(budget, &mut keyed, flag(reverse.as_ref(), false), |(key, _)| key.clone())?;
    Value::list(budget, keyed.into_iter().map(|(_, item)| item).collect())
}

fn groupby(budget: &Budget, value: &Value, args: Args) -> Result<Value> {
    let names = ["attribute", "default", "case_sensitive"];
    let [attribute, default, case] = args.bind("groupby", names)?;
    let attribute = needed("groupby", attribute)?;
    let case = flag(case.as_ref(), false);
    let mut keyed: Vec<(Value, Value, Value)> = Vec::new();
    for item in value.items(budget)? {
        let found = attribute_of(budget, "groupby", &item, Some(&attribute), default.as_ref())?;
        keyed.push((without_case(budget, &found, case)?, found, item));
    }
    sort_by(budget, &mut keyed, false, |(key, ..)| key.clone())?;
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for (key, found, item) in keyed {
        match groups.last_mut() {
            Some((known, _, items)) if equal(budget, known, &key)? => items.push(item),
            _ => groups.push((key, found, vec![item])),
        }
    }
    let pairs = groups
        .into_iter()
        .map(|(_, found, items)| Value::tuple(budget, vec![found, Value::list(budget, items)?]));
    Value::list(budget, pairs.collect::<Result<_>>()?)
}

/// Evaluates the filters `batch`, which makes rows of a number of items, and `slice`, which makes a
/// number of columns.
fn parts(budget: &Budget, name: &str, value: &Value, args: Args) -> Result<Value> {
    let parameter = if name == "batch" { "linecount" } else { "slices" };
    let [size, fill] = args.bind(name, [parameter, "fill_with"])?;
    let size = int_or(name, Some(&needed(name, size)?), 1)?;
    let size = usize::try_from(size).ok().filter(|size| *size > 0);
    let size = size.ok_or_else(|| Error::fails(format!("{name} expects at least 1")))?;
    let items = value.items(budget)?;
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let mut rows: Vec<Vec<Value>> = Vec::new();
    if name == "batch" {
        rows.extend(items.chunks(size).map(<[Value]>::to_vec));
        if let (Some(fill), Some(last)) = (fill, rows.last_mut()) {
            budget.make_times(ITEM_BYTES, size - last.len())?;
            last.resize(size, fill);
        }
    } else {
        budget.make_times(ITEM_BYTES, size)?;
        let (each, longer) = (items.len() / size, items.len() % size);
        let mut items = items.into_iter();
        for row in 0..size {
            let count = each + usize::from(row < longer);
            let mut found: Vec<Value> = items.by_ref().take(count).collect();
            if row >= longer {
                found.extend(fill.clone());
            }
            rows.push(found);
        }
    }
    let rows = rows.into_iter().map(|row| Value::list(budget, row));
    Value::iterator(budget, rows.collect::<Result<_>>()?)
}

/// Items one by one, without a name for an argument that must be a text.
pub(super) fn named(callee: &str, value: &Value) -> Result<Rc<str>> {
    text(callee, value).map(|name| name.as_str().into())
}
