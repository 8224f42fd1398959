//! What machines count of what they do: frames and bytes, and how long something took.
//!
//! Counters only grow, saturate, and begin at zero when the machine does. Nothing here decides
//! anything: whoever looks at a machine from outside copies them.

use crate::limits;

/// The frames and bytes that went over links in both directions, lengths of frames included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The number of frames that this machine has sent.
    pub sent_frames: u64,
    /// The bytes of the frames that this machine has sent.
    pub sent_bytes: u64,
    /// The number of frames that came.
    pub received_frames: u64,
    /// The bytes of the frames that came.
    pub received_bytes: u64,
}

impl Traffic {
    /// Counts a frame that is sent: `wire` is its length and body.
    pub(crate) fn sent(&mut self, wire: &[u8]) {
        self.sent_frames = self.sent_frames.saturating_add(1);
        self.sent_bytes = self.sent_bytes.saturating_add(wire.len() as u64);
    }

    /// Counts a frame that came, whose length was taken off already: `body` is the rest.
    pub(crate) fn received(&mut self, body: &[u8]) {
        let wire = body.len().saturating_add(limits::LENGTH_BYTES);
        self.received_frames = self.received_frames.saturating_add(1);
        self.received_bytes = self.received_bytes.saturating_add(wire as u64);
    }

    /// Returns the sum of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            sent_frames: self.sent_frames.saturating_add(other.sent_frames),
            sent_bytes: self.sent_bytes.saturating_add(other.sent_bytes),
            received_frames: self.received_frames.saturating_add(other.received_frames),
            received_bytes: self.received_bytes.saturating_add(other.received_bytes),
        }
    }
}

/// The upper bounds, in microseconds, of the buckets of a [`Times`]; what took longer than the last
/// one is in a bucket of its own.
pub const BOUNDS_US: [u64; 17] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 15_000_000, 60_000_000,
];

/// A histogram of how long something took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The number of times that took at most as long as each of [`BOUNDS_US`], and longer than the
    /// bound before it.
    pub buckets: [u64; BOUNDS_US.len()],
    /// The number of times that took longer than the last bound.
    pub longer: u64,
    /// The microseconds of all of them together.
    pub sum_us: u64,
}

impl Times {
    /// Counts one that took `us` microseconds.
    pub(crate) fn took(&mut self, us: u64) {
        let mut buckets = BOUNDS_US.iter().zip(&mut self.buckets);
        let bucket = buckets.find(|(bound, _)| us <= **bound).map(|(_, count)| count);
        // default: it took longer than every bound
        let count = bucket.unwrap_or(&mut self.longer);
        *count = count.saturating_add(1);
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Returns the number of all of them.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(self.longer, |sum, count| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_of_the_first_bound_that_is_not_below_it() {
        let mut times = Times::default();
        [0, 100, 101, 60_000_000, 60_000_001].into_iter().for_each(|us| times.took(us));
        assert_eq!((times.buckets[0], times.buckets[1], times.buckets[16]), (2, 1, 1));
        assert_eq!((times.longer, times.count(), times.sum_us), (1, 5, 120_000_202));
        assert!(BOUNDS_US.is_sorted_by(|one, next| one < next));
    }
}
