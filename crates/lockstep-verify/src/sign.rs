//! Identities and signatures: ed25519 over domain-separated digests.
//!
//! A node's identity is its ed25519 public key, the same that its transport authenticates. Every
//! statement is signed as the digest of its canonical fields under a context of its own, so no
//! signature can be read as one of another kind of statement.

use core::fmt;

use ed25519_dalek::{Signature as RawSignature, Signer as _, SigningKey, VerifyingKey};
use lockstep_exact::Digest;
use lockstep_exact::bytes::{Canonical, DecodeError, Reader};

/// An ed25519 public key: a server, or a client's session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

impl Canonical for NodeId {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(input.array("node id")?))
    }
}

impl NodeId {
    /// The first 10 hexadecimal digits: enough for people to tell two nodes apart.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(10);
        text
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl Signature {
    /// A signature that nothing verifies: the place of one to come.
    pub const NONE: Self = Self([0; 64]);
}

impl Canonical for Signature {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(input.array("signature")?))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head: Vec<String> = self.0.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        write!(f, "Signature({}..)", head.concat())
    }
}

/// A signature that does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSignature {
    /// Who should have signed.
    pub by: NodeId,
}

impl fmt::Display for BadSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not signed by {}", self.by.short())
    }
}

impl core::error::Error for BadSignature {}

/// A secret signing key; wiped when dropped. It stays where it is: a value that moves leaves no
/// copy.
#[derive(Clone)]
pub struct Keypair(Box<SigningKey>);

impl Keypair {
    /// The key of a 32-byte secret.
    #[must_use]
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(Box::new(SigningKey::from_bytes(secret)))
    }

    /// The public half.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs a statement's digest.
    #[must_use]
    pub fn sign(&self, statement: &Digest) -> Signature {
        Signature(self.0.sign(&statement.0).to_bytes())
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keypair({})", self.id().short())
    }
}

/// Checks a signature strictly: no small-order keys, no malleable encodings.
///
/// # Errors
/// [`BadSignature`].
pub fn verify(by: NodeId, statement: &Digest, signature: &Signature) -> Result<(), BadSignature> {
    let key = VerifyingKey::from_bytes(&by.0).map_err(|_| BadSignature { by })?;
    key.verify_strict(&statement.0, &RawSignature::from_bytes(&signature.0))
        .map_err(|_| BadSignature { by })
}

/// A statement that somebody signs.
pub trait Statement {
    /// What exactly is signed: a digest, under a context of its own, of every field but the
    /// signature and of everything that binds it to its session.
    fn statement(&self) -> Digest;
}
