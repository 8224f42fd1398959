//! `lockstep plan`: what a swarm gives now, beside what it was measured to give, and what more
//! machines would; or what machines like this one would give of a model.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lockstep_client::client::{Caller, links_to};
use lockstep_client::forecast::{
    Forecast, Grown, bottleneck, forecast, grown, is_shown, machine_of, one_stream, tokens_per_s,
};
use lockstep_client::model::Model;
use lockstep_client::place::Place;
use lockstep_client::request::Parameters;
use lockstep_client::swarm::look;
use lockstep_node::executor::{Executor, Weights};
use lockstep_node::measure;
use lockstep_node::memory::{self, MemoryLimit};
use lockstep_node::ticket::Ticket;
use lockstep_node::transport::{NodeId, PeerAddr, parse_node_id};
use lockstep_proto::announcement::{Neighbour, Speed, State, Status};
use lockstep_proto::model::Model as ProtocolModel;
use lockstep_proto::swarm::demand::Demand;
use lockstep_proto::swarm::place::{Machine, Sizes};
use lockstep_proto::swarm::plan::Plan;
use lockstep_verify::request::Hop;
use serde_json::{Value, json};

use super::chat;
use super::status::{POSITIONS, window_facts};
use crate::args::Plan as Arguments;
use crate::backend;
use crate::exit::{Exit, usage};
use crate::models;
use crate::output::{self, Printer};
use crate::ring;
use crate::table::Table;

/// The tokens of a canary's prompt.
const CANARY_PROMPT: usize = 8;
/// The tokens of a canary's answer.
const CANARY_TOKENS: u32 = 32;
/// The layers of which the speed of this machine is measured.
const MEASURED_LAYERS: u32 = 4;
/// The node id of a machine that is only thought of, beside which others stand.
const BESIDE: NodeId = NodeId([0; 32]);

/// Runs `lockstep plan`, and returns its exit code.
pub(crate) fn run(place: &Place, args: &Arguments) -> Result<Exit> {
    let printer = Printer::new(args.json);
    match args.what.as_slice() {
        [one] if !Ticket::is_begun_by(one) && !ring::asks_for_lan(&args.what) => {
            of_machines(place, one, args, printer)
        }
        _ => of_swarm(place, args, printer),
    }
}

/// The model that is planned for.
struct Planned {
    name: String,
    sizes: Sizes,
    demand: Demand,
}

impl Planned {
    fn new(model: &Model) -> Self {
        let demand = Demand::of(&ProtocolModel::from(&model.manifest), POSITIONS);
        Self { name: model.name.to_string(), sizes: memory::sizes(&model.manifest, None), demand }
    }
}

/// Plans for the servers of a swarm.
fn of_swarm(place: &Place, args: &Arguments, printer: Printer) -> Result<Exit> {
    if args.rtt_ms.is_some() {
        return Err(usage("--rtt-ms is for a plan of a MODEL; servers announce their round trips"));
    }
    let tickets = ring::tickets(place, &args.what)?;
    ring::one_model(&tickets)?;
    let model = chat::of_tickets(place, &tickets, "give the ticket of a server that names it")?;
    let like = args.like.as_deref().map(like).transpose()?;
    let caller = if args.as_node { Caller::Node } else { Caller::Fresh };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build()?;
    let servers = runtime.block_on(servers(place, &model, &tickets, caller))?;
    let planned = Planned::new(&model);
    let told = forecast(&servers, &planned.demand, &planned.sizes);
    let measured = match args.measure && told.ring.is_ok() {
        true => Some(runtime.block_on(measure(place, &model, &tickets, caller))?),
        false => None,
    };
    let like = like_of(&servers, like)?;
    let machine = machine_of(like, &planned.sizes);
    let Planned { sizes, demand, .. } = &planned;
    let rows = grown(&servers, demand, sizes, &machine, args.add);
    let ready = servers.iter().filter(|one| one.state == State::Ready).count();
    let swarm = Swarm { planned: &planned, told, measured, servers: servers.len(), ready };
    if !args.json {
        swarm.lines(&machine, &rows).into_iter().for_each(|line| printer.line(line));
    }
    printer.json(&swarm.facts(&machine, &rows));
    Ok(Exit::Done)
}

fn like(text: &str) -> Result<NodeId> {
    parse_node_id(text).map_err(|error| usage(format!("--like {text:?}: {error}")))
}

