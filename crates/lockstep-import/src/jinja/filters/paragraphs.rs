//! Filters about lines and words of a text.

use super::super::budget::{Budget, Error, Result};
use super::super::strings::{byte_of, is_line_end, is_space};
use super::super::text::{Builder, Text};
use super::{Args, Value, flag, length, text_arg};

pub(super) fn apply(budget: &Budget, name: &str, value: &Value, args: Args) -> Result<Value> {
    match name {
        "indent" => indent(budget, value, args).map(Value::Str),
        "truncate" => truncate(budget, value, args).map(Value::Str),
        "wordcount" => {
            args.none(name)?;
            let text = value.to_text(budget)?;
            budget.read(text.as_str().len())?;
            // Words of letters, as a regular expression's `\w+` finds them.
            let is_word = |letter: char| letter == '_' || letter.is_alphanumeric();
            let words = text.as_str().split(|letter| !is_word(letter));
            Ok(Value::Int(words.filter(|word| !word.is_empty()).count() as i128))
        }
        "wordwrap" => wordwrap(budget, value, args).map(Value::Str),
        "urlencode" => {
            args.none(name)?;
            urlencode(budget, value).map(Value::Str)
        }
        "xmlattr" => xmlattr(budget, value, args).map(Value::Str),
        _ => {
            args.none(name)?;
            striptags(budget, value).map(Value::Str)
        }
    }
}

fn indent(budget: &Budget, value: &Value, args: Args) -> Result<Text> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let width = match width {
        Some(Value::Str(text)) => text,
        width => {
            let mut spaces = Builder::new(budget);
            let count = length("indent", width.as_ref(), 4)?;
            spaces.push_times(&Text::template(budget, " ")?, count)?;
            spaces.finish()?
        }
    };
    let (first, blank) = (flag(first.as_ref(), false), flag(blank.as_ref(), false));
    let this = value.to_text(budget)?;
    let whole = this.as_str();
    let mut out = Builder::new(budget);
    if first {
        out.push(&width)?;
    }
    // Python adds a line break before it takes the lines apart, so that a last empty one counts.
    let mut start = 0;
    let mut index = 0;
    loop {
        let rest = whole.get(start..).unwrap_or_default();
        let end = rest.find(is_line_end).map_or(whole.len(), |at| start + at);
        if index > 0 {
            // With `blank`, or on the lines that hold something.
            if blank || end > start {
                out.push(&width)?;
            }
        }
        out.push_slice(&this, start..end)?;
        budget.work(1)?;
        if end == whole.len() {
            break;
        }
        out.own("\n")?;
        start = super::super::methods::behind_line_end(whole, end);
        index += 1;
    }
    out.finish_like(&this)
}

fn truncate(budget: &Budget, value: &Value, args: Args) -> Result<Text> {
    let names = ["length", "killwords", "end", "leeway"];
    let [most, kill, end, leeway] = args.bind("truncate", names)?;
    let most = length("truncate", most.as_ref(), 255)?;
    let end = text_arg(budget, "truncate", end.as_ref(), "...")?;
    let leeway = length("truncate", leeway.as_ref(), 5)?;
    if most < end.chars() {
        return Err(Error::fails(format!("expected length >= {}, got {most}", end.chars())));
    }
    let this = value.to_text(budget)?;
    budget.read(this.as_str().len())?;
    if this.chars() <= most.saturating_add(leeway) {
        return Ok(this);
    }
    let cut = byte_of(this.as_str(), most - end.chars());
    let kept = this.as_str().get(..cut).unwrap_or_default();
    let cut = match kept.rfind(' ') {
        Some(space) if !flag(kill.as_ref(), false) => space,
        _ => cut,
    };
    let mut out = Builder::new(budget);
    out.push_slice(&this, 0..cut)?;
    out.push(&end)?;
    out.finish()
}

