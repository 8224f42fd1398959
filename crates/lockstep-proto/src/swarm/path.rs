//! The search for the fastest ring from a given server 1.
//!
//! A search without memory goes backwards over (layer, server) and finds the shortest path, but one
//! that may come to a server twice, which no ring can. Then it branches: of such a server that is
//! left and taken again, every ring either uses nothing after the first part, or nothing before the
//! second, or nobody else between them. What is found first among the branches, cheapest first, is
//! the fastest ring. After [`limits::ROUTE_CASES`] of them the search settles for the fastest ring
//! in which servers are left at the ends of their spans alone, which cannot come back to one.

use super::cost::Links;
use crate::limits;

/// What the search needs to know of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    /// The nanoseconds of one layer.
    pub(super) layer_ns: u64,
    /// The nanoseconds of the head, at a server that may be server 1.
    pub(super) head_ns: Option<u64>,
    /// The nanoseconds for which a step waits before it is computed.
    pub(super) wait_ns: u64,
    /// The lowest layer that it holds.
    pub(super) first: usize,
    /// The layer after the highest that it holds.
    pub(super) end: usize,
    /// Whether it may hold the last span.
    pub(super) may_be_last: bool,
}

/// A stage of a ring that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leg {
    /// The place of the server in the list of servers.
    pub(super) server: usize,
    /// The first layer of its span in the ring.
    pub(super) first: usize,
    /// The layer after the last.
    pub(super) end: usize,
}

/// A ring that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The nanoseconds of one step round the ring.
    pub(super) ns: u64,
    /// The stages, server 1 first.
    pub(super) legs: Vec<Leg>,
}

/// The servers and links among which rings are searched.
pub(super) struct Field<'a> {
    /// The servers, in the order of their node ids.
    pub(super) servers: &'a [Server],
    /// The links between them.
    pub(super) links: &'a Links,
    /// The number of layers.
    pub(super) layers: usize,
    /// Nanoseconds that each hop costs on top, so that rings with fewer stages are found.
    pub(super) per_hop: u64,
    /// For each server whether it is left out of the search.
    pub(super) is_out: Vec<bool>,
}

/// A branch of the search: which layers each server may serve.
#[derive(Clone)]
struct Case {
    /// The range of layers of each server.
    spans: Vec<(usize, usize)>,
    /// For each layer the only server that may serve it, if there is one.
    only: Vec<Option<usize>>,
}

impl Case {
    fn holds(&self, server: usize, layer: usize) -> bool {
        let (first, end) = self.spans.get(server).copied().unzip();
        let is_own = self.only.get(layer).is_some_and(|only| only.is_none_or(|one| one == server));
        is_own && first.is_some_and(|first| first <= layer) && end.is_some_and(|end| layer < end)
    }
}

/// Where a step goes after a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// To a server, which may be the same.
    Server(usize),
    /// Round to server 1: this was the last layer.
    Closed,
}

/// The shortest ways to the end from each layer on: for each layer the servers that hold it in
/// ascending order, the nanoseconds from there on, and where the step goes next.
type Ways = Vec<Vec<(usize, u64, Next)>>;

const UNREACHABLE: u64 = u64::MAX;

