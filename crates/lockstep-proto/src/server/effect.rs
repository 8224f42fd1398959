//! What a session wants of the server around it, and what it has at hand while it acts.

use lockstep_verify::sign::Keypair;
use lockstep_verify::statement::Mark;

use crate::frame::{RingFrame, ToClient};
use crate::job::Work;
use crate::now::Now;

/// An effect of a session: what the server around it has to do for it.
#[derive(Debug)]
pub(super) enum Effect {
    /// Something may be ready to be signed: [`super::session::Session::settle`] is to be called
    /// once everything urgent is out.
    Due,
    /// Send this frame to the next stage.
    Next(RingFrame),
    /// The session is over here and can be challenged until its deadline.
    Retire {
        /// The positions that were computed.
        positions: u32,
        /// The marks that came from the stage before, oldest first.
        received: Vec<Mark>,
    },
    /// Have the executor do this work.
    Run(Work),
    /// Send this frame to the client.
    Tell(ToClient),
}

/// The turn of a session: the time, the key, and the effects of one input.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    /// The time at which the input came.
    pub(super) now: Now,
    /// The server's key, which signs for the stage.
    pub(super) key: &'a Keypair,
    /// For how many microseconds from now a session that closes is kept for challenges.
    pub(super) retention_us: u64,
    /// The effects that the session wants, in order.
    pub(super) out: Vec<Effect>,
}
