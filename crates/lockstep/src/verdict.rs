//! Reports a verdict in words and in numbers.

use lockstep_client::audit::Audited;
use lockstep_client::outcome::Outcome;
use lockstep_proto::client::Conduct;
use lockstep_verify::audit::{Missing, Unverified, Verified};
use lockstep_verify::coverage::{Coverage, StageCoverage};
use lockstep_verify::fault::Fault;
use lockstep_verify::rates::{self, Cheat, Detects};
use lockstep_verify::receipt::Receipt;
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::output::Style;

/// The report of an audit, ready to be shown.
pub(crate) struct Report {
    /// The result in one word.
    outcome: Outcome,
    /// A line for people, under which `/proof` shows the rest.
    pub(crate) brief: String,
    /// The lines that say to people what was checked.
    lines: Vec<String>,
    /// The lines that say how surely each way to cheat would have been found, if the cells were
    /// drawn honestly.
    rates: Vec<String>,
    /// The coverage as JSON, for scripts.
    pub(crate) coverage: Value,
    /// The fault that was found, if a check failed.
    pub(crate) fault: Option<Fault>,
    /// A sentence that says what is missing for a check, if something is.
    pub(crate) missing: Option<String>,
    /// The conduct of each server, as JSON for scripts.
    pub(crate) conduct: Value,
    /// The exit code of the program.
    pub(crate) exit: Exit,
}

impl Report {
    /// Returns the report of an audit that ran.
    pub(crate) fn of(verdict: &Result<Verified<Receipt>, Unverified>) -> Self {
        match verdict {
            Ok(verified) => Self::verified(verified.coverage()),
            Err(Unverified::Failed(fault)) => Self::failed(fault),
            Err(Unverified::NotChecked { why, coverage }) => Self::not_checked(why, coverage),
        }
    }

    /// Returns the report of an audit of servers that were asked just now.
    pub(crate) fn of_audit(audited: &Audited) -> Self {
        Self::of(&audited.verdict).with_conduct(&audited.conduct)
    }

    /// Returns the report of an audit that was switched off: nothing is checked, as the person
    /// wanted, so the command ends with 0.
    pub(crate) fn off() -> Self {
        Self { exit: Exit::Done, ..Self::unchecked("audits were switched off") }
    }

    /// Returns the report of an answer that could not be audited at all.
    pub(crate) fn unchecked(why: &str) -> Self {
        Self {
            outcome: Outcome::NotChecked,
            brief: format!("not checked · {why}"),
            lines: vec![format!("NOT CHECKED: {why}")],
            rates: Vec::new(),
            coverage: json(&Coverage::default()),
            fault: None,
            missing: Some(why.to_owned()),
            conduct: json!([]),
            exit: Exit::NotChecked,
        }
    }

    fn verified(coverage: &Coverage) -> Self {
        let mut lines = vec!["VERIFIED by this machine, with its own key:".to_owned()];
        lines.extend(words(coverage));
        let rates = rates(coverage);
        Self {
            outcome: Outcome::Verified,
            rates,
            brief: format!("verified · {}", cells(coverage)),
            lines,
            coverage: json(coverage),
            fault: None,
            missing: None,
            conduct: json!([]),
            exit: Exit::Done,
        }
    }

    fn failed(fault: &Fault) -> Self {
        let mut lines = vec![format!("FAILED: {fault}")];
        lines.push(match fault.node() {
            Some(node) => format!("  do not use this answer; the server at fault is {node}"),
            None => {
                "  do not use this answer; no single server is convicted: the file or a message \
                     may have been damaged or changed on its way"
                    .to_owned()
            }
        });
        Self {
            outcome: Outcome::Failed,
            rates: Vec::new(),
            brief: format!("FAILED · {fault} · do not use this answer"),
            lines,
            coverage: json(&Coverage::default()),
            fault: Some(fault.clone()),
            missing: None,
            conduct: json!([]),
            exit: Exit::Failed,
        }
    }

