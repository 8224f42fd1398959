//! Entries say what they must, fit or are refused with the place, and leave no check out.

use super::entry::{Verdict, parse};
use super::removed;
use crate::tidy::tree::Tree;

const FILE: &str = "crates/lockstep-verify/src/a.rs";
const ENTRY: &str = "\
# A comment.
file: crates/lockstep-verify/src/a.rs
tests: -p lockstep-verify --test it

== a segment ends after it begins
test: tamper::no_layer
     if first != next
-        || end <= first
     {
         return Err(bad);
";
const CODE: &str = "\
fn f() {
    if first != next
        || end <= first
    {
        return Err(bad);
    }
}
";

fn with(entry: &str, code: &str) -> Vec<String> {
    let tree = Tree::of([(FILE, code), ("dev/xtask/ablations/a.patch", entry)]);
    removed(&tree).into_iter().map(|one| format!("{}: {}", one.line, one.message)).collect()
}

#[test]
fn an_entry_says_what_to_change_where_and_which_test_must_fail() {
    let all = parse("a.patch", ENTRY).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].name, "a segment ends after it begins");
    assert_eq!(all[0].place, "a.patch:5");
    assert_eq!(all[0].file, FILE);
    let test = all[0].test().unwrap().to_string();
    assert_eq!(test, "cargo test -p lockstep-verify --test it -- --exact tamper::no_layer");
    let lines = CODE.lines().skip(1).take(4).collect::<Vec<&str>>();
    assert_eq!((all[0].find(CODE), all[0].gone.as_slice()), (Ok(1), &[1][..]));
    assert_eq!(all[0].before, lines);
    assert_eq!(all[0].after, [lines[0], lines[2], lines[3]]);
}

#[test]
fn an_entry_whose_lines_are_not_there_once_is_refused_with_its_place_and_the_missing_line() {
    let entry = &parse("a.patch", ENTRY).unwrap()[0];
    let changed = entry.find(&CODE.replace("end <=", "end <")).unwrap_err();
    assert!(changed.starts_with("a.patch:5: a segment"), "{changed}");
    assert!(changed.contains("\"        || end <= first\" is missing"), "{changed}");
    assert!(entry.find(&CODE.repeat(2)).unwrap_err().contains("stand 2 times"));
    // Lines are whole lines.
    assert!(entry.find(&CODE.replace("    if first", "  x if first")).is_err());
    assert!(entry.find(&CODE.replace("(bad);", "(bad); x")).is_err());
}

#[test]
fn a_file_of_entries_that_lacks_something_is_refused() {
    for (from, to) in [
        ("file: crates/lockstep-verify/src/a.rs\n", ""),
        ("tests: -p lockstep-verify --test it\n", ""),
        ("test: tamper::no_layer\n", ""),
        ("test: tamper::no_layer", "test: "),
        ("-        ||", "*        ||"),
        ("== a segment ends after it begins\n", ""),
        ("-        ||", "         ||"),
        ("test: tamper::no_layer", "why: it is needless"),
    ] {
        let text = ENTRY.replace(from, to);
        assert_ne!(text, ENTRY, "{from:?}");
        let error = parse("a.patch", &text).unwrap_err();
        assert!(error.starts_with("a.patch:"), "{error}");
    }
    let twice = ENTRY.repeat(2);
    assert!(parse("a.patch", &twice).unwrap_err().contains("the name is taken"));
}

#[test]
fn a_check_without_an_entry_is_found_and_a_new_one_is_too() {
    // The first condition has none.
    let found = with(ENTRY, CODE);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("2: 0 entries change this line, which has 1"), "{found:?}");
    let lines = "-    if first != next\n-        || end <= first\n+    if end <= first\n     {\n";
    let both = format!("{ENTRY}\n== spans follow each other\ntest: t\n{lines}");
    assert_eq!(with(&both, CODE), [""; 0]);
    // A new check on a line of its own, in a condition, and among the lines of an entry.
    let next = CODE.replace("    }\n}", "    }\n    keys.get(at).ok_or(Bad)?;\n}");
    assert!(with(&both, &next)[0].starts_with("7: no entry removes this check"));
    let longer = CODE.replace("|| end <= first", "|| end <= first || end > most");
    assert!(with(&both, &longer).iter().any(|one| one.contains("is missing")));
    assert!(with(&both, &longer).iter().any(|one| one.starts_with("3: 0 entries")));
    // Tests check nothing for anybody.
    let tests = format!("{CODE}#[cfg(test)]\nmod tests {{\n    fn g() {{ Err(x) }}\n}}\n");
    assert_eq!(with(&both, &tests), [""; 0]);
}

#[test]
fn what_stays_has_a_reason_and_no_test() {
    let lines =
        "     if first != next\n         || end <= first\n     {\n         return Err(bad);\n";
    let stays = format!("file: {FILE}\n== x\nwhy: it cannot happen\n{lines}");
    let all = parse("a.patch", &stays).unwrap();
    assert_eq!(all[0].verdict, Verdict::Stays("it cannot happen".to_owned()));
    assert!(all[0].test().is_none());
    assert_eq!(with(&stays, CODE), [""; 0]);
    assert!(parse("a.patch", &stays.replace("why: it cannot happen\n", "")).is_err());
    assert!(parse("a.patch", &stays.replace("         ||", "-        ||")).is_err());
}

#[test]
fn an_entry_about_a_file_that_is_not_there_is_found() {
    let tree = Tree::of([("dev/xtask/ablations/a.patch", ENTRY)]);
    assert!(removed(&tree)[0].message.contains("there is no such file"));
}
