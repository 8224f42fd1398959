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
    /// Returns the first 10 hexadecimal digits: enough for people to tell two nodes apart.
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

/// A signature by ed25519: 64 bytes.
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
    /// The node that should have signed.
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
    /// Derives the key pair of a 32-byte secret.
    #[must_use]
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(Box::new(SigningKey::from_bytes(secret)))
    }

    /// Returns the public half, which is the node id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs the digest of a statement.
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
    /// Returns the digest that is signed: under a context of its own, of every field but the
    /// signature and of everything that binds it to its session.
    fn statement(&self) -> Digest;
}

/// Writes canonical bytes, [`Statement`] and signature of a struct whose last field is
/// `signature`, so that a new signed statement takes its fields, its context and who signs.
///
/// After the struct's name stand the context under which it is signed, which no other statement
/// has, and who signs it:
///
/// - `by field`: the [`NodeId`] in that field (or in a field of a field). `signed(self, key)` puts
///   it there, `verify(&self)` reads it.
/// - nothing: whoever reads the statement knows it. `signed(self, key)`, `verify(&self, signer)`.
/// - `in a run`: a stage, for one of its runs, to whose name the signature is bound besides.
///   `signed(self, run, key)`, `verify(&self, run, signer)`.
///
/// The fields follow in the order of their bytes. A list says how many entries it has at most and
/// how many bytes an entry has at least; what has a form of its own names a module with `encode`
/// and `decode`.
///
/// ```
/// use lockstep_verify::sign::{Keypair, NodeId, Signature};
///
/// pub struct Greeting {
///     pub node: NodeId,
///     pub words: Vec<u32>,
///     pub signature: Signature,
/// }
/// lockstep_verify::signed_struct!(Greeting("lockstep 2026 greeting", by node) {
///     node,
///     words[8, 4],
/// });
///
/// let key = Keypair::from_secret(&[7; 32]);
/// let greeting = Greeting { node: key.id(), words: vec![1], signature: Signature::NONE };
/// let mut greeting = greeting.signed(&key);
/// assert!(greeting.verify().is_ok());
/// greeting.words.push(2);
/// assert!(greeting.verify().is_err());
/// ```
#[macro_export]
macro_rules! signed_struct {
    ($name:ident($context:literal, by $($by:ident).+) { $($fields:tt)* }) => {
        $crate::signed_struct!(@canonical $name { $($fields)* });
        $crate::signed_struct!(@statement $name, $context);
        impl $name {
            /// Signs the statement and puts the signer into it.
            #[must_use]
            pub fn signed(mut self, signer: &$crate::sign::Keypair) -> Self {
                self.$($by).+ = signer.id();
                self.signature = signer.sign(&$crate::sign::Statement::statement(&self));
                self
            }

            /// Checks the signature of the signer that the statement names.
            ///
            /// # Errors
            /// `BadSignature`.
            pub fn verify(&self) -> Result<(), $crate::sign::BadSignature> {
                let statement = $crate::sign::Statement::statement(self);
                $crate::sign::verify(self.$($by).+, &statement, &self.signature)
            }
        }
    };
    ($name:ident($context:literal) { $($fields:tt)* }) => {
        $crate::signed_struct!(@canonical $name { $($fields)* });
        $crate::signed_struct!(@statement $name, $context);
        impl $name {
            /// Signs the statement, and returns it with the signature.
            #[must_use]
            pub fn signed(mut self, signer: &$crate::sign::Keypair) -> Self {
                self.signature = signer.sign(&$crate::sign::Statement::statement(&self));
                self
            }

            /// Checks that this is the signer's.
            ///
            /// # Errors
            /// `BadSignature`.
            pub fn verify(
                &self,
                signer: $crate::sign::NodeId,
            ) -> Result<(), $crate::sign::BadSignature> {
                let statement = $crate::sign::Statement::statement(self);
                $crate::sign::verify(signer, &statement, &self.signature)
            }
        }
    };
    ($name:ident($context:literal, in a run) { $($fields:tt)* }) => {
        $crate::signed_struct!(@canonical $name { $($fields)* });
        impl $name {
            /// Returns the digest that is signed: of the run and every field but the signature.
            fn statement(&self, run: $crate::run_id::RunId) -> ::lockstep_exact::Digest {
                let mut fields = ::lockstep_exact::bytes::Canonical::to_bytes(&run);
                self.encode_unsigned(&mut fields);
                ::lockstep_exact::Digest::derive($context, &[&fields])
            }

            /// Signs the statement for a run of the stage.
            #[must_use]
            pub fn signed(
                mut self,
                run: $crate::run_id::RunId,
                stage: &$crate::sign::Keypair,
            ) -> Self {
                self.signature = stage.sign(&self.statement(run));
                self
            }

            /// Checks that this is the stage's, for this run.
            ///
            /// # Errors
            /// `BadSignature`.
            pub fn verify(
                &self,
                run: $crate::run_id::RunId,
                stage: $crate::sign::NodeId,
            ) -> Result<(), $crate::sign::BadSignature> {
                $crate::sign::verify(stage, &self.statement(run), &self.signature)
            }
        }
    };
    (@canonical $name:ident {
        $($field:ident $([$limit:expr, $least:expr])? $(as $form:ident)?),* $(,)?
    }) => {
        impl $name {
            /// Appends every field but the signature.
            fn encode_unsigned(&self, out: &mut Vec<u8>) {
                $($crate::signed_struct!(
                    @put &self.$field, out $(, [$limit])? $(, as $form)?
                );)*
            }
        }

        impl ::lockstep_exact::bytes::Canonical for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.encode_unsigned(out);
                ::lockstep_exact::bytes::Canonical::encode(&self.signature, out);
            }
            fn decode(
                input: &mut ::lockstep_exact::bytes::Reader<'_>,
            ) -> Result<Self, ::lockstep_exact::bytes::DecodeError> {
                Ok(Self {
                    $($field: $crate::signed_struct!(
                        @get input, $field $(, [$limit, $least])? $(, as $form)?
                    ),)*
                    signature: ::lockstep_exact::bytes::Canonical::decode(input)?,
                })
            }
        }
    };
    (@statement $name:ident, $context:literal) => {
        impl $crate::sign::Statement for $name {
            fn statement(&self) -> ::lockstep_exact::Digest {
                let mut fields = Vec::new();
                self.encode_unsigned(&mut fields);
                ::lockstep_exact::Digest::derive($context, &[&fields])
            }
        }
    };
    (@put $value:expr, $out:ident) => {
        ::lockstep_exact::bytes::Canonical::encode($value, $out)
    };
    (@put $value:expr, $out:ident, [$limit:expr]) => {
        ::lockstep_exact::bytes::put_list($out, $value)
    };
    (@put $value:expr, $out:ident, as $form:ident) => { $form::encode($value, $out) };
    (@get $input:ident, $field:ident) => {
        ::lockstep_exact::bytes::Canonical::decode($input)?
    };
    (@get $input:ident, $field:ident, [$limit:expr, $least:expr]) => {
        $input.list(stringify!($field), $limit, $least)?
    };
    (@get $input:ident, $field:ident, as $form:ident) => { $form::decode($input)? };
}
