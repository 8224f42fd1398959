//! lockstep-kernels.
