//! Kernels: a compiled text, and launches with parameters that are checked against it.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};

use super::api::Handle;
use super::context::Context;
use super::error::Error;
use crate::text::{Kind, Text};

/// An argument of a kernel, by the kind of its parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Argument {
    /// A number, a bool or a float's bits.
    U32(u32),
    /// A number of IEEE 754's binary32 format.
    F32(f32),
    /// A number of eight bytes, or an address.
    U64(u64),
}

impl Argument {
    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::U32(_) => Kind::U32,
            Self::F32(_) => Kind::F32,
            Self::U64(_) => Kind::U64,
        }
    }

    /// Returns the bytes that a kernel reads, in the first of the eight where it reads fewer.
    const fn bits(self) -> u64 {
        match self {
            Self::U32(value) => first_half(value),
            Self::F32(value) => first_half(value.to_bits()),
            Self::U64(value) => value,
        }
    }
}

/// Returns eight bytes of which the earlier four in memory are `value`.
const fn first_half(value: u32) -> u64 {
    if cfg!(target_endian = "big") { (value as u64) << 32 } else { value as u64 }
}

/// A text as the driver compiled it.
#[derive(Debug)]
pub(crate) struct Module {
    context: Context,
    handle: Handle,
    kernels: BTreeMap<&'static str, Kernel>,
}

#[derive(Debug)]
struct Kernel {
    handle: Handle,
    parameters: Vec<Kind>,
    /// Bytes of shared memory that a block can have beside what the text declares.
    free_shared: u32,
}

/// Options of the driver's compiler, as numbered in cuda.h: where its complaints go.
const ERROR_LOG: i32 = 5;
const ERROR_LOG_BYTES: i32 = 6;
/// Attributes of a kernel, as numbered in cuda.h: bytes of shared memory that it declares, and the
/// most that a launch may ask for beside them.
const DECLARED_SHARED: i32 = 1;
const ASKED_SHARED: i32 = 8;

