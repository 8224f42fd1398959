//! The scheduler: which waiting work becomes the next job of the executor.
//!
//! Every session has a lane, in which its work runs in order. A job mixes sessions: first decode
//! steps, at most [`limits::DECODE_BATCH`], and then chunks of prompts, for as long as the rows of
//! all of them fit the budget that the scheduler was made with. So a decode step waits for one
//! budget of other sessions' rows at most behind the job that runs as it comes, however long their
//! prompts are. The first chunk that does not fit ends the job and has the turn in a later one, so
//! that no long chunk is passed over for short ones. If that leaves a job without any chunk, the
//! chunk goes first in the next job. A chunk that is longer than the whole budget is a job of its
//! own.
//!
//! Where more waits than fits a job, the neighbours that bring work take turns, the clients of each
//! by their weights, whatever number of sessions each has and however long its prompts are, and the
//! sessions of one client among themselves ([`crate::fair`]). A client is charged for rows, of
//! decode steps and of chunks on two accounts: while two clients have decode steps left over from
//! every job, or chunks, their rows differ from their shares by at most [`limits::fair_lag`] of the
//! longest step. A free place in a job is nobody's: whoever has something for it has it.
//!
//! Answers to challenges run when nothing else waits, or every so many jobs; one that takes longer
//! than a chunk of a prompt comes in slices, each of them a job in its session's turn. A lane is
//! bounded: a sender that fills it is refused. Begins and ends of sessions go with every job, up to
//! [`limits::CONTROL_BATCH`] of them, and take turns as well.
//!
//! Up to [`limits::JOBS_AT_EXECUTOR`] jobs are at the executor, and no session is in two of them. A
//! job goes there behind another one only if it is *complete*: no decode step that comes while it
//! waits there could have been in it or gone before it. That is so if it has as many decode steps
//! as a job takes; if its budget is used up and nobody decodes, or the chunk in it goes first; or
//! if it is an opening whose turn it is. That a session will decode is known from its first decode
//! step on: this one may find a chunk of others behind the job that runs. If incomplete jobs went
//! there, sessions that could share a batch would fall apart into two batches, each of which costs
//! nearly as much as one of all of them.

mod lanes;

use std::collections::{BTreeSet, VecDeque};

use lockstep_exact::digest::Digest;

use crate::fair::Account;
use crate::job::{Item, Job, Work};
use crate::limits;
use lanes::Lanes;
pub(crate) use lanes::{Class, rows};

/// A session's lane is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneFull;

/// A job at the executor.
#[derive(Debug)]
struct Running {
    job: u64,
    sessions: Vec<Digest>,
}

/// What the next job is to hold beside allocations and ends.
#[derive(Debug, Default)]
struct Plan {
    /// The sessions whose next work it is, in order.
    sessions: Vec<Digest>,
    is_opening: bool,
    /// Whether the chunk that has the turn does not fit beside the decode steps.
    passes_over_chunk: bool,
    /// Whether no decode step that comes later could be in it or go before it.
    is_complete: bool,
}

/// Chooses jobs from the work that waits. Work is added by [`Scheduler::push`]; after that, and
/// after [`Scheduler::ran`], jobs are taken with [`Scheduler::next_job`] until there is none.
#[derive(Debug)]
pub struct Scheduler {
    /// The rows of all steps in one job.
    budget: usize,
    lanes: Lanes,
    /// Sessions that are past their prompt: their next decode step may come at any time.
    decoding: BTreeSet<Digest>,
    /// The jobs at the executor, in the order in which it runs them.
    running: VecDeque<Running>,
    next_id: u64,
    chunk_goes_first: bool,
    jobs_since_opening: u32,
}

impl Default for Scheduler {
    /// With the budget [`limits::BATCH_POSITIONS`].
    fn default() -> Self {
        Self::new(limits::BATCH_POSITIONS)
    }
}

impl Scheduler {
    /// Creates a scheduler without work. The steps of a job have at most `batch_positions` rows
    /// together, unless a single chunk has more.
    #[must_use]
    pub fn new(batch_positions: u32) -> Self {
        Self {
            budget: batch_positions.max(1) as usize,
            lanes: Lanes::default(),
            decoding: BTreeSet::new(),
            running: VecDeque::new(),
            next_id: 0,
            chunk_goes_first: false,
            jobs_since_opening: 0,
        }
    }

    /// Says on whose account the work of a session is from now on, until it is dropped. A session
    /// of which that was never said counts as a client by itself, of a neighbour without a name.
    pub fn enter(&mut self, session: Digest, account: Account) {
        self.lanes.name(session, account);
    }

    /// Adds work to a session's lane.
    ///
    /// # Errors
    /// [`LaneFull`] when the lane holds [`limits::LANE_ITEMS`] items.
    pub fn push(&mut self, session: Digest, work: Work) -> Result<(), LaneFull> {
        if self.lanes.waiting(&session) >= limits::LANE_ITEMS {
            return Err(LaneFull);
        }
        if Class::of(&work) == Class::Decode {
            self.decoding.insert(session);
        } else if matches!(work, Work::Finish) {
            self.decoding.remove(&session);
        }
        self.lanes.push_back(session, work);
        Ok(())
    }

