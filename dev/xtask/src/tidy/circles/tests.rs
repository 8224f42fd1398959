//! Planted circles are found, with the lines that make them; what is none is not.

use super::circles;
use crate::tidy::tree::Tree;

/// The findings in a crate of these files, as `path:line`.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    let paths: Vec<String> = files.iter().map(|(path, _)| format!("crates/a/src/{path}")).collect();
    let files = paths.iter().zip(files).map(|(path, (_, text))| (path.as_str(), *text));
    let findings = circles(&Tree::of(files)).into_iter();
    let place = |path: &str, line| format!("{}:{line}", path.trim_start_matches("crates/a/src/"));
    findings.map(|finding| place(&finding.path, finding.line)).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn a_circle_is_found_with_every_line_that_makes_it() {
    let one = ("one.rs", "//! One.\nuse crate::two::Two;\n");
    let two = ("two.rs", "fn f() {\n    crate::three::g(1);\n}\n");
    let three =
        ("three.rs", "use core::fmt;\nfn g(_: super::one::One) {}\nfn h(_: super::one::X) {}");
    let beside = ("beside.rs", "use crate::one::One;\n");
    assert_eq!(
        found(&[one, two, three, beside]),
        ["one.rs:2", "three.rs:2", "three.rs:3", "two.rs:2"]
    );
    assert_eq!(found(&[one, two, beside]), NONE);
}

#[test]
fn a_finding_names_the_modules_of_the_circle() {
    let tree = Tree::of([
        ("crates/a/src/one.rs", "use crate::two::Two;"),
        ("crates/a/src/two.rs", "use crate::one::One;"),
        ("crates/b/src/one.rs", "use crate::two::Two;"),
        ("crates/b/src/two.rs", ""),
    ]);
    let findings = circles(&tree);
    assert_eq!(findings.len(), 2);
    assert_eq!(
        findings[0].message,
        "`crate::two::Two` makes a circle: `one` uses `two`, and back; it goes through `one`, `two`"
    );
}

#[test]
fn a_parent_and_its_own_children_are_no_circle() {
    let parent = "mod one;\npub use one::One;\nfn f(_: One) { one::g() }\n";
    let child = ("part/one.rs", "use super::f;\nuse crate::part::One;\n");
    assert_eq!(found(&[("part/mod.rs", parent), child]), NONE);
    assert_eq!(found(&[("part.rs", parent), child]), NONE);
    let root = ("lib.rs", "pub mod one;\npub use one::One;\nfn f() { one::g() }\n");
    assert_eq!(found(&[root, ("one.rs", "use crate::f;\n")]), NONE);
}

#[test]
fn a_re_export_does_not_hide_a_circle() {
    let parent = ("part/mod.rs", "mod one;\nmod two;\npub use two::{Other, Two as Second};\n");
    let one = ("part/one.rs", "use super::Second;\n");
    let two = ("part/two.rs", "use super::one::One;\n");
    assert_eq!(found(&[parent, one, two]), ["part/one.rs:1", "part/two.rs:1"]);
    let three = ("part/one.rs", "use super::Third;\n");
    assert_eq!(found(&[parent, three, two]), NONE);
}

#[test]
fn folders_are_compared_with_all_that_is_in_them() {
    let there = ("one/a.rs", "use crate::two::b::B;\n");
    let back = ("two/c.rs", "use crate::one::d::D;\n");
    let ends = [("one/d.rs", ""), ("two/b.rs", "")];
    let roots = [("one/mod.rs", "mod a;\nmod d;\n"), ("two/mod.rs", "mod b;\nmod c;\n")];
    let all: Vec<(&str, &str)> = [there, back].into_iter().chain(ends).chain(roots).collect();
    assert_eq!(found(&all), ["one/a.rs:1", "two/c.rs:1"]);
}

#[test]
fn groups_aliases_globs_and_modules_inside_a_file_are_followed() {
    let back = |text| found(&[("one.rs", text), ("two.rs", "use crate::one::One;")]);
    for text in [
        "use crate::{\n    three,\n    two::{self, Two},\n};",
        "use crate::two as second;",
        "use crate::two::*;",
        "fn f() { x.map(crate::two::g) }",
        "fn f() { for _ in 0..crate::two::N {} }",
        "mod inner {\n    use super::super::two::Two;\n}",
        "impl crate::two::Trait<u8> for X {}",
    ] {
        assert_eq!(back(text).len(), 2 + usize::from(text.contains("self")), "{text}");
    }
    for text in ["use core::two::Two;", "mod inner {\n    use super::two;\n}", "x.two::<u8>()"] {
        assert_eq!(back(text), NONE, "{text}");
    }
}

#[test]
fn an_exported_macro_belongs_to_the_file_that_defines_it() {
    let defines = "#[macro_export]\nmacro_rules! make {\n    () => {};\n}\nuse crate::two::Two;\n";
    let uses = ("two.rs", "use crate::make;\n");
    let root = ("lib.rs", "mod one;\nmod two;\n");
    assert_eq!(found(&[root, ("one.rs", defines), uses]), ["one.rs:5", "two.rs:1"]);
}

#[test]
fn tests_comments_and_texts_make_no_circle() {
    let one = ("one.rs", "use crate::two::Two;\n");
    let fine = |text| assert_eq!(found(&[one, ("two.rs", text)]), NONE, "{text}");
    fine("#[cfg(test)]\nmod tests {\n    use crate::one::One;\n}\n");
    fine("// use crate::one::One;\n/// See [`crate::one`].\nfn f() {}\n");
    fine("const A: &str = \"use crate::one::One;\";\n");
    let declares = ("two.rs", "#[cfg(test)]\nmod drive;\n");
    assert_eq!(found(&[one, declares, ("two/drive.rs", "use crate::one::One;\n")]), NONE);
    assert_eq!(found(&[one, ("two.rs", ""), ("two/tests.rs", "use crate::one::One;\n")]), NONE);
}

#[test]
fn a_program_beside_a_library_is_another_crate() {
    let library = ("lib.rs", "pub mod one;\n");
    let program = ("main.rs", "use a::one::One;\nfn main() {}\n");
    assert_eq!(found(&[library, program, ("one.rs", "use crate::f;\n")]), NONE);
}
