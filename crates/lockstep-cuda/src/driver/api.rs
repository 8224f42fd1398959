//! The driver's functions, found by name in its library.

use std::error::Error as _;
use std::ffi::{CStr, c_char, c_uint, c_void};

use libloading::Library;

use super::error::{Cause, Error, of_call};

/// A pointer of the driver to something of its own.
pub(super) type Handle = usize;
/// An address in a device's memory.
pub(super) type Address = u64;

/// The library's names, in the order in which they are tried.
#[cfg(windows)]
const NAMES: &[&str] = &["nvcuda.dll"];
#[cfg(not(windows))]
const NAMES: &[&str] = &["libcuda.so.1", "libcuda.so"];

macro_rules! functions {
    ($($name:ident($($argument:ty),*);)*) => {
        /// The driver's library and those of its functions that are used. Each gives 0 or an error.
        #[expect(non_snake_case, reason = "the names of cuda.h")]
        pub(super) struct Api {
            $(pub(super) $name: unsafe extern "system" fn($($argument),*) -> i32,)*
            /// Keeps the functions where they are.
            _library: Library,
        }

        impl Api {
            /// Finds every function in a library.
            fn resolve(library: Library) -> Result<Self, Error> {
                $(
                    #[expect(non_snake_case, reason = "the names of cuda.h")]
                    let $name = {
                        const NAME: &str = symbol(stringify!($name));
                        // SAFETY: the type is the function's of this name in cuda.h.
                        let found = unsafe {
                            library.get::<unsafe extern "system" fn($($argument),*) -> i32>(NAME)
                        };
                        *found.map_err(|_| Error::MissingFunction { name: NAME })?
                    };
                )*
                Ok(Self { $($name,)* _library: library })
            }
        }
    };
}

functions! {
    cuInit(c_uint);
    cuDriverGetVersion(*mut i32);
    cuGetErrorName(i32, *mut *const c_char);
    cuGetErrorString(i32, *mut *const c_char);
    cuDeviceGetCount(*mut i32);
    cuDeviceGet(*mut i32, i32);
    cuDeviceGetName(*mut c_char, i32, i32);
    cuDeviceGetAttribute(*mut i32, i32, i32);
    cuDeviceTotalMem(*mut usize, i32);
    cuDevicePrimaryCtxRetain(*mut Handle, i32);
    cuDevicePrimaryCtxRelease(i32);
    cuCtxSetCurrent(Handle);
    cuMemGetInfo(*mut usize, *mut usize);
    cuMemAlloc(*mut Address, usize);
    cuMemFree(Address);
    cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
    cuMemFreeHost(*mut c_void);
    cuMemcpyHtoDAsync(Address, *const c_void, usize, Handle);
    cuMemcpyDtoHAsync(*mut c_void, Address, usize, Handle);
    cuMemcpyDtoDAsync(Address, Address, usize, Handle);
    cuMemsetD8Async(Address, u8, usize, Handle);
    cuStreamCreate(*mut Handle, c_uint);
    cuStreamDestroy(Handle);
    cuStreamSynchronize(Handle);
    cuStreamWaitEvent(Handle, Handle, c_uint);
    cuEventCreate(*mut Handle, c_uint);
    cuEventDestroy(Handle);
    cuEventRecord(Handle, Handle);
    cuEventSynchronize(Handle);
    cuEventElapsedTime(*mut f32, Handle, Handle);
    cuModuleLoadDataEx(*mut Handle, *const c_void, c_uint, *mut i32, *mut *mut c_void);
    cuModuleUnload(Handle);
    cuModuleGetFunction(*mut Handle, Handle, *const c_char);
    cuFuncGetAttribute(*mut i32, i32, Handle);
    cuFuncSetAttribute(Handle, i32, i32);
    cuLaunchKernel(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle,
        *mut *mut c_void, *mut *mut c_void
    );
    cuLaunchCooperativeKernel(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle,
        *mut *mut c_void
    );
}

