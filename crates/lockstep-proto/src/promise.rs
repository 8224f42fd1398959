//! How long a stage owes answers to challenges.
//!
//! A stage signs a deadline with its segment. Each challenge that it answers moves the deadline by
//! [`limits::CHALLENGE_PACE_US`], as often as a full audit of what it computed has challenges and
//! [`limits::CHALLENGES_BEYOND_AUDIT`] more. So a stage that takes no longer for each is never
//! through with its promise before an audit is done, however long the audit is and however short
//! the promise; and one that takes longer runs out of time by its own slowness. Client and server
//! count by the same rule: the client counts answers, the server the challenges that it takes,
//! which are as many or more, so nothing is asked for that the server has dropped.

use std::ops::Range;

use lockstep_verify::price::Prices;

use crate::limits;
use crate::now::Now;

/// Until when a stage answers challenges to one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    signed: Now,
    /// How many challenges were answered.
    answered: u64,
    /// How many of them prolong the promise.
    most: u64,
}

impl Promise {
    /// The promise that ends at the signed `deadline`, of a stage that computed `positions`
    /// positions of the layers `span` and `heads` cells of the head.
    pub(crate) fn new(
        deadline: Now,
        prices: &Prices,
        span: Range<u32>,
        positions: u32,
        heads: u32,
    ) -> Self {
        let full = prices.full_audit_challenges(span, positions, heads);
        let most = full.saturating_add(limits::CHALLENGES_BEYOND_AUDIT);
        Self { signed: deadline, answered: 0, most }
    }

    /// The deadline that the segment names.
    pub(crate) const fn signed(&self) -> Now {
        self.signed
    }

    /// The time after which nothing is owed.
    pub(crate) fn until(&self) -> Now {
        self.signed.after(pace(self.answered.min(self.most)))
    }

    /// Counts a challenge that is answered, which moves [`Promise::until`].
    pub(crate) fn prolong(&mut self) {
        self.answered = self.answered.saturating_add(1);
    }

    /// Whether a stage that had all the time from `began` on, but for `idle_us` microseconds, had
    /// enough for one answer more than it gave.
    pub(crate) fn had_time(&self, began: Now, idle_us: u64) -> bool {
        let given = self.until().since(began).saturating_sub(idle_us);
        given >= pace(self.answered.saturating_add(1))
    }
}

const fn pace(challenges: u64) -> u64 {
    challenges.saturating_mul(limits::CHALLENGE_PACE_US)
}
