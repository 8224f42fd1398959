//! `lockstep status`: which servers a swarm has, what they hold, and how busy they are.

use std::time::Duration;

use anyhow::{Result, bail};
use lockstep_client::client::{Caller, links_to};
use lockstep_client::place::Place;
use lockstep_client::swarm::{Seen, look};
use lockstep_node::driver::{Links, StatusError};
use lockstep_node::transport::PeerAddr;
use lockstep_proto::announcement::{Speed, Status};
use lockstep_proto::version::VERSION;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::args::Status as Arguments;
use crate::exit::Exit;
use crate::interrupt::asked_to_end;
use crate::output::Printer;
use crate::ring;

/// Runs `lockstep status`, and returns its exit code.
pub(crate) fn run(place: &Place, args: &Arguments) -> Result<Exit> {
    let printer = Printer::new(args.json);
    let tickets = ring::tickets(place, &args.ticket)?;
    let peers: Vec<PeerAddr> =
        tickets.iter().flat_map(|ticket| ticket.peers.iter().cloned()).collect();
    let caller = if args.as_node { Caller::Node } else { Caller::Fresh };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let links = links_to(place, &peers, caller).await?;
        let result = watch(&links, &peers, args, printer).await;
        links.close().await;
        result
    })
}

/// Shows the swarm once, or again and again until interrupted.
async fn watch(
    links: &Links,
    peers: &[PeerAddr],
    args: &Arguments,
    printer: Printer,
) -> Result<Exit> {
    let mut last = None;
    loop {
        let (seen, silent) = look(links, peers).await;
        if seen.is_empty() {
            let why: Vec<String> = silent.iter().map(ToString::to_string).collect();
            bail!("no server of the ticket answered: {}", why.join("; "));
        }
        let value = facts(&seen, &silent);
        if !args.json && last.as_ref() != Some(&value) {
            show(&seen, &silent, printer);
        }
        printer.json(&value);
        last = Some(value);
        let Some(seconds) = args.watch else { return Ok(Exit::Done) };
        tokio::select! {
            () = sleep(Duration::from_secs(u64::from(seconds.get()))) => {}
            () = asked_to_end() => return Ok(Exit::Done),
        }
    }
}

/// Milliseconds of a measured time in nanoseconds; none if it was not measured.
fn milliseconds(ns: u32) -> Option<f64> {
    (ns > 0).then(|| f64::from(ns) / 1e6)
}

fn facts(seen: &[Seen], silent: &[StatusError]) -> Value {
    let node = |one: &Seen| {
        let Status { node, manifest, first, end, head, state, speed, .. } = &one.status;
        let Speed { decode_ns: [one_session, four, sixteen], prefill_ns, .. } = speed;
        json!({
            "node": node.to_string(),
            "addresses": one.peer.addrs,
            "manifest": manifest.to_string(),
            "first": first,
            "end": end,
            "head": head,
            "state": state.to_string(),
            "answers": one.round_trip.is_some(),
            "round_trip_ms": one.round_trip.map(|time| time.as_secs_f64() * 1e3),
            "decode_ms_per_layer": milliseconds(*one_session),
            "decode_ms_per_layer_of_4": milliseconds(*four),
            "decode_ms_per_layer_of_16": milliseconds(*sixteen),
            "prefill_ms_per_layer": milliseconds(*prefill_ns),
            "sessions": one.status.sessions,
            "sessions_limit": one.status.sessions_limit,
            "queue": one.status.queue,
            "kv_pages_free": one.status.kv_pages_free,
            "tags": one.status.tags.iter().map(|tag| tag.text()).collect::<Vec<_>>(),
            "software": one.status.software,
            "version": one.status.version,
        })
    };
    json!({
        "nodes": seen.iter().map(node).collect::<Vec<_>>(),
        "silent": silent.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn show(seen: &[Seen], silent: &[StatusError], printer: Printer) {
    let mut model = None;
    for one in seen {
        let status = &one.status;
        if model != Some(status.manifest) {
            model = Some(status.manifest);
            printer.line(format!("model {}", status.manifest.short()));
            printer.line(
                "  node          layers      state     sessions  queue  free pages  ms/layer  \
                 round trip",
            );
        }
        printer.line(row(one));
    }
    for error in silent {
        printer.note(format!("no answer: {error}"));
    }
}

fn row(one: &Seen) -> String {
    let Status { node, first, end, head, state, speed, .. } = &one.status;
    let layers = format!("{first}..{end}{}", if *head { " +head" } else { "" });
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let ms = or_dash(milliseconds(speed.decode_ns[0]).map(|ms| format!("{ms:.3}")));
    let trip = one.round_trip.map(|time| format!("{:.1} ms", time.as_secs_f64() * 1e3));
    let state = match one.round_trip {
        Some(_) if one.status.version != VERSION => "other version".to_owned(),
        Some(_) => state.to_string(),
        None => format!("{state}, silent"),
    };
    let sessions = format!("{} of {}", one.status.sessions, one.status.sessions_limit);
    format!(
        "  {:<12}  {layers:<10}  {state:<8}  {sessions:<8}  {:<5}  {:<10}  {ms:<8}  {}",
        node.short(),
        one.status.queue,
        one.status.kv_pages_free,
        or_dash(trip),
    )
}
