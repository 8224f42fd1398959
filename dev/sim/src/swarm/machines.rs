//! Uneven machines, drawn from a seed.

use std::ops::Range;

use lockstep_exact::digest::Digest;
use lockstep_proto::announcement::{Speed, State, Status};
use lockstep_proto::frame::VERSION;
use lockstep_proto::swarm::cost::Pace;
use lockstep_testing::numbers::Numbers;
use lockstep_verify::sign::NodeId;

/// Layers of the model that is served.
pub(crate) const LAYERS: u32 = 32;
/// How many layers the head is worth.
const HEAD_LAYERS: u32 = 3;
/// The nanoseconds of one layer on the fastest machine, for one session.
const FASTEST_NS: u64 = 4_000_000;
/// Sessions that a machine takes at once.
pub(crate) const SESSIONS: u32 = 1024;

/// Returns the digest of the manifest of the model that is served.
#[must_use]
pub(crate) fn manifest() -> Digest {
    Digest::of(b"model of a swarm")
}

/// A machine: how fast it is, and how much it holds.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) node: NodeId,
    pub(crate) speed: Speed,
    /// Layers that fit into its memory.
    pub(crate) most_layers: u32,
    /// Microseconds from it into the network, and from there to it.
    pub(crate) latency_us: u64,
}

impl Machine {
    /// Draws machine number `number`: the slowest takes eight times as long as the fastest, and
    /// memory is for an eighth of the layers to half of them.
    pub(crate) fn draw(numbers: &mut Numbers, number: usize) -> Self {
        // Evenly spread on a logarithmic scale: 2^(0 to 3).
        let slowness = 2_f64.powf(numbers.below(3_001) as f64 / 1000.0);
        let ns = |factor: f64| (FASTEST_NS as f64 * slowness * factor) as u32;
        let decode_ns = [ns(1.0), ns(1.3), ns(2.0)];
        let speed = Speed {
            decode_ns,
            head_ns: decode_ns.map(|ns| ns.saturating_mul(HEAD_LAYERS)),
            prefill_ns: ns(2.0 / 16.0),
        };
        let node = NodeId(Digest::derive("machine of a swarm", &[&number.to_le_bytes()]).0);
        let most_layers = LAYERS / 8 + numbers.below(u64::from(LAYERS * 3 / 8) + 1) as u32;
        Self { node, speed, most_layers, latency_us: 100 + numbers.below(2_000) }
    }

    /// Returns its work per second, in layers for one token each.
    pub(crate) fn layers_per_s(&self) -> f64 {
        Pace::of(&self.speed).work_per_s() as f64 / 1000.0
    }

    /// Returns the status that it announces when it holds a span.
    pub(crate) fn status(&self, span: &Range<u32>) -> Status {
        Status {
            version: VERSION,
            node: self.node,
            manifest: manifest(),
            first: span.start,
            end: span.end,
            head: span.start == 0,
            state: State::Ready,
            sessions: 0,
            sessions_limit: SESSIONS,
            queue: 0,
            kv_pages_free: u32::MAX,
            speed: self.speed,
            neighbours: Vec::new(),
            adapters: Vec::new(),
            tags: Vec::new(),
            software: String::new(),
        }
    }
}

/// Returns the work of a token at a layer, in layers: layer 0 is served with the head.
pub(crate) fn weight(layer: u32) -> f64 {
    if layer == 0 { f64::from(1 + HEAD_LAYERS) } else { 1.0 }
}
