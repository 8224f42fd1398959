//! A copy of the tree from which any check can be removed, and what the tests say there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::combine::{SWITCH, VARIABLE, blamed, combine};
use crate::process::cargo_command;
use crate::tidy::checks::entry::{Entry, TestName};

/// Where the copy of the tree and its build go, from the repository's root.
const WORK: &str = "target/ablate";
/// How long tests may take without a check: some would never end.
const DEADLINE: Duration = Duration::from_secs(300);
/// Settings of the build: neither building nor running takes longest.
const SETTINGS: [(&str, &str); 3] = [
    ("CARGO_PROFILE_DEV_OPT_LEVEL", "1"),
    ("CARGO_PROFILE_DEV_DEBUG", "0"),
    ("CARGO_INCREMENTAL", "1"),
];

/// What a removed check led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The named test failed, as it should.
    Noticed,
    /// The named test passed: nothing notices that the check is gone.
    Survived,
    /// There is no test of that name.
    NoSuchTest,
    /// The tests neither passed nor failed: they were aborted or ran out of time.
    BrokenOff,
}

/// The copy and its build.
pub(super) struct Bench<'e> {
    work: PathBuf,
    tree: PathBuf,
    /// The removals by their numbers, which begin with 1.
    removals: Vec<(usize, &'e Entry)>,
    /// By the arguments that choose them.
    programs: BTreeMap<String, Program>,
}

/// A test program.
struct Program {
    path: PathBuf,
    /// The folder of its package, in which tests run.
    folder: PathBuf,
}

