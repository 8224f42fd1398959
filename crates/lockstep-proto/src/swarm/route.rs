//! The ring for one stream: from what servers announce to the shortest time per token.
//!
//! A ring holds every layer once, in order, each server in it once, and starts at a server that
//! also holds the head. Its time per token is that of the head, of each layer at its server, of
//! what waits there already, and of each hop, the closing one back to server 1 included. A server
//! may serve a part of its span. What servers claim is not believed beyond this: a route is a plan,
//! not a proof. The same statuses give the same route in whatever order they come.

use core::fmt;
use core::ops::Range;

use lockstep_verify::request::Hop;
use lockstep_verify::sign::NodeId;

use super::cost::{Links, Pace, hop_ns, wait_ns};
use super::demand::{Demand, LeftOut, Room, Usable, Why, usable, why_not};
use super::path::{Field, Found, Leg, Server};
use crate::announcement::Status;
use crate::limits;

/// A ring, and what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The stages, server 1 first.
    pub hops: Vec<Hop>,
    /// The predicted nanoseconds from one token to the next, with what waits at the servers now.
    pub token_ns: u64,
    /// The predicted nanoseconds per position of a long prompt: those of the slowest stage or hop,
    /// because chunks follow each other through the ring.
    pub prompt_ns: u64,
    /// For each stage other servers that hold all of its layers, the fastest first, at most
    /// [`limits::STANDBYS`]; for server 1 those that have the head.
    pub standbys: Vec<Vec<NodeId>>,
}

/// The reasons why there is no route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// Nobody who may serve holds the first layer and the head.
    NoHead {
        /// The servers of the model that were left out.
        left_out: LeftOut,
    },
    /// Nobody who may serve and whom the client wants there holds the last layer.
    NoLast {
        /// The servers of the model that were left out.
        left_out: LeftOut,
    },
    /// The given order does not hold every layer.
    OrderGap {
        /// The node after which the gap is, if it is not the first.
        after: Option<NodeId>,
        /// The layer that is not held.
        layer: u32,
    },
    /// A node of the given order may not serve.
    OrderLeftOut {
        /// The node id.
        node: NodeId,
        /// The reason.
        why: Why,
    },
    /// A node of the given order is not among the peers of this model.
    OrderUnknown(NodeId),
    /// More stages than a ring may have.
    TooManyStages(usize),
    /// Nobody who may serve holds these layers.
    Uncovered {
        /// The ranges of layers that are missing.
        missing: Vec<Range<u32>>,
        /// The servers of the model that were left out.
        left_out: LeftOut,
    },
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let without = |f: &mut fmt::Formatter<'_>, left_out: &LeftOut| {
            if left_out.0.is_empty() { Ok(()) } else { write!(f, " (left out: {left_out})") }
        };
        match self {
            Self::NoHead { left_out } => {
                f.write_str(
                    "no peer that may be server 1 holds both the first layer and the head",
                )?;
                without(f, left_out)
            }
            Self::NoLast { left_out } => {
                f.write_str("no peer that may be the last server holds the last layer")?;
                without(f, left_out)
            }
            Self::OrderGap { after: None, layer } => {
                write!(f, "the first node of the order does not hold layer {layer} and the head")
            }
            Self::OrderGap { after: Some(node), layer } => {
                write!(f, "after {node} in the order nobody holds layer {layer}")
            }
            Self::OrderLeftOut { node, why } => {
                write!(f, "{node} of the order can't be used: it is {why}")
            }
            Self::OrderUnknown(node) => write!(f, "{node} is not a peer that serves this model"),
            Self::TooManyStages(got) => {
                write!(f, "{got} stages are above the limit of {}", limits::STAGES)
            }
            Self::Uncovered { missing, left_out } => {
                f.write_str("nobody holds layers")?;
                for (index, range) in missing.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma} {}..{}", range.start, range.end)?;
                }
                without(f, left_out)
            }
        }
    }
}

impl core::error::Error for RouteError {}

