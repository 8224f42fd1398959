//! Frames that are not what the machine said.

use lockstep_proto::frame::{Frame as _, ToClient};
use lockstep_proto::limits::LENGTH_BYTES;

use crate::lie::{Lie, Script};

/// The body of a frame to the client as the script has it; `None`: as it is.
#[must_use]
pub fn to_client(script: Script, body: &[u8]) -> Option<Vec<u8>> {
    if script.lie != Lie::StreamsOther {
        return None;
    }
    let Ok(ToClient::Token { session, index, token, mark }) = ToClient::from_body(body) else {
        return None;
    };
    if mark.position < script.aim.position {
        return None;
    }
    let token = if token == 0 { 1 } else { token - 1 };
    let mut wire = ToClient::Token { session, index, token, mark }.to_wire().ok()?;
    Some(wire.split_off(LENGTH_BYTES))
}
