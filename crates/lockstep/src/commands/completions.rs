//! The command `lockstep completions`, which prints a script for a shell.

use clap::CommandFactory;

use crate::args::{Cli, Completions};
use crate::exit::Exit;
use crate::output::Printer;

/// Writes the script to standard output.
pub(crate) fn run(args: &Completions) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lockstep", &mut script);
    Printer::new(false).block(String::from_utf8_lossy(&script));
    Exit::Done
}
