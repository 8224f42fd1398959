//! The report of a simulated run: what was counted, which rare paths were taken, what is wrong.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The named paths that were taken, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<&'static str, u64>);

impl Marks {
    /// Counts that a path was taken.
    pub fn reach(&mut self, mark: &'static str) {
        *self.0.entry(mark).or_default() += 1;
    }

    /// Returns how often a path was taken.
    #[must_use]
    pub fn count(&self, mark: &str) -> u64 {
        self.0.get(mark).copied().unwrap_or_default()
    }

    /// Returns the names of the paths that were taken.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        for (mark, count) in &other.0 {
            *self.0.entry(mark).or_default() += count;
        }
    }
}

/// The counts of a run, or of several runs together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Tokens per second of all clients, as a share of the max-flow bound: of several runs the
    /// least. `None` if the scenario does not measure it.
    pub share_of_max_flow: Option<f64>,
    /// Jain's index of what each client got: of several runs the least. `None` if nobody asked.
    pub jain: Option<f64>,
    /// Requests that were made.
    pub sessions: u64,
    /// Requests that ended, with an answer or an error.
    pub ended: u64,
    /// Answers that were accepted and are not those of a single process.
    pub wrong_tokens: u64,
    /// The times that an honest server was held responsible for something that it did not do.
    pub honest_blamed: u64,
    /// Pages of keys and values that a server held when every session was over and forgotten.
    pub leaked_pages: u64,
    /// The times that more waited somewhere than may.
    pub long_queues: u64,
    /// Servers that somebody knew when they had been gone for longer than their lease.
    pub ghosts: u64,
    /// Nodes that did not know the same servers as the others in the end.
    pub split_views: u64,
    /// Tokens that clients got.
    pub tokens: u64,
    /// Virtual time, in microseconds.
    pub virtual_us: u64,
    /// The paths that were taken, and how often.
    pub marks: Marks,
    /// Other figures of the scenario, by name; those of the last run.
    pub figures: BTreeMap<&'static str, f64>,
    /// The faults that the checkers found, in words.
    pub faults: Vec<String>,
}

impl Report {
    /// Returns whether no checker found anything.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        self.faults.is_empty()
    }

    /// Adds the counts of another run, and keeps the worse of each share.
    pub fn add(&mut self, other: &Self) {
        self.share_of_max_flow = least(self.share_of_max_flow, other.share_of_max_flow);
        self.jain = least(self.jain, other.jain);
        self.sessions += other.sessions;
        self.ended += other.ended;
        self.wrong_tokens += other.wrong_tokens;
        self.honest_blamed += other.honest_blamed;
        self.leaked_pages += other.leaked_pages;
        self.long_queues += other.long_queues;
        self.ghosts += other.ghosts;
        self.split_views += other.split_views;
        self.tokens += other.tokens;
        self.virtual_us += other.virtual_us;
        self.marks.add(&other.marks);
        self.figures.extend(&other.figures);
        self.faults.extend(other.faults.iter().cloned());
    }

    /// Returns the report as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "share_of_max_flow": self.share_of_max_flow,
            "jain": self.jain,
            "sessions": self.sessions,
            "ended": self.ended,
            "wrong_tokens": self.wrong_tokens,
            "honest_blamed": self.honest_blamed,
            "leaked_pages": self.leaked_pages,
            "long_queues": self.long_queues,
            "ghosts": self.ghosts,
            "split_views": self.split_views,
            "tokens": self.tokens,
            "virtual_s": self.virtual_us as f64 / 1e6,
            "marks": self.marks.0,
            "figures": self.figures,
            "faults": self.faults,
        })
    }
}

fn least(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Returns Jain's index of fairness: 1 if all shares are equal, 1/n if one of n has everything;
/// `None` without shares.
#[must_use]
pub fn jain(shares: &[f64]) -> Option<f64> {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    (squares > 0.0).then(|| sum * sum / (shares.len() as f64 * squares))
}
