//! A bundle: a receipt with everything that is needed to audit it again.
//!
//! It holds the conversation: files of it are for their owner only.
//!
//! A bundle's bytes are [`START_BYTES`] that say what they are, the length of receipt, extent and
//! seed (a `u32`), these, and then each exchange after its own length, to the end. So exchanges can
//! be appended as they come and read one by one, and what was written before a writer was
//! interrupted is a bundle: one that lacks openings.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_bytes};
use lockstep_exact::canonical_struct;

use crate::challenge::Challenge;
use crate::draw::Extent;
use crate::limits;
use crate::opening::SignedOpening;
use crate::receipt::Receipt;
use crate::request::AuditSeed;

const MAGIC: [u8; 8] = *b"LOCKRCPT";
/// The version of the bundle's format.
pub const VERSION: u16 = 1;

/// A challenge with the opening that answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The challenge, signed by the client.
    pub challenge: Challenge,
    /// The opening, signed by a stage.
    pub opening: SignedOpening,
}
canonical_struct!(Exchange { challenge, opening });

/// A receipt and the openings that were got for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// The receipt: what was asked, answered and signed.
    pub receipt: Receipt,
    /// The extent of the audit: how much was to be opened.
    pub extent: Extent,
    /// From which the challenges were drawn; revealed only now.
    pub seed: AuditSeed,
    /// The exchanges in which cells were opened.
    pub exchanges: Vec<Exchange>,
}

/// Bytes of a bundle before the length of its receipt, extent and seed.
pub const START_BYTES: usize = MAGIC.len() + 2;

/// Returns whether these are the first [`START_BYTES`] of a bundle that this build reads.
#[must_use]
pub fn is_start(bytes: &[u8]) -> bool {
    bytes.strip_prefix(&MAGIC) == Some(&VERSION.to_le_bytes())
}

/// Returns the bytes of an exchange as they are appended to a bundle.
#[must_use]
pub fn appended(exchange: &Exchange) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, &exchange.to_bytes());
    out
}

impl Canonical for Bundle {
    fn encode(&self, out: &mut Vec<u8>) {
        MAGIC.encode(out);
        VERSION.encode(out);
        let mut head = self.receipt.to_bytes();
        self.extent.encode(&mut head);
        self.seed.encode(&mut head);
        put_bytes(out, &head);
        self.exchanges.iter().for_each(|exchange| put_bytes(out, &exchange.to_bytes()));
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if input.array::<8>("bundle")? != MAGIC {
            return Err(input.invalid("bundle", "does not start with LOCKRCPT"));
        }
        if u16::decode(input)? != VERSION {
            return Err(input.invalid("bundle version", "this build reads version 1 only"));
        }
        let end = end_of(input, "receipt, extent and seed", limits::HEAD_BYTES)?;
        let receipt = Receipt::decode(input)?;
        let (extent, seed) = (Extent::decode(input)?, AuditSeed::decode(input)?);
        ends_at(input, "receipt, extent and seed", end)?;
        let mut exchanges = Vec::new();
        while input.left() > 0 {
            let end = end_of(input, "exchange", limits::EXCHANGE_BYTES)?;
            exchanges.push(Exchange::decode(input)?);
            ends_at(input, "exchange", end)?;
        }
        Ok(Self { receipt, extent, seed, exchanges })
    }
}

/// Returns the offset at which a value ends whose length comes before it.
fn end_of(input: &mut Reader<'_>, what: &'static str, limit: usize) -> Result<usize, DecodeError> {
    let len = input.count(what, limit, 1)?;
    Ok(input.position().saturating_add(len))
}

/// Checks that a value was as long as it said.
fn ends_at(input: &Reader<'_>, what: &'static str, end: usize) -> Result<(), DecodeError> {
    if input.position() == end { Ok(()) } else { Err(input.invalid(what, "has another length")) }
}
