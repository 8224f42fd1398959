//! `cargo xtask wasm`: the arithmetic and the verifier as WebAssembly, with addresses of 32 bits:
//! built as a page in a browser has them, and their test suites run in a runtime.
//!
//! Needs two Rust targets, and the Python package of a runtime (`wasmtime`): installed, or below
//! [`RUNTIME`]. As a step of `cargo xtask ci` it says what is missing and was therefore not run.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::{cargo_command, finish};
use crate::target;

/// What a browser runs: no system interface, so nothing of it may be called.
const BARE: &str = "wasm32-unknown-unknown";
/// What tests run on: output, files and randomness through a standard interface.
const SYSTEM: &str = "wasm32-wasip1";
/// Where `.ci/run` puts the runtime, from the repository's root.
const RUNTIME: &str = "target/ci/wasmtime";
/// The tests of the verifier, but those that run thousands of sessions: these take an hour here,
/// and say nothing of addresses that the others do not say.
const OF_VERIFIER: [&str; 12] = [
    "-p",
    "lockstep-verify",
    "--lib",
    "--test",
    "it",
    "--",
    "--skip=blame::",
    "--skip=families::",
    "--skip=lies::",
    "--skip=parts::",
    "--skip=rates::",
    "--skip=measure::",
];
/// Runs one module.
const RUNNER: &str = "dev/wasm.py";

/// Runs, or says in an error what is missing.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    let missing = missing(root)?;
    if !missing.is_empty() {
        return Err(format!("not run: {}", missing.join("; ")));
    }
    let build = ["build", "--release", "-p", "lockstep-verify", "--target", BARE];
    finish(cargo_command(root, &build))?;
    for tests in [&["-p", "lockstep-exact", "--lib", "--tests"][..], &OF_VERIFIER] {
        // Integers that overflow at 32 bits are loud in this profile.
        let mut command = cargo_command(root, &["test", "--profile", "checked"]);
        command.args(["--target", SYSTEM]).args(tests);
        with_runtime(&mut command, root);
        let runner = format!("python3 {}", root.join(RUNNER).display());
        command.env("CARGO_TARGET_WASM32_WASIP1_RUNNER", runner);
        finish(command)?;
    }
    Ok(())
}

/// Runs, or prints what is missing.
pub(crate) fn run_if_possible(root: &Path) -> Result<(), String> {
    let missing = missing(root)?;
    if missing.is_empty() {
        return run(root);
    }
    println!("NOT RUN, 32-bit addresses are untested here: {}", missing.join("; "));
    Ok(())
}

/// What would have to be installed.
fn missing(root: &Path) -> Result<Vec<String>, String> {
    let mut missing = Vec::new();
    for target in [BARE, SYSTEM] {
        if !target::is_installed(target)? {
            missing.push(format!("the Rust target (rustup target add {target})"));
        }
    }
    let mut import = Command::new("python3");
    import.args(["-c", "import wasmtime"]).stdout(Stdio::null()).stderr(Stdio::null());
    with_runtime(&mut import, root);
    if !import.status().is_ok_and(|status| status.success()) {
        missing.push(format!("a runtime (pip install --target {RUNTIME} wasmtime)"));
    }
    Ok(missing)
}

/// Lets Python find the runtime.
fn with_runtime(command: &mut Command, root: &Path) {
    command.env("PYTHONPATH", root.join(RUNTIME));
}
