//! How long a waiting thread polls before it sleeps.
//!
//! Polling is quickest, and it is rude: on a machine with more to do than cores, a thread that
//! polls burns the time that the one it waits for needs, and the system takes the core away from
//! it when it has work. A poll that took very long shows that this has happened; after two of
//! them threads sleep almost at once for a while, which the system repays by letting them run as
//! soon as they wake. A single one may be anything, and sleeping costs microseconds.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Polls between two looks at the clock: about a microsecond.
const POLLS: u32 = 64;
/// Polls that take longer than this were interrupted: another thread had the core.
const INTERRUPTED: Duration = Duration::from_micros(500);
/// Two interruptions within this time mean that the machine is crowded.
const SUSPICIOUS: Duration = Duration::from_millis(20);
/// How long the machine is taken to be crowded after that.
const CROWDED: Duration = Duration::from_millis(50);
/// How long to poll on a crowded machine.
const LIMIT_CROWDED: Duration = Duration::from_micros(5);
/// How long a worker polls while no scope is entered, and while one is.
const LIMIT: Duration = Duration::from_micros(50);
const LIMIT_IN_SCOPE: Duration = Duration::from_millis(5);
/// How long the thread that posted polls for the last parts.
const LIMIT_POSTER: Duration = Duration::from_millis(1);

/// What threads know of the times.
pub(crate) struct Mood {
    start: Instant,
    /// Scopes that are entered.
    scopes: AtomicUsize,
    /// When a thread was last interrupted, and when the machine is no longer taken to be crowded:
    /// nanoseconds since `start`.
    interrupted: AtomicU64,
    crowded_until: AtomicU64,
}

impl Mood {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            scopes: AtomicUsize::new(0),
            interrupted: AtomicU64::new(0),
            crowded_until: AtomicU64::new(0),
        }
    }

    /// Regions will come, one soon after the other, until [`Mood::leave_scope`].
    pub(crate) fn enter_scope(&self) {
        self.scopes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave_scope(&self) {
        self.scopes.fetch_sub(1, Ordering::Relaxed);
    }

    /// How long a worker polls for parts.
    pub(crate) fn worker_limit(&self, now: Instant) -> Duration {
        if self.is_crowded(now) {
            LIMIT_CROWDED
        } else if self.scopes.load(Ordering::Relaxed) > 0 {
            LIMIT_IN_SCOPE
        } else {
            LIMIT
        }
    }

    /// How long the thread that posted a region polls for the parts of others.
    pub(crate) fn poster_limit(&self, now: Instant) -> Duration {
        if self.is_crowded(now) { LIMIT_CROWDED } else { LIMIT_POSTER }
    }

    fn is_crowded(&self, now: Instant) -> bool {
        self.nanos(now) < self.crowded_until.load(Ordering::Relaxed)
    }

    /// A thread was interrupted while it polled.
    fn interrupted(&self, now: Instant) {
        let last = self.interrupted.swap(self.nanos(now), Ordering::Relaxed);
        if last > 0 && self.nanos(now).saturating_sub(last) < nanos(SUSPICIOUS) {
            self.crowded_until.store(self.nanos(now + CROWDED), Ordering::Relaxed);
        }
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.start))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// One wait.
pub(crate) struct Patience {
    polls: u32,
    /// The beginning, and the last look at the clock.
    clock: Option<(Instant, Instant)>,
}

impl Patience {
    pub(crate) const fn new() -> Self {
        Self { polls: 0, clock: None }
    }

    /// One poll. False when it is time to sleep.
    pub(crate) fn poll(&mut self, mood: &Mood, limit: impl Fn(&Mood, Instant) -> Duration) -> bool {
        std::hint::spin_loop();
        self.polls += 1;
        if !self.polls.is_multiple_of(POLLS) {
            return true;
        }
        let now = Instant::now();
        let (since, last) = self.clock.unwrap_or((now, now));
        self.clock = Some((since, now));
        if now.saturating_duration_since(last) > INTERRUPTED {
            mood.interrupted(now);
        }
        now.saturating_duration_since(since) < limit(mood, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_interruptions_in_short_time_make_threads_sleep_soon_for_a_while() {
        let mood = Mood::new();
        let at = |millis| mood.start + Duration::from_millis(millis);
        mood.interrupted(at(100));
        assert_eq!(mood.poster_limit(at(100)), LIMIT_POSTER);
        mood.interrupted(at(200));
        assert_eq!(mood.poster_limit(at(200)), LIMIT_POSTER, "long ago");
        mood.interrupted(at(210));
        assert_eq!(mood.poster_limit(at(210)), LIMIT_CROWDED);
        assert_eq!(mood.worker_limit(at(250)), LIMIT_CROWDED);
        assert_eq!(mood.poster_limit(at(261)), LIMIT_POSTER);
    }

    #[test]
    fn workers_are_most_patient_inside_a_scope() {
        let mood = Mood::new();
        let now = Instant::now();
        assert_eq!(mood.worker_limit(now), LIMIT);
        mood.enter_scope();
        assert_eq!(mood.worker_limit(now), LIMIT_IN_SCOPE);
        mood.leave_scope();
        assert_eq!(mood.worker_limit(now), LIMIT);
    }
}
