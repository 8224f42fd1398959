//! lockstep-proto.
