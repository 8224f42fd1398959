//! Decides how long a waiting thread polls before it sleeps.
//!
//! A thread that polls notices soonest what it waits for, but on a machine with more to do than
//! cores it takes the time of the very thread that it waits for. So it polls for some
//! microseconds, as long as the threads of a region usually end after one another; then it offers
//! its core to others between polls, and at last it sleeps. Two threads beside two busy foreign
//! ones keep about half their speed that way, which is their share; sleeping at once was measured
//! to be no better, and slower when the machine has nothing else to do.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Polls between two looks at the clock: about a microsecond.
const POLLS: u32 = 64;
/// The time for which a thread polls without offering its core to others.
const BUSY: Duration = Duration::from_micros(20);
/// The time for which a worker polls while no scope is entered, and, below, while one is.
const LIMIT: Duration = Duration::from_micros(50);
const LIMIT_IN_SCOPE: Duration = Duration::from_millis(5);
/// The time for which the thread that posted a region polls for the last parts.
const LIMIT_POSTER: Duration = Duration::from_millis(5);

/// The number of scopes that are entered, from which threads know whether regions will come soon.
pub(crate) struct Demand {
    /// The number of scopes that are entered.
    scopes: AtomicUsize,
}

impl Demand {
    pub(crate) const fn new() -> Self {
        Self { scopes: AtomicUsize::new(0) }
    }

    /// Announces that regions will come, one soon after the other, until [`Demand::leave_scope`].
    pub(crate) fn enter_scope(&self) {
        self.scopes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave_scope(&self) {
        self.scopes.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the time for which a worker polls for parts.
    pub(crate) fn worker_limit(&self) -> Duration {
        if self.scopes.load(Ordering::Relaxed) > 0 { LIMIT_IN_SCOPE } else { LIMIT }
    }

    /// Returns the time for which the thread that posted a region polls for the parts of others.
    pub(crate) const fn poster_limit(&self) -> Duration {
        LIMIT_POSTER
    }
}

/// The state of one wait: how often and since when it has polled.
pub(crate) struct Patience {
    polls: u32,
    since: Option<Instant>,
    /// Whether to offer the core to others.
    polite: bool,
}

impl Patience {
    pub(crate) const fn new() -> Self {
        Self { polls: 0, since: None, polite: false }
    }

    /// Waits for the time of one poll, and returns false when it is time to sleep instead.
    pub(crate) fn poll(&mut self, demand: &Demand, limit: impl Fn(&Demand) -> Duration) -> bool {
        if self.polite {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
        self.polls += 1;
        if !self.polls.is_multiple_of(POLLS) {
            return true;
        }
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        self.polite = waited > BUSY;
        waited < limit(demand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_most_patient_inside_a_scope() {
        let demand = Demand::new();
        assert_eq!(demand.worker_limit(), LIMIT);
        demand.enter_scope();
        assert_eq!(demand.worker_limit(), LIMIT_IN_SCOPE);
        demand.leave_scope();
        assert_eq!(demand.worker_limit(), LIMIT);
    }

    #[test]
    fn a_thread_that_waits_for_nothing_goes_to_sleep() {
        let (demand, mut patience) = (Demand::new(), Patience::new());
        while patience.poll(&demand, Demand::worker_limit) {}
        assert!(patience.since.is_some_and(|since| since.elapsed() >= LIMIT));
    }
}
