//! Randomness from the operating system.

use anyhow::{Result, anyhow};
use lockstep_verify::secret::Secret;

/// Fresh random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no randomness: {error}"))?;
    Ok(bytes)
}

/// A fresh secret.
pub(crate) fn secret() -> Result<Secret> {
    Secret::draw(getrandom::fill).map_err(|error| anyhow!("no randomness: {error}"))
}
