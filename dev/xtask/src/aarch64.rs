//! `cargo xtask aarch64`: the kernels' unit tests and law suite for AArch64, under an emulator, so
//! that the NEON paths are held to the reference on any machine.
//!
//! Needs the Rust target, a C compiler as its linker, and `qemu-aarch64`. As a step of `cargo
//! xtask ci` it says what is missing and was therefore not run.

use std::path::Path;
use std::process::Command;

use crate::process::{cargo_command, finish};
use crate::target::{is_installed, starts};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";
/// Where the emulator finds the C library.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

/// Runs, or says in an error what is missing.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    let missing = missing()?;
    if !missing.is_empty() {
        return Err(format!("not run: {}", missing.join("; ")));
    }
    let package = ["test", "--release", "-p", "lockstep-kernels", "--target", TARGET];
    let mut laws = emulated(root, &package);
    laws.args(["--lib", "--test", "laws"]);
    finish(laws)?;
    // The laws of an instruction set that is not there are passed over: was NEON there?
    let mut detected = emulated(root, &package);
    detected.args(["--test", "forced", "a_process_says", "--", "--nocapture"]);
    let output = detected.output().map_err(|error| format!("{detected:?}: {error}"))?;
    if String::from_utf8_lossy(&output.stdout).contains("detected: neon") {
        println!("{EMULATOR}: the neon paths were run");
        Ok(())
    } else {
        Err(format!("{EMULATOR} does not have the dot product instructions"))
    }
}

/// Runs, or prints what is missing.
pub(crate) fn run_if_possible(root: &Path) -> Result<(), String> {
    let missing = missing()?;
    if missing.is_empty() {
        return run(root);
    }
    println!("NOT RUN, the NEON paths are untested here: {}", missing.join("; "));
    Ok(())
}

/// What would have to be installed.
fn missing() -> Result<Vec<&'static str>, String> {
    let mut missing = Vec::new();
    if !is_installed(TARGET)? {
        missing.push("the Rust target (rustup target add aarch64-unknown-linux-gnu)");
    }
    if !starts(LINKER) {
        missing.push("aarch64-linux-gnu-gcc (Debian: gcc-aarch64-linux-gnu)");
    }
    if !starts(EMULATOR) {
        missing.push("qemu-aarch64 (Debian: qemu-user)");
    }
    if !Path::new(LIBRARIES).is_dir() {
        missing.push("the C library for AArch64 (Debian: libc6-dev-arm64-cross)");
    }
    Ok(missing)
}

/// A cargo command for the target, whose programs run in the emulator.
fn emulated(root: &Path, arguments: &[&str]) -> Command {
    let mut command = cargo_command(root, arguments);
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
    let runner = format!("{EMULATOR} -cpu max -L {LIBRARIES}");
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    command.env_remove("LOCKSTEP_KERNEL");
    command
}
