//! Who serves which layers, and which ring each request gets.
//!
//! Beside ours there are three baselines, from what is published of them: all machines get equally
//! many layers (`equal`); Petals' rule, by which a joining server takes the weakest window of
//! blocks for which it has memory, and clients draw servers by their throughput (`petals`); and
//! Parallax's two phases, which build pipelines greedily, share out the layers of each by speed
//! (water-filling), and take the pipelines in turn (`parallax`).

mod equal;
mod ours;
mod parallax;
mod petals;
mod supply;

use std::fmt;
use std::ops::Range;

use lockstep_proto::announcement::Status;
use lockstep_testing::numbers::Numbers;

pub(crate) use ours::demand;

use super::machines::Machine;
use super::service::Stage;

/// A policy of placement and routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Equally many layers each, pipelines in turn.
    Equal,
    /// Lockstep's own placement, flow and rings.
    Ours,
    /// Pipelines with water-filled layers, in turn.
    Parallax,
    /// The weakest window, and servers drawn by throughput.
    Petals,
}

impl Policy {
    /// All policies, ours last.
    pub const ALL: [Self; 4] = [Self::Equal, Self::Petals, Self::Parallax, Self::Ours];

    /// Returns the name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Ours => "ours",
            Self::Parallax => "parallax",
            Self::Petals => "petals",
        }
    }

    /// Returns the span of each machine; an empty one serves nothing.
    pub(crate) fn place(self, machines: &[Machine]) -> Vec<Range<u32>> {
        match self {
            Self::Equal => equal::place(machines),
            Self::Ours => ours::place(machines),
            Self::Parallax => parallax::place(machines),
            Self::Petals => petals::place(machines),
        }
    }

    /// Returns the span that a machine takes which joins others, in our policy.
    pub(crate) fn join(machine: &Machine, others: &[Status]) -> Range<u32> {
        ours::join(machine, others)
    }

    /// Returns what gives rings over these machines; `usable` says which of them are known.
    pub(crate) fn router(
        self,
        machines: &[Machine],
        spans: &[Range<u32>],
        usable: &[bool],
        seed: u64,
    ) -> Router {
        match self {
            Self::Equal | Self::Parallax => Router::Turns(Turns::new(spans, usable)),
            Self::Ours => Router::Flow(ours::FlowRouter::new(machines, spans, usable)),
            Self::Petals => Router::Draw(petals::DrawRouter::new(machines, spans, usable, seed)),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The router that gives each request its ring.
pub(crate) enum Router {
    Draw(petals::DrawRouter),
    Flow(ours::FlowRouter),
    Turns(Turns),
}

impl Router {
    /// Returns the next ring over machines that have room.
    pub(crate) fn next(&mut self, has_room: impl Fn(usize) -> bool) -> Option<Vec<Stage>> {
        match self {
            Self::Draw(router) => router.next(has_room),
            Self::Flow(router) => router.next(has_room),
            Self::Turns(router) => router.next(has_room),
        }
    }
}

/// Pipelines of machines whose spans follow each other; each machine is in one. They get requests
/// in turn.
pub(crate) struct Turns {
    pipelines: Vec<Vec<Stage>>,
    turn: usize,
}

impl Turns {
    fn new(spans: &[Range<u32>], usable: &[bool]) -> Self {
        let mut free: Vec<usize> =
            (0..spans.len()).filter(|at| usable[*at] && !spans[*at].is_empty()).collect();
        let mut pipelines = Vec::new();
        loop {
            let (mut pipeline, mut next) = (Vec::new(), 0);
            while let Some(at) = free.iter().position(|machine| spans[*machine].start == next) {
                let machine = free.remove(at);
                let end = spans[machine].end;
                pipeline.push(Stage { machine, first: next, end });
                next = end;
            }
            if next < super::machines::LAYERS || pipeline.is_empty() {
                return Self { pipelines, turn: 0 };
            }
            pipelines.push(pipeline);
        }
    }

    fn next(&mut self, has_room: impl Fn(usize) -> bool) -> Option<Vec<Stage>> {
        for _ in 0..self.pipelines.len() {
            self.turn = (self.turn + 1) % self.pipelines.len();
            let pipeline = self.pipelines.get(self.turn)?;
            if pipeline.iter().all(|stage| has_room(stage.machine)) {
                return Some(pipeline.clone());
            }
        }
        None
    }
}

/// Draws an index with a probability in proportion to its weight.
fn draw(numbers: &mut Numbers, weights: &[f64]) -> Option<usize> {
    let all: f64 = weights.iter().sum();
    let mut left = all * (numbers.below(1 << 32) as f64 / (1_u64 << 32) as f64);
    for (at, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return Some(at);
        }
    }
    weights.iter().rposition(|weight| *weight > 0.0)
}
