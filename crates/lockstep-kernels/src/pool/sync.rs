//! The primitives that the board is made of, from the standard library. `tests/pool.rs` has the
//! same names from a model checker.

use std::cell::UnsafeCell;
use std::sync::{MutexGuard, PoisonError};

pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
pub(crate) use std::sync::{Condvar, Mutex};

pub(crate) use super::patience::{Demand, Patience};

/// A value that threads hand over by other means.
pub(crate) struct Cell<T>(UnsafeCell<T>);

impl<T: Copy> Cell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Returns a copy of the value.
    ///
    /// # Safety
    /// Nobody writes meanwhile.
    pub(crate) const unsafe fn read(&self) -> T {
        // SAFETY: the caller's.
        unsafe { *self.0.get() }
    }

    /// Sets the value that others read next.
    ///
    /// # Safety
    /// Nobody reads or writes meanwhile.
    pub(crate) const unsafe fn write(&self, value: T) {
        // SAFETY: the caller's.
        unsafe { *self.0.get() = value }
    }
}

/// Returns the lock, also of a thread that panicked: what is under it is always whole.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // default: what is under the lock is always whole
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
