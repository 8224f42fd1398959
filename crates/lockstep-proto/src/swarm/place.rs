//! Which layers a server should hold: where the swarm is weakest.
//!
//! The strength of a layer is the tokens per second of all servers that hold it, each at its best
//! batch over its whole span; the head is a place of its own, before layer 0, and comes first: no
//! other layer is of use before somebody can be server 1. Then a server that joins takes the window
//! that its memory allows whose weakest layers are the weakest: layers that nobody holds come
//! before all others. Servers that are still joining count as if they served, so that two of them
//! do not repair the same hole; of those that look at the same moment the one whose turn is first
//! keeps its choice ([`gives_way`]).

use core::ops::Range;
use std::collections::BTreeSet;

use lockstep_exact::digest::Digest;
use lockstep_verify::sign::NodeId;

use super::cost::Pace;
use crate::announcement::{Neighbour, Speed, State, Status};
use crate::limits;

/// The sizes of a model, as far as they decide who can hold what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The digest of the manifest of the model.
    pub manifest: Digest,
    /// The number of layers of the model.
    pub layers: u32,
    /// The bytes of one layer's weights: of the largest.
    pub layer_bytes: u64,
    /// The bytes of keys and values of one layer, for the sessions that there should be room for.
    pub kv_bytes: u64,
    /// The bytes of embedding and head.
    pub head_bytes: u64,
    /// The bytes of one state, which each hop carries for each position.
    pub state_bytes: u64,
}

/// A machine that could hold layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The node id of the machine.
    pub node: NodeId,
    /// The speed at which it computes, as it was measured.
    pub speed: Speed,
    /// The bytes of memory that it gives.
    pub memory_bytes: u64,
    /// Its measured links to other nodes.
    pub neighbours: Vec<Neighbour>,
}

impl Machine {
    /// Returns the number of layers for which the memory is enough, with the head or without.
    #[must_use]
    pub fn most_layers(&self, sizes: &Sizes, with_head: bool) -> u32 {
        let head = if with_head { sizes.head_bytes } else { 0 };
        let layer = sizes.layer_bytes.saturating_add(sizes.kv_bytes).max(1);
        let layers = self.memory_bytes.checked_sub(head).and_then(|left| left.checked_div(layer));
        // default: without room for the head there is room for no layer beside it, and more layers
        // than a u32 counts are more than a model has
        let layers = u32::try_from(layers.unwrap_or(0)).unwrap_or(u32::MAX);
        layers.min(sizes.layers)
    }
}

/// The strength of the head, and of each layer: thousandths of a token per second.
struct Strengths(Vec<u64>);

impl Strengths {
    /// Adds up the servers of the model that `counts` accepts.
    fn of(holders: &[Status], sizes: &Sizes, counts: impl Fn(&Status) -> bool) -> Self {
        let mut strengths = Self(vec![0; (sizes.layers as usize).saturating_add(1)]);
        for holder in holders.iter().filter(|one| one.manifest == sizes.manifest && counts(one)) {
            let is_head = holder.head && holder.first == 0;
            // Layer 0 is of no use where the head is not.
            let first = if is_head { 0 } else { holder.first.max(1) };
            strengths.add(&holder.speed, &(first..holder.end.min(sizes.layers)));
        }
        strengths
    }

    /// Adds a server of this speed, which holds `span`, and the head if that begins at layer 0.
    fn add(&mut self, speed: &Speed, span: &Range<u32>) {
        let own = rate(speed, span);
        for strength in self.places_mut(span) {
            *strength = strength.saturating_add(own);
        }
    }

    fn places(span: &Range<u32>) -> Range<usize> {
        let first = if span.start == 0 { 0 } else { (span.start as usize).saturating_add(1) };
        let end = (span.end as usize).saturating_add(1);
        if span.is_empty() { 0..0 } else { first..end }
    }

