//! The faults that can happen, each in a file of its own.
//!
//! A fault is begun once, before anybody asks, and strikes now and then. What it does to a server
//! is noted there, so that the checkers know whose misfortune was real. Each promises marks: paths
//! that are taken somewhere in a few dozen seeds, or a test fails.

mod cancel;
mod client_crash;
mod clock_skew;
mod crash;
mod drain;
mod full_kv;
mod full_store;
mod loss;
mod lying_announcement;
mod lying_stage;
mod narrow_links;
mod partition;
mod pause;
mod reorder;
mod restart;
mod slow_links;
mod slow_reader;
mod stuck_executor;
mod uneven_speeds;

use super::world::World;

/// A kind of fault that can happen in a run.
pub(crate) struct Fault {
    /// The name of the fault on the command line.
    pub(crate) name: &'static str,
    /// The change that is made before anybody asks.
    pub(crate) begin: fn(&mut World),
    /// The function that lets it happen, at a random moment.
    pub(crate) strike: fn(&mut World),
    /// The paths that it promises to take.
    pub(crate) marks: &'static [&'static str],
}

/// All faults, by their names.
pub(crate) const ALL: [Fault; 19] = [
    cancel::FAULT,
    client_crash::FAULT,
    clock_skew::FAULT,
    crash::FAULT,
    drain::FAULT,
    full_kv::FAULT,
    full_store::FAULT,
    loss::FAULT,
    lying_announcement::FAULT,
    lying_stage::FAULT,
    narrow_links::FAULT,
    partition::FAULT,
    pause::FAULT,
    reorder::FAULT,
    restart::FAULT,
    slow_links::FAULT,
    slow_reader::FAULT,
    stuck_executor::FAULT,
    uneven_speeds::FAULT,
];

/// Nothing happens at random moments, or nothing is different from the beginning.
const fn nothing(_: &mut World) {}
