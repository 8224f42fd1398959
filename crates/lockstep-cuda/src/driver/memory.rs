//! Buffers in the memory of a device.

use std::ffi::c_void;
use std::ops::Range;

use super::api::Address;
use super::context::Context;
use super::error::{Error, OUT_OF_MEMORY};
use super::module::Argument;
use super::pool::Pool;
use crate::limits::RESERVE;

mod sealed {
    /// A number of which every pattern of bits is a value, the same on host and device.
    pub trait Number: Copy + Default + Send + 'static {}
}

/// A number that device memory can hold.
pub trait Element: sealed::Number {}

macro_rules! elements {
    ($($number:ty),*) => {
        $(impl sealed::Number for $number {}
        impl Element for $number {})*
    };
}
elements!(u8, i8, i16, u32, i32, f32, u64, i64);

/// Numbers in a device's memory. New memory is 0; it is freed when this is dropped.
#[derive(Debug)]
pub struct Buffer<T> {
    context: Context,
    /// The address on the device; 0 if there are no numbers.
    address: Address,
    len: usize,
    numbers: std::marker::PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    /// Allocates memory for `len` numbers, which are all 0.
    pub(crate) fn zeros(context: &Context, len: usize) -> Result<Self, Error> {
        let mut buffer = Self::room(context, len)?;
        buffer.clear()?;
        Ok(buffer)
    }

    /// Allocates memory for `len` numbers, which are unspecified: some that were here before.
    pub(crate) fn room(context: &Context, len: usize) -> Result<Self, Error> {
        let mut buffer = Self {
            context: context.clone(),
            address: 0,
            len: 0,
            numbers: std::marker::PhantomData,
        };
        if len == 0 {
            return Ok(buffer);
        }
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes < 1 << 48);
        buffer.address = allocate(context, bytes.map(Pool::rounded))?;
        buffer.len = len;
        Ok(buffer)
    }

    /// Allocates memory, and copies these numbers to it.
    pub(crate) fn of(context: &Context, numbers: &[T]) -> Result<Self, Error> {
        let mut buffer = Self::room(context, numbers.len())?;
        buffer.write(0, numbers)?;
        Ok(buffer)
    }

    /// Allocates memory, and has these numbers copied to it, without waiting for that.
    pub(crate) fn of_later(context: &Context, numbers: Vec<T>) -> Result<Self, Error> {
        let mut buffer = Self::room(context, numbers.len())?;
        buffer.write_later(0, numbers)?;
        Ok(buffer)
    }

    /// Returns the number of numbers that fit.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the buffer has room for no number.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for `len` numbers; what was there is lost if there was too little.
    pub(crate) fn fit(&mut self, len: usize) -> Result<(), Error> {
        if len > self.len {
            let context = self.context.clone();
            // Given back first: the new memory may need the place.
            *self = Self::room(&context, 0)?;
            *self = Self::room(&context, len)?;
        }
        Ok(())
    }

    /// Sets all numbers of the buffer to 0.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn clear(&mut self) -> Result<(), Error> {
        if self.len == 0 {
            return Ok(());
        }
        let (api, stream) = (self.context.api()?, self.context.stream());
        let bytes = self.len * size_of::<T>();
        // SAFETY: the allocation has so many bytes.
        let code = unsafe { (api.cuMemsetD8Async)(self.address, 0, bytes, stream) };
        api.check("cuMemsetD8Async", code)
    }

    /// Returns the device's address of some of the numbers, which must be there.
    pub(super) fn part(
        &self,
        operation: &'static str,
        range: &Range<usize>,
    ) -> Result<Address, Error> {
        let fits = range.start <= range.end && range.end <= self.len;
        if !fits {
            let (what, expected, got) = ("the end of a range", self.len, range.end);
            return Err(Error::Shape { operation, what, expected, got });
        }
        Ok(self.address + (range.start * size_of::<T>()) as u64)
    }

    /// Copies numbers to the device, from the `at`th on.
    ///
    /// # Errors
    /// [`Error::Shape`] when they do not fit; [`Error::Lost`], [`Error::Call`].
    pub fn write(&mut self, at: usize, numbers: &[T]) -> Result<(), Error> {
        let address = self.part("write", &(at..at.saturating_add(numbers.len())))?;
        if numbers.is_empty() {
            return Ok(());
        }
        let (api, stream) = (self.context.api()?, self.context.stream());
        let from: *const c_void = numbers.as_ptr().cast();
        // SAFETY: both sides have so many bytes, and the host's are not let go before the stream
        // has been waited for.
        let code = unsafe { (api.cuMemcpyHtoDAsync)(address, from, size_of_val(numbers), stream) };
        let waited = self.context.synchronise();
        api.check("cuMemcpyHtoDAsync", code)?;
        waited
    }

    /// Has numbers copied to the device, from the `at`th on, after all work so far, without waiting
    /// for that.
    ///
    /// # Errors
    /// As [`Buffer::write`].
    #[expect(clippy::needless_pass_by_ref_mut, reason = "it is written, in the device's memory")]
    pub(crate) fn write_later(&mut self, at: usize, numbers: Vec<T>) -> Result<(), Error> {
        let address = self.part("write", &(at..at.saturating_add(numbers.len())))?;
        if numbers.is_empty() {
            return Ok(());
        }
        let (api, stream) = (self.context.api()?, self.context.stream());
        let (from, bytes) = (numbers.as_ptr().cast::<c_void>(), size_of_val(numbers.as_slice()));
        // A vector's numbers stay where they are when it is moved.
        let code = self.context.holding(numbers, || {
            // SAFETY: both sides have so many bytes, and the context keeps the host's until the
            // stream has been waited for.
            unsafe { (api.cuMemcpyHtoDAsync)(address, from, bytes, stream) }
        });
        api.check("cuMemcpyHtoDAsync", code)
    }

    /// Copies numbers to the host, after all work so far.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not so many; [`Error::Lost`], [`Error::Call`].
    pub fn read(&self, range: Range<usize>) -> Result<Vec<T>, Error> {
        let address = self.part("read", &range)?;
        let mut numbers = vec![T::default(); range.len()];
        if numbers.is_empty() {
            return Ok(numbers);
        }
        let (api, stream) = (self.context.api()?, self.context.stream());
        let (to, bytes) = (numbers.as_mut_ptr().cast(), size_of_val(numbers.as_slice()));
        // SAFETY: both sides have so many bytes, any bytes are numbers, and the host's are not let
        // go before the stream has been waited for.
        let code = unsafe { (api.cuMemcpyDtoHAsync)(to, address, bytes, stream) };
        let waited = self.context.synchronise();
        api.check("cuMemcpyDtoHAsync", code)?;
        waited.map(|()| numbers)
    }

    /// Returns the address as a kernel's parameter.
    pub(crate) const fn argument(&self) -> Argument {
        Argument::U64(self.address)
    }

    /// Returns the address of the `at`th number as a kernel's parameter.
    pub(crate) const fn argument_at(&self, at: usize) -> Argument {
        Argument::U64(self.address + (at * size_of::<T>()) as u64)
    }

    /// Returns the address as a number, for tables of addresses.
    pub(crate) const fn address(&self) -> u64 {
        self.address
    }
}

