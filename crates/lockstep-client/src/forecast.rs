//! What a swarm is expected to give: to one client, to many, and with more machines. Everything is
//! predicted from what servers announce, by the pure functions of `lockstep_proto::swarm`; nothing
//! is asked of them.

use lockstep_proto::announcement::{State, Status};
use lockstep_proto::swarm::cost::Pace;
use lockstep_proto::swarm::demand::Demand;
use lockstep_proto::swarm::flow::flow;
use lockstep_proto::swarm::place::{Machine, Sizes};
use lockstep_proto::swarm::plan::{self, Plan};
use lockstep_proto::swarm::route::{Route, RouteError, fastest};
use lockstep_proto::swarm::split::{Goal, NoRing};
use lockstep_verify::sign::NodeId;

/// A window of layers that the same servers hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// The lowest layer of the window.
    pub first: u32,
    /// The layer after the highest of the window.
    pub end: u32,
    /// The number of servers that hold it and are ready.
    pub ready: usize,
    /// The number of servers that hold it and are joining.
    pub joining: usize,
    /// The tokens per second of the ready ones together, each at its best batch over all of its
    /// layers.
    pub tokens_per_s: f64,
}

/// Returns the windows of a model's layers, from layer 0 on, without gaps: those that nobody holds
/// are among them.
#[must_use]
pub fn windows(servers: &[&Status], layers: u32) -> Vec<Window> {
    let mut cuts: Vec<u32> =
        servers.iter().flat_map(|one| [one.first, one.end]).chain([0, layers]).collect();
    cuts.retain(|cut| *cut <= layers);
    cuts.sort_unstable();
    cuts.dedup();
    let window = |(&first, &end): (&u32, &u32)| {
        let holds = |one: &&&Status| one.first <= first && end <= one.end;
        let in_state = |state| servers.iter().filter(holds).filter(move |one| one.state == state);
        let rates = in_state(State::Ready).map(|one| rate(one));
        // The sum of no numbers is -0.
        let tokens_per_s = rates.fold(0.0, |sum, rate| sum + rate);
        let (ready, joining) = (in_state(State::Ready).count(), in_state(State::Joining).count());
        Window { first, end, ready, joining, tokens_per_s }
    };
    cuts.iter().zip(cuts.iter().skip(1)).map(window).collect()
}

/// Returns the tokens per second of a server that computes all of its layers at its best batch, and
/// the head if it has it.
#[must_use]
pub fn rate(status: &Status) -> f64 {
    let pace = Pace::of(&status.speed);
    let batch = pace.best_batch();
    let layers = u64::from(status.end.saturating_sub(status.first));
    let head = if status.head { pace.head_ns(batch) } else { 0 };
    let ns = layers.saturating_mul(pace.layer_ns(batch)).saturating_add(head);
    f64::from(batch) * 1e9 / (ns.max(1) as f64)
}

/// Returns the windows that bound what many clients get together: those with the fewest tokens per
/// second.
#[must_use]
pub fn bottleneck(windows: &[Window]) -> Vec<&Window> {
    let least = windows.iter().map(|window| window.tokens_per_s).fold(f64::INFINITY, f64::min);
    windows.iter().filter(|window| window.tokens_per_s <= least).collect()
}

/// The forecast of what a swarm gives, without load but what waits at its servers now.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// The ring for one client as it would be chosen now, or why there is none.
    pub ring: Result<Route, RouteError>,
    /// The tokens per second of many clients together that no plan exceeds, and those that rings
    /// along the flow come to; none if some layers are not held.
    pub many: Option<(f64, f64)>,
    /// The machine that would be faster by itself for one client, and its tokens per second.
    pub faster_alone: Option<(NodeId, f64)>,
    /// The windows of the layers, with how many servers hold each.
    pub windows: Vec<Window>,
}

/// A rate in tokens per second of one in millionths.
fn per_s(millionths: u64) -> f64 {
    millionths as f64 / 1e6
}

