//! The version of what nodes say to each other.

/// The version of all frames, as the ALPNs end.
pub const VERSION: u16 = 1;