/// Finds the ring with the shortest time per token for one stream.
///
/// It is exact but for four bounds: of more than [`limits::ROUTE_SERVERS`] servers it searches the
/// [`limits::ROUTE_SERVERS_OF_LAYER`] that are soonest done from each layer on; it tries the
/// [`limits::HEADS_TRIED`] servers 1 that promise most, each in [`limits::ROUTE_CASES`] cases at
/// most; and where the fastest ring has more than [`limits::STAGES`] stages, it may miss a faster
/// one with as few.
///
/// # Errors
/// [`RouteError`] says which layers nobody holds, and who was left out.
pub fn fastest(peers: &[Status], demand: &Demand) -> Result<Route, RouteError> {
    let usable = usable(peers, demand, Room::Needed);
    check_cover(&usable, demand)?;
    let plan = Plan::new(usable.servers, demand);
    let mut per_hop = 0;
    loop {
        let found = plan
            .best(per_hop)
            .ok_or_else(|| RouteError::NoHead { left_out: usable.left_out.clone() });
        let stages = found.as_ref().map_or(0, |found| found.legs.len());
        if stages <= limits::STAGES {
            return Ok(plan.route(&found?.legs));
        }
        if per_hop >= MOST_PER_HOP {
            return Err(RouteError::TooManyStages(stages));
        }
        per_hop = if per_hop == 0 { 1 << 10 } else { per_hop << 2 };
    }
}

/// The most that a hop is made to cost on top to find rings with fewer stages: more than any hop
/// or server takes, so that only the number of stages counts in the end.
const MOST_PER_HOP: u64 = 1 << 54;

/// Returns the ring over the nodes of `order`, each from the layer at which the one before ends to
/// the end of its own span.
///
/// # Errors
/// [`RouteError`] says what is wrong with the order.
pub fn in_order(peers: &[Status], demand: &Demand, order: &[NodeId]) -> Result<Route, RouteError> {
    let usable = usable(peers, demand, Room::Needed);
    let mut legs: Vec<Leg> = Vec::new();
    let mut after = None;
    let mut next: u32 = 0;
    let plan = Plan::new(usable.servers, demand);
    for &node in order {
        let place = plan.place(node).ok_or_else(|| not_usable(peers, demand, node))?;
        let peer = plan.statuses.get(place).ok_or(RouteError::OrderUnknown(node))?;
        let is_first = next == 0;
        let holds = peer.first <= next && peer.end > next && (!is_first || plan.is_head(place));
        if !holds || legs.iter().any(|leg| leg.server == place) {
            return Err(RouteError::OrderGap { after, layer: next });
        }
        legs.push(Leg { server: place, first: next as usize, end: peer.end as usize });
        (after, next) = (Some(node), peer.end);
    }
    if next < demand.layers {
        return Err(RouteError::OrderGap { after, layer: next });
    }
    let last = legs.last().and_then(|leg| plan.servers.get(leg.server));
    if last.is_some_and(|server| !server.may_be_last) {
        return Err(RouteError::NoLast { left_out: usable.left_out });
    }
    if legs.len() > limits::STAGES {
        return Err(RouteError::TooManyStages(legs.len()));
    }
    Ok(plan.route(&legs))
}

/// Returns the most nanoseconds from one token to the next that a ring takes, if what its servers
/// announce is so; `None` if one of them may not serve. A server with sessions may compute a batch
/// of all of them when a step comes, and then one with the step in it. That there is no room at the
/// moment does not matter.
#[must_use]
pub fn longest_ns(peers: &[Status], demand: &Demand, ring: &[Hop]) -> Option<u64> {
    let plan = Plan::new(usable(peers, demand, Room::Ignored).servers, demand);
    let leg = |hop: &Hop| {
        let (first, end) = (hop.first as usize, hop.end as usize);
        Some(Leg { server: plan.place(hop.node)?, first, end })
    };
    let legs: Vec<Leg> = ring.iter().map(leg).collect::<Option<_>>()?;
    let busy = legs.iter().enumerate().map(|(place, leg)| {
        let Some(status) = plan.statuses.get(leg.server).filter(|it| it.sessions > 0) else {
            return 0;
        };
        // default: a batch that is not counted is the largest
        let batch = status.sessions.min(u32::try_from(limits::DECODE_BATCH).unwrap_or(u32::MAX));
        let pace = Pace::of(&status.speed);
        let layers = leg.end.saturating_sub(leg.first) as u64;
        let twice = |one: u64, all: u64| all.saturating_mul(2).saturating_sub(one);
        let head = if place == 0 { twice(pace.head_ns(1), pace.head_ns(batch)) } else { 0 };
        let layer = twice(pace.layer_ns(1), pace.layer_ns(batch));
        layers.saturating_mul(layer).saturating_add(head)
    });
    Some(busy.fold(plan.token_ns(&legs), u64::saturating_add))
}

