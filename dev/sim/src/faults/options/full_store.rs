//! Servers that have no room to keep what challenges may be about: their disks or memory are full.

use lockstep_proto::server::{Capacity, Holding};
use lockstep_testing::hash_model::{model, vocabulary};

use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "full-store", begin, strike: nothing, marks: &["refused_cannot_keep"] };

fn begin(world: &mut World) {
    for server in 0..world.servers.len() {
        let retained = 4 + world.numbers.below(12) as usize;
        let local = &mut world.servers[server];
        local.capacity = Capacity { retained, ..local.capacity };
        let head = (local.span.start == 0).then(vocabulary);
        let holding = Holding { model: model(), span: local.span.clone(), head };
        world.ring.replace_holding(server, holding, local.capacity);
    }
}
