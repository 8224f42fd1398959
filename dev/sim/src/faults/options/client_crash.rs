//! Clients whose processes die.

use lockstep_testing::ring::Point;

use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "client-crash", begin: nothing, strike, marks: &["client_crashed"] };

fn strike(world: &mut World) {
    if let Some(client) = world.draw_request() {
        world.ring.kill(Point::Client(client));
        world.asked[client].is_given_up = true;
        world.marks.reach("client_crashed");
    }
}
