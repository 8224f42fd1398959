//! `lockstep status`: which servers a swarm has, what they hold, how fast and how busy they are,
//! how they answered this machine's audits, and what has changed since the last look.

mod show;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use lockstep_client::client::{Caller, links_to};
use lockstep_client::forecast::{self, Forecast, Window, forecast, tokens_per_s, windows};
use lockstep_client::model::Model;
use lockstep_client::place::Place;
use lockstep_client::standing::why_avoided;
use lockstep_client::swarm::{Change, Seen, changes, look};
use lockstep_exact::Digest;
use lockstep_node::driver::{Links, StatusError};
use lockstep_node::home::Home;
use lockstep_node::memory;
use lockstep_node::record::{Deeds, Record, Standing};
use lockstep_node::transport::{NodeId, PeerAddr, Way};
use lockstep_proto::announcement::{Speed, Status};
use lockstep_proto::model::Model as ProtocolModel;
use lockstep_proto::swarm::demand::Demand;
use lockstep_proto::version::VERSION;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::args::Status as Arguments;
use crate::exit::Exit;
use crate::interrupt::asked_to_end;
use crate::output::{self, Printer};
use crate::ring;

/// Positions of the session for which the swarm's rates are predicted.
pub(super) const POSITIONS: u32 = 512;

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
        let result = watch(place, (&links, &peers), args, printer).await;
        links.close().await;
        result
    })
}

/// Shows the swarm once, or again and again until interrupted.
async fn watch(
    place: &Place,
    (links, peers): (&Links, &[PeerAddr]),
    args: &Arguments,
    printer: Printer,
) -> Result<Exit> {
    let mut last: Option<Vec<Seen>> = None;
    loop {
        let (seen, silent) = look(links, peers).await;
        if seen.is_empty() && last.is_none() {
            let why: Vec<String> = silent.iter().map(ToString::to_string).collect();
            bail!("no server of the ticket answered: {}", why.join("; "));
        }
        let changes = last.as_ref().map_or_else(Vec::new, |last| changes(last, &seen));
        let view = View::new(place, seen, silent, changes);
        if !args.json {
            if args.watch.is_some() {
                printer.clear();
            }
            let width = output::width();
            view.lines(width, args.all).into_iter().for_each(|line| printer.line(line));
            view.notes().into_iter().for_each(|note| printer.note(note));
        }
        printer.json(&view.facts());
        last = Some(view.seen);
        let Some(seconds) = args.watch else { return Ok(Exit::Done) };
        tokio::select! {
            () = sleep(Duration::from_secs(u64::from(seconds.get()))) => {}
            () = asked_to_end() => return Ok(Exit::Done),
        }
    }
}

/// One look at a swarm, with what this machine knows of its servers and models.
struct View {
    seen: Vec<Seen>,
    silent: Vec<StatusError>,
    changes: Vec<(NodeId, Change)>,
    record: Record,
    home: Home,
    /// Why it is not known how servers answered before, if it is not.
    no_record: Option<String>,
    models: Vec<Served>,
}

/// A model that the swarm serves.
struct Served {
    manifest: Digest,
    /// The name of the model, if it is on this machine.
    name: Option<String>,
    /// The layers of the model: as many as servers hold, if it is not on this machine.
    layers: u32,
    windows: Vec<Window>,
    /// What the swarm is expected to give; none if the model is not on this machine.
    forecast: Option<Forecast>,
}

impl View {
    fn new(
        place: &Place,
        seen: Vec<Seen>,
        silent: Vec<StatusError>,
        changes: Vec<(NodeId, Change)>,
    ) -> Self {
        let (record, no_record) = match Record::read(&place.home.nodes()) {
            Ok(record) => (record, None),
            Err(error) => (Record::default(), Some(error.to_string())),
        };
        let mut ids: Vec<Digest> = seen.iter().map(|one| one.status.manifest).collect();
        ids.dedup();
        let models = ids.into_iter().map(|id| Served::new(place, id, &seen)).collect();
        Self { seen, silent, changes, record, home: place.home.clone(), no_record, models }
    }

    /// Returns the receipt that convicts a node, if it is banned and that was kept.
    fn evidence(&self, node: &NodeId) -> Option<PathBuf> {
        self.record.conviction(node)?.evidence(&self.home)
    }

    /// Returns how a node answered this machine's audits.
    fn deeds(&self, node: &NodeId) -> Deeds {
        self.record.deeds(node)
    }

