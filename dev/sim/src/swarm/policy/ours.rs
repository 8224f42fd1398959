//! Lockstep's own: each machine places itself where the swarm is weakest, and rings follow the
//! maximum flow.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use lockstep_proto::announcement::Status;
use lockstep_proto::swarm::demand::Demand;
use lockstep_proto::swarm::flow::flow;
use lockstep_proto::swarm::place::{self, Sizes};
use lockstep_proto::swarm::weighted::Weighted;
use lockstep_verify::sign::NodeId;

use super::super::machines::{LAYERS, Machine, manifest};
use super::super::service::Stage;

/// The bytes of a state.
const STATE_BYTES: u64 = 8_192;

/// Returns what clients of the swarm need.
pub(crate) fn demand() -> Demand {
    Demand {
        manifest: manifest(),
        layers: LAYERS,
        state_bytes: STATE_BYTES,
        positions: 1,
        adapters: BTreeSet::new(),
        allowed: None,
        proven: None,
        banned: BTreeSet::new(),
        first_on: None,
        last_on: None,
        tags: BTreeSet::new(),
    }
}

/// The sizes of the model: memory is counted in layers.
fn sizes() -> Sizes {
    Sizes {
        manifest: manifest(),
        layers: LAYERS,
        layer_bytes: 1,
        kv_bytes: 0,
        head_bytes: 0,
        state_bytes: STATE_BYTES,
    }
}

/// Returns the span that a machine takes that knows these statuses of others.
pub(super) fn join(machine: &Machine, others: &[Status]) -> Range<u32> {
    let own = place::Machine {
        node: machine.node,
        speed: machine.speed,
        memory_bytes: u64::from(machine.most_layers),
        neighbours: Vec::new(),
    };
    place::place(others, &own, &sizes()).unwrap_or(0..0)
}

/// Lets the machines join one after the other.
pub(super) fn place(machines: &[Machine]) -> Vec<Range<u32>> {
    let (mut known, mut spans): (Vec<Status>, Vec<Range<u32>>) = (Vec::new(), Vec::new());
    for machine in machines {
        let span = join(machine, &known);
        known.push(machine.status(&span));
        spans.push(span);
    }
    spans
}

/// Rings along the flow of what is known.
pub(crate) struct FlowRouter {
    rings: Option<Weighted>,
    numbers: BTreeMap<NodeId, usize>,
}

impl FlowRouter {
    pub(super) fn new(machines: &[Machine], spans: &[Range<u32>], usable: &[bool]) -> Self {
        let known = |at: &usize| usable[*at] && !spans[*at].is_empty();
        let known: Vec<usize> = (0..machines.len()).filter(known).collect();
        let statuses: Vec<Status> =
            known.iter().map(|at| machines[*at].status(&spans[*at])).collect();
        let rings = flow(&statuses, &demand()).ok().map(|flow| flow.rings);
        let numbers = known.into_iter().map(|at| (machines[at].node, at)).collect();
        Self { rings, numbers }
    }

    pub(super) fn next(&mut self, has_room: impl Fn(usize) -> bool) -> Option<Vec<Stage>> {
        let Self { rings, numbers } = self;
        let number = |node: &NodeId| numbers.get(node).copied();
        let has_room = |node: NodeId| number(&node).is_some_and(&has_room);
        let ring = rings.as_mut()?.next_ring(has_room)?;
        let stage = |hop: &lockstep_verify::request::Hop| {
            let machine = number(&hop.node)?;
            Some(Stage { machine, first: hop.first, end: hop.end })
        };
        ring.iter().map(stage).collect()
    }
}
