//! The most tokens per second that all servers give together, and how to come close to it.
//!
//! Servers and layers are a transport network: work flows from each server, at most what it
//! computes at its best batch ([`Pace::work_per_s`]), to the layers that it holds, and every token
//! needs each layer once. A token may change servers after any layer. The maximum flow is the
//! tightest cut: of all sets of layers, the one whose holders have least work for its size. Because
//! spans are ranges, what lies outside of such a set is a row of gaps, and the tightest cut is
//! found by going through the layers once for each, whatever the number of servers.
//!
//! The head's work is counted to layer 0, which the same server serves, as so many layers as it is
//! worth at the server with the head where that is least. So the bound is never too low; links
//! bound it only by the fastest measured one of each server.
//!
//! How a server shares its work out among its layers comes from scaling: each layer has a weight,
//! every server deals in proportion to the weights of its layers, and layers that get less than
//! they should become heavier. Servers with the same span deal alike, so that rings seldom change
//! servers within a span.

use lockstep_verify::sign::NodeId;

use super::cost::Pace;
use super::demand::{Demand, Room, usable};
use super::route::{RouteError, check_cover, may_be_first, may_be_last};
use super::weighted::{Share, Weighted};
use crate::announcement::Status;
use crate::limits;

/// The unit of work: a thousandth of a layer, for one token.
const LAYER: u64 = 1_000;

/// The unit of rates: a millionth of a token per second.
const RATE: u64 = 1_000_000;

/// The flow of a swarm: what it could give, and what the shares that were found give.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The bound in millionths of a token per second: no plan over these servers, which compute at
    /// the best batch that they have measured, gives more.
    pub bound: u64,
    /// The millionths of a token per second at which rings along the shares use no server beyond
    /// its work.
    pub steady: u64,
    /// A ring for each request, along the shares.
    pub rings: Weighted,
}

/// What a server can do, for the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Worker {
    /// The node id.
    pub(super) node: NodeId,
    /// Thousandths of a layer per second.
    pub(super) work: u64,
    /// The lowest layer that it can serve in a ring.
    pub(super) first: usize,
    /// The layer after the highest.
    pub(super) end: usize,
}

/// Computes the flow over all servers that may serve the demand, whether they have room at the
/// moment or not.
///
/// # Errors
/// [`RouteError`] says which layers nobody holds, and who was left out.
pub fn flow(peers: &[Status], demand: &Demand) -> Result<Flow, RouteError> {
    let usable = usable(peers, demand, Room::Ignored);
    check_cover(&usable, demand)?;
    let workers = workers(&usable.servers, demand);
    let sizes = sizes(&usable.servers, demand);
    let layers = sizes.len();
    let missing: Vec<_> = (0..layers)
        .filter(|layer| !workers.iter().any(|one| (one.first..one.end).contains(layer)))
        // default: the layers of a demand are a u32
        .filter_map(|layer| u32::try_from(layer).ok())
        .map(|layer| layer..layer.saturating_add(1))
        .collect();
    if !missing.is_empty() {
        return Err(RouteError::Uncovered { missing, left_out: usable.left_out });
    }
    let bound = bound(&workers, &sizes);
    let (weights, steady) = scaled(&workers, &sizes, bound);
    let rings = Weighted::new(layers, &shares(&workers, &sizes, &weights));
    Ok(Flow { bound, steady, rings })
}

/// Returns what each server can do. Layer 0 is for those that may be server 1, and the last layer
/// for those that may be last.
fn workers(servers: &[&Status], demand: &Demand) -> Vec<Worker> {
    let worker = |status: &&Status| {
        let is_first = may_be_first(status, demand);
        let first = if is_first { 0 } else { status.first.max(1) as usize };
        let is_cut = !may_be_last(status, demand) && status.end == demand.layers;
        let end = if is_cut { status.end.saturating_sub(1) } else { status.end } as usize;
        let worker = Worker { node: status.node, work: work(status, demand), first, end };
        (first < end).then_some(worker)
    };
    servers.iter().filter_map(worker).collect()
}

/// Returns the work of a server per second, as far as its fastest measured link lets it out.
fn work(status: &Status, demand: &Demand) -> u64 {
    let own = Pace::of(&status.speed).work_per_s();
    let span = u64::from(status.end.saturating_sub(status.first));
    let is_whole = span == u64::from(demand.layers);
    let fastest = status.neighbours.iter().map(|link| link.bytes_per_s).max();
    let fastest = fastest.filter(|bytes_per_s| *bytes_per_s > 0 && !is_whole);
    let line = fastest.map(|bytes_per_s| {
        let layers = u128::from(bytes_per_s).saturating_mul(u128::from(span.saturating_mul(LAYER)));
        layers.checked_div(u128::from(demand.state_bytes.max(1)))
    });
    // default: a line that carries more than a u64 holds is no bound
    let line = line.flatten().map_or(u64::MAX, |line| u64::try_from(line).unwrap_or(u64::MAX));
    own.min(line).max(1)
}

