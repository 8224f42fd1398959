//! lockstep-exact.
