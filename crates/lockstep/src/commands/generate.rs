//! The command `lockstep generate`: a whole model in this process.

use std::io::{self, IsTerminal};

use anyhow::Result;
use lockstep_client::place::Place;

use crate::args::{Asking, Audit, Chatting, Checking, Generate};
use crate::backend;
use crate::conversation::{Host, Setup};
use crate::exit::{Exit, usage};
use crate::models;
use crate::output::Printer;
use crate::prompt;

/// Runs `lockstep generate`, and returns its exit code.
pub(crate) fn run(place: &Place, args: &Generate, verbose: bool, drawn_seed: u64) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let prompt = asked(&args.asking)?;
    let checking = Checking { audit: Some(Audit::Off), receipt: None, json: args.json };
    let chatting = Chatting { no_history: true };
    let setup = Setup::read(&args.asking, &checking, chatting, verbose, drawn_seed)?;
    let threads = backend::threads(place, args.threads)?;
    let model = models::ensure(place, &args.model, printer)?;
    Host::Here { threads }.converse(place, model, setup, Some(&prompt))
}

/// Returns the prompt: of the command line, or standard input if that is no terminal.
fn asked(asking: &Asking) -> Result<String> {
    if let Some(prompt) = prompt::given(asking)? {
        return Ok(prompt);
    }
    let piped = if io::stdin().is_terminal() { String::new() } else { prompt::from_stdin()? };
    if piped.is_empty() {
        return Err(usage(
            "--prompt, --prompt-file or a text on standard input is needed (`lockstep run` opens \
             an interactive chat)",
        ));
    }
    Ok(piped)
}
