//! How fast this machine computes: an executor is timed on sessions that nobody asked for.
//!
//! What is timed is what a session costs, commitments included, because the executor runs the same
//! jobs as for clients. Times are the shortest of a few rounds: what disturbs a machine only ever
//! makes it slower, and a busy machine says so by its queue.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use lockstep_exact::digest::Digest;
use lockstep_exact::sample::{Sampling, Stops};
use lockstep_exact::state::State;
use lockstep_proto::announcement::{BATCHES, Speed};
use lockstep_proto::job::{Execute, Item, Job, Outcome, Work};
use lockstep_proto::limits::CHUNK_POSITIONS;
use lockstep_proto::model::Model;
use lockstep_verify::request::{Hop, Lease, Request};
use lockstep_verify::sign::{NodeId, Signature};

/// Rounds of which the fastest counts.
const ROUNDS: u32 = 3;
/// Sessions that are timed together.
const SESSIONS: u32 = 16;

/// Measures how fast an executor computes the layers `span` of a model, and the head if the span
/// starts at layer 0: some tens of decode steps and one chunk of a prompt. Returns
/// [`Speed::UNKNOWN`] if the executor refuses what is asked, for lack of memory for instance.
pub fn speed(executor: &mut impl Execute, model: &Model, span: &Range<u32>) -> Speed {
    let mut bench = Bench { executor, model, span, jobs: 0, position: 0 };
    // default: an executor that refuses has not been measured
    let speed = bench.run().unwrap_or(Speed::UNKNOWN);
    bench.end();
    speed
}

struct Bench<'a, E> {
    executor: &'a mut E,
    model: &'a Model,
    span: &'a Range<u32>,
    jobs: u64,
    position: u32,
}

