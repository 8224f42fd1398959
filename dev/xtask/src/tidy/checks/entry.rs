//! The format of `dev/xtask/ablations/*.patch`: what to remove in which file, and which test must
//! then fail; or what need not be removed, and why.
//!
//! ```text
//! # A comment. What follows is about this file, and tests of this target, until others are named.
//! file: crates/lockstep-verify/src/links.rs
//! tests: -p lockstep-verify --test it
//!
//! == a segment ends after it begins
//! test: tamper::a_segment_of_no_layer
//!                  && segment.first == next
//! -                && segment.end > segment.first;
//! +                ;
//!
//! == the count of layers fits
//! why: a manifest has at most 65,536 layers
//!          let layers = u32::try_from(rules.manifest.layers.len()).unwrap_or(u32::MAX);
//! ```
//!
//! As in a unified diff, lines begin with a blank (stays), `-` (goes) or `+` (comes). There are no
//! line numbers: the lines that stay and go must stand in the file, whole, exactly once.

use std::collections::BTreeSet;
use std::fmt;

/// One check: how to remove it, or why it need not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name of the entry: in words what is checked; no two entries have one name.
    pub(crate) name: String,
    /// The place of the entry: file and line.
    pub(crate) place: String,
    /// The file that it is about, from the repository's root.
    pub(crate) file: String,
    pub(crate) verdict: Verdict,
    /// The lines as they are in the file.
    pub(crate) before: Vec<String>,
    /// Which of them go, counted from 0.
    pub(crate) gone: Vec<usize>,
    /// The lines as they are without the check.
    pub(crate) after: Vec<String>,
}

/// The verdict on a check: whether it can be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is removed, and this test must fail.
    Fails(TestName),
    /// It is not removed, for this reason.
    Stays(String),
}

/// The name of a test that must fail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TestName {
    /// Arguments of `cargo test` that choose the package and the target.
    pub(crate) target: String,
    /// The whole name inside the target.
    pub(crate) name: String,
}

impl fmt::Display for TestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cargo test {} -- --exact {}", self.target, self.name)
    }
}

impl Entry {
    /// Returns the test that must fail, if the check is to be removed.
    pub(crate) const fn test(&self) -> Option<&TestName> {
        match &self.verdict {
            Verdict::Fails(test) => Some(test),
            Verdict::Stays(_) => None,
        }
    }

    /// Returns the line, counted from 0, at which the entry's lines begin in `text`.
    ///
    /// # Errors
    /// Says that they do not stand there exactly once, and which line is the first that is missing.
    pub(crate) fn find(&self, text: &str) -> Result<usize, String> {
        let lines: Vec<&str> = text.lines().collect();
        let fits = |length: usize| {
            let wanted = &self.before[..length];
            lines.windows(length).enumerate().filter(move |(_, found)| *found == wanted)
        };
        let mut places = fits(self.before.len());
        let problem = match (places.next(), places.count()) {
            (Some((at, _)), 0) => return Ok(at),
            (Some(_), others) => format!("stand {} times in", others + 1),
            (None, _) => {
                let known = (1..self.before.len()).take_while(|&n| fits(n).next().is_some());
                let missing = &self.before[known.last().unwrap_or(0)];
                format!("are not in ({missing:?} is missing where it should be)")
            }
        };
        let (place, name, file) = (&self.place, &self.name, &self.file);
        Err(format!(
            "{place}: {name}: its lines {problem} {file}: where the code has changed, so must the \
             entry"
        ))
    }

    fn is_whole(&self) -> bool {
        let changes = !self.gone.is_empty() && self.before != self.after;
        match &self.verdict {
            Verdict::Fails(test) => changes && !test.name.is_empty() && !test.target.is_empty(),
            Verdict::Stays(why) => self.before == self.after && !why.is_empty(),
        }
    }
}

/// Reads a file of entries. `path` is its own.
///
/// # Errors
/// The number of the first line that does not fit, and what was expected.
pub(crate) fn parse(path: &str, text: &str) -> Result<Vec<Entry>, String> {
    let mut all: Vec<Entry> = Vec::new();
    let (mut file, mut target) = (String::new(), String::new());
    for (number, line) in (1..).zip(text.lines()) {
        let wrong = |expected: &str| format!("{path}:{number}: expected {expected}, got {line:?}");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            let verdict = Verdict::Stays(String::new());
            let (name, place, file) = (name.to_owned(), format!("{path}:{number}"), file.clone());
            let (before, gone, after) = (Vec::new(), Vec::new(), Vec::new());
            all.push(Entry { name, place, file, verdict, before, gone, after });
        } else if let Some(named) = line.strip_prefix("file: ") {
            named.clone_into(&mut file);
        } else if let Some(named) = line.strip_prefix("tests: ") {
            named.clone_into(&mut target);
        } else {
            let one = all.last_mut().ok_or_else(|| wrong("`file: `, `tests: ` or `== `"))?;
            add_line(one, line, &target).ok_or_else(|| {
                wrong("`test: NAME`, `why: REASON`, or a line that begins with a blank, `-` or `+`")
            })?;
        }
    }
    let mut names = BTreeSet::new();
    for one in &all {
        if !one.is_whole() || one.before.is_empty() || one.file.is_empty() {
            let needs = "needs a file, and either a test and lines that go, or a reason and none";
            return Err(format!("{}: {}: it {needs}", one.place, one.name));
        }
        if !names.insert(&one.name) {
            return Err(format!("{}: {}: the name is taken", one.place, one.name));
        }
    }
    Ok(all)
}

fn add_line(one: &mut Entry, line: &str, target: &str) -> Option<()> {
    if let Some(name) = line.strip_prefix("test: ") {
        let (target, name) = (target.to_owned(), name.to_owned());
        one.verdict = Verdict::Fails(TestName { target, name });
    } else if let Some(why) = line.strip_prefix("why: ") {
        one.verdict = Verdict::Stays(why.to_owned());
    } else {
        let (kind, rest) = line.split_at_checked(1)?;
        if kind == "-" {
            one.gone.push(one.before.len());
        }
        if matches!(kind, " " | "-") {
            one.before.push(rest.to_owned());
        }
        if matches!(kind, " " | "+") {
            one.after.push(rest.to_owned());
        }
        matches!(kind, " " | "-" | "+").then_some(())?;
    }
    Some(())
}
