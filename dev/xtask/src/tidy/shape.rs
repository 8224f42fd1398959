//! Sizes: a line fits a window, a function fits a screen, a file fits a subject; and every file
//! says at its top what it is.

use super::Finding;
use super::tree::Tree;

const LINE_COLUMNS: usize = 100;
const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 800;
const FILE_LINES_COMFORTABLE: usize = 500;

pub(super) fn line_length(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &tree.sources {
        for (line, text, _) in file.lines(&file.text) {
            let columns = text.chars().count();
            if columns > LINE_COLUMNS {
                let message = format!("{columns} columns, at most {LINE_COLUMNS}");
                found.push(Finding::new(&file.path, line, message));
            }
        }
    }
    found
}

/// Lines of documents that are too long; a row of a table can't be wrapped, and may be longer.
pub(super) fn document_line_length(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in tree.texts.iter().filter(|(path, _)| path.ends_with(".md")) {
        for (i, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > LINE_COLUMNS && !line.trim_start().starts_with('|') {
                let message = format!("{columns} columns, at most {LINE_COLUMNS}");
                found.push(Finding::new(path, i + 1, message));
            }
        }
    }
    found
}

pub(super) fn function_length(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &tree.sources {
        for (line, name, length) in file.functions() {
            if length > FUNCTION_LINES {
                let message = format!("fn {name} has {length} lines, at most {FUNCTION_LINES}");
                found.push(Finding::new(&file.path, line, message));
            }
        }
    }
    found
}

pub(super) fn file_length(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &tree.sources {
        let length = file.length();
        if length > FILE_LINES {
            let message = format!("{length} lines without tests, at most {FILE_LINES}");
            found.push(Finding::new(&file.path, 0, message));
        } else if length > FILE_LINES_COMFORTABLE {
            let message = format!("{length} lines without tests: is this one subject?");
            found.push(Finding::warning(&file.path, 0, message));
        }
    }
    found
}

pub(super) fn module_header(tree: &Tree) -> Vec<Finding> {
    let files = tree.sources.iter().filter(|file| !file.text.starts_with("//! "));
    let message = "starts without `//!`: what it is, what it refuses, the invariant";
    files.map(|file| Finding::new(&file.path, 1, message)).collect()
}
