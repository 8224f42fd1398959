//! `lockstep run`: a model on this machine, as people know it from elsewhere.

use std::io::{self, IsTerminal};

use anyhow::Result;
use lockstep_client::place::Place;

use crate::args::{Checking, Run};
use crate::backend;
use crate::commands::up;
use crate::conversation::{Host, Setup};
use crate::exit::{Exit, usage};
use crate::local_servers::Fleet;
use crate::models;
use crate::output::Printer;
use crate::prompt;

/// Runs `lockstep run`, and returns its exit code.
pub(crate) fn run(place: &Place, args: &Run, verbose: bool, drawn_seed: u64) -> Result<Exit> {
    let printer = Printer::new(args.checking.json);
    check(args)?;
    let setup = Setup::read(&args.asking, &args.checking, args.chatting, verbose, drawn_seed)?;
    let prompt = asked(args)?;
    let threads = backend::threads(place, args.threads)?;
    let model = models::ensure_stored(place, &args.model, args.weights.into(), printer)?;
    let host = match args.servers {
        0 => Host::Here { threads },
        servers => {
            let threads = threads.unwrap_or_else(|| up::threads_each(servers));
            Host::Servers(Fleet { servers, threads, metrics: None })
        }
    };
    host.converse(place, model, setup, prompt.as_deref())
}

/// Checks that each flag has an effect.
fn check(args: &Run) -> Result<()> {
    let Checking { audit, receipt, .. } = &args.checking;
    let given = [("--audit", audit.is_some()), ("--receipt", receipt.is_some())];
    if let Some((flag, _)) = given.into_iter().find(|(_, is_given)| *is_given && args.servers == 0)
    {
        return Err(usage(format!(
            "{flag} is for servers' answers, and this process answers alone: add --servers N, or \
             use `lockstep up`"
        )));
    }
    Ok(())
}

/// Returns the message: what standard input holds, if that is no terminal, and the words of the
/// command line after it. None opens a chat.
fn asked(args: &Run) -> Result<Option<String>> {
    if let Some(prompt) = prompt::given(&args.asking)? {
        return Ok(Some(prompt));
    }
    let words = args.words.join(" ");
    let piped = if io::stdin().is_terminal() { String::new() } else { prompt::from_stdin()? };
    match (piped.is_empty(), words.is_empty()) {
        (true, true) if io::stdin().is_terminal() => Ok(None),
        (true, true) => Err(usage(
            "no prompt: give one after the model, with --prompt-file, or on standard input",
        )),
        (true, false) => Ok(Some(words)),
        (false, true) => Ok(Some(piped)),
        (false, false) => Ok(Some(format!("{piped}\n{words}"))),
    }
}
