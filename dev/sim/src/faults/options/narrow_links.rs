//! Links between servers that carry few bytes a second.

use lockstep_testing::ring::Point;

use super::{Fault, World, nothing};

pub(super) const FAULT: Fault = Fault { name: "narrow-links", begin, strike: nothing, marks: &[] };

fn begin(world: &mut World) {
    for _ in 0..world.servers.len() {
        let (one, other) = (world.draw_server(), world.draw_server());
        let bytes_per_s = 20_000 + world.numbers.below(2_000_000);
        world.harm(one);
        world.harm(other);
        let mut network = world.network.borrow_mut();
        let link = network.links.entry((Point::Server(one), Point::Server(other))).or_default();
        link.bytes_per_s = bytes_per_s;
    }
}
