//! Which ring each request of a client takes, and what becomes of one that is refused for want of
//! room or fails before its first token.
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
//!
//! A request that failed before its first token takes another ring at once, without the servers for
//! which it failed, or without as many servers of its ring as can be done without if nobody was
//! named; at most [`limits::MOVES`] times, and never the same ring again.
//!
//! What server 1 says of other servers nobody has signed. So it leaves them out for
//! [`limits::REPORTED_MS`] at most, and whoever has said so [`limits::REPORTS`] times in one
//! request is done without itself, if that is possible, and what it said is forgotten.

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

/// The source of what is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The server itself has said it, or this client has seen it.
    Own,
    /// This server 1 has said it of another.
    Reported(NodeId),
}

/// Until when a server is left out, and who wanted that.
#[derive(Clone, Copy, Debug)]
struct Out {
    until: Now,
    source: Source,
}

/// The servers that a request does without, and who said that it should.
type Avoided = BTreeMap<NodeId, Source>;

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
    /// The servers that had no room or failed.
    out: BTreeMap<NodeId, Out>,
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
        let (rings, out) = (None, BTreeMap::new());
        Self { demand, users, experience, told, statuses, rings, out, under_way: 0 }
    }

    /// Replaces what is known of the servers by newer statuses. Those that are left out stay so for
    /// as long as they said.
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
        self.begin_without(now, &Avoided::new())
    }

    fn begin_without(&mut self, now: Now, avoided: &Avoided) -> Result<Vec<Hop>, RouteError> {
        self.out.retain(|_, out| now < out.until);
        let hops = match self.along_the_flow(avoided) {
            Some(hops) => hops,
            None => fastest(&self.statuses, &self.demand_now(avoided))?.hops,
        };
        self.under_way = self.under_way.saturating_add(1);
        Ok(hops)
    }

    /// Notes that a request which [`Chooser::begin`] gave a ring has ended, however it did.
    pub const fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Leaves a server out from `now` on for so many milliseconds, because it has no room, or for
    /// [`limits::REPORTED_MS`] at most if another one says so.
    pub fn refused(&mut self, now: Now, node: NodeId, retry_ms: u32, source: Source) {
        let most_ms = match source {
            Source::Own => retry_ms,
            Source::Reported(_) => retry_ms.min(limits::REPORTED_MS),
        };
        let until = now.after(u64::from(most_ms).saturating_mul(1000));
        // What it has said itself is not shortened by others.
        let knows_better = |out: &Out| out.source == Source::Own && until <= out.until;
        if source == Source::Own || !self.out.get(&node).is_some_and(knows_better) {
            self.out.insert(node, Out { until, source });
        }
    }

    /// Forgets what a server 1 has said of others.
    fn forget(&mut self, reporter: NodeId) {
        self.out.retain(|_, out| out.source != Source::Reported(reporter));
    }

    /// Returns whether there is a ring at the time `now` without the servers that are left out.
    fn has_ring(&mut self, now: Now, avoided: &Avoided) -> bool {
        self.out.retain(|_, out| now < out.until);
        fastest(&self.statuses, &self.demand_now(avoided)).is_ok()
    }

    /// Returns the time at which the first of the servers that are left out may have room again.
    fn first_free(&self) -> Option<Now> {
        self.out.values().map(|out| out.until).min()
    }

    /// Returns the next ring along the flow, if a request that begins now is not alone and there is
    /// one whose servers have room.
    fn along_the_flow(&mut self, avoided: &Avoided) -> Option<Vec<Hop>> {
        let (demand, out) = (&self.users, &self.out);
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
        let is_out = |node: NodeId| out.contains_key(&node) || avoided.contains_key(&node);
        let has_room = |node: NodeId| !is_out(node) && !full.contains(&node);
        self.rings.as_mut()?.next_ring(has_room)
    }

    /// Returns what is needed of servers now, and who is left out.
    fn demand_now(&self, avoided: &Avoided) -> Demand {
        let out = self.out.keys().chain(avoided.keys()).copied();
        let banned = self.users.banned.iter().copied().chain(out).collect();
        Demand { banned, ..self.users.clone() }
    }
}

