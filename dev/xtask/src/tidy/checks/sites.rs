//! Where the verifier checks something, as far as text shows it, and which of these places no entry
//! of `dev/xtask/ablations/` is about.
//!
//! What the verifier's own program guarantees is no check of what anybody says: where it does not
//! hold, the line makes an error of `lockstep_exact::invariant` ([`INVARIANTS`]), and nothing that
//! a test could send reaches it.
//!
//! A place is a line of the verifier, outside tests, that makes an error or a fault ([`MAKERS`], or
//! a call of a closure that does), or that joins conditions with `&&` or `||`. The first kind must
//! be among the lines of an entry.
//! Of the second kind each condition is a check of its own: as many entries as it has conditions
//! must change the line. An entry with a reason stands for all of a line.

use std::collections::BTreeMap;

use super::super::source::{Source, words};
use super::entry::{Entry, Verdict};

/// The folder whose checks are listed.
pub(super) const FOLDER: &str = "crates/lockstep-verify/src/";

/// Files in it that check nothing of what servers or files say, and why.
pub(super) const OUTSIDE: [(&str, &str); 4] = [
    ("coverage.rs", "counts what was checked; its tests hold it against sums"),
    ("fault.rs", "names and prints faults, and finds none"),
    ("measure.rs", "measures; what it checks it has made itself"),
    ("rates.rs", "derives what a draw finds; tests hold it against placements and simulations"),
];

/// What makes an error or a fault.
const MAKERS: [&str; 11] = [
    "ok_or(",
    "ok_or_else(",
    "map_err(",
    "Reason::",
    "Missing::",
    ".invalid(",
    ".unknown_tag(",
    // Lengths, with their limits.
    "input.bytes(",
    "input.count(",
    "input.list(",
    "input.text(",
];

/// What makes the error of an invariant of the verifier's own.
const INVARIANTS: [&str; 2] = ["Broken::new(", "invariant!("];

/// The lines, counted from 1, that no entry is about, and what is missing there.
pub(super) fn unlisted(source: &Source, entries: &[&Entry]) -> Vec<(usize, String)> {
    let lines: Vec<&str> = source.code.lines().collect();
    let named: Vec<&str> = lines.iter().copied().filter_map(names_error).collect();
    let makes = |line: &str| {
        names_error(line).is_none()
            && (makes_error(line) || named.iter().any(|name| calls(line, name)))
    };
    let mut changes: BTreeMap<usize, usize> = BTreeMap::new();
    let mut about: BTreeMap<usize, bool> = BTreeMap::new();
    for entry in entries {
        // One that does not fit is reported as such.
        let Ok(first) = entry.find(&source.text) else { continue };
        let stays = matches!(entry.verdict, Verdict::Stays(_));
        for at in first..first + entry.before.len() {
            *about.entry(at).or_default() |= stays;
        }
        entry.gone.iter().for_each(|at| *changes.entry(first + at).or_default() += 1);
    }
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate().filter(|(at, _)| !source.is_test(at + 1)) {
        if about.get(&at) == Some(&true) {
            continue;
        }
        let wanted = conditions(line, lines.get(at + 1).copied().unwrap_or_default());
        let got = changes.get(&at).copied().unwrap_or(0);
        if got < wanted {
            let what = format!("{got} entries change this line, which has {wanted} conditions");
            found.push((at + 1, format!("{what}: {}", line.trim())));
        } else if wanted == 0 && makes(line) && !about.contains_key(&at) {
            found.push((at + 1, format!("no entry removes this check: {}", line.trim())));
        }
    }
    found
}

/// Whether a line of code makes an error, and does not only match or pass on one.
fn makes_error(line: &str) -> bool {
    if INVARIANTS.iter().any(|invariant| line.contains(invariant)) {
        return false;
    }
    MAKERS.iter().any(|maker| line.contains(maker))
        || line.match_indices("Err(").any(|(at, _)| {
            let (before, rest) = line.split_at(at);
            let is_matched = rest.contains("=>") && !before.contains("=>");
            !is_matched && !before.ends_with("let ")
        })
}

/// The name of a closure that only names an error for what follows: its calls make it.
fn names_error(line: &str) -> Option<&str> {
    let (name, body) = line.trim_start().strip_prefix("let ")?.split_once(" = |")?;
    makes_error(body).then_some(name)
}

fn calls(line: &str, name: &str) -> bool {
    words(line, name).any(|at| line[at + name.len()..].starts_with('('))
}

/// How many conditions of a line are joined with others: by operators in it, or by one that begins
/// the next line.
fn conditions(line: &str, next: &str) -> usize {
    let joins = operators(line);
    let begins = |line: &str| {
        let line = line.trim_start();
        line.starts_with("&& ") || line.starts_with("|| ")
    };
    match (joins, begins(line)) {
        (0, _) => usize::from(begins(next)),
        (joins, true) => joins,
        (joins, false) => joins + 1,
    }
}

/// Operators between conditions; `||` before a closure's body is none.
fn operators(line: &str) -> usize {
    let padded = format!("{} ", line.trim());
    let joins = |(at, _): &(usize, &str)| {
        let before = padded[..*at].trim_end();
        let word = before.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let ends = before.ends_with(|c: char| c.is_alphanumeric() || ")]}?_\">".contains(c));
        before.is_empty() || ends && !before.ends_with("=>") && word != "move"
    };
    let ors = padded.match_indices("|| ").filter(joins).count();
    padded.match_indices("&& ").filter(joins).count() + ors
}

#[cfg(test)]
mod tests {
    use super::{calls, conditions, makes_error, names_error};

    #[test]
    fn what_makes_an_error_is_told_from_what_matches_one() {
        for line in [
            "return Err(fault);",
            "None => Err(fault),",
            "let key = keys.get(at).ok_or(Missing)?;",
            "if good { Ok(()) } else { Err(bad) }",
            "let bad = || Fault { reason: Reason::Chain };",
            "_ => return Err(input.unknown_tag(\"side\", tag)),",
        ] {
            assert!(makes_error(line), "{line}");
        }
        for line in [
            "Err(fault) => report(fault),",
            "let Err(e) = all else {",
            "let x = y?;",
            "let x = y.ok_or_else(|| Broken::new(\"a row of no cell\"))?;",
        ] {
            assert!(!makes_error(line), "{line}");
        }
    }

    #[test]
    fn a_closure_that_names_an_error_makes_none_but_its_calls_do() {
        assert_eq!(names_error("    let refuse = |why| Err(bad(why));"), Some("refuse"));
        assert_eq!(names_error("    let refuse = |why| good(why);"), None);
        assert!(calls("return refuse(x);", "refuse") && !calls("return no_refuse(x);", "refuse"));
    }

    #[test]
    fn conditions_are_counted_on_the_line_that_they_stand_on() {
        for (line, next, count) in [
            ("if a != b || c.is_empty() {", "return Err(x);", 2),
            ("if a && b() && c[1] {", "", 3),
            ("let fits = a == b", "    && c == d", 1),
            ("    && c == d", "    && e == f;", 1),
            ("    && c == d || g", "", 2),
            ("let tiling = || receipt_fault(x);", "", 0),
            ("let f = move || g();", "", 0),
            ("call(|| g(), |x: &&u8| h());", "", 0),
            ("let x = y;", "z();", 0),
        ] {
            assert_eq!(conditions(line, next), count, "{line}");
        }
    }
}
