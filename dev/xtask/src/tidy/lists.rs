//! Lists in documents against what they list in the code: frames, reasons, operations, modules. A
//! list that is not checked is right on the day it is written.

use std::collections::BTreeSet;

use super::Finding;
use super::documents::quoted;
use super::source::Source;
use super::tree::Tree;

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const PROTOCOL: &str = "docs/protocol.md";
const FAILURE: &str = "crates/lockstep-proto/src/failure.rs";
const OPS: &str = "crates/lockstep-exact/src/ops.rs";

/// The traits that a backend implements.
const TRAITS: [&str; 4] = ["Device", "Products", "Host", "FieldDots"];

/// Frames: the file of the enum, its name, and the directions whose rows list its variants.
const FRAMES: [(&str, &str, &[&str]); 5] = [
    ("crates/lockstep-proto/src/frame/ctl.rs", "ToServer", &["client -> server"]),
    ("crates/lockstep-proto/src/frame/ctl.rs", "ToClient", &["server -> client"]),
    (
        "crates/lockstep-proto/src/frame/ring.rs",
        "RingFrame",
        &["stage -> next stage", "neighbours, both ways"],
    ),
    ("crates/lockstep-proto/src/frame/blobs.rs", "ToHolder", &["node -> holder of files"]),
    ("crates/lockstep-proto/src/frame/blobs.rs", "FromHolder", &["holder of files -> node"]),
];

/// The table of frames in docs/protocol.md has each frame of each direction, and no other.
pub(super) fn frames(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, name, directions) in FRAMES {
        let Some(source) = source(tree, path) else { continue };
        let rows = tree
            .text(PROTOCOL)
            .lines()
            .filter(|line| line.starts_with('|') && directions.iter().any(|of| line.contains(of)));
        let cells = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next());
        let listed = cells.flat_map(quoted).map(|(_, name)| name).collect();
        found.extend(compare(PROTOCOL, name, &listed, &variants(source, name)));
    }
    found
}

/// The tables of reasons and refusals in docs/protocol.md have each of them, and no other.
pub(super) fn reasons(tree: &Tree) -> Vec<Finding> {
    let Some(source) = source(tree, FAILURE) else { return Vec::new() };
    let tables = [("Reason", "| seen | reason |", 2), ("Refusal", "| refusal |", 1)];
    let of = |(name, header, column): (&str, &str, usize)| {
        let lines = tree.text(PROTOCOL).lines().skip_while(|line| !line.starts_with(header));
        let rows = lines.skip(2).take_while(|line| line.starts_with('|'));
        let cells = rows.filter_map(|row| row.split('|').nth(column));
        let listed = cells.flat_map(quoted).map(|(_, name)| name).collect();
        compare(PROTOCOL, name, &listed, &variants(source, name))
    };
    tables.into_iter().flat_map(of).collect()
}

/// ARCHITECTURE says of each trait that a backend implements how many operations it has.
pub(super) fn operations(tree: &Tree) -> Vec<Finding> {
    let Some(source) = source(tree, OPS) else { return Vec::new() };
    TRAITS.iter().filter_map(|name| miscounted(tree, source, name)).collect()
}

/// What is wrong with the number of operations that ARCHITECTURE says of the trait `name`.
fn miscounted(tree: &Tree, source: &Source, name: &str) -> Option<Finding> {
    let head = format!("pub trait {name}");
    let body = source.text.lines().skip_while(|line| {
        !line.strip_prefix(&head).is_some_and(|rest| rest.starts_with([' ', ':']))
    });
    let body = body.take_while(|line| *line != "}");
    let count = body.filter(|line| line.starts_with("    fn ")).count();
    let bold = format!("**`{name}`**");
    let lines = tree.text(ARCHITECTURE).lines();
    let said = lines.skip_while(|line| !line.contains(&bold)).find_map(first_number);
    if said == Some(count) {
        return None;
    }
    let said = said.map_or_else(|| "none".to_owned(), |said| said.to_string());
    let message = format!("`{name}` has {count} operations, and the document says {said}");
    Some(Finding::new(ARCHITECTURE, 0, message))
}

fn first_number(line: &str) -> Option<usize> {
    let word = |word: &str| word.parse().ok();
    line.split_whitespace().find_map(word)
}

/// Each crate's lib.rs that declares modules has a table of them, with every one of its modules but
/// those of tests, and no other.
pub(super) fn modules(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in tree.sources.iter().filter(|source| source.path.ends_with("/src/lib.rs")) {
        let table = source.text.lines().skip_while(|line| !line.starts_with("//! | module"));
        let rows = table.skip(2).take_while(|line| line.starts_with("//! |"));
        let cells = rows.filter_map(|row| row.split('|').nth(1));
        let listed: BTreeSet<&str> = cells.flat_map(quoted).map(|(_, name)| name).collect();
        let declared = source.lines(&source.text).filter(|(_, _, is_test)| !is_test);
        let declared = declared.filter_map(|(_, line, _)| declared_module(line)).collect();
        found.extend(compare(&source.path, "module", &listed, &declared));
    }
    found
}

/// Returns the name of the module that a line declares, whoever can see the module.
fn declared_module(line: &str) -> Option<&str> {
    let declaration = line.strip_prefix("pub(crate) ").or_else(|| line.strip_prefix("pub "));
    declaration.unwrap_or(line).strip_prefix("mod ")?.strip_suffix(';')
}

fn source<'a>(tree: &'a Tree, path: &str) -> Option<&'a Source> {
    tree.sources.iter().find(|source| source.path == path)
}

/// The variants of an enum, as they stand one step below it.
fn variants<'a>(source: &'a Source, name: &str) -> BTreeSet<&'a str> {
    let head = format!("pub enum {name} ");
    let mut lines = source.text.lines().skip_while(|line| !line.trim_start().starts_with(&head));
    let first = lines.next().unwrap_or_default();
    let indent = first.len() - first.trim_start().len();
    let body = lines.take_while(|line| line.get(indent..).is_none_or(|rest| rest != "}"));
    let variant = |line: &'a str| {
        let rest = line.get(indent + 4..)?;
        let is_below = line.get(..indent + 4)?.trim().is_empty();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let is_name = rest.starts_with(|c: char| c.is_ascii_uppercase());
        (is_below && is_name).then_some(&rest[..end])
    };
    body.filter_map(variant).collect()
}

/// What is listed and is not there, and what is there and is not listed.
fn compare(path: &str, of: &str, listed: &BTreeSet<&str>, there: &BTreeSet<&str>) -> Vec<Finding> {
    let missing = there.difference(listed).map(|name| format!("does not list {of} `{name}`"));
    let extra = listed.difference(there).map(|name| format!("lists {of} `{name}`: there is none"));
    missing.chain(extra).map(|message| Finding::new(path, 0, message)).collect()
}
