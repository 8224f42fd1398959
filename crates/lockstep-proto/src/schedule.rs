//! The stage scheduler: which waiting work becomes the next batch.
//!
//! Every session has a lane, in which its work runs in order; one job is under way at a time. A
//! round is a batch of all waiting decode steps and then at most one prefill chunk, so that
//! nobody's tokens wait for more than one chunk of somebody's prompt. Sessions take turns. Answers
//! to challenges run when nothing else waits, or every so many jobs; one that takes longer than a
//! chunk of a prompt comes in slices, each of them a job in its session's turn. A lane is bounded:
//! a sender that fills it is refused.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use lockstep_exact::digest::Digest;

use crate::job::{Item, Job, Work};
use crate::limits;

/// What work competes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Begins, ends, drops and forgetting: next to no time, never kept waiting.
    Control,
    /// One position, or a head.
    Decode,
    /// An answer to a challenge, or a slice of one.
    Opening,
    /// A chunk of a prompt.
    Prefill,
}

fn class(work: &Work) -> Class {
    match work {
        Work::Answer { .. } => Class::Opening,
        Work::Begin { .. } | Work::Drop | Work::Finish | Work::Forget => Class::Control,
        Work::Head { .. } => Class::Decode,
        Work::States { state, .. } => class_of_len(state.rows()),
        Work::Tokens { ids, .. } => class_of_len(ids.len()),
    }
}

const fn class_of_len(positions: usize) -> Class {
    if positions == 1 { Class::Decode } else { Class::Prefill }
}

/// A lane is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneFull;

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Work>,
    running: bool,
}

/// Whose turn it is: after the session served last, in the order of ids.
#[derive(Debug, Default)]
struct Turns {
    decode: Option<Digest>,
    prefill: Option<Digest>,
    opening: Option<Digest>,
}

#[derive(Debug)]
struct Running {
    job: u64,
    sessions: Vec<Digest>,
}

/// Chooses batches from lanes.
#[derive(Debug, Default)]
pub struct Scheduler {
    lanes: BTreeMap<Digest, Lane>,
    turns: Turns,
    running: Option<Running>,
    next_id: u64,
    prefill_is_due: bool,
    jobs_since_opening: u32,
}

impl Scheduler {
    /// Adds work to a session's lane.
    ///
    /// # Errors
    /// [`LaneFull`] when the lane holds [`limits::LANE_ITEMS`] items.
    pub fn push(&mut self, session: Digest, work: Work) -> Result<(), LaneFull> {
        let lane = self.lanes.entry(session).or_default();
        if lane.waiting.len() >= limits::LANE_ITEMS {
            return Err(LaneFull);
        }
        lane.waiting.push_back(work);
        Ok(())
    }

    /// Puts work of a session that has just run before all that waits in its lane: what is left of
    /// it, or what frees it. It takes the place of what ran, so that the lane has room for it.
    pub fn put_back(&mut self, session: Digest, work: Work) {
        self.lanes.entry(session).or_default().waiting.push_front(work);
    }

    /// Forgets a session's waiting work and frees what the executor holds of it.
    pub fn drop_session(&mut self, session: Digest) {
        let lane = self.lanes.entry(session).or_default();
        lane.waiting.clear();
        lane.waiting.push_back(Work::Drop);
    }

    /// Items of a session that wait.
    #[must_use]
    pub fn waiting(&self, session: &Digest) -> usize {
        self.lanes.get(session).map_or(0, |lane| lane.waiting.len())
    }

    /// Items that wait, of all sessions.
    #[must_use]
    pub fn queue_depth(&self) -> usize {
        self.lanes.values().map(|lane| lane.waiting.len()).sum()
    }

    /// Whether the session has no work, waiting or under way.
    #[must_use]
    pub fn is_clear(&self, session: &Digest) -> bool {
        !self.lanes.contains_key(session)
    }

    /// The job under way.
    #[must_use]
    pub fn running(&self) -> Option<u64> {
        self.running.as_ref().map(|running| running.job)
    }

