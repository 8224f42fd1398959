//! Compute is I/O: what the machines ask of an executor, and what it answers.
//!
//! A job is a batch of items of different sessions, at most one item a session. The executor runs
//! the items of a job in any grouping, because batching cannot change a bit, and answers every item
//! once, in order. Up to [`crate::limits::JOBS_AT_EXECUTOR`] jobs are given to it at a time; it
//! runs and answers them one by one, in the order in which they were given. No session is in two of
//! them.

use std::sync::Arc;

use lockstep_exact::digest::Digest;
use lockstep_exact::state::State;
use lockstep_verify::challenge::Challenge;
use lockstep_verify::request::{Lease, Request};
use lockstep_verify::statement::LayerRoots;

use crate::failure::Refusal;

/// A batch of work for the executor.
#[derive(Clone, Debug)]
pub struct Job {
    /// The number of the job; jobs count up from 0.
    pub id: u64,
    /// The work, at most one item a session.
    pub items: Vec<Item>,
}

/// The part of a job that one session has.
#[derive(Clone, Debug)]
pub struct Item {
    /// The name of the session.
    pub session: Digest,
    /// The work to do for that session.
    pub work: Work,
}

/// The work that an executor can be given. For one session it comes in the order `Begin`, then any
/// of `Tokens`, `States` and `Head`, then `Finish`, then any `Answer` and `Forget`, and `Drop` at
/// any time as the last.
#[derive(Clone, Debug)]
pub enum Work {
    /// Answer a challenge from the columns of a finished session. No such job takes much longer
    /// than one with a chunk of a prompt: where columns have to be computed again, each does a
    /// slice of that. Outcome: [`Outcome::Answered`], or [`Outcome::Unfinished`].
    Answer {
        /// Its signature and limits are checked; the cells are inside the span and the session.
        challenge: Arc<Challenge>,
    },
    /// Make room for a session. The outcome is [`Outcome::Begun`].
    Begin {
        /// The layers to run are `lease.route[stage]`, a part of what the server holds.
        lease: Arc<Lease>,
        /// The place of this stage in the route.
        stage: usize,
        /// The request, at stage 0 only: the head samples with it.
        request: Option<Arc<Request>>,
    },
    /// Free everything of the session. The outcome is [`Outcome::Dropped`].
    Drop,
    /// Close the columns of the session and compute their roots. The outcome is
    /// [`Outcome::Rooted`].
    Finish,
    /// Free what was computed for a challenge that was unfinished and that nobody waits for any
    /// more. Outcome: [`Outcome::Forgotten`].
    Forget,
    /// Logits of the state after the last layer, and sampling. Outcome: [`Outcome::Sampled`].
    Head {
        /// The position of the state; the token is for the position after it.
        position: u32,
        /// The state to read, which is one row.
        state: State,
    },
    /// Run the span over states. The outcome is [`Outcome::Forwarded`].
    States {
        /// The first position of the states.
        position: u32,
        /// The states, with one row for each position.
        state: State,
    },
    /// Embed tokens and run the span. The outcome is [`Outcome::Forwarded`].
    Tokens {
        /// The first position of the tokens.
        position: u32,
        /// One id a position, all below the vocabulary's size.
        ids: Vec<u32>,
    },
}

/// The answer of an executor for one item.
#[derive(Clone, Debug)]
pub struct Done {
    /// The name of the session.
    pub session: Digest,
    /// The outcome of the item's work.
    pub outcome: Outcome,
}

/// The outcome of the work of one item.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The canonical bytes of the opening of the challenged cells, unsigned.
    Answered(Vec<u8>),
    /// There is room for the session.
    Begun,
    /// Everything of the session is freed.
    Dropped,
    /// The memory of an unfinished challenge is freed.
    Forgotten,
    /// The span has been run over the step.
    Forwarded(Forwarded),
    /// The work could not be done; the session ends.
    Refused(Refusal),
    /// The roots of the columns are computed.
    Rooted {
        /// The root of the rows that came in.
        input_root: Digest,
        /// Roots of every layer of the span.
        layers: Vec<LayerRoots>,
    },
    /// The head has chosen a token.
    Sampled {
        /// The BLAKE3 digest of the state row.
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

/// An executor, which runs jobs one after the other.
pub trait Execute {
    /// Runs one job to its end and answers its items in order.
    fn run(&mut self, job: Job) -> Vec<Done>;
}
