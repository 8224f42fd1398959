//! The `lockstep` program: reads arguments, runs one command, prints, exits.
//!
//! It decides nothing about answers or proofs; it is the only place that prints.
#![forbid(unsafe_code)]

mod args;
mod backend;
mod commands;
mod conversation;
mod exit;
mod fetch;
mod figures;
mod interrupt;
mod model_files;
mod models;
mod output;
mod prompt;
mod quality;
mod random;
mod ring;
mod verdict;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};
use commands::{
    bench, chat, completions, doctor, generate, key, library, quality as quality_command, serve,
    up, verify,
};
use exit::{Exit, UsageError};
use models::Place;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::Voice::new(true).note(format!("error: {error:#}"));
            let is_usage = error.downcast_ref::<UsageError>().is_some();
            if is_usage { Exit::Usage.into() } else { Exit::Error.into() }
        }
    }
}

fn run(cli: &Cli) -> Result<Exit> {
    if let Command::Completions(args) = &cli.command {
        // Needs no home folder.
        return Ok(completions::run(args));
    }
    let place = Place::open(cli.home.as_deref())?;
    log_to_stderr(cli.verbose, place.config.log.as_deref())?;
    match &cli.command {
        Command::Generate(args) => generate::run(&place, args, draw_seed()?),
        Command::Import(args) => library::import(&place, args),
        Command::Pull(args) => library::pull(&place, args),
        Command::List(args) => library::list(&place, args),
        Command::Show(args) => library::show(&place, args),
        Command::Rm(args) => library::rm(&place, args),
        Command::Quality(args) => quality_command::run(&place, args),
        Command::Doctor(args) => doctor::run(&place, args),
        Command::Up(args) => up::run(&place, args, draw_seed()?),
        Command::Serve(args) => serve::run(&place, args),
        Command::Chat(args) => chat::run(&place, args, draw_seed()?),
        Command::Key(args) => key::run(&place, args),
        Command::Verify(args) => verify::run(&place, args),
        Command::Bench(args) => bench::run(&place, args),
        Command::Completions(args) => Ok(completions::run(args)),
    }
}

/// A seed for sampling, when none is given.
fn draw_seed() -> Result<u64> {
    Ok(u64::from_le_bytes(random::random()?))
}

/// Starts the log: `--verbose` goes before the setting.
fn log_to_stderr(verbose: u8, setting: Option<&str>) -> Result<()> {
    let ours = |level| EnvFilter::new(format!("error,lockstep={level},lockstep_node={level}"));
    let filter = match (verbose, setting) {
        (0, None) => ours("warn"),
        (0, Some(text)) => EnvFilter::builder()
            .parse(text)
            .with_context(|| format!("the setting log (LOCKSTEP_LOG) is {text:?}"))?,
        (1, _) => ours("info"),
        _ => ours("debug"),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}
