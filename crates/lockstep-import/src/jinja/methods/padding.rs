//! Methods that make a text longer.

use super::super::arguments::{Args, int, length, needed, text_or};
use super::super::budget::{Budget, Error, Result};
use super::super::strings::count;
use super::super::text::{Builder, Text};

/// Evaluates `center`, `ljust`, `rjust`, `zfill` and `expandtabs`.
pub(super) fn call(budget: &Budget, this: &Text, name: &str, args: Args) -> Result<Text> {
    match name {
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"])?;
            expand_tabs(budget, this, length(name, size.as_ref(), 8)?)
        }
        "zfill" => zero_fill(budget, this, count(int(name, &args.one(name)?)?)?),
        _ => {
            let [width, fill] = args.bind(name, ["width", "fillchar"])?;
            let width = count(int(name, &needed(name, width)?)?)?;
            let fill = text_or(budget, name, fill.as_ref(), " ")?;
            if fill.chars() != 1 {
                return Err(Error::fails("the fill character must be one character"));
            }
            let missing = width.saturating_sub(this.chars());
            let before = match name {
                "ljust" => 0,
                "rjust" => missing,
                // Python's rule for what can't be halved.
                _ => missing / 2 + (missing & width & 1),
            };
            pad(budget, this, &fill, before, missing - before)
        }
    }
}

/// Returns the text with `before` copies of `fill` before it and `behind` copies after it.
pub(in super::super) fn pad(
    budget: &Budget,
    this: &Text,
    fill: &Text,
    before: usize,
    behind: usize,
) -> Result<Text> {
    let mut out = Builder::new(budget);
    out.push_times(fill, before)?;
    out.push(this)?;
    out.push_times(fill, behind)?;
    out.finish_like(this)
}

/// Pads the text to `width` characters with zeros, which stand after its sign.
fn zero_fill(budget: &Budget, this: &Text, width: usize) -> Result<Text> {
    let sign = usize::from(this.as_str().starts_with(['+', '-']));
    let mut out = Builder::new(budget);
    out.push_slice(this, 0..sign)?;
    out.push_times(&Text::template(budget, "0")?, width.saturating_sub(this.chars()))?;
    out.push_slice(this, sign..this.as_str().len())?;
    out.finish_like(this)
}

fn expand_tabs(budget: &Budget, this: &Text, size: usize) -> Result<Text> {
    let space = Text::template(budget, " ")?;
    let mut out = Builder::new(budget);
    let mut column = 0;
    for (run, origin) in this.runs(0..this.as_str().len()) {
        for part in run.split_inclusive(['\t', '\n', '\r']) {
            let plain = part.trim_end_matches('\t');
            out.push_str(plain, origin)?;
            column = match plain.ends_with(['\n', '\r']) {
                true => 0,
                false => column + plain.chars().count(),
            };
            if plain.len() < part.len() && size > 0 {
                let spaces = size - column % size;
                out.push_times(&space, spaces)?;
                column += spaces;
            }
            budget.work(1)?;
        }
    }
    out.finish_like(this)
}
