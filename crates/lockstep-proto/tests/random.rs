//! Random schedules from seeds: delays, pauses, lost links, dead servers and clients, cancels,
//! small machines. Checkers: every session ends; answers equal the single process's; nobody is
//! blamed who did nothing; nothing is left.

mod support;

use std::collections::BTreeSet;

use lockstep_proto::client::ClientError;
use lockstep_proto::failure::{Reason, Refusal};
use lockstep_proto::limits;
use lockstep_proto::server::Capacity;
use lockstep_testing::hash_model::HashModel;
use lockstep_testing::numbers::Numbers;
use lockstep_testing::ring::{Point, Ring, Weather};
use lockstep_verify::request::Request;
use support::{SECOND, nothing_is_left, prompt, receipt_of, ring_with, under_way};

/// A run of one seed.
struct Run {
    seed: u64,
    numbers: Numbers,
    ring: Ring<HashModel>,
    stages: usize,
    requests: Vec<Request>,
    cancelled: BTreeSet<usize>,
    /// Servers that something was done to.
    harmed: BTreeSet<usize>,
    dead: BTreeSet<usize>,
    paused: BTreeSet<usize>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let stages = 1 + numbers.below(5) as usize;
        let capacity = Capacity {
            sessions: 1 + numbers.below(12) as usize,
            retained: 1 + numbers.below(90) as usize,
            batch_positions: 1 + numbers.below(400) as u32,
            ..Capacity::default()
        };
        let mut ring = ring_with(seed, stages, capacity);
        ring.weather = Weather {
            latency_us: 10 + numbers.below(50_000),
            jitter_us: numbers.below(30_000),
            item_us: 1 + numbers.below(5_000),
        };
        if numbers.below(4) == 0 {
            let server = numbers.below(stages as u64) as usize;
            ring.executor(server).unwrap().room = Some(numbers.below(4) as usize);
        }
        Self {
            seed,
            numbers,
            ring,
            stages,
            requests: Vec::new(),
            cancelled: BTreeSet::new(),
            harmed: BTreeSet::new(),
            dead: BTreeSet::new(),
            paused: BTreeSet::new(),
        }
    }

    fn server(&mut self) -> usize {
        self.numbers.below(self.stages as u64) as usize
    }

    fn ask(&mut self) {
        let client = self.requests.len();
        let (prompt_len, tokens) = (1 + self.numbers.below(400), 1 + self.numbers.below(12));
        let mut request = self.ring.request(client, prompt(prompt_len as u32), tokens as u32);
        request.sampling.seed = self.numbers.next_u64();
        let route = self.ring.route();
        assert_eq!(self.ring.ask(request.clone(), route), Ok(client));
        self.requests.push(request);
    }

    /// Does something, mostly to nobody's harm.
    fn act(&mut self, faults: bool) {
        let kinds = if faults { 12 } else { 6 };
        match self.numbers.below(kinds) {
            0 | 1 if self.requests.len() < 14 => self.ask(),
            2 if !self.requests.is_empty() => {
                let client = self.numbers.below(self.requests.len() as u64) as usize;
                self.ring.cancel(client);
                self.cancelled.insert(client);
            }
            6 => {
                let server = self.server();
                self.ring.pause(server);
                self.paused.insert(server);
                self.harmed.insert(server);
            }
            7 | 8 => {
                let server = self.server();
                self.ring.resume(server);
                self.paused.remove(&server);
            }
            9 if self.numbers.below(3) == 0 => {
                let server = self.server();
                self.ring.kill(Point::Server(server));
                self.dead.insert(server);
                self.harmed.insert(server);
            }
            10 => {
                let (one, other) = (self.server(), self.server());
                if one != other {
                    self.ring.cut(Point::Server(one), Point::Server(other));
                    self.harmed.extend([one, other]);
                }
            }
            11 if !self.requests.is_empty() => {
                let client = self.numbers.below(self.requests.len() as u64) as usize;
                self.ring.kill(Point::Client(client));
                self.cancelled.insert(client);
            }
            _ => {}
        }
        let most = if self.numbers.below(10) == 0 { 3 * SECOND } else { SECOND / 10 };
        self.ring.run_for(self.numbers.below(most));
    }

    fn check(&mut self) {
        let seed = self.seed;
        for server in std::mem::take(&mut self.paused) {
            self.ring.resume(server);
        }
        assert!(self.ring.run_to_the_end(2 * limits::CLIENT_PROGRESS_US), "seed {seed}: no end");
        for (client, request) in self.requests.iter().enumerate() {
            match self.ring.outcome(client) {
                Some(Ok(_)) => {
                    receipt_of(&self.ring, client, request);
                }
                Some(Err(error)) => self.check_error(client, error),
                None => assert!(self.cancelled.contains(&client), "seed {seed}"),
            }
        }
        self.ring.run_for(limits::IDLE_US + SECOND);
        let living: Vec<usize> =
            (0..self.stages).filter(|server| !self.dead.contains(server)).collect();
        assert_eq!(under_way(&self.ring, living.iter().copied()), 0, "seed {seed}");
        nothing_is_left(&mut self.ring, living.into_iter());
    }

    /// A stage that is named for anything but a refusal was harmed.
    fn check_error(&self, client: usize, error: &ClientError) {
        let what = format!("seed {}, client {client}: {error}", self.seed);
        match error {
            ClientError::Busy(_) => {}
            ClientError::Failed(failure) => match failure.reason {
                Reason::Busy(_) | Reason::Refused(Refusal::NoRoom) => {}
                Reason::Cancelled => assert!(self.cancelled.contains(&client), "{what}"),
                Reason::LinkLost | Reason::StageSilent => {
                    let was_harmed = |stage: Option<u32>| {
                        stage.is_some_and(|stage| self.harmed.contains(&(stage as usize)))
                    };
                    // One that was paused hears late that another has closed its link meanwhile.
                    let is_late = failure.reason == Reason::LinkLost && was_harmed(failure.by);
                    assert!(was_harmed(failure.stage) || is_late, "{what}");
                }
                _ => assert!(!self.harmed.is_empty() && failure.stage.is_none(), "{what}"),
            },
            _ => panic!("{what}"),
        }
    }
}

#[test]
fn without_faults_every_session_gets_its_answer_or_a_refusal() {
    for seed in 0..60 {
        let mut run = Run::new(seed);
        for _ in 0..60 {
            run.act(false);
        }
        assert!(run.harmed.is_empty());
        run.check();
    }
}

#[test]
fn with_faults_every_session_ends_and_only_what_was_harmed_is_named() {
    let (mut answers, mut failures) = (0, 0);
    for seed in 1_000..1_200 {
        let mut run = Run::new(seed);
        for _ in 0..40 {
            run.act(true);
        }
        run.check();
        for client in 0..run.requests.len() {
            match run.ring.outcome(client) {
                Some(Ok(_)) => answers += 1,
                Some(Err(_)) => failures += 1,
                None => {}
            }
        }
    }
    assert!(answers > 100 && failures > 100, "{answers} answers, {failures} failures");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let mut run = Run::new(seed);
        for _ in 0..40 {
            run.act(true);
        }
        run.check();
        let ends = (0..run.requests.len()).map(|client| run.ring.ended(client));
        (run.ring.now(), ends.collect::<Vec<_>>())
    };
    for seed in 2_000..2_010 {
        assert_eq!(trace(seed), trace(seed));
    }
}
