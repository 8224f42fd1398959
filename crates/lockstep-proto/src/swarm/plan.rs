//! What a ring over given machines is expected to give, and what more machines would.
//!
//! Predictions are made from measured speeds and links, without load. A plan says what one machine
//! alone would give, so that nobody adds machines to become slower.

use lockstep_exact::digest::Digest;
use lockstep_verify::request::Hop;
use lockstep_verify::sign::NodeId;

use super::cost::{Links, Pace};
use super::demand::Demand;
use super::flow::flow;
use super::place::{Machine, Sizes, place};
use super::split::{Goal, NoRing, ring};
use crate::announcement::{BATCHES, Neighbour, Speed, State, Status};
use crate::limits;

/// The nanoseconds of a second, times a million: a rate in millionths per second is this divided by
/// the nanoseconds of one.
const MILLIONTHS: u64 = 1_000_000_000_000_000;

/// The prediction of what a ring gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The stages, server 1 first.
    pub hops: Vec<Hop>,
    /// The nanoseconds from one token to the next, for one client.
    pub token_ns: u64,
    /// The tokens per second of one client, in millionths.
    pub stream_rate: u64,
    /// The tokens per second of many clients together, in millionths: what the slowest stage does
    /// at the largest measured batch.
    pub batched_rate: u64,
    /// The machine that would be fastest by itself, if any holds the whole model, and the
    /// nanoseconds that it takes for each token of one client.
    pub alone: Option<(NodeId, u64)>,
}

impl Plan {
    /// Returns the machine that would be faster by itself for one client, if there is one.
    #[must_use]
    pub fn faster_alone(&self) -> Option<NodeId> {
        self.alone.filter(|(_, ns)| *ns < self.token_ns).map(|(node, _)| node)
    }
}

/// Predicts what the ring `hops` over `machines` gives. A hop on a node that is none of them counts
/// as on one that has measured nothing.
#[must_use]
pub fn predict(hops: &[Hop], machines: &[Machine], sizes: &Sizes) -> Plan {
    let machine = |node: NodeId| machines.iter().find(|machine| machine.node == node);
    let pace = |node: NodeId| {
        // default: who is not among the machines has measured nothing
        Pace::of(&machine(node).map_or(Speed::UNKNOWN, |machine| machine.speed))
    };
    let stage = |batch: u32| {
        move |(at, hop): (usize, &Hop)| {
            let pace = pace(hop.node);
            let layers = u64::from(hop.end.saturating_sub(hop.first));
            let head = if at == 0 { pace.head_ns(batch) } else { 0 };
            layers.saturating_mul(pace.layer_ns(batch)).saturating_add(head)
        }
    };
    let links =
        |hop: &Hop| machine(hop.node).map_or(&[][..], |machine| machine.neighbours.as_slice());
    let mut nodes: Vec<_> = hops.iter().map(|hop| (hop.node, links(hop))).collect();
    nodes.sort_by_key(|(node, _)| *node);
    let links = Links::of(&nodes, sizes.state_bytes);
    // default: every hop's node is in the list that was made of them
    let place = |node: NodeId| nodes.binary_search_by_key(&node, |(node, _)| *node).ok();
    let next = hops.iter().cycle().skip(1);
    let pairs = hops.iter().zip(next).filter(|(from, to)| from.node != to.node);
    let ways =
        pairs.filter_map(|(from, to)| Some(links.hop_ns(place(from.node)?, place(to.node)?)));
    let stages = hops.iter().enumerate().map(stage(1));
    let token_ns = stages.chain(ways).fold(0, u64::saturating_add);
    let [.., batch] = BATCHES;
    let slowest = hops.iter().enumerate().map(stage(batch)).fold(1, u64::max);
    let batched_rate = MILLIONTHS.saturating_mul(u64::from(batch)).checked_div(slowest);
    let whole = machines.iter().filter(|one| one.most_layers(sizes, true) == sizes.layers);
    let alone = whole.map(|one| {
        let pace = Pace::of(&one.speed);
        let layers = u64::from(sizes.layers).saturating_mul(pace.layer_ns(1));
        (layers.saturating_add(pace.head_ns(1)), one.node)
    });
    Plan {
        hops: hops.to_vec(),
        token_ns,
        // default: neither divisor is zero
        stream_rate: MILLIONTHS.checked_div(token_ns.max(1)).unwrap_or(0),
        // default: as above
        batched_rate: batched_rate.unwrap_or(0),
        alone: alone.min().map(|(ns, node)| (node, ns)),
    }
}

