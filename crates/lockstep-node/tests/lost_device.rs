//! A device that fails: whatever the executor was doing with it is refused, for every session of
//! the job and with no number of a failed device, and what the sessions hold is freed.

use std::collections::BTreeSet;
use std::sync::Arc;

use lockstep_exact::Digest;
use lockstep_exact::reference::Reference;
use lockstep_exact::sample::{Sampling, Stops};
use lockstep_exact::state::State;
use lockstep_exact::weights::Backend;
use lockstep_node::executor::{Executor, Weights};
use lockstep_proto::failure::Refusal;
use lockstep_proto::job::{Execute as _, Item, Job, Outcome, Work};
use lockstep_testing::device::Stub;
use lockstep_testing::tiny_model::TinyModel;
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::request::{Hop, Lease, Request};
use lockstep_verify::sign::{NodeId, Signature};
use lockstep_verify::statement::RunId;

const SESSIONS: [Digest; 2] = [Digest([1; 32]), Digest([2; 32])];
const PROMPT: [u32; 5] = [3, 1, 4, 1, 5];

fn executor<O: Backend>(ops: O, model: &TinyModel) -> Executor<O> {
    let weights = Weights::load(&ops, &model.manifest, model.span(), |index| model.blob(index));
    Executor::new(ops, &model.manifest, weights.expect("weights"))
}

fn begin(session: Digest, model: &TinyModel) -> Work {
    let node = NodeId([9; 32]);
    let span = model.span();
    let request = Request {
        manifest: model.manifest.id(),
        adapters: Vec::new(),
        prompt: PROMPT.to_vec(),
        sampling: Sampling::default(),
        stops: Stops::default(),
        nonce: [0; 32],
        session_key: node,
        audit_commitment: Digest::ZERO,
    };
    let lease = Lease {
        session,
        epoch: 0,
        manifest: model.manifest.id(),
        adapters: Vec::new(),
        reuse: None,
        session_key: node,
        prompt_len: PROMPT.len() as u32,
        max_positions: 20,
        route: vec![Hop { node, first: span.start, end: span.end }],
        addresses: Vec::new(),
        signature: Signature::NONE,
    };
    Work::Begin { lease: Arc::new(lease), stage: 0, request: Some(Arc::new(request)) }
}

fn answer(session: Digest) -> Work {
    let challenge = Challenge {
        session,
        run: RunId::NONE,
        receipt: Digest::ZERO,
        target: Target::Layer { layer: 1, first: 0, end: 6, positions: vec![1, 5] },
        signature: Signature::NONE,
    };
    Work::Answer { challenge: Arc::new(challenge) }
}

/// The work of both sessions, job by job; the states that the head reads are those that the model
/// gave.
fn works(model: &TinyModel, state: Option<&State>) -> Vec<[Work; 2]> {
    let tokens = |position, ids: &[u32]| Work::Tokens { position, ids: ids.to_vec() };
    let state = state.cloned().unwrap_or_default();
    let last = PROMPT.len() as u32;
    vec![
        SESSIONS.map(|session| begin(session, model)),
        [tokens(0, &PROMPT), tokens(0, &PROMPT)],
        [last - 1; 2].map(|position| Work::Head { position, state: state.clone() }),
        [tokens(last, &[7]), tokens(last, &[8])],
        [Work::Finish, Work::Finish],
        SESSIONS.map(answer),
    ]
}

fn run<O: Backend>(executor: &mut Executor<O>, works: [Work; 2]) -> Vec<Outcome> {
    let items = SESSIONS.into_iter().zip(works);
    let items = items.map(|(session, work)| Item { session, work }).collect();
    let done = executor.run(Job { id: 0, items });
    assert_eq!([done[0].session, done[1].session], SESSIONS);
    done.into_iter().map(|done| done.outcome).collect()
}

#[test]
fn work_that_a_device_fails_in_is_refused_for_every_session_and_its_numbers_go_nowhere() {
    let model = TinyModel::new(3);
    let mut reference = executor(Reference, &model);
    let first = works(&model, None).into_iter().take(2).map(|works| run(&mut reference, works));
    let forwarded = first.last().expect("two jobs");
    let Outcome::Forwarded(forwarded) = &forwarded[0] else { panic!("{forwarded:?}") };
    let hidden = model.manifest.hidden as usize;
    let state = State::parse(hidden, &forwarded.state).expect("canonical");
    let works = || works(&model, Some(&state)).into_iter();
    let mut reference = executor(Reference, &model);
    let expected: Vec<_> = works().map(|works| run(&mut reference, works)).collect();
    let mut failed_in = BTreeSet::new();
    for answers in 0.. {
        let mut executor = executor(Stub::that_answers(answers), &model);
        let mut has_failed = false;
        for (job, (works, expected)) in works().zip(&expected).enumerate() {
            let got = run(&mut executor, works);
            let is_refused =
                |outcome: &Outcome| matches!(outcome, Outcome::Refused(Refusal::ExecutorFailed));
            for (got, expected) in got.iter().zip(expected) {
                let is_right = format!("{got:?}") == format!("{expected:?}");
                assert!(is_right || is_refused(got), "{answers} answers, job {job}: {got:?}");
            }
            // Challenges are answered one by one; all else is a batch.
            let refused = got.iter().filter(|outcome| is_refused(outcome)).count();
            assert!(refused != 1 || matches!(got[0], Outcome::Answered(_)), "job {job}: {got:?}");
            if refused > 0 {
                failed_in.insert(job);
                has_failed = true;
                break;
            }
        }
        let dropped = run(&mut executor, [Work::Drop, Work::Drop]);
        assert!(dropped.iter().all(|outcome| matches!(outcome, Outcome::Dropped)));
        assert_eq!((executor.sessions(), executor.pages()), (0, 0));
        if !has_failed {
            break;
        }
    }
    // Wherever it computes: the prompt, the head, the step after it, the openings.
    assert_eq!(failed_in, [1, 2, 3, 5].into());
}
