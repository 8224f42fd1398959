//! What the fuzz target `frame` does with its input; tests run it too, in bounds.

use lockstep_proto::frame::{Frame, RingFrame, ToClient, ToServer};

/// Decoding never panics, and whatever is accepted encodes to the same bytes.
fn obeys_the_law<F: Frame>(body: &[u8]) {
    if let Ok(frame) = F::from_body(body) {
        assert_eq!(frame.to_bytes(), body);
    }
}

/// Reads bytes as a frame of every direction.
pub(crate) fn frame(body: &[u8]) {
    obeys_the_law::<ToServer>(body);
    obeys_the_law::<ToClient>(body);
    obeys_the_law::<RingFrame>(body);
}
