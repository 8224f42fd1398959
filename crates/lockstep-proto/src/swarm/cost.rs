//! How long a server and a link take for a step, in nanoseconds, from what was announced.
//!
//! What nobody has measured is counted as slow, by the `UNKNOWN_` limits. Sums saturate: no claim,
//! however absurd, makes a figure wrap round.

use std::collections::BTreeMap;

use lockstep_verify::sign::NodeId;

use crate::announcement::{BATCHES, Neighbour, Speed, Status};
use crate::limits;

/// The longest time that is counted for one wait or hop, in nanoseconds: thirteen days. A ring of
/// the most stages adds up to less than a `u64` holds.
const LONGEST_NS: u64 = 1 << 50;

/// The links of one server that are counted: as many as are announced, and those to machines that
/// are only planned for.
const LINKS: usize = limits::NEIGHBOURS + limits::MACHINES_PLANNED as usize;

/// Returns the nanoseconds of one decode step of `batch` sessions, given the times for
/// [`BATCHES`]: on straight lines between them, beyond the last in proportion to it. A larger batch
/// never takes less, whatever was measured.
fn batch_ns(times: [u32; 3], batch: u32) -> u64 {
    let ([few, some, many], [_, four, sixteen]) = (times, BATCHES);
    let some = some.max(few);
    let many = u64::from(many.max(some));
    let (few, some) = (u64::from(few), u64::from(some));
    let (four, sixteen, batch) = (u64::from(four), u64::from(sixteen), u64::from(batch.max(1)));
    let between = |from: u64, to: u64, done: u64, all: u64| {
        from.saturating_add(to.saturating_sub(from).saturating_mul(done).div_ceil(all.max(1)))
    };
    if batch <= four {
        between(few, some, batch.saturating_sub(1), four.saturating_sub(1))
    } else if batch <= sixteen {
        between(some, many, batch.saturating_sub(four), sixteen.saturating_sub(four))
    } else {
        many.saturating_mul(batch).div_ceil(sixteen)
    }
}

/// The times that are counted for a server: those that it has measured, or what is assumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace(Speed);

impl Pace {
    /// Returns the times that are counted for an announced or measured speed.
    #[must_use]
    pub fn of(speed: &Speed) -> Self {
        let mut pace = *speed;
        if pace.decode_ns.contains(&0) {
            pace.decode_ns = [limits::UNKNOWN_DECODE_NS; 3];
        }
        if pace.prefill_ns == 0 {
            pace.prefill_ns = limits::UNKNOWN_PREFILL_NS;
        }
        if pace.head_ns.contains(&0) {
            pace.head_ns = pace.decode_ns.map(|ns| ns.saturating_mul(limits::UNKNOWN_HEAD_LAYERS));
        }
        Self(pace)
    }

    /// Returns the nanoseconds that one layer takes for a decode step of `batch` sessions together.
    #[must_use]
    pub fn layer_ns(&self, batch: u32) -> u64 {
        batch_ns(self.0.decode_ns, batch)
    }

    /// Returns the nanoseconds that the head takes for a decode step of `batch` sessions together.
    #[must_use]
    pub fn head_ns(&self, batch: u32) -> u64 {
        batch_ns(self.0.head_ns, batch)
    }

    /// Returns the nanoseconds that one layer takes for one position of a prompt.
    #[must_use]
    pub const fn prefill_ns(&self) -> u64 {
        self.0.prefill_ns as u64
    }

    /// Returns the batch among [`BATCHES`] at which a layer computes the most tokens per second,
    /// and the larger of two that are equal.
    #[must_use]
    pub fn best_batch(&self) -> u32 {
        // Times 16, so that no batch's nanoseconds per token are cut off.
        let share =
            |batch: &u32| self.layer_ns(*batch).saturating_mul(16).checked_div(u64::from(*batch));
        // default: the batches are a constant list that is not empty
        BATCHES.into_iter().rev().min_by_key(share).unwrap_or(1)
    }

    /// Returns how much a server computes at its best batch, in thousandths of a layer per second,
    /// for one token each.
    #[must_use]
    pub fn work_per_s(&self) -> u64 {
        let batch = self.best_batch();
        let tokens = u64::from(batch).saturating_mul(1_000_000_000_000);
        tokens.checked_div(self.layer_ns(batch).max(1)).map_or(1, |work| work.max(1))
    }
}

