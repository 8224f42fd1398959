//! Buffers in the memory of a device.

use std::ffi::c_void;
use std::ops::Range;

use super::api::Address;
use super::context::Context;
use super::error::{Error, OUT_OF_MEMORY};
use super::module::Argument;
use crate::limits::RESERVE;

mod sealed {
    /// A number of which every pattern of bits is a value, the same on host and device.
    pub trait Number: Copy + Default + 'static {}
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
        let needed = bytes.map_or(u64::MAX, |bytes| bytes as u64);
        let (free, total) = context.memory()?;
        let short = Error::Memory { needed, reserve: RESERVE, free, total };
        let Some(bytes) = bytes.filter(|_| needed.saturating_add(RESERVE) <= free) else {
            return Err(short);
        };
        let api = context.api()?;
        // SAFETY: `address` is a place for an address.
        let code = unsafe { (api.cuMemAlloc)(&raw mut buffer.address, bytes) };
        if code == OUT_OF_MEMORY {
            return Err(short);
        }
        api.check("cuMemAlloc", code)?;
        buffer.len = len;
        buffer.clear()?;
        Ok(buffer)
    }

    /// Allocates memory, and copies these numbers to it.
    pub(crate) fn of(context: &Context, numbers: &[T]) -> Result<Self, Error> {
        let mut buffer = Self::zeros(context, numbers.len())?;
        buffer.write(0, numbers)?;
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
            *self = Self::zeros(&context, 0)?;
            *self = Self::zeros(&context, len)?;
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
    fn part(&self, operation: &'static str, range: &Range<usize>) -> Result<Address, Error> {
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
        waited?;
        Ok(numbers)
    }

    /// Returns the address as a kernel's parameter.
    pub(crate) const fn argument(&self) -> Argument {
        Argument::U64(self.address)
    }

    /// Returns the address as a number, for tables of addresses.
    pub(crate) const fn address(&self) -> u64 {
        self.address
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.address == 0 {
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
