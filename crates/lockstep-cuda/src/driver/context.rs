//! The driver itself, its devices, and an open device with one stream of work.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::api::{Api, Handle};
use super::error::{Error, NO_DEVICE};
use super::pool::Pool;
use crate::limits::{OLDEST_CHIP, OLDEST_DRIVER};
use crate::version::{Capability, Version};

/// A device as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number, from 0, as [`crate::Gpu::open`] takes it.
    pub ordinal: usize,
    /// Its name, such as `NVIDIA GeForce RTX 4090`.
    pub name: String,
    /// The compute capability of the device.
    pub capability: Capability,
    /// The bytes of memory of the device, used or not.
    pub memory: u64,
    /// The number of multiprocessors.
    pub processors: u32,
    /// Bytes of shared memory that a block can have.
    pub shared: u32,
}

impl DeviceInfo {
    /// Says why the kernels cannot run on this device, if they cannot.
    ///
    /// # Errors
    /// [`Error::OldDevice`].
    pub fn check(&self) -> Result<(), Error> {
        if self.capability >= OLDEST_CHIP {
            return Ok(());
        }
        let (name, found, needed) = (self.name.clone(), self.capability, OLDEST_CHIP);
        Err(Error::OldDevice { name, found, needed })
    }
}

/// The CUDA driver of this machine.
#[derive(Clone)]
pub struct Driver {
    api: Arc<Api>,
    version: Version,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Attributes of a device, as numbered in cuda.h.
const PROCESSORS: i32 = 16;
const SHARED: i32 = 97;
const CAPABILITY_MAJOR: i32 = 75;
const CAPABILITY_MINOR: i32 = 76;
/// A stream that does not wait for the driver's default one.
const NON_BLOCKING: u32 = 1;

impl Driver {
    /// Loads and starts the driver. A driver without a device is not an error.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::MissingFunction`], [`Error::OldDriver`]; [`Error::Call`] when
    /// the driver does not start.
    pub fn load() -> Result<Self, Error> {
        let api = Api::load()?;
        let mut number = 0;
        // SAFETY: `number` is a place for an int; this function needs no start.
        let code = unsafe { (api.cuDriverGetVersion)(&raw mut number) };
        api.check("cuDriverGetVersion", code)?;
        let number = number.unsigned_abs();
        let version = Version { major: number / 1000, minor: number % 1000 / 10 };
        if version < OLDEST_DRIVER {
            return Err(Error::OldDriver { found: version, needed: OLDEST_DRIVER });
        }
        // SAFETY: the only flags there are is 0.
        let code = unsafe { (api.cuInit)(0) };
        if code != NO_DEVICE {
            api.check("cuInit", code)?;
        }
        Ok(Self { api: Arc::new(api), version })
    }

    /// Returns the version of CUDA that the driver is for.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Returns the number of devices that the driver shows to this process.
    fn count(&self) -> Result<usize, Error> {
        let mut count = 0;
        // SAFETY: `count` is a place for an int.
        let code = unsafe { (self.api.cuDeviceGetCount)(&raw mut count) };
        if code == NO_DEVICE || code == NOT_INITIALISED {
            return Ok(0);
        }
        self.api.check("cuDeviceGetCount", code)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Returns all devices that the driver shows to this process, in its order.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn devices(&self) -> Result<Vec<DeviceInfo>, Error> {
        (0..self.count()?).map(|ordinal| Ok(self.device(ordinal)?.1)).collect()
    }

    /// Returns a device's handle and description.
    fn device(&self, ordinal: usize) -> Result<(i32, DeviceInfo), Error> {
        let count = self.count()?;
        let number = i32::try_from(ordinal).ok().filter(|_| ordinal < count);
        let number = number.ok_or(Error::NoDevice { ordinal, count })?;
        let api = &self.api;
        let mut device = 0;
        // SAFETY: `device` is a place for an int.
        let code = unsafe { (api.cuDeviceGet)(&raw mut device, number) };
        api.check("cuDeviceGet", code)?;
        let mut name = [0_u8; 256];
        // SAFETY: `name` has the length that is passed.
        let code = unsafe { (api.cuDeviceGetName)(name.as_mut_ptr().cast(), 256, device) };
        api.check("cuDeviceGetName", code)?;
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        let mut memory = 0;
        // SAFETY: `memory` is a place for a size.
        let code = unsafe { (api.cuDeviceTotalMem)(&raw mut memory, device) };
        api.check("cuDeviceTotalMem", code)?;
        let info = DeviceInfo {
            ordinal,
            name: String::from_utf8_lossy(&name[..end]).into_owned(),
            capability: Capability {
                major: self.attribute(CAPABILITY_MAJOR, device)?,
                minor: self.attribute(CAPABILITY_MINOR, device)?,
            },
            memory: memory as u64,
            processors: self.attribute(PROCESSORS, device)?,
            shared: self.attribute(SHARED, device)?,
        };
        Ok((device, info))
    }

    fn attribute(&self, attribute: i32, device: i32) -> Result<u32, Error> {
        let mut value = 0;
        // SAFETY: `value` is a place for an int.
        let code = unsafe { (self.api.cuDeviceGetAttribute)(&raw mut value, attribute, device) };
        self.api.check("cuDeviceGetAttribute", code)?;
        Ok(value.unsigned_abs())
    }

    /// Opens the device with this ordinal number.
    pub(crate) fn open(&self, ordinal: usize) -> Result<Context, Error> {
        let (device, info) = self.device(ordinal)?;
        info.check()?;
        let api = Arc::clone(&self.api);
        let mut handle = 0;
        // SAFETY: `handle` is a place for a handle.
        let code = unsafe { (api.cuDevicePrimaryCtxRetain)(&raw mut handle, device) };
        api.check("cuDevicePrimaryCtxRetain", code)?;
        // From here on the context is released whatever happens.
        let (pool, held) = (Mutex::default(), Mutex::default());
        let mut inner = Inner { api, device, handle, stream: 0, copies: 0, info, pool, held };
        inner.enter()?;
        inner.stream = inner.new_stream()?;
        inner.copies = inner.new_stream()?;
        Ok(Context(Arc::new(inner)))
    }
}

/// `CUDA_ERROR_NOT_INITIALIZED`, which follows a start that found no device.
const NOT_INITIALISED: i32 = 3;

/// The context of an open device. Everything that is made with it keeps it open.
#[derive(Clone)]
pub(crate) struct Context(Arc<Inner>);

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Context").field(&self.0.info).finish()
    }
}

