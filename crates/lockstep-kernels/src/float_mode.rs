//! The floating-point control register of a thread: the arithmetic is defined for round to nearest
//! even, without flushing subnormal numbers to zero.

/// A thread's floating-point mode is not the one that the arithmetic is defined for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "floating-point control register {got:#x}: expected round to nearest even and no flush to \
     zero (bits {mask:#x} clear); some library in this process has changed it"
)]
pub struct FloatModeError {
    /// The value of the control register.
    pub got: u64,
    /// The bits of the register that must be 0.
    pub mask: u64,
}

/// Checks the float mode of the calling thread.
///
/// # Errors
/// [`FloatModeError`] when it rounds otherwise or flushes subnormal numbers.
pub(crate) fn check() -> Result<(), FloatModeError> {
    let (got, mask) = register();
    if got & mask == 0 { Ok(()) } else { Err(FloatModeError { got, mask }) }
}

/// Reads MXCSR, with the mask of rounding control, flush to zero and denormals are zero.
#[cfg(target_arch = "x86_64")]
fn register() -> (u64, u64) {
    let mut mxcsr = 0_u32;
    // SAFETY: stores the register to a valid place; SSE is part of x86-64.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr, options(nostack, preserves_flags));
    }
    (mxcsr.into(), 0x6000 | 0x8000 | 0x0040)
}

/// Reads FPCR, with the mask of RMode, FZ, FZ16, FIZ, AH, and the alternative and default-NaN
/// modes.
#[cfg(target_arch = "aarch64")]
fn register() -> (u64, u64) {
    let fpcr: u64;
    // SAFETY: reads a register.
    unsafe {
        std::arch::asm!("mrs {}, fpcr", out(reg) fpcr, options(nomem, nostack, preserves_flags));
    }
    (fpcr, 0x00c0_0000 | 0x0100_0000 | 0x0200_0000 | 0x3)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn register() -> (u64, u64) {
    (0, 0)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    fn set(mxcsr: u32) {
        // SAFETY: only rounding and flushing bits are changed, on a test's own thread.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack)) };
    }

    #[test]
    fn flushing_and_other_roundings_are_refused() {
        std::thread::spawn(|| {
            assert_eq!(check(), Ok(()));
            let normal = 0x1f80;
            for bit in [0x2000, 0x4000, 0x8000, 0x0040] {
                set(normal | bit);
                let result = check();
                set(normal);
                assert!(result.is_err(), "bit {bit:#x}");
            }
        })
        .join()
        .unwrap();
    }
}
