//! The clock that machines are told: the wall clock once, and what has passed since.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lockstep_proto::now::Now;

/// Microseconds since the Unix epoch that never go back.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    epoch: Duration,
}

impl Clock {
    /// Starts a clock at the wall clock's time. From here on it runs steadily, whatever is done to
    /// the wall clock.
    #[must_use]
    pub fn start() -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), epoch }
    }

    /// Returns the time now, in microseconds since 1970: that of the start and what a steady clock
    /// has counted since.
    #[must_use]
    pub fn now(&self) -> Now {
        Now(micros(self.epoch + self.start.elapsed()))
    }

    /// Returns the instant on tokio's clock at which a deadline comes.
    pub(super) fn instant(&self, deadline: Now) -> tokio::time::Instant {
        let since_start = Duration::from_micros(deadline.0).saturating_sub(self.epoch);
        tokio::time::Instant::from_std(self.start + since_start)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Waits until a deadline; for ever if there is none.
pub(super) async fn until(clock: Clock, deadline: Option<Now>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(clock.instant(deadline)).await,
        None => std::future::pending().await,
    }
}
