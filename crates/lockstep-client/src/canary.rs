//! Canaries: requests that hold nothing of a user, over servers that have shown nothing yet. Every
//! cell of the answer is opened and checked, so what a canary proves is that its servers hold what
//! they announce and compute it right.

use std::path::PathBuf;
use std::time::Duration;

use lockstep_verify::draw::Extent;
use lockstep_verify::key::Key;
use tokio::time::timeout;

use crate::audit::{Audit, Audited, Event};
use crate::backend::Backend;
use crate::own::{OwnSecret, OwnSecretError};
use crate::place::Place;
use crate::random::{self, NoRandomness};
use crate::receipts::{self, NotKept};
use crate::request::{Parameters, RequestError};
use crate::ring::{Answer, AskError, BrokenOff, Ring};

/// Time for a canary and its audit.
const DEADLINE: Duration = Duration::from_secs(30);
/// Tokens of the prompt, which are drawn at random.
const PROMPT_TOKENS: usize = 4;
/// Tokens of the answer: enough for the time from one to the next.
const ANSWER_TOKENS: u32 = 4;

/// The key and the operations that check the answers to canaries.
#[derive(Clone, Copy)]
pub struct Checker<'a> {
    /// The operations of this machine.
    pub ops: &'a Backend,
    /// The secret key of the model.
    pub key: &'a Key,
}

/// The reasons why nothing is known of the servers after a canary.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The ring could not be asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The answer did not come: a server of the ring was lost or refused.
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
    /// The system gave no random bytes.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The home's secret can't be used.
    #[error(transparent)]
    Own(#[from] OwnSecretError),
    /// The model takes no such prompt.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The answer or its audit took too long.
    #[error("no verified answer in {} s", DEADLINE.as_secs())]
    TooLate,
}

/// An answer to a canary, with its audit and the file of its receipt.
pub(crate) struct Sent {
    pub(crate) answer: Answer,
    pub(crate) audited: Audited,
    pub(crate) saved: Result<PathBuf, NotKept>,
}

/// Sends a canary over a ring, and audits all of its answer. The receipt is kept in the receipts
/// folder.
///
/// # Errors
/// [`CanaryError`].
pub(crate) async fn send(
    place: &Place,
    ring: &Ring,
    checker: Checker<'_>,
) -> Result<Sent, CanaryError> {
    timeout(DEADLINE, answered(place, ring, checker)).await.unwrap_or(Err(CanaryError::TooLate))
}

async fn answered(
    place: &Place,
    ring: &Ring,
    Checker { ops, key }: Checker<'_>,
) -> Result<Sent, CanaryError> {
    let manifest = &ring.served().manifest;
    let parameters =
        Parameters { max_tokens: ANSWER_TOKENS, ignore_end: true, ..Parameters::default() };
    let question = parameters.question(prompt(manifest.vocabulary)?, manifest)?;
    let own = OwnSecret::load_or_create(&place.home)?;
    let answer = ring.ask(question, &own, Some(Extent::Full))?.finish().await?;
    let saved = receipts::save(place, &answer.unopened(), None);
    let mut audit = Audit::begin(ring, ops, key, &answer, saved.as_deref().ok());
    while let Some(event) = audit.next().await {
        if let Event::Finished(audited) = event {
            drop(audit);
            return Ok(Sent { answer, audited: *audited, saved });
        }
    }
    Err(CanaryError::TooLate)
}

/// Draws the tokens of a prompt.
fn prompt(vocabulary: u32) -> Result<Vec<u32>, NoRandomness> {
    let token = || {
        let drawn = random::seed()?.checked_rem(u64::from(vocabulary)).unwrap_or(0);
        Ok(u32::try_from(drawn).unwrap_or(0))
    };
    (0..PROMPT_TOKENS).map(|_| token()).collect()
}
