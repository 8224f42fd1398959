//! Operands in the device's memory that exist once an operation has written them.

use super::missing;
use crate::attention::Queries;
use crate::driver::Error;
use crate::gpu::Gpu;
use crate::rows::{self, Flags, Rows, States, Sums};

/// Rows of some kind; none until an operation writes some.
#[derive(Debug)]
pub struct Slot<T>(Option<T>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// Rows of a kind that a slot can hold.
pub trait Held: Sized {
    /// The name of the operand in errors.
    const NAME: &'static str;

    /// Creates an operand without any rows.
    ///
    /// # Errors
    /// [`Error::Memory`]; [`Error::Lost`], [`Error::Call`].
    fn empty(gpu: &Gpu) -> Result<Self, Error>;
}

macro_rules! held {
    ($($of:ty, $name:literal, $make:expr;)*) => {
        $(impl Held for $of {
            const NAME: &'static str = $name;

            fn empty(gpu: &Gpu) -> Result<Self, Error> {
                $make(gpu)
            }
        })*
    };
}
held! {
    States, "states that were written", States::new;
    Rows, "rows that were written", Rows::new;
    Sums, "sums that were written", Sums::new;
    rows::Codes, "codes that were written", rows::Codes::new;
    Queries, "queries that were written", Queries::new;
    Flags, "flags that were written", |gpu| Flags::new(gpu, 0);
}

impl<T: Held> Slot<T> {
    /// Returns what is there.
    pub(super) fn get(&self) -> Result<&T, Error> {
        self.0.as_ref().ok_or(missing(T::NAME))
    }

    /// Returns what is there, to be changed.
    pub(super) fn get_mut(&mut self) -> Result<&mut T, Error> {
        self.0.as_mut().ok_or(missing(T::NAME))
    }

    /// Returns what is there, to be written; empty the first time.
    pub(super) fn room(&mut self, gpu: &Gpu) -> Result<&mut T, Error> {
        if self.0.is_none() {
            self.0 = Some(T::empty(gpu)?);
        }
        self.get_mut()
    }
}

impl<T> From<Option<T>> for Slot<T> {
    fn from(held: Option<T>) -> Self {
        Self(held)
    }
}

/// Codes with a scale a row, which products take, or queries with a scale a head.
#[derive(Debug, Default)]
pub struct Quantised {
    pub(super) rows: Slot<rows::Codes>,
    pub(super) queries: Slot<Queries>,
    /// Which of them was written last.
    pub(super) are_queries: bool,
}