    fn not_checked(why: &Missing, coverage: &Coverage) -> Self {
        let mut lines = vec![format!("NOT CHECKED: {why}")];
        lines.extend(words(coverage));
        let rates = rates(coverage);
        Self {
            outcome: Outcome::NotChecked,
            rates,
            brief: format!("not checked · {why}"),
            lines,
            coverage: json(coverage),
            fault: None,
            missing: Some(why.to_string()),
            conduct: json!([]),
            exit: Exit::NotChecked,
        }
    }

    /// Says whose key it was, if it was not this machine's own.
    pub(crate) fn with_key_of(mut self, file: &str) -> Self {
        if self.outcome == Outcome::Verified
            && let Some(first) = self.lines.first_mut()
        {
            *first = format!("VERIFIED by this machine, with the key {file}:");
        }
        self
    }

    /// Returns all of it for people.
    pub(crate) fn all_lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().chain(&self.rates).map(String::as_str)
    }

    /// Leaves out what holds only if the cells were drawn honestly.
    pub(crate) fn forget_rates(&mut self) {
        self.state_no_rates(&Value::Null);
    }

    /// Puts something in the place of every rate: those of the ring, and those of each stage.
    fn state_no_rates(&mut self, instead: &Value) {
        self.rates.clear();
        self.coverage["detects"] = instead.clone();
        let stages = self.coverage["stages"].as_array_mut();
        stages.into_iter().flatten().for_each(|stage| stage["detects"] = instead.clone());
    }

    /// Returns the style of the verdict on a terminal.
    pub(crate) const fn style(&self) -> Style {
        match self.outcome {
            Outcome::Verified => Style::Good,
            Outcome::Failed => Style::Bad,
            Outcome::NotChecked | Outcome::Withheld => Style::Doubt,
        }
    }

    /// Adds how each server answered. If one withheld openings and nothing failed, *withheld* is
    /// the verdict: nothing is said then about what the audit would have found, because a server
    /// that opens only what is right hides the rest.
    fn with_conduct(mut self, conduct: &[Conduct]) -> Self {
        self.conduct = conduct.iter().map(conduct_json).collect();
        let withheld: Vec<String> = conduct.iter().filter_map(withheld).collect();
        self.outcome = self.outcome.with(conduct);
        if self.outcome != Outcome::Withheld {
            self.lines.extend(withheld.iter().map(|line| format!("  WITHHELD: {line}")));
            return self;
        }
        self.exit = Exit::Withheld;
        self.state_no_rates(&json!([]));
        self.brief = format!("WITHHELD · {} · nothing is claimed", withheld.join("; "));
        self.lines = withheld.iter().map(|line| format!("WITHHELD: {line}")).collect();
        self.lines.push(
            "  what was opened is right, but a server that opens only what is right can hide \
             anything: nothing is claimed"
                .to_owned(),
        );
        self.missing = Some(withheld.join("; "));
        self
    }

    /// Adds verdict, coverage and what failed to a report for scripts.
    pub(crate) fn add_to(&self, report: &mut Value) {
        report["verdict"] = json!(self.outcome.name());
        report["coverage"] = self.coverage.clone();
        report["audited"] = self.conduct.clone();
        if let Some(fault) = &self.fault {
            report["stage"] = json!(fault.stage());
            report["node"] = json!(fault.node().map(|node| node.to_string()));
            let cell = fault.cell.map(|c| json!({ "position": c.position, "layer": c.layer }));
            report["cell"] = json!(cell);
            report["reason"] = json!(fault.reason.to_string());
        } else if let Some(missing) = &self.missing {
            report["reason"] = json!(missing);
        }
    }
}

/// Returns how many cells were checked, of layers and head.
fn cells(coverage: &Coverage) -> String {
    let checked = coverage.cells_checked() + coverage.head_checked;
    let total = coverage.cells_total() + coverage.head_total;
    format!("{} of {} cells", grouped(checked), grouped(total))
}

/// Returns a number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = (digits.len() + 2) % 3 + 1;
    let (head, rest) = digits.split_at(first.min(digits.len()));
    let groups = rest.as_bytes().chunks(3).map(String::from_utf8_lossy);
    groups.fold(head.to_owned(), |text, group| format!("{text},{group}"))
}

