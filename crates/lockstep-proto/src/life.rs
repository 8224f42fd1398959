//! Signs of life of one link: when its other end was last heard, and last spoken to.
//!
//! Any frame is a sign of life. A pause of this process is nobody else's silence.

use crate::limits;
use crate::now::Now;

/// Notices how long this process was not running.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch(Now);

impl Watch {
    /// Moves the time to `now` and returns the microseconds in which nobody could be heard.
    pub(crate) fn pause(&mut self, now: Now) -> u64 {
        let pause = now.since(self.0);
        self.0 = now;
        if pause > 2 * limits::HEARTBEAT_US { pause } else { 0 }
    }
}

/// The signs of life on one link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    /// The time for which the other end may be silent now, in microseconds.
    patience_us: u64,
    heard: Now,
    spoken: Now,
}

impl Life {
    /// A link that is opened now and whose first frame may take `patience_us` microseconds.
    pub(crate) const fn new(now: Now, patience_us: u64) -> Self {
        Self { patience_us, heard: now, spoken: now }
    }

    /// The other end is heard: a frame of it came.
    pub(crate) const fn heard(&mut self, now: Now) {
        self.heard = now;
        self.patience_us = limits::SILENCE_US;
    }

    /// The other end is spoken to: a frame goes out.
    pub(crate) const fn spoken(&mut self, now: Now) {
        self.spoken = now;
    }

    /// This process did not run for `pause_us` microseconds until now: that is not held against the
    /// other end.
    pub(crate) fn excuse(&mut self, pause_us: u64, now: Now) {
        self.heard = self.heard.after(pause_us).min(now);
    }

    /// Returns whether the other end has been silent for too long.
    pub(crate) const fn is_silent(&self, now: Now) -> bool {
        now.since(self.heard) >= self.patience_us
    }

    /// Returns whether the other end waits for a heartbeat.
    pub(crate) const fn wants_heartbeat(&self, now: Now) -> bool {
        now.since(self.spoken) >= limits::HEARTBEAT_US
    }

    /// When the other end becomes silent, or is to be sent a heartbeat.
    pub(crate) fn deadline(&self) -> Now {
        self.heard.after(self.patience_us).min(self.spoken.after(limits::HEARTBEAT_US))
    }
}