fn wordwrap(budget: &Budget, value: &Value, args: Args) -> Result<Text> {
    let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, long, wrap, _] = args.bind("wordwrap", names)?;
    let width = length("wordwrap", width.as_ref(), 79)?;
    let wrap = text_arg(budget, "wordwrap", wrap.as_ref(), "\n")?;
    let this = value.to_text(budget)?;
    let whole = this.as_str();
    budget.read(whole.len())?;
    let plain = whole
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || letter == ' ' || letter == '\n');
    let fits = whole.split([' ', '\n']).all(|word| word.len() <= width);
    if !plain || !fits || whole.contains("  ") || !flag(long.as_ref(), true) {
        return Err(Error::fails(
            "wordwrap of words with marks, or of long ones, is not supported",
        ));
    }
    let mut out = Builder::new(budget);
    let (mut start, mut column) = (0, 0);
    for word in whole.split_inclusive([' ', '\n']) {
        let len = word.trim_end_matches([' ', '\n']).len();
        if column > 0 && column + 1 + len > width {
            out.push(&wrap)?;
            column = 0;
        } else if column > 0 {
            out.own(" ")?;
            column += 1;
        }
        out.push_slice(&this, start..start + len)?;
        column += len;
        start += word.len();
        if word.ends_with('\n') {
            out.push(&wrap)?;
            column = 0;
        }
        budget.work(1)?;
    }
    out.finish()
}

fn urlencode(budget: &Budget, value: &Value) -> Result<Text> {
    if !matches!(value, Value::Str(_) | Value::Int(_) | Value::Float(_)) {
        return Err(Error::fails("urlencode of anything but a text is not supported"));
    }
    let this = value.to_text(budget)?;
    let mut out = Builder::new(budget);
    for (run, origin) in this.runs(0..this.as_str().len()) {
        budget.make_times(run.len(), 3)?;
        let mut encoded = String::new();
        for byte in run.bytes() {
            if byte.is_ascii_alphanumeric() || b"_.-~/".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                encoded += &format!("%{byte:02X}");
            }
        }
        out.push_str(&encoded, origin)?;
    }
    out.finish()
}

fn xmlattr(budget: &Budget, value: &Value, args: Args) -> Result<Text> {
    let [space] = args.bind("xmlattr", ["autospace"])?;
    let Value::Dict(dict) = value else {
        return Err(Error::fails("xmlattr expects a dict"));
    };
    let mut out = Builder::new(budget);
    let space = flag(space.as_ref(), true);
    for (key, value) in &dict.entries {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let key = key.to_text(budget)?;
        if key.as_str().contains(|letter| is_space(letter) || "/>=".contains(letter)) {
            return Err(Error::fails(format!(
                "Invalid character in attribute name: {:?}",
                key.as_str()
            )));
        }
        if space || out.len() > 0 {
            out.own(" ")?;
        }
        super::escape(&mut out, &key)?;
        out.own("=\"")?;
        super::escape(&mut out, &value.to_text(budget)?)?;
        out.own("\"")?;
    }
    out.finish()?.with_markup(budget, true)
}

fn striptags(budget: &Budget, value: &Value) -> Result<Text> {
    let this = value.to_text(budget)?;
    let whole = this.as_str();
    budget.read(whole.len())?;
    if whole.contains('&') || whole.contains("<!--") {
        return Err(Error::fails("striptags of entities or comments is not supported"));
    }
    let mut kept = Builder::new(budget);
    let mut at = 0;
    while let Some(open) = whole.get(at..).and_then(|rest| rest.find('<')) {
        let open = at + open;
        let Some(close) = whole.get(open..).and_then(|rest| rest.find('>')) else { break };
        kept.push_slice(&this, at..open)?;
        at = open + close + 1;
    }
    kept.push_slice(&this, at..whole.len())?;
    let kept = kept.finish()?;
    // White space becomes one space between words.
    let mut out = Builder::new(budget);
    let mut start = 0;
    for word in kept.as_str().split(is_space) {
        if !word.is_empty() {
            if out.len() > 0 {
                out.own(" ")?;
            }
            out.push_slice(&kept, start..start + word.len())?;
        }
        let next = kept.as_str().get(start + word.len()..).and_then(|rest| rest.chars().next());
        start += word.len() + next.map_or(0, char::len_utf8);
    }
    out.finish()
}
