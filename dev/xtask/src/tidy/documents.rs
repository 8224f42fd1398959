//! Documents that name things: crates, rules, files. A name that points nowhere is a lie.

use super::tree::Tree;
use super::{Finding, RULES};

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const README: &str = "README.md";

/// README and ARCHITECTURE list every package, and none that doesn't exist.
pub(super) fn crate_tables(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for document in [README, ARCHITECTURE] {
        let quoted = quoted(tree.text(document));
        for package in &tree.packages {
            if !quoted.iter().any(|(_, q)| *q == package.name || *q == package.folder) {
                found.push(Finding::new(document, 0, format!("does not list `{}`", package.name)));
            }
        }
        for (line, name) in quoted.iter().filter(|(_, name)| is_crate_name(name)) {
            if !tree.packages.iter().any(|package| package.name == *name) {
                found.push(Finding::new(document, *line, format!("there is no crate `{name}`")));
            }
        }
    }
    found
}

fn is_crate_name(text: &str) -> bool {
    text.strip_prefix("lockstep-").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_lowercase()))
}

/// What stands between single back-ticks: (line from 1, text).
pub(super) fn quoted(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (i, line) in text.lines().enumerate() {
        found.extend(line.split('`').skip(1).step_by(2).map(|quote| (i + 1, quote)));
    }
    found
}

/// ARCHITECTURE names the rule behind each invariant, so every rule has a place there.
pub(super) fn rules_named(tree: &Tree) -> Vec<Finding> {
    let quoted = quoted(tree.text(ARCHITECTURE));
    let unnamed = RULES.iter().filter(|rule| !quoted.iter().any(|(_, text)| *text == rule.name));
    unnamed
        .map(|rule| {
            let message = format!("no invariant names the rule `{}`", rule.name);
            Finding::new(ARCHITECTURE, 0, message)
        })
        .collect()
}

/// Every relative link of a document leads to a file or folder.
pub(super) fn links(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in tree.texts.iter().filter(|(path, _)| path.ends_with(".md")) {
        for (i, line) in text.lines().enumerate() {
            for target in targets(line).filter(|target| !leads_somewhere(tree, path, target)) {
                let message = format!("the link `{target}` leads nowhere");
                found.push(Finding::new(path, i + 1, message));
            }
        }
    }
    found
}

/// What stands in `](…)` on a line.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

fn leads_somewhere(tree: &Tree, document: &str, target: &str) -> bool {
    let file = target.split('#').next().unwrap_or_default();
    if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in file.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part != ".." {
            parts.push(part);
        } else if parts.pop().is_none() {
            return false;
        }
    }
    tree.paths.contains(&parts.join("/"))
}

/// What a path has in the place of any name.
const ANY_NAME: [&str; 2] = ["*", "NAME"];

/// Every path in back-ticks that begins with a folder of the root leads to a file or folder.
pub(super) fn paths_named(tree: &Tree) -> Vec<Finding> {
    let tops: Vec<&str> =
        tree.paths.iter().filter_map(|path| path.split_once('/')).map(|(top, _)| top).collect();
    let is_path = |text: &str| {
        let top = text.split_once('/').map(|(top, _)| top);
        top.is_some_and(|top| tops.contains(&top)) && !text.contains(char::is_whitespace)
    };
    let mut found = Vec::new();
    for (document, text) in tree.texts.iter().filter(|(path, _)| path.ends_with(".md")) {
        for (line, path) in quoted(text).into_iter().filter(|(_, quote)| is_path(quote)) {
            if !is_there(tree, path.trim_end_matches('/')) {
                let message = format!("there is no `{path}`");
                found.push(Finding::new(document, line, message));
            }
        }
    }
    found
}

fn is_there(tree: &Tree, path: &str) -> bool {
    let any = ANY_NAME.iter().find_map(|any| path.split_once(any));
    let Some((before, after)) = any else { return tree.paths.contains(path) };
    tree.paths.iter().any(|there| there.starts_with(before) && there.ends_with(after))
}

/// Top folders that belong to one machine and not to the repository.
const MACHINE_FOLDERS: &[&str] = &["home", "root", "Users", "work", "workspace"];

/// No file names a path that exists on its author's machine only.
pub(super) fn machine_paths(tree: &Tree) -> Vec<Finding> {
    let sources = tree.sources.iter().map(|file| (file.path.as_str(), file.text.as_str()));
    let texts = tree.texts.iter().map(|(path, text)| (path.as_str(), text.as_str()));
    let mut found = Vec::new();
    for (path, text) in sources.chain(texts) {
        for (i, line) in text.lines().enumerate() {
            if let Some(folder) = MACHINE_FOLDERS.iter().find(|folder| names_folder(line, folder)) {
                let message = format!("a path below /{folder} exists on one machine only");
                found.push(Finding::new(path, i + 1, message));
            }
        }
    }
    found
}

/// Whether a line holds an absolute path into a top folder.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(&format!("/{folder}/")).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "./_-}".contains(c))
    })
}
