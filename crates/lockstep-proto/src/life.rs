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
    /// The time before which nothing that is heard says that the other end knows of this link's
    /// use: it may have been sent before.
    certain_from: Now,
    heard: Now,
    spoken: Now,
}

impl Life {
    /// Creates the record of a link that is opened at `now` and whose first frame may take
    /// `patience_us` microseconds.
    pub(crate) const fn new(now: Now, patience_us: u64) -> Self {
        Self { patience_us, certain_from: Now(0), heard: now, spoken: now }
    }

    /// Gives the other end its whole patience although it may be heard at once: frames of before
    /// are still on their way.
    pub(crate) const fn after_another_use(self) -> Self {
        Self { certain_from: self.heard.after(self.patience_us), ..self }
    }

    /// Notes that a frame of the other end came at `now`; from then on it may be silent for
    /// [`limits::SILENCE_US`].
    pub(crate) const fn heard(&mut self, now: Now) {
        self.heard = now;
        self.patience_us = limits::SILENCE_US;
    }

    /// Notes that a frame goes out to the other end at `now`.
    pub(crate) const fn spoken(&mut self, now: Now) {
        self.spoken = now;
    }

    /// Excuses `pause_us` microseconds until `now` in which this process did not run: they do not
    /// count as silence of the other end.
    pub(crate) fn excuse(&mut self, pause_us: u64, now: Now) {
        self.heard = self.heard.after(pause_us).min(now);
    }

    /// Returns whether the other end has been silent for too long.
    pub(crate) const fn is_silent(&self, now: Now) -> bool {
        now.since(self.heard) >= self.patience_us && now.0 >= self.certain_from.0
    }

    /// Returns whether the other end waits for a heartbeat.
    pub(crate) const fn wants_heartbeat(&self, now: Now) -> bool {
        now.since(self.spoken) >= limits::HEARTBEAT_US
    }

    /// Returns the time at which the other end becomes silent, or is to be sent a heartbeat,
    /// whichever is earlier.
    pub(crate) fn deadline(&self) -> Now {
        let silent = self.heard.after(self.patience_us).max(self.certain_from);
        silent.min(self.spoken.after(limits::HEARTBEAT_US))
    }
}