/// Returns in words what a server withheld; `None` if it withheld nothing.
fn withheld(conduct: &Conduct) -> Option<String> {
    let why = conduct.unanswered.iter().map(|(why, count)| format!("{why} ({count})"));
    let why = why.collect::<Vec<_>>().join(", ");
    let Conduct { stage, node, asked, withheld, .. } = conduct;
    (*withheld > 0).then(|| {
        let server = stage.saturating_add(1);
        format!("s{server} ({node}) owes {withheld} of {asked} openings: {why}")
    })
}

fn conduct_json(conduct: &Conduct) -> Value {
    let why = conduct.unanswered.iter();
    let why = why.map(|(why, count)| json!({ "reason": why.to_string(), "openings": count }));
    json!({
        "stage": conduct.stage,
        "node": conduct.node.to_string(),
        "asked": conduct.asked,
        "answered": conduct.answered,
        "withheld": conduct.withheld,
        "unanswered": why.collect::<Vec<_>>(),
    })
}

fn words(coverage: &Coverage) -> Vec<String> {
    if coverage.stages.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!(
        "  {} of {} layer cells, {} of {} head cells{}, {} of {} embeddings, every signature and \
         link",
        coverage.cells_checked(),
        coverage.cells_total(),
        coverage.head_checked,
        coverage.head_total,
        if coverage.last_checked { " (the last token's among them)" } else { "" },
        coverage.embeddings_checked,
        coverage.embeddings_total,
    )];
    lines.push(format!(
        "  a wrong product passes unseen with probability below 2^{}: 2^-61 for each of {} \
         products",
        coverage.error_bound_log2(),
        grouped(coverage.products_checked),
    ));
    lines
}

fn rates(coverage: &Coverage) -> Vec<String> {
    if coverage.stages.is_empty() {
        return Vec::new();
    }
    let line = |detects: &Detects| {
        format!(
            "  {:<48} caught with probability {}",
            detects.cheat.to_string(),
            percent(detects.probability)
        )
    };
    coverage.detects().iter().map(line).collect()
}

fn percent(probability: f64) -> String {
    // Never rounded up to certainty, nor to more than it is.
    if probability >= 1.0 {
        return "1".to_owned();
    }
    format!("{:.1} %", (1000.0 * probability).floor() / 10.0)
}

/// Returns for each way to cheat in a stage's own cells how surely it would have been found, as
/// JSON.
fn stage_detects(stage: &StageCoverage) -> Vec<Value> {
    let open = Cheat::ALL.into_iter().filter(|cheat| rates::is_open_to(&stage.strata, *cheat));
    open.map(|cheat| json!({ "name": cheat.name(), "probability": stage.detects(cheat) })).collect()
}

fn json(coverage: &Coverage) -> Value {
    let stages: Vec<Value> = coverage
        .stages
        .iter()
        .map(|stage| {
            json!({
                "layers": stage.layers,
                "layers_checked": stage.layers_checked,
                "cells_total": stage.cells_total,
                "cells_checked": stage.cells_checked,
                "is_complete": stage.is_complete,
                "detects": stage_detects(stage),
            })
        })
        .collect();
    let detects: Vec<Value> = coverage
        .detects()
        .iter()
        .map(|d| {
            let (name, words) = (d.cheat.name(), d.cheat.to_string());
            json!({ "name": name, "cheat": words, "probability": d.probability })
        })
        .collect();
    json!({
        "cells_checked": coverage.cells_checked(),
        "cells_total": coverage.cells_total(),
        "head_checked": coverage.head_checked,
        "head_total": coverage.head_total,
        "embeddings_checked": coverage.embeddings_checked,
        "embeddings_total": coverage.embeddings_total,
        "products_checked": coverage.products_checked,
        "error_bound_log2": coverage.error_bound_log2(),
        "stages": stages,
        "detects": detects,
    })
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (36, "36"), (999, "999"), (1000, "1,000")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(grouped(12_345_678), "12,345,678");
    }
}
