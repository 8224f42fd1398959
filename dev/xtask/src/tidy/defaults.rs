//! Defaults that hide something: in the crates that decide, a value that takes the place of a
//! missing one says why it may.
//!
//! `unwrap_or(0)` reads the same whether the zero is meant or stands for "this can't be". So each
//! of these calls has a comment `// default: why` at its line's end or directly before it. What is
//! no meant default is an error with a type: `lockstep_exact::invariant` has the one for what can't
//! be.

use super::Finding;
use super::source::{Source, line_of, words};
use super::tree::Tree;

/// Calls that put a default in place of nothing or of an error, or drop an error.
const CALLS: [&str; 5] =
    ["unwrap_or", "unwrap_or_default", "unwrap_or_else", ".ok()", "Result::ok"];

/// Where a default could become a wrong answer, a wrong blame or a wrong verdict.
const DECIDING: [&str; 5] = [
    "crates/lockstep-exact/src/",
    "crates/lockstep-kernels/src/",
    "crates/lockstep-node/src/executor/",
    "crates/lockstep-proto/src/",
    "crates/lockstep-verify/src/",
];

const REASON: &str = "// default: ";

/// The lines with a default that has no reason.
pub(super) fn silent(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in deciding(tree) {
        for (line, call) in defaults(file).into_iter().filter(|(line, _)| !has_reason(file, *line))
        {
            let message = format!(
                "`{call}` without `{REASON}why`: an invariant that does not hold is an error \
                 (lockstep_exact::invariant)"
            );
            found.push(Finding::new(&file.path, line, message));
        }
    }
    found
}

/// How many defaults have a reason.
pub(super) fn excused(tree: &Tree) -> usize {
    let of = |file| defaults(file).into_iter().filter(|(line, _)| has_reason(file, *line)).count();
    deciding(tree).map(of).sum()
}

fn deciding(tree: &Tree) -> impl Iterator<Item = &Source> {
    tree.sources.iter().filter(|file| DECIDING.iter().any(|place| file.path.starts_with(place)))
}

/// The calls of a file that are not in tests: (line from 1, the call).
fn defaults(file: &Source) -> Vec<(usize, &'static str)> {
    let of = |call: &'static str| {
        let offsets: Vec<usize> = words(&file.code, call).collect();
        offsets.into_iter().map(move |at| (line_of(&file.code, at), call))
    };
    let mut all: Vec<_> = CALLS.into_iter().flat_map(of).collect();
    all.retain(|(line, _)| !file.is_test(*line));
    all.sort_unstable();
    all
}

/// Whether the comment at the end of a line (from 1), or those directly before it, say why.
fn has_reason(file: &Source, line: usize) -> bool {
    let lines: Vec<&str> = file.prose.lines().collect();
    let says_why = |line: &str| {
        let reason = line.split_once(REASON).map(|(_, reason)| reason.trim());
        reason.is_some_and(|reason| !reason.is_empty())
    };
    let before = lines.iter().take(line - 1).rev();
    let comments = before.take_while(|line| line.trim_start().starts_with("//"));
    lines.get(line - 1).into_iter().chain(comments).any(|line| says_why(line))
}