    /// Puts work of a session that has just run before all that waits in its lane: what is left of
    /// it, or what frees it. It takes the place of what ran, so that the lane has room for it.
    pub fn put_back(&mut self, session: Digest, work: Work) {
        self.lanes.push_front(session, work);
    }

    /// Forgets a session's waiting work and frees what the executor holds of it.
    pub fn drop_session(&mut self, session: Digest) {
        self.decoding.remove(&session);
        self.lanes.replace(session, Work::Drop);
    }

    /// Returns the number of items of a session that wait.
    #[must_use]
    pub fn waiting(&self, session: &Digest) -> usize {
        self.lanes.waiting(session)
    }

    /// Returns the number of items of all sessions that wait.
    #[must_use]
    pub fn queue_depth(&self) -> usize {
        self.lanes.all_waiting()
    }

    /// Returns whether the session has no work, waiting or at the executor.
    #[must_use]
    pub fn is_clear(&self, session: &Digest) -> bool {
        !self.lanes.holds(session)
    }

    /// Returns the number of jobs at the executor.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Returns the next job for the executor, which runs jobs in the order in which they are given.
    /// `None` if nothing waits, if [`limits::JOBS_AT_EXECUTOR`] jobs are there already, or if one
    /// is there and the next is not complete yet.
    pub fn next_job(&mut self) -> Option<Job> {
        if self.running.len() >= limits::JOBS_AT_EXECUTOR {
            return None;
        }
        let plan = self.plan();
        if !self.running.is_empty() && !plan.is_complete {
            return None;
        }
        if plan.is_opening || plan.sessions.is_empty() {
            self.jobs_since_opening = 0;
        } else {
            self.jobs_since_opening = self.jobs_since_opening.saturating_add(1);
            self.chunk_goes_first = plan.passes_over_chunk;
        }
        let control = self.lanes.ready(Class::Control).take(limits::CONTROL_BATCH);
        let mut chosen: Vec<Digest> = control.map(|(session, _)| session).collect();
        chosen.extend(plan.sessions);
        let mut start = |session: &Digest| self.lanes.start(*session);
        let items: Vec<Item> = chosen.iter().filter_map(&mut start).collect();
        if items.is_empty() {
            return None;
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let sessions = items.iter().map(|item| item.session).collect();
        self.running.push_back(Running { job: id, sessions });
        Some(Job { id, items })
    }

    /// Takes the oldest job from the executor's queue, since it has run, and returns the sessions
    /// of its items, in their order. `None` if the oldest is another job.
    pub fn ran(&mut self, job: u64) -> Option<Vec<Digest>> {
        let oldest = self.running.pop_front_if(|running| running.job == job)?;
        oldest.sessions.iter().for_each(|session| self.lanes.stop(session));
        Some(oldest.sessions)
    }

    /// The opening or the steps whose turn it is.
    fn plan(&self) -> Plan {
        let opening = self.lanes.ready(Class::Opening).next();
        let is_due = self.jobs_since_opening >= limits::JOBS_PER_OPENING;
        let opening = opening.map(|(session, _)| Plan {
            sessions: vec![session],
            is_opening: true,
            passes_over_chunk: false,
            is_complete: is_due,
        });
        match opening {
            Some(opening) if is_due => opening,
            Some(opening) => {
                let steps = self.plan_steps();
                if steps.sessions.is_empty() { opening } else { steps }
            }
            None => self.plan_steps(),
        }
    }

    /// Decode steps, and chunks of prompts for as long as they fit the budget.
    fn plan_steps(&self) -> Plan {
        let mut plan = Plan::default();
        let mut left = self.budget;
        let mut chunks = self.lanes.ready(Class::Prefill);
        let first = if self.chunk_goes_first { chunks.next() } else { None };
        if let Some((session, rows)) = first {
            plan.sessions.push(session);
            left = left.saturating_sub(rows);
        }
        let most = left.min(limits::DECODE_BATCH);
        let decode = self.lanes.ready(Class::Decode).take(most);
        let before = plan.sessions.len();
        plan.sessions.extend(decode.map(|(session, _)| session));
        let steps = plan.sessions.len().saturating_sub(before);
        left = left.saturating_sub(steps);
        let mut is_full = left == 0;
        let mut has_chunk = first.is_some();
        for (session, rows) in chunks {
            if rows > left && !plan.sessions.is_empty() {
                is_full = true;
                plan.passes_over_chunk = !has_chunk;
                break;
            }
            plan.sessions.push(session);
            left = left.saturating_sub(rows);
            has_chunk = true;
        }
        // A decode step that comes goes before the chunks, unless one of them has the turn or there
        // are as many steps as a job takes.
        let waits_for_steps = first.is_none() && !self.decoding.is_empty();
        plan.is_complete = steps == limits::DECODE_BATCH || (is_full && !waits_for_steps);
        plan
    }
}

#[cfg(test)]
mod fairness;
#[cfg(test)]
mod tests;
