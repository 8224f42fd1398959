//! What a client asks for, and the lease it gives to the servers of a ring.

use core::fmt;

use lockstep_exact::Digest;
use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_list};
use lockstep_exact::canonical_struct;
use lockstep_exact::sample::{Sampling, Stops};

use crate::limits;
use crate::secret::Secret;
use crate::sign::{NodeId, Signature, Statement as _};
use crate::signed_struct;

/// The version of requests and of everything bound to them.
pub const VERSION: u16 = 1;

/// Everything that defines an answer, and who may challenge it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The digest of the model's manifest.
    pub manifest: Digest,
    /// Adapters, in order of application.
    pub adapters: Vec<Digest>,
    /// The prompt's tokens, template included.
    pub prompt: Vec<u32>,
    /// The parameters by which tokens are chosen.
    pub sampling: Sampling,
    /// The rules by which the answer ends.
    pub stops: Stops,
    /// Drawn by the client: no two sessions are the same.
    pub nonce: [u8; 32],
    /// The client's public key for this session: signs lease and challenges.
    pub session_key: NodeId,
    /// [`AuditSeed::commitment`]: fixes the challenges before any server has answered.
    pub audit_commitment: Digest,
}

impl Canonical for Request {
    fn encode(&self, out: &mut Vec<u8>) {
        VERSION.encode(out);
        self.manifest.encode(out);
        put_list(out, &self.adapters);
        put_list(out, &self.prompt);
        self.sampling.encode(out);
        self.stops.encode(out);
        self.nonce.encode(out);
        self.session_key.encode(out);
        self.audit_commitment.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if u16::decode(input)? != VERSION {
            return Err(input.invalid("request version", "this build reads version 1 only"));
        }
        Ok(Self {
            manifest: Digest::decode(input)?,
            adapters: input.list("adapters", limits::ADAPTERS, 32)?,
            prompt: input.list("prompt", limits::PROMPT_TOKENS, 4)?,
            sampling: Sampling::decode(input)?,
            stops: Stops::decode(input)?,
            nonce: input.array("nonce")?,
            session_key: NodeId::decode(input)?,
            audit_commitment: Digest::decode(input)?,
        })
    }
}

impl Request {
    /// Returns the name of the session: the digest of all fields of the request.
    #[must_use]
    pub fn session(&self) -> Digest {
        Digest::derive("lockstep 2026 session", &[&self.to_bytes()])
    }
}

/// The client's secret from which the challenges are drawn; revealed in the bundle.
///
/// # Soundness
/// Fresh randomness for every request: whoever knows it before all segments are signed knows which
/// cells will be looked at.
#[derive(Clone, PartialEq, Eq)]
pub struct AuditSeed(Secret);

impl AuditSeed {
    /// Returns the audit seed with these bytes.
    #[must_use]
    pub const fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// Returns the bytes, from which the draw derives its numbers.
    pub(crate) const fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// Returns the commitment to the seed, which the request carries.
    #[must_use]
    pub fn commitment(&self) -> Digest {
        Digest::derive("lockstep 2026 audit seed", &[self.expose()])
    }
}

impl fmt::Debug for AuditSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditSeed(of {})", self.commitment().short())
    }
}

impl Canonical for AuditSeed {
    fn encode(&self, out: &mut Vec<u8>) {
        self.expose().encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(Secret::of(&input.array("audit seed")?)))
    }
}

/// One server of a ring and the layers it serves in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The node id of the server.
    pub node: NodeId,
    /// The lowest layer of its span.
    pub first: u32,
    /// The layer after the highest of its span.
    pub end: u32,
}
canonical_struct!(Hop { node, first, end });

/// The beginning of another session whose keys and values a session takes over instead of computing
/// them: the same client's, with the same model, adapters and first tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// The name of the other session.
    pub session: Digest,
    /// The number of its positions that are reused, from 0 on.
    pub length: u32,
}
canonical_struct!(Reuse { session, length });

/// The lease of a session, which the client signs and every server of the ring gets. Only server 1
/// also gets the [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The name of the session, [`Request::session`].
    pub session: Digest,
    /// The number of this placement within the session: 0 for the lease that opens it, and one more
    /// for each lease that puts another server in a lost one's place.
    pub epoch: u32,
    /// The digest of the model's manifest.
    pub manifest: Digest,
    /// [`Request::adapters`], in order of application: the stages after server 1 see nothing else
    /// of the request.
    pub adapters: Vec<Digest>,
    /// The prefix that is taken over from another session, if one is.
    pub reuse: Option<Reuse>,
    /// The key that signs this lease and the challenges.
    pub session_key: NodeId,
    /// The number of tokens of the prompt.
    pub prompt_len: u32,
    /// Most positions that the session will have.
    pub max_positions: u32,
    /// The ring, server 1 first; spans follow each other from 0 to the model's last layer.
    pub route: Vec<Hop>,
    /// For each server of the route the address at which it can be reached, in the transport's own
    /// text form: hints for the servers before it, authenticated by nothing but the connection they
    /// lead to.
    pub addresses: Vec<String>,
    /// The signature by the session key.
    pub signature: Signature,
}

signed_struct!(Lease("lockstep 2026 lease", by session_key) {
    session,
    epoch,
    manifest,
    adapters[limits::ADAPTERS, 32],
    reuse,
    session_key,
    prompt_len,
    max_positions,
    route[limits::STAGES, 40],
    addresses as addresses,
});

/// The addresses of a lease: one text for each stage.
mod addresses {
    use lockstep_exact::bytes::{DecodeError, Reader, put_bytes, put_count};

    use crate::limits;

    pub(super) fn encode(addresses: &[String], out: &mut Vec<u8>) {
        put_count(out, addresses.len());
        addresses.iter().for_each(|address| put_bytes(out, address.as_bytes()));
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Result<Vec<String>, DecodeError> {
        let count = input.count("addresses", limits::STAGES, 4)?;
        (0..count).map(|_| input.text("address", limits::ADDRESS_BYTES)).collect()
    }
}

impl Lease {
    /// Returns the place of a node in the route, which is the number of its stage, if it is in it.
    /// Server 1 is stage 0.
    #[must_use]
    pub fn place_of(&self, node: NodeId) -> Option<u32> {
        let mut hops = (0..).zip(&self.route);
        hops.find(|(_, hop)| hop.node == node).map(|(place, _)| place)
    }

    /// Returns the name of the lease, as the statements of the stages that got it carry it: the
    /// digest of all fields but the signature.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.statement()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_the_place_of_its_hop_and_a_stranger_none() {
        let node = |number: u8| NodeId([number; 32]);
        let hop = |number: u8| Hop { node: node(number), first: number.into(), end: 9 };
        let lease = Lease {
            session: Digest::ZERO,
            epoch: 0,
            manifest: Digest::ZERO,
            adapters: Vec::new(),
            reuse: None,
            // The client is in no route.
            session_key: node(4),
            prompt_len: 1,
            max_positions: 2,
            route: vec![hop(3), hop(1), hop(2)],
            addresses: Vec::new(),
            signature: Signature::NONE,
        };
        let places = [3, 1, 2, 4, 0].map(|number| lease.place_of(node(number)));
        assert_eq!(places, [Some(0), Some(1), Some(2), None, None]);
    }
}
