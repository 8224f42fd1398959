//! Tests of how the scheduler shares its jobs out between clients.

use std::collections::BTreeMap;

use lockstep_testing::numbers::Numbers;

use super::*;
use crate::fair::Weight;

fn session(client: u8, number: u8) -> Digest {
    let mut session = Digest([client; 32]);
    session.0[1] = number;
    session
}

fn tokens(count: u32) -> Work {
    Work::Tokens { position: 0, ids: (0..count).collect() }
}

fn enter(scheduler: &mut Scheduler, client: u8, number: u8, weight: u8) {
    let weight = Weight::new(weight).unwrap();
    let (neighbour, first) = (Digest::ZERO, Digest::ZERO);
    let account = Account { neighbour, first, client: Digest([client; 32]), weight };
    scheduler.enter(session(client, number), account);
}

fn rows(item: &Item) -> u64 {
    let Work::Tokens { ids, .. } = &item.work else { panic!("{item:?}") };
    ids.len() as u64
}

fn below(numbers: &mut Numbers, bound: u32) -> u32 {
    u32::try_from(numbers.below(u64::from(bound))).unwrap()
}

/// The rows that each client had of a job.
fn of_clients(job: &Job) -> BTreeMap<u8, u64> {
    let mut of = BTreeMap::new();
    for item in &job.items {
        *of.entry(item.session.0[0]).or_default() += rows(item);
    }
    of
}

/// Runs jobs in which these clients, each with so many sessions, always want one more step of so
/// many rows, and returns what each has had.
fn served(budget: u32, clients: &[(u8, u8, u32)], jobs: u32) -> BTreeMap<u8, u64> {
    let mut scheduler = Scheduler::new(budget);
    for (client, (sessions, weight, _)) in (0..).zip(clients) {
        (0..*sessions).for_each(|number| enter(&mut scheduler, client, number, *weight));
    }
    let mut all = BTreeMap::new();
    for _ in 0..jobs {
        for (client, (sessions, _, rows)) in (0..).zip(clients) {
            for session in (0..*sessions).map(|number| session(client, number)) {
                if scheduler.waiting(&session) == 0 {
                    scheduler.push(session, tokens(*rows)).unwrap();
                }
            }
        }
        let job = scheduler.next_job().unwrap();
        for (client, rows) in of_clients(&job) {
            *all.entry(client).or_default() += rows;
        }
        scheduler.ran(job.id).unwrap();
    }
    all
}

#[test]
fn a_client_with_many_sessions_gets_no_more_than_one_with_one() {
    // Prompts: the jobs have room for one chunk each.
    let prompts = served(192, &[(40, 1, 128), (1, 1, 128)], 200);
    assert_eq!(prompts, BTreeMap::from([(0, 100 * 128), (1, 100 * 128)]));
    // Decode steps: 100 sessions want each of 64 places, and whoever has one gets one every time.
    let tokens = served(192, &[(99, 1, 1), (1, 1, 1)], 200);
    assert_eq!(tokens, BTreeMap::from([(0, 63 * 200), (1, 200)]));
    let halves = served(192, &[(70, 1, 1), (40, 1, 1)], 200);
    assert_eq!(halves, BTreeMap::from([(0, 32 * 200), (1, 32 * 200)]));
}

#[test]
fn a_client_with_long_chunks_gets_no_more_rows_than_one_with_short_ones() {
    let all = served(192, &[(8, 1, 128), (40, 1, 5)], 1_000);
    let (long, short) = (all[&0], all[&1]);
    assert!(long.abs_diff(short) <= 128, "{long} and {short}");
}

#[test]
fn a_neighbour_whose_sessions_are_all_of_other_clients_gets_no_more_than_one_with_one_client() {
    // Rows of a prompt, or decode steps of which half as many find a place as want one.
    for rows in [128, 1] {
        let mut scheduler = Scheduler::default();
        for number in 0..64 {
            let most = Weight::new(limits::CLIENT_WEIGHT_MOST).unwrap();
            for (neighbour, client, weight) in [(1, number + 10, most), (2, 2, Weight::ONE)] {
                let [of, client] = [neighbour, client].map(|one| Digest([one; 32]));
                let account = Account { neighbour: of, first: of, client, weight };
                scheduler.enter(session(neighbour, number), account);
            }
        }
        let mut all: BTreeMap<u8, u64> = BTreeMap::new();
        for _ in 0..100 {
            for session in (0..64).flat_map(|number| [1, 2].map(|of| session(of, number))) {
                if scheduler.waiting(&session) == 0 {
                    scheduler.push(session, tokens(rows)).unwrap();
                }
            }
            let job = scheduler.next_job().unwrap();
            for (neighbour, rows) in of_clients(&job) {
                *all.entry(neighbour).or_default() += rows;
            }
            scheduler.ran(job.id).unwrap();
        }
        assert!(all[&1].abs_diff(all[&2]) <= u64::from(rows), "{rows}: {all:?}");
    }
}

#[test]
fn weights_are_kept_and_what_nobody_else_wants_is_free() {
    let all = served(192, &[(50, 3, 1), (50, 1, 1)], 100);
    assert_eq!(all, BTreeMap::from([(0, 48 * 100), (1, 16 * 100)]));
    // The second one wants less than its share: the first one has the rest.
    let all = served(192, &[(70, 1, 1), (10, 1, 1)], 100);
    assert_eq!(all, BTreeMap::from([(0, 54 * 100), (1, 10 * 100)]));
}