/// Returns the work of each layer: that of layer 0 has the head in it.
fn sizes(servers: &[&Status], demand: &Demand) -> Vec<u64> {
    let heads = servers.iter().filter(|status| may_be_first(status, demand));
    let head = heads.map(|status| {
        let pace = Pace::of(&status.speed);
        let batch = pace.best_batch();
        let layers = pace.head_ns(batch).saturating_mul(LAYER);
        layers.checked_div(pace.layer_ns(batch).max(1))
    });
    // default: without a head there is no flow, as was checked
    let head = head.flatten().min().unwrap_or(0);
    let mut sizes = vec![LAYER; demand.layers as usize];
    if let Some(first) = sizes.first_mut() {
        *first = first.saturating_add(head);
    }
    sizes
}

/// A set of layers that are left out of a cut, as far as the search has come.
#[derive(Clone, Copy)]
struct Gaps {
    /// What leaving them out is worth: the work of the servers that hold nothing else, less what
    /// the layers need.
    worth: i128,
    /// The work of those servers.
    work: u128,
    /// The sizes of the layers.
    size: u128,
}

/// Computes the tightest cut: the largest rate, in millionths of a token per second, at which every
/// set of layers has holders with work enough.
pub(super) fn bound(workers: &[Worker], sizes: &[u64]) -> u64 {
    let inside = inside(workers, sizes.len());
    let work: u128 = workers.iter().map(|one| u128::from(one.work)).sum();
    let size: u128 = sizes.iter().map(|size| u128::from(*size)).sum();
    let rate = |work: u128, size: u128| work.saturating_mul(u128::from(RATE)).checked_div(size);
    let Some(mut best) = rate(work, size) else {
        return 0;
    };
    // From a cut to a tighter one, until there is none.
    loop {
        let gaps = widest_gaps(&inside, sizes, best);
        let (work, size) = (work.saturating_sub(gaps.work), size.saturating_sub(gaps.size));
        match rate(work, size) {
            Some(tighter) if tighter < best => best = tighter,
            // default: more than a u64 holds is more than any swarm gives
            _ => return u64::try_from(best).unwrap_or(u64::MAX),
        }
    }
}

/// Returns for each layer `first` the work of all servers whose spans lie in `first..end`, for each
/// `end` above.
fn inside(workers: &[Worker], layers: usize) -> Vec<Vec<u128>> {
    let mut spans = vec![vec![0_u128; layers.saturating_add(1)]; layers.saturating_add(1)];
    for worker in workers {
        if let Some(work) = spans.get_mut(worker.first).and_then(|of| of.get_mut(worker.end)) {
            *work = work.saturating_add(u128::from(worker.work));
        }
    }
    // Sums over longer ends, and then over later firsts.
    for of in &mut spans {
        let mut sum = 0_u128;
        for work in of.iter_mut() {
            sum = sum.saturating_add(*work);
            *work = sum;
        }
    }
    let mut below: Vec<u128> = vec![0; layers.saturating_add(1)];
    for of in spans.iter_mut().rev() {
        for (work, below) in of.iter_mut().zip(&below) {
            *work = work.saturating_add(*below);
        }
        below.clone_from(of);
    }
    spans
}

/// Finds the layers that are best left out of a cut at a rate.
fn widest_gaps(inside: &[Vec<u128>], sizes: &[u64], rate: u128) -> Gaps {
    // default: no sum of work or of sizes comes near that
    let signed = |number: u128| i128::try_from(number).unwrap_or(i128::MAX);
    let none = Gaps { worth: 0, work: 0, size: 0 };
    // The best gaps among the layers below each layer.
    let mut best = vec![none];
    for end in 1..=sizes.len() {
        // default: the list begins with the gaps below layer 0
        let mut here = best.last().copied().unwrap_or(none);
        let mut size = 0_u128;
        for (first, below) in best.iter().enumerate().rev() {
            let own = sizes.get(first).map_or(0, |size| u128::from(*size));
            size = size.saturating_add(own);
            let work = inside.get(first).and_then(|of| of.get(end)).copied();
            // default: the table has a place for every range of layers
            let work = work.unwrap_or(0);
            let gain = signed(work.saturating_mul(u128::from(RATE)));
            let gain = gain.saturating_sub(signed(size.saturating_mul(rate)));
            let worth = below.worth.saturating_add(gain);
            if work > 0 && worth > here.worth {
                let (work, size) =
                    (below.work.saturating_add(work), below.size.saturating_add(size));
                here = Gaps { worth, work, size };
            }
        }
        best.push(here);
    }
    // default: as above
    best.last().copied().unwrap_or(none)
}

