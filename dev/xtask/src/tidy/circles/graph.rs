//! Which file of a crate uses which other, and in which line.

use super::paths::{Path, idents, paths};
use crate::tidy::source::{Source, is_word, line_of};
use std::collections::{BTreeMap, BTreeSet};

/// How many imports a name is followed through.
const HOPS: usize = 8;

/// A line in which one file uses another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) from: usize,
    pub(super) to: usize,
    /// From 1.
    pub(super) line: usize,
    /// The path that is written there.
    pub(super) what: String,
}

/// The files of one crate.
pub(super) struct Graph {
    modules: Vec<Module>,
    /// Which file a module path is.
    files: BTreeMap<Vec<String>, usize>,
    /// Names that `#[macro_export]` puts into the root, with the file that defines them.
    macros: BTreeMap<String, usize>,
    pub(super) uses: Vec<Use>,
}

struct Module {
    path: Vec<String>,
    /// The code outside tests.
    code: String,
    paths: Vec<Path>,
    /// Where a module inside the file begins and ends, with its name.
    inner: Vec<(std::ops::Range<usize>, String)>,
}

impl Graph {
    pub(super) fn of(folder: &str, files: &[&Source]) -> Self {
        let modules: Vec<Module> = files.iter().map(|file| Module::of(folder, file)).collect();
        let has_library = files.iter().any(|file| file.path.ends_with("/src/lib.rs"));
        let mut graph =
            Self { modules, files: BTreeMap::new(), macros: BTreeMap::new(), uses: Vec::new() };
        let tests = tests(files, &graph.modules);
        for (at, module) in graph.modules.iter().enumerate() {
            // Beside a library, a program is a crate of its own that nobody can use.
            let is_program = has_library && files[at].path.ends_with("/src/main.rs");
            if !is_program && !tests.iter().any(|test| module.path.starts_with(test)) {
                graph.files.insert(module.path.clone(), at);
            }
            for (begin, _) in module.code.match_indices("#[macro_export]") {
                let name = module.code[begin..].split_once("macro_rules! ");
                let name = name.map_or("", |(_, rest)| rest);
                let width = name.bytes().take_while(|&b| is_word(b)).count();
                graph.macros.insert(name[..width].to_owned(), at);
            }
        }
        let files: Vec<usize> = graph.files.values().copied().collect();
        graph.uses = files.into_iter().flat_map(|from| graph.uses_of(from)).collect();
        graph
    }

    /// The path of a file's module.
    pub(super) fn path(&self, at: usize) -> &[String] {
        &self.modules[at].path
    }

    fn uses_of(&self, from: usize) -> Vec<Use> {
        let module = &self.modules[from];
        let mut found = Vec::new();
        for path in &module.paths {
            let scope = module.scope(path.at);
            let Some(to) = self.resolve(&scope, &path.parts, HOPS) else { continue };
            if to != from {
                let line = line_of(&module.code, path.at);
                found.push(Use { from, to, line, what: path.parts.join("::") });
            }
        }
        found
    }

    /// The file in which what a path names is defined; nothing for other crates' paths.
    fn resolve(&self, scope: &[String], parts: &[String], hops: usize) -> Option<usize> {
        let (mut at, rest) = self.start(scope, parts)?;
        for (index, part) in rest.iter().enumerate() {
            if part == "super" {
                at.pop()?;
                continue;
            }
            let mut below = at.clone();
            below.push(part.clone());
            if self.files.contains_key(&below) {
                at = below;
                continue;
            }
            return self.imported(&at, part, &rest[index + 1..], hops).or_else(|| self.file(&at));
        }
        self.file(&at)
    }

    /// The module that a path starts in, with the rest of the path.
    fn start<'a>(
        &self,
        scope: &[String],
        parts: &'a [String],
    ) -> Option<(Vec<String>, &'a [String])> {
        let (first, rest) = parts.split_first()?;
        match first.as_str() {
            "crate" => Some((Vec::new(), rest)),
            "self" => Some((scope.to_vec(), rest)),
            "super" => Some((scope.split_last()?.1.to_vec(), rest)),
            _ => {
                let mut child = scope.to_vec();
                child.push(first.clone());
                self.files.contains_key(&child).then_some((child, rest))
            }
        }
    }

    /// The file of a name that the module at `at` has from elsewhere.
    fn imported(&self, at: &[String], name: &str, rest: &[String], hops: usize) -> Option<usize> {
        let hops = hops.checked_sub(1)?;
        if at.is_empty()
            && let Some(file) = self.macros.get(name)
        {
            return Some(*file);
        }
        let module = &self.modules[self.file(at)?];
        let names =
            |path: &&Path| path.is_use && path.name == name && module.scope(path.at) == module.path;
        let path = module.paths.iter().find(names)?;
        let parts: Vec<String> = path.parts.iter().chain(rest).cloned().collect();
        self.resolve(&module.path, &parts, hops)
    }

    /// The file of a module, which may stand inside it.
    fn file(&self, path: &[String]) -> Option<usize> {
        (0..=path.len()).rev().find_map(|len| self.files.get(&path[..len]).copied())
    }
}

impl Module {
    fn of(folder: &str, file: &Source) -> Self {
        let below = file.path[folder.len() + "/src/".len()..].trim_end_matches(".rs");
        let path = below.trim_end_matches("/mod");
        let path: Vec<String> = match path {
            "lib" | "main" => Vec::new(),
            _ => path.split('/').map(str::to_owned).collect(),
        };
        let outside = |(_, text, is_test): (usize, &str, bool)| match is_test {
            true => " ".repeat(text.len()),
            false => text.to_owned(),
        };
        let code = file.lines(&file.code).map(outside).collect::<Vec<String>>().join("\n");
        let inner = file.inner_modules();
        Self { paths: paths(&code), path, code, inner }
    }

    /// The module that the code at `at` belongs to.
    fn scope(&self, at: usize) -> Vec<String> {
        let inner = self.inner.iter().filter(|(range, _)| range.contains(&at));
        self.path.iter().cloned().chain(inner.map(|(_, name)| name.clone())).collect()
    }
}

/// The modules that are declared for tests alone.
fn tests(files: &[&Source], modules: &[Module]) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for (file, module) in files.iter().zip(modules) {
        if file.path.ends_with("/tests.rs") {
            found.insert(module.path.clone());
        }
        for (at, word) in idents(&file.code) {
            let name = file.code[at + word.len()..].trim_start();
            let width = name.bytes().take_while(|&b| is_word(b)).count();
            let is_file = name[width..].starts_with(';');
            if word == "mod" && is_file && file.is_test(line_of(&file.code, at)) {
                let mut path = module.path.clone();
                path.push(name[..width].to_owned());
                found.insert(path);
            }
        }
    }
    found
}
