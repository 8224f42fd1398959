//! Tests of the scheduler: what a job holds, whose turn it is, and what may go to the executor
//! behind another job.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use lockstep_testing::numbers::Numbers;
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

/// A scheduler whose jobs have room for a chunk, and none beside it for decode steps.
fn for_one_chunk() -> Scheduler {
    Scheduler::new(limits::CHUNK_POSITIONS)
}

#[test]
fn decode_steps_batch_and_one_prefill_chunk_runs_between_batches() {
    let mut scheduler = for_one_chunk();
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
fn a_job_has_decode_steps_first_and_then_chunks_up_to_its_budget() {
    let mut scheduler = Scheduler::new(300);
    for (number, count) in [(1, 100), (2, 1), (3, 128), (4, 1), (5, 90), (6, 7)] {
        scheduler.push(session(number), tokens(count)).unwrap();
    }
    // 1 + 1 + 100 + 128 leave 70: not enough for the next chunk, which has the turn, and so the
    // short one behind it waits too.
    assert_eq!(run(&mut scheduler), Some(vec![2, 4, 1, 3]));
    scheduler.push(session(1), tokens(100)).unwrap();
    assert_eq!(run(&mut scheduler), Some(vec![5, 6, 1]));
    assert_eq!(run(&mut scheduler), None);
}

#[test]
fn a_chunk_that_is_longer_than_the_budget_is_a_job_and_alternates_with_decode_steps() {
    let mut scheduler = Scheduler::new(40);
    for _ in 0..3 {
        scheduler.push(session(1), tokens(1)).unwrap();
        scheduler.push(session(9), tokens(128)).unwrap();
    }
    let jobs: Vec<_> = std::iter::from_fn(|| run(&mut scheduler)).collect();
    assert_eq!(jobs, [[1], [9], [1], [9], [1], [9]]);
    // With a budget that it leaves something of, the decode steps run behind it.
    let mut scheduler = Scheduler::new(140);
    for _ in 0..2 {
        for number in 1..=20 {
            scheduler.push(session(number), tokens(1)).unwrap();
        }
        scheduler.push(session(99), tokens(128)).unwrap();
    }
    let jobs: Vec<_> = std::iter::from_fn(|| run(&mut scheduler)).collect();
    assert_eq!(jobs[0], (1..=20).collect::<Vec<_>>());
    assert_eq!(jobs[1], [vec![99], (1..=12).collect()].concat());
    assert_eq!(jobs[2], [13, 14, 15, 16, 17, 18, 19, 20, 99]);
    assert_eq!(jobs.len(), 3);
}

/// Random work under random budgets, with the executor one job or two behind.
#[test]
fn no_decode_step_waits_for_more_than_a_budget_and_no_chunk_for_more_than_its_turn() {
    for seed in 0..60 {
        let mut numbers = Numbers::new(seed);
        // With room for all decode steps that there are.
        let budget = 5 + below(&mut numbers, 400);
        let most = budget.max(limits::CHUNK_POSITIONS) as usize;
        let mut scheduler = Scheduler::new(budget);
        let budget = budget as usize;
        let prompts = u8::try_from(1 + below(&mut numbers, 6)).unwrap();
        let decoders = u8::try_from(1 + below(&mut numbers, 5)).unwrap();
        let mut at_executor = VecDeque::new();
        // Rows that ran since a session's step or chunk came to the front of its lane.
        let mut waited: BTreeMap<u8, usize> = BTreeMap::new();
        for _ in 0..300 {
            for number in 1..=prompts + decoders {
                if scheduler.is_clear(&session(number)) && numbers.below(3) > 0 {
                    let chunk = 2 + below(&mut numbers, limits::CHUNK_POSITIONS - 1);
                    let count = if number <= prompts { chunk } else { 1 };
                    scheduler.push(session(number), tokens(count)).unwrap();
                    waited.insert(number, 0);
                }
            }
            while let Some(job) = scheduler.next_job() {
                let rows_of_job: usize = job.items.iter().map(|item| rows(&item.work)).sum();
                assert!(rows_of_job <= budget || job.items.len() == 1, "{rows_of_job} rows");
                let inside = sessions(&job);
                waited.retain(|number, _| !inside.contains(number));
                waited.values_mut().for_each(|waited| *waited += rows_of_job);
                for (number, waited) in &waited {
                    let others = usize::from(prompts + decoders);
                    let fair = if *number > prompts { most } else { others * 2 * most };
                    assert!(*waited <= fair, "seed {seed}: {number} waits for {waited} rows");
                }
                at_executor.push_back(job);
            }
            assert!(at_executor.len() <= limits::JOBS_AT_EXECUTOR);
            let names = at_executor.iter().flat_map(sessions).collect::<Vec<_>>();
            let distinct: BTreeSet<_> = names.iter().collect();
            assert_eq!(distinct.len(), names.len(), "seed {seed}: a session is twice in {names:?}");
            if let Some(job) = at_executor.pop_front() {
                assert!(scheduler.ran(job.id).is_some(), "in order");
            }
        }
    }
}

fn rows(work: &Work) -> usize {
    let Work::Tokens { ids, .. } = work else { panic!("{work:?}") };
    ids.len()
}

fn below(numbers: &mut Numbers, bound: u32) -> u32 {
    u32::try_from(numbers.below(u64::from(bound))).unwrap()
}

#[test]
fn a_job_goes_behind_another_only_when_it_is_complete() {
    // Prompts alone: the budget is used up, so the next chunk waits at the executor.
    let mut scheduler = Scheduler::default();
    for number in [1, 2, 3, 4] {
        scheduler.push(session(number), tokens(128)).unwrap();
    }
    let first = scheduler.next_job().unwrap();
    let second = scheduler.next_job().unwrap();
    assert_eq!([sessions(&first), sessions(&second)], [[1], [2]]);
    assert!(scheduler.next_job().is_none(), "no more than two");
    assert_eq!(scheduler.ran(second.id), None, "the oldest comes first");
    assert!(scheduler.ran(first.id).is_some());
    let third = scheduler.next_job().unwrap();
    assert_eq!(sessions(&third), [3]);
    // Somebody decodes: what is there would go before his next step.
    scheduler.push(session(9), tokens(1)).unwrap();
    assert!(scheduler.ran(second.id).is_some());
    assert!(scheduler.next_job().is_none());
    assert!(scheduler.ran(third.id).is_some());
    assert_eq!(sessions(&scheduler.next_job().unwrap()), [9, 4]);

    // Decode steps alone share the next batch with those that are still to come, unless there are
    // as many as a job takes.
    let mut scheduler = Scheduler::default();
    scheduler.push(session(200), tokens(1)).unwrap();
    let first = scheduler.next_job().unwrap();
    for number in 0..BATCH - 1 {
        scheduler.push(session(number), tokens(1)).unwrap();
        assert!(scheduler.next_job().is_none(), "{number}");
    }
    scheduler.push(session(BATCH), tokens(1)).unwrap();
    assert_eq!(scheduler.next_job().unwrap().items.len(), usize::from(BATCH));
    assert!(scheduler.ran(first.id).is_some());
}

#[test]
fn a_session_that_ended_or_closed_decodes_no_more() {
    for is_dropped in [false, true] {
        let mut scheduler = Scheduler::default();
        scheduler.push(session(1), tokens(1)).unwrap();
        let first = scheduler.next_job().unwrap();
        for number in [5, 6] {
            scheduler.push(session(number), tokens(128)).unwrap();
        }
        assert!(scheduler.next_job().is_none(), "its next step may come");
        match is_dropped {
            true => scheduler.drop_session(session(1)),
            false => scheduler.push(session(1), Work::Finish).unwrap(),
        }
        assert_eq!(sessions(&scheduler.next_job().unwrap()), [5]);
        assert!(scheduler.ran(first.id).is_some());
    }
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
    let mut scheduler = for_one_chunk();
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
fn begins_and_drops_beyond_what_goes_with_one_job_take_turns() {
    let mut scheduler = Scheduler::default();
    let many = u8::try_from(limits::CONTROL_BATCH).unwrap() + 8;
    let late = 200;
    scheduler.push(session(late), Work::Drop).unwrap();
    let mut jobs = 0;
    while !scheduler.is_clear(&session(late)) {
        // As many others as go with a job, and more, always have something of their own.
        for number in 0..many {
            if scheduler.is_clear(&session(number)) {
                scheduler.push(session(number), Work::Drop).unwrap();
            }
        }
        let of_job = run(&mut scheduler).unwrap();
        assert_eq!(of_job.len(), limits::CONTROL_BATCH);
        jobs += 1;
        assert!(jobs <= 2, "session {late} is passed over for those with smaller names");
    }
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
