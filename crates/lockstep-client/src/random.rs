//! Random bytes, seeds and secrets from the operating system.

use lockstep_verify::secret::Secret;

/// The operating system gave no random bytes.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no randomness: {0}")]
pub struct NoRandomness(getrandom::Error);

/// Draws `N` random bytes from the system.
///
/// # Errors
/// [`NoRandomness`].
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(NoRandomness)?;
    Ok(bytes)
}

/// Returns a fresh seed for sampling. It is below 2^53, so that programs that read a number of JSON
/// as a float find the seed that it is.
///
/// # Errors
/// [`NoRandomness`].
pub fn seed() -> Result<u64, NoRandomness> {
    Ok(u64::from_le_bytes(random()?) >> 11)
}

/// Draws a fresh secret from the system's random bytes.
///
/// # Errors
/// [`NoRandomness`].
pub fn secret() -> Result<Secret, NoRandomness> {
    Secret::draw(getrandom::fill).map_err(NoRandomness)
}
