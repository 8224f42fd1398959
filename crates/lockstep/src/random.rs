//! Randomness from the operating system.

use anyhow::{Result, anyhow};
use lockstep_verify::secret::Secret;

/// Fresh random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no randomness: {error}"))?;
    Ok(bytes)
}

/// A fresh seed for sampling. It is below 2^53, so that programs that read a number of JSON as a
/// float find the seed that it is.
pub(crate) fn seed() -> Result<u64> {
    Ok(u64::from_le_bytes(random()?) >> 11)
}

/// A fresh secret.
pub(crate) fn secret() -> Result<Secret> {
    Secret::draw(getrandom::fill).map_err(|error| anyhow!("no randomness: {error}"))
}
