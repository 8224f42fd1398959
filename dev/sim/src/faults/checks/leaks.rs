//! When all sessions are over and forgotten, no server and no executor holds anything of them.

use lockstep_testing::ring::Point;

use super::super::world::World;
use crate::report::Report;

/// Counts what living servers hold.
pub(crate) fn check(world: &mut World, report: &mut Report) {
    for number in 0..world.servers.len() {
        if world.ring.is_dead(Point::Server(number)) {
            continue;
        }
        let Some(server) = world.ring.server(number) else { continue };
        let pages = world.servers[number].capacity.kv_pages;
        let taken = pages.saturating_sub(server.status().kv_pages_free);
        let is_clear = server.is_clear();
        let live = world.ring.executor(number).map_or(0, |executor| executor.inner().live());
        if !is_clear || taken > 0 || live > 0 {
            report.leaked_pages += u64::from(taken).max(live as u64).max(1);
            let what = format!("{taken} pages, {live} sessions of its executor");
            report.faults.push(format!("server {number}: holds {what} (clear: {is_clear})"));
        }
    }
}
