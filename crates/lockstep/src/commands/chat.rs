//! The command `lockstep chat`: a chat through servers that run already.

use anyhow::{Result, bail};
use lockstep_client::client::Caller;
use lockstep_client::model::Model;
use lockstep_client::place::Place;
use lockstep_node::ticket::Ticket;

use crate::args::Chat;
use crate::conversation::{Host, Setup};
use crate::exit::{Exit, usage};
use crate::models;
use crate::prompt;
use crate::ring;

/// Runs `lockstep chat`, and returns its exit code.
pub(crate) fn run(place: &Place, args: &Chat, verbose: bool, drawn_seed: u64) -> Result<Exit> {
    let tickets = ring::tickets(place, &args.ticket)?;
    ring::one_model(&tickets)?;
    let named = ring::named(place, &args.ticket)?;
    let prompt = prompt::given(&args.asking)?;
    let setup = Setup::read(&args.asking, &args.checking, args.chatting, verbose, drawn_seed)?;
    let model = match &args.model {
        Some(name) => models::installed(place, name)?,
        None => of_tickets(place, &tickets, "give one with --model")?,
    };
    let caller = if args.as_node { Caller::Node } else { Caller::Fresh };
    let host = Host::Tickets { tickets, named, caller };
    host.converse(place, model, setup, prompt.as_deref())
}

/// Returns the model that tickets are for. If they name none the error says what `helps`.
pub(super) fn of_tickets(place: &Place, tickets: &[Ticket], helps: &str) -> Result<Model> {
    let named = tickets.iter().find_map(|ticket| Some((ticket.manifest?, &ticket.called)));
    let (id, called) = named.ok_or_else(|| usage(format!("the ticket names no model: {helps}")))?;
    if let Some(model) = Model::find(&place.store, &id.to_string())? {
        return Ok(model);
    }
    let (called_so, here) = match called.as_str() {
        "" => (String::new(), None),
        name => (format!(" {name}"), Model::find(&place.store, name)?),
    };
    let other = here.map_or(String::new(), |here| {
        format!(
            " (what is called {called} here is another package, {}: of other files, or imported by \
             another version)",
            here.record.manifest.short()
        )
    });
    bail!(
        "the servers' model{called_so}, package {}, is not here{other}. A chat needs the whole \
         package: its tokenizer writes the prompt, and the secret key that checks the answers is \
         made from its weights, once. Next: {}",
        id.short(),
        models::how_to_get(called),
    )
}
