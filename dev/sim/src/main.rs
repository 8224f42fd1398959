//! `sim`: runs scenarios from seeds and says which seed fails, and how to repeat it.
#![expect(clippy::print_stdout, reason = "a program for developers")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use sim::report::Report;
use sim::swarm::policy::Policy;
use sim::{balance, churn, faults, sybils};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Uneven machines that serve as much as they can.
    Balance,
    /// Machines that join, leave and crash all the time.
    Churn,
    /// Real servers and clients, with faults that the seed draws.
    Faults,
    /// Honest machines, and nodes that announce layers and speeds that they do not have.
    Sybils,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Who {
    Equal,
    Ours,
    Parallax,
    Petals,
}

impl Who {
    const fn policy(self) -> Policy {
        match self {
            Self::Equal => Policy::Equal,
            Self::Ours => Policy::Ours,
            Self::Parallax => Policy::Parallax,
            Self::Petals => Policy::Petals,
        }
    }
}

impl Scenario {
    const fn name(self) -> &'static str {
        match self {
            Self::Balance => "balance",
            Self::Churn => "churn",
            Self::Faults => "faults",
            Self::Sybils => "sybils",
        }
    }

    /// How many nodes there are if nobody says.
    const fn nodes(self) -> usize {
        match self {
            Self::Balance | Self::Churn => 100,
            Self::Faults => 5,
            Self::Sybils => 20,
        }
    }
}

/// Simulates servers and clients in virtual time.
#[derive(Debug, Parser)]
struct Args {
    /// What is simulated.
    #[arg(long)]
    scenario: Scenario,
    /// How many servers; of several counts (comma-separated) the seeds take turns.
    #[arg(long, value_delimiter = ',')]
    nodes: Vec<usize>,
    /// The first seed: everything follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Go on until a seed fails.
    #[arg(long, conflicts_with = "seeds")]
    forever: bool,
    /// Only these faults, and all of them (comma-separated names).
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Who serves and routes in the scenario `balance`.
    #[arg(long, value_enum, default_value_t = Who::Ours)]
    policy: Who,
    /// Run every policy of the scenario `balance`, and print a table.
    #[arg(long)]
    compare: bool,
    /// The percentage of machines that the scenario `churn` loses in a minute.
    #[arg(long, default_value_t = 10)]
    churn: u64,
    /// The lying nodes of the scenario `sybils`, as a percentage of the honest machines.
    #[arg(long, default_value_t = 100)]
    liars: u64,
    /// Accept answers without an audit, to see what the checkers find then.
    #[arg(long)]
    no_audit: bool,
    /// How many seeds run at once.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    /// Fail if a rare path that the scenario `faults` promises was taken by no seed.
    #[arg(long)]
    every_mark: bool,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if let Some(unknown) = args.faults.iter().find(|name| !faults::names().any(|it| it == **name)) {
        let names: Vec<&str> = faults::names().collect();
        bail!("no fault is called {unknown:?}; there are: {}", names.join(", "));
    }
    if args.every_mark && args.scenario != Scenario::Faults {
        bail!("--every-mark is for the scenario faults: no other promises paths");
    }
    if args.nodes.contains(&0) || args.threads == 0 || args.seeds == 0 {
        bail!("--nodes, --threads and --seeds must be at least 1");
    }
    if args.compare {
        compare(&args);
        return Ok(ExitCode::SUCCESS);
    }
    let began = Instant::now();
    let (total, failed) = run_all(&args);
    let wall_ms = began.elapsed().as_millis();
    let missing = if args.every_mark { missing_marks(&args, &total) } else { Vec::new() };
    print(&args, &total, (&failed, &missing), wall_ms);
    if !missing.is_empty() {
        let text = format!("no seed took these paths: {}", missing.join(", "));
        say(&args, &text);
    }
    let is_ok = failed.is_empty() && missing.is_empty();
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the paths that the chosen faults promise and that no seed took.
fn missing_marks(args: &Args, total: &Report) -> Vec<&'static str> {
    let mut promised = faults::promised_marks(&args.faults);
    promised.retain(|mark| total.marks.count(mark) == 0);
    promised
}

/// Prints a line for people: on standard error if standard output is JSON.
fn say(args: &Args, text: &str) {
    if args.json {
        #[expect(clippy::print_stderr, reason = "standard output is JSON")]
        {
            eprintln!("{text}");
        }
    } else {
        println!("{text}");
    }
}

