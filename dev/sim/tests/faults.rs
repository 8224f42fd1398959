//! The scenario `faults`: no checker finds anything, every promised path is taken, and the checkers
//! can fail.

use sim::faults::{Options, names, promised_marks, run};
use sim::report::{Marks, Report};

fn options(only: &[&str]) -> Options {
    let only = only.iter().map(|name| (*name).to_owned()).collect();
    Options { nodes: 5, only, is_audited: true }
}

/// Runs a seed, in which nothing must be wrong.
fn sound(seed: u64, options: &Options) -> Report {
    let report = run(seed, options);
    assert!(report.is_ok(), "seed {seed}, {options:?}: {:#?}", report.faults);
    assert_eq!(report.sessions, report.ended, "seed {seed}");
    let bad = [report.wrong_tokens, report.honest_blamed, report.leaked_pages, report.long_queues];
    assert_eq!(bad, [0; 4], "seed {seed}");
    report
}

#[test]
fn whatever_happens_every_session_ends_and_no_answer_is_wrong_and_nobody_honest_is_blamed() {
    let mut total = Report::default();
    for nodes in 1..=8 {
        for seed in 0..5 {
            total.add(&sound(seed, &Options { nodes, ..options(&[]) }));
        }
    }
    assert!(total.sessions > 500 && total.tokens > 500, "{total:?}");
}

/// Each failed once; what it was stands beside the check or in the network that was wrong.
#[test]
fn seeds_that_failed_once_stay_sound() {
    // A stage slept and found its links closed; a liar alone in its ring; links that lost a frame
    // and carried those behind it, in a partition and after a break; a late frame of a session
    // before, which counted as the answer of a stage that had not heard of the next; a liar whose
    // client hears nothing, because it keeps the answer back.
    for (nodes, seed) in [(5, 23), (5, 43), (5, 243), (12, 455), (6, 485), (4, 803)] {
        sound(seed, &Options { nodes, ..options(&[]) });
    }
}

#[test]
fn every_fault_takes_the_paths_that_it_promises() {
    for name in names() {
        let options = options(&[name]);
        let promised = promised_marks(&options.only);
        let mut marks = Marks::default();
        let reached = (0..60).any(|seed| {
            marks.add(&sound(seed, &options).marks);
            promised.iter().all(|mark| marks.count(mark) > 0)
        });
        assert!(reached, "{name} promises {promised:?} and takes {marks:?}");
    }
}

#[test]
fn a_seed_decides_everything() {
    for seed in 20..25 {
        assert_eq!(run(seed, &options(&[])), run(seed, &options(&[])), "seed {seed}");
    }
}

#[test]
fn without_audits_lies_are_accepted_and_the_checker_sees_them() {
    let options = Options { is_audited: false, ..options(&["lying-stage"]) };
    let wrong = (0..30).map(|seed| run(seed, &options)).filter(|report| report.wrong_tokens > 0);
    let wrong: Vec<Report> = wrong.collect();
    assert!(wrong.len() > 3, "{} seeds", wrong.len());
    assert!(wrong.iter().all(|report| !report.is_ok()));
}
