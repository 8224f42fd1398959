//! Which ring each request of a client takes, and what becomes of one that is refused for want of
//! room.
//!
//! The rule: a request that is alone - no other of this client is under way, and no server that
//! could serve it has a session or a queue - takes the fastest ring for one stream
//! ([`fastest`]). Any other takes the next ring along the flow ([`flow`]), so that this client's
//! requests are spread by what the servers can give; if that has none with room, the fastest of
//! those with room. In every case a ring has proven servers alone, and is planned with what is
//! believed of them ([`Experience`]): claims win no request of a user.
//!
//! A server that says it is busy is left out until the time that it named. A request that was
//! refused takes the next ring without that server at once. Only if there is none it waits until
//! the first of the busy ones may have room, and at least for a time that doubles with each
//! refusal, and then for a part of that time, which is drawn, so that clients that were refused
//! together do not come back together. It is given up if the next time to ask would be more than
//! [`limits::PATIENCE_US`] after its beginning, or after [`limits::ATTEMPTS`] refusals.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_verify::request::Hop;
use lockstep_verify::sign::NodeId;

use super::demand::Demand;
use super::flow::flow;
use super::route::{RouteError, fastest};
use super::trust::{Experience, Standing};
use super::weighted::Weighted;
use crate::announcement::Status;
use crate::limits;
use crate::now::Now;

/// A client's view of a swarm, from which each of its requests gets a ring.
#[derive(Clone, Debug)]
pub struct Chooser {
    /// What a request needs, whoever serves it.
    demand: Demand,
    /// What a request of a user needs: the demand, over proven servers alone.
    users: Demand,
    experience: Experience,
    /// What the servers told of themselves.
    told: Vec<Status>,
    /// What is believed of that.
    statuses: Vec<Status>,
    /// The rings along the flow of these statuses, once one was wanted.
    rings: Option<Weighted>,
    /// The servers that had no room, and until when they are left out.
    busy: BTreeMap<NodeId, Now>,
    /// Requests of this client that are under way.
    under_way: usize,
}

impl Chooser {
    /// Creates a view for requests that need `demand` of servers, which tell `told` of themselves,
    /// and of which `experience` has been made.
    #[must_use]
    pub fn new(demand: Demand, told: Vec<Status>, experience: Experience) -> Self {
        let users = experience.of_users(&demand);
        let statuses = experience.believed(&told);
        let (rings, busy) = (None, BTreeMap::new());
        Self { demand, users, experience, told, statuses, rings, busy, under_way: 0 }
    }

    /// Replaces what is known of the servers by newer statuses. Those that were busy stay left out
    /// for as long as they said.
    pub fn see(&mut self, told: Vec<Status>) {
        self.told = told;
        self.plan_anew();
    }

    /// Adds to the experience what came of a ring, and plans with that from now on.
    pub fn learn(&mut self, learn: impl FnOnce(&mut Experience)) {
        learn(&mut self.experience);
        self.plan_anew();
    }

    /// Notes that `ring` took `token_ns` nanoseconds from one token to the next, on average, while
    /// its servers told what is known of them now.
    pub fn timed(&mut self, ring: &[Hop], token_ns: u64) {
        self.experience.timed(&self.told, &self.demand, ring, token_ns);
        self.plan_anew();
    }

    /// Leaves a server out from now on, for a reason that is no conviction.
    pub fn avoid(&mut self, node: NodeId) {
        self.demand.banned.insert(node);
        self.plan_anew();
    }

    /// Returns the standing of a server.
    #[must_use]
    pub fn standing(&self, node: NodeId) -> Standing {
        self.experience.standing(node)
    }

    /// Returns whether a request of a user may go over each server of a ring, busy or not.
    #[must_use]
    pub fn allows(&self, ring: &[Hop]) -> bool {
        let is_proven = |hop: &Hop| self.standing(hop.node) == Standing::Proven;
        ring.iter().all(|hop| is_proven(hop) && !self.demand.banned.contains(&hop.node))
    }

    /// Returns the fastest ring for a request of a user, whether its servers have said that they
    /// are busy or not.
    ///
    /// # Errors
    /// [`RouteError`] says which layers nobody holds who may be used, and who was left out.
    pub fn fastest(&self) -> Result<Vec<Hop>, RouteError> {
        Ok(fastest(&self.statuses, &self.users)?.hops)
    }

    /// Returns the ring over which a canary goes at the time `now`, if anybody is to be tried
    /// ([`Experience::canary`]).
    #[must_use]
    pub fn canary(&self, now: Now) -> Option<Vec<Hop>> {
        self.experience.canary(&self.told, &self.demand, now)
    }

