//! Servers that are told to leave.

use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "drain", begin: nothing, strike, marks: &["drained"] };

fn strike(world: &mut World) {
    if world.numbers.below(3) == 0 {
        let server = world.draw_server();
        world.ring.drain(server);
        world.harm(server);
        world.marks.reach("drained");
    }
}
