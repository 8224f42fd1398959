//! The command line is read as documented, and what is said of a test run is what it says.

use std::collections::BTreeSet;
use std::fs;

use super::Options;
use super::bench::{Outcome, judge, remove_others};
use crate::tidy::checks::entry::parse;

#[test]
fn options_are_read_and_others_refused() {
    assert_eq!(Options::parse(&[]), Ok(Options::default()));
    let options = Options::parse(&["--only", "links", "--only", "sums"]).unwrap();
    assert!(!options.is_list);
    assert_eq!(options.only, ["links", "sums"]);
    assert!(Options::parse(&["--list"]).unwrap().is_list);
    for wrong in [&["--only"][..], &["--all"], &["links"]] {
        assert!(Options::parse(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn only_chooses_by_name_file_and_entrys_file() {
    let text = "file: src/a.rs\ntests: -p x --lib\n== a check of sums\ntest: t\n-x\n";
    let entry = &parse("ablations/b.patch", text).unwrap()[0];
    let chosen = |only: &str| Options::parse(&["--only", only]).unwrap().choose(entry);
    assert!(chosen("sums") && chosen("a.rs") && chosen("b.patch") && !chosen("links"));
    assert!(Options::default().choose(entry));
}

#[test]
fn a_run_says_whether_the_named_test_failed() {
    let of = |said: &str| judge(said, "tamper::no_layer");
    let failed = "\nrunning 1 test\ntest tamper::no_layer ... FAILED\n\nfailures:\n\n\
                  ---- tamper::no_layer stdout ----\n\nthread panicked\n\n\
                  test result: FAILED. 0 passed; 1 failed; 0 ignored;\n";
    assert_eq!(of(failed), Outcome::Noticed);
    let passed = "\nrunning 1 test\ntest tamper::no_layer ... ok\n\n\
                  test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured;\n";
    assert_eq!(of(passed), Outcome::Survived);
    let none = "\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored;\n";
    assert_eq!(of(none), Outcome::NoSuchTest);
    // Another test's failure, an abort and a deadline are no failure of the named one.
    assert_eq!(of(&failed.replace("no_layer", "no_layers")), Outcome::BrokenOff);
    assert_eq!(of("\nrunning 1 test\nmemory allocation failed\n"), Outcome::BrokenOff);
    // Ignored: neither.
    let ignored = "\nrunning 1 test\ntest tamper::no_layer ... ignored\n\n\
                   test result: ok. 0 passed; 0 failed; 1 ignored;\n";
    assert_eq!(of(ignored), Outcome::BrokenOff);
}

#[test]
fn a_file_that_the_tree_no_longer_has_is_removed_from_the_copy() {
    let folder = std::env::temp_dir().join(format!("lockstep-ablate-{}", std::process::id()));
    let (kept, gone) = (folder.join("src/manifest/mod.rs"), folder.join("src/manifest.rs"));
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    for file in [&kept, &gone] {
        fs::write(file, "").unwrap();
    }
    remove_others(&folder, &BTreeSet::from([kept.clone()])).unwrap();
    let left = (kept.is_file(), gone.exists());
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(left, (true, false));
}
