//! `lockstep generate`: a whole model in this process.

use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::Result;
use lockstep_node::local::Local;

use crate::args::{Asking, Audit, Checking, Generate};
use crate::backend::{Backend, backend};
use crate::conversation::{Ended, Host, Opening};
use crate::exit::{Exit, usage};
use crate::models::{Model, Place};
use crate::output::Voice;
use crate::prompt;

/// Loads all of a model.
pub(crate) fn load(place: &Place, model: &Model, threads: Option<usize>) -> Result<Local<Backend>> {
    let blobs = model.all_blobs(place)?;
    Ok(Local::load(backend(place.threads(threads)?)?, &model.manifest, blobs.source())?)
}

/// Runs the command.
pub(crate) fn run(place: &Place, args: &Generate, verbose: bool, drawn_seed: u64) -> Result<Exit> {
    let voice = Voice::new(args.json);
    let prompt = asked(&args.asking)?;
    prompt::check(&args.asking)?;
    let threads = place.threads(args.threads)?;
    let model = Model::ensure(place, &args.model, voice)?;
    let asking = args.asking.clone();
    let checking = Checking { audit: Some(Audit::Off), receipt: None, json: args.json };
    let opening = Opening {
        asking,
        checking,
        keeps_history: false,
        verbose,
        drawn_seed,
        loading: Duration::ZERO,
    };
    let host = Host::Here { threads };
    let Ended { exit, json } = host.converse(place, model, opening, Some(&prompt))?;
    voice.json(&json);
    Ok(exit)
}

/// The prompt: of the command line, or standard input if that is no terminal.
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