/// Returns the servers of a model that answer, in a swarm.
async fn servers(
    place: &Place,
    model: &Model,
    tickets: &[Ticket],
    caller: Caller,
) -> Result<Vec<Status>> {
    let peers: Vec<PeerAddr> =
        tickets.iter().flat_map(|ticket| ticket.peers.iter().cloned()).collect();
    let links = links_to(place, &peers, caller).await?;
    let (seen, silent) = look(&links, &peers).await;
    links.close().await;
    let there = seen.into_iter().filter(|one| one.round_trip.is_some()).map(|one| one.status);
    let servers: Vec<Status> = there.filter(|one| one.manifest == model.record.manifest).collect();
    if servers.is_empty() {
        let why: Vec<String> = silent.iter().map(ToString::to_string).collect();
        bail!(
            "no server of {} answered ({}); `lockstep status TICKET` shows the swarm, and \
             `lockstep plan {}` plans for machines like this one",
            model.name,
            why.join("; "),
            model.name,
        );
    }
    Ok(servers)
}

/// Returns the server that more machines are to be like: the named one, or else the one with the
/// median speed of those that are ready.
fn like_of(servers: &[Status], wanted: Option<NodeId>) -> Result<&Status> {
    if let Some(node) = wanted {
        let found = servers.iter().find(|one| one.node == node);
        return found.ok_or_else(|| {
            usage(format!("--like: {} is no server of this swarm that answers", node.short()))
        });
    }
    let mut all: Vec<&Status> = servers.iter().collect();
    all.sort_by_key(|one| (one.state != State::Ready, one.speed.decode_ns, one.node));
    let ready = all.iter().filter(|one| one.state == State::Ready).count();
    all.get(ready / 2).or_else(|| all.first()).copied().context("no server answered")
}

/// The measured speed of a canary: a short prompt and its answer, which nobody audits.
struct Measured {
    tokens: usize,
    first_token: Duration,
    rest: Duration,
    hops: Vec<Hop>,
}

impl Measured {
    fn tokens_per_s(&self) -> f64 {
        self.tokens.saturating_sub(1) as f64 / self.rest.as_secs_f64().max(1e-9)
    }
}

/// Sends a canary prompt over the ring that a client would get.
async fn measure(
    place: &Place,
    model: &Model,
    tickets: &[Ticket],
    caller: Caller,
) -> Result<Measured> {
    let tokenizer = model.tokenizer(&place.store)?;
    let client = ring::find_unchecked(place, (model, &tokenizer), tickets, caller).await?;
    let parameters =
        Parameters { max_tokens: CANARY_TOKENS, ignore_end: true, ..Parameters::default() };
    let question = parameters.question(vec![0; CANARY_PROMPT], &model.manifest)?;
    let mut answering = client.ask(question, None).map_err(ring::in_flags)?;
    let answer = tokio::select! {
        answer = answering.finish() => answer,
        () = crate::interrupt::interrupted() => bail!("interrupted"),
    };
    let answer = answer.map_err(|error| ring::broken_off(&client, answering.ring(), error))?;
    let hops = answering.ring().route().to_vec();
    client.close().await;
    let tokens = answer.receipt.answer.len();
    Ok(Measured { tokens, first_token: answer.first_token, rest: answer.rest, hops })
}

/// A plan for the servers of a swarm.
struct Swarm<'a> {
    planned: &'a Planned,
    told: Forecast,
    measured: Option<Measured>,
    servers: usize,
    ready: usize,
}

