//! `docs/liars.md` shows the table that the tests hold lies against, and what
//! `docs/verification.md` names is in the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lockstep_testing::lie::{Finding, Lie};

#[test]
fn the_document_holds_the_table_of_the_code() {
    let document = include_str!("../../../docs/liars.md");
    let row = |lie: &Lie| {
        let findings: Vec<String> = lie.findings().iter().map(Finding::to_string).collect();
        let blame = match lie.findings() {
            [Finding::Unanswered] => "nobody; the liar is named as withholding",
            [finding] if !finding.names() => "nobody",
            [Finding::BadMark | Finding::BadState] => "nobody; the next server reports the liar",
            _ => "the liar",
        };
        let mut bound_by: Vec<&str> = lie.findings().iter().map(|f| f.bound_by()).collect();
        bound_by.dedup();
        let (name, told, teller) = (lie.name(), lie.told(), lie.teller());
        let (found, by) = (findings.join("; or "), bound_by.join("; or "));
        format!("| `{name}` | {teller} | {told} | {found} | {blame} | {by} |\n")
    };
    let rows: String = Lie::ALL.iter().map(row).collect();
    assert!(document.contains(&rows), "docs/liars.md must hold these rows:\n{rows}");
    assert_eq!(document.matches("\n| `").count(), Lie::ALL.len(), "rows that no lie has");
}

#[test]
fn every_lie_has_its_own_name_and_is_found_by_it() {
    for lie in Lie::ALL {
        assert_eq!(lie.name().parse(), Ok(*lie));
    }
    assert!("honesty".parse::<Lie>().is_err());
}

/// The text of all files of Rust in a folder.
fn rust_of(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_of(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn the_functions_and_types_that_theorems_rest_on_are_in_the_code() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates");
    let mut code = String::new();
    for name in ["lockstep-exact", "lockstep-verify", "lockstep-proto", "lockstep"] {
        rust_of(&crates.join(name).join("src"), &mut code);
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let known: BTreeSet<&str> = code.split(|c| !is_part(c)).collect();
    let document = include_str!("../../../docs/verification.md");
    let (_, document) = document.split_once("## 2. ").unwrap();
    let quoted = document.split('`').skip(1).step_by(2);
    let names = quoted.filter(|name| name.chars().all(|c| is_part(c) || c == ':'));
    let parts: BTreeSet<&str> = names.flat_map(|name| name.split("::")).collect();
    assert!(parts.len() > 90, "{parts:?}");
    let missing: Vec<&&str> = parts.difference(&known).collect();
    assert!(missing.is_empty(), "docs/verification.md names what is not there: {missing:?}");
}
