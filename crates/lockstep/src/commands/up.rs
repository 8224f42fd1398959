//! `lockstep up`: servers on this machine, a ring over them, and an answer or a chat.

use anyhow::Result;
use lockstep_client::backend::cores;
use lockstep_client::place::Place;

use crate::args::Up;
use crate::backend;
use crate::conversation::{Host, Setup};
use crate::exit::Exit;
use crate::local_servers::Fleet;
use crate::models;
use crate::output::Printer;
use crate::prompt;

/// Runs `lockstep up`, and returns its exit code.
pub(crate) fn run(place: &Place, args: &Up, verbose: bool, drawn_seed: u64) -> Result<Exit> {
    let printer = Printer::new(args.checking.json);
    let prompt = prompt::given(&args.asking)?;
    let setup = Setup::read(&args.asking, &args.checking, args.chatting, verbose, drawn_seed)?;
    let threads = backend::threads(place, args.threads)?;
    let threads = threads.unwrap_or_else(|| threads_each(args.servers));
    let model = models::ensure_stored(place, &args.model, args.weights.into(), printer)?;
    let host = Host::Servers(Fleet { servers: args.servers, threads, metrics: args.metrics });
    host.converse(place, model, setup, prompt.as_deref())
}

/// Returns the number of compute threads for each of `servers` servers on this machine.
pub(crate) fn threads_each(servers: u32) -> usize {
    (cores() / servers.max(1) as usize).max(1)
}
