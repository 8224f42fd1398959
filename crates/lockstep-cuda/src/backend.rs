//! [`Cuda`]: the operations of [`lockstep_exact::ops`] on a GPU, for a server.
//!
//! Operations are queued and return at once. What the host is to see is copied to a tray on the
//! device, and the tray to the host when the first of its numbers is waited for: once a pass. A
//! decode step of a few sessions is one launch ([`Backend::span`]).
//!
//! [`Backend::span`]: lockstep_exact::weights::Backend::span

mod cache;
mod device;
mod host;
mod span;
mod tray;
mod values;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use cache::Cache;
pub use host::Ticket;
pub use values::{Held, Quantised, Slot};

use crate::attention::Scratch;
use crate::decode::Step;
use crate::driver::{DeviceInfo, Driver, Error};
use crate::gpu::Gpu;
use crate::limits::STEP_ROWS;
use tray::Trays;

/// A GPU as a backend that serves layers.
///
/// When an operation fails, those after it do nothing, and whatever would return a result returns
/// the error. A batch that begins ([`put_state`](lockstep_exact::ops::Host::put_state),
/// [`embed`](lockstep_exact::ops::Device::embed)) goes on after an error that leaves the device
/// usable, such as too little memory; a lost device stays lost.
#[derive(Debug)]
pub struct Cuda {
    gpu: Gpu,
    failed: Mutex<Option<Error>>,
    trays: Mutex<Trays>,
    scratch: Mutex<Option<Scratch>>,
    /// The memory of decode steps, by the number of sessions less one.
    steps: Mutex<[Option<Step>; STEP_ROWS]>,
}

/// Takes a lock. What it guards is whole after every statement, also where a thread has panicked.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cuda {
    /// Opens a device, as [`Gpu::open`] does.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn open(driver: &Driver, ordinal: usize) -> Result<Self, Error> {
        Ok(Self::new(Gpu::open(driver, ordinal)?))
    }

    /// Makes a backend of an open device.
    #[must_use]
    pub fn new(gpu: Gpu) -> Self {
        Self {
            gpu,
            failed: Mutex::default(),
            trays: Mutex::default(),
            scratch: Mutex::default(),
            steps: Mutex::default(),
        }
    }

    /// Returns the description of the device.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        self.gpu.info()
    }

    /// Returns the number of bytes of the device's memory that are free, and all.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn memory(&self) -> Result<(u64, u64), Error> {
        self.gpu.memory()
    }

    /// Does `body`, unless something has failed; what it returns, unless it fails.
    fn give<T>(&self, body: impl FnOnce(&Gpu) -> Result<T, Error>) -> Option<T> {
        let mut failed = lock(&self.failed);
        if failed.is_some() {
            return None;
        }
        match body(&self.gpu) {
            Ok(value) => Some(value),
            Err(error) => {
                *failed = Some(error);
                None
            }
        }
    }

    /// Does an operation that returns nothing, as [`Cuda::give`].
    fn run(&self, body: impl FnOnce(&Gpu) -> Result<(), Error>) {
        let _is_done = self.give(body);
    }

    /// Does `body` as [`Cuda::give`], and returns the error of whatever has failed.
    fn answer<T>(&self, body: impl FnOnce(&Gpu) -> Result<T, Error>) -> Result<T, Error> {
        let given = self.give(body);
        match lock(&self.failed).clone() {
            Some(error) => Err(error),
            None => given.ok_or_else(|| missing("the answer")),
        }
    }

    /// Forgets what failed before, if the device is still of use.
    fn begin(&self) {
        let mut failed = lock(&self.failed);
        if !matches!(&*failed, Some(Error::Lost { .. })) {
            *failed = None;
        }
    }
}

/// An operand that no operation has written: a fault of the caller.
const fn missing(what: &'static str) -> Error {
    Error::Shape { operation: "backend", what, expected: 1, got: 0 }
}

/// A tray that tickets share.
type SharedTray = Arc<Mutex<tray::Tray>>;
