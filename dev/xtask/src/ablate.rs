//! `cargo xtask ablate`: removes each check of the verifier once, and demands that a named test
//! fails.
//!
//! A check that can be removed without a failing test protects nobody: the next change may remove
//! it unseen. `dev/xtask/ablations/` lists the checks and how to remove each
//! ([`crate::tidy::checks`]). That is done in a copy of the tree under `target/ablate`, never in
//! the tree itself; there each check can be removed when the tests run ([`combine`]), one in each
//! run. Without any removal the same tests must pass.
//!
//! It runs a test for each check, so it is no step of `cargo xtask ci`. That the entries fit the
//! tree and leave no check out is a rule of `cargo xtask tidy`.

mod bench;
mod combine;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use crate::tidy::checks::entry::Entry;
use crate::tidy::{checks, tree::Tree};
use bench::{Bench, Outcome};

/// What to do, as the command line says it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// Only checks with one of these texts in their name, file or entry's file.
    only: Vec<String>,
    /// Print the checks and do nothing.
    is_list: bool,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match *argument {
                "--list" => options.is_list = true,
                "--only" => {
                    let text = rest.next().ok_or("--only needs a text: part of a name or file")?;
                    options.only.push((*text).to_owned());
                }
                other => return Err(format!("ablate knows no {other:?}")),
            }
        }
        Ok(options)
    }

    fn choose(&self, entry: &Entry) -> bool {
        let texts = [&entry.name, &entry.file, &entry.place];
        let has = |text: &String| texts.iter().any(|of| of.contains(text.as_str()));
        self.only.is_empty() || self.only.iter().any(has)
    }
}

/// Removes every chosen check, and fails unless each removal is noticed.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<(), String> {
    let options = Options::parse(arguments)?;
    let entries = checks::entries(&Tree::load(root)?)?;
    let chosen: Vec<&Entry> = entries.iter().filter(|entry| options.choose(entry)).collect();
    if options.is_list {
        list(&chosen);
        return Ok(());
    }
    let removals: Vec<&Entry> = chosen.into_iter().filter(|entry| entry.test().is_some()).collect();
    if removals.is_empty() {
        return Err(format!("no check to remove has {:?} in its name or file", options.only));
    }
    println!("building the tests with {} removals", removals.len());
    let bench = Bench::new(root, &removals)?;
    check_whole(&bench, &removals)?;
    remove_all(&bench)
}

fn list(entries: &[&Entry]) {
    for entry in entries {
        match entry.test() {
            Some(test) => println!("{}: {}\n    {test}", entry.file, entry.name),
            None => println!("{}: stays: {}", entry.file, entry.name),
        }
    }
    let removed = entries.iter().filter(|entry| entry.test().is_some()).count();
    println!("{removed} checks to remove, {} that stay", entries.len() - removed);
}

/// Without a removal all tests pass that are to fail with one.
fn check_whole(bench: &Bench<'_>, removals: &[&Entry]) -> Result<(), String> {
    let mut targets: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for test in removals.iter().filter_map(|entry| entry.test()) {
        targets.entry(&test.target).or_default().insert(&test.name);
    }
    for (target, names) in targets {
        let names: Vec<&str> = names.into_iter().collect();
        let failing = bench.not_passing(target, &names)?;
        if !failing.is_empty() {
            let failing = failing.join(", ");
            return Err(format!("with all checks in place, {target}: not passing: {failing}"));
        }
        println!("{target}: {} tests pass with all checks in place", names.len());
    }
    Ok(())
}

fn remove_all(bench: &Bench<'_>) -> Result<(), String> {
    let (start, mut bad) = (Instant::now(), Vec::new());
    let all = bench.removals().len();
    for (number, entry) in bench.removals() {
        let Some(test) = entry.test() else { continue };
        let outcome = bench.without(*number, test)?;
        let (seconds, name, word) = (start.elapsed().as_secs(), &entry.name, word(&outcome));
        println!("{number:>3}/{all} {seconds:>5} s  {word:<12} {name}");
        if outcome != Outcome::Noticed {
            bad.push(format!("{word}: {}: {name} ({test})", entry.place));
        }
    }
    println!("{all} checks removed, {} noticed", all - bad.len());
    if bad.is_empty() { Ok(()) } else { Err(format!("ablate:\n  {}", bad.join("\n  "))) }
}

const fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Noticed => "noticed",
        Outcome::Survived => "SURVIVED",
        Outcome::NoSuchTest => "NO SUCH TEST",
        Outcome::BrokenOff => "BROKEN OFF",
    }
}