#[test]
fn prompts_that_nobody_else_wants_read_are_not_paid_for_with_tokens() {
    let mut scheduler = Scheduler::default();
    (0..100).for_each(|number| enter(&mut scheduler, 0, number, 1));
    (0..2).for_each(|number| enter(&mut scheduler, 1, number, 1));
    for _ in 0..100 {
        for number in 0..100 {
            if scheduler.waiting(&session(0, number)) == 0 {
                scheduler.push(session(0, number), tokens(1)).unwrap();
            }
        }
        scheduler.push(session(1, 0), tokens(128)).unwrap();
        scheduler.push(session(1, 1), tokens(1)).unwrap();
        let job = scheduler.next_job().unwrap();
        scheduler.ran(job.id).unwrap();
        assert_eq!(of_clients(&job), BTreeMap::from([(0, 63), (1, 129)]));
    }
}

/// What two clients have had since both had something left over from every job, as the difference
/// of theirs, each times the other's weight: now, at the least and at the most.
#[derive(Clone, Copy, Default)]
struct Lag {
    now: i64,
    least: i64,
    most: i64,
}

/// A client of the test below: its weight, its sessions that read prompts and that decode, and how
/// soon these want their next step.
struct Wants {
    weight: u8,
    prompts: u8,
    decoders: u8,
    eager: u32,
}

impl Wants {
    fn draw(numbers: &mut Numbers) -> Self {
        let mut few = |most: u32| u8::try_from(1 + below(numbers, most)).unwrap();
        let (weight, prompts, decoders) = (few(4), few(6), few(60));
        Self { weight, prompts, decoders, eager: few(8).into() }
    }

    fn sessions(&self) -> core::ops::Range<u8> {
        0..self.prompts + self.decoders
    }

    fn is_prompt(&self, number: u8) -> bool {
        number < self.prompts
    }

    /// Whether a session of this client has a step of the kind that the job did not take.
    fn has_left(&self, scheduler: &Scheduler, client: u8, is_chunk: bool) -> bool {
        let kind = self.sessions().filter(|number| self.is_prompt(*number) == is_chunk);
        kind.into_iter().any(|number| scheduler.waiting(&session(client, number)) > 0)
    }
}

/// Counts what a job gave to the clients in one kind of steps, and checks every two of them that
/// had some left over. Returns how many pairs there were.
fn compare(
    lags: &mut BTreeMap<(u8, u8), Lag>,
    clients: &[Wants],
    (scheduler, job, is_chunk): (&Scheduler, &Job, bool),
) -> usize {
    let mut had: BTreeMap<u8, i64> = BTreeMap::new();
    for item in job.items.iter().filter(|item| (rows(item) > 1) == is_chunk) {
        *had.entry(item.session.0[0]).or_default() += i64::try_from(rows(item)).unwrap();
    }
    let waiting: Vec<(u8, &Wants)> = (0..)
        .zip(clients)
        .filter(|(client, wants)| wants.has_left(scheduler, *client, is_chunk))
        .collect();
    let waits = |client: u8| waiting.iter().any(|(other, _)| *other == client);
    lags.retain(|(one, other), _| waits(*one) && waits(*other));
    for (place, (one, a)) in waiting.iter().enumerate() {
        for (other, b) in &waiting[place + 1..] {
            let of =
                |client: &u8, weight: u8| had.get(client).map_or(0, |had| *had) * i64::from(weight);
            let lag = lags.entry((*one, *other)).or_default();
            lag.now += of(one, b.weight) - of(other, a.weight);
            lag.least = lag.least.min(lag.now);
            lag.most = lag.most.max(lag.now);
            let largest = if is_chunk { limits::CHUNK_POSITIONS } else { 1 };
            let bound = limits::fair_lag(u64::from(largest), (a.weight, b.weight));
            let bound = bound * u64::from(a.weight) * u64::from(b.weight) / 1000;
            let lag = lag.least.abs_diff(lag.most);
            assert!(lag <= bound, "{one} and {other} differ by {lag}, more than {bound}");
        }
    }
    lags.len()
}

#[test]
fn while_two_clients_wait_their_rows_differ_from_their_shares_by_the_bound_at_most() {
    let mut compared = [0, 0];
    for seed in 0..12 {
        let mut numbers = Numbers::new(seed);
        let mut scheduler = Scheduler::default();
        let count = 2 + below(&mut numbers, 4);
        let clients: Vec<Wants> = (0..count).map(|_| Wants::draw(&mut numbers)).collect();
        for (client, wants) in (0..).zip(&clients) {
            wants.sessions().for_each(|number| {
                enter(&mut scheduler, client, number, wants.weight);
            });
        }
        let mut lags = [BTreeMap::new(), BTreeMap::new()];
        for _ in 0..300 {
            for (client, wants) in (0..).zip(&clients) {
                for number in wants.sessions() {
                    let session = session(client, number);
                    if scheduler.is_clear(&session) && below(&mut numbers, 8) < wants.eager {
                        let chunk = 2 + below(&mut numbers, limits::CHUNK_POSITIONS - 1);
                        let rows = if wants.is_prompt(number) { chunk } else { 1 };
                        scheduler.push(session, tokens(rows)).unwrap();
                    }
                }
            }
            let Some(job) = scheduler.next_job() else { continue };
            for (kind, is_chunk) in [false, true].into_iter().enumerate() {
                let of = (&scheduler, &job, is_chunk);
                compared[kind] += compare(&mut lags[kind], &clients, of);
            }
            scheduler.ran(job.id).unwrap();
        }
    }
    assert!(compared.iter().all(|pairs| *pairs > 1_000), "{compared:?} pairs were compared");
}
