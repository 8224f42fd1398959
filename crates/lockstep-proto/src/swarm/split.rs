//! How the layers of a model are split over given machines: who is in the ring, in which order, and
//! who holds how many layers.
//!
//! Up to [`limits::RING_SEARCH`] machines are searched exactly. The time per token is a sum, so for
//! a set of machines the order decides the hops alone, and the layers go to the fastest first, as
//! far as memories allow, one to each at least: so every set is priced with its cheapest round trip
//! over all orders, and machines without which the ring is faster are left out. For throughput the
//! slowest stage counts: layers are poured like water, each machine to the same level of time.

use core::fmt;

use lockstep_verify::request::Hop;

use super::cost::{Links, Pace};
use super::place::{Machine, Sizes};
use crate::announcement::BATCHES;
use crate::limits;

/// The goals that a split can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The shortest time from one token to the next, for one client.
    Latency,
    /// The most tokens per second, for many clients.
    Throughput,
}

/// The error that machines can't hold a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRing {
    /// The layers for which they have memory, all together, the head at the best place.
    pub room: u64,
    /// The layers of the model.
    pub layers: u32,
}

impl fmt::Display for NoRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { room, layers } = self;
        write!(f, "these machines have memory for {room} of {layers} layers and the head")
    }
}

impl core::error::Error for NoRing {}

/// What the search needs to know of a machine.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Nanoseconds of a layer: for one session, or for the largest measured batch.
    layer_ns: u64,
    /// Nanoseconds of the head, the same.
    head_ns: u64,
    /// The most layers.
    most: u64,
    /// The most layers beside the head.
    most_with_head: u64,
}

/// A split that was found: the places of the machines with their layers, server 1 first.
type Split = Vec<(usize, u64)>;

/// Splits the layers of a model over machines for a goal. Machines that do not help are left out;
/// the order in which they are given does not matter.
///
/// # Errors
/// [`NoRing`] if their memories are not enough.
pub fn ring(machines: &[Machine], sizes: &Sizes, goal: Goal) -> Result<Vec<Hop>, NoRing> {
    let mut sorted: Vec<&Machine> = machines.iter().collect();
    sorted.sort_by_key(|machine| machine.node);
    sorted.dedup_by_key(|machine| machine.node);
    let (machines, no_ring) = fewer(sorted, sizes);
    let nodes: Vec<_> =
        machines.iter().map(|machine| (machine.node, machine.neighbours.as_slice())).collect();
    let links = Links::of(&nodes, sizes.state_bytes);
    let [.., largest] = BATCHES;
    let batch = if goal == Goal::Latency { 1 } else { largest };
    let place = |machine: &&Machine| {
        let pace = Pace::of(&machine.speed);
        Place {
            layer_ns: pace.layer_ns(batch),
            head_ns: pace.head_ns(batch),
            most: u64::from(machine.most_layers(sizes, false)),
            most_with_head: u64::from(machine.most_layers(sizes, true)),
        }
    };
    let places: Vec<Place> = machines.iter().map(place).collect();
    let layers = u64::from(sizes.layers);
    let is_small = places.len() <= limits::RING_SEARCH;
    let tours = if is_small { Tours::of(places.len(), &links) } else { Tours::default() };
    let split = match goal {
        Goal::Latency if is_small => fastest(&places, &tours, layers),
        Goal::Latency | Goal::Throughput => poured(&places, layers),
    };
    let split = split.filter(|split| split.len() <= limits::STAGES).ok_or(no_ring)?;
    let split = if is_small { tours.ordered(split) } else { nearest(split, &links) };
    let mut next: u32 = 0;
    let hop = |(place, layers): &(usize, u64)| {
        let node = machines.get(*place)?.node;
        let first = next;
        // default: no split has more layers than the model
        next = first.saturating_add(u32::try_from(*layers).unwrap_or(u32::MAX));
        Some(Hop { node, first, end: next })
    };
    Ok(split.iter().filter_map(hop).collect())
}