/// The weight that a layer begins with; weights stay between 1 and twice this.
const WEIGHT: u64 = 1 << 40;

/// Computes the layers' weights, and the rate that they give: in millionths of a token per second
/// what the layer that gets least gets.
pub(super) fn scaled(workers: &[Worker], sizes: &[u64], bound: u64) -> (Vec<u64>, u64) {
    let mut weights = vec![WEIGHT; sizes.len()];
    let mut best = (weights.clone(), 0);
    for _ in 0..limits::FLOW_ROUNDS {
        let rates = rates(workers, sizes, &weights);
        // default: without layers there is no rate
        let least = rates.iter().min().copied().unwrap_or(0);
        if least > best.1 {
            best = (weights.clone(), least);
        }
        // A thousandth below the bound is close enough.
        if least >= bound.saturating_sub(bound.div_ceil(1_000)) {
            break;
        }
        for (weight, rate) in weights.iter_mut().zip(&rates) {
            let next = u128::from(*weight).saturating_mul(u128::from(bound.max(1)));
            let next = next.checked_div(u128::from((*rate).max(1)));
            // default: it is bounded in the next line
            let next = next.map_or(u64::MAX, |next| u64::try_from(next).unwrap_or(u64::MAX));
            *weight = next.clamp(weight.div_ceil(2), weight.saturating_mul(2));
        }
        // default: as above
        let most = weights.iter().max().copied().unwrap_or(1).max(1);
        for weight in &mut weights {
            let scaled = u128::from(*weight).saturating_mul(u128::from(WEIGHT));
            let scaled = scaled.checked_div(u128::from(most)).map(u64::try_from);
            // default: the scaled weight is at most that of the heaviest
            *weight = scaled.and_then(Result::ok).unwrap_or(WEIGHT).max(1);
        }
    }
    best
}

/// The bits by which a server's work per weight is shifted up.
const FRACTION: u32 = 40;

/// Returns the rate that each layer gets, in millionths of a token per second.
fn rates(workers: &[Worker], sizes: &[u64], weights: &[u64]) -> Vec<u64> {
    let mut sums = vec![0_u128];
    let mut sum = 0_u128;
    for (weight, size) in weights.iter().zip(sizes) {
        sum = sum.saturating_add(u128::from(*weight).saturating_mul(u128::from(*size)));
        sums.push(sum);
    }
    let mut begins = vec![0_u128; sums.len()];
    let mut ends = vec![0_u128; sums.len()];
    for worker in workers {
        let (Some(below), Some(above)) = (sums.get(worker.first), sums.get(worker.end)) else {
            continue;
        };
        let work = u128::from(worker.work).saturating_mul(u128::from(RATE)) << FRACTION;
        let Some(each) = work.checked_div(above.saturating_sub(*below)) else {
            continue;
        };
        if let Some(begin) = begins.get_mut(worker.first) {
            *begin = begin.saturating_add(each);
        }
        if let Some(end) = ends.get_mut(worker.end) {
            *end = end.saturating_add(each);
        }
    }
    let mut each = 0_u128;
    let layers = begins.iter().zip(&ends).zip(weights);
    let rate = |((begin, end), weight): ((&u128, &u128), &u64)| {
        each = each.saturating_add(*begin).saturating_sub(*end);
        // default: more than a u64 holds is more than any swarm gives
        u64::try_from(each.saturating_mul(u128::from(*weight)) >> FRACTION).unwrap_or(u64::MAX)
    };
    layers.map(rate).collect()
}

/// Returns at which rate each server serves each of its layers.
fn shares(workers: &[Worker], sizes: &[u64], weights: &[u64]) -> Vec<Share> {
    let share = |worker: &Worker| {
        let (span, sizes) =
            (weights.get(worker.first..worker.end)?, sizes.get(worker.first..worker.end)?);
        let needed =
            |(weight, size): (&u64, &u64)| u128::from(*weight).saturating_mul(u128::from(*size));
        let all: u128 = span.iter().zip(sizes).map(needed).sum();
        let work = u128::from(worker.work) << FRACTION;
        let of = |weight: &u64| work.saturating_mul(u128::from(*weight)).checked_div(all);
        let rates = span.iter().filter_map(of).collect();
        Some(Share { node: worker.node, first: worker.first, rates })
    };
    workers.iter().filter_map(share).collect()
}