/// Returns why a node of an order can't be used.
fn not_usable(peers: &[Status], demand: &Demand, node: NodeId) -> RouteError {
    let mut of_model = peers.iter().filter(|peer| peer.manifest == demand.manifest);
    let peer = of_model.find(|peer| peer.node == node);
    match peer.and_then(|peer| why_not(peer, demand, Room::Needed)) {
        Some(why) => RouteError::OrderLeftOut { node, why },
        None => RouteError::OrderUnknown(node),
    }
}

/// Checks that somebody holds each layer, that somebody may be server 1, and somebody the last.
pub(super) fn check_cover(usable: &Usable<'_>, demand: &Demand) -> Result<(), RouteError> {
    let missing = uncovered(&usable.servers, demand.layers);
    if !missing.is_empty() || demand.layers == 0 {
        return Err(RouteError::Uncovered { missing, left_out: usable.left_out.clone() });
    }
    if !usable.servers.iter().any(|peer| may_be_first(peer, demand)) {
        return Err(RouteError::NoHead { left_out: usable.left_out.clone() });
    }
    let mut lasts = usable.servers.iter().filter(|peer| may_be_last(peer, demand));
    if !lasts.any(|peer| peer.end == demand.layers) {
        return Err(RouteError::NoLast { left_out: usable.left_out.clone() });
    }
    Ok(())
}

/// Returns whether a server may be server 1.
pub(super) fn may_be_first(peer: &Status, demand: &Demand) -> bool {
    let is_wanted = demand.first_on.as_ref().is_none_or(|nodes| nodes.contains(&peer.node));
    peer.head && peer.first == 0 && is_wanted
}

/// Returns whether a server may hold the last span.
pub(super) fn may_be_last(peer: &Status, demand: &Demand) -> bool {
    demand.last_on.as_ref().is_none_or(|nodes| nodes.contains(&peer.node))
}

/// Returns the ranges of layers that no peer holds.
fn uncovered(peers: &[&Status], layers: u32) -> Vec<Range<u32>> {
    let mut spans: Vec<(u32, u32)> = peers.iter().map(|peer| (peer.first, peer.end)).collect();
    spans.sort_unstable();
    let mut missing = Vec::new();
    let mut covered = 0;
    for (first, end) in spans {
        if covered < first {
            missing.push(covered..first);
        }
        covered = covered.max(end);
    }
    if covered < layers {
        missing.push(covered..layers);
    }
    missing
}

/// Everything that the search needs: the usable servers in the order of their node ids.
struct Plan<'a> {
    statuses: Vec<&'a Status>,
    servers: Vec<Server>,
    links: Links,
    demand: &'a Demand,
}

impl<'a> Plan<'a> {
    fn new(statuses: Vec<&'a Status>, demand: &'a Demand) -> Self {
        let server = |status: &&Status| {
            let pace = Pace::of(&status.speed);
            Server {
                layer_ns: pace.layer_ns(1),
                head_ns: may_be_first(status, demand).then(|| pace.head_ns(1)),
                wait_ns: wait_ns(status),
                first: status.first as usize,
                end: status.end as usize,
                may_be_last: may_be_last(status, demand),
            }
        };
        let servers = statuses.iter().map(server).collect();
        let nodes: Vec<_> =
            statuses.iter().map(|status| (status.node, status.neighbours.as_slice())).collect();
        let links = Links::of(&nodes, demand.state_bytes);
        Self { statuses, servers, links, demand }
    }

    fn place(&self, node: NodeId) -> Option<usize> {
        // default: a node that is not among the servers has no place
        self.statuses.binary_search_by(|one| one.node.cmp(&node)).ok()
    }

    fn is_head(&self, place: usize) -> bool {
        self.servers.get(place).is_some_and(|server| server.head_ns.is_some())
    }

    /// Finds the fastest ring when each hop costs `per_hop` nanoseconds on top.
    fn best(&self, per_hop: u64) -> Option<Found> {
        let layers = self.demand.layers as usize;
        let (servers, links) = (&self.servers, &self.links);
        let is_out = vec![false; servers.len()];
        let mut field = Field { servers, links, layers, per_hop, is_out };
        let heads = field.heads();
        let mut best: Option<Found> = None;
        for (bound, head) in heads {
            if best.as_ref().is_some_and(|best| best.ns <= bound) {
                break;
            }
            let most = best.as_ref().map_or(u64::MAX, |best| best.ns);
            if let Some(found) = field.fastest_of(head, most) {
                best = Some(found);
            }
        }
        best
    }

