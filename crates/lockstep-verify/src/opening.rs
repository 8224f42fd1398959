//! What a stage answers to a challenge: the cells' inputs, sums and outputs, with proofs that they
//! are the ones it committed to.

#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use core::ops::Range;

use lockstep_exact::Digest;
use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_bytes, put_count, put_list};

use crate::challenge::Challenge;
use crate::limits;
use crate::sign::{BadSignature, Keypair, NodeId, Signature, Statement, verify};
use crate::slice::Slice;
use crate::statement::Mark;

/// An opening's canonical bytes, signed by the stage together with the challenge they answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedOpening {
    /// The digest that the challenge's signature is over.
    pub challenge: Digest,
    /// The canonical bytes of the [`Opening`].
    pub body: Vec<u8>,
    /// The signature by the stage.
    pub signature: Signature,
}

impl Canonical for SignedOpening {
    fn encode(&self, out: &mut Vec<u8>) {
        self.challenge.encode(out);
        put_bytes(out, &self.body);
        self.signature.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            challenge: Digest::decode(input)?,
            body: input.bytes("opening", limits::OPENING_BYTES)?.to_vec(),
            signature: Signature::decode(input)?,
        })
    }
}

impl Statement for SignedOpening {
    fn statement(&self) -> Digest {
        let body = Digest::of(&self.body);
        Digest::derive("lockstep 2026 opening", &[&self.challenge.0, &body.0])
    }
}

impl SignedOpening {
    /// Signs an opening as the answer to a challenge.
    ///
    /// # Soundness
    /// Only for a challenge that names the stage's own run of the session: the columns of another
    /// run are not under the roots that are challenged.
    #[must_use]
    pub fn new(challenge: Digest, body: Vec<u8>, stage: &Keypair) -> Self {
        let mut opening = Self { challenge, body, signature: Signature::NONE };
        opening.signature = stage.sign(&opening.statement());
        opening
    }

    /// Checks that `stage` has signed the opening for its challenge.
    ///
    /// # Soundness
    /// It says nothing about which challenge is answered: [`SignedOpening::verify_answer`] does.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify(&self, stage: NodeId) -> Result<(), BadSignature> {
        verify(stage, &self.statement(), &self.signature)
    }

    /// Checks that this is the stage's answer to this challenge and to no other.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify_answer(&self, challenge: &Challenge, stage: NodeId) -> Result<(), BadSignature> {
        if self.challenge != challenge.statement() {
            return Err(BadSignature { by: stage });
        }
        self.verify(stage)
    }
}

/// The content of an opening, by what the challenge asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The cells of one part of a layer.
    Layer(LayerOpening),
    /// Cells of the head, one for each state that it read.
    Head(HeadOpening),
    /// Rows at an edge of the stage.
    Edge(Slice),
    /// The mark that the stage got from the one before.
    Mark(Box<Mark>),
}

impl Canonical for Opening {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Layer(opening) => {
                out.push(0);
                opening.encode(out);
            }
            Self::Head(opening) => {
                out.push(1);
                opening.encode(out);
            }
            Self::Edge(slice) => {
                out.push(2);
                slice.encode(out);
            }
            Self::Mark(mark) => {
                out.push(3);
                mark.encode(out);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(Self::Layer(LayerOpening::decode(input)?)),
            1 => Ok(Self::Head(HeadOpening::decode(input)?)),
            2 => Ok(Self::Edge(Slice::decode(input)?)),
            3 => Ok(Self::Mark(Box::new(Mark::decode(input)?))),
            tag => Err(input.unknown_tag("opening", tag)),
        }
    }
}

/// A part of what is opened of one layer. Slices hold one *run* (consecutive positions, [`runs`])
/// each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerOpening {
    /// The KV rows that the challenge names.
    pub kv: Slice,
    /// The states that came into the layer.
    pub inputs: Inputs,
    /// The states after the layer, of the positions that have one: all, but in the model's last
    /// layer only those that feed the head.
    pub outputs: Vec<Slice>,
    /// Per kind of product, in order of use, the sums of all rows ([`crate::sums`]); of experts,
    /// those that each row uses, in increasing order. Positions without a state have only the
    /// first.
    pub sums: Vec<Vec<u8>>,
}

/// The rows that go into a layer, by where they are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// Layer 0: embedding rows as they are; a verifier's key knows their digests.
    Embeddings(Vec<u8>),
    /// Any other layer: slices of the layer before, or of the stage's input column.
    Slices(Vec<Slice>),
}

impl Canonical for Inputs {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Embeddings(rows) => {
                out.push(0);
                put_bytes(out, rows);
            }
            Self::Slices(slices) => {
                out.push(1);
                put_list(out, slices);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => {
                let rows = input.bytes("embedding rows", limits::OPENING_BYTES)?;
                Ok(Self::Embeddings(rows.to_vec()))
            }
            1 => Ok(Self::Slices(input.list("inputs", limits::CHALLENGE_POSITIONS, 8)?)),
            tag => Err(input.unknown_tag("inputs", tag)),
        }
    }
}

impl Canonical for LayerOpening {
    fn encode(&self, out: &mut Vec<u8>) {
        self.kv.encode(out);
        self.inputs.encode(out);
        put_list(out, &self.outputs);
        put_count(out, self.sums.len());
        self.sums.iter().for_each(|sums| put_bytes(out, sums));
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kv = Slice::decode(input)?;
        let inputs = Inputs::decode(input)?;
        let outputs = input.list("outputs", limits::CHALLENGE_POSITIONS, 8)?;
        let slots = input.count("sums", limits::SLOTS, 4)?;
        let sums = (0..slots).map(|_| Ok(input.bytes("sums", limits::OPENING_BYTES)?.to_vec()));
        let sums = sums.collect::<Result<_, DecodeError>>()?;
        Ok(Self { kv, inputs, outputs, sums })
    }
}

/// The opened cells of the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadOpening {
    /// The states that the head read, row after row.
    pub states: Vec<u8>,
    /// The sums of the logits product ([`crate::sums`]), row after row.
    pub sums: Vec<u8>,
}

impl Canonical for HeadOpening {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.states);
        put_bytes(out, &self.sums);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            states: input.bytes("head states", limits::OPENING_BYTES)?.to_vec(),
            sums: input.bytes("logit sums", limits::OPENING_BYTES)?.to_vec(),
        })
    }
}

/// Returns the maximal runs of consecutive positions in an increasing list.
#[must_use]
pub fn runs(positions: &[u32]) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for &position in positions {
        let after = position.saturating_add(1);
        match runs.last_mut() {
            Some(run) if run.end == position => run.end = after,
            _ => runs.push(position..after),
        }
    }
    runs
}
