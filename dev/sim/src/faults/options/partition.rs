//! Some servers and clients that cannot reach the others for a while: briefly, so that their
//! links survive it, or for so long that they do not.

use std::collections::BTreeSet;

use lockstep_testing::ring::Point;

use super::super::network::{IDLE_TIMEOUT_US, Partition};
use super::super::world::SECOND;
use super::{Fault, World, nothing};

pub(super) const FAULT: Fault = Fault {
    name: "partition",
    begin: nothing,
    strike,
    marks: &["frame_held_in_partition", "frame_dropped_in_partition"],
};

fn strike(world: &mut World) {
    if world.network.borrow().partition.is_some() {
        return;
    }
    let us = world.numbers.below(20 * SECOND);
    let is_long = us > IDLE_TIMEOUT_US;
    let points: Vec<Point> = (0..world.servers.len())
        .map(Point::Server)
        .chain((0..world.asked.len()).map(Point::Client))
        .collect();
    let side: BTreeSet<Point> =
        points.iter().copied().filter(|_| world.numbers.below(2) == 0).collect();
    for server in 0..world.servers.len() {
        world.harm(server);
    }
    world.harmed_clients.extend(0..world.asked.len() + 100);
    let until = world.ring.now().after(us);
    let gives_up_at = is_long.then(|| world.ring.now().after(IDLE_TIMEOUT_US));
    let partition = Partition { side: side.clone(), until, gives_up_at };
    world.network.borrow_mut().partition = Some(partition);
    world.later(if is_long { IDLE_TIMEOUT_US } else { us }, move |world| {
        for (at, &one) in points.iter().enumerate() {
            for &other in points.iter().skip(at + 1) {
                if is_long && side.contains(&one) != side.contains(&other) {
                    world.ring.break_link(one, other);
                }
            }
        }
    });
    world.later(us, |world| world.network.borrow_mut().partition = None);
}