/// Returns the symbol of a function: that of the version which `cuda.h` gives the plain name to.
const fn symbol(name: &'static str) -> &'static str {
    // `const` code compares bytes; names differ in length or in their fifth letter on.
    let renamed: &[(&str, &str)] = &[
        ("cuDeviceTotalMem", "cuDeviceTotalMem_v2"),
        ("cuDevicePrimaryCtxRelease", "cuDevicePrimaryCtxRelease_v2"),
        ("cuMemGetInfo", "cuMemGetInfo_v2"),
        ("cuMemAlloc", "cuMemAlloc_v2"),
        ("cuMemFree", "cuMemFree_v2"),
        ("cuMemcpyHtoDAsync", "cuMemcpyHtoDAsync_v2"),
        ("cuMemcpyDtoHAsync", "cuMemcpyDtoHAsync_v2"),
        ("cuMemcpyDtoDAsync", "cuMemcpyDtoDAsync_v2"),
        ("cuStreamDestroy", "cuStreamDestroy_v2"),
        ("cuEventDestroy", "cuEventDestroy_v2"),
    ];
    let mut at = 0;
    while at < renamed.len() {
        if equal(renamed[at].0.as_bytes(), name.as_bytes()) {
            return renamed[at].1;
        }
        at += 1;
    }
    name
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    a.len() == b.len()
}

impl Api {
    /// Loads the driver's library and finds its functions.
    pub(super) fn load() -> Result<Self, Error> {
        Self::load_from(NAMES)
    }

    /// Loads the driver as [`Api::load`] does, from the earliest of these libraries that can be
    /// loaded.
    pub(super) fn load_from(names: &[&str]) -> Result<Self, Error> {
        let mut cause = String::new();
        for name in names {
            // SAFETY: the library is NVIDIA's driver, whose initialisers need nothing of a caller.
            match unsafe { Library::new(*name) } {
                Ok(library) => return Self::resolve(library),
                // The loader's own words, where there are some.
                Err(error) => {
                    cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                }
            }
        }
        Err(Error::NoDriver { tried: names.join(", "), cause })
    }

    /// Turns the result of a call of the driver into an error, if it is one.
    pub(super) fn check(&self, call: &'static str, code: i32) -> Result<(), Error> {
        if code == 0 { Ok(()) } else { Err(of_call(call, self.cause(code))) }
    }

    /// Returns the driver's description of an error code.
    pub(super) fn cause(&self, code: i32) -> Cause {
        let text = |function: unsafe extern "system" fn(i32, *mut *const c_char) -> i32| {
            let mut text = std::ptr::null();
            // SAFETY: `text` is a place for a pointer.
            let known = unsafe { function(code, &raw mut text) } == 0 && !text.is_null();
            // SAFETY: the driver gave a text of its own, which ends in 0 and stays.
            let text = known.then(|| unsafe { CStr::from_ptr(text) });
            text.map_or_else(|| "unknown".to_owned(), |text| text.to_string_lossy().into_owned())
        };
        Cause { code, name: text(self.cuGetErrorName), text: text(self.cuGetErrorString) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_gets_an_error_that_says_so() {
        let error = Api::load_from(&["liblockstep-is-no-driver.so"]).err();
        let Some(Error::NoDriver { tried, cause }) = error else { panic!("{error:?}") };
        assert_eq!(tried, "liblockstep-is-no-driver.so");
        assert!(!cause.is_empty());
        // Other systems' loaders do not name the file.
        #[cfg(target_os = "linux")]
        assert!(cause.contains("liblockstep-is-no-driver.so"), "{cause}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_library_without_the_drivers_functions_is_refused() {
        let error = Api::load_from(&["liblockstep-is-no-driver.so", "libc.so.6"]).err();
        assert_eq!(error, Some(Error::MissingFunction { name: "cuInit" }));
    }

    #[test]
    fn functions_of_a_second_version_are_found_by_their_symbol() {
        assert_eq!(symbol("cuMemAlloc"), "cuMemAlloc_v2");
        assert_eq!(symbol("cuMemAllocX"), "cuMemAllocX");
        assert_eq!(symbol("cuInit"), "cuInit");
    }
}
