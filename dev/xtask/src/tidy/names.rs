//! Names: a module is named after its subject, nothing carries its own history in its name, and
//! every fuzz target is named by a test that runs it.

use super::Finding;
use super::source::{is_word, line_of};
use super::tree::Tree;

/// Modules that say nothing about what is in them.
const VAGUE: &[&str] =
    &["common", "helper", "helpers", "manager", "misc", "types", "util", "utils"];

/// Endings of names that tell a history instead of a subject.
const HISTORIES: &[&str] = &["_v2", "_legacy"];

/// The same for files, where `new` and `old` tell one too.
const FILE_HISTORIES: &[&str] = &["_v2", "_legacy", "_new", "_old"];

pub(super) fn module_names(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &tree.sources {
        let stem = file.path.trim_end_matches(".rs");
        for part in stem.split('/').filter(|part| VAGUE.contains(part)) {
            found.push(Finding::new(&file.path, 0, format!("`{part}` hides its subject")));
        }
        for name in VAGUE {
            for (at, _) in file.code.match_indices(&format!("mod {name} {{")) {
                let line = line_of(&file.code, at);
                found.push(Finding::new(&file.path, line, format!("`{name}` hides its subject")));
            }
        }
    }
    found
}

pub(super) fn versions_in_names(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &tree.sources {
        let stem = file.path.trim_end_matches(".rs");
        if FILE_HISTORIES.iter().any(|ending| stem.ends_with(ending)) {
            found.push(Finding::new(&file.path, 0, "a file's name tells its subject, no history"));
        }
        for (line, text, _) in file.lines(&file.code) {
            let mut words = text.split(|c: char| !c.is_ascii() || !is_word(c as u8));
            if let Some(word) = words.find(|w| HISTORIES.iter().any(|ending| w.ends_with(ending))) {
                let message = format!("`{word}`: replace the first version, don't add a second");
                found.push(Finding::new(&file.path, line, message));
            }
        }
    }
    found
}

/// Fuzzing needs a nightly compiler; a bounded run of the same target belongs to every test run.
/// The target `fuzz_targets/frame.rs` is covered by a test called `fuzz_frame…`.
pub(super) fn fuzz_in_tests(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for target in tree.sources.iter().filter(|file| file.path.contains("fuzz/fuzz_targets/")) {
        let name = target.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        let test = format!("fuzz_{name}");
        let covers = |&(line, function, _): &(usize, &str, usize), is_test: bool| {
            is_test && line > 0 && (function == test || function.starts_with(&format!("{test}_")))
        };
        let covered = tree.sources.iter().filter(|file| file.path != target.path).any(|file| {
            file.functions().iter().any(|function| covers(function, file.is_test(function.0)))
        });
        if !covered {
            let message = format!("no test `{test}…` runs this target in bounds");
            found.push(Finding::new(&target.path, 0, message));
        }
    }
    found
}
