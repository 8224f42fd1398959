//! The command `lockstep doctor`, which checks this machine.

use anyhow::Result;
use lockstep_client::client::{Caller, links_to};
use lockstep_client::place::Place;
use lockstep_node::config::Tickets;
use lockstep_node::doctor::{self, Check, Status};
use lockstep_node::transport::{Listen, PeerAddr};
use serde_json::json;

use crate::args::Doctor;
use crate::device;
use crate::exit::{Exit, usage};
use crate::output::Printer;
use crate::ring;

/// Runs all checks; exit code 1 if one of them fails.
pub(crate) fn run(place: &Place, args: &Doctor) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let mut checks = doctor::examine(&place.home, &place.config);
    checks.push(doctor::listening(&listen(place, args)?));
    checks.push(device::check());
    checks.extend(doctor::examine_store(&place.home, &place.store, args.deep));
    checks.extend(peers(place, args)?);
    let word = |status| match status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    if !args.json {
        for check in &checks {
            printer.line(format!("{:<5} {:<16} {}", word(check.status), check.name, check.detail));
            if let Some(next) = &check.next {
                printer.line(format!("{:<22} -> {next}", ""));
            }
        }
    }
    let list: Vec<_> = checks
        .iter()
        .map(|check| {
            json!({
                "name": check.name,
                "status": word(check.status).to_lowercase(),
                "detail": check.detail,
                "next": check.next,
            })
        })
        .collect();
    printer.json(&json!({ "checks": list }));
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    Ok(if failed { Exit::Error } else { Exit::Done })
}

/// Returns the addresses at which a server would listen: those of the command line, otherwise those
/// of the settings.
fn listen(place: &Place, args: &Doctor) -> Result<Listen> {
    if args.bind.is_empty() {
        return Ok(place.config.listen());
    }
    Listen::on(&args.bind).map_err(|error| usage(format!("--bind: {error}")))
}

/// Reaches the peers of the tickets, if there are any.
fn peers(place: &Place, args: &Doctor) -> Result<Vec<Check>> {
    let tickets = match &place.config.ticket {
        Some(Tickets(tickets)) if args.ticket.is_empty() => tickets.clone(),
        _ => ring::parse(&args.ticket)?,
    };
    if tickets.is_empty() {
        return Ok(Vec::new());
    }
    let mut peers: Vec<PeerAddr> = tickets.into_iter().flat_map(|ticket| ticket.peers).collect();
    peers.dedup();
    let caller = if args.as_node { Caller::Node } else { Caller::Fresh };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let links = links_to(place, &peers, caller).await?;
        let checks = doctor::reach(&links, &peers).await;
        links.close().await;
        Ok(checks)
    })
}