impl Swarm<'_> {
    fn lines(&self, like: &Machine, rows: &[Grown]) -> Vec<String> {
        let Self { planned, told, servers, ready, .. } = self;
        let layers = planned.sizes.layers;
        let mut lines =
            vec![format!("{}: {layers} layers, {ready} of {servers} servers ready", planned.name)];
        match &told.ring {
            Ok(route) => {
                lines.push(format!("  ring        {}", ring::hops_text(&route.hops)));
                lines.push(format!(
                    "  one client  {:.1} tokens/s predicted, prompts {:.0} tokens/s",
                    tokens_per_s(route.token_ns),
                    tokens_per_s(route.prompt_ns),
                ));
                lines.extend(self.measured_line(tokens_per_s(route.token_ns)));
            }
            Err(error) => lines.push(format!("  ring        none: {error}")),
        }
        if let Some((bound, steady)) = told.many {
            lines.push(format!(
                "  many        at most {bound:.1} tokens/s together, {steady:.1} along rings of \
                 a plan"
            ));
        }
        let weakest = bottleneck(&told.windows);
        let spans = weakest.iter().map(|one| format!("{}..{}", one.first, one.end));
        if let Some(one) = weakest.first() {
            lines.push(format!(
                "  weakest     layers {}: {:.1} tokens/s of {} servers",
                spans.collect::<Vec<_>>().join(", "),
                one.tokens_per_s,
                one.ready,
            ));
        }
        if let Some((node, rate)) = told.faster_alone {
            lines.push(format!(
                "  alone       {} by itself is faster for one client: {rate:.1} tokens/s",
                node.short()
            ));
        }
        lines.push(format!("  more        machines like {}:", like.node.short()));
        lines.extend(more_table(rows));
        lines
    }

    fn measured_line(&self, predicted: f64) -> Option<String> {
        let measured = self.measured.as_ref()?;
        let rate = measured.tokens_per_s();
        Some(format!(
            "              {rate:.1} tokens/s measured over {} tokens and {} servers, {:.0} % of \
             it; first token after {:.0} ms",
            measured.tokens,
            measured.hops.len(),
            rate / predicted * 100.0,
            measured.first_token.as_secs_f64() * 1e3,
        ))
    }

    fn facts(&self, like: &Machine, rows: &[Grown]) -> Value {
        let Self { planned, told, measured, .. } = self;
        let route = told.ring.as_ref();
        let predicted = route.ok().map(|route| tokens_per_s(route.token_ns));
        let measured = measured.as_ref().map(|measured| {
            json!({
                "tokens": measured.tokens,
                "tokens_per_s": measured.tokens_per_s(),
                "first_token_ms": measured.first_token.as_secs_f64() * 1e3,
                "ring": hops_facts(&measured.hops),
                "of_predicted": predicted.map(|rate| measured.tokens_per_s() / rate),
            })
        });
        let alone = told.faster_alone;
        json!({
            "model": planned.name,
            "manifest": planned.sizes.manifest.to_string(),
            "layers": planned.sizes.layers,
            "servers": self.servers,
            "ready": self.ready,
            "ring": route.ok().map(|route| hops_facts(&route.hops)),
            "no_ring": route.err().map(ToString::to_string),
            "predicted": {
                "tokens_per_s": predicted,
                "token_ms": route.ok().map(|route| route.token_ns as f64 / 1e6),
                "prompt_tokens_per_s": route.ok().map(|route| tokens_per_s(route.prompt_ns)),
                "many_tokens_per_s": told.many.map(|(bound, _)| bound),
                "many_steady_tokens_per_s": told.many.map(|(_, steady)| steady),
            },
            "measured": measured,
            "windows": told.windows.iter().map(window_facts).collect::<Vec<_>>(),
            "bottleneck": bottleneck(&told.windows).into_iter().map(window_facts)
                .collect::<Vec<_>>(),
            "faster_alone": alone.map(|(node, rate)| {
                json!({ "node": node.to_string(), "tokens_per_s": rate })
            }),
            "like": like.node.to_string(),
            "more": rows.iter().map(grown_facts).collect::<Vec<_>>(),
        })
    }
}

fn hops_facts(hops: &[Hop]) -> Value {
    let hop =
        |hop: &Hop| json!({ "node": hop.node.to_string(), "first": hop.first, "end": hop.end });
    hops.iter().map(hop).collect()
}

fn grown_facts(row: &Grown) -> Value {
    json!({
        "machines": row.machines,
        "many_tokens_per_s": row.many,
        "one_tokens_per_s": row.one,
    })
}

fn more_table(rows: &[Grown]) -> Vec<String> {
    let mut table =
        Table::new(&[("machines", 0), ("many clients", 0), ("one client, layers dealt anew", 1)]);
    for row in rows {
        let many = match row.many > 0.0 {
            true => format!("{:.1} tokens/s", row.many),
            false => "no ring".to_owned(),
        };
        let one = row.one.map_or_else(|| "no ring".to_owned(), |one| format!("{one:.1} tokens/s"));
        table.row([format!("+{}", row.machines), many, one]);
    }
    table.lines(output::width())
}

