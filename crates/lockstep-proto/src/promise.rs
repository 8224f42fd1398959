//! How long a stage owes answers to challenges.
//!
//! A stage signs a deadline with its segment. Each challenge that it answers moves the deadline by
//! its *pace*: [`limits::CHALLENGE_PACE_US`], and the time that the longest opening of its cells is
//! on a line of [`limits::LINE_BYTES_PER_S`]. That counts for as many challenges as a full audit of
//! what the stage computed has, and [`limits::CHALLENGES_BEYOND_AUDIT`] more. So a stage that keeps
//! the pace is never through with its promise before an audit is done, however long the audit
//! is, however short the promise, and however slow the client's line within that rate; and one that
//! takes longer runs out of time by its own slowness. Client and server count by the same rule: the
//! client counts answers, the server the challenges that it takes, which are as many or more, so
//! nothing is asked for that the server has dropped.

use std::ops::Range;

use lockstep_verify::challenge::Target;
use lockstep_verify::price::Prices;

use crate::limits;
use crate::now::Now;

/// Until when a stage answers challenges to one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    signed: Now,
    /// The time that is added to what was signed, in microseconds.
    added_us: u64,
    /// The pace of all challenges that were answered, in microseconds.
    paced_us: u64,
    /// The number of answers that still add to the promise.
    left: u64,
}

impl Promise {
    /// Creates the promise that ends at the signed `deadline`, of a stage that computed `positions`
    /// positions of the layers `span` and `heads` cells of the head.
    pub(crate) fn new(
        deadline: Now,
        prices: &Prices,
        span: Range<u32>,
        positions: u32,
        heads: u32,
    ) -> Self {
        let full = prices.full_audit_challenges(span, positions, heads);
        let left = full.saturating_add(limits::CHALLENGES_BEYOND_AUDIT);
        Self { signed: deadline, added_us: 0, paced_us: 0, left }
    }

    /// Returns the deadline that the segment names.
    pub(crate) const fn signed(&self) -> Now {
        self.signed
    }

    /// Returns the time after which nothing is owed any more.
    pub(crate) const fn until(&self) -> Now {
        self.signed.after(self.added_us)
    }

    /// Counts a challenge for `target` that is answered, which moves [`Promise::until`].
    pub(crate) fn prolong(&mut self, prices: &Prices, target: &Target) {
        let bytes = prices.longest_opening(target);
        let line_us = bytes.saturating_mul(1_000_000) / limits::LINE_BYTES_PER_S;
        let pace_us = line_us.saturating_add(limits::CHALLENGE_PACE_US);
        self.paced_us = self.paced_us.saturating_add(pace_us);
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            self.added_us = self.added_us.saturating_add(pace_us);
        }
    }

    /// Returns whether a stage that had all the time from `began` on, but for `idle_us`
    /// microseconds, had enough for what it answered and one more.
    pub(crate) fn had_time(&self, began: Now, idle_us: u64) -> bool {
        let given = self.until().since(began).saturating_sub(idle_us);
        given >= self.paced_us.saturating_add(limits::CHALLENGE_PACE_US)
    }
}
