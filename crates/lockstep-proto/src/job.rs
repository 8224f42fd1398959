//! Compute is I/O: what the machines ask of an executor, and what it answers.
//!
//! A job is a batch of items of different sessions, at most one item a session. The executor runs
//! the items of a job in any grouping, because batching cannot change a bit, and answers every item
//! once, in order. Jobs are run one at a time, in the order in which they were given.

use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::state::State;
use lockstep_verify::challenge::Challenge;
use lockstep_verify::request::{Lease, Request};
use lockstep_verify::statement::LayerRoots;

use crate::failure::Refusal;

/// A batch for the executor.
#[derive(Clone, Debug)]
pub struct Job {
    /// Counts up from 0.
    pub id: u64,
    /// The work, at most one item a session.
    pub items: Vec<Item>,
}

/// One session's part of a job.
#[derive(Clone, Debug)]
pub struct Item {
    /// The session.
    pub session: Digest,
    /// What to do.
    pub work: Work,
}

/// What an executor can be asked to do. For one session it comes in the order `Begin`, then any of
/// `Tokens`, `States` and `Head`, then `Finish`, then any `Answer` and `Forget`, and `Drop` at any
/// time as the last.
#[derive(Clone, Debug)]
pub enum Work {
    /// Answer a challenge from the columns of a finished session. No such job takes much longer
    /// than one with a chunk of a prompt: where columns have to be computed again, each does a
    /// slice of that. Outcome: [`Outcome::Answered`], or [`Outcome::Unfinished`].
    Answer {
        /// Its signature and limits are checked; the cells are inside the span and the session.
        challenge: Arc<Challenge>,
    },
    /// Make room for a session. Outcome: [`Outcome::Begun`].
    Begin {
        /// The layers to run are `lease.route[stage]`, a part of what the server holds.
        lease: Arc<Lease>,
        /// The place in the route.
        stage: usize,
        /// The request, at stage 0 only: the head samples with it.
        request: Option<Arc<Request>>,
    },
    /// Free everything of the session. Outcome: [`Outcome::Dropped`].
    Drop,
    /// Close the columns. Outcome: [`Outcome::Rooted`].
    Finish,
    /// Free what was computed for a challenge that was unfinished and that nobody waits for any
    /// more. Outcome: [`Outcome::Forgotten`].
    Forget,
    /// Logits of the state after the last layer, and sampling. Outcome: [`Outcome::Sampled`].
    Head {
        /// The position of the state; the token is for the position after it.
        position: u32,
        /// One row.
        state: State,
    },
    /// Run the span over states. Outcome: [`Outcome::Forwarded`].
    States {
        /// The first position.
        position: u32,
        /// One row a position.
        state: State,
    },
    /// Embed tokens and run the span. Outcome: [`Outcome::Forwarded`].
    Tokens {
        /// The first position.
        position: u32,
        /// One id a position, all below the vocabulary's size.
        ids: Vec<u32>,
    },
}

/// What an executor answers for one item.
#[derive(Clone, Debug)]
pub struct Done {
    /// The session.
    pub session: Digest,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an item.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The canonical bytes of the opening of the challenged cells, unsigned.
    Answered(Vec<u8>),
    /// There is room.
    Begun,
    /// Everything of the session is freed.
    Dropped,
    /// What was computed for an unfinished challenge is freed.
    Forgotten,
    /// The span ran.
    Forwarded(Forwarded),
    /// It could not be done; the session ends.
    Refused(Refusal),
    /// The columns' roots.
    Rooted {
        /// Root of the rows that came in.
        input_root: Digest,
        /// Roots of every layer of the span.
        layers: Vec<LayerRoots>,
    },
    /// A token.
    Sampled {
        /// BLAKE3 of the state row.
        input: Digest,
        /// The token, or `None` if the head gives none: the state is the overflow marker, or a
        /// logit overflowed.
        token: Option<u32>,
    },
    /// A part of what the challenge takes is done. It is to be put before the session's other work,
    /// and goes on from there.
    Unfinished(Arc<Challenge>),
}

/// The result of a span over a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// Canonical rows after the span; after the model's last layer only those of positions from
    /// `prompt_len - 1` on, so possibly none.
    pub state: Vec<u8>,
    /// The mark's input digest: of the token ids, or of the state bytes that came in.
    pub input: Digest,
    /// The mark's output digest: of `state`, or zero if that is empty.
    pub output: Digest,
}

/// Runs jobs.
pub trait Execute {
    /// Runs one job to its end and answers its items in order.
    fn run(&mut self, job: Job) -> Vec<Done>;
}
