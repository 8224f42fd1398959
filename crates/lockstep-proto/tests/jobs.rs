//! What a server gives its executor: jobs within their budget, decode steps in all of them, and a
//! second job behind one that runs.

mod support;

use lockstep_exact::digest::Digest;
use lockstep_proto::job::{Done, Execute, Job, Work};
use lockstep_proto::limits;
use lockstep_proto::server::Capacity;
use lockstep_testing::hash_model::{HashModel, LAYERS, model, vocabulary};
use lockstep_testing::ring::Ring;
use lockstep_verify::request::Request;
use support::{SECOND, prompt};

/// An executor that notes which rows of which sessions each job has.
#[derive(Default)]
struct Recorder {
    model: HashModel,
    jobs: Vec<Vec<(Digest, usize)>>,
}

impl Execute for Recorder {
    fn run(&mut self, job: Job) -> Vec<Done> {
        let rows = |work: &Work| match work {
            Work::Head { .. } => 1,
            Work::States { state, .. } => state.rows(),
            Work::Tokens { ids, .. } => ids.len(),
            _ => 0,
        };
        let rows = job.items.iter().map(|item| (item.session, rows(&item.work)));
        self.jobs.push(rows.filter(|(_, rows)| *rows > 0).collect());
        self.model.run(job)
    }
}

/// One server with a budget.
fn server(batch_positions: u32) -> Ring<Recorder> {
    let capacity = Capacity { batch_positions, ..Capacity::default() };
    Ring::new(1, (model(), vocabulary()), &[LAYERS], capacity, |_| Recorder::default())
}

fn ask(ring: &mut Ring<Recorder>, client: usize, prompt_len: u32, tokens: u32) -> Request {
    let mut request = ring.request(client, prompt(prompt_len), tokens);
    request.stops.ignore_end = true;
    let route = ring.route();
    assert_eq!(ring.ask(request.clone(), route), Ok(client));
    request
}

#[test]
fn a_long_prompt_holds_up_nobodys_tokens_for_more_than_one_budget() {
    for budget in [64, 100, limits::BATCH_POSITIONS, 1_000] {
        let mut ring = server(budget);
        let mut requests = vec![ask(&mut ring, 0, 5, 150)];
        assert!(ring.run_until(10 * SECOND, |ring| ring.tokens(0).len() > 3));
        let began = ring.executor(0).unwrap().jobs.len();
        for client in 1..4 {
            requests.push(ask(&mut ring, client, 1_500, 2));
        }
        assert!(ring.run_to_the_end(100 * SECOND));
        for (client, request) in requests.iter().enumerate() {
            let receipt = ring.outcome(client).unwrap().as_ref().unwrap();
            assert_eq!(
                receipt.answer,
                HashModel::whole_answer(request).0,
                "budget {budget}, client {client}"
            );
        }
        let most = budget.max(limits::CHUNK_POSITIONS) as usize;
        let decoder = requests[0].session();
        let jobs = &ring.executor(0).unwrap().jobs[began..];
        let last = jobs.iter().rposition(|job| job.iter().any(|(session, _)| *session == decoder));
        let (mut waited, mut mixed) = (0, 0);
        for job in &jobs[..last.unwrap()] {
            let rows: usize = job.iter().map(|(_, rows)| rows).sum();
            assert!(rows <= most, "budget {budget}: {rows} rows in a job");
            let decodes = job.iter().any(|(session, _)| *session == decoder);
            waited = if decodes { 0 } else { waited + rows };
            assert!(waited <= most, "budget {budget}: a token waits for {waited} rows");
            mixed += usize::from(decodes && job.iter().any(|(_, rows)| *rows > 1));
        }
        assert_eq!(mixed > 10, budget > limits::CHUNK_POSITIONS, "budget {budget}: {mixed} mixed");
    }
}

#[test]
fn the_time_of_a_job_that_waits_begins_when_the_one_before_it_has_run() {
    let mut ring = server(limits::BATCH_POSITIONS);
    for client in 0..2 {
        ask(&mut ring, client, 1_500, 2);
    }
    // Each job has a chunk, and both are at the executor at once.
    ring.run_for(2_500);
    ring.weather.item_us = limits::JOB_US * 2 / 3;
    ring.run_for(limits::JOB_US * 5 / 3);
    assert!((0..2).all(|client| ring.outcome(client).is_none()), "nobody's session has ended");
    assert_eq!(ring.server(0).unwrap().sessions(), 2);
}
