//! Executors in which one job takes longer than a job may.

use lockstep_proto::limits;

use super::super::world::SECOND;
use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "stuck-executor", begin: nothing, strike, marks: &["job_overdue"] };

fn strike(world: &mut World) {
    if world.numbers.below(3) == 0 {
        let server = world.draw_server();
        world.harm(server);
        world.servers[server].pace.stuck_us.set(limits::JOB_US + SECOND);
    }
}