impl Field<'_> {
    /// Returns the possible servers 1, the most promising first: the least nanoseconds that a step
    /// could take from each round any ring, without the closing hop, and its place. Of many servers
    /// only those that are soonest done from some layer on, and the first of these heads, stay in
    /// the search from now on.
    pub(super) fn heads(&mut self) -> Vec<(u64, usize)> {
        let close =
            |server: usize| self.servers.get(server).filter(|one| one.may_be_last).map(|_| 0);
        let ways = self.ways(&self.whole_case(), false, close);
        let firsts = ways.first().into_iter().flatten();
        let heads = firsts.filter_map(|(place, ns, _)| {
            let server = self.servers.get(*place)?;
            let own = server.head_ns?.saturating_add(server.wait_ns);
            (*ns != UNREACHABLE).then(|| (ns.saturating_add(own), *place))
        });
        let mut heads: Vec<(u64, usize)> = heads.collect();
        heads.sort_unstable();
        heads.truncate(limits::HEADS_TRIED);
        if self.servers.len() > limits::ROUTE_SERVERS {
            self.is_out.fill(true);
            for ways in &ways {
                let wait = |place: usize| self.servers.get(place).map(|server| server.wait_ns);
                let done = |(place, ns, _): &(usize, u64, Next)| {
                    Some((ns.saturating_add(wait(*place)?), *place))
                };
                let mut soonest: Vec<(u64, usize)> = ways.iter().filter_map(done).collect();
                soonest.sort_unstable();
                let soonest = soonest.into_iter().take(limits::ROUTE_SERVERS_OF_LAYER);
                for (_, place) in soonest.chain(heads.iter().copied()) {
                    if let Some(is_out) = self.is_out.get_mut(place) {
                        *is_out = false;
                    }
                }
            }
        }
        heads
    }

    /// Finds the fastest ring of the server at the place `head` as server 1, if there is one that
    /// takes less than `most` nanoseconds.
    pub(super) fn fastest_of(&self, head: usize, most: u64) -> Option<Found> {
        let mut open = vec![(0, self.whole_case())];
        let mut best: Option<Found> = None;
        for _ in 0..limits::ROUTE_CASES {
            let cheapest = open.iter().enumerate().min_by_key(|(place, (ns, _))| (*ns, *place));
            let Some((place, (bound, _))) = cheapest else {
                return best;
            };
            if best.as_ref().is_some_and(|best| best.ns <= *bound) {
                return best;
            }
            let (_, case) = open.swap_remove(place);
            // What a case costs at least is what its shortest way costs.
            let solved = self.solve(&case, false, head).filter(|found| found.ns < most);
            let Some(found) = solved else {
                continue;
            };
            match Self::again(&found.legs) {
                None => best = Self::faster(best, Some(found)),
                Some((one, two)) => {
                    let cases = Self::split(&case, one, two);
                    open.extend(cases.into_iter().map(|case| (found.ns, case)));
                }
            }
        }
        let settled = self.solve(&self.whole_case(), true, head);
        Self::faster(best, settled.filter(|found| found.ns < most))
    }

    /// Returns the faster of two rings, the first if they are equal.
    fn faster(one: Option<Found>, other: Option<Found>) -> Option<Found> {
        one.into_iter().chain(other).min_by_key(|found| found.ns)
    }

    fn whole_case(&self) -> Case {
        let span = |(server, is_out): (&Server, &bool)| {
            if *is_out { (0, 0) } else { (server.first, server.end) }
        };
        let spans = self.servers.iter().zip(&self.is_out).map(span).collect();
        Case { spans, only: vec![None; self.layers] }
    }

    /// Returns the first two stages that are of one server.
    fn again(legs: &[Leg]) -> Option<(Leg, Leg)> {
        let mut earlier = legs.iter().enumerate();
        earlier.find_map(|(place, one)| {
            let mut later = legs.iter().skip(place.saturating_add(1));
            later.find(|two| two.server == one.server).map(|two| (*one, *two))
        })
    }

    /// Splits a case into three of which none allows both stages, and which together have every
    /// ring that it has.
    fn split(case: &Case, one: Leg, two: Leg) -> [Case; 3] {
        let [mut before, mut after, mut through] = [case.clone(), case.clone(), case.clone()];
        if let Some(span) = before.spans.get_mut(one.server) {
            span.1 = span.1.min(two.first);
        }
        if let Some(span) = after.spans.get_mut(one.server) {
            span.0 = span.0.max(one.end);
        }
        let between = one.end.saturating_sub(1)..=two.first;
        for (layer, only) in through.only.iter_mut().enumerate() {
            if between.contains(&layer) {
                // Where two servers were to be the only one, nobody is left.
                *only = match *only {
                    Some(other) if other != one.server => Some(usize::MAX),
                    _ => Some(one.server),
                };
            }
        }
        [before, after, through]
    }

    /// Finds the shortest way of a case round from the server at the place `head`. With
    /// `to_the_end` servers are left at the ends of their spans alone.
    fn solve(&self, case: &Case, to_the_end: bool, head: usize) -> Option<Found> {
        let close = |server: usize| {
            let may_be_last = self.servers.get(server)?.may_be_last;
            let hop = || self.links.hop_ns(server, head).saturating_add(self.per_hop);
            may_be_last.then(|| if server == head { 0 } else { hop() })
        };
        let ways = self.ways(case, to_the_end, close);
        let server = self.servers.get(head)?;
        let own = server.head_ns?.saturating_add(server.wait_ns);
        let mut legs: Vec<Leg> = Vec::new();
        let mut total = None;
        let mut at = head;
        for (layer, ways) in ways.iter().enumerate() {
            // default: a way to a server that does not hold the layer is none
            let way = ways.binary_search_by_key(&at, |(server, _, _)| *server).ok()?;
            let (_, ns, next) = *ways.get(way)?;
            if ns == UNREACHABLE {
                return None;
            }
            total.get_or_insert(ns);
            let after = layer.saturating_add(1);
            match legs.last_mut() {
                Some(leg) if leg.server == at => leg.end = after,
                _ => legs.push(Leg { server: at, first: layer, end: after }),
            }
            if let Next::Server(next) = next {
                at = next;
            }
        }
        Some(Found { ns: total?.saturating_add(own), legs })
    }

    /// Computes the shortest ways to the end, from the last layer to the first. `close` gives the
    /// nanoseconds from the last server to server 1, if a ring may end there.
    fn ways(&self, case: &Case, to_the_end: bool, close: impl Fn(usize) -> Option<u64>) -> Ways {
        let mut all: Ways = Vec::with_capacity(self.layers);
        // The nanoseconds from the layer above on, and the servers by how soon they would be done.
        let mut later = vec![UNREACHABLE; self.servers.len()];
        let mut soonest: Vec<(u64, usize)> = Vec::new();
        for layer in (0..self.layers).rev() {
            let is_last = layer.saturating_add(1) == self.layers;
            let mut ways = Vec::new();
            for (place, server) in self.servers.iter().enumerate() {
                if !case.holds(place, layer) {
                    continue;
                }
                let (rest, next) = if is_last {
                    // default: a ring that may not end here is none
                    (close(place).unwrap_or(UNREACHABLE), Next::Closed)
                } else {
                    let leaves = !to_the_end || layer.saturating_add(1) >= server.end;
                    // default: the server is one of those that have a place
                    let stay = later.get(place).copied().unwrap_or(UNREACHABLE);
                    let hop = leaves.then(|| self.best_hop(place, &soonest, &later)).flatten();
                    match hop {
                        Some((ns, to)) if ns < stay => (ns, Next::Server(to)),
                        _ => (stay, Next::Server(place)),
                    }
                };
                ways.push((place, rest.saturating_add(server.layer_ns), next));
            }
            later.fill(UNREACHABLE);
            soonest.clear();
            for (place, ns, _) in ways.iter().filter(|(_, ns, _)| *ns != UNREACHABLE) {
                let wait = self.servers.get(*place).map_or(0, |server| server.wait_ns);
                soonest.push((ns.saturating_add(wait), *place));
                if let Some(later) = later.get_mut(*place) {
                    *later = *ns;
                }
            }
            soonest.sort_unstable();
            all.push(ways);
        }
        all.reverse();
        all
    }

    /// Returns the best server to go to from a server: the nanoseconds with the hop, and its place.
    /// `soonest` are those that hold the next layer, by their nanoseconds from there on, and
    /// `later` the same by their places, without their waits.
    fn best_hop(
        &self,
        from: usize,
        soonest: &[(u64, usize)],
        later: &[u64],
    ) -> Option<(u64, usize)> {
        let mut strangers =
            soonest.iter().filter(|(_, to)| *to != from && !self.links.is_measured(from, *to));
        let over = |ns: u64, hop: u64| ns.saturating_add(hop).saturating_add(self.per_hop);
        let stranger = strangers.next().map(|(ns, to)| (over(*ns, self.links.unknown), *to));
        let neighbours = self.links.measured(from).filter_map(|(to, hop)| {
            let ns = later.get(to).copied().filter(|ns| *ns != UNREACHABLE)?;
            let wait = self.servers.get(to)?.wait_ns;
            Some((over(ns.saturating_add(wait), hop), to))
        });
        neighbours.chain(stranger).min()
    }
}
