//! The paths in a file's code: `crate::a::{B, c::D}` is two of them, wherever it stands.

use crate::tidy::source::is_word;

/// A path as it is written, without its generic arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// Where its last part stands in the code.
    pub(super) at: usize,
    /// Its parts; `*` may be the last.
    pub(super) parts: Vec<String>,
    /// The name that it goes by where it stands.
    pub(super) name: String,
    /// Whether it stands in a `use`, and not in an expression, a type or an attribute.
    pub(super) is_use: bool,
}

/// Every path of two parts or more, and every path of a `use`, in `code`.
pub(super) fn paths(code: &str) -> Vec<Path> {
    let mut found = Vec::new();
    let mut done = 0;
    for (at, part) in idents(code) {
        if at < done {
            continue;
        }
        let rest = code[at + part.len()..].trim_start();
        // `use<'a>` in a type captures lifetimes and imports nothing.
        if part == "use" && !rest.starts_with('<') {
            done = branch(code, at + part.len(), &[], true, &mut found);
        } else if rest.starts_with("::") && is_first(&code[..at]) {
            done = branch(code, at, &[], false, &mut found);
        }
    }
    found
}

/// Every identifier with its offset.
pub(super) fn idents(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let bytes = code.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() && !is_word(bytes[at]) {
            at += 1;
        }
        let start = at;
        while at < bytes.len() && is_word(bytes[at]) {
            at += 1;
        }
        (start < at).then(|| (start, &code[start..at]))
    })
}

/// Whether what comes after `before` begins a path: it is no later part of one, and no method.
fn is_first(before: &str) -> bool {
    let before = before.trim_end();
    !before.ends_with("::") && (!before.ends_with('.') || before.ends_with(".."))
}

/// Reads the rest of a path whose first parts are `before`; returns where it ends.
fn branch(
    code: &str,
    from: usize,
    before: &[String],
    is_use: bool,
    found: &mut Vec<Path>,
) -> usize {
    let mut parts = before.to_vec();
    let mut at = skip_space(code, from);
    let mut last = at;
    loop {
        let rest = &code[at..];
        if rest.starts_with('{') && is_use {
            return group(code, at, &parts, is_use, found);
        }
        let width = rest.bytes().take_while(|&b| is_word(b)).count();
        if width == 0 && !rest.starts_with('*') {
            break;
        }
        let width = width.max(1);
        last = at;
        // `a::{self}` is `a`.
        if &rest[..width] != "self" || parts.is_empty() {
            parts.push(rest[..width].to_owned());
        }
        at += width;
        if !code[at..].starts_with("::") {
            break;
        }
        at += 2;
        // Generic arguments end what is read of a path.
        if code[at..].starts_with('<') {
            break;
        }
    }
    let mut name = parts.last().cloned().unwrap_or_default();
    if is_use && let Some(alias) = code[at..].trim_start().strip_prefix("as ") {
        at = code.len() - alias.len();
        let width = alias.bytes().take_while(|&b| is_word(b)).count();
        alias[..width].clone_into(&mut name);
        at += width;
    }
    found.push(Path { at: last, parts, name, is_use });
    at
}

/// Reads `{a, b::c}` after a path; returns where it ends.
fn group(code: &str, from: usize, before: &[String], is_use: bool, found: &mut Vec<Path>) -> usize {
    let mut at = from + 1;
    loop {
        at = skip_space(code, at);
        match code.as_bytes().get(at) {
            None => return at,
            Some(b'}') => return at + 1,
            Some(b',') => at += 1,
            Some(_) => {
                let end = branch(code, at, before, is_use, found);
                // Something that is no path: leave the group.
                if end == at {
                    return at + 1;
                }
                at = end;
            }
        }
    }
}

fn skip_space(code: &str, from: usize) -> usize {
    code.len() - code[from..].trim_start().len()
}
