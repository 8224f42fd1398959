//! Methods about upper and lower case, and about kinds of characters.

use super::super::budget::{Budget, Error, Result};
use super::super::strings::{is_cased, is_printable, is_space, title_case};
use super::super::text::{Builder, Text};

/// Returns whether `name` changes the case.
pub(super) fn changes(name: &str) -> bool {
    matches!(name, "capitalize" | "casefold" | "lower" | "swapcase" | "title" | "upper")
}

/// Returns whether `name` asks what kind of characters there are.
pub(super) fn asks(name: &str) -> bool {
    name.starts_with("is")
}

/// Returns the text in another case.
pub(in super::super) fn change(budget: &Budget, this: &Text, name: &str) -> Result<Text> {
    match name {
        "lower" => this.map_runs(budget, str::to_lowercase),
        "upper" => this.map_runs(budget, str::to_uppercase),
        "casefold" => this.map_runs(budget, |run| run.to_lowercase().replace('ß', "ss")),
        "swapcase" => this.map_runs(budget, |run| {
            run.chars()
                .flat_map(|letter| -> Box<dyn Iterator<Item = char>> {
                    if letter.is_uppercase() {
                        Box::new(letter.to_lowercase())
                    } else {
                        Box::new(letter.to_uppercase())
                    }
                })
                .collect()
        }),
        _ => {
            let mut inside = false;
            let title = name == "title";
            per_letter(budget, this, |letter| {
                let first = !std::mem::replace(&mut inside, !title || is_cased(letter));
                if first { title_case(letter) } else { letter.to_lowercase().collect() }
            })
        }
    }
}

/// Returns the text that `change` makes of each character, from left to right.
pub(in super::super) fn per_letter(
    budget: &Budget,
    this: &Text,
    mut change: impl FnMut(char) -> String,
) -> Result<Text> {
    let mut out = Builder::new(budget);
    for (run, origin) in this.runs(0..this.as_str().len()) {
        budget.make_times(run.len(), 3)?;
        let changed: String = run.chars().map(&mut change).collect();
        out.push_str(&changed, origin)?;
    }
    out.finish_like(this)
}

/// Evaluates the method `name`, which asks what kind of characters `text` has.
pub(super) fn ask(text: &str, name: &str) -> Result<bool> {
    let all = |holds: fn(char) -> bool| !text.is_empty() && text.chars().all(holds);
    // Beyond ASCII, Rust's classes are a little wider than Python's.
    let is_ascii_or = |holds: bool, what: &str| {
        let unsure = text.chars().any(|letter| !letter.is_ascii() && letter.is_numeric());
        if unsure {
            return Err(Error::fails(format!("{what} is not known of all of {text:?}")));
        }
        Ok(holds)
    };
    Ok(match name {
        "isascii" => text.is_ascii(),
        "isspace" => all(is_space),
        "isprintable" => text.chars().all(is_printable),
        "isalpha" => is_ascii_or(all(char::is_alphabetic), name)?,
        "isalnum" => is_ascii_or(all(char::is_alphanumeric), name)?,
        "isdigit" | "isdecimal" | "isnumeric" => {
            is_ascii_or(all(|letter| letter.is_ascii_digit()), name)?
        }
        "islower" => text.chars().any(is_cased) && !text.chars().any(char::is_uppercase),
        "isupper" => text.chars().any(is_cased) && !text.chars().any(char::is_lowercase),
        "isidentifier" => {
            let mut letters = text.chars();
            let starts = |letter: char| letter == '_' || letter.is_alphabetic();
            letters.next().is_some_and(starts)
                && letters.all(|letter| letter == '_' || letter.is_alphanumeric())
        }
        _ => is_title(text),
    })
}

fn is_title(text: &str) -> bool {
    let (mut inside, mut found) = (false, false);
    for letter in text.chars() {
        let is_upper = letter.is_uppercase();
        if (is_upper && inside) || (letter.is_lowercase() && !inside) {
            return false;
        }
        inside = is_cased(letter);
        found |= inside;
    }
    found
}
