//! Links that break now and then: a frame is lost, and its link with it.

use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "loss", begin, strike: nothing, marks: &["link_lost"] };

fn begin(world: &mut World) {
    let one_in = 100 + world.numbers.below(1_000);
    world.network.borrow_mut().loss_one_in = one_in;
}
