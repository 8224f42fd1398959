//! Users who change their minds.

use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "cancel", begin: nothing, strike, marks: &["cancelled"] };

fn strike(world: &mut World) {
    if let Some(client) = world.draw_request() {
        world.ring.cancel(client);
        world.asked[client].is_given_up = true;
        world.marks.reach("cancelled");
    }
}
