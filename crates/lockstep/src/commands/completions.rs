//! `lockstep completions`.

use clap::CommandFactory;

use crate::args::{Cli, Completions};
use crate::exit::Exit;

/// Writes the script to standard output.
pub(crate) fn run(args: &Completions) -> Exit {
    clap_complete::generate(args.shell, &mut Cli::command(), "lockstep", &mut std::io::stdout());
    Exit::Done
}
