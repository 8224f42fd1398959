//! `docs/liars.md` shows the table that the tests hold lies against.

use lockstep_liar::lie::{Finding, Lie};

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