/// Prints what each policy gives over the same machines: averages over all seeds.
fn compare(args: &Args) {
    println!("policy    tokens/s  of its max flow  max flow of the best  of the best  Jain");
    for policy in Policy::ALL {
        let mut sums = [0.0; 5];
        for at in 0..args.seeds {
            let seed = args.seed.wrapping_add(at);
            let report = balance::run(seed, nodes(args, seed), policy);
            let figure = |name: &str| report.figures.get(name).copied().unwrap_or_default();
            let figures = [
                figure("tokens_per_s"),
                report.share_of_max_flow.unwrap_or_default(),
                figure("max_flow_share_of_best_placement"),
                figure("share_of_best_placement"),
                report.jain.unwrap_or_default(),
            ];
            sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
        }
        let [rate, flow, placed, best, jain] = sums.map(|sum| sum / args.seeds as f64);
        let name = policy.name();
        println!("{name:<8} {rate:>9.1} {flow:>16.3} {placed:>21.3} {best:>12.3} {jain:>5.3}");
    }
}

/// Runs all seeds on several threads; returns the sum of their reports and the seeds that failed.
fn run_all(args: &Args) -> (Report, Vec<u64>) {
    let next = AtomicU64::new(0);
    let found = Mutex::new((Report::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..args.threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let has_failed = found.lock().is_ok_and(|found| !found.1.is_empty());
                    if (at >= args.seeds && !args.forever) || (args.forever && has_failed) {
                        return;
                    }
                    let seed = args.seed.wrapping_add(at);
                    let report = run(args, seed);
                    if let Ok(mut found) = found.lock() {
                        if !report.is_ok() {
                            found.1.push(seed);
                            print_failure(args, seed, &report);
                        }
                        found.0.add(&report);
                    }
                }
            });
        }
    });
    let (total, mut failed) = found.into_inner().unwrap_or_default();
    failed.sort_unstable();
    (total, failed)
}

/// Returns how many servers a seed has.
fn nodes(args: &Args, seed: u64) -> usize {
    let turn = seed.checked_rem(args.nodes.len() as u64).unwrap_or_default();
    args.nodes.get(turn as usize).copied().unwrap_or_else(|| args.scenario.nodes())
}

fn run(args: &Args, seed: u64) -> Report {
    let nodes = nodes(args, seed);
    match args.scenario {
        Scenario::Balance => balance::run(seed, nodes, args.policy.policy()),
        Scenario::Churn => churn::run(seed, nodes, args.churn),
        Scenario::Sybils => sybils::run(seed, nodes, args.liars),
        Scenario::Faults => {
            let only = args.faults.clone();
            let options = faults::Options { nodes, only, is_audited: !args.no_audit };
            faults::run(seed, &options)
        }
    }
}

/// Says what a seed found, and how to repeat it.
fn print_failure(args: &Args, seed: u64, report: &Report) {
    let mut flags = String::new();
    if !args.faults.is_empty() {
        flags = format!(" --faults {}", args.faults.join(","));
    }
    if args.scenario == Scenario::Balance && args.policy != Who::Ours {
        flags.push_str(&format!(" --policy {}", args.policy.policy()));
    }
    if args.scenario == Scenario::Churn {
        flags.push_str(&format!(" --churn {}", args.churn));
    }
    if args.scenario == Scenario::Sybils {
        flags.push_str(&format!(" --liars {}", args.liars));
    }
    if args.no_audit {
        flags.push_str(" --no-audit");
    }
    let (scenario, nodes) = (args.scenario.name(), nodes(args, seed));
    let mut text = format!("seed {seed} failed:\n");
    for fault in &report.faults {
        text.push_str(&format!("  {fault}\n"));
    }
    text.push_str(&format!(
        "repeat it: cargo run --release -p sim -- --scenario {scenario} --nodes {nodes} --seed \
         {seed}{flags}"
    ));
    say(args, &text);
}

fn print(args: &Args, total: &Report, (failed, missing): (&[u64], &[&str]), wall_ms: u128) {
    let mut json = total.to_json();
    if let Some(fields) = json.as_object_mut() {
        fields.insert("scenario".to_owned(), args.scenario.name().into());
        fields.insert(
            "nodes".to_owned(),
            match args.nodes.as_slice() {
                [] | [_] => nodes(args, args.seed).into(),
                several => several.into(),
            },
        );
        fields.insert("seed".to_owned(), args.seed.into());
        fields.insert("seeds".to_owned(), args.seeds.into());
        fields.insert("failed_seeds".to_owned(), failed.into());
        fields.insert("missing_marks".to_owned(), missing.into());
        fields.insert("wall_ms".to_owned(), u64::try_from(wall_ms).unwrap_or(u64::MAX).into());
    }
    if args.json {
        println!("{json}");
    } else {
        println!("{json:#}");
    }
}
