//! Servers whose processes do not run for a while: they sleep, swap, or are stopped.

use lockstep_testing::ring::Point;

use super::super::world::SECOND;
use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "pause", begin: nothing, strike, marks: &["paused", "found_silent"] };

fn strike(world: &mut World) {
    let server = world.draw_server();
    if world.servers[server].is_paused || world.ring.is_dead(Point::Server(server)) {
        return;
    }
    let us = world.numbers.below(8 * SECOND);
    world.harm(server);
    world.servers[server].is_paused = true;
    world.ring.pause(server);
    world.marks.reach("paused");
    world.later(us, move |world| {
        world.servers[server].is_paused = false;
        world.ring.resume(server);
    });
}
