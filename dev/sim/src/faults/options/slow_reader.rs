//! Clients that read so slowly that a server gives them up.

use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "slow-reader", begin, strike: nothing, marks: &["slow_reader_given_up"] };

fn begin(world: &mut World) {
    world.slow_reader_bytes_per_s = Some(2 + world.numbers.below(2_000));
}