    fn places_mut(&mut self, span: &Range<u32>) -> &mut [u64] {
        // default: outside of the model there is no place
        self.0.get_mut(Self::places(span)).unwrap_or_default()
    }

    fn at(&self, span: &Range<u32>) -> &[u64] {
        // default: as above
        self.0.get(Self::places(span)).unwrap_or_default()
    }

    fn weakest(&self) -> u64 {
        // default: a model without layers is nowhere weak
        self.0.iter().min().copied().unwrap_or(u64::MAX)
    }

    /// Returns the window for a machine: that with the head if nobody holds it and the machine can;
    /// otherwise the one whose weakest layers are the weakest, and the longer one and then the
    /// lower one of two that are equal.
    fn weakest_window(&self, own: &Machine, sizes: &Sizes) -> Option<Range<u32>> {
        let with_head = own.most_layers(sizes, true);
        let without = own.most_layers(sizes, false).min(sizes.layers.saturating_sub(1));
        let first = (with_head > 0).then_some(0..with_head);
        if first.is_some() && self.0.first() == Some(&0) {
            return first;
        }
        let last_start = sizes.layers.saturating_sub(without);
        let starts = if without > 0 { 1..last_start.saturating_add(1) } else { 0..0 };
        let others = starts.map(|start| start..start.saturating_add(without));
        let rank = |span: &Range<u32>| {
            let mut sorted = self.at(span).to_vec();
            sorted.sort_unstable();
            // What a shorter window does not have counts as strong.
            sorted.resize(self.0.len(), u64::MAX);
            (sorted, span.start)
        };
        first.into_iter().chain(others).min_by_key(rank)
    }
}

/// Returns the thousandths of a token per second that a server of this speed gives over a span.
fn rate(speed: &Speed, span: &Range<u32>) -> u64 {
    let layers = u64::from(span.end.saturating_sub(span.start)).max(1);
    // The head's work is not counted: who can hold it is rarely who is short of time.
    Pace::of(speed).work_per_s().checked_div(layers).map_or(1, |rate| rate.max(1))
}

/// Returns whether a server counts for places: it serves, or is about to.
const fn serves_soon(holder: &Status) -> bool {
    matches!(holder.state, State::Ready | State::Joining)
}

/// Chooses the span of a machine that joins, next to the servers that announce themselves, itself
/// not counted: what nobody holds, otherwise where the swarm is weakest, as long as its memory
/// allows. A span from layer 0 on has the head. `None` if it can't hold one layer.
#[must_use]
pub fn place(holders: &[Status], own: &Machine, sizes: &Sizes) -> Option<Range<u32>> {
    let counts = |holder: &Status| holder.node != own.node && serves_soon(holder);
    Strengths::of(holders, sizes, counts).weakest_window(own, sizes)
}

/// A claim of a span that a server knew when it chose its own: node, first layer, end.
pub type Claim = (NodeId, u32, u32);

/// Decides whether a server that has claimed `span` gives way to one that looked at the same moment
/// and claimed some of the same layers: one whose claim it did not know when it chose (`before`)
/// and whose turn in this `round` is before its own ([`turn_us`]). One that gives way chooses again
/// with [`place`], beside all whom it knows by then, and claims that. A server takes what it has
/// claimed when it need not give way [`limits::CLAIM_US`] after it told the swarm, which is time
/// for a claim to get there and another one to come back.
#[must_use]
pub fn gives_way(
    holders: &[Status],
    before: &BTreeSet<Claim>,
    (own, manifest): (NodeId, Digest),
    span: &Range<u32>,
    round: u64,
) -> bool {
    let turn = |node: NodeId| (turn_us(node, round), node);
    holders.iter().filter(|one| one.node != own && one.manifest == manifest).any(|one| {
        let is_claim = one.state == State::Joining && !one.speed.is_known();
        let is_new = !before.contains(&(one.node, one.first, one.end));
        let overlaps = one.first < span.end && span.start < one.end;
        is_claim && is_new && overlaps && turn(one.node) < turn(own)
    })
}

