//! What a stage answers to a challenge: the cells' inputs, sums and outputs, with proofs that they
//! are the ones it committed to.

use lockstep_exact::Digest;
use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_bytes};

use crate::limits;
use crate::sign::{BadSignature, Keypair, NodeId, Signature, Statement, verify};

/// An opening's canonical bytes, signed by the stage together with the challenge they answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedOpening {
    /// The digest that the challenge's signature is over.
    pub challenge: Digest,
    /// The opening.
    pub body: Vec<u8>,
    /// By the stage.
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
    #[must_use]
    pub fn new(challenge: Digest, body: Vec<u8>, stage: &Keypair) -> Self {
        let mut opening = Self { challenge, body, signature: Signature::NONE };
        opening.signature = stage.sign(&opening.statement());
        opening
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify(&self, stage: NodeId) -> Result<(), BadSignature> {
        verify(stage, &self.statement(), &self.signature)
    }
}
