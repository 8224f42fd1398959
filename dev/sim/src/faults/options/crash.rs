//! Servers whose processes die, for good.

use lockstep_testing::ring::Point;

use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "crash", begin: nothing, strike, marks: &["crashed"] };

fn strike(world: &mut World) {
    let server = world.draw_server();
    if world.numbers.below(3) == 0 && !world.ring.is_dead(Point::Server(server)) {
        world.harm(server);
        world.ring.kill(Point::Server(server));
        world.marks.reach("crashed");
    }
}