impl Module {
    /// Has the driver compile a text, and finds all its kernels.
    pub(crate) fn load(context: &Context, text: &Text) -> Result<Self, Error> {
        let api = context.api()?;
        let target = text.target;
        let source = CString::new(text.ptx).map_err(|_| Error::Kernel {
            kernel: target,
            problem: "the text has a zero byte".to_owned(),
        })?;
        let mut log = vec![0_u8; 4096];
        let mut options = [ERROR_LOG, ERROR_LOG_BYTES];
        let mut values: [*mut c_void; 2] =
            [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(log.len())];
        let mut handle = 0;
        // SAFETY: the text ends in 0; there are two options with their values, of which the first
        // is a buffer of the second's length.
        let code = unsafe {
            (api.cuModuleLoadDataEx)(
                &raw mut handle,
                source.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        if code != 0 {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            let log = String::from_utf8_lossy(&log[..end]).trim().to_owned();
            return Err(Error::Text { target, cause: api.cause(code), log });
        }
        let mut module = Self { context: context.clone(), handle, kernels: BTreeMap::new() };
        for (name, parameters) in text.kernels() {
            let handle = module.find(name)?;
            let free_shared = module.free_up(handle)?;
            module.kernels.insert(name, Kernel { handle, parameters, free_shared });
        }
        Ok(module)
    }

    fn find(&self, name: &'static str) -> Result<Handle, Error> {
        let api = self.context.api()?;
        let problem = "its name has a zero byte".to_owned();
        let text = CString::new(name).map_err(|_| Error::Kernel { kernel: name, problem })?;
        let mut handle = 0;
        // SAFETY: the module is loaded, and the name ends in 0.
        let code =
            unsafe { (api.cuModuleGetFunction)(&raw mut handle, self.handle, text.as_ptr()) };
        api.check("cuModuleGetFunction", code)?;
        Ok(handle)
    }

    /// Launches a kernel over a grid of blocks with `threads` threads each, and `shared` bytes of
    /// shared memory beside what the text declares, at most [`Module::free_shared`]. Nothing
    /// happens if a side of the grid is 0.
    pub(crate) fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        arguments: &[Argument],
    ) -> Result<(), Error> {
        let mut bits = self.checked(kernel, arguments)?;
        if grid.contains(&0) {
            return Ok(());
        }
        let (api, handle) = (self.context.api()?, bits.handle);
        let mut pointers = bits.pointers();
        let [x, y, z] = grid;
        // SAFETY: the kernel is of this context; there is a pointer for each parameter that it
        // declares, to at least as many bytes; they are read before the call returns.
        let code = unsafe {
            (api.cuLaunchKernel)(
                handle,
                x,
                y,
                z,
                threads,
                1,
                1,
                shared,
                self.context.stream(),
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        api.check("cuLaunchKernel", code)
    }

    /// Returns the number of bytes of shared memory that a block of a kernel can have beside what
    /// its text declares.
    pub(crate) fn free_shared(&self, kernel: &'static str) -> Result<u32, Error> {
        Ok(self.checked_name(kernel)?.free_shared)
    }

    /// Lets launches of a kernel ask for all the shared memory that there is beside what its text
    /// declares, and returns how many bytes that are.
    fn free_up(&self, handle: Handle) -> Result<u32, Error> {
        let (api, mut declared) = (self.context.api()?, 0);
        // SAFETY: the kernel is of this context, and `declared` is a place for an int.
        let code = unsafe { (api.cuFuncGetAttribute)(&raw mut declared, DECLARED_SHARED, handle) };
        api.check("cuFuncGetAttribute", code)?;
        let free = self.context.info().shared.saturating_sub(declared.unsigned_abs());
        let value = i32::try_from(free).unwrap_or(i32::MAX);
        // SAFETY: the kernel is of this context.
        let code = unsafe { (api.cuFuncSetAttribute)(handle, ASKED_SHARED, value) };
        api.check("cuFuncSetAttribute", code)?;
        Ok(free)
    }

    /// Launches a kernel of `blocks` blocks, which the device runs all at once: they may wait for
    /// each other. Each has `shared` bytes of shared memory beside what the text declares, at most
    /// [`Module::free_shared`]. A device that has no room for them refuses.
    pub(crate) fn launch_together(
        &self,
        kernel: &'static str,
        blocks: u32,
        threads: u32,
        shared: u32,
        arguments: &[Argument],
    ) -> Result<(), Error> {
        let mut bits = self.checked(kernel, arguments)?;
        let (api, handle) = (self.context.api()?, bits.handle);
        let mut pointers = bits.pointers();
        // SAFETY: as in `launch`.
        let code = unsafe {
            (api.cuLaunchCooperativeKernel)(
                handle,
                blocks,
                1,
                1,
                threads,
                1,
                1,
                shared,
                self.context.stream(),
                pointers.as_mut_ptr(),
            )
        };
        api.check("cuLaunchCooperativeKernel", code)
    }

    fn checked_name(&self, kernel: &'static str) -> Result<&Kernel, Error> {
        let problem = "is not in the text".to_owned();
        self.kernels.get(kernel).ok_or(Error::Kernel { kernel, problem })
    }

    /// Returns the arguments of a kernel, if they are those that its text declares.
    fn checked(&self, kernel: &'static str, arguments: &[Argument]) -> Result<Bits, Error> {
        let wrong = |problem: String| Error::Kernel { kernel, problem };
        let found = self.checked_name(kernel)?;
        // The driver reads as many parameters as the text declares, whatever it is given.
        let kinds: Vec<Kind> = arguments.iter().map(|argument| argument.kind()).collect();
        if kinds != found.parameters {
            return Err(wrong(format!("takes {:?}, not {kinds:?}", found.parameters)));
        }
        let bits = arguments.iter().map(|argument| argument.bits()).collect();
        Ok(Bits { handle: found.handle, bits })
    }
}

/// A kernel and its arguments, eight bytes each.
struct Bits {
    handle: Handle,
    bits: Vec<u64>,
}

impl Bits {
    /// Returns a pointer to each argument.
    fn pointers(&mut self) -> Vec<*mut c_void> {
        self.bits.iter_mut().map(|bits| (&raw mut *bits).cast()).collect()
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Ok(api) = self.context.api() {
            // SAFETY: loaded here, and this is its last use.
            unsafe { (api.cuModuleUnload)(self.handle) };
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_exact::ops::Host as _;

    use super::*;
    use crate::driver::{Buffer, Driver};
    use crate::text::TEXTS;

    /// In one test, because a lost device is lost for the whole process.
    #[test]
    #[ignore = "needs an NVIDIA GPU: cargo test --release -p lockstep-cuda -- --ignored"]
    fn a_gpu_refuses_what_does_not_fit_and_a_fault_loses_it() {
        let context = Driver::load().unwrap().open(0).unwrap();
        let module = Module::load(&context, &TEXTS[2]).unwrap();
        // Memory that is not there is refused before the driver is asked, and nothing is lost.
        let (free, total) = context.memory().unwrap();
        for needed in [free, free - (1 << 20), 1 << 46, u64::MAX / 2] {
            let error = Buffer::<u8>::zeros(&context, needed as usize).unwrap_err();
            assert!(matches!(error, Error::Memory { .. }), "{needed} of {total}: {error}");
        }
        let error = Buffer::<u64>::zeros(&context, usize::MAX).unwrap_err();
        assert!(matches!(error, Error::Memory { needed: u64::MAX, .. }), "{error}");
        let exponents = Buffer::of(&context, &[7_u8, 255, 0]).unwrap();
        assert_eq!(exponents.read(0..3), Ok(vec![7, 255, 0]));
        assert!(matches!(exponents.read(2..4), Err(Error::Shape { .. })));
        let flags = Buffer::of(&context, &[9_u32; 3]).unwrap();
        let [from, to] = [exponents.argument(), flags.argument()];
        let [one, rows] = [Argument::U32(1), Argument::U32(3)];
        // A kernel gets the parameters of its text or is not launched.
        let kernel = "flag_markers";
        for wrong in [&[from, one, rows] as &[_], &[from, one, rows, to, to], &[one; 4]] {
            let error = module.launch(kernel, [1, 1, 1], 256, 0, wrong).unwrap_err();
            assert!(matches!(error, Error::Kernel { .. }), "{error}");
        }
        let error = module.launch("nothing", [1, 1, 1], 32, 0, &[]).unwrap_err();
        assert!(matches!(error, Error::Kernel { .. }), "{error}");
        let error = module.launch(kernel, [1, 1, 1], 4096, 0, &[from, one, rows, to]).unwrap_err();
        assert!(matches!(error, Error::Call { call: "cuLaunchKernel", .. }), "{error}");
        module.launch(kernel, [0, 1, 1], 256, 0, &[from, one, rows, to]).unwrap();
        module.launch(kernel, [1, 1, 1], 256, 0, &[from, one, rows, to]).unwrap();
        assert_eq!(flags.read(0..3), Ok(vec![0, 1, 0]));
        let cuda = crate::Cuda::open(&Driver::load().unwrap(), 0).unwrap();
        let state = lockstep_exact::state::State::zeros(1, 32);
        assert!(cuda.put_state(state.clone()).is_ok());
        // An address that is nobody's.
        let wrong = [from, one, rows, Argument::U64(64)];
        module.launch(kernel, [1, 1, 1], 256, 0, &wrong).unwrap();
        let error = context.synchronise().unwrap_err();
        assert!(matches!(error, Error::Lost { call: "cuStreamSynchronize", .. }), "{error}");
        assert!(matches!(flags.read(0..3), Err(Error::Lost { .. })), "and stays lost");
        for _ in 0..2 {
            let got = cuda.put_state(state.clone()).map(drop);
            assert!(matches!(got, Err(Error::Lost { .. })), "for its backend too: {got:?}");
        }
    }
}
