//! Clocks that are wrong by up to a minute, before or after the true time.

use lockstep_testing::ring::Point;

use super::super::world::SECOND;
use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "clock-skew", begin, strike: nothing, marks: &["clock_wrong_by_20_s"] };

fn begin(world: &mut World) {
    world.skew_us = 60 * SECOND;
    for server in 0..world.servers.len() {
        let skew = world.draw_skew();
        world.ring.skew(Point::Server(server), skew);
        if skew.unsigned_abs() > 20 * SECOND {
            world.marks.reach("clock_wrong_by_20_s");
        }
    }
}
