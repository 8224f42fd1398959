//! Links with long and uneven delays.

use lockstep_testing::ring::Point;

use super::{Fault, World, nothing};

pub(super) const FAULT: Fault = Fault { name: "slow-links", begin, strike: nothing, marks: &[] };

fn begin(world: &mut World) {
    for one in 0..world.servers.len() {
        for other in 0..world.servers.len() {
            let (latency_us, jitter_us) =
                (world.numbers.below(200_000), world.numbers.below(100_000));
            let mut network = world.network.borrow_mut();
            let link = network.links.entry((Point::Server(one), Point::Server(other)));
            let link = link.or_default();
            (link.latency_us, link.jitter_us) = (latency_us, jitter_us);
        }
    }
}
