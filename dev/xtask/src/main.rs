//! Automation of this repository, in Rust so that it runs wherever the project builds.
//!
//! `cargo xtask tidy` checks the invariants that the compiler cannot see; `cargo xtask prose`
//! counts doc comments that say too little; `cargo xtask ci` runs every check a change must pass;
//! `cargo xtask aarch64` runs the kernels' tests in an emulator, `cargo xtask wasm` those of the
//! arithmetic and the verifier in a WebAssembly runtime; `cargo xtask ablate` removes each check of
//! the verifier to see that a test notices.
//! Nothing here is linked into the program.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool prints")]

mod aarch64;
mod ablate;
mod ci;
mod process;
mod target;
mod tidy;
mod wasm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  tidy      check the invariants named in ARCHITECTURE.md
  prose     list the doc comments that do not say what their item is, and count them
  ci        format, lints, tidy, tests, documentation: all that a change must pass
  ablate    remove the verifier's checks, one at a time: a named test must fail
            --only TEXT   those with TEXT in their name or file (may be repeated)
            --list        print them
  aarch64   the kernels' tests for AArch64, in an emulator
  wasm      the arithmetic and the verifier as WebAssembly, and their tests in a runtime";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["tidy"] => tidy::run(&root()),
        ["prose"] => tidy::print_prose(&root()),
        ["ci"] => ci::run(&root()),
        ["ablate", rest @ ..] => ablate::run(&root(), rest),
        ["aarch64"] => aarch64::run(&root()),
        ["wasm"] => wasm::run(&root()),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root: two folders above this package.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).to_path_buf()
}
