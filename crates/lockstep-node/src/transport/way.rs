//! The way that packets take to a peer: directly, or through a relay.

/// The way that the packets of a link take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They go to the peer itself.
    Direct,
    /// They go through a relay.
    Relayed,
}

impl Way {
    /// Returns the word for it, for people and scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
        }
    }
}
