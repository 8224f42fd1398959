//! Memory of the host to which the device copies by itself, while it goes on with other work.
//!
//! The driver pins such memory, so that the device reaches it; a kernel that goes astray could
//! write there, too. No Rust reference points to it: what has landed is copied out.

use std::any::Any;
use std::ffi::c_void;
use std::fmt;

use super::api::Handle;
use super::context::{Context, Event};
use super::error::Error;
use super::memory::{Buffer, Element};

/// Memory of the host for one copy at a time from the device.
pub(crate) struct Landing {
    context: Context,
    /// The address at which the driver has put it.
    address: usize,
    len: usize,
    /// The point of the device's work at which the bytes to be copied are complete.
    ready: Event,
    /// The point at which they have been copied.
    landed: Event,
    is_under_way: bool,
    /// Numbers of the host that the device may read until what is copied is ready.
    held: Vec<Box<dyn Any + Send>>,
}

impl fmt::Debug for Landing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Landing").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Landing {
    /// Has the driver allocate `len` bytes.
    pub(crate) fn new(context: &Context, len: usize) -> Result<Self, Error> {
        let (ready, landed) = (Event::new(context, false)?, Event::new(context, false)?);
        let (api, mut pointer) = (context.api()?, std::ptr::null_mut::<c_void>());
        // SAFETY: `pointer` is a place for a pointer.
        let code = unsafe { (api.cuMemHostAlloc)(&raw mut pointer, len.max(1), 0) };
        api.check("cuMemHostAlloc", code)?;
        let (context, address) = (context.clone(), pointer.expose_provenance());
        Ok(Self { context, address, len, ready, landed, is_under_way: false, held: Vec::new() })
    }

    /// Has the first bytes of a buffer copied here when all work so far is done. Work that is given
    /// later does not wait for that.
    ///
    /// # Errors
    /// [`Error::Shape`] when either has not so many; [`Error::Lost`], [`Error::Call`].
    pub(crate) fn copy_later(&mut self, from: &Buffer<u8>, bytes: usize) -> Result<(), Error> {
        let source = from.part("copy", &(0..bytes))?;
        self.check(bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let copies: Handle = self.context.copies();
        self.held.extend(self.context.take_held());
        self.is_under_way = true;
        self.ready.record(self.context.stream())?;
        self.ready.hold(copies)?;
        let (api, to) = (self.context.api()?, self.pointer(0).cast());
        // SAFETY: both sides have so many bytes, and the host's are not freed before the copies
        // have been waited for.
        let code = unsafe { (api.cuMemcpyDtoHAsync)(to, source, bytes, copies) };
        api.check("cuMemcpyDtoHAsync", code)?;
        self.landed.record(copies)
    }

    /// Copies numbers that have landed, from the byte `at` on; waits for the copy, if it is still
    /// under way.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not so many; [`Error::Lost`], [`Error::Call`].
    pub(crate) fn read<T: Element>(&mut self, at: usize, to: &mut [T]) -> Result<(), Error> {
        let bytes = size_of_val(to);
        self.check(at.saturating_add(bytes))?;
        if self.is_under_way {
            self.landed.wait()?;
            self.is_under_way = false;
            self.held.clear();
        }
        let (from, to) = (self.pointer(at), to.as_mut_ptr().cast::<u8>());
        // SAFETY: both sides have so many bytes and do not overlap; nothing is copied here any
        // more; any bytes are numbers.
        unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
        Ok(())
    }

    fn check(&self, end: usize) -> Result<(), Error> {
        let (operation, what, expected) = ("copy", "bytes for what lands", self.len);
        let wrong = Error::Shape { operation, what, expected, got: end };
        if end <= self.len { Ok(()) } else { Err(wrong) }
    }

    /// Returns the place of a byte, which is there.
    fn pointer(&self, at: usize) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.address + at)
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let Ok(api) = self.context.api() else { return };
        if self.is_under_way {
            for stream in [self.context.stream(), self.context.copies()] {
                // SAFETY: the stream is this context's. Whether it failed or not, nothing is copied
                // here any more, and nothing that is held is read.
                unsafe { (api.cuStreamSynchronize)(stream) };
            }
        }
        // SAFETY: allocated here, and this is its last use.
        unsafe { (api.cuMemFreeHost)(self.pointer(0).cast()) };
    }
}
