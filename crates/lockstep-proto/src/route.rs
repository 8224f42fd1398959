//! From what peers say they hold to a route: a pure function, the same for everybody who asks.
//!
//! A route holds every layer once, in order, and starts at a node that also holds the head. Of all
//! such routes the one with the fewest stages is taken; ties go to the less busy and then to the
//! smaller node id. What peers say is not believed beyond this: a route is a plan, not a proof.

use core::fmt;
use core::ops::Range;

use lockstep_exact::digest::Digest;
use lockstep_verify::request::Hop;
use lockstep_verify::sign::NodeId;

use crate::announcement::Status;
use crate::limits;

/// The reasons why there is no route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// Nobody who holds the first layer holds the head too.
    NoHead,
    /// The given order does not hold every layer.
    OrderGap {
        /// The node after which the gap is, if it is not the first.
        after: Option<NodeId>,
        /// The layer that is not held.
        layer: u32,
    },
    /// A node of the given order is not among the peers, or not usable.
    OrderUnknown(NodeId),
    /// More stages than a ring may have.
    TooManyStages(usize),
    /// No peer that may be asked holds these layers.
    Uncovered {
        /// The ranges of layers that are missing.
        missing: Vec<Range<u32>>,
        /// The number of peers of this model that were left out because they take no more sessions.
        busy: usize,
    },
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHead => f.write_str("no peer holds both the first layer and the head"),
            Self::OrderGap { after: None, layer } => {
                write!(f, "the first node of the order does not hold layer {layer} and the head")
            }
            Self::OrderGap { after: Some(node), layer } => {
                write!(f, "after {node} in the order nobody holds layer {layer}")
            }
            Self::OrderUnknown(node) => write!(f, "{node} is not a peer that serves this model"),
            Self::TooManyStages(got) => {
                write!(f, "{got} stages are above the limit of {}", limits::STAGES)
            }
            Self::Uncovered { missing, busy } => {
                f.write_str("nobody holds layers")?;
                for (index, range) in missing.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma} {}..{}", range.start, range.end)?;
                }
                if *busy > 0 {
                    write!(f, " ({busy} busy peers were left out)")?;
                }
                Ok(())
            }
        }
    }
}

impl core::error::Error for RouteError {}

/// Finds the route for a model of `layers` layers. A non-empty `order` names the stages' nodes.
///
/// # Errors
/// [`RouteError`] says which layers nobody holds, or what is wrong with the order.
pub fn find_route(
    peers: &[Status],
    manifest: &Digest,
    layers: u32,
    order: &[NodeId],
) -> Result<Vec<Hop>, RouteError> {
    let serves =
        |peer: &&Status| peer.manifest == *manifest && peer.first < peer.end && peer.end <= layers;
    let (usable, busy): (Vec<&Status>, Vec<&Status>) =
        peers.iter().filter(serves).partition(|peer| peer.takes_sessions());
    let route = if order.is_empty() {
        shortest(&usable, layers, busy.len())?
    } else {
        in_order(&usable, layers, order)?
    };
    if route.len() > limits::STAGES {
        return Err(RouteError::TooManyStages(route.len()));
    }
    Ok(route)
}

/// Finds the route with the fewest stages: from each possible head on, it goes to the peer that
/// reaches furthest.
fn shortest(peers: &[&Status], layers: u32, busy: usize) -> Result<Vec<Hop>, RouteError> {
    let missing = uncovered(peers, layers);
    if !missing.is_empty() {
        return Err(RouteError::Uncovered { missing, busy });
    }
    let heads = peers.iter().filter(|peer| peer.first == 0 && peer.head);
    let routes = heads.filter_map(|head| extend(head, peers, layers));
    let best = routes.min_by_key(|(route, load)| {
        (route.len(), *load, route.iter().map(|hop| hop.node).collect::<Vec<_>>())
    });
    best.map(|(route, _)| route).ok_or(RouteError::NoHead)
}

/// Extends the route from this head to the last layer, and returns it with the number of sessions
/// that its nodes have.
fn extend(head: &Status, peers: &[&Status], layers: u32) -> Option<(Vec<Hop>, u64)> {
    let mut route = vec![Hop { node: head.node, first: 0, end: head.end }];
    let mut load = u64::from(head.sessions);
    let mut next = head.end;
    while next < layers {
        let holders = peers.iter().filter(|peer| peer.first <= next && peer.end > next);
        let furthest =
            holders.min_by_key(|peer| (u32::MAX - peer.end, peer.sessions, peer.node))?;
        route.push(Hop { node: furthest.node, first: next, end: furthest.end });
        load = load.saturating_add(u64::from(furthest.sessions));
        next = furthest.end;
    }
    Some((route, load))
}

fn in_order(peers: &[&Status], layers: u32, order: &[NodeId]) -> Result<Vec<Hop>, RouteError> {
    let mut route: Vec<Hop> = Vec::new();
    let mut next = 0;
    for &node in order {
        let peer = peers.iter().find(|peer| peer.node == node);
        let peer = peer.ok_or(RouteError::OrderUnknown(node))?;
        let holds = peer.first <= next && peer.end > next && (next > 0 || peer.head);
        if !holds || route.iter().any(|hop| hop.node == node) {
            return Err(RouteError::OrderGap { after: last(&route), layer: next });
        }
        route.push(Hop { node, first: next, end: peer.end });
        next = peer.end;
    }
    if next < layers {
        return Err(RouteError::OrderGap { after: last(&route), layer: next });
    }
    Ok(route)
}

