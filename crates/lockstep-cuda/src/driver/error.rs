//! The errors between this process and a GPU.

use std::fmt;

use crate::version::{Capability, Version};

/// Why something could not be done on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no CUDA driver on this machine.
    #[error(
        "no CUDA driver: {tried} could not be loaded ({cause}); install NVIDIA's driver, or use \
         the CPU"
    )]
    NoDriver {
        /// The library's names.
        tried: String,
        /// What the loader says of the last.
        cause: String,
    },
    /// The driver's library lacks a function, or is something else of that name.
    #[error("the CUDA driver has no function {name}; it is too old, or not NVIDIA's")]
    MissingFunction {
        /// The function's symbol.
        name: &'static str,
    },
    /// The driver is older than the kernels need.
    #[error("the CUDA driver is for CUDA {found}; {needed} or newer is needed")]
    OldDriver {
        /// What it is for.
        found: Version,
        /// The oldest that will do.
        needed: Version,
    },
    /// The driver works, but there is no such device.
    #[error("there is no CUDA device {ordinal}: this machine has {count}")]
    NoDevice {
        /// The device asked for, from 0.
        ordinal: usize,
        /// Devices that the driver shows.
        count: usize,
    },
    /// The device is older than the kernels need.
    #[error("{name} has compute capability {found}; {needed} or newer is needed")]
    OldDevice {
        /// The device's name.
        name: String,
        /// What it has.
        found: Capability,
        /// The oldest that will do.
        needed: Capability,
    },
    /// The device's memory does not suffice.
    #[error(
        "out of GPU memory: {needed} bytes are needed and {reserve} must stay free, but {free} of \
         {total} are free"
    )]
    Memory {
        /// Bytes to be allocated.
        needed: u64,
        /// Bytes that stay free.
        reserve: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that the device has.
        total: u64,
    },
    /// The device, or this process's context on it, is gone or broken: nothing on it can be used
    /// any more, and what was computed since the last result is lost.
    #[error("the GPU was lost in {call}: {cause}")]
    Lost {
        /// The driver's function that reported it, which need not be the one that failed.
        call: &'static str,
        /// The driver's error.
        cause: Cause,
    },
    /// A function of the driver failed otherwise.
    #[error("{call} failed: {cause}")]
    Call {
        /// The driver's function.
        call: &'static str,
        /// The driver's error.
        cause: Cause,
    },
    /// The driver could not compile the kernels.
    #[error("the driver does not take the kernels for {target}: {cause}: {log}")]
    Text {
        /// The text's target.
        target: &'static str,
        /// The driver's error.
        cause: Cause,
        /// What its compiler says.
        log: String,
    },
    /// The text has no such kernel, or the kernel takes other parameters: a fault of this crate.
    #[error("kernel {kernel}: {problem}")]
    Kernel {
        /// The kernel's name.
        kernel: &'static str,
        /// What does not fit.
        problem: String,
    },
    /// Operands do not fit each other: a fault of the caller.
    #[error("{operation}: {what} should be {expected}, but is {got}")]
    Shape {
        /// The operation.
        operation: &'static str,
        /// The size that does not fit.
        what: &'static str,
        /// What it should be, or the most that it may be.
        expected: usize,
        /// What it is.
        got: usize,
    },
}

/// An error code of the driver, with its description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The number of the code, as in `cuda.h`.
    pub code: i32,
    /// Its name, such as `CUDA_ERROR_OUT_OF_MEMORY`.
    pub name: String,
    /// The driver's description of the code.
    pub text: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.name, self.code, self.text)
    }
}

/// The code `CUDA_ERROR_OUT_OF_MEMORY`.
pub(super) const OUT_OF_MEMORY: i32 = 2;
/// `CUDA_ERROR_NO_DEVICE`, which `cuInit` gives where there is a driver and no GPU.
pub(super) const NO_DEVICE: i32 = 100;

/// Codes after which a context is of no use: a driver that shuts down (4), a device that is
/// unavailable (46), a context that was destroyed (709) or is invalid (201), uncorrectable memory
/// (214), a lost link (220), and every fault of a kernel (700 to 702, 714 to 719, 721).
const LOST: &[i32] =
    &[4, 46, 201, 214, 220, 700, 701, 702, 709, 714, 715, 716, 717, 718, 719, 721, 999];

/// Returns the error of a call that gave `cause`.
pub(super) fn of_call(call: &'static str, cause: Cause) -> Error {
    if LOST.contains(&cause.code) {
        Error::Lost { call, cause }
    } else {
        Error::Call { call, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_a_kernel_loses_the_device_and_a_wrong_argument_does_not() {
        let cause = |code| Cause { code, name: "NAME".to_owned(), text: "text".to_owned() };
        for code in [46, 214, 700, 719] {
            assert!(matches!(of_call("f", cause(code)), Error::Lost { .. }), "{code}");
        }
        for code in [1, 2, 100, 600] {
            assert!(matches!(of_call("f", cause(code)), Error::Call { .. }), "{code}");
        }
        let message = of_call("cuMemAlloc", cause(1)).to_string();
        assert_eq!(message, "cuMemAlloc failed: NAME (1): text");
    }
}
