//! BLAKE3 digests under domain separation: the only names that artefacts, states and statements
//! have.

use core::fmt;

/// A digest of 32 bytes, by BLAKE3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// 32 zero bytes: "nothing was committed here".
    pub const ZERO: Self = Self([0; 32]);

    /// Computes the plain BLAKE3 digest of `bytes`, which is the name of a blob with these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Computes the digest of `parts`, each preceded by its length, under the domain `context`.
    ///
    /// Two calls with different contexts, or with parts split differently, never collide.
    #[must_use]
    pub fn derive(context: &'static str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// Parses 64 lower- or upper-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match blake3::Hash::from_hex(text) {
            Ok(hash) => Some(Self(*hash.as_bytes())),
            Err(_) => None,
        }
    }

    /// Returns the first 12 hexadecimal digits: enough for people to tell two digests apart.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