fn last(route: &[Hop]) -> Option<NodeId> {
    route.last().map(|hop| hop.node)
}

/// Returns the ranges of layers that no peer holds.
fn uncovered(peers: &[&Status], layers: u32) -> Vec<Range<u32>> {
    let mut missing: Vec<Range<u32>> = Vec::new();
    for layer in 0..layers {
        if peers.iter().any(|peer| (peer.first..peer.end).contains(&layer)) {
            continue;
        }
        match missing.last_mut() {
            Some(range) if range.end == layer => range.end = layer.saturating_add(1),
            _ => missing.push(layer..layer.saturating_add(1)),
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use std::iter::once;

    use super::*;
    use crate::announcement::{Speed, State};

    const MODEL: Digest = Digest([7; 32]);

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn peer(number: u8, first: u32, end: u32) -> Status {
        Status {
            version: crate::frame::VERSION,
            node: node(number),
            manifest: MODEL,
            first,
            end,
            head: first == 0,
            state: State::Ready,
            sessions: 0,
            sessions_limit: 8,
            queue: 0,
            kv_pages_free: 100,
            speed: Speed::UNKNOWN,
            neighbours: Vec::new(),
            adapters: Vec::new(),
            tags: Vec::new(),
            software: String::new(),
        }
    }

    fn spans(route: &[Hop]) -> Vec<(u8, u32, u32)> {
        route.iter().map(|hop| (hop.node.0[0], hop.first, hop.end)).collect()
    }

    #[test]
    fn a_route_tiles_all_layers_from_the_head_on() {
        let peers = [peer(3, 20, 30), peer(1, 0, 10), peer(2, 10, 20)];
        let route = find_route(&peers, &MODEL, 30, &[]).unwrap();
        assert_eq!(spans(&route), [(1, 0, 10), (2, 10, 20), (3, 20, 30)]);
    }

    #[test]
    fn the_fewest_stages_win_and_overlaps_are_cut() {
        let peers = [peer(1, 0, 10), peer(2, 5, 15), peer(3, 10, 12), peer(4, 12, 30)];
        let route = find_route(&peers, &MODEL, 30, &[]).unwrap();
        assert_eq!(spans(&route), [(1, 0, 10), (2, 10, 15), (4, 15, 30)]);
        let mut all = peers.to_vec();
        all.push(peer(5, 0, 30));
        let route = find_route(&all, &MODEL, 30, &[]).unwrap();
        assert_eq!(spans(&route), [(5, 0, 30)]);
    }

    #[test]
    fn ties_go_to_the_less_busy_and_then_to_the_smaller_id_in_any_order_of_peers() {
        let mut busy = peer(2, 10, 30);
        busy.sessions = 3;
        let mut peers = vec![busy, peer(4, 10, 30), peer(3, 10, 30), peer(1, 0, 10)];
        let route = find_route(&peers, &MODEL, 30, &[]).unwrap();
        assert_eq!(spans(&route), [(1, 0, 10), (3, 10, 30)]);
        peers.reverse();
        assert_eq!(find_route(&peers, &MODEL, 30, &[]).unwrap(), route);
    }

    #[test]
    fn the_error_says_which_layers_nobody_holds() {
        let peers = [peer(1, 0, 10), peer(2, 12, 20)];
        let error = find_route(&peers, &MODEL, 30, &[]).unwrap_err();
        assert_eq!(error, RouteError::Uncovered { missing: vec![10..12, 20..30], busy: 0 });
        assert_eq!(error.to_string(), "nobody holds layers 10..12, 20..30");
        let none = find_route(&[], &MODEL, 3, &[]).unwrap_err();
        assert_eq!(none, RouteError::Uncovered { missing: once(0..3).collect(), busy: 0 });
    }

    #[test]
    fn busy_peers_other_models_and_impossible_spans_are_left_out() {
        let mut busy = peer(1, 0, 10);
        busy.sessions = busy.sessions_limit;
        let mut other = peer(2, 0, 10);
        other.manifest = Digest::ZERO;
        let peers = [busy, other, peer(3, 10, 5), peer(4, 0, 31)];
        let error = find_route(&peers, &MODEL, 10, &[]).unwrap_err();
        assert_eq!(error, RouteError::Uncovered { missing: once(0..10).collect(), busy: 1 });
    }

    #[test]
    fn without_a_head_there_is_no_route() {
        let mut first = peer(1, 0, 10);
        first.head = false;
        assert_eq!(find_route(&[first], &MODEL, 10, &[]), Err(RouteError::NoHead));
    }

    #[test]
    fn a_given_order_is_followed_or_refused() {
        let peers = [peer(1, 0, 10), peer(2, 5, 15), peer(3, 10, 20)];
        let route = find_route(&peers, &MODEL, 20, &[node(1), node(2), node(3)]).unwrap();
        assert_eq!(spans(&route), [(1, 0, 10), (2, 10, 15), (3, 15, 20)]);
        let error = find_route(&peers, &MODEL, 20, &[node(1), node(2)]).unwrap_err();
        assert_eq!(error, RouteError::OrderGap { after: Some(node(2)), layer: 15 });
        let error = find_route(&peers, &MODEL, 20, &[node(2), node(3)]).unwrap_err();
        assert_eq!(error, RouteError::OrderGap { after: None, layer: 0 });
        let error = find_route(&peers, &MODEL, 20, &[node(9)]).unwrap_err();
        assert_eq!(error, RouteError::OrderUnknown(node(9)));
    }
}