/// Returns the tokens per second of a time for each token.
#[must_use]
pub fn tokens_per_s(token_ns: u64) -> f64 {
    1e9 / (token_ns.max(1) as f64)
}

/// Predicts what the servers of a model give, which are all of one model.
#[must_use]
pub fn forecast(servers: &[Status], demand: &Demand, sizes: &Sizes) -> Forecast {
    let ring = fastest(servers, demand);
    let machines: Vec<Machine> = servers.iter().map(|one| machine_of(one, sizes)).collect();
    let faster_alone = ring.as_ref().ok().and_then(|route| {
        let plan = plan::predict(&route.hops, &machines, sizes);
        let node = plan.faster_alone().filter(|_| route.hops.len() > 1)?;
        plan.alone.map(|(_, ns)| (node, tokens_per_s(ns)))
    });
    let many = flow(servers, demand).ok();
    let all: Vec<&Status> = servers.iter().collect();
    Forecast {
        ring,
        many: many.map(|flow| (per_s(flow.bound), per_s(flow.steady))),
        faster_alone,
        windows: windows(&all, demand.layers),
    }
}

/// Returns the machine of a server, as far as its status tells: with memory for the layers that it
/// holds, because nothing is known of more.
#[must_use]
pub fn machine_of(status: &Status, sizes: &Sizes) -> Machine {
    let layers = u64::from(status.end.saturating_sub(status.first));
    let layer = sizes.layer_bytes.saturating_add(sizes.kv_bytes);
    let head = if status.head { sizes.head_bytes } else { 0 };
    Machine {
        node: status.node,
        speed: status.speed,
        memory_bytes: layers.saturating_mul(layer).saturating_add(head),
        neighbours: status.neighbours.clone(),
    }
}

/// The forecast of what a swarm gives with a number of machines more.
#[derive(Clone, Debug, PartialEq)]
pub struct Grown {
    /// The number of machines more.
    pub machines: u32,
    /// The tokens per second of many clients together that no plan exceeds, if each machine takes
    /// the layers of which there is least; 0 while there is no ring.
    pub many: f64,
    /// The tokens per second of one client if all machines shared the layers out anew for that;
    /// none if their memories are not enough.
    pub one: Option<f64>,
}

/// Predicts what up to `count` more machines like one give.
#[must_use]
pub fn grown(
    servers: &[Status],
    demand: &Demand,
    sizes: &Sizes,
    like: &Machine,
    count: u32,
) -> Vec<Grown> {
    let bounds = plan::grown(servers, demand, sizes, like, count);
    let machines: Vec<Machine> = servers.iter().map(|one| machine_of(one, sizes)).collect();
    let row = |(number, bound): (u32, u64)| Grown {
        machines: number,
        many: per_s(bound),
        one: one_stream(&machines, like, number, sizes).ok().map(|plan| per_s(plan.stream_rate)),
    };
    (0..).zip(bounds).filter(|(number, _)| is_shown(*number, count)).map(row).collect()
}

/// Predicts the ring for one client over machines and `count` more like one.
///
/// # Errors
/// [`NoRing`] if their memories are not enough.
pub fn one_stream(
    machines: &[Machine],
    like: &Machine,
    count: u32,
    sizes: &Sizes,
) -> Result<Plan, NoRing> {
    plan::with_more(machines, like, count, sizes, Goal::Latency)
}

/// Returns whether a row is shown for this number of machines: each of a few, then every doubling
/// and the last.
#[must_use]
pub const fn is_shown(number: u32, count: u32) -> bool {
    number <= 4 || number.is_power_of_two() || number == count
}

#[cfg(test)]
mod tests {
    use lockstep_proto::announcement::{Neighbour, Speed};
    use lockstep_proto::model::Model;
    use lockstep_testing::gossip::{MODEL, status};
    use lockstep_testing::hash_model;

    use super::*;

    const LAYERS: u32 = 8;