/// The next step of a request that was refused for want of room, or has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It takes another ring, at this time.
    Again(Now),
    /// It has waited and asked for long enough, and fails with the refusal.
    GiveUp,
}

/// The refusals and failures of one request so far.
#[derive(Clone, Debug)]
pub struct Attempts {
    began: Now,
    refusals: u32,
    moves: u32,
    avoided: Avoided,
    /// How often each server 1 has said of others that the request failed for them.
    reports: BTreeMap<NodeId, u32>,
}

impl Attempts {
    /// Creates the account of a request that begins at the time `now`.
    #[must_use]
    pub const fn new(now: Now) -> Self {
        Self {
            began: now,
            refusals: 0,
            moves: 0,
            avoided: BTreeMap::new(),
            reports: BTreeMap::new(),
        }
    }

    /// Returns the next ring for the request, as [`Chooser::begin`], without the servers for which
    /// it has failed.
    ///
    /// # Errors
    /// [`RouteError`].
    pub fn begin(&self, now: Now, chooser: &mut Chooser) -> Result<Vec<Hop>, RouteError> {
        chooser.begin_without(now, &self.avoided)
    }

    /// Decides what follows from one more refusal at the time `now`, of which `source` has told.
    /// `chooser` knows of it already, and `drawn` is a random number.
    pub fn refused(&mut self, now: Now, chooser: &mut Chooser, source: Source, drawn: u64) -> Next {
        self.refusals = self.refusals.saturating_add(1);
        self.hear(now, chooser, source);
        let at = if chooser.has_ring(now, &self.avoided) {
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

    /// Decides what follows from a failure on `ring` at the time `now`, before the first token:
    /// another ring at once, or the end. `named` is the server for which the request failed, and
    /// who has told of it, if anybody is named.
    pub fn failed(
        &mut self,
        now: Now,
        chooser: &mut Chooser,
        ring: &[Hop],
        named: Option<(NodeId, Source)>,
    ) -> Next {
        self.moves = self.moves.saturating_add(1);
        let can_do_without = match named {
            Some((node, source)) => {
                self.avoided.insert(node, source);
                chooser.refused(now, node, limits::FAILED_MS, source);
                self.hear(now, chooser, source);
                chooser.has_ring(now, &self.avoided)
            }
            None => self.suspect(now, chooser, ring),
        };
        let is_over = self.moves > limits::MOVES || now.since(self.began) > limits::PATIENCE_US;
        if can_do_without && !is_over { Next::Again(now) } else { Next::GiveUp }
    }

    /// Counts what a server 1 says of others. One that says so again and again is done without.
    fn hear(&mut self, now: Now, chooser: &mut Chooser, source: Source) {
        let Source::Reported(reporter) = source else {
            return;
        };
        let reports = self.reports.entry(reporter).or_default();
        *reports = reports.saturating_add(1);
        if *reports < limits::REPORTS {
            return;
        }
        let mut doubted = chooser.clone();
        doubted.forget(reporter);
        let mut avoided = self.avoided.clone();
        avoided.retain(|_, said_by| *said_by != source);
        avoided.insert(reporter, Source::Own);
        if doubted.has_ring(now, &avoided) {
            self.avoided = avoided;
            chooser.forget(reporter);
        }
    }

    /// Does without as many servers of a ring as can be, the last ones first, and returns whether
    /// that is any.
    fn suspect(&mut self, now: Now, chooser: &mut Chooser, ring: &[Hop]) -> bool {
        let mut has_avoided = false;
        for hop in ring.iter().rev() {
            let mut avoided = self.avoided.clone();
            avoided.insert(hop.node, Source::Own);
            if chooser.has_ring(now, &avoided) {
                self.avoided = avoided;
                has_avoided = true;
            }
        }
        has_avoided
    }
}