/// Returns the machines to search, and the error if there is no ring: of more than can be searched
/// exactly the fastest, if those have memory enough.
fn fewer<'a>(mut machines: Vec<&'a Machine>, sizes: &Sizes) -> (Vec<&'a Machine>, NoRing) {
    let room = |machines: &[&Machine]| {
        let most = |machine: &&Machine| u64::from(machine.most_layers(sizes, false));
        let all = machines.iter().map(most).fold(0, u64::saturating_add);
        let heads = machines.iter().filter_map(|machine| {
            let with_head = u64::from(machine.most_layers(sizes, true));
            (with_head > 0).then(|| all.saturating_sub(most(machine)).saturating_add(with_head))
        });
        // default: where nobody can hold the head beside a layer there is no room at all
        heads.max().unwrap_or(0)
    };
    let no_ring = NoRing { room: room(&machines), layers: sizes.layers };
    if machines.len() > limits::RING_SEARCH {
        let mut fast = machines.clone();
        fast.sort_by_key(|machine| Pace::of(&machine.speed).layer_ns(1));
        fast.truncate(limits::RING_SEARCH);
        if room(&fast) >= u64::from(sizes.layers) {
            fast.sort_by_key(|machine| machine.node);
            machines = fast;
        }
    }
    (machines, no_ring)
}

/// The cheapest round trips over every set of machines, as bits of a number.
#[derive(Default)]
struct Tours {
    count: usize,
    /// For each set and each last machine the nanoseconds of the cheapest way from the lowest
    /// machine of the set to it, through all, and the machine before it.
    ways: Vec<(u64, usize)>,
    /// For each set the nanoseconds of the cheapest round trip, and the last machine of it.
    rounds: Vec<(u64, usize)>,
}

impl Tours {
    /// Computes all round trips over `count` machines: Held and Karp's dynamic program.
    fn of(count: usize, links: &Links) -> Self {
        let sets = 1_usize << count;
        let none = (u64::MAX, 0);
        let mut tours =
            Self { count, ways: vec![none; sets.saturating_mul(count)], rounds: vec![none; sets] };
        for set in 1..sets {
            let root = set.trailing_zeros() as usize;
            for last in (0..count).filter(|last| set >> last & 1 == 1) {
                let before = set & !(1 << last);
                let way = if before == 0 {
                    (0, last)
                } else if last == root {
                    continue;
                } else {
                    let ways = (0..count).filter(|from| before >> from & 1 == 1).map(|from| {
                        let way = tours.way(before, from).0;
                        (way.saturating_add(links.hop_ns(from, last)), from)
                    });
                    // default: a set with another member has a way from it
                    ways.min().unwrap_or(none)
                };
                let place = set.saturating_mul(count).saturating_add(last);
                if let Some(of) = tours.ways.get_mut(place) {
                    *of = way;
                }
                let back = if before == 0 { 0 } else { links.hop_ns(last, root) };
                let round = (way.0.saturating_add(back), last);
                if let Some(of) = tours.rounds.get_mut(set) {
                    *of = round.min(*of);
                }
            }
        }
        tours
    }

    fn way(&self, set: usize, last: usize) -> (u64, usize) {
        let place = set.saturating_mul(self.count).saturating_add(last);
        // default: a way that was not computed is none
        self.ways.get(place).copied().unwrap_or((u64::MAX, 0))
    }

    /// Puts a split into the order of its cheapest round trip, its first machine first.
    fn ordered(&self, split: Split) -> Split {
        let Some(&(head, _)) = split.first() else {
            return split;
        };
        let mut set = split.iter().fold(0, |set, (place, _)| set | 1_usize << place);
        let Some(&(_, mut last)) = self.rounds.get(set) else {
            return split;
        };
        let mut order = Vec::new();
        while set != 0 {
            order.push(last);
            let before = self.way(set, last).1;
            set &= !(1 << last);
            last = before;
        }
        order.reverse();
        let at = order.iter().take_while(|place| **place != head).count().min(order.len());
        order.rotate_left(at);
        let layers = |place: usize| split.iter().find(|(other, _)| *other == place).copied();
        order.into_iter().filter_map(layers).collect()
    }
}

