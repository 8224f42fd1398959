//! The scenario `faults`: real servers and clients, to whom everything happens that the seed draws.
//!
//! Real here: the machines of servers, clients and challenges with every frame and signature, and
//! the search for a route. Models: the network (`faults/network.rs`), how long jobs take
//! (`faults/pace.rs`), the hash model in the place of weights, and an audit that computes every
//! step again in the place of one that opens cells ([`crate::judge`]).

mod checks;
mod network;
mod node;
mod options;
mod pace;
mod world;

use std::collections::BTreeSet;

use lockstep_proto::limits;

use crate::report::{Report, jain};
use options::Fault;
use world::{RETENTION_END_US, SECOND, USERS, World};

/// Things that happen in a run.
const ACTIONS: u64 = 40;
/// Virtual time in which every request ends, once nothing happens any more.
const LAST_END_US: u64 = 2 * limits::CLIENT_PROGRESS_US;

/// Returns the names of all faults.
pub fn names() -> impl Iterator<Item = &'static str> {
    options::ALL.iter().map(|fault| fault.name)
}

/// Returns the marks that must be reached somewhere in a few dozen seeds, if these faults alone
/// happen; and if none is named, all marks that there are, which a thousand seeds must reach.
#[must_use]
pub fn promised_marks(only: &[String]) -> Vec<&'static str> {
    let usual: &[&str] = if only.is_empty() { &MARKS } else { &MARKS[..ALWAYS] };
    let chosen = options::ALL.iter().filter(|fault| is_chosen(only, fault));
    let promised = usual.iter().chain(chosen.flat_map(|fault| fault.marks.iter()));
    let promised: BTreeSet<&str> = promised.copied().collect();
    promised.into_iter().collect()
}

/// The marks of checkers and users: what can come of the faults. The first [`ALWAYS`] come of every
/// fault alone.
const MARKS: [&str; 24] = [
    "answered",
    "opened",
    "answered_by_others",
    "asked_again",
    "client_was_lost",
    "ended_by_cancel",
    "ended_by_leaving",
    "found_idle",
    "found_lost",
    "found_silent",
    "job_overdue",
    "liar_caught_on_the_way",
    "liar_convicted",
    "liar_disputed",
    "liar_withheld",
    "no_route",
    "not_opened",
    "refused_busy",
    "refused_cannot_keep",
    "refused_draining",
    "refused_no_room",
    "refused_share",
    "claimed_layers_refused",
    "withheld_by_a_dead_server",
];
const ALWAYS: usize = 2;

/// The marks that no fault brings about by itself: a thousand seeds need not reach them.
const UNPROMISED: [&str; 3] = ["executor_failed", "found_stalled", "handshake_timeout"];

fn is_chosen(only: &[String], fault: &Fault) -> bool {
    only.is_empty() || only.iter().any(|name| name == fault.name)
}

/// The options of a run, beside its seed.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of servers of the run.
    pub nodes: usize,
    /// The names of the faults that happen. If there are none, the seed draws which may happen.
    pub only: Vec<String>,
    /// Whether answers are audited before they are accepted. If they are not, lies are accepted:
    /// that shows that the checkers see them.
    pub is_audited: bool,
}

/// Runs the scenario `faults` from a seed.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Report {
    let mut report = Report::default();
    let mut world = World::new(seed, options.nodes);
    world.is_audited = options.is_audited;
    let only = &options.only;
    let began = world.ring.now();
    let mut faults = Vec::new();
    for fault in options::ALL.iter().filter(|fault| is_chosen(only, fault)) {
        if world.numbers.below(3) == 0 || !only.is_empty() {
            faults.push(fault);
        }
    }
    for fault in &faults {
        (fault.begin)(&mut world);
    }
    for _ in 0..ACTIONS {
        let at = world.numbers.below(2 * faults.len().max(1) as u64) as usize;
        match faults.get(at) {
            Some(fault) => (fault.strike)(&mut world),
            None => world.ask(),
        }
        let most = if world.numbers.below(10) == 0 { 3 * SECOND } else { SECOND / 5 };
        let us = world.numbers.below(most);
        world.run_for(us);
        checks::check_queues(&world, &mut report);
        checks::settle(&mut world, &mut report);
    }
    end(&mut world, &mut report);
    report.virtual_us = world.ring.now().since(began);
    report.marks.add(&world.marks);
    report.marks.add(&world.network.borrow().marks);
    let promised = promised_marks(&[]);
    let is_listed = |mark: &&str| promised.contains(mark) || UNPROMISED.contains(mark);
    for mark in report.marks.names().filter(|mark| !is_listed(mark)) {
        report.faults.push(format!("the mark {mark} is in no list, so nobody would miss it"));
    }
    report
}

/// Lets everything come to its end, and checks what is left.
fn end(world: &mut World, report: &mut Report) {
    world.run_out();
    // A user who got no answer asks again, so several rounds may be needed.
    for _ in 0..8 {
        world.ring.run_to_the_end(LAST_END_US);
        checks::settle(world, report);
    }
    world.run_for(RETENTION_END_US);
    checks::settle(world, report);
    checks::check_ends(world, report);
    world.run_for(RETENTION_END_US);
    checks::check_leaks(world, report);
    let mut shares = vec![0.0; USERS as usize];
    for asked in &world.asked {
        if let Some(share) = shares.get_mut(asked.user as usize) {
            *share += world.ring.tokens(asked.client).len() as f64;
        }
    }
    report.jain = jain(&shares);
}
