//! A model of a full audit: every step of an answer is computed again and held against what the
//! stages signed.
//!
//! The hash model has no products that a client could check without the weights. So the judge
//! stands in for the client's audit: it has no part in the run, and it uses what an audit of every
//! cell uses, the receipt alone.

use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::state::{State, row_bytes};
use lockstep_proto::job::{Execute as _, Forwarded, Item, Job, Outcome, Work};
use lockstep_testing::hash_model::{HashModel, model};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::statement::{Mark, token_digest};

/// The verdict of a full audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is what the model computes.
    Sound,
    /// The stage at this place of the route signed what the model does not compute.
    Convicts(u32),
    /// The stage at this place and the one before it say different things of what passed between
    /// them.
    Disputed(u32),
}

/// Computes an answer again, and returns the first thing that is wrong.
#[must_use]
pub fn judge(receipt: &Receipt) -> Verdict {
    match Again::new(receipt).run() {
        Ok(()) => Verdict::Sound,
        Err(verdict) => verdict,
    }
}

/// The stages of a receipt, computing once more.
struct Again<'a> {
    receipt: &'a Receipt,
    session: Digest,
    stages: Vec<HashModel>,
    tokens: Vec<u32>,
    head_marks: std::slice::Iter<'a, Mark>,
}

impl<'a> Again<'a> {
    fn new(receipt: &'a Receipt) -> Self {
        let session = receipt.request.session();
        let lease = Arc::new(receipt.lease.clone());
        let mut stages: Vec<HashModel> = Vec::new();
        for stage in 0..lease.route.len() {
            let mut model = HashModel::default();
            let request = (stage == 0).then(|| Arc::new(receipt.request.clone()));
            let begin = Work::Begin { lease: Arc::clone(&lease), stage, request };
            single(&mut model, session, begin);
            stages.push(model);
        }
        let tokens = receipt.request.prompt.iter().chain(&receipt.answer).copied().collect();
        Self { receipt, session, stages, tokens, head_marks: receipt.head_marks.iter() }
    }

    fn run(&mut self) -> Result<(), Verdict> {
        let receipt = self.receipt;
        for step in &receipt.steps {
            let rows = self.step(step.position, step.count, &step.marks)?;
            self.head(step.position + step.count, &rows)?;
        }
        self.roots()
    }

    /// Computes a step in all stages; returns the rows that come out of the last layer.
    fn step(&mut self, position: u32, count: u32, marks: &[Mark]) -> Result<Vec<u8>, Verdict> {
        let ids = self.tokens.get(position as usize..(position + count) as usize);
        let ids = ids.ok_or(Verdict::Convicts(0))?.to_vec();
        let mut work = Work::Tokens { position, ids };
        let mut rows = Vec::new();
        for (place, (stage, mark)) in (0..).zip(self.stages.iter_mut().zip(marks)) {
            let done = single(stage, self.session, work);
            let Some(Outcome::Forwarded(Forwarded { state, input, output })) = done else {
                return Err(Verdict::Convicts(place));
            };
            if mark.input != input {
                return Err(Verdict::Disputed(place));
            }
            if mark.output != output {
                return Err(Verdict::Convicts(place));
            }
            let width = model().hidden as usize;
            let parsed = State::parse(width, &state).map_err(|_| Verdict::Convicts(place));
            work = match parsed {
                Ok(state) => Work::States { position, state },
                // Nothing comes out of the last layer while a prompt is read.
                Err(verdict) if !state.is_empty() => return Err(verdict),
                Err(_) => Work::Forget,
            };
            rows = state;
        }
        Ok(rows)
    }

    /// Computes the tokens that the head chooses from the last of these rows, if there are any.
    fn head(&mut self, end: u32, rows: &[u8]) -> Result<(), Verdict> {
        let width = model().hidden as usize;
        let Some(row) = rows.rchunks_exact(row_bytes(width)).next() else {
            return Ok(());
        };
        let Some(mark) = self.head_marks.next() else {
            return Err(Verdict::Convicts(0));
        };
        let state = State::parse(width, row).map_err(|_| Verdict::Convicts(0))?;
        let head = self.stages.first_mut().ok_or(Verdict::Convicts(0))?;
        let done = single(head, self.session, Work::Head { position: end - 1, state });
        let Some(Outcome::Sampled { input, token }) = done else {
            return Err(Verdict::Convicts(0));
        };
        let output = token.map_or(Digest::ZERO, token_digest);
        let is_right = mark.input == input && mark.output == output;
        if is_right { Ok(()) } else { Err(Verdict::Convicts(0)) }
    }

    fn roots(&mut self) -> Result<(), Verdict> {
        for (place, (stage, segment)) in
            (0..).zip(self.stages.iter_mut().zip(&self.receipt.segments))
        {
            let done = single(stage, self.session, Work::Finish);
            let Some(Outcome::Rooted { input_root, layers }) = done else {
                return Err(Verdict::Convicts(place));
            };
            if (input_root, &layers) != (segment.input_root, &segment.layers) {
                return Err(Verdict::Convicts(place));
            }
        }
        Ok(())
    }
}

fn single(model: &mut HashModel, session: Digest, work: Work) -> Option<Outcome> {
    let done = model.run(Job { id: 0, items: vec![Item { session, work }] }).pop()?;
    Some(done.outcome)
}