/// Returns the nanoseconds for which a new step waits at a server, besides its own time: for
/// what its executor was given, at a batch's pace, or for half of a step of all its sessions,
/// whichever is more.
#[must_use]
pub fn wait_ns(status: &Status) -> u64 {
    let pace = Pace::of(&status.speed);
    let layers = u64::from(status.end.saturating_sub(status.first));
    let [_, _, sixteen] = BATCHES;
    let queued = u64::from(status.queue).saturating_mul(pace.layer_ns(sixteen));
    let queued = queued.div_ceil(u64::from(sixteen));
    let together = match status.sessions {
        0 => 0,
        sessions => pace.layer_ns(sessions.min(sixteen)).div_ceil(2),
    };
    layers.saturating_mul(queued.max(together)).min(LONGEST_NS)
}

/// Returns the nanoseconds from one node to another for `bytes` bytes: half of the round trip and
/// the time on the line.
#[must_use]
pub fn hop_ns(rtt_us: u32, bytes_per_s: u64, bytes: u64) -> u64 {
    let line = u128::from(bytes).saturating_mul(1_000_000_000);
    let line = line.checked_div(u128::from(bytes_per_s.max(1)));
    // default: more than a u64 holds is longer than the longest time that is counted
    let line = line.map_or(u64::MAX, |ns| u64::try_from(ns).unwrap_or(u64::MAX));
    u64::from(rtt_us).saturating_mul(500).saturating_add(line).min(LONGEST_NS)
}

/// Returns the nanoseconds for `bytes` bytes over a link that nobody has measured.
#[must_use]
pub fn unknown_hop_ns(bytes: u64) -> u64 {
    hop_ns(limits::UNKNOWN_RTT_US, limits::UNKNOWN_BYTES_PER_S, bytes)
}

/// The measured links among a list of servers, by their places in it.
pub(super) struct Links {
    /// The nanoseconds of a step's hop over each measured link: for each server its neighbours, by
    /// their places in ascending order.
    hops: Vec<Vec<(usize, u64)>>,
    /// The nanoseconds of a hop over any other link.
    pub(super) unknown: u64,
}

impl Links {
    /// Collects the links among `servers`, given with their neighbours and sorted by node id, which
    /// carry `bytes` bytes for each step. If both ends have measured a round trip, the longer one
    /// counts, so that nobody comes near by saying so; the bytes per second are the sender's.
    pub(super) fn of(servers: &[(NodeId, &[Neighbour])], bytes: u64) -> Self {
        // default: a node that is not among the servers has no place
        let place = |node: NodeId| servers.binary_search_by_key(&node, |(node, _)| *node).ok();
        let mut measured: BTreeMap<(usize, usize), (u32, u64)> = BTreeMap::new();
        for (from, (_, neighbours)) in servers.iter().enumerate() {
            for link in neighbours.iter().take(LINKS) {
                let Some(to) = place(link.node).filter(|to| *to != from) else {
                    continue;
                };
                let there = measured.entry((from, to)).or_insert((0, 0));
                *there = (there.0.max(link.rtt_us), link.bytes_per_s);
                let back = measured.entry((to, from)).or_insert((0, 0));
                back.0 = back.0.max(link.rtt_us);
            }
        }
        let mut hops = vec![Vec::new(); servers.len()];
        for ((from, to), (rtt_us, bytes_per_s)) in measured {
            let bytes_per_s =
                if bytes_per_s == 0 { limits::UNKNOWN_BYTES_PER_S } else { bytes_per_s };
            if let Some(of) = hops.get_mut(from) {
                of.push((to, hop_ns(rtt_us, bytes_per_s, bytes)));
            }
        }
        Self { hops, unknown: unknown_hop_ns(bytes) }
    }

    /// Returns the nanoseconds of a hop between two servers.
    pub(super) fn hop_ns(&self, from: usize, to: usize) -> u64 {
        // default: a link that nobody has measured takes what is assumed
        self.measured_ns(from, to).unwrap_or(self.unknown)
    }

    /// Returns the measured links of a server: to whom, and the nanoseconds of a hop.
    pub(super) fn measured(&self, from: usize) -> impl Iterator<Item = (usize, u64)> {
        self.hops.get(from).into_iter().flatten().copied()
    }

    /// Returns whether anybody has measured the link between two servers.
    pub(super) fn is_measured(&self, from: usize, to: usize) -> bool {
        self.measured_ns(from, to).is_some()
    }

    fn measured_ns(&self, from: usize, to: usize) -> Option<u64> {
        let of = self.hops.get(from)?;
        // default: who is not among the neighbours is not measured
        let place = of.binary_search_by_key(&to, |(to, _)| *to).ok()?;
        of.get(place).map(|(_, ns)| *ns)
    }
}
