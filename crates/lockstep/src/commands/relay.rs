//! `lockstep relay`: the traffic of servers that nobody can reach from outside.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use anyhow::{Context, Result};
use lockstep_client::place::Place;
use lockstep_node::relay::{Running, Terms};
use lockstep_node::transport::{Identity, Relay, own_addresses};
use serde_json::json;

use crate::args::Relaying;
use crate::commands::serve::allowed;
use crate::exit::Exit;
use crate::interrupt::asked_to_end;
use crate::output::Printer;

/// Runs the command: hands on traffic until it is interrupted.
pub(crate) fn run(place: &Place, args: &Relaying) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let identity = Identity::load_or_create(&place.home.relay_key());
    let identity = identity.context("this home has no key for a relay")?;
    let bytes_per_second = args.mbps.map(|mbps| mbps.saturating_mul(1_000_000 / 8));
    let bytes_per_second = bytes_per_second.and_then(NonZeroU32::new);
    let terms = Terms { allow: allowed(place, &args.allow)?, bytes_per_second };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut relay = Running::start(&identity, args.bind, terms).await?;
        tell(printer, &stated(&relay, args));
        tokio::select! {
            error = relay.ended() => return Err(error.into()),
            () = asked_to_end() => printer.note("Stopped."),
        }
        relay.stop().await;
        anyhow::Ok(())
    })?;
    Ok(Exit::Done)
}

/// Returns the addresses of the relay as nodes are told them; at least one.
fn stated(relay: &Running, args: &Relaying) -> Vec<Relay> {
    let bound = relay.bound();
    let addrs: Vec<SocketAddr> = match &args.advertise {
        Some(stated) => vec![stated.over(&[bound])],
        None => own_addresses(&[bound]),
    };
    addrs.into_iter().map(|addr| relay.at(addr)).collect()
}

/// Says that the relay listens, and how nodes use it.
fn tell(printer: Printer, relays: &[Relay]) {
    if !printer.is_json() {
        for relay in relays {
            printer.line(format!("relay    {relay}"));
        }
        let is_private = |relay: &Relay| match relay.addr.ip() {
            std::net::IpAddr::V4(ip) => ip.is_private() || ip.is_loopback(),
            std::net::IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback(),
        };
        if relays.iter().all(is_private) {
            printer.note(
                "These addresses are of this network alone: --advertise IP states the one at \
                 which others reach this machine.",
            );
        }
        printer.note(
            "Servers use it with `lockstep serve --relay ADDRESS`, or because a ticket \
                      that they join with names it. Handing on until interrupted (Ctrl-C).",
        );
    }
    let texts: Vec<String> = relays.iter().map(ToString::to_string).collect();
    printer.json(&json!({ "relay": texts.first(), "relays": texts }));
}