/// Splits a model over machines for a goal, and predicts what the ring gives.
///
/// # Errors
/// [`NoRing`] if their memories are not enough.
pub fn plan(machines: &[Machine], sizes: &Sizes, goal: Goal) -> Result<Plan, NoRing> {
    let hops = ring(machines, sizes, goal)?;
    Ok(predict(&hops, machines, sizes))
}

/// Plans a ring as [`plan`] does, with `count` more machines like one of them: as far from the
/// others as that is, and as near to it as its nearest neighbour.
///
/// # Errors
/// [`NoRing`] if the memories are not enough even so.
pub fn with_more(
    machines: &[Machine],
    like: &Machine,
    count: u32,
    sizes: &Sizes,
    goal: Goal,
) -> Result<Plan, NoRing> {
    let mut all = machines.to_vec();
    all.extend((0..count).map(|number| copy(like, number)));
    plan(&all, sizes, goal)
}

/// Returns the copy of a machine with a number.
fn copy(like: &Machine, number: u32) -> Machine {
    let id = |number: u32| {
        let parts: [&[u8]; 2] = [&like.node.0, &number.to_le_bytes()];
        NodeId(Digest::derive("lockstep 2026 machine that is planned for", &parts).0)
    };
    let mut neighbours = like.neighbours.clone();
    let nearest = like.neighbours.iter().min_by_key(|link| (link.rtt_us, link.node)).copied();
    let to = [like.node].into_iter().chain((0..number).map(id));
    let near = to.filter_map(|node| nearest.map(|link| Neighbour { node, ..link }));
    neighbours.extend(near);
    Machine { node: id(number), neighbours, ..like.clone() }
}

/// Computes what a swarm gives with up to `count` more machines like one, each of which takes the
/// layers that [`place`] chooses: the bound of its [`flow`] with none, one, and so on, in
/// millionths of a token per second. Where there is no ring yet it is 0.
#[must_use]
pub fn grown(
    peers: &[Status],
    demand: &Demand,
    sizes: &Sizes,
    like: &Machine,
    count: u32,
) -> Vec<u64> {
    let mut peers = peers.to_vec();
    let bound = |peers: &[Status]| flow(peers, demand).map_or(0, |flow| flow.bound);
    let mut bounds = vec![bound(&peers)];
    for number in 0..count.min(limits::MACHINES_PLANNED) {
        let machine = copy(like, number);
        let Some(span) = place(&peers, &machine, sizes) else {
            break;
        };
        peers.push(announced(&machine, span.start, span.end, sizes));
        bounds.push(bound(&peers));
    }
    bounds
}

/// Returns what a machine would announce as a server of `first..end`.
fn announced(machine: &Machine, first: u32, end: u32, sizes: &Sizes) -> Status {
    Status {
        version: crate::version::VERSION,
        node: machine.node,
        manifest: sizes.manifest,
        first,
        end,
        head: first == 0,
        state: State::Ready,
        sessions: 0,
        sessions_limit: u32::MAX,
        queue: 0,
        kv_pages_free: u32::MAX,
        speed: machine.speed,
        neighbours: machine.neighbours.clone(),
        adapters: Vec::new(),
        tags: Vec::new(),
        software: String::new(),
    }
}
