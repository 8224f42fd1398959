//! Secrets: 32 bytes that stay in one place, are wiped when dropped and never printed.
//!
//! They are on the heap, so moving a value copies no secret; only what a caller copies out of
//! [`Secret::expose`] is beyond this module.

use core::fmt;

use zeroize::{Zeroize as _, ZeroizeOnDrop};

/// A secret of 32 bytes, which is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8; 32]>);

impl Secret {
    /// Copies these bytes; wiping the original is the caller's task.
    #[must_use]
    pub fn of(bytes: &[u8; 32]) -> Self {
        let mut secret = Self(Box::new([0; 32]));
        secret.0.copy_from_slice(bytes);
        secret
    }

    /// Creates a secret of bytes that `draw` writes where they stay, such as those of the operating
    /// system's randomness.
    ///
    /// # Errors
    /// Those of `draw`.
    pub fn draw<E>(draw: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut secret = Self(Box::new([0; 32]));
        draw(secret.0.as_mut_slice())?;
        Ok(secret)
    }

    /// Returns the bytes, to derive something from.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for Secret {}
