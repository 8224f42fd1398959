//! Which cells a client asks a stage to open.

use lockstep_exact::Digest;
use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_list};

use crate::limits;
use crate::sign::{BadSignature, Keypair, NodeId, Signature, Statement, verify};

/// The cells of one challenge. Positions are in increasing order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Positions of one layer.
    Layer {
        /// The layer.
        layer: u32,
        /// The positions.
        positions: Vec<u32>,
    },
    /// Head cells, named by the position of the state that the head reads.
    Head {
        /// The positions.
        positions: Vec<u32>,
    },
}

impl Canonical for Target {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Layer { layer, positions } => {
                out.push(0);
                layer.encode(out);
                put_list(out, positions);
            }
            Self::Head { positions } => {
                out.push(1);
                put_list(out, positions);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tag = u8::decode(input)?;
        let layer = match tag {
            0 => Some(u32::decode(input)?),
            1 => None,
            tag => return Err(input.unknown_tag("challenge target", tag)),
        };
        let positions: Vec<u32> =
            input.list("challenged positions", limits::CHALLENGE_POSITIONS, 4)?;
        if positions.is_empty()
            || positions.iter().zip(positions.iter().skip(1)).any(|(a, b)| a >= b)
        {
            return Err(input.invalid("challenged positions", "not increasing, or none"));
        }
        Ok(match layer {
            Some(layer) => Self::Layer { layer, positions },
            None => Self::Head { positions },
        })
    }
}

/// A client's demand to open cells, made after it holds every stage's signed roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The session.
    pub session: Digest,
    /// The receipt whose roots the opening must fit.
    pub receipt: Digest,
    /// Which cells.
    pub target: Target,
    /// By the session key.
    pub signature: Signature,
}

impl Canonical for Challenge {
    fn encode(&self, out: &mut Vec<u8>) {
        self.session.encode(out);
        self.receipt.encode(out);
        self.target.encode(out);
        self.signature.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            session: Digest::decode(input)?,
            receipt: Digest::decode(input)?,
            target: Target::decode(input)?,
            signature: Signature::decode(input)?,
        })
    }
}

impl Statement for Challenge {
    fn statement(&self) -> Digest {
        let mut fields = Vec::new();
        self.session.encode(&mut fields);
        self.receipt.encode(&mut fields);
        self.target.encode(&mut fields);
        Digest::derive("lockstep 2026 challenge", &[&fields])
    }
}

impl Challenge {
    /// Signs the challenge with the session's key.
    #[must_use]
    pub fn signed(mut self, session: &Keypair) -> Self {
        self.signature = session.sign(&self.statement());
        self
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify(&self, session_key: NodeId) -> Result<(), BadSignature> {
        verify(session_key, &self.statement(), &self.signature)
    }
}
