//! `lockstep chat`: through servers that run already.

use std::time::Duration;

use anyhow::Result;
use lockstep_node::config::Tickets;
use lockstep_node::ticket::Ticket;

use crate::args::Chat;
use crate::conversation::{Ended, Host, Opening};
use crate::exit::{Exit, usage};
use crate::models::{Model, Place};
use crate::output::Voice;
use crate::prompt;
use crate::ring::{self, Caller};

/// Runs the command.
pub(crate) fn run(place: &Place, args: &Chat, verbose: bool, drawn_seed: u64) -> Result<Exit> {
    let voice = Voice::new(args.checking.json);
    let tickets = tickets(place, args)?;
    let prompt = prompt::given(&args.asking)?;
    let named = tickets.iter().find_map(|ticket| ticket.manifest).map(|id| id.to_string());
    let name = args
        .model
        .clone()
        .or(named)
        .ok_or_else(|| usage("the ticket names no model: give one with --model"))?;
    let model = Model::installed(place, &name)?;
    let caller = if args.as_node { Caller::Node } else { Caller::Fresh };
    let host = Host::Tickets { tickets, caller };
    let (asking, checking) = (args.asking.clone(), args.checking.clone());
    let opening = Opening {
        asking,
        checking,
        keeps_history: !args.chatting.no_history,
        verbose,
        drawn_seed,
        loading: Duration::ZERO,
    };
    let Ended { exit, json } = host.converse(place, model, opening, prompt.as_deref())?;
    voice.json(&json);
    Ok(exit)
}

/// The tickets of the command line, else those of the settings.
fn tickets(place: &Place, args: &Chat) -> Result<Vec<Ticket>> {
    let given = match &place.config.ticket {
        Some(Tickets(tickets)) if args.ticket.is_empty() => tickets.clone(),
        _ => ring::parse(&args.ticket)?,
    };
    if given.is_empty() {
        return Err(usage(
            "no TICKET: give one as `lockstep serve` prints it, or put it into config.toml as \
             ticket = \"...\"",
        ));
    }
    ring::one_model(&given)?;
    Ok(given)
}
