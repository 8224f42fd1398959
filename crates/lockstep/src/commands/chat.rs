//! `lockstep chat`: through servers that run already.

use anyhow::Result;
use lockstep_node::config::Tickets;
use lockstep_node::ticket::Ticket;

use crate::args::Chat;
use crate::conversation::{self, Ended};
use crate::exit::{Exit, usage};
use crate::models::{Model, Place};
use crate::output::Voice;
use crate::ring::{self, Caller, Ring};

/// Runs the command.
pub(crate) fn run(place: &Place, args: &Chat, drawn_seed: u64) -> Result<Exit> {
    let voice = Voice::new(args.checking.json);
    let tickets = tickets(place, args)?;
    let named = tickets.iter().find_map(|ticket| ticket.manifest).map(|id| id.to_string());
    let name = args
        .model
        .clone()
        .or(named)
        .ok_or_else(|| usage("the ticket names no model: give one with --model"))?;
    let model = Model::installed(place, &name)?;
    let tokenizer = model.tokenizer(place)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build()?;
    let ended = runtime.block_on(async {
        let caller = if args.as_node { Caller::Node } else { Caller::Fresh };
        let ring = Ring::find(place, &model, &tokenizer, &tickets, caller).await?;
        let ended = conversation::run(&ring, &args.asking, &args.checking, drawn_seed).await;
        ring.close().await;
        ended
    });
    let Ended { exit, json } = ended?;
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
