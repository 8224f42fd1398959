//! No circles: the modules of a crate use each other in one direction.
//!
//! A file is a module; `graph` reads from its paths which others it uses. At each level, from the
//! crate's root down to the innermost folder, the modules that lie side by side are compared, each
//! with all that is inside it: those that lead back to themselves are a circle. A parent that
//! declares, re-exports or uses its own children, and a child that uses its parent, are one module
//! at the level above, and no circle among themselves.
//!
//! Tests are left out. What text cannot show is left out too: a method that is called on another
//! module's type, and a macro that is not exported.

mod graph;
mod paths;
#[cfg(test)]
mod tests;

use super::Finding;
use super::source::Source;
use super::tree::Tree;
use graph::{Graph, Use};
use std::collections::{BTreeMap, BTreeSet};

/// The path of a module.
type Name<'a> = &'a [String];

/// Every line that makes a circle, with the modules of the circle.
pub(super) fn circles(tree: &Tree) -> Vec<Finding> {
    let mut crates: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
    for file in &tree.sources {
        if let Some((folder, _)) = file.path.split_once("/src/") {
            crates.entry(folder).or_default().push(file);
        }
    }
    crates.into_iter().flat_map(|(folder, files)| in_crate(folder, &files)).collect()
}

fn in_crate(folder: &str, files: &[&Source]) -> Vec<Finding> {
    let graph = Graph::of(folder, files);
    let sides = |each: &Use| side_by_side(graph.path(each.from), graph.path(each.to));
    let mut next: BTreeMap<Name<'_>, BTreeSet<Name<'_>>> = BTreeMap::new();
    for (from, to) in graph.uses.iter().filter_map(sides) {
        next.entry(from).or_default().insert(to);
    }
    let reached: BTreeMap<Name<'_>, BTreeSet<Name<'_>>> =
        next.keys().map(|&name| (name, reach(&next, name))).collect();
    let leads = |from: Name<'_>, to: Name<'_>| reached.get(from).is_some_and(|r| r.contains(to));
    let mut found = Vec::new();
    for each in &graph.uses {
        let Some((from, to)) = sides(each).filter(|(from, to)| leads(to, from)) else { continue };
        let circle = reached.keys().filter(|name| leads(from, name) && leads(name, from));
        let names: Vec<String> = circle.map(|name| format!("`{}`", name.join("::"))).collect();
        let message = format!(
            "`{}` makes a circle: `{}` uses `{}`, and back; it goes through {}",
            each.what,
            from.join("::"),
            to.join("::"),
            names.join(", "),
        );
        found.push(Finding::new(&files[each.from].path, each.line, message));
    }
    found
}

/// The outermost modules that two files are in and that differ; nothing if one file is around the
/// other.
fn side_by_side<'a>(from: Name<'a>, to: Name<'a>) -> Option<(Name<'a>, Name<'a>)> {
    let same = from.iter().zip(to).take_while(|(one, other)| one == other).count();
    Some((from.get(..=same)?, to.get(..=same)?))
}

/// Everything that can be reached from a module in one step or more.
fn reach<'a>(next: &BTreeMap<Name<'a>, BTreeSet<Name<'a>>>, start: Name<'a>) -> BTreeSet<Name<'a>> {
    let mut reached = BTreeSet::new();
    let mut left = vec![start];
    while let Some(at) = left.pop() {
        for to in next.get(at).into_iter().flatten() {
            if reached.insert(*to) {
                left.push(to);
            }
        }
    }
    reached
}
