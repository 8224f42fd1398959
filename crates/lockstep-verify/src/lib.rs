//! lockstep-verify.
