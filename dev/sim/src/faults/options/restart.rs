//! Servers that die and come back, with their keys and without anything else.

use lockstep_testing::ring::Point;

use super::super::node::executor;
use super::super::world::SECOND;
use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "restart", begin: nothing, strike, marks: &["restarted"] };

fn strike(world: &mut World) {
    let server = world.draw_server();
    if world.servers[server].is_paused || world.ring.is_dead(Point::Server(server)) {
        return;
    }
    world.harm(server);
    world.ring.kill(Point::Server(server));
    let us = world.numbers.below(5 * SECOND);
    world.later(us, move |world| {
        let script = world.servers[server].script.filter(|script| !script.lie.is_told_in_frames());
        world.ring.restart(server, executor(script));
        world.marks.reach("restarted");
    });
}
