//! `cargo xtask ci`: every check a change must pass, in the order in which they are cheap.
//!
//! All steps use the release profile, so that one build of the dependencies serves the lints, the
//! tests and the program. The first failing step ends the run.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::process::{cargo_command, finish};

pub(crate) fn run(root: &Path) -> Result<(), String> {
    step("format", || cargo(root, &["fmt", "--all", "--check"]))?;
    step("tidy", || crate::tidy::run(root))?;
    step("lints", || {
        cargo(
            root,
            &["clippy", "--workspace", "--all-targets", "--release", "--", "-D", "warnings"],
        )
    })?;
    // Tests of real processes start the program.
    step("program", || cargo(root, &["build", "--workspace", "--release"]))?;
    step("tests", || tests(root))?;
    // The machines, the verifier and the arithmetic once more, with debug assertions on.
    step("assertions", || cargo(root, &CHECKED))?;
    step("simulation", || command(root, SIMULATION))?;
    step("networks", || command(root, NETWORKS))?;
    step("vectors", || VECTOR_CHECKS.iter().try_for_each(|line| command(root, line)))?;
    step("PTX texts", || command(root, "python3 dev/ptx.py"))?;
    step("aarch64", || crate::aarch64::run_if_possible(root))?;
    step("wasm", || crate::wasm::run_if_possible(root))?;
    step("documentation", || {
        let mut command = cargo_command(root, &["doc", "--workspace", "--release", "--no-deps"]);
        command.env("RUSTDOCFLAGS", "-D warnings");
        finish(command)
    })
}

/// The tests of the crates that decide, in the profile whose broken invariants are loud.
const CHECKED: [&str; 12] = [
    "test",
    "--profile",
    "checked",
    "--lib",
    // The verifier's whole suite: its invariants hold under every lie.
    "--test",
    "it",
    "-p",
    "lockstep-exact",
    "-p",
    "lockstep-verify",
    "-p",
    "lockstep-proto",
];

/// A thousand seeds of servers, clients and faults, spread over small and larger swarms. A rare
/// path that none of them takes is a failure too.
const SIMULATION: &str = "cargo run --release -p sim -- --scenario faults \
     --nodes 1,2,3,4,5,6,8,12 --seeds 1000 --every-mark --json";

/// Servers behind routers and on a local network; the tests say so where namespaces can't be made.
const NETWORKS: &str =
    "cargo test --release -p lockstep --test networks -- --ignored --nocapture --test-threads 1";

/// What says that the golden vectors are those of the generator and those of the arithmetic: the
/// commands of `vectors/README.md` that are no tests.
const VECTOR_CHECKS: [&str; 2] =
    ["cargo run --release -p lockstep-exact --example vectors", "python3 vectors/check.py"];

/// Runs a command line as documents show it.
fn command(root: &Path, line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    match words.next() {
        Some("cargo") => cargo(root, &words.collect::<Vec<_>>()),
        Some(program) => {
            let mut command = Command::new(program);
            command.current_dir(root).args(words);
            finish(command)
        }
        None => Ok(()),
    }
}

fn step(name: &str, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    println!("==> {name}");
    let start = Instant::now();
    work().map_err(|error| format!("{name}: {error}"))?;
    println!("==> {name}: passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<(), String> {
    finish(cargo_command(root, arguments))
}

/// Runs the README's test command, passing its output on, and adds up the runner's summaries.
fn tests(root: &Path) -> Result<(), String> {
    let mut command = cargo_command(root, &["test", "--workspace", "--release"]);
    command.stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let output = child.stdout.take().ok_or("the test runner's output was not captured")?;
    let mut total = Summary::default();
    for line in BufReader::new(output).lines() {
        let line = line.map_err(|error| format!("the test runner's output: {error}"))?;
        println!("{line}");
        total.add(&line);
    }
    let status = child.wait().map_err(|error| format!("{command:?}: {error}"))?;
    println!(
        "test summary: {} passed, {} failed, {} ignored",
        total.passed, total.failed, total.ignored
    );
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}

/// The sum over all `test result:` lines of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Summary {
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        for part in counts.split([';', '.']) {
            let mut words = part.split_whitespace();
            let Some(Ok(count)) = words.next().map(str::parse::<u64>) else { continue };
            match words.next() {
                Some("passed") => self.passed += count,
                Some("failed") => self.failed += count,
                Some("ignored") => self.ignored += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Summary, VECTOR_CHECKS};

    #[test]
    fn every_check_of_the_vectors_is_a_step_or_a_test() {
        let readme = include_str!("../../../vectors/README.md");
        let lines = readme.lines().filter_map(|line| line.strip_prefix("| `"));
        let commands = lines.filter_map(|line| line.split_once('`')).map(|(command, _)| command);
        let checks: Vec<&str> = commands
            .filter(|command| command.contains(' ') && !command.contains("--bless"))
            .filter(|command| !command.starts_with("cargo test"))
            .collect();
        for check in VECTOR_CHECKS {
            assert!(checks.contains(&check), "{check} is not in the document: {checks:?}");
        }
        assert_eq!(checks.len(), VECTOR_CHECKS.len(), "{checks:?}");
    }

    #[test]
    fn the_summary_adds_up_every_result_line_and_nothing_else() {
        let mut total = Summary::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out",
            "test a ... ok",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            total.add(line);
        }
        assert_eq!(total, Summary { passed: 4, failed: 2, ignored: 1 });
    }
}
