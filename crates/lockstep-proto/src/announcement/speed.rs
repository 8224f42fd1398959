//! How fast a server computes, as it has measured itself.
//!
//! All times are whole nanoseconds. A speed has all of its times or none: one that is zero in part
//! would claim that something costs nothing, and is refused.

use lockstep_exact::bytes::{Canonical, DecodeError, Reader};

/// The numbers of sessions in one decode step for which [`Speed::decode_ns`] and
/// [`Speed::head_ns`] have a time each.
pub const BATCHES: [u32; 3] = [1, 4, 16];

/// The measured speed of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speed {
    /// The nanoseconds that one layer takes for one decode step of 1, 4 and 16 sessions together
    /// ([`BATCHES`]): the time of the whole batch.
    pub decode_ns: [u32; 3],
    /// The nanoseconds that the head takes for the logits and tokens of one decode step of 1, 4 and
    /// 16 sessions together. All 0 at a server without the head.
    pub head_ns: [u32; 3],
    /// The nanoseconds that one layer takes for one position of a prompt.
    pub prefill_ns: u32,
}

impl Speed {
    /// The speed of a server that has not measured itself.
    pub const UNKNOWN: Self = Self { decode_ns: [0; 3], head_ns: [0; 3], prefill_ns: 0 };

    /// Returns whether the server has measured itself.
    #[must_use]
    pub fn is_known(&self) -> bool {
        *self != Self::UNKNOWN
    }

    /// Returns whether the speed has all of its times, or none. The head's are all there or all 0,
    /// for a server may have no head.
    fn is_whole(&self) -> bool {
        let all = |times: &[u32]| times.iter().all(|&ns| ns > 0);
        let none = |times: &[u32]| times.iter().all(|&ns| ns == 0);
        let has_layers = all(&self.decode_ns) && self.prefill_ns > 0;
        !self.is_known() || (has_layers && (all(&self.head_ns) || none(&self.head_ns)))
    }
}

impl Canonical for Speed {
    fn encode(&self, out: &mut Vec<u8>) {
        let times = self.decode_ns.iter().chain(&self.head_ns).chain([&self.prefill_ns]);
        times.for_each(|ns| ns.encode(out));
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = input.clone();
        let mut three = || -> Result<[u32; 3], DecodeError> {
            Ok([u32::decode(input)?, u32::decode(input)?, u32::decode(input)?])
        };
        let (decode_ns, head_ns) = (three()?, three()?);
        let speed = Self { decode_ns, head_ns, prefill_ns: u32::decode(input)? };
        if speed.is_whole() {
            Ok(speed)
        } else {
            Err(start.invalid("speed", "some of its times are zero and others are not"))
        }
    }
}