    fn server(number: u8, span: core::ops::Range<u32>, layer_us: u32) -> Status {
        let us = |us: u32| us * 1_000;
        let head = if span.start == 0 { [us(400), us(800), us(1_600)] } else { [0; 3] };
        let speed = Speed {
            decode_ns: [us(layer_us), us(layer_us * 2), us(layer_us * 4)],
            head_ns: head,
            prefill_ns: us(layer_us) / 10,
        };
        let near = |other: u8| Neighbour {
            node: NodeId([other; 32]),
            rtt_us: 1_000,
            bytes_per_s: 125_000_000,
        };
        let neighbours = (1..=4).filter(|other| *other != number).map(near).collect();
        Status { speed, neighbours, ..status(NodeId([number; 32]), span) }
    }

    fn demand() -> Demand {
        let model = Model { manifest: MODEL, layers: LAYERS, ..hash_model::model() };
        Demand { state_bytes: 64, ..Demand::of(&model, 256) }
    }

    fn sizes() -> Sizes {
        Sizes {
            manifest: MODEL,
            layers: LAYERS,
            layer_bytes: 100,
            kv_bytes: 20,
            head_bytes: 50,
            state_bytes: 64,
        }
    }

    #[test]
    fn a_swarm_is_as_fast_as_its_windows_and_the_weakest_is_named() {
        let servers = [server(1, 0..4, 100), server(2, 4..8, 100), server(3, 4..8, 100)];
        let told = forecast(&servers, &demand(), &sizes());
        let ring = told.ring.unwrap();
        assert_eq!(ring.hops.len(), 2);
        // 8 layers of 0.1 ms, the head's 0.4 ms, two hops of half a ms and 64 bytes.
        assert!((2.19..2.21).contains(&(ring.token_ns as f64 / 1e6)), "{}", ring.token_ns);
        let spans = told.windows.iter().map(|one| (one.first, one.end, one.ready));
        assert_eq!(spans.collect::<Vec<_>>(), [(0, 4, 1), (4, 8, 2)]);
        let weakest = bottleneck(&told.windows);
        assert_eq!((weakest.len(), weakest[0].first), (1, 0));
        let (bound, steady) = told.many.unwrap();
        assert!(bound >= steady && steady > 0.0);
        assert_eq!(told.faster_alone, None);
    }

    #[test]
    fn who_holds_the_whole_model_and_is_faster_alone_is_named() {
        let mut servers = vec![server(1, 0..4, 300), server(2, 4..8, 300)];
        servers.push(Status { sessions: 8, ..server(3, 0..8, 100) });
        let told = forecast(&servers, &demand(), &sizes());
        assert_eq!(told.ring.unwrap().hops.len(), 2, "the third is full");
        let (node, rate) = told.faster_alone.unwrap();
        assert_eq!(node, NodeId([3; 32]));
        assert!((832.0..834.0).contains(&rate), "8 layers of 0.1 ms and 0.4 ms: {rate}");
    }

    #[test]
    fn missing_layers_are_a_window_without_servers_and_a_machine_more_closes_it() {
        let servers =
            [server(1, 0..4, 100), Status { state: State::Joining, ..server(2, 6..8, 100) }];
        let told = forecast(&servers, &demand(), &sizes());
        assert!(matches!(told.ring, Err(RouteError::Uncovered { .. })), "{:?}", told.ring);
        assert_eq!(told.many, None);
        let spans = told.windows.iter().map(|one| (one.first, one.end, one.ready, one.joining));
        assert_eq!(spans.collect::<Vec<_>>(), [(0, 4, 1, 0), (4, 6, 0, 0), (6, 8, 0, 1)]);
        let like = machine_of(&servers[0], &sizes());
        assert_eq!(like.most_layers(&sizes(), true), 4);
        let rows = grown(&servers, &demand(), &sizes(), &like, 3);
        assert_eq!(rows.iter().map(|row| row.machines).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(rows[0].many, 0.0);
        assert!(rows[3].many > 0.0, "{rows:?}");
        assert!(rows[3].one.unwrap() > 0.0);
        assert_eq!(
            (0..=20).filter(|n| is_shown(*n, 20)).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 8, 16, 20]
        );
    }
}