/// Finds the split with the least time per token, by pricing every set and every server 1 in it.
fn fastest(places: &[Place], tours: &Tours, layers: u64) -> Option<Split> {
    let mut by_speed: Vec<usize> = (0..places.len()).collect();
    by_speed.sort_by_key(|place| (places.get(*place).map(|one| one.layer_ns), *place));
    let mut best: Option<(u64, Split)> = None;
    for (set, (round, _)) in tours.rounds.iter().enumerate().skip(1) {
        let is_hopeless = |best: &(u64, Split)| best.0 <= *round;
        if u64::from(set.count_ones()) > layers || best.as_ref().is_some_and(is_hopeless) {
            continue;
        }
        let members: Vec<usize> =
            by_speed.iter().copied().filter(|place| set >> place & 1 == 1).collect();
        for &head in &members {
            let Some((ns, split)) = filled(places, &members, head, layers) else {
                continue;
            };
            let ns = ns.saturating_add(*round);
            if best.as_ref().is_none_or(|best| ns < best.0) {
                best = Some((ns, split));
            }
        }
    }
    best.map(|(_, split)| split)
}

/// Gives each member one layer, and the others to the fastest first; returns the nanoseconds and
/// the split. `None` if the memories are not enough.
fn filled(places: &[Place], members: &[usize], head: usize, layers: u64) -> Option<(u64, Split)> {
    let mut left = layers.checked_sub(members.len() as u64)?;
    let mut ns = places.get(head)?.head_ns;
    let mut split = Vec::with_capacity(members.len());
    for &member in members {
        let place = places.get(member)?;
        let most = if member == head { place.most_with_head } else { place.most };
        let more = most.checked_sub(1)?.min(left);
        left = left.saturating_sub(more);
        let own = more.saturating_add(1);
        ns = ns.saturating_add(own.saturating_mul(place.layer_ns));
        split.push((member, own));
    }
    let at = split.iter().position(|(member, _)| *member == head)?;
    split.swap(0, at);
    (left == 0).then_some((ns, split))
}

/// Finds the split whose slowest stage is the fastest; the slower machines are left out as far as
/// that does not change.
fn poured(places: &[Place], layers: u64) -> Option<Split> {
    let level = |head: usize, ns: u64| -> Option<Split> {
        let full = |(at, place): (usize, &Place)| {
            let (most, own) = if at == head {
                (place.most_with_head, ns.saturating_sub(place.head_ns))
            } else {
                (place.most, ns)
            };
            let fits = own.checked_div(place.layer_ns.max(1)).map_or(most, |fits| fits.min(most));
            (at, fits)
        };
        let split: Split = places.iter().enumerate().map(full).collect();
        let has_head = split.iter().any(|(at, own)| *at == head && *own > 0);
        let sum = split.iter().map(|(_, own)| *own).fold(0, u64::saturating_add);
        (has_head && sum >= layers).then_some(split)
    };
    let heads = (0..places.len()).filter_map(|head| {
        let (mut low, mut high) = (0_u64, 1_u64 << 60);
        level(head, high)?;
        while low < high {
            let middle = low.midpoint(high);
            match level(head, middle) {
                Some(_) => high = middle,
                None => low = middle.saturating_add(1),
            }
        }
        Some((high, head))
    });
    let (ns, head) = heads.min()?;
    let mut split = level(head, ns)?;
    // What is too much is taken from the slowest, but the head keeps a layer.
    split.sort_by_key(|(at, _)| (*at != head, places.get(*at).map(|one| one.layer_ns), *at));
    let sum = split.iter().map(|(_, own)| *own).fold(0, u64::saturating_add);
    let mut surplus = sum.saturating_sub(layers);
    for (at, own) in split.iter_mut().rev() {
        let least = u64::from(*at == head);
        let taken = own.saturating_sub(least).min(surplus);
        *own = own.saturating_sub(taken);
        surplus = surplus.saturating_sub(taken);
    }
    split.retain(|(_, own)| *own > 0);
    Some(split)
}

/// Puts a split into the order in which the nearest machine is next.
fn nearest(mut split: Split, links: &Links) -> Split {
    for at in 1..split.len() {
        let before = split.get(at.saturating_sub(1)).map(|(place, _)| *place);
        let later = split.iter().enumerate().skip(at);
        let next = later.min_by_key(|(_, (place, _))| {
            (before.map(|before| links.hop_ns(before, *place)), *place)
        });
        if let Some((next, _)) = next {
            split.swap(at, next);
        }
    }
    split
}
