//! Every request ends, with an answer or an error, and so do all challenges.

use super::super::world::World;
use crate::report::Report;

/// Checks that nothing is under way any more but what died with its client.
pub(crate) fn check(world: &World, report: &mut Report) {
    for asked in &world.asked {
        report.sessions += 1;
        let client = asked.client;
        if world.ring.outcome(client).is_some() || asked.is_given_up {
            report.ended += 1;
        } else {
            report.faults.push(format!("client {client}: its request has no end"));
        }
        if asked.is_challenged && !asked.is_given_up {
            report.faults.push(format!("client {client}: its challenges have no end"));
        }
    }
}