/// The price of a move for a server and its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Toll {
    /// The bytes per second at which it fetches layers.
    pub bytes_per_s: u64,
    /// The sessions that run over it, all of which have to end or go elsewhere.
    pub sessions: u32,
}

/// Decides whether a server that holds `current` should hold another span, and returns that.
///
/// It should if the weakest layer of the swarm becomes stronger by at least
/// [`limits::MOVE_MARGIN_PERCENT`], and what that gives in [`limits::MOVE_HORIZON_S`] is more than
/// what is lost: the server's own tokens while it drains and fetches, and
/// [`limits::MOVE_SESSION_TOKENS`] for each session. It never should if somebody else who is ready
/// does not hold each of its layers, too. Ask only after [`turn_us`] in each round.
#[must_use]
pub fn should_move(
    holders: &[Status],
    own: &Machine,
    current: &Range<u32>,
    sizes: &Sizes,
    toll: Toll,
) -> Option<Range<u32>> {
    let is_other = |holder: &Status| holder.node != own.node;
    let others = Strengths::of(holders, sizes, |one| is_other(one) && serves_soon(one));
    let ready = |one: &Status| is_other(one) && one.state == State::Ready;
    if Strengths::of(holders, sizes, ready).at(current).contains(&0) {
        return None;
    }
    let target = others.weakest_window(own, sizes).filter(|target| target != current)?;
    let with = |span: &Range<u32>| {
        let mut strengths = Strengths(others.0.clone());
        strengths.add(&own.speed, span);
        strengths.weakest()
    };
    let (before, after) = (u128::from(with(current)), u128::from(with(&target)));
    let margin = u128::from(limits::MOVE_MARGIN_PERCENT.saturating_add(100));
    if after == before || after.saturating_mul(100) < before.saturating_mul(margin) {
        return None;
    }
    let gain = after.saturating_sub(before).saturating_mul(u128::from(limits::MOVE_HORIZON_S));
    let away =
        limits::DRAIN_US.div_ceil(1_000_000).saturating_add(fetch_s(current, &target, sizes, toll));
    let own_loss = u128::from(rate(&own.speed, current)).saturating_mul(u128::from(away));
    let sessions = u128::from(toll.sessions).saturating_mul(1_000);
    let broken = sessions.saturating_mul(u128::from(limits::MOVE_SESSION_TOKENS));
    (gain > own_loss.saturating_add(broken)).then_some(target)
}

/// Returns the seconds to fetch what `target` has and `current` has not.
fn fetch_s(current: &Range<u32>, target: &Range<u32>, sizes: &Sizes, toll: Toll) -> u64 {
    let kept = current.end.min(target.end).saturating_sub(current.start.max(target.start));
    let new = target.end.saturating_sub(target.start).saturating_sub(kept);
    let layers = u64::from(new).saturating_mul(sizes.layer_bytes);
    let head = if target.start == 0 && current.start != 0 { sizes.head_bytes } else { 0 };
    layers.saturating_add(head).div_ceil(toll.bytes_per_s.max(1))
}

/// Returns the turn of a node in a round, in microseconds: evenly spread over
/// [`limits::PLACE_TURNS_US`], so that of several that see the same hole one is first. A server
/// that serves waits for it before it asks whether to move, so that the first one's announcement is
/// there when the others look; one that joins claims at once ([`gives_way`]).
#[must_use]
pub fn turn_us(node: NodeId, round: u64) -> u64 {
    let drawn = Digest::derive("lockstep 2026 turn to place", &[&node.0, &round.to_le_bytes()]);
    let mut number = [0; 8];
    for (to, from) in number.iter_mut().zip(drawn.0) {
        *to = from;
    }
    // default: the time is a constant that is not zero
    u64::from_le_bytes(number).checked_rem(limits::PLACE_TURNS_US).unwrap_or(0)
}
