//! Nothing waits beyond its limit: sessions, what is kept of them, work, bytes on a slow line.

use lockstep_proto::limits;

use super::super::network::BACKLOG_BYTES;
use super::super::world::World;
use crate::report::Report;

/// Checks the queues as they are now.
pub(crate) fn check(world: &World, report: &mut Report) {
    for (number, local) in world.servers.iter().enumerate() {
        let Some(server) = world.ring.server(number) else { continue };
        let status = server.status();
        let sessions = local.capacity.sessions + local.capacity.brought();
        let most = [
            (server.sessions(), sessions, "sessions"),
            (server.retained(), local.capacity.retained, "kept sessions"),
            (
                status.queue as usize,
                (sessions + local.capacity.retained) * limits::LANE_ITEMS,
                "items of work",
            ),
        ];
        for (got, limit, what) in most {
            if got > limit {
                report.long_queues += 1;
                report.faults.push(format!("server {number}: {got} {what} are above {limit}"));
            }
        }
    }
    let backlog = world.network.borrow().most_backlog;
    // The frame that goes beyond the limit is the last one.
    if backlog > BACKLOG_BYTES + limits::RING_BYTES as u64 {
        report.long_queues += 1;
        report.faults.push(format!("{backlog} bytes wait for a slow line"));
    }
}