    /// Makes the stages that were found a route.
    fn route(&self, legs: &[Leg]) -> Route {
        // default: the layers of a demand are a u32
        let number = |layer: usize| u32::try_from(layer).unwrap_or(u32::MAX);
        let hop = |leg: &Leg| {
            let node = self.statuses.get(leg.server)?.node;
            Some(Hop { node, first: number(leg.first), end: number(leg.end) })
        };
        Route {
            hops: legs.iter().filter_map(hop).collect(),
            token_ns: self.token_ns(legs),
            prompt_ns: self.prompt_ns(legs),
            standbys: self.standbys(legs),
        }
    }

    /// Returns the pairs of neighbours of a ring, the last and the first among them.
    fn pairs(legs: &[Leg]) -> impl Iterator<Item = (usize, usize)> {
        let next = legs.iter().cycle().skip(1);
        let pairs = legs.iter().zip(next).map(|(one, next)| (one.server, next.server));
        pairs.filter(|(one, next)| one != next)
    }

    fn token_ns(&self, legs: &[Leg]) -> u64 {
        let stage = |(place, leg): (usize, &Leg)| {
            let Some(server) = self.servers.get(leg.server) else {
                return 0;
            };
            let layers = leg.end.saturating_sub(leg.first) as u64;
            let head = if place == 0 { server.head_ns } else { None };
            let own = layers.saturating_mul(server.layer_ns).saturating_add(server.wait_ns);
            // default: only server 1 has the head's work
            own.saturating_add(head.unwrap_or(0))
        };
        let stages = legs.iter().enumerate().map(stage);
        let hops = Self::pairs(legs).map(|(from, to)| self.links.hop_ns(from, to));
        stages.chain(hops).fold(0, u64::saturating_add)
    }

    fn prompt_ns(&self, legs: &[Leg]) -> u64 {
        let stage = |leg: &Leg| {
            let layers = leg.end.saturating_sub(leg.first) as u64;
            let status = self.statuses.get(leg.server)?;
            Some(layers.saturating_mul(Pace::of(&status.speed).prefill_ns()))
        };
        // The last state of a prompt alone goes back to server 1.
        let forward = Self::pairs(legs).take(legs.len().saturating_sub(1));
        let line = |(from, to): (usize, usize)| {
            let to = self.statuses.get(to)?.node;
            let neighbours = self.statuses.get(from)?.neighbours.iter();
            let measured = neighbours.filter(|link| link.node == to && link.bytes_per_s > 0);
            let bytes_per_s = measured.map(|link| link.bytes_per_s).next();
            // default: a link that was not measured is as slow as is assumed
            let bytes_per_s = bytes_per_s.unwrap_or(limits::UNKNOWN_BYTES_PER_S);
            Some(hop_ns(0, bytes_per_s, self.demand.state_bytes))
        };
        let all = legs.iter().filter_map(stage).chain(forward.filter_map(line));
        all.fold(0, u64::max)
    }

    fn standbys(&self, legs: &[Leg]) -> Vec<Vec<NodeId>> {
        let is_used = |place: usize| legs.iter().any(|leg| leg.server == place);
        let count = legs.len();
        let of = |at: usize, leg: &Leg| {
            // default: before the first stage comes the last
            let before = legs.get(at.checked_sub(1).unwrap_or_else(|| count.saturating_sub(1)));
            let after = legs.get(at.saturating_add(1)).or_else(|| legs.first());
            let holds = |place: usize, server: &Server| {
                let has_layers = server.first <= leg.first && server.end >= leg.end;
                let has_head = at != 0 || server.head_ns.is_some();
                let may_end = at.saturating_add(1) != count || server.may_be_last;
                has_layers && has_head && may_end && !is_used(place)
            };
            let ns = |place: usize, server: &Server| {
                let layers = leg.end.saturating_sub(leg.first) as u64;
                let own = layers.saturating_mul(server.layer_ns).saturating_add(server.wait_ns);
                let to = before.map_or(0, |leg| self.links.hop_ns(leg.server, place));
                let on = after.map_or(0, |leg| self.links.hop_ns(place, leg.server));
                own.saturating_add(to).saturating_add(on)
            };
            let servers = self.servers.iter().enumerate();
            let holders = servers.filter(|(place, server)| holds(*place, server));
            let mut ranked: Vec<(u64, usize)> =
                holders.map(|(place, server)| (ns(place, server), place)).collect();
            ranked.sort_unstable();
            let nodes = ranked.into_iter().take(limits::STANDBYS);
            nodes.filter_map(|(_, place)| Some(self.statuses.get(place)?.node)).collect()
        };
        legs.iter().enumerate().map(|(at, leg)| of(at, leg)).collect()
    }
}
