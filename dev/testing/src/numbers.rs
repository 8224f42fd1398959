//! Pseudo-random numbers from a seed: whatever a test draws, it draws from here, so that a failure
//! can be repeated.

use lockstep_exact::num;

/// Seeded pseudo-random numbers: BLAKE3's output stream.
pub struct Numbers(blake3::OutputReader);

impl Numbers {
    /// Starts the stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("lockstep 2026 fixture numbers");
        hasher.update(&seed.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    /// Draws the next 64 bits of the stream.
    pub fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Draws the next number below `bound`, by remainder: even enough as `bound` is small against
    /// 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// Draws the next multiple of 2^-16 in [-1, 1).
    pub fn signed_unit(&mut self) -> f32 {
        (self.below(1 << 17) as f32 - 65_536.0) * num::pow2(-16)
    }
}
