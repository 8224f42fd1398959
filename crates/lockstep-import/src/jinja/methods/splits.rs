//! Methods that cut a text into parts.

use std::ops::Range;

use super::super::arguments::{Args, flag, text, times};
use super::super::budget::{Budget, Error, Result};
use super::super::strings::{is_line_end, is_space, places};
use super::super::text::Text;
use super::super::value::{ITEM_BYTES, Value};
use super::{behind_line_end, parts_of};

/// Evaluates `split`, `rsplit`, `splitlines`, `partition` and `rpartition`.
pub(super) fn call(budget: &Budget, this: &Text, name: &str, args: Args) -> Result<Value> {
    let whole = this.as_str();
    budget.read(whole.len())?;
    match name {
        "split" | "rsplit" => {
            let [separator, most] = args.bind(name, ["sep", "maxsplit"])?;
            let (most, from_right) = (times(name, most.as_ref())?, name == "rsplit");
            let parts = match separator {
                None | Some(Value::None) => words(budget, whole, most, from_right)?,
                Some(separator) => {
                    let separator = text(name, &separator)?;
                    between(budget, whole, separator.as_str(), most, from_right)?
                }
            };
            Value::list(budget, parts_of(budget, this, parts)?)
        }
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            let parts = lines(budget, whole, flag(keep.as_ref(), false))?;
            Value::list(budget, parts_of(budget, this, parts)?)
        }
        _ => {
            let separator = text(name, &args.one(name)?)?;
            let separator = separator.as_str();
            if separator.is_empty() {
                return Err(Error::fails("empty separator"));
            }
            let end = whole.len();
            let found =
                if name == "partition" { whole.find(separator) } else { whole.rfind(separator) };
            let parts = match found {
                Some(at) => [0..at, at..at + separator.len(), at + separator.len()..end],
                None if name == "partition" => [0..end, end..end, end..end],
                None => [0..0, 0..0, 0..end],
            };
            Value::tuple(budget, parts_of(budget, this, parts)?)
        }
    }
}

/// Returns the parts between `separator`.
fn between(
    budget: &Budget,
    whole: &str,
    separator: &str,
    most: usize,
    from_right: bool,
) -> Result<Vec<Range<usize>>> {
    if separator.is_empty() {
        return Err(Error::fails("empty separator"));
    }
    let cuts = if from_right {
        let mut cuts: Vec<usize> = Vec::new();
        for (at, _) in whole.rmatch_indices(separator).take(most) {
            budget.make(size_of::<usize>())?;
            cuts.push(at);
        }
        cuts.reverse();
        cuts
    } else {
        places(budget, whole, separator)?.into_iter().take(most).collect()
    };
    budget.make_times(ITEM_BYTES, cuts.len())?;
    let mut parts = Vec::with_capacity(cuts.len() + 1);
    let mut start = 0;
    for cut in cuts {
        parts.push(start..cut);
        start = cut + separator.len();
    }
    parts.push(start..whole.len());
    Ok(parts)
}

/// Returns the parts between white space.
fn words(budget: &Budget, whole: &str, most: usize, from_right: bool) -> Result<Vec<Range<usize>>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut start = None;
    for (at, letter) in whole.char_indices() {
        match (is_space(letter), start) {
            (true, Some(from)) => {
                budget.make(size_of::<Range<usize>>())?;
                words.push(from..at);
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
    }
    words.extend(start.map(|from| from..whole.len()));
    if words.len() <= most {
        return Ok(words);
    }
    // The last part holds what was not cut, without white space on its outer side.
    if from_right {
        let mut kept = words.split_off(words.len() - most);
        let end = words.last().map_or(0, |word| word.end);
        kept.insert(0, 0..end);
        return Ok(kept);
    }
    let start = words.get(most).map_or(0, |word| word.start);
    words.truncate(most);
    words.push(start..whole.len());
    Ok(words)
}

fn lines(budget: &Budget, whole: &str, keep: bool) -> Result<Vec<Range<usize>>> {
    let mut lines = Vec::new();
    let mut start = 0;
    while let Some(end) = whole.get(start..).and_then(|rest| rest.find(is_line_end)) {
        budget.make(size_of::<Range<usize>>())?;
        let end = start + end;
        let next = behind_line_end(whole, end);
        lines.push(start..if keep { next } else { end });
        start = next;
    }
    if start < whole.len() {
        lines.push(start..whole.len());
    }
    Ok(lines)
}
