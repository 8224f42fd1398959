//! Servers that compute up to a hundred times slower than the slowest that is drawn otherwise.

use super::{Fault, World, nothing};

pub(super) const FAULT: Fault =
    Fault { name: "uneven-speeds", begin, strike: nothing, marks: &["slowed_down"] };

fn begin(world: &mut World) {
    for server in 0..world.servers.len() {
        if world.numbers.below(2) == 0 {
            continue;
        }
        let times = 2 + world.numbers.below(99);
        // Some jobs then take longer than a stage may.
        world.harm(server);
        let pace = &mut world.servers[server].pace;
        pace.layer_ns *= times;
        pace.row_ns *= times;
        pace.head_ns *= times;
        let pace = pace.clone();
        world.ring.time_jobs(server, move |job| pace.job_us(job));
        world.marks.reach("slowed_down");
    }
}