struct Inner {
    api: Arc<Api>,
    device: i32,
    handle: Handle,
    stream: Handle,
    /// The stream of copies to the host that other work does not wait for.
    copies: Handle,
    info: DeviceInfo,
    /// Memory that was given back.
    pool: Mutex<Pool>,
    /// Numbers of the host that copies to the device may still read.
    held: Mutex<Vec<Box<dyn Any + Send>>>,
}

/// Takes a lock. What it guards is whole after every statement, also where a thread has panicked.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// Makes the context the calling thread's, which most of the driver's functions need.
    fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context is retained until this is dropped.
        let code = unsafe { (self.api.cuCtxSetCurrent)(self.handle) };
        self.api.check("cuCtxSetCurrent", code)
    }

    fn new_stream(&self) -> Result<Handle, Error> {
        let mut stream = 0;
        // SAFETY: `stream` is a place for a handle; the context is this thread's.
        let code = unsafe { (self.api.cuStreamCreate)(&raw mut stream, NON_BLOCKING) };
        self.api.check("cuStreamCreate", code)?;
        Ok(stream)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What fails here is lost already, and there is nobody to tell.
        let entered = self.enter().is_ok();
        for stream in [self.stream, self.copies] {
            if stream != 0 && entered {
                // SAFETY: the stream is ours. Nothing that it still does may outlive what `held`
                // has.
                unsafe { (self.api.cuStreamSynchronize)(stream) };
                // SAFETY: the stream is ours, and this is its last use.
                unsafe { (self.api.cuStreamDestroy)(stream) };
            }
        }
        for address in lock(&self.pool).drain().filter(|_| entered) {
            // SAFETY: allocated in this context, and in nobody's use.
            unsafe { (self.api.cuMemFree)(address) };
        }
        // SAFETY: retained when this was made, and nothing made with it is left.
        unsafe { (self.api.cuDevicePrimaryCtxRelease)(self.device) };
    }
}

impl Context {
    /// Returns the driver's functions, with this context the calling thread's.
    pub(super) fn api(&self) -> Result<&Api, Error> {
        self.0.enter()?;
        Ok(&self.0.api)
    }

    /// Returns the stream in which all work of this context is done, in order, but for copies to
    /// the host that are under way.
    pub(super) fn stream(&self) -> Handle {
        self.0.stream
    }

    /// Returns the stream of copies to the host that other work does not wait for.
    pub(super) fn copies(&self) -> Handle {
        self.0.copies
    }

    /// Returns the description of the device.
    pub(crate) fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    /// Returns the number of bytes of the device's memory that are free, and all.
    pub(crate) fn memory(&self) -> Result<(u64, u64), Error> {
        let api = self.api()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are places for sizes.
        let code = unsafe { (api.cuMemGetInfo)(&raw mut free, &raw mut total) };
        api.check("cuMemGetInfo", code)?;
        Ok((free as u64, total as u64))
    }

