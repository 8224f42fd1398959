//! An open device with its kernels. Every operation is a method of it.

use lockstep_exact::norm;

use crate::driver::{Argument, Buffer, Context, DeviceInfo, Driver, Element, Error, Module};
use crate::partial::PartialSums;
use crate::text::Text;

/// An open device with its kernels compiled.
///
/// Operations are methods with operands in the device's memory. They are queued and return at
/// once; a fault of the device shows in a later call, at the latest when a result is read. All work
/// is done in the order in which it was given.
#[derive(Debug)]
pub struct Gpu {
    pub(crate) context: Context,
    module: Module,
    target: &'static str,
    pub(crate) partial_sums: PartialSums,
}

/// A normalisation with its gains in the device's memory.
pub type Norm = norm::Norm<Buffer<f32>>;

impl Gpu {
    /// Opens a device and compiles the kernels for it, which takes a second the first time.
    ///
    /// # Errors
    /// [`Error::NoDevice`], [`Error::OldDevice`]; [`Error::Text`] when the driver takes none of
    /// the texts; [`Error::Lost`], [`Error::Call`].
    pub fn open(driver: &Driver, ordinal: usize) -> Result<Self, Error> {
        Self::open_with(driver, ordinal, |_| true)
    }

    /// Opens a device as [`Gpu::open`] does, but with the text for `target`, such as `sm_75`: to
    /// test on a new chip what an old one runs.
    ///
    /// # Errors
    /// As [`Gpu::open`]; [`Error::Kernel`] when there is no such text.
    pub fn open_target(driver: &Driver, ordinal: usize, target: &str) -> Result<Self, Error> {
        Self::open_with(driver, ordinal, |text| text.target == target)
    }

    fn open_with(
        driver: &Driver,
        ordinal: usize,
        wanted: impl Fn(&Text) -> bool,
    ) -> Result<Self, Error> {
        let context = driver.open(ordinal)?;
        let problem = "there is no such text for this chip".to_owned();
        let mut outcome = Err(Error::Kernel { kernel: "all", problem });
        for text in Text::fitting(context.info().capability).filter(|text| wanted(text)) {
            let target = text.target;
            outcome = Module::load(&context, text).map(|module| (module, target));
            if outcome.is_ok() {
                break;
            }
        }
        let (module, target) = outcome?;
        Ok(Self { context, module, target, partial_sums: PartialSums::default() })
    }

    /// Returns the description of the device.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        self.context.info()
    }

    /// Returns the target that the kernels in use are compiled for, such as `sm_80`.
    #[must_use]
    pub const fn target(&self) -> &'static str {
        self.target
    }

    /// Returns the number of bytes of the device's memory that are free, and all.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn memory(&self) -> Result<(u64, u64), Error> {
        self.context.memory()
    }

    /// Waits until all work so far is done.
    ///
    /// # Errors
    /// [`Error::Lost`] when some of it failed; [`Error::Call`].
    pub fn synchronise(&self) -> Result<(), Error> {
        self.context.synchronise()
    }

    /// Measures the milliseconds that the device takes for the work that `body` gives it.
    ///
    /// # Errors
    /// Those of `body`; [`Error::Lost`], [`Error::Call`].
    pub fn time(&self, body: impl FnOnce() -> Result<(), Error>) -> Result<f32, Error> {
        self.context.time(body)
    }

    /// Copies numbers to the device's memory.
    ///
    /// # Errors
    /// [`Error::Memory`]; [`Error::Lost`], [`Error::Call`].
    pub fn buffer<T: Element>(&self, numbers: &[T]) -> Result<Buffer<T>, Error> {
        Buffer::of(&self.context, numbers)
    }

    /// Has numbers copied to the device's memory, without waiting for that.
    pub(crate) fn table<T: Element>(&self, numbers: Vec<T>) -> Result<Buffer<T>, Error> {
        Buffer::of_later(&self.context, numbers)
    }

    /// Returns a normalisation's numbers in the device's memory.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub fn norm_of(&self, norm: &norm::Norm) -> Result<Norm, Error> {
        norm.try_map(|vector| self.buffer(vector))
    }

    pub(crate) fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        threads: u32,
        arguments: &[Argument],
    ) -> Result<(), Error> {
        self.module.launch(kernel, grid, threads, 0, arguments)
    }

    /// Launches a kernel with `shared` bytes of shared memory a block beside what the text
    /// declares.
    pub(crate) fn launch_with(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        arguments: &[Argument],
    ) -> Result<(), Error> {
        let free = self.free_shared(kernel)?;
        at_most(kernel, "bytes of shared memory", free as usize, shared as usize)?;
        self.module.launch(kernel, grid, threads, shared, arguments)
    }

    /// Returns the free shared memory of a kernel's block, as [`Module::free_shared`] does.
    pub(crate) fn free_shared(&self, kernel: &'static str) -> Result<u32, Error> {
        self.module.free_shared(kernel)
    }

    /// Launches one block for each multiprocessor, all at once, with `shared` bytes of shared
    /// memory beside what the text declares.
    pub(crate) fn launch_together(
        &self,
        kernel: &'static str,
        threads: u32,
        shared: u32,
        arguments: &[Argument],
    ) -> Result<(), Error> {
        let blocks = self.info().processors;
        self.module.launch_together(kernel, blocks, threads, shared, arguments)
    }
}

/// Returns a size as a kernel takes it.
pub(crate) fn size(
    operation: &'static str,
    what: &'static str,
    value: usize,
) -> Result<u32, Error> {
    let expected = i32::MAX as usize;
    let small = u32::try_from(value).ok().filter(|_| value <= expected);
    small.ok_or(Error::Shape { operation, what, expected, got: value })
}

/// Checks that two sizes are the same.
pub(crate) fn same(
    operation: &'static str,
    what: &'static str,
    expected: usize,
    got: usize,
) -> Result<(), Error> {
    if expected == got { Ok(()) } else { Err(Error::Shape { operation, what, expected, got }) }
}

/// Checks that a size is within a limit.
pub(crate) fn at_most(
    operation: &'static str,
    what: &'static str,
    expected: usize,
    got: usize,
) -> Result<(), Error> {
    if got <= expected { Ok(()) } else { Err(Error::Shape { operation, what, expected, got }) }
}

/// Returns the number of threads of a block that takes a row: a warp for each 32 elements, 32 warps
/// at most.
pub(crate) const fn row_threads(width: u32) -> u32 {
    let warps = width.div_ceil(32);
    32 * if warps == 0 {
        1
    } else if warps > 32 {
        32
    } else {
        warps
    }
}
