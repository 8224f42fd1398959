//! The name of one execution of a session by one stage, which its statements are bound to.

use lockstep_exact::Digest;
use lockstep_exact::bytes::{Canonical, DecodeError, Reader};

/// The name of a [`Run`](crate::statement::Run): what a stage's statements are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId(pub Digest);

impl RunId {
    /// The run before the first stage's: there is none.
    pub const NONE: Self = Self(Digest::ZERO);
}

impl Canonical for RunId {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(Digest::decode(input)?))
    }
}
