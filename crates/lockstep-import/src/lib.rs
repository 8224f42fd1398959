//! lockstep-import.