impl Buffer<u8> {
    /// Copies numbers of another buffer here as bytes, from the byte `at` on.
    ///
    /// # Errors
    /// [`Error::Shape`] when they do not fit; [`Error::Lost`], [`Error::Call`].
    #[expect(clippy::needless_pass_by_ref_mut, reason = "it is written, in the device's memory")]
    pub(crate) fn copy_bytes<T: Element>(
        &mut self,
        at: usize,
        from: &Buffer<T>,
        range: &Range<usize>,
    ) -> Result<(), Error> {
        let source = from.part("copy", range)?;
        let bytes = range.len() * size_of::<T>();
        let address = self.part("copy", &(at..at.saturating_add(bytes)))?;
        self.context.copy(address, source, bytes)
    }
}

impl<T: Element> Buffer<T> {
    /// Copies bytes of a buffer here, to the numbers `range`, from the byte `at` on.
    ///
    /// # Errors
    /// As [`Buffer::copy_bytes`].
    #[expect(clippy::needless_pass_by_ref_mut, reason = "it is written, in the device's memory")]
    pub(crate) fn copy_of_bytes(
        &mut self,
        range: &Range<usize>,
        from: &Buffer<u8>,
        at: usize,
    ) -> Result<(), Error> {
        let bytes = range.len() * size_of::<T>();
        let source = from.part("copy", &(at..at.saturating_add(bytes)))?;
        let address = self.part("copy", range)?;
        self.context.copy(address, source, bytes)
    }
}

impl Context {
    /// Copies bytes within the device's memory, both places of which have so many.
    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        let (api, stream) = (self.api()?, self.stream());
        // SAFETY: both are addresses on the device; the host's memory is not touched.
        let code = unsafe { (api.cuMemcpyDtoDAsync)(to, from, bytes, stream) };
        api.check("cuMemcpyDtoDAsync", code)
    }
}

/// Returns the address of `bytes` bytes that nobody uses, of a rounded number of them; `None` is a
/// number that no device has.
fn allocate(context: &Context, bytes: Option<usize>) -> Result<Address, Error> {
    if let Some(address) = bytes.and_then(|bytes| context.pool().take(bytes)) {
        return Ok(address);
    }
    let needed = bytes.map_or(u64::MAX, |bytes| bytes as u64);
    let fits = |free: u64| needed.saturating_add(RESERVE) <= free;
    let (mut free, mut total) = context.memory()?;
    if !fits(free) {
        give_back(context)?;
        (free, total) = context.memory()?;
    }
    let short = Error::Memory { needed, reserve: RESERVE, free, total };
    let Some(bytes) = bytes.filter(|_| fits(free)) else { return Err(short) };
    let (api, mut address) = (context.api()?, 0);
    // SAFETY: `address` is a place for an address.
    let code = unsafe { (api.cuMemAlloc)(&raw mut address, bytes) };
    if code == OUT_OF_MEMORY {
        return Err(short);
    }
    api.check("cuMemAlloc", code)?;
    Ok(address)
}

/// Gives the memory that waits for its next use back to the device.
fn give_back(context: &Context) -> Result<(), Error> {
    let pieces: Vec<Address> = context.pool().drain().collect();
    context.synchronise()?;
    let api = context.api()?;
    for address in pieces {
        // SAFETY: allocated in this context, and in nobody's use.
        let code = unsafe { (api.cuMemFree)(address) };
        api.check("cuMemFree", code)?;
    }
    Ok(())
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        let bytes = Pool::rounded(self.len * size_of::<T>());
        if Pool::keeps(bytes) {
            self.context.pool().put(bytes, self.address);
            return;
        }
        // Work that was given before may still use it. A device that fails here is lost, which the
        // next call says.
        let waited = self.context.synchronise();
        if let (Ok(()), Ok(api)) = (waited, self.context.api()) {
            // SAFETY: allocated here, and this is its last use.
            unsafe { (api.cuMemFree)(self.address) };
        }
    }
}
