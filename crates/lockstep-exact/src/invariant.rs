//! Invariants of this program's own: loud where the program is tested, a typed error where it
//! serves.
//!
//! An *invariant* is something that this program itself guarantees, whatever a peer, a file or a
//! user sends: that a list has one entry per layer because it was made so, that a row was embedded
//! before it is sampled. Where one doesn't hold, the program is wrong, and a default in its place
//! would let it go on with a wrong answer. What a peer can influence is no invariant: that has an
//! error or a fault of its own.

use core::fmt;

/// The error of an invariant that does not hold. Code that returns it refuses to go on, and its
/// callers turn it into the internal error of their own error type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Broken {
    what: &'static str,
}

impl Broken {
    /// Makes the error of an invariant that does not hold; `what` says how it is broken.
    ///
    /// # Panics
    /// Wherever debug assertions are on: in the profiles `dev`, `test` and `checked`. Never in the
    /// release profile, in which the program serves.
    #[cold]
    #[track_caller]
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        debug_assert!(false, "broken invariant: {what}");
        Self { what }
    }

    /// Returns the sentence that says how the invariant is broken.
    #[must_use]
    pub const fn what(self) -> &'static str {
        self.what
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a broken invariant of this program: {}", self.what)
    }
}

impl core::error::Error for Broken {}

/// Returns [`Broken`], turned into the error of the function that it stands in, unless a condition
/// holds.
///
/// ```
/// use lockstep_exact::invariant::Broken;
///
/// fn halve(even: u32) -> Result<u32, Broken> {
///     lockstep_exact::invariant!(even.is_multiple_of(2), "an even number is odd");
///     Ok(even / 2)
/// }
/// assert_eq!(halve(4), Ok(2));
/// ```
#[macro_export]
macro_rules! invariant {
    ($condition:expr, $what:literal) => {
        if !$condition {
            return Err($crate::invariant::Broken::new($what).into());
        }
    };
}

/// Converts the length of a list that has at most `LIMIT` entries to the `u32` that formats and
/// positions use. That `LIMIT` fits a `u32` is checked as this is compiled.
///
/// # Errors
/// [`Broken`] for a longer list: whoever made it has not held it to its limit.
pub fn count<const LIMIT: usize>(len: usize) -> Result<u32, Broken> {
    const { assert!(LIMIT as u64 <= u32::MAX as u64, "a limit that no u32 holds") };
    if len <= LIMIT { Ok(len as u32) } else { Err(Broken::new("a list is above its limit")) }
}

// Where a panic ends the program, as in WebAssembly, none can be caught.
#[cfg(all(test, panic = "unwind"))]
mod tests {
    use super::*;

    #[test]
    fn a_broken_invariant_panics_with_debug_assertions_and_is_an_error_without() {
        let made = std::panic::catch_unwind(|| Broken::new("it is Tuesday"));
        assert_eq!(made.is_err(), cfg!(debug_assertions));
        if let Ok(broken) = made {
            let said = "a broken invariant of this program: it is Tuesday";
            assert_eq!((broken.what(), broken.to_string().as_str()), ("it is Tuesday", said));
        }
    }

    #[test]
    fn a_length_is_counted_up_to_its_limit() {
        assert_eq!(count::<7>(7), Ok(7));
        let above = std::panic::catch_unwind(|| count::<7>(8));
        assert!(above.is_err() || above.is_ok_and(|counted| counted.is_err()));
    }
}
