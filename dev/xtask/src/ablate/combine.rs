//! Many removals in one build: each function from which checks are removed gets one body for each
//! removal beside its own, and takes the one that an environment variable names.
//!
//! So the verifier is built once, and in any run at most one check is gone: without the variable
//! none is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use crate::tidy::checks::entry::Entry;
use crate::tidy::source::Source;

/// The environment variable with the number of the removal.
pub(super) const VARIABLE: &str = "LOCKSTEP_ABLATION";

/// What a crate gets so that its functions can ask which check is gone.
pub(super) const SWITCH: &str = r#"
pub(crate) fn ablated(number: u32) -> bool {
    static GONE: std::sync::OnceLock<Option<u32>> = std::sync::OnceLock::new();
    let gone = || std::env::var("LOCKSTEP_ABLATION").ok()?.parse().ok();
    *GONE.get_or_init(gone) == Some(number)
}
"#;

/// A file's text in which each of the removals, by its number, can be chosen.
///
/// # Errors
/// An entry that does not fit, or whose lines are not all in the body of one function.
pub(super) fn combine(
    path: &str,
    text: &str,
    removals: &[(usize, &Entry)],
) -> Result<String, String> {
    let bodies = Source::new(path, text).bodies();
    let mut changed: BTreeMap<usize, (&Range<usize>, String)> = BTreeMap::new();
    for (number, entry) in removals {
        let lines = bytes_of(text, entry.find(text)?, entry.before.len());
        let around = |body: &&Range<usize>| body.start < lines.start && lines.end <= body.end;
        let body = bodies.iter().filter(around).min_by_key(|body| body.len()).ok_or_else(|| {
            format!("{}: {}: its lines are not those of one function", entry.place, entry.name)
        })?;
        let (_, others) = changed.entry(body.start).or_insert((body, String::new()));
        let (before, after) = (&text[body.start..lines.start], &text[lines.end..body.end]);
        let without: String = entry.after.iter().flat_map(|line| [line, "\n"]).collect();
        let _infallible =
            write!(others, "if crate::ablated({number}) {before}{without}{after}\nelse ");
    }
    let mut out = text.to_owned();
    for (body, others) in changed.values().rev() {
        let whole = format!("{{\n{others}{}\n}}", &text[(*body).clone()]);
        out.replace_range((*body).clone(), &whole);
        not_const(&mut out, body.start);
    }
    Ok(out)
}

/// The removals that a compiler's message is about: of each place in `path` that it names, the one
/// whose body that is in `combined`.
pub(super) fn blamed(said: &str, path: &str, combined: &str) -> Vec<usize> {
    let lines: Vec<&str> = combined.lines().collect();
    let place = |line: &str| -> Option<usize> {
        let rest = line.trim_start().strip_prefix("--> ")?.strip_prefix(path)?;
        rest.strip_prefix(':')?.split(':').next()?.parse().ok()
    };
    let number = |line: &&str| -> Option<usize> {
        let (_, rest) = line.split_once("if crate::ablated(")?;
        rest.split(')').next()?.parse().ok()
    };
    let above = |at: usize| lines.iter().take(at).rev().find_map(number);
    let mut all: Vec<usize> = said.lines().filter_map(place).filter_map(above).collect();
    all.dedup();
    all
}

/// The bytes of some lines, the ends of lines included.
fn bytes_of(text: &str, first: usize, count: usize) -> Range<usize> {
    let mut ends = text.match_indices('\n').map(|(at, _)| at + 1);
    let start = match first {
        0 => 0,
        _ => ends.nth(first - 1).unwrap_or(text.len()),
    };
    start..ends.nth(count - 1).unwrap_or(text.len())
}

/// Takes `const` from the function whose body starts at `body`: it asks for a variable now.
fn not_const(text: &mut String, body: usize) {
    if let Some(at) = text[..body].rfind("fn ")
        && text[..at].ends_with("const ")
    {
        text.replace_range(at - "const ".len()..at, "");
    }
}

#[cfg(test)]
mod tests {
    use super::{blamed, combine};
    use crate::tidy::checks::entry::{Entry, parse};

    const PATH: &str = "crates/a/src/b.rs";
    const CODE: &str = "\
pub const fn first(a: u8) -> bool {
    if a == 0 {
        return false;
    }
    a < 9
}

fn second() {}
";

    fn entries() -> Vec<Entry> {
        let head = format!("file: {PATH}\ntests: -p a --lib\n");
        let zero = "== zero\ntest: t\n-    if a == 0 {\n-        return false;\n-    }\n";
        let nine = "== nine\ntest: t\n-    a < 9\n+    true\n";
        parse("x.patch", &format!("{head}{zero}{nine}")).unwrap()
    }

    #[test]
    fn each_removal_is_a_body_of_its_own_beside_the_whole_one() {
        let entries = entries();
        let numbered: Vec<(usize, &Entry)> = (1..).zip(&entries).collect();
        let combined = combine(PATH, CODE, &numbered).unwrap();
        let expected = "\
pub fn first(a: u8) -> bool {
if crate::ablated(1) {
    a < 9
}
else if crate::ablated(2) {
    if a == 0 {
        return false;
    }
    true
}
else {
    if a == 0 {
        return false;
    }
    a < 9
}
}

fn second() {}
";
        assert_eq!(combined, expected);
        let said = format!("error[E0308]: x\n  --> {PATH}:9:5\n   |\n --> other.rs:3:1\n");
        assert_eq!(blamed(&said, PATH, &combined), [2]);
    }

    #[test]
    fn lines_that_are_not_of_one_function_are_refused() {
        let text = format!("file: {PATH}\ntests: -p a --lib\n== x\ntest: t\n-    a < 9\n }}\n");
        let across = parse("x.patch", &format!("{text} \n-fn second() {{}}\n")).unwrap();
        let error = combine(PATH, CODE, &[(1, &across[0])]).unwrap_err();
        assert!(error.contains("not those of one function"), "{error}");
    }
}