/// Plans for machines like this one, which would share a model.
fn of_machines(place: &Place, name: &str, args: &Arguments, printer: Printer) -> Result<Exit> {
    let given =
        [("--measure", args.measure), ("--like", args.like.is_some()), ("--as-node", args.as_node)];
    if let Some((flag, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
        return Err(usage(format!("{flag} is for a plan of a TICKET; {name:?} is none")));
    }
    let model = models::installed(place, name)?;
    let planned = Planned::new(&model);
    let speed = own_speed(place, &model)?;
    let rtt_us = args.rtt_ms.unwrap_or(1.0) * 1e3;
    let near = Neighbour { node: BESIDE, rtt_us: rtt_us as u32, bytes_per_s: 0 };
    let own = Machine {
        node: NodeId([1; 32]),
        speed,
        memory_bytes: place.room().map_or(u64::MAX, MemoryLimit::for_serving),
        neighbours: vec![near],
    };
    let plans: Vec<(u32, Option<Plan>)> = (0..=args.add)
        .filter(|count| is_shown(*count, args.add))
        .map(|count| {
            let machines = std::slice::from_ref(&own);
            (count + 1, one_stream(machines, &own, count, &planned.sizes).ok())
        })
        .collect();
    let most = own.most_layers(&planned.sizes, true);
    if !args.json {
        let ms = f64::from(speed.decode_ns[0]) / 1e6;
        printer.line(format!(
            "{}: {} layers; this machine takes {ms:.3} ms for one, and has memory for {most}",
            planned.name, planned.sizes.layers
        ));
        let trip = args.rtt_ms.unwrap_or(1.0);
        printer.line(format!("  machines like this one, {trip} ms round trip apart (--rtt-ms):"));
        machines_table(&plans).into_iter().for_each(|line| printer.line(line));
    }
    printer.json(&machines_facts(&planned, (speed, most, rtt_us / 1e3), &plans));
    Ok(Exit::Done)
}

fn machines_table(plans: &[(u32, Option<Plan>)]) -> Vec<String> {
    let columns =
        [("machines", 0), ("one client", 0), ("many clients", 0), ("of them used for one", 1)];
    let mut table = Table::new(&columns);
    for (machines, plan) in plans {
        let rate = |millionths: u64| format!("{:.1} tokens/s", millionths as f64 / 1e6);
        let [one, many, used] = match plan {
            Some(plan) => {
                let used = plan.hops.len().to_string();
                [rate(plan.stream_rate), rate(plan.batched_rate), used]
            }
            None => ["too little memory", "-", "-"].map(str::to_owned),
        };
        table.row([machines.to_string(), one, many, used]);
    }
    table.lines(output::width())
}

fn machines_facts(
    planned: &Planned,
    (speed, most, rtt_ms): (Speed, u32, f64),
    plans: &[(u32, Option<Plan>)],
) -> Value {
    let row = |(machines, plan): &(u32, Option<Plan>)| {
        let rate = |of: fn(&Plan) -> u64| plan.as_ref().map(|plan| of(plan) as f64 / 1e6);
        json!({
            "machines": machines,
            "one_tokens_per_s": rate(|plan| plan.stream_rate),
            "many_tokens_per_s": rate(|plan| plan.batched_rate),
            "used": plan.as_ref().map(|plan| plan.hops.len()),
        })
    };
    json!({
        "model": planned.name,
        "manifest": planned.sizes.manifest.to_string(),
        "layers": planned.sizes.layers,
        "decode_ms_per_layer": f64::from(speed.decode_ns[0]) / 1e6,
        "most_layers": most,
        "rtt_ms": rtt_ms,
        "more": plans.iter().map(row).collect::<Vec<_>>(),
    })
}

/// Measures how fast this machine computes a few layers of a model, and its head.
fn own_speed(place: &Place, model: &Model) -> Result<Speed> {
    let ops = backend::backend(backend::threads(place, None)?)?;
    let span = 0..MEASURED_LAYERS.min(model.manifest.layer_count());
    let blobs = place.store.open_span(&model.manifest, span.clone())?;
    let weights = Weights::load(&ops, &model.manifest, span.clone(), blobs.source())?;
    let mut executor = Executor::new(ops, &model.manifest, weights);
    let speed = measure::speed(&mut executor, &ProtocolModel::from(&model.manifest), &span);
    if !speed.is_known() {
        bail!(
            "this machine's speed can't be measured: there is no memory for {span:?} of the layers"
        );
    }
    Ok(speed)
}
