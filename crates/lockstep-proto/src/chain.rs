//! One stage's chain of marks, as its signer continues it and as everybody else checks it.

use core::fmt;

use lockstep_exact::digest::Digest;
use lockstep_verify::request::Hop;
use lockstep_verify::sign::{Keypair, Signature};
use lockstep_verify::statement::{Mark, RunId};

/// The faults of a mark, by which it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkFault {
    /// The mark does not continue the stage's chain.
    Chain,
    /// The mark is about other layers, another step or another epoch.
    Place,
    /// The mark says that a state leaves the last stage where none does, or none where one does.
    Output,
    /// The stage did not sign it in this run.
    Signature,
}

impl fmt::Display for MarkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chain => "does not continue the stage's chain",
            Self::Place => "is about another place",
            Self::Output => "has an output where no state leaves, or none where one does",
            Self::Signature => "is not signed by the stage in this run",
        })
    }
}

/// The positions of a step: a range that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Positions {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl Positions {
    /// Returns the position after the last one.
    pub(crate) const fn end(self) -> u32 {
        self.first.saturating_add(self.count)
    }
}

/// The state of a stage's chain of marks.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    run: RunId,
    hop: Hop,
    value: Digest,
}

impl Chain {
    /// Returns the chain of a stage that has marked nothing yet.
    pub(crate) const fn start(run: RunId, hop: Hop) -> Self {
        Self { run, hop, value: Mark::chain_start(run) }
    }

    /// Returns the chain of the head: its boundary is after the last layer.
    pub(crate) const fn start_of_head(run: RunId, head: &Hop, layers: u32) -> Self {
        Self::start(run, Hop { node: head.node, first: layers, end: layers })
    }

    /// Returns the chain after the last mark.
    pub(crate) const fn value(&self) -> Digest {
        self.value
    }

    /// Signs the next mark of the chain: about the step at `at`, whose states have these digests.
    pub(crate) fn sign(
        &mut self,
        at: Positions,
        input: Digest,
        output: Digest,
        key: &Keypair,
    ) -> Mark {
        let mark = Mark {
            first: self.hop.first,
            end: self.hop.end,
            epoch: 0,
            position: at.first,
            count: at.count,
            chain_before: self.value,
            input,
            output,
            signature: Signature::NONE,
        };
        let mark = mark.signed(self.run, key);
        self.value = mark.chain_after();
        mark
    }

    /// Checks the next mark of another's chain.
    ///
    /// # Errors
    /// [`MarkFault`]; the chain stays as it was.
    pub(crate) fn check(&mut self, at: Positions, mark: &Mark) -> Result<(), MarkFault> {
        mark.verify(self.run, self.hop.node).map_err(|_| MarkFault::Signature)?;
        let place = (mark.first, mark.end, mark.epoch, mark.position, mark.count);
        if place != (self.hop.first, self.hop.end, 0, at.first, at.count) {
            return Err(MarkFault::Place);
        }
        if mark.chain_before != self.value {
            return Err(MarkFault::Chain);
        }
        self.value = mark.chain_after();
        Ok(())
    }
}
