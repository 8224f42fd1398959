//! The rule `checks-removed`: every check of the verifier stands in `dev/xtask/ablations/`, with a
//! test that fails without it, or with the reason why it stays.
//!
//! The rule reads text: that every entry fits the tree, and that no place that makes a fault or an
//! error is without one ([`sites`]). Whether the tests do fail is what `cargo xtask ablate` finds
//! out.

pub(crate) mod entry;
mod sites;
#[cfg(test)]
mod tests;

use entry::Entry;

use super::Finding;
use super::tree::Tree;

/// Where the entries are.
const ENTRIES: &str = "dev/xtask/ablations/";

/// Returns all entries, in the order of their files.
///
/// # Errors
/// The first line that does not fit the format.
pub(crate) fn entries(tree: &Tree) -> Result<Vec<Entry>, String> {
    let files = tree.texts.iter().filter(|(path, _)| path.starts_with(ENTRIES));
    let mut all = Vec::new();
    for (path, text) in files {
        all.extend(entry::parse(path, text)?);
    }
    Ok(all)
}

/// Entries that do not fit the tree, and checks that no entry is about.
pub(super) fn removed(tree: &Tree) -> Vec<Finding> {
    let all = match entries(tree) {
        Ok(all) => all,
        Err(error) => return vec![Finding::new(ENTRIES, 0, error)],
    };
    let mut found = Vec::new();
    for entry in &all {
        let source = tree.sources.iter().find(|source| source.path == entry.file);
        let fits = match source {
            Some(source) => entry.find(&source.text).map(|_| ()),
            None => Err(format!("{}: {}: there is no such file", entry.place, entry.name)),
        };
        found.extend(fits.err().map(|error| Finding::new(&entry.file, 0, error)));
    }
    for source in &tree.sources {
        let Some(name) = source.path.strip_prefix(sites::FOLDER) else { continue };
        if sites::OUTSIDE.iter().any(|(file, _)| *file == name) {
            continue;
        }
        let of_file: Vec<&Entry> = all.iter().filter(|one| one.file == source.path).collect();
        for (line, what) in sites::unlisted(source, &of_file) {
            let what = format!("{what}: add one to {ENTRIES} (docs/testing.md says how)");
            found.push(Finding::new(&source.path, line, what));
        }
    }
    found
}
