//! Rings in words: which servers there are, why there is none, and where an answer broke off.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use lockstep_client::client::{
    Asking, Caller, Client, ClientAskError, FindError, NoRoute, Notice, addresses,
};
use lockstep_client::model::Model;
use lockstep_client::place::Place;
use lockstep_client::ring::{AskError, Blame, BrokenOff, Moved, Ring};
use lockstep_client::standing::Avoided;
use lockstep_import::tokenizer::Tokenizer;
use lockstep_node::config::Tickets;
use lockstep_node::driver::StatusError;
use lockstep_node::lan::{Found, Lan};
use lockstep_node::limits;
use lockstep_node::several;
use lockstep_node::ticket::{Ticket, TicketError};
use lockstep_node::transport::{ConnectError, ConnectFailure, NodeId};
use lockstep_verify::request::Hop;

use crate::exit::usage;
use crate::output::Printer;

/// Finds a ring for a model over the servers that are to be asked.
pub(crate) async fn find<'a>(
    place: &'a Place,
    model: &Model,
    tokenizer: &Tokenizer,
    asking: Asking<'_>,
) -> Result<Client<'a>> {
    let tell = |notice| say(Printer::new(false), notice);
    let found = Client::find(place, (model, tokenizer), asking, tell).await;
    found.map_err(|error| no_ring(error, model, asking.caller))
}

/// Finds a ring over servers whose word is taken: those that this program has started, or those of
/// which no user's request is asked.
pub(crate) async fn find_unchecked<'a>(
    place: &'a Place,
    (model, tokenizer): (&Model, &Tokenizer),
    tickets: &[Ticket],
    caller: Caller,
) -> Result<Client<'a>> {
    let named = BTreeSet::new();
    let asking = Asking { tickets, named: &named, caller, checker: None };
    find(place, model, tokenizer, asking).await
}

/// Says what is worth saying of servers while a ring is looked for.
pub(crate) fn say(printer: Printer, notice: Notice) {
    match notice {
        Notice::Avoiding { node, why: why @ Avoided::Failed { .. } } => {
            printer.note(format!("banned {node}: {why} (`lockstep nodes`)"));
        }
        Notice::Avoiding { node, why } => {
            printer.note(format!("avoiding {node}: {why} (`lockstep nodes`)"));
        }
        Notice::NobodyAvoided(error) => printer.note(format!("nobody is avoided: {error}")),
        Notice::Trying(nodes) => {
            let nodes: Vec<String> = nodes.iter().map(NodeId::short).collect();
            let nodes = nodes.join(", ");
            printer.aside(format!("trying with a request of no one's: {nodes}"));
        }
        Notice::ShownNothing(why) => printer.note(format!("no request goes there yet: {why}")),
    }
}

/// Returns the nodes that a person named: those of the tickets that were given, and not those that
/// are found on the local network, where anybody can write a record.
pub(crate) fn named(place: &Place, texts: &[String]) -> Result<BTreeSet<NodeId>> {
    let tickets = match &place.config.ticket {
        Some(Tickets(tickets)) if texts.is_empty() => tickets.clone(),
        _ => given(texts)?,
    };
    Ok(tickets.iter().flat_map(|ticket| &ticket.peers).map(|peer| peer.id).collect())
}

/// Returns why there is no ring, and what to do.
fn no_ring(error: FindError, model: &Model, caller: Caller) -> anyhow::Error {
    match error {
        FindError::NoRoute(none) => {
            let NoRoute { source, answered, asked, silent, avoided, own } = *none;
            let mut errors: Vec<_> = silent.iter().map(|why| advise(caller, why, own)).collect();
            if !avoided.is_empty() {
                let forgive = "avoided nodes can be forgiven with `lockstep nodes --forget ID`";
                errors.push(forgive.to_owned());
            }
            let unreached = match errors.is_empty() {
                true => String::new(),
                false => format!(" ({})", errors.join("; ")),
            };
            let name = &model.name;
            let why = format!(
                "no route for {name} over the {answered} of {asked} peers that \
                 answered{unreached}; `lockstep serve {name} --layers FIRST..END` serves what is \
                 missing, and its ticket goes beside the others"
            );
            anyhow::Error::from(source).context(why)
        }
        FindError::TwoPlaces { one, other } => usage(format!(
            "two tickets have the same node id {}, at {} and at {}: if they are of two \
                 servers, start one of them with --ephemeral or from another --home; if one is of \
                 an earlier run, leave it out",
            one.id.short(),
            addresses(&one),
            addresses(&other),
        )),
        FindError::Bind(_) | FindError::Identity(_) | FindError::NoRandomness(_) => error.into(),
    }
}

/// Returns why a server did not tell its status, and what to do if it keeps an allow-list.
fn advise(caller: Caller, error: &StatusError, own: NodeId) -> String {
    match error {
        StatusError::Connect(ConnectError { why: ConnectFailure::NotAllowed, .. }) => {
            match caller {
                Caller::Fresh | Caller::Starter => {
                    format!("{error}; --as-node shows it this machine's own node id")
                }
                Caller::Node => format!("{error}; its operator can add --allow {own}"),
            }
        }
        _ => error.to_string(),
    }
}