    /// The next batch, if none is under way and something waits.
    pub fn next_job(&mut self) -> Option<Job> {
        if self.running.is_some() {
            return None;
        }
        let mut items = self.take(Class::Control, limits::CONTROL_BATCH);
        items.extend(self.steps());
        if items.is_empty() {
            return None;
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let sessions = items.iter().map(|item| item.session).collect();
        self.running = Some(Running { job: id, sessions });
        Some(Job { id, items })
    }

    /// The job under way has run: the sessions of its items. `None`: it was not this one.
    pub fn ran(&mut self, job: u64) -> Option<Vec<Digest>> {
        let running = self.running.take_if(|running| running.job == job)?;
        self.lanes.retain(|_, lane| {
            lane.running = false;
            !lane.waiting.is_empty()
        });
        Some(running.sessions)
    }

    /// The decode batch, the prefill chunk or the opening whose turn it is.
    fn steps(&mut self) -> Vec<Item> {
        if self.jobs_since_opening >= limits::JOBS_PER_OPENING {
            let opening = self.opening();
            if !opening.is_empty() {
                return opening;
            }
        }
        let (first, second) = if self.prefill_is_due {
            (Class::Prefill, Class::Decode)
        } else {
            (Class::Decode, Class::Prefill)
        };
        for class in [first, second] {
            let most = if class == Class::Prefill { 1 } else { limits::DECODE_BATCH };
            let items = self.take(class, most);
            if !items.is_empty() {
                self.prefill_is_due = class == Class::Decode;
                self.jobs_since_opening = self.jobs_since_opening.saturating_add(1);
                return items;
            }
        }
        self.opening()
    }

    fn opening(&mut self) -> Vec<Item> {
        self.jobs_since_opening = 0;
        self.take(Class::Opening, 1)
    }

    /// Takes the front items of a class, at most one a session, in turn.
    fn take(&mut self, wanted: Class, most: usize) -> Vec<Item> {
        let last = match wanted {
            Class::Control => None,
            Class::Decode => self.turns.decode,
            Class::Opening => self.turns.opening,
            Class::Prefill => self.turns.prefill,
        };
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let until = last.map_or(Bound::Excluded(Digest::ZERO), Bound::Included);
        let later = self.lanes.range((after, Bound::Unbounded));
        let earlier = self.lanes.range((Bound::Unbounded, until));
        let is_ready = |lane: &Lane| {
            !lane.running && lane.waiting.front().is_some_and(|work| class(work) == wanted)
        };
        let ready = later.chain(earlier).filter(|(_, lane)| is_ready(lane));
        let sessions: Vec<Digest> = ready.map(|(&session, _)| session).take(most).collect();
        let turn = sessions.last().copied().or(last);
        match wanted {
            Class::Control => {}
            Class::Decode => self.turns.decode = turn,
            Class::Opening => self.turns.opening = turn,
            Class::Prefill => self.turns.prefill = turn,
        }
        sessions.into_iter().filter_map(|session| self.start(session)).collect()
    }

    fn start(&mut self, session: Digest) -> Option<Item> {
        let lane = self.lanes.get_mut(&session)?;
        let work = lane.waiting.pop_front()?;
        lane.running = true;
        Some(Item { session, work })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lockstep_verify::challenge::{Challenge, Target};
    use lockstep_verify::sign::Signature;
    use lockstep_verify::statement::RunId;

    use super::*;

    const BATCH: u8 = 64;

    fn session(number: u8) -> Digest {
        Digest([number; 32])
    }

    fn tokens(count: u32) -> Work {
        Work::Tokens { position: 0, ids: (0..count).collect() }
    }

    fn sessions(job: &Job) -> Vec<u8> {
        job.items.iter().map(|item| item.session.0[0]).collect()
    }

    fn run(scheduler: &mut Scheduler) -> Option<Vec<u8>> {
        let job = scheduler.next_job()?;
        scheduler.ran(job.id).unwrap();
        Some(sessions(&job))
    }

    #[test]
    fn decode_steps_batch_and_one_prefill_chunk_runs_between_batches() {
        let mut scheduler = Scheduler::default();
        for number in [1, 2, 3] {
            for _ in 0..3 {
                scheduler.push(session(number), tokens(1)).unwrap();
            }
        }
        for number in [8, 9] {
            for _ in 0..2 {
                scheduler.push(session(number), tokens(128)).unwrap();
            }
        }
        let all = [1, 2, 3].to_vec();
        assert_eq!(run(&mut scheduler), Some(all.clone()));
        assert_eq!(run(&mut scheduler), Some(vec![8]));
        assert_eq!(run(&mut scheduler), Some(all.clone()));
        assert_eq!(run(&mut scheduler), Some(vec![9]));
        assert_eq!(run(&mut scheduler), Some(all));
        assert_eq!(run(&mut scheduler), Some(vec![8]));
        assert_eq!(run(&mut scheduler), Some(vec![9]));
        assert_eq!(run(&mut scheduler), None);
    }

    #[test]
    fn one_job_runs_at_a_time_and_a_session_is_never_twice_in_it() {
        let mut scheduler = Scheduler::default();
        scheduler.push(session(1), Work::Finish).unwrap();
        scheduler.push(session(1), tokens(1)).unwrap();
        scheduler.push(session(2), tokens(1)).unwrap();
        let job = scheduler.next_job().unwrap();
        assert_eq!(sessions(&job), [1, 2]);
        assert!(matches!(job.items[0].work, Work::Finish));
        assert!(scheduler.next_job().is_none());
        assert_eq!(scheduler.ran(job.id + 1), None);
        assert_eq!(scheduler.ran(job.id), Some(vec![session(1), session(2)]));
        assert_eq!(run(&mut scheduler), Some(vec![1]));
        assert!(scheduler.is_clear(&session(1)));
    }

    #[test]
    fn sessions_beyond_a_full_batch_take_turns() {
        let mut scheduler = Scheduler::default();
        assert_eq!(usize::from(BATCH), limits::DECODE_BATCH);
        let count = BATCH + 10;
        for number in 0..count {
            scheduler.push(session(number), tokens(1)).unwrap();
            scheduler.push(session(number), tokens(1)).unwrap();
        }
        let first = run(&mut scheduler).unwrap();
        assert_eq!(first, (0..BATCH).collect::<Vec<_>>());
        let second = run(&mut scheduler).unwrap();
        assert_eq!(second[..10], (BATCH..count).collect::<Vec<_>>());
        assert_eq!(second[10], 0);
    }

    fn opening(session: u8) -> Work {
        let challenge = Challenge {
            session: Digest([session; 32]),
            run: RunId::NONE,
            receipt: Digest::ZERO,
            target: Target::Head { positions: vec![0] },
            signature: Signature::NONE,
        };
        Work::Answer { challenge: Arc::new(challenge) }
    }

    #[test]
    fn unfinished_openings_have_every_fourth_job_and_take_turns() {
        let mut scheduler = Scheduler::default();
        for number in [1, 2] {
            scheduler.push(session(number), opening(number)).unwrap();
        }
        let mut ran = Vec::new();
        for _ in 0..16 {
            // Somebody's tokens and somebody's prompt always wait.
            for (number, count) in [(8, 1), (9, 128)] {
                if scheduler.waiting(&session(number)) == 0 {
                    scheduler.push(session(number), tokens(count)).unwrap();
                }
            }
            let job = scheduler.next_job().unwrap();
            scheduler.ran(job.id).unwrap();
            for item in &job.items {
                if matches!(item.work, Work::Answer { .. }) {
                    scheduler.put_back(item.session, item.work.clone());
                }
            }
            ran.extend(sessions(&job));
        }
        assert_eq!(ran, [8, 9, 8, 1, 9, 8, 9, 2, 8, 9, 8, 1, 9, 8, 9, 2]);
    }

    #[test]
    fn what_is_put_back_runs_before_what_waits_in_its_lane() {
        let mut scheduler = Scheduler::default();
        scheduler.push(session(1), opening(1)).unwrap();
        scheduler.push(session(1), opening(2)).unwrap();
        let of_job = |scheduler: &mut Scheduler| {
            let job = scheduler.next_job().unwrap();
            scheduler.ran(job.id).unwrap();
            let Work::Answer { challenge } = &job.items[0].work else { panic!("{job:?}") };
            challenge.session.0[0]
        };
        assert_eq!(of_job(&mut scheduler), 1);
        scheduler.put_back(session(1), opening(1));
        assert_eq!([of_job(&mut scheduler), of_job(&mut scheduler)], [1, 2]);
    }

    #[test]
    fn a_full_lane_refuses_and_dropping_a_session_leaves_only_the_drop() {
        let mut scheduler = Scheduler::default();
        for _ in 0..limits::LANE_ITEMS {
            scheduler.push(session(1), tokens(1)).unwrap();
        }
        assert_eq!(scheduler.push(session(1), tokens(1)), Err(LaneFull));
        scheduler.drop_session(session(1));
        assert_eq!(scheduler.waiting(&session(1)), 1);
        let job = scheduler.next_job().unwrap();
        assert!(matches!(job.items[0].work, Work::Drop));
        scheduler.ran(job.id).unwrap();
        assert!(scheduler.is_clear(&session(1)));
    }

    #[test]
    fn an_empty_scheduler_has_no_job() {
        assert!(Scheduler::default().next_job().is_none());
    }
}
