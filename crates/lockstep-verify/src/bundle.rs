//! A bundle: a receipt with everything that is needed to audit it again.
//!
//! It holds the conversation: files of it are for their owner only.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_list};
use lockstep_exact::canonical_struct;

use crate::challenge::Challenge;
use crate::draw::Extent;
use crate::limits;
use crate::opening::SignedOpening;
use crate::receipt::Receipt;
use crate::request::AuditSeed;

const MAGIC: [u8; 8] = *b"LOCKRCPT";
/// The version of the format.
pub const VERSION: u16 = 0;

/// A challenge with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// By the client.
    pub challenge: Challenge,
    /// By a stage.
    pub opening: SignedOpening,
}
canonical_struct!(Exchange { challenge, opening });

/// A receipt and the openings that were got for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// What was asked, answered and signed.
    pub receipt: Receipt,
    /// How much was to be opened.
    pub extent: Extent,
    /// From which the challenges were drawn; revealed only now.
    pub seed: AuditSeed,
    /// What was opened.
    pub exchanges: Vec<Exchange>,
}

impl Canonical for Bundle {
    fn encode(&self, out: &mut Vec<u8>) {
        MAGIC.encode(out);
        VERSION.encode(out);
        self.receipt.encode(out);
        self.extent.encode(out);
        self.seed.encode(out);
        put_list(out, &self.exchanges);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if input.array::<8>("bundle")? != MAGIC {
            return Err(input.invalid("bundle", "does not start with LOCKRCPT"));
        }
        if u16::decode(input)? != VERSION {
            return Err(input.invalid("bundle version", "this build reads version 0 only"));
        }
        Ok(Self {
            receipt: Receipt::decode(input)?,
            extent: Extent::decode(input)?,
            seed: AuditSeed::decode(input)?,
            exchanges: input.list("exchanges", limits::EXCHANGES, 200)?,
        })
    }
}