    fn facts(&self) -> Value {
        let change = |(node, change): &(NodeId, Change)| {
            let (node, change) = (node.to_string(), change.to_string());
            json!({ "node": node, "change": change })
        };
        json!({
            "nodes": self.seen.iter().map(|one| self.node(one)).collect::<Vec<_>>(),
            "models": self.models.iter().map(Served::facts).collect::<Vec<_>>(),
            "changes": self.changes.iter().map(change).collect::<Vec<_>>(),
            "silent": self.silent.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }

    fn node(&self, one: &Seen) -> Value {
        let Status { node, manifest, first, end, head, state, speed, .. } = &one.status;
        let Speed { decode_ns: [one_session, four, sixteen], prefill_ns, .. } = speed;
        let deeds = self.deeds(node);
        json!({
            "node": node.to_string(),
            "addresses": one.peer.addrs,
            "manifest": manifest.to_string(),
            "first": first,
            "end": end,
            "head": head,
            "state": state.to_string(),
            "answers": one.round_trip.is_some(),
            "way": one.way.map(Way::name),
            "round_trip_ms": one.round_trip.map(|time| time.as_secs_f64() * 1e3),
            "decode_ms_per_layer": milliseconds(*one_session),
            "decode_ms_per_layer_of_4": milliseconds(*four),
            "decode_ms_per_layer_of_16": milliseconds(*sixteen),
            "prefill_ms_per_layer": milliseconds(*prefill_ns),
            "tokens_per_s": speed.is_known().then(|| forecast::rate(&one.status)),
            "sessions": one.status.sessions,
            "sessions_limit": one.status.sessions_limit,
            "queue": one.status.queue,
            "kv_pages_free": one.status.kv_pages_free,
            "audits": {
                "answers": deeds.answers,
                "verified": deeds.verified,
                "failed": deeds.failed,
                "withheld": deeds.withheld,
            },
            "avoided": why_avoided(&deeds).map(|why| why.to_string()),
            "banned": deeds.standing() == Standing::Failed,
            "proven": deeds.verified > 0 && deeds.standing() != Standing::Failed,
            "evidence": self.evidence(node),
            "tags": one.status.tags.iter().map(|tag| tag.text()).collect::<Vec<_>>(),
            "software": one.status.software,
            "version": one.status.version,
        })
    }
}

impl Served {
    fn new(place: &Place, id: Digest, seen: &[Seen]) -> Self {
        let of_model = seen.iter().filter(|one| one.status.manifest == id);
        let all: Vec<&Status> = of_model.clone().map(|one| &one.status).collect();
        // Who is silent serves nobody, whatever it announced.
        let there = of_model.filter(|one| one.round_trip.is_some()).map(|one| one.status.clone());
        let there: Vec<Status> = there.collect();
        // A model that can't be read is as good as none here: nothing is predicted.
        let model = Model::find(&place.store, &id.to_string()).ok().flatten();
        let held = all.iter().map(|one| one.end).max().unwrap_or(0);
        let layers = model.as_ref().map_or(held, |model| model.manifest.layer_count());
        let forecast = model.as_ref().map(|model| {
            let demand = Demand::of(&ProtocolModel::from(&model.manifest), POSITIONS);
            forecast(&there, &demand, &memory::sizes(&model.manifest, None))
        });
        let windows = windows(&there.iter().collect::<Vec<_>>(), layers);
        let name = model.map(|model| model.name.to_string());
        Self { manifest: id, name, layers, windows, forecast }
    }

    fn facts(&self) -> Value {
        let predicted = self.forecast.as_ref().map(|told| {
            let ring = told.ring.as_ref();
            json!({
                "tokens_per_s": ring.ok().map(|route| tokens_per_s(route.token_ns)),
                "no_ring": ring.err().map(ToString::to_string),
                "many_tokens_per_s": told.many.map(|(bound, _)| bound),
            })
        });
        json!({
            "manifest": self.manifest.to_string(),
            "name": self.name,
            "layers": self.layers,
            "windows": self.windows.iter().map(window_facts).collect::<Vec<_>>(),
            "predicted": predicted,
        })
    }
}

/// Returns a window of layers as scripts read it.
pub(super) fn window_facts(window: &Window) -> Value {
    json!({
        "first": window.first,
        "end": window.end,
        "ready": window.ready,
        "joining": window.joining,
        "tokens_per_s": window.tokens_per_s,
    })
}

/// Returns the milliseconds of a measured time in nanoseconds; none if it was not measured.
fn milliseconds(ns: u32) -> Option<f64> {
    (ns > 0).then(|| f64::from(ns) / 1e6)
}

/// Returns the health of a server in a word: its state, and what is wrong if something is.
fn health(one: &Seen, deeds: &Deeds) -> String {
    match deeds.standing() {
        Standing::Good => {}
        Standing::Failed => return "banned".to_owned(),
        Standing::Withholds => return "avoided".to_owned(),
    }
    match one.round_trip {
        Some(_) if one.status.version != VERSION => "other version".to_owned(),
        Some(_) => one.status.state.to_string(),
        None => format!("{}, silent", one.status.state),
    }
}