/// Returns why nothing was asked, by the names that the command line has.
pub(crate) fn in_flags(error: ClientAskError) -> anyhow::Error {
    match error {
        ClientAskError::Ask(AskError::TooLong(why)) => {
            usage(format!("{why} (--audit sampled, -n TOKENS)"))
        }
        error => error.into(),
    }
}

/// Returns an answer that broke off, in one sentence: which server, what happened, and what to do.
pub(crate) fn broken_off(client: &Client<'_>, ring: &Ring, error: BrokenOff) -> anyhow::Error {
    if error.is_cancelled() || error.retry_ms().is_some() {
        return error.into();
    }
    let Some(Blame { place, hop, reason, by }) = ring.blame(&error) else {
        return error.into();
    };
    let (server, says) = (server(place, hop), says(by));
    let next = if client.remembers() {
        "ask again; if that server was started anew since, leave and chat with its new ticket"
    } else {
        "ask again; the log of that server is above"
    };
    anyhow::anyhow!("the answer broke off at {server}: {reason}{says}. Next: {next}")
}

/// Returns why a request takes another ring, in one line.
pub(crate) fn moved(moved: &Moved) -> String {
    let Moved { server: of, reason, by } = moved;
    let of = of.map_or_else(String::new, |(place, hop)| format!("{}: ", server(place, &hop)));
    format!("{of}{reason}{}; no token had come, and another ring is asked", says(*by))
}

/// Returns a server of a ring: its place, its layers and the beginning of its id.
fn server(place: usize, hop: &Hop) -> String {
    let Hop { node, first, end } = hop;
    format!("s{} [{first}..{end}] {}", place + 1, node.short())
}

/// Returns who says something of another server: it is unsigned, and came through server 1's hands.
fn says(by: Option<u32>) -> String {
    let says = |by: u32| format!(" (s{} says so, unsigned)", by.saturating_add(1));
    by.map_or_else(String::new, says)
}

/// Returns whether an answer broke off because the person wanted no more of it.
pub(crate) fn is_interrupt(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(BrokenOff::is_cancelled)
}

/// Returns the hops of a ring in a line.
pub(crate) fn hops_text(hops: &[Hop]) -> String {
    let hops = hops.iter().enumerate().map(|(index, hop)| {
        let head = if index == 0 { " + head" } else { "" };
        format!("s{} [{}..{}{head}] {}", index + 1, hop.first, hop.end, hop.node.short())
    });
    hops.collect::<Vec<_>>().join(" -> ")
}

/// Returns the tickets of the command line, else those of the settings; there is at least one.
pub(crate) fn tickets(place: &Place, texts: &[String]) -> Result<Vec<Ticket>> {
    let given = match &place.config.ticket {
        Some(Tickets(tickets)) if texts.is_empty() => tickets.clone(),
        _ => parse(texts)?,
    };
    if asks_for_lan(texts) && given.is_empty() {
        bail!(
            "no server on the local network has answered: multicast does not cross routers, and \
             some wireless networks drop it; a ticket, as `lockstep serve` prints it, works there"
        );
    }
    if given.is_empty() {
        return Err(usage(
            "no TICKET: give one as `lockstep serve` prints it, or put it into config.toml as \
             ticket = \"...\"",
        ));
    }
    Ok(given)
}

/// The word that stands for the tickets of all servers on the local network.
pub(crate) const LAN: &str = "lan";

/// Returns whether one of these texts asks for the servers on the local network.
pub(crate) fn asks_for_lan(texts: &[String]) -> bool {
    texts.iter().flat_map(|text| several::parts(text)).any(|text| text == LAN)
}

/// Parses tickets: each text holds one, or several with commas or white space between them. The
/// word [`LAN`] is passed over.
pub(crate) fn given(texts: &[String]) -> Result<Vec<Ticket>> {
    let wrong = |error| match error {
        TicketError::Prefix => usage(format!(
            "ticket: {error}; `lockstep run NAME` and `lockstep up NAME` chat with a model by its \
             name"
        )),
        error => usage(format!("ticket: {error}")),
    };
    let parts = texts.iter().flat_map(|text| several::parts(text));
    let given = parts.filter(|text| *text != LAN).map(|text| text.parse().map_err(wrong));
    given.collect()
}

/// Parses tickets as [`given`] does. In the place of [`LAN`] come those of the servers that are
/// found on the local network.
pub(crate) fn parse(texts: &[String]) -> Result<Vec<Ticket>> {
    let mut tickets = given(texts)?;
    if asks_for_lan(texts) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let found = runtime.block_on(Lan::open()?.find(limits::LAN_WAIT));
        tickets.extend(found.iter().map(Found::ticket));
    }
    Ok(tickets)
}

/// Checks whether no two tickets are for different models.
pub(crate) fn one_model(tickets: &[Ticket]) -> Result<()> {
    let mut models = tickets.iter().filter_map(|ticket| ticket.manifest);
    if let Some(first) = models.next()
        && let Some(other) = models.find(|model| *model != first)
    {
        bail!("the tickets are for different models: {} and {}", first.short(), other.short());
    }
    Ok(())
}
