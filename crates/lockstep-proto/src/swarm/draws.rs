//! The pseudo-random numbers of the machines of a swarm: SplitMix64 (Steele, Lea and Flood, 2014).
//! What a machine does follows from its seed, so a simulation can be run again.

/// A sequence of pseudo-random numbers.
#[derive(Debug)]
pub(super) struct Draws(u64);

impl Draws {
    /// Begins the sequence of a seed.
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a pseudo-random number below `bound`, 0 below 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // default: there is nothing to choose from
        (mixed ^ (mixed >> 31)).checked_rem(bound).unwrap_or(0)
    }

    /// Returns a pseudo-random index below `len`, 0 below 0.
    pub(super) fn index(&mut self, len: usize) -> usize {
        // default: what is below a length fits its type
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }
}
