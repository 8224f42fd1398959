//! The verdict of an audit in one word.

use std::fmt;

use lockstep_proto::client::Conduct;
use lockstep_verify::audit::{Unverified, Verified};
use lockstep_verify::receipt::Receipt;

/// The result of an audit in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Something is wrong: a server computed something else than it should have, or the receipt is
    /// not what was signed.
    Failed,
    /// The answer was not checked, or not all that was to be checked.
    NotChecked,
    /// All that was to be checked is right.
    Verified,
    /// A server did not open what it had promised to open. Nothing is claimed: whoever opens only
    /// what is right can hide anything.
    Withheld,
}

impl Outcome {
    /// Returns the outcome that a verdict stands for, without regard to withheld openings.
    #[must_use]
    pub const fn of(verdict: &Result<Verified<Receipt>, Unverified>) -> Self {
        match verdict {
            Ok(_) => Self::Verified,
            Err(Unverified::Failed(_)) => Self::Failed,
            Err(Unverified::NotChecked { .. }) => Self::NotChecked,
        }
    }

    /// Returns the outcome with regard to how the servers answered: an answer that failed stays
    /// failed; otherwise a withheld opening makes it withheld.
    #[must_use]
    pub fn with(self, conduct: &[Conduct]) -> Self {
        let is_withheld = conduct.iter().any(|conduct| conduct.withheld > 0);
        if is_withheld && self != Self::Failed { Self::Withheld } else { self }
    }

    /// Returns the name of the outcome, for people and scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::NotChecked => "not checked",
            Self::Verified => "verified",
            Self::Withheld => "withheld",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
