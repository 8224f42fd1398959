//! The `lockstep` program: reads arguments, runs one command, prints, exits.
//!
//! It decides nothing about answers or proofs; it is the only place that prints.
#![forbid(unsafe_code)]

mod args;
mod backend;
mod chat_format;
mod commands;
mod conversation;
mod device;
mod exit;
mod fetch;
mod figures;
mod hours;
mod importing;
mod interrupt;
mod joining;
mod key_making;
mod local_servers;
mod log;
mod model_files;
mod models;
mod output;
mod printable;
mod prompt;
mod quality;
mod ring;
mod stream;
mod table;
mod verdict;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::Parser;
use clap::error::{ContextKind, ErrorKind};

use args::{Cli, Command};
use commands::{
    bench, chat, completions, doctor, generate, id, key, library, nodes, plan,
    quality as quality_command, receipts as receipts_command, relay, run as run_command, serve,
    status, up, verify,
};
use exit::{Exit, UsageError};
use lockstep_client::place::Place;
use lockstep_client::random;
use lockstep_client::ring::BrokenOff;
use output::Printer;

fn main() -> ExitCode {
    let exit = match Cli::try_parse() {
        Ok(cli) => {
            let printer = Printer::new(cli.command.is_json());
            run(&cli).unwrap_or_else(|error| complain(&error, printer))
        }
        Err(said) => answer_usage(said),
    };
    match output::failure() {
        Some(error) => {
            VOICE.note(format!("error: can't write the result: {error}"));
            Exit::Error.into()
        }
        None => exit.into(),
    }
}

/// For what is said before and after a command.
const VOICE: Printer = Printer::new(false);

/// Says what went wrong, to scripts too.
fn complain(error: &anyhow::Error, printer: Printer) -> Exit {
    let text = exit::in_full(error);
    printer.note(format!("error: {text}"));
    let is_usage = error.downcast_ref::<UsageError>().is_some();
    let exit = if is_usage { Exit::Usage } else { Exit::Error };
    let mut facts = exit::error_json(&text, exit);
    if let Some(retry_ms) = error.downcast_ref().and_then(BrokenOff::retry_ms) {
        facts["retry_after_ms"] = retry_ms.into();
    }
    printer.json(&facts);
    exit
}

/// Prints what the parser of the command line has to say, of which help and version are results,
/// and returns the exit code.
fn answer_usage(mut said: clap::Error) -> Exit {
    if said.kind() == ErrorKind::UnknownArgument {
        // Flags of other programs are no prompts: the tip that makes them one helps nobody.
        said.remove(ContextKind::Suggested);
    }
    let text = said.render().to_string();
    if said.use_stderr() {
        // As it is laid out, beside where results go.
        Printer::new(true).block(&text);
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        Printer::new(asks_for_json()).json(&exit::error_json(text, Exit::Usage));
        return Exit::Usage;
    }
    VOICE.block(text);
    Exit::Done
}

/// Returns whether the command line, which could not be read, or the environment asks for JSON.
fn asks_for_json() -> bool {
    let mut flags = std::env::args_os().skip(1).take_while(|argument| argument != "--");
    let variable = std::env::var("LOCKSTEP_JSON").unwrap_or_default();
    let is_on = ["1", "true", "yes", "y", "on", "t"].contains(&variable.to_lowercase().as_str());
    flags.any(|argument| argument == "--json") || is_on
}

fn run(cli: &Cli) -> Result<Exit> {
    if let Command::Completions(args) = &cli.command {
        // Needs no home folder.
        return Ok(completions::run(args));
    }
    check_clock(SystemTime::now())?;
    let mut place = Place::open(cli.home.as_deref(), |name| std::env::var(name).ok())?;
    place.config.log = cli.log.or(place.config.log);
    place.config.log_level = cli.log_level.clone().or(place.config.log_level);
    let (level, format) = (place.config.log_level.as_deref(), place.config.log);
    log::start(cli.verbose, level, format.unwrap_or_default())?;
    match &cli.command {
        Command::Generate(args) => generate::run(&place, args, cli.verbose > 0, random::seed()?),
        Command::Import(args) => library::import(&place, args),
        Command::Pull(args) => library::pull(&place, args),
        Command::List(args) => library::list(&place, args),
        Command::Show(args) => library::show(&place, args),
        Command::Rm(args) => library::rm(&place, args),
        Command::Quality(args) => quality_command::run(&place, args),
        Command::Doctor(args) => doctor::run(&place, args),
        Command::Up(args) => up::run(&place, args, cli.verbose > 0, random::seed()?),
        Command::Run(args) => run_command::run(&place, args, cli.verbose > 0, random::seed()?),
        Command::Serve(args) => serve::run(&place, args),
        Command::Chat(args) => chat::run(&place, args, cli.verbose > 0, random::seed()?),
        Command::Key(args) => key::run(&place, args),
        Command::Verify(args) => verify::run(&place, args),
        Command::Receipts(args) => receipts_command::run(&place, args),
        Command::Id(args) => id::run(&place, args),
        Command::Relay(args) => relay::run(&place, args),
        Command::Nodes(args) => nodes::run(&place, args),
        Command::Plan(args) => plan::run(&place, args),
        Command::Status(args) => status::run(&place, args),
        Command::Bench(args) => bench::run(&place, args),
        Command::Completions(args) => Ok(completions::run(args)),
    }
}

/// Certificates and receipts can't be dated by a clock that stands before 1970.
fn check_clock(now: SystemTime) -> Result<()> {
    let Err(before) = now.duration_since(UNIX_EPOCH) else { return Ok(()) };
    let days = before.duration().as_secs().div_ceil(24 * 60 * 60);
    bail!("this machine's clock is wrong: it stands {days} days before 1970; set the date and time")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_before_1970_is_an_error_and_one_after_it_none() {
        let error = check_clock(UNIX_EPOCH - Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("clock is wrong") && error.contains("set the date"), "{error}");
        assert!(check_clock(UNIX_EPOCH).is_ok());
    }
}