impl<E: Execute> Bench<'_, E> {
    fn run(&mut self) -> Option<Speed> {
        for session in 0..SESSIONS {
            let work = self.begin();
            self.timed(vec![Item { session: name(session), work }])?;
        }
        let mut chunk_ns = u64::MAX;
        for session in 0..ROUNDS {
            let items = vec![Item { session: name(session), work: self.step(CHUNK_POSITIONS) }];
            chunk_ns = chunk_ns.min(self.timed(items)?);
        }
        let item = |session| Item { session: name(session), work: self.step(1) };
        let others = (ROUNDS..SESSIONS).map(item).collect();
        self.timed(others)?;
        let layers = u64::from(self.span.end - self.span.start).max(1);
        let mut positions = vec![CHUNK_POSITIONS; ROUNDS as usize];
        positions.resize(SESSIONS as usize, 1);
        let mut decode_ns = [0; 3];
        let mut head_ns = [0; 3];
        for (at, batch) in BATCHES.into_iter().enumerate() {
            let (mut step, mut head) = (u64::MAX, u64::MAX);
            for _ in 0..ROUNDS {
                step = step.min(self.decode(batch, &mut positions)?);
                if self.span.start == 0 {
                    head = head.min(self.head(batch, &positions)?);
                }
            }
            *decode_ns.get_mut(at)? = whole(step / layers);
            *head_ns.get_mut(at)? = if self.span.start == 0 { whole(head) } else { 0 };
        }
        let prefill_ns = whole(chunk_ns / layers / u64::from(CHUNK_POSITIONS));
        Some(Speed { decode_ns, head_ns, prefill_ns })
    }

    /// One decode step of the first `batch` sessions.
    fn decode(&mut self, batch: u32, positions: &mut [u32]) -> Option<u64> {
        let mut items = Vec::new();
        for (session, position) in (0..batch).zip(positions) {
            self.position = *position;
            items.push(Item { session: name(session), work: self.step(1) });
            *position += 1;
        }
        self.timed(items)
    }

    /// The logits and tokens of the first `batch` sessions.
    fn head(&mut self, batch: u32, positions: &[u32]) -> Option<u64> {
        let item = |(session, position): (u32, &u32)| Item {
            session: name(session),
            work: Work::Head { position: position - 1, state: self.states(1) },
        };
        let items = (0..batch).zip(positions).map(item).collect();
        self.timed(items)
    }

    /// The work of `count` positions at [`Bench::position`].
    fn step(&self, count: u32) -> Work {
        let position = self.position;
        match self.span.start {
            0 => Work::Tokens { position, ids: vec![0; count as usize] },
            _ => Work::States { position, state: self.states(count) },
        }
    }

    /// States of numbers between a half and 1, of both signs.
    fn states(&self, rows: u32) -> State {
        let mut state = State::zeros(rows as usize, self.model.hidden as usize);
        let (mantissas, exponents) = state.parts_mut();
        let value = |at: usize| 16_384 + (at.wrapping_mul(7919) & 0x3fff) as i16;
        for (at, mantissa) in mantissas.iter_mut().enumerate() {
            *mantissa = if at % 3 == 0 { -value(at) } else { value(at) };
        }
        exponents.fill(128 - 15);
        state
    }

    fn begin(&self) -> Work {
        let is_first = self.span.start == 0;
        let nobody = NodeId([0; 32]);
        let request = Request {
            manifest: self.model.manifest,
            adapters: Vec::new(),
            prompt: vec![0; CHUNK_POSITIONS as usize],
            sampling: Sampling::default(),
            stops: Stops::default(),
            nonce: [0; 32],
            session_key: nobody,
            audit_commitment: Digest::ZERO,
        };
        let lease = Lease {
            session: Digest::ZERO,
            epoch: 0,
            manifest: self.model.manifest,
            adapters: Vec::new(),
            reuse: None,
            session_key: nobody,
            prompt_len: 1,
            max_positions: 2 * CHUNK_POSITIONS,
            route: vec![Hop { node: nobody, first: self.span.start, end: self.span.end }],
            addresses: Vec::new(),
            signature: Signature::NONE,
        };
        let request = is_first.then(|| Arc::new(request));
        Work::Begin { lease: Arc::new(lease), stage: 0, request }
    }

    /// Runs a job and returns the nanoseconds that it took; none if any of it was refused.
    fn timed(&mut self, items: Vec<Item>) -> Option<u64> {
        let id = self.jobs;
        self.jobs += 1;
        let began = Instant::now();
        let done = self.executor.run(Job { id, items });
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let is_refused = done.iter().any(|done| matches!(done.outcome, Outcome::Refused(_)));
        (!is_refused).then_some(took)
    }

    /// Frees what the sessions took.
    fn end(&mut self) {
        let drop = |session| Item { session: name(session), work: Work::Drop };
        let items = (0..SESSIONS).map(drop).collect();
        self.executor.run(Job { id: self.jobs, items });
    }
}

/// A measured time as announcements have it: not 0, which says that nothing was measured.
fn whole(ns: u64) -> u32 {
    u32::try_from(ns).unwrap_or(u32::MAX).max(1)
}

/// The name of a session that nobody else can have, since it is no digest of a request.
fn name(session: u32) -> Digest {
    Digest::derive("lockstep 2026 session of a measurement", &[&session.to_le_bytes()])
}

#[cfg(test)]
mod tests {
    use lockstep_proto::job::Done;
    use lockstep_testing::hash_model::{HashModel, model};

    use super::*;

    #[test]
    fn a_speed_has_all_of_its_times_and_nothing_is_left_behind() {
        let mut executor = HashModel::default();
        let head = speed(&mut executor, &model(), &(0..3));
        assert!(head.decode_ns.iter().chain(&head.head_ns).all(|ns| *ns > 0), "{head:?}");
        let behind = speed(&mut executor, &model(), &(3..5));
        assert!(behind.is_known() && behind.head_ns == [0; 3], "{behind:?}");
    }

    /// Refuses everything.
    struct Full;

    impl Execute for Full {
        fn run(&mut self, job: Job) -> Vec<Done> {
            let refused = lockstep_proto::failure::Refusal::CannotKeep;
            let done =
                |item: Item| Done { session: item.session, outcome: Outcome::Refused(refused) };
            job.items.into_iter().map(done).collect()
        }
    }

    #[test]
    fn an_executor_that_refuses_has_no_speed() {
        assert_eq!(speed(&mut Full, &model(), &(0..3)), Speed::UNKNOWN);
    }
}
