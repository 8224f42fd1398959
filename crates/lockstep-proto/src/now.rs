//! Time as an input: whoever drives a machine says what time it is.

use core::fmt;

/// Microseconds since the Unix epoch, never going back: a driver reads the wall clock once and adds
/// what a monotonic clock has counted since.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now(pub u64);

impl Now {
    /// Returns the time `micros` microseconds after this one.
    #[must_use]
    pub const fn after(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Returns the microseconds since `earlier`; 0 if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the milliseconds since the Unix epoch, rounded down: the unit of signed deadlines.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        self.0 / 1000
    }
}

impl fmt::Display for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} us", self.0)
    }
}
