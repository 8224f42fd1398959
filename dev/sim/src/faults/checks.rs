//! The checkers of the scenario `faults`, each in a file of its own.
//!
//! | module | what must hold |
//! |---|---|
//! | `answers` | an accepted answer is that of a single process; an audit convicts liars alone |
//! | `blame` | an error or a missing opening names nobody who did nothing |
//! | `ends` | every request ends |
//! | `leaks` | in the end no server and no executor holds anything |
//! | `queues` | nothing waits beyond its limit |

mod answers;
mod blame;
mod ends;
mod leaks;
mod queues;

pub(crate) use ends::check as check_ends;
pub(crate) use leaks::check as check_leaks;
pub(crate) use queues::check as check_queues;

use super::world::World;
use crate::report::Report;

/// Looks at every request that has ended since the last time, and at the openings that came.
pub(crate) fn settle(world: &mut World, report: &mut Report) {
    let mut at = 0;
    while at < world.asked.len() {
        let asked = &world.asked[at];
        let outcome = world.ring.outcome(asked.client).filter(|_| !asked.is_settled).cloned();
        if let Some(outcome) = outcome {
            world.asked[at].is_settled = true;
            match outcome {
                Ok(receipt) => answers::check(world, report, at, &receipt),
                Err(error) => blame::check_error(world, report, at, &error),
            }
        }
        blame::check_openings(world, report, at);
        at += 1;
    }
}