impl<'e> Bench<'e> {
    /// Copies the files that git knows, makes the checks removable, and builds the tests. What has
    /// not changed keeps its time, so that it is not built again.
    pub(super) fn new(root: &Path, entries: &[&'e Entry]) -> Result<Self, String> {
        let work = root.join(WORK);
        let removals = (1..).zip(entries.iter().copied()).collect();
        let (tree, programs) = (work.join("tree"), BTreeMap::new());
        let mut bench = Self { work, tree, removals, programs };
        bench.copy(root)?;
        let targets: BTreeSet<&str> =
            entries.iter().filter_map(|entry| Some(entry.test()?.target.as_str())).collect();
        for target in targets {
            let program = bench.build(target)?;
            bench.programs.insert(target.to_owned(), program);
        }
        Ok(bench)
    }

    fn copy(&self, root: &Path) -> Result<(), String> {
        let listed = Command::new("git").current_dir(root).args(["ls-files", "-z"]).output();
        let listed = listed.map_err(|error| format!("git ls-files: {error}"))?;
        if !listed.status.success() {
            return Err("git ls-files failed: ablate works in a git checkout".to_owned());
        }
        let crates: BTreeSet<&str> = self
            .removals
            .iter()
            .filter_map(|(_, entry)| entry.file.split_once("/src/"))
            .map(|(folder, _)| folder)
            .collect();
        let mut copied = BTreeSet::new();
        for name in String::from_utf8_lossy(&listed.stdout).split('\0') {
            let from = root.join(name);
            // Cargo finds these settings in the tree around the copy, and would take them twice.
            if name.is_empty() || name.starts_with(".cargo/") || !from.is_file() {
                continue;
            }
            let mut bytes = fs::read(&from).map_err(|error| format!("{name}: {error}"))?;
            let of_file = self.of_file(name);
            if !of_file.is_empty() {
                let text = String::from_utf8_lossy(&bytes);
                bytes = combine(name, &text, &of_file)?.into_bytes();
            }
            if name.strip_suffix("/src/lib.rs").is_some_and(|folder| crates.contains(folder)) {
                bytes.extend_from_slice(SWITCH.as_bytes());
            }
            let to = self.tree.join(name);
            write_changed(&to, &bytes)?;
            copied.insert(to);
        }
        remove_others(&self.tree, &copied)
            .map_err(|error| format!("{}: {error}", self.tree.display()))
    }

    fn of_file(&self, name: &str) -> Vec<(usize, &'e Entry)> {
        self.removals.iter().filter(|(_, entry)| entry.file == name).copied().collect()
    }

    /// The removals by their numbers.
    pub(super) fn removals(&self) -> &[(usize, &'e Entry)] {
        &self.removals
    }

    /// Runs the named test without the check of this number.
    pub(super) fn without(&self, number: usize, test: &TestName) -> Result<Outcome, String> {
        let said = self.run(&test.target, &[&test.name], Some(number))?;
        Ok(judge(&said, &test.name))
    }

    /// Runs tests of one target with all checks in place, and gives those that do not pass.
    pub(super) fn not_passing<'t>(
        &self,
        target: &str,
        names: &[&'t str],
    ) -> Result<Vec<&'t str>, String> {
        let said = self.run(target, names, None)?;
        let passes = |name: &str| said.contains(&format!("\ntest {name} ... ok"));
        Ok(names.iter().copied().filter(|name| !passes(name)).collect())
    }

    fn build(&self, target: &str) -> Result<Program, String> {
        let arguments = ["test", "--no-run", "--quiet", "--message-format=json-render-diagnostics"];
        let mut command = cargo_command(&self.tree, &arguments);
        command.args(target.split_whitespace()).stdin(Stdio::null());
        command.env("CARGO_TARGET_DIR", self.work.join("build")).envs(SETTINGS);
        let done = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        if !done.status.success() {
            return Err(self.not_compiled(&String::from_utf8_lossy(&done.stderr)));
        }
        let said = String::from_utf8_lossy(&done.stdout);
        let programs: Vec<Program> = said.lines().filter_map(program).collect();
        let [program] = <[Program; 1]>::try_from(programs)
            .map_err(|all| format!("`cargo test {target}` has {} programs, not one", all.len()))?;
        Ok(program)
    }

    /// Which removals the compiler speaks of.
    fn not_compiled(&self, said: &str) -> String {
        let mut names = BTreeSet::new();
        for (_, entry) in &self.removals {
            let combined = fs::read_to_string(self.tree.join(&entry.file)).unwrap_or_default();
            let blamed = blamed(said, &entry.file, &combined);
            let is_blamed = |(number, _): &&(usize, &Entry)| blamed.contains(number);
            let of = self.removals.iter().filter(is_blamed);
            names.extend(of.map(|(_, entry)| format!("{}: {}", entry.place, entry.name)));
        }
        let names: Vec<String> = names.into_iter().collect();
        format!("{said}\nnot compiled without these checks:\n  {}", names.join("\n  "))
    }

    /// Runs tests by their whole names, without the check of a number if there is one, and gives
    /// what they say up to the deadline.
    fn run(&self, target: &str, names: &[&str], number: Option<usize>) -> Result<String, String> {
        let program = self.programs.get(target).ok_or("a target that was not built")?;
        let out = self.work.join("output");
        let failed = |error: io::Error| format!("{}: {error}", program.path.display());
        let file = File::create(&out).map_err(failed)?;
        let mut command = Command::new(&program.path);
        command.arg("--exact").args(names).current_dir(&program.folder);
        command.stdin(Stdio::null()).stderr(file.try_clone().map_err(failed)?).stdout(file);
        command.env_remove(VARIABLE).envs(number.map(|number| (VARIABLE, number.to_string())));
        let mut child = command.spawn().map_err(failed)?;
        let end = Instant::now() + DEADLINE;
        let mut ended: Option<ExitStatus> = None;
        while ended.is_none() && (number.is_none() || Instant::now() < end) {
            thread::sleep(Duration::from_millis(20));
            ended = child.try_wait().map_err(failed)?;
        }
        if ended.is_none() {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
        }
        let said = fs::read(&out).map_err(failed)?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

/// The test program that a message of cargo names, if it names one.
fn program(message: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(message).ok()?;
    message["profile"]["test"].as_bool().filter(|is_test| *is_test)?;
    let path = PathBuf::from(message["executable"].as_str()?);
    let manifest = Path::new(message["manifest_path"].as_str()?);
    Some(Program { path, folder: manifest.parent()?.to_path_buf() })
}

/// What a test run's output says of the named test.
pub(super) fn judge(said: &str, name: &str) -> Outcome {
    // What the test prints may stand between its name and the result, so that is looked for behind.
    if said.contains(&format!("\n---- {name} stdout ----\n")) {
        Outcome::Noticed
    } else if said.contains("\nrunning 0 tests\n") {
        Outcome::NoSuchTest
    } else if said.contains("\ntest result: ok. 1 passed;") {
        Outcome::Survived
    } else {
        Outcome::BrokenOff
    }
}

/// Removes the files of an earlier copy that the tree no longer has: a module that was moved would
/// be there twice. What the build added itself, a lock file, is made again.
pub(super) fn remove_others(folder: &Path, copied: &BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, copied)?;
        } else if !copied.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn write_changed(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let parent = path.parent().ok_or_else(|| format!("{}: no folder", path.display()))?;
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(path, bytes))
        .map_err(|error| format!("{}: {error}", path.display()))
}
