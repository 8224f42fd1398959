//! `cargo xtask tidy`: the invariants of the repository as rules that fail.
//!
//! A boundary that nothing checks is a wish. Each invariant in ARCHITECTURE.md names the rule here
//! that holds it; each rule has a snippet in `tests.rs` that breaks it; and one test runs all rules
//! over the real tree, so that `cargo test` covers them. Rules read text and `cargo metadata`; what
//! needs types is left to clippy.

pub(crate) mod checks;
mod circles;
mod defaults;
mod documents;
mod exceptions;
mod layers;
mod lists;
mod names;
mod prose;
mod shape;
pub(crate) mod source;
mod strict;
pub(crate) mod tree;
mod words;

#[cfg(test)]
mod tests;

use exceptions::{EXCEPTIONS, Exception};
use std::fmt;
use std::path::Path;
use tree::Tree;

/// One invariant.
struct Rule {
    name: &'static str,
    check: Check,
}

enum Check {
    /// Words that must not appear in some files.
    Words(&'static words::Ban),
    /// Anything else.
    Tree(fn(&Tree) -> Vec<Finding>),
}

const RULES: &[Rule] = &[
    Rule { name: "anyhow-in-binary", check: Check::Words(&words::ANYHOW) },
    Rule { name: "checks-removed", check: Check::Tree(checks::removed) },
    Rule { name: "clippy-bans", check: Check::Tree(strict::equal_bans) },
    Rule { name: "crate-tables", check: Check::Tree(documents::crate_tables) },
    Rule { name: "document-lines", check: Check::Tree(shape::document_line_length) },
    Rule { name: "file-length", check: Check::Tree(shape::file_length) },
    Rule { name: "frames-listed", check: Check::Tree(lists::frames) },
    Rule { name: "function-length", check: Check::Tree(shape::function_length) },
    Rule { name: "fuzz-in-tests", check: Check::Tree(names::fuzz_in_tests) },
    Rule { name: "gguf-in-import", check: Check::Words(&words::GGUF) },
    Rule { name: "layers", check: Check::Tree(layers::dependencies) },
    Rule { name: "line-length", check: Check::Tree(shape::line_length) },
    Rule { name: "links", check: Check::Tree(documents::links) },
    Rule { name: "machine-paths", check: Check::Tree(documents::machine_paths) },
    Rule { name: "module-header", check: Check::Tree(shape::module_header) },
    Rule { name: "module-names", check: Check::Tree(names::module_names) },
    Rule { name: "modules-listed", check: Check::Tree(lists::modules) },
    Rule { name: "no-circles", check: Check::Tree(circles::circles) },
    Rule { name: "no-features", check: Check::Tree(layers::features) },
    Rule { name: "no-fused", check: Check::Words(&words::FUSED) },
    Rule { name: "no-sleep-in-tests", check: Check::Tree(words::sleep_in_tests) },
    Rule { name: "no-unfinished", check: Check::Words(&words::UNFINISHED) },
    Rule { name: "no-versions-in-names", check: Check::Tree(names::versions_in_names) },
    Rule { name: "operations-counted", check: Check::Tree(lists::operations) },
    Rule { name: "paths-named", check: Check::Tree(documents::paths_named) },
    Rule { name: "plain-words", check: Check::Tree(prose::plain_words) },
    Rule { name: "printing-in-binary", check: Check::Words(&words::PRINTING) },
    Rule { name: "pure-core", check: Check::Words(&words::IMPURE) },
    Rule { name: "reasons", check: Check::Tree(strict::reasons) },
    Rule { name: "reasons-listed", check: Check::Tree(lists::reasons) },
    Rule { name: "rules-named", check: Check::Tree(documents::rules_named) },
    Rule { name: "runtime-in-client-and-node", check: Check::Words(&words::RUNTIME) },
    Rule { name: "signals-in-binary", check: Check::Words(&words::SIGNALS) },
    Rule { name: "silent-defaults", check: Check::Tree(defaults::silent) },
    Rule { name: "sockets-in-node", check: Check::Words(&words::SOCKETS) },
    Rule { name: "streams-in-output", check: Check::Words(&words::STREAMS) },
    Rule { name: "strict-tier", check: Check::Tree(strict::attributes) },
    Rule { name: "unsafe-in-kernels", check: Check::Words(&words::UNSAFE) },
    Rule { name: "workspace-manifests", check: Check::Tree(layers::manifests) },
];

/// A place where a rule does not hold.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// From 1; 0 means the file as a whole.
    line: usize,
    message: String,
    /// A warning is printed and fails nothing.
    warning: bool,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into(), warning: false }
    }

    fn warning(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { warning: true, ..Self::new(path, line, message) }
    }
}

/// A finding with the rule it breaks.
#[derive(Debug)]
struct Broken {
    rule: &'static str,
    finding: Finding,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { path, line, message, warning } = &self.finding;
        let level = if *warning { "warning" } else { "error" };
        write!(f, "{level}[{}] {path}:{line}: {message}", self.rule)
    }
}

/// Checks the repository at `root` and prints what it finds.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    let tree = Tree::load(root)?;
    let broken = check(&tree, EXCEPTIONS);
    for each in &broken {
        println!("{each}");
    }
    println!("silent-defaults: {} defaults, each with its reason", defaults::excused(&tree));
    match broken.iter().filter(|each| !each.finding.warning).count() {
        0 => Ok(()),
        count => Err(format!("tidy: {count} findings; ARCHITECTURE.md says what each rule is for")),
    }
}

/// Prints how many doc comments of each crate do not say what their item is, and where.
pub(crate) fn print_prose(root: &Path) -> Result<(), String> {
    prose::print(&Tree::load(root)?);
    Ok(())
}

/// Every finding that no exception excuses, and every exception that excuses nothing.
fn check(tree: &Tree, exceptions: &[Exception]) -> Vec<Broken> {
    let mut broken = Vec::new();
    for rule in RULES {
        let findings = match &rule.check {
            Check::Words(ban) => words::check(ban, tree),
            Check::Tree(check) => check(tree),
        };
        broken.extend(findings.into_iter().map(|finding| Broken { rule: rule.name, finding }));
    }
    exceptions::apply(exceptions, broken)
}
