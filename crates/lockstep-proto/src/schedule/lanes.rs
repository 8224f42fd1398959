//! The lanes of the scheduler: each session's waiting work, in order, and whose turn it is.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use lockstep_exact::digest::Digest;

use crate::job::{Item, Work};

/// The classes of work, among which the scheduler chooses when it makes a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Begins, ends, drops and forgetting: next to no time, never kept waiting.
    Control,
    /// One position, or a head.
    Decode,
    /// An answer to a challenge, or a slice of one.
    Opening,
    /// A chunk of a prompt.
    Prefill,
}

impl Class {
    /// Returns the class of a piece of work.
    pub(super) fn of(work: &Work) -> Self {
        match work {
            Work::Answer { .. } => Self::Opening,
            Work::Begin { .. } | Work::Drop | Work::Finish | Work::Forget => Self::Control,
            Work::Head { .. } => Self::Decode,
            Work::States { .. } | Work::Tokens { .. } if rows(work) == 1 => Self::Decode,
            Work::States { .. } | Work::Tokens { .. } => Self::Prefill,
        }
    }
}

/// The rows that work puts into a batch: the positions that it computes.
fn rows(work: &Work) -> usize {
    match work {
        Work::Answer { .. } | Work::Begin { .. } | Work::Drop | Work::Finish | Work::Forget => 0,
        Work::Head { .. } => 1,
        Work::States { state, .. } => state.rows(),
        Work::Tokens { ids, .. } => ids.len(),
    }
}

/// One session's work.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Work>,
    /// Whether work of the session is at the executor: then nothing else of it goes there.
    is_running: bool,
}

/// The lanes of all sessions that have work, and whose turn it is in each class.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<Digest, Lane>,
    /// The session of each class that was taken last: the next in the order of ids is the next.
    control: Option<Digest>,
    decode: Option<Digest>,
    opening: Option<Digest>,
    prefill: Option<Digest>,
}

impl Lanes {
    /// Returns the number of items of a session that wait.
    pub(super) fn waiting(&self, session: &Digest) -> usize {
        self.lanes.get(session).map_or(0, |lane| lane.waiting.len())
    }

    /// Returns the number of items of all sessions that wait.
    pub(super) fn all_waiting(&self) -> usize {
        self.lanes.values().map(|lane| lane.waiting.len()).sum()
    }

    /// Returns whether a session has work, waiting or at the executor.
    pub(super) fn holds(&self, session: &Digest) -> bool {
        self.lanes.contains_key(session)
    }

    /// Adds work behind all that waits of the session.
    pub(super) fn push_back(&mut self, session: Digest, work: Work) {
        self.lanes.entry(session).or_default().waiting.push_back(work);
    }

    /// Puts work before all that waits of the session.
    pub(super) fn push_front(&mut self, session: Digest, work: Work) {
        self.lanes.entry(session).or_default().waiting.push_front(work);
    }

    /// Puts work in the place of all that waits of the session.
    pub(super) fn replace(&mut self, session: Digest, work: Work) {
        let lane = self.lanes.entry(session).or_default();
        lane.waiting.clear();
        lane.waiting.push_back(work);
    }

    /// Returns the sessions whose next work is of the class `wanted` and may go to the executor,
    /// each with the rows of that work; those whose turn it is come first.
    pub(super) fn ready(&self, wanted: Class) -> impl Iterator<Item = (Digest, usize)> {
        let last = match wanted {
            Class::Control => self.control,
            Class::Decode => self.decode,
            Class::Opening => self.opening,
            Class::Prefill => self.prefill,
        };
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let until = last.map_or(Bound::Excluded(Digest::ZERO), Bound::Included);
        let later = self.lanes.range((after, Bound::Unbounded));
        let earlier = self.lanes.range((Bound::Unbounded, until));
        later.chain(earlier).filter_map(move |(&session, lane)| {
            let next = lane.waiting.front().filter(|_| !lane.is_running)?;
            (Class::of(next) == wanted).then(|| (session, rows(next)))
        })
    }

    /// Takes the session's next work to the executor; the turn in its class goes on.
    pub(super) fn start(&mut self, session: Digest) -> Option<Item> {
        let lane = self.lanes.get_mut(&session)?;
        let work = lane.waiting.pop_front()?;
        lane.is_running = true;
        match Class::of(&work) {
            Class::Control => self.control = Some(session),
            Class::Decode => self.decode = Some(session),
            Class::Opening => self.opening = Some(session),
            Class::Prefill => self.prefill = Some(session),
        }
        Some(Item { session, work })
    }

    /// Notes that the executor has answered the session's work.
    pub(super) fn stop(&mut self, session: &Digest) {
        if let Some(lane) = self.lanes.get_mut(session) {
            lane.is_running = false;
            if lane.waiting.is_empty() {
                self.lanes.remove(session);
            }
        }
    }
}
