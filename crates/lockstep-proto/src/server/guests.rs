//! Clients' connections, and when something was last asked there.
//!
//! A connection on which nothing runs and nothing is asked is closed after [`limits::GUEST_US`],
//! however many heartbeats come: it takes a place that somebody else could use.

use std::collections::BTreeMap;

use super::LinkId;
use crate::limits;
use crate::now::Now;

/// The connections of clients: when something was last asked or answered there.
#[derive(Debug, Default)]
pub(super) struct Guests(BTreeMap<LinkId, Now>);

impl Guests {
    /// Notes that a frame came on a connection, which is known from its first one on.
    pub(super) fn heard(&mut self, link: LinkId, now: Now) {
        self.0.entry(link).or_insert(now);
    }

    /// Notes that something was asked or answered on a connection.
    pub(super) fn used(&mut self, link: LinkId, now: Now) {
        if let Some(used) = self.0.get_mut(&link) {
            *used = now;
        }
    }

    /// Forgets a connection that is gone.
    pub(super) fn lost(&mut self, link: LinkId) {
        self.0.remove(&link);
    }

    /// Returns whether a connection is there: it has brought a frame and is not lost.
    pub(super) fn knows(&self, link: LinkId) -> bool {
        self.0.contains_key(&link)
    }

    /// Takes out the connections on which nothing was asked for too long; those on which something
    /// runs have as long again.
    pub(super) fn take_idle(&mut self, now: Now, runs: impl Fn(LinkId) -> bool) -> Vec<LinkId> {
        let is_due = |used: Now| now.since(used) >= limits::GUEST_US;
        for (link, used) in self.0.iter_mut().filter(|(_, used)| is_due(**used)) {
            if runs(*link) {
                *used = now;
            }
        }
        let idle = self.0.extract_if(.., |_, used| is_due(*used));
        idle.map(|(link, _)| link).collect()
    }

    /// Returns the time at which a connection may have become idle.
    pub(super) fn deadline(&self) -> Option<Now> {
        self.0.values().map(|used| used.after(limits::GUEST_US)).min()
    }
}