    /// Waits until all work so far is done, and says whether it failed.
    pub(crate) fn synchronise(&self) -> Result<(), Error> {
        let api = self.api()?;
        // Taken out before: what is held from now on may belong to copies that come after.
        let held = self.take_held();
        // SAFETY: the stream is this context's.
        let code = unsafe { (api.cuStreamSynchronize)(self.0.stream) };
        // Whether it failed or not, nothing that was given before is under way any more.
        drop(held);
        api.check("cuStreamSynchronize", code)
    }

    /// Returns the memory that was given back.
    pub(super) fn pool(&self) -> MutexGuard<'_, Pool> {
        lock(&self.0.pool)
    }

    /// Does `body`, which gives work to the stream that reads `numbers` of the host, and keeps them
    /// until the stream has been waited for.
    pub(super) fn holding<T>(&self, numbers: impl Any + Send, body: impl FnOnce() -> T) -> T {
        let mut held = lock(&self.0.held);
        held.push(Box::new(numbers));
        body()
    }

    /// Takes out the numbers that copies so far may read: whoever has them keeps them until the
    /// stream has come to where it is now.
    pub(super) fn take_held(&self) -> Vec<Box<dyn Any + Send>> {
        std::mem::take(&mut *lock(&self.0.held))
    }

    /// Measures the milliseconds that the device takes for the work that `body` gives it.
    pub(crate) fn time(&self, body: impl FnOnce() -> Result<(), Error>) -> Result<f32, Error> {
        let (start, end) = (Event::new(self, true)?, Event::new(self, true)?);
        start.record(self.stream())?;
        body()?;
        end.record(self.stream())?;
        end.wait()?;
        let (api, mut time) = (self.api()?, 0.0);
        // SAFETY: both events are alive and recorded; `time` is a place for a float.
        let code = unsafe { (api.cuEventElapsedTime)(&raw mut time, start.handle, end.handle) };
        api.check("cuEventElapsedTime", code)?;
        Ok(time)
    }
}

/// A point in a stream of a context.
#[derive(Debug)]
pub(super) struct Event {
    context: Context,
    handle: Handle,
}

/// An event that does not know when it came: it takes the device less.
const WITHOUT_TIME: u32 = 2;

impl Event {
    /// Creates an event, with the time of its coming or without.
    pub(super) fn new(context: &Context, with_time: bool) -> Result<Self, Error> {
        let api = context.api()?;
        let (mut handle, flags) = (0, if with_time { 0 } else { WITHOUT_TIME });
        // SAFETY: `handle` is a place for a handle.
        let code = unsafe { (api.cuEventCreate)(&raw mut handle, flags) };
        api.check("cuEventCreate", code)?;
        Ok(Self { context: context.clone(), handle })
    }

    /// Marks the end of what a stream of this context has been given so far.
    pub(super) fn record(&self, stream: Handle) -> Result<(), Error> {
        let api = self.context.api()?;
        // SAFETY: event and stream are of this context.
        let code = unsafe { (api.cuEventRecord)(self.handle, stream) };
        api.check("cuEventRecord", code)
    }

    /// Waits until the stream has come to where the event was recorded.
    pub(super) fn wait(&self) -> Result<(), Error> {
        let api = self.context.api()?;
        // SAFETY: the event is alive.
        let code = unsafe { (api.cuEventSynchronize)(self.handle) };
        api.check("cuEventSynchronize", code)
    }

    /// Has a stream of this context do nothing that it is given from now on before the event.
    pub(super) fn hold(&self, stream: Handle) -> Result<(), Error> {
        let api = self.context.api()?;
        // SAFETY: event and stream are of this context.
        let code = unsafe { (api.cuStreamWaitEvent)(stream, self.handle, 0) };
        api.check("cuStreamWaitEvent", code)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(api) = self.context.api() {
            // SAFETY: the event is ours, and this is its last use.
            unsafe { (api.cuEventDestroy)(self.handle) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chip_without_the_instructions_is_refused_by_name() {
        let capability = |major, minor| Capability { major, minor };
        let name = "GeForce GTX 1080".to_owned();
        let mut info = DeviceInfo {
            ordinal: 0,
            name: name.clone(),
            capability: capability(6, 1),
            memory: 8 << 30,
            processors: 20,
            shared: 49_152,
        };
        let (found, needed) = (capability(6, 1), capability(7, 5));
        assert_eq!(info.check(), Err(Error::OldDevice { name, found, needed }));
        info.capability = capability(7, 5);
        assert_eq!(info.check(), Ok(()));
        info.capability = capability(12, 0);
        assert_eq!(info.check(), Ok(()));
    }

    #[test]
    fn a_machine_has_a_driver_or_an_error_that_says_what_is_missing() {
        match Driver::load() {
            Ok(driver) => assert!(driver.version() >= OLDEST_DRIVER && driver.devices().is_ok()),
            Err(error) => {
                let known = matches!(
                    error,
                    Error::NoDriver { .. } | Error::OldDriver { .. } | Error::Call { .. }
                );
                assert!(known, "{error}");
            }
        }
    }
}
