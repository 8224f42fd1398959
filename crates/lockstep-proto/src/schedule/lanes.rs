//! The lanes of the scheduler: each session's waiting work, in order, and whose turn it is.
//!
//! A session stands in the queue of the class of its next work, on the account of its client, from
//! the time at which that work may go to the executor: see [`crate::fair`]. Each class is an
//! account of its own, so that nobody who has a long prompt read while nobody else wants one pays
//! for it with tokens.

use std::collections::{BTreeMap, VecDeque};

use lockstep_exact::digest::Digest;

use crate::fair::{Account, Fair, Place, Weight};
use crate::job::{Item, Work};

/// The classes of work, among which the scheduler chooses when it makes a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Begins, ends, drops and forgetting: next to no time, never kept waiting.
    Control,
    /// One position of one session, or a head.
    Decode,
    /// An answer to a challenge, or a slice of one.
    Opening,
    /// A chunk of a prompt: two positions or more of one session.
    Prefill,
}

impl Class {
    /// Returns the class of a piece of work.
    pub(crate) fn of(work: &Work) -> Self {
        match work {
            Work::Answer { .. } => Self::Opening,
            Work::Begin { .. } | Work::Drop | Work::Finish | Work::Forget => Self::Control,
            Work::Head { .. } => Self::Decode,
            Work::States { .. } | Work::Tokens { .. } if rows(work) == 1 => Self::Decode,
            Work::States { .. } | Work::Tokens { .. } => Self::Prefill,
        }
    }
}

/// Returns the rows that work puts into a batch: the positions that it computes.
pub(crate) fn rows(work: &Work) -> usize {
    match work {
        Work::Answer { .. } | Work::Begin { .. } | Work::Drop | Work::Finish | Work::Forget => 0,
        Work::Head { .. } => 1,
        Work::States { state, .. } => state.rows(),
        Work::Tokens { ids, .. } => ids.len(),
    }
}

/// Returns what a client is charged for work: the rows that it puts into a batch, and 1 if none.
fn cost(work: &Work) -> u64 {
    rows(work).max(1) as u64
}

/// One session's work.
#[derive(Debug)]
struct Lane {
    account: Account,
    waiting: VecDeque<Work>,
    /// Whether work of the session is at the executor: then nothing else of it goes there.
    is_running: bool,
    /// Where the session stands in the queue of a class.
    place: Option<(Class, Place)>,
}

/// The sessions whose next work is of one class and may go to the executor.
type Queue = Fair<(Digest, usize)>;

/// The lanes of all sessions that have work, and whose turn it is in each class.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<Digest, Lane>,
    /// The number of items of all sessions that wait.
    waiting: usize,
    /// The accounts of sessions that were named, until they are dropped.
    accounts: BTreeMap<Digest, Account>,
    control: Queue,
    decode: Queue,
    opening: Queue,
    prefill: Queue,
}

impl Lanes {
    /// Puts the session's work on this account, from now until it is dropped.
    pub(super) fn name(&mut self, session: Digest, account: Account) {
        self.accounts.insert(session, account);
    }

    /// Returns the number of items of a session that wait.
    pub(super) fn waiting(&self, session: &Digest) -> usize {
        self.lanes.get(session).map_or(0, |lane| lane.waiting.len())
    }

    /// Returns the number of items of all sessions that wait.
    pub(super) const fn all_waiting(&self) -> usize {
        self.waiting
    }

    /// Returns whether a session has work, waiting or at the executor.
    pub(super) fn holds(&self, session: &Digest) -> bool {
        self.lanes.contains_key(session)
    }

    /// Adds work behind all that waits of the session.
    pub(super) fn push_back(&mut self, session: Digest, work: Work) {
        self.change(session, |waiting| waiting.push_back(work));
    }

    /// Puts work before all that waits of the session.
    pub(super) fn push_front(&mut self, session: Digest, work: Work) {
        self.change(session, |waiting| waiting.push_front(work));
    }

    /// Puts work in the place of all that waits of the session.
    pub(super) fn replace(&mut self, session: Digest, work: Work) {
        self.change(session, |waiting| *waiting = VecDeque::from([work]));
    }

    /// Changes what waits of a session, which gets a lane if it has none.
    fn change(&mut self, session: Digest, change: impl FnOnce(&mut VecDeque<Work>)) {
        let (neighbour, first) = (Digest::ZERO, Digest::ZERO);
        let own = Account { neighbour, first, client: session, weight: Weight::ONE };
        // default: who was not named is a client by itself
        let account = self.accounts.get(&session).copied().unwrap_or(own);
        let lane = self.lanes.entry(session).or_insert_with(|| Lane {
            account,
            waiting: VecDeque::new(),
            is_running: false,
            place: None,
        });
        let before = lane.waiting.len();
        change(&mut lane.waiting);
        let after = lane.waiting.len();
        self.waiting = self.waiting.saturating_add(after).saturating_sub(before);
        self.stand(session);
    }

    /// Puts the session into the queue of its next work's class, or out of all if it has none that
    /// may go to the executor. Where it stands already it stays: only openings are put before work
    /// of their own class, and cost the same.
    fn stand(&mut self, session: Digest) {
        let Some(lane) = self.lanes.get_mut(&session) else {
            return;
        };
        let next = lane.waiting.front().filter(|_| !lane.is_running);
        let next = next.map(|work| (Class::of(work), rows(work), cost(work)));
        let (place, account) = (lane.place, lane.account);
        if place.map(|(class, _)| class) == next.map(|(class, _, _)| class) {
            return;
        }
        if let Some((class, place)) = place {
            self.queue_mut(class).remove(place);
        }
        let stand = |(class, rows, cost)| {
            (class, self.queue_mut(class).push(account, cost, (session, rows)))
        };
        let place = next.map(stand);
        if let Some(lane) = self.lanes.get_mut(&session) {
            lane.place = place;
        }
    }

    /// Returns the sessions whose next work is of the class `wanted` and may go to the executor,
    /// each with the rows of that work; those whose turn it is come first.
    pub(super) fn ready(&self, wanted: Class) -> impl Iterator<Item = (Digest, usize)> {
        let queue = match wanted {
            Class::Control => &self.control,
            Class::Decode => &self.decode,
            Class::Opening => &self.opening,
            Class::Prefill => &self.prefill,
        };
        queue.in_order().map(|(_, &ready, _)| ready)
    }

    const fn queue_mut(&mut self, class: Class) -> &mut Queue {
        match class {
            Class::Control => &mut self.control,
            Class::Decode => &mut self.decode,
            Class::Opening => &mut self.opening,
            Class::Prefill => &mut self.prefill,
        }
    }

    /// Takes the session's next work to the executor, and charges its client for it.
    pub(super) fn start(&mut self, session: Digest) -> Option<Item> {
        let lane = self.lanes.get_mut(&session)?;
        let (class, place) = lane.place.take()?;
        let work = lane.waiting.pop_front()?;
        lane.is_running = true;
        self.waiting = self.waiting.saturating_sub(1);
        if matches!(work, Work::Drop) {
            self.accounts.remove(&session);
        }
        self.queue_mut(class).take(place);
        Some(Item { session, work })
    }

    /// Notes that the executor has answered the session's work.
    pub(super) fn stop(&mut self, session: &Digest) {
        if let Some(lane) = self.lanes.get_mut(session) {
            lane.is_running = false;
            if lane.waiting.is_empty() {
                self.lanes.remove(session);
            } else {
                self.stand(*session);
            }
        }
    }
}