    fn plan_anew(&mut self) {
        self.users = self.experience.of_users(&self.demand);
        self.statuses = self.experience.believed(&self.told);
        self.rings = None;
    }

    /// Returns the ring for a request that begins at the time `now`, server 1 first, and counts it
    /// as under way until [`Chooser::ended`].
    ///
    /// # Errors
    /// [`RouteError`] says which layers nobody holds who has room, and who was left out.
    pub fn begin(&mut self, now: Now) -> Result<Vec<Hop>, RouteError> {
        self.busy.retain(|_, until| now < *until);
        let hops = match self.along_the_flow() {
            Some(hops) => hops,
            None => fastest(&self.statuses, &self.demand_now())?.hops,
        };
        self.under_way = self.under_way.saturating_add(1);
        Ok(hops)
    }

    /// Notes that a request which [`Chooser::begin`] gave a ring has ended, however it did.
    pub const fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Leaves a server out from `now` on, because it has no room for so many milliseconds.
    pub fn refused(&mut self, now: Now, node: NodeId, retry_ms: u32) {
        let until = now.after(u64::from(retry_ms).saturating_mul(1000));
        self.busy.insert(node, until);
    }

    /// Returns whether there is a ring at the time `now` without the servers that are busy.
    fn has_ring(&mut self, now: Now) -> bool {
        self.busy.retain(|_, until| now < *until);
        fastest(&self.statuses, &self.demand_now()).is_ok()
    }

    /// Returns the time at which the first of the busy servers may have room again.
    fn first_free(&self) -> Option<Now> {
        self.busy.values().min().copied()
    }

    /// Returns the next ring along the flow, if a request that begins now is not alone and there is
    /// one whose servers have room.
    fn along_the_flow(&mut self) -> Option<Vec<Hop>> {
        let (demand, busy) = (&self.users, &self.busy);
        let could_serve = |one: &&Status| {
            let is_proven = demand.proven.as_ref().is_none_or(|nodes| nodes.contains(&one.node));
            one.manifest == demand.manifest && is_proven && !demand.banned.contains(&one.node)
        };
        let is_idle = |one: &Status| one.sessions == 0 && one.queue == 0;
        if self.under_way == 0 && self.statuses.iter().filter(could_serve).all(is_idle) {
            return None;
        }
        if self.rings.is_none() {
            // default: without a flow there is no ring along it, and the fastest says why
            self.rings = flow(&self.statuses, demand).ok().map(|flow| flow.rings);
        }
        let full: BTreeSet<NodeId> = self
            .statuses
            .iter()
            .filter(|one| one.sessions >= one.sessions_limit)
            .map(|one| one.node)
            .collect();
        let has_room = |node: NodeId| !busy.contains_key(&node) && !full.contains(&node);
        self.rings.as_mut()?.next_ring(has_room)
    }

    /// Returns what is needed of servers now: the busy ones are left out.
    fn demand_now(&self) -> Demand {
        let busy = self.busy.keys().copied();
        let banned = self.users.banned.iter().copied().chain(busy).collect();
        Demand { banned, ..self.users.clone() }
    }
}

/// The next step of a request that was refused for want of room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It takes another ring, at this time.
    Again(Now),
    /// It has waited and asked for long enough, and fails with the refusal.
    GiveUp,
}

/// The refusals of one request so far.
#[derive(Clone, Copy, Debug)]
pub struct Attempts {
    began: Now,
    refusals: u32,
}

impl Attempts {
    /// Creates the account of a request that begins at the time `now`.
    #[must_use]
    pub const fn new(now: Now) -> Self {
        Self { began: now, refusals: 0 }
    }

    /// Decides what follows from one more refusal at the time `now`. `chooser` knows of it already,
    /// and `drawn` is a random number.
    pub fn refused(&mut self, now: Now, chooser: &mut Chooser, drawn: u64) -> Next {
        self.refusals = self.refusals.saturating_add(1);
        let at = if chooser.has_ring(now) {
            now
        } else {
            let backoff_us = limits::RETRY_US << self.refusals.min(limits::RETRY_DOUBLINGS);
            // default: the time is never 0
            let part_us = drawn.checked_rem(backoff_us).unwrap_or(0);
            let free = chooser.first_free().map_or(now, |free| free.max(now));
            free.max(now.after(backoff_us)).after(part_us)
        };
        let is_over =
            self.refusals >= limits::ATTEMPTS || at.since(self.began) > limits::PATIENCE_US;
        if is_over { Next::GiveUp } else { Next::Again(at) }
    }
}
