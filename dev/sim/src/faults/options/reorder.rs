//! Frames that are overtaken by those of other links, by up to a second.

use super::super::world::SECOND;
use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "reorder", begin, strike: nothing, marks: &["frame_overtaken"] };

fn begin(world: &mut World) {
    let one_in = 2 + world.numbers.below(20);
    let mut network = world.network.borrow_mut();
    (network.spike_one_in, network.spike_us) = (one_in, SECOND);
}
